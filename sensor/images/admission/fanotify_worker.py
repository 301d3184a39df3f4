"""The fanotify gate's own process: a guard and, below it, the listener.

Whoever opens a bundle's ``config.json`` waits for the listener. So it does nothing else, and the
guard kills it when it shows no sign of life for some hundred milliseconds: the kernel then lets
all who wait go on. Killing works on a process that is stopped or hangs in the kernel as well. The
guard holds no descriptor of the listener's group, and when the guard dies so does the listener:
there is no state in which nobody answers and nobody ends it, but both being stopped at once.

Daemon to worker, JSON a line on standard input: first ``{"orders": …}``, then
``{"directories": […]}`` and ``{"answer": BUNDLE, "allow": …}``. Worker to daemon, on standard
output: ``{"counts": …}``, ``{"ask": BUNDLE}``, ``{"missed": BUNDLE, "reason": …}``, ….
"""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import gc
import json
import mmap
import os
import select
import signal
import sys
import time
from typing import Any

from sensor.errors import HostError, RoteError
from sensor.images.admission.bundle import RuntimeHook
from sensor.images.admission.fanotify_listener import (
    BEAT,
    COUNTS,
    READY,
    SHARED,
    Listener,
    Orders,
)

_PR_SET_PDEATHSIG = 1
_LOOKS_WITHOUT_BEAT = 3  # of four in the limit: the listener beats at least once between two
_SIGN_SECONDS = 5.0  # between two signs of life to the daemon
_TAKE_OVER_SECONDS = 5.0
# A new bundle must be marked before its shim is up, also on a busy host. The guard comes before the
# listener, so that it can end one that turns in circles.
_GUARD_PRIORITY, _LISTENER_PRIORITY = 2, 1
_NICE = -10  # where there is no scheduling in real time
_MODULE = b"sensor.images.admission.fanotify_worker"
EXIT_HUNG = 70  # the listener hung and was killed
EXIT_LISTENER = 71  # the listener ended without being asked to


class _Mouth:
    """Messages to the daemon, which may hang, or be gone."""

    def __init__(self) -> None:
        self._fd = sys.stdout.fileno()
        os.set_blocking(self._fd, False)

    def say(self, message: dict[str, Any]) -> None:
        """Send one, or lose it: whoever holds an open must not wait for a reader."""
        with contextlib.suppress(BlockingIOError, BrokenPipeError):
            os.write(self._fd, json.dumps(message).encode() + b"\n")


def _read_orders() -> tuple[Orders, float, str]:
    """The first line, byte for byte: what follows is the listener's to read."""
    line = bytearray()
    while not line.endswith(b"\n"):
        byte = os.read(sys.stdin.fileno(), 1)
        if not byte:
            raise HostError("fanotify gate: no orders on standard input")
        line += byte
    told = json.loads(line)["orders"]
    limit = float(told["limit"])
    hook = told["hook"]
    orders = Orders(
        directories=tuple(told["directories"]),
        hook=hook and RuntimeHook(hook["path"], tuple(hook["arguments"]), hook["seconds"]),
        beat=limit / 4,
        readers=frozenset(told["readers"]),
        **told["failure"],
    )
    return orders, limit, told["lock"]


class _Guard:
    """Watches one listener.

    Args:
        listener: its process.
        shared: where it shows signs of life.
        limit: seconds without one that it may live.
        mouth: where counts are told.
    """

    def __init__(self, listener: int, shared: memoryview, limit: float, mouth: _Mouth) -> None:
        self._listener = listener
        self._shared = shared
        self._interval = limit / 4
        self._mouth = mouth
        self._told: dict[str, int] = {}
        self._told_at = 0.0

    def run(self, lock: str) -> int:
        """Watch until the listener ends, however it does; an exit code."""
        alive = select.poll()
        pidfd = os.pidfd_open(self._listener)
        alive.register(pidfd, select.POLLIN)
        beat, without, owned = 0, 0, not lock
        while True:
            before = time.monotonic()
            if alive.poll(self._interval * 1000):
                break
            late = time.monotonic() - before > 2 * self._interval
            now = self._shared[BEAT]
            # Who was late himself cannot say that the other is: the machine stood still.
            without = 0 if now != beat or late else without + 1
            beat = now
            if without >= _LOOKS_WITHOUT_BEAT:
                os.kill(self._listener, signal.SIGKILL)
                os.waitpid(self._listener, 0)
                self._tell(always=True)
                return EXIT_HUNG
            if not owned and self._shared[READY]:
                _take_over(lock)
                owned = True
            self._tell()
        _, status = os.waitpid(self._listener, 0)
        self._tell(always=True)
        return 0 if status == 0 else EXIT_LISTENER

    def _tell(self, *, always: bool = False) -> None:
        counts = {name: self._shared[at] for name, at in COUNTS.items()}
        now = time.monotonic()
        if always or counts != self._told or now - self._told_at > _SIGN_SECONDS:
            ready = bool(self._shared[READY])
            message = {"counts": counts, "ready": ready, "listener": self._listener}
            self._mouth.say(message)
            self._told, self._told_at = counts, now


def holder(lock: int) -> int | None:
    """The worker that holds a lock; None: nobody did, and now this process does.

    Args:
        lock: descriptor of the lock.

    Returns:
        Its number; 0 where it has not said it yet.
    """
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        pass
    else:
        return None
    text = os.pread(lock, 16, 0)
    if text.isdigit():
        # What is written may be of the one before, and its number another process's by now.
        with contextlib.suppress(OSError), open(f"/proc/{int(text)}/cmdline", "rb") as file:  # noqa: PTH123 - no pathlib here
            if _MODULE in file.read().split(b"\0"):
                return int(text)
    return 0


def _take_over(path: str) -> None:
    """Be the only gate: end the one of an earlier daemon, now that this one listens.

    For a moment both do; the second finds the hook in place.
    """
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    end = time.monotonic() + _TAKE_OVER_SECONDS
    while (pid := holder(fd)) is not None:
        if time.monotonic() > end:
            return
        if pid:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGTERM)
        time.sleep(0.01)
    os.ftruncate(fd, 0)
    os.pwrite(fd, str(os.getpid()).encode(), 0)
    # Held until this process ends.


def main() -> int:
    """Guard a listener; see the top of this file."""
    mouth = _Mouth()
    try:
        orders, limit, lock = _read_orders()
        shared = memoryview(mmap.mmap(-1, mmap.PAGESIZE)).cast("Q")[:SHARED]
        gc.collect()
        gc.freeze()  # what is shared with the listener stays shared
        guard = os.getpid()
        shared[BEAT] = time.monotonic_ns()
        child = os.fork()
        if child == 0:
            _listen(orders, shared, mouth, guard)
        _come_first(_GUARD_PRIORITY)
        devnull = os.open(os.devnull, os.O_RDONLY)
        os.dup2(devnull, sys.stdin.fileno())  # the listener reads it
        return _Guard(child, shared, limit, mouth).run(lock)
    except RoteError as error:
        mouth.say({"error": str(error)})
        return error.exit_code


def _come_first(priority: int) -> None:
    try:
        os.sched_setscheduler(0, os.SCHED_RR, os.sched_param(priority))
    except OSError:
        with contextlib.suppress(OSError):
            os.nice(_NICE)


def _listen(orders: Orders, shared: memoryview, mouth: _Mouth, guard: int) -> None:
    """The listening process; does not return."""
    code = 1
    try:
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
        if os.getppid() == guard:
            _come_first(_LISTENER_PRIORITY)
            Listener(orders, shared, mouth.say).run(sys.stdin.fileno())
            code = 0
    except (RoteError, OSError, ValueError) as error:
        mouth.say({"error": str(error)})
    finally:
        os._exit(code)


if __name__ == "__main__":
    sys.exit(main())
