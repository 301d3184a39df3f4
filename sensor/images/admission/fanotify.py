"""The gate where nothing may be configured: its worker started, watched and asked.

The worker (``fanotify_worker``) is a process of its own. Here is the daemon's end of it.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
import sys
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import orjson

from sensor.config import Settings
from sensor.errors import StateError
from sensor.images.admission.bundle import RuntimeHook
from sensor.images.admission.fanotify_worker import EXIT_HUNG, EXIT_LISTENER, holder
from sensor.images.admission.start import Answer, Failure
from sensor.images.admission.states import find_states, parse_states

_log = logging.getLogger("rote.gate")
_FIND_SECONDS = 30.0  # between two looks for containerd's
_SIGN_SECONDS = 20.0  # the worker says something every five
_PAUSE_FIRST, _PAUSE_MAX = 0.5, 60.0
_GOOD_SECONDS = 60.0  # a worker that lived so long is started again at once
_END_SECONDS = 2.0  # a worker whose output has ended has ended itself by then
_LINE_MAX = 1 << 16
LIMIT_SECONDS = 0.5
_EXITS = {
    EXIT_HUNG: "its listener hung and was killed; what it held went on",
    EXIT_LISTENER: "its listener ended; what it held went on",
    -signal.SIGKILL: "the worker was killed; what it held went on",
}
_EXTREMES: dict[str, Callable[..., int]] = {"slowest_us": max, "margin_us": min}

Ask = Callable[[Path], Awaitable[Answer]]
"""May the container of this bundle run? Its ``config.json`` can be read meanwhile, by this process
only."""


def lock_of(run_dir: Path) -> Path:
    """The file that the worker which counts holds."""
    return run_dir / "fanotify.lock"


def end_left(run_dir: Path) -> bool:
    """End a worker that outlived its daemon; whether there was one.

    Raises:
        StateError: its lock cannot be read.
    """
    path = lock_of(run_dir)
    try:
        with path.open("rb+") as file:
            pid = holder(file.fileno())
            if pid:
                os.kill(pid, signal.SIGTERM)
            return bool(pid)
    except (FileNotFoundError, ProcessLookupError):
        return False
    except OSError as error:
        raise StateError(f"{path}: {error.strerror}") from error


class FanotifyGate:
    """Holds starts of containers by the first open of their ``config.json``.

    Args:
        run_dir: of the daemon: holds the lock of the worker.
        directories: state directories of containerd; None: those of the containerd's that run.
        hook: to be injected; None: ``ask`` decides, and a refused start fails with EPERM.
        ask: decides where there is no hook.
        failure: what becomes of a start that nobody decides. Where it is refused, the worker goes
            on when this process dies, and the next daemon's takes over from it: the hook that it
            injects refuses by itself.
        limit: seconds that the listener may hang, and an open with it; at most 16.
    """

    def __init__(
        self,
        run_dir: Path,
        directories: tuple[Path, ...] | None,
        hook: RuntimeHook | None,
        *,
        ask: Ask | None = None,
        failure: Failure | None = None,
        limit: float = LIMIT_SECONDS,
    ) -> None:
        self._run_dir = run_dir
        self._wanted = directories
        self._directories = directories or ()
        self._hook = hook
        self._ask = ask
        self._failure = failure or Failure()
        self._limit = limit
        self._task: asyncio.Task[None] | None = None
        self._worker: asyncio.subprocess.Process | None = None
        self._answers: set[asyncio.Task[None]] = set()
        self._ready = asyncio.Event()
        self._counts: dict[str, int] = {}  # of the worker that runs
        self._before: dict[str, int] = {}  # of those that ended
        self._listener = 0
        self._restarts = 0
        self._missed: list[dict[str, Any]] = []
        self._problem = ""

    @classmethod
    def of(
        cls,
        settings: Settings,
        hook: RuntimeHook | None,
        *,
        ask: Ask | None = None,
        failure: Failure | None = None,
    ) -> FanotifyGate | None:
        """The gate that the settings want; None: they want none.

        Raises:
            UsageError: they name no directory that can be used.
        """
        directories = parse_states(settings.gate_fanotify)
        if directories == ():
            return None
        return cls(settings.run_dir, directories, hook, ask=ask, failure=failure)

    async def start(self) -> None:
        """Begin; the gate holds starts when ``status`` says so, some 100 ms later."""
        if self._wanted is None:
            self._directories = tuple(await asyncio.to_thread(find_states))
        self._task = asyncio.create_task(self._run(), name="fanotify gate")

    async def ready(self, seconds: float = 5.0) -> bool:
        """Wait until starts are held; whether they are."""
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._ready.wait(), seconds)
        return self._ready.is_set()

    def set_failure(self, failure: Failure) -> None:
        """Rules have changed, and what becomes of a start that nobody decides."""
        self._failure = failure
        self._send({"failure": self._failure_orders()})

    def status(self) -> dict[str, Any]:
        """What `rote status` shows."""
        names = {*self._counts, *self._before}
        counts = {
            name: self._counts.get(name, 0) + self._before.get(name, 0)
            for name in sorted(names - _EXTREMES.keys())
        }
        return {
            "gate": "fanotify",
            "state": "on" if self._ready.is_set() else "off",
            "way": "inject" if self._hook else "deny",
            "directories": [str(path) for path in self._directories],
            "worker": self._worker.pid if self._worker and self._ready.is_set() else 0,
            "listener": self._listener if self._ready.is_set() else 0,
            "restarts": self._restarts,
            "slowest_ms": self._extreme("slowest_us") / 1000,
            "margin_ms": self._extreme("margin_us") / 1000,
            "problem": self._problem,
            "last_missed": self._missed[-10:],
            **counts,
        }

    async def close(self) -> None:
        """End the worker; what it holds goes on."""
        if self._task is not None:
            self._task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._task
        for task in tuple(self._answers):
            task.cancel()

    # ---- the worker

    async def _run(self) -> None:
        pause, said = _PAUSE_FIRST, ""
        while True:
            began = time.monotonic()
            try:
                await self._run_worker()
            except OSError as error:
                self._problem = f"the worker cannot be started: {error.strerror}"
            self._restarts += 1
            if time.monotonic() - began > _GOOD_SECONDS:
                pause, said = _PAUSE_FIRST, ""
            if self._problem != said:  # once, not with each try
                _log.warning("fanotify gate: %s; tried again in %.1f s", self._problem, pause)
                said = self._problem
            await asyncio.sleep(pause)
            pause = min(2 * pause, _PAUSE_MAX)

    async def _run_worker(self) -> None:
        """One worker, from its start to its end."""
        worker = self._worker = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "sensor.images.admission.fanotify_worker"),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.DEVNULL,
            start_new_session=True,  # Ctrl-C is for the daemon to deal with
            limit=_LINE_MAX,
            env={**os.environ, "PYTHONDONTWRITEBYTECODE": "1"},
        )
        finder = asyncio.create_task(self._find()) if self._wanted is None else None
        self._problem = ""
        try:
            self._send({"orders": self._orders()})
            await self._listen(worker)
        finally:
            self._ready.clear()
            if finder is not None:
                finder.cancel()
            if worker.returncode is None:
                # The listener ends with it. Not worker.kill(): it takes the exit code away from
                # asyncio when the worker has just ended by itself.
                with contextlib.suppress(ProcessLookupError):
                    os.kill(worker.pid, signal.SIGKILL)
            code = await worker.wait()
            self._problem = self._problem or _EXITS.get(code, f"the worker ended with {code}")
            for name, count in self._counts.items():
                if name in _EXTREMES:
                    self._before[name] = self._extreme(name)
                else:
                    self._before[name] = self._before.get(name, 0) + count
            self._counts = {}

    def _extreme(self, name: str) -> int:
        """Of all workers; 0: there was none yet."""
        counts = (self._counts.get(name, 0), self._before.get(name, 0))
        return _EXTREMES[name]((count for count in counts if count), default=0)

    def _orders(self) -> dict[str, Any]:
        hook = self._hook
        return {
            "directories": [str(path) for path in self._directories],
            "hook": hook
            and {"path": hook.path, "arguments": hook.arguments, "seconds": hook.seconds},
            "limit": self._limit,
            "failure": self._failure_orders(),
            "readers": [os.getpid()],
            "lock": str(lock_of(self._run_dir)),
        }

    def _failure_orders(self) -> dict[str, Any]:
        allow = self._failure.allow
        return {"ask_seconds": self._failure.seconds, "allow": allow, "outlive": not allow}

    def _send(self, message: dict[str, Any]) -> None:
        worker = self._worker
        if worker is not None and worker.stdin is not None and not worker.stdin.is_closing():
            worker.stdin.write(orjson.dumps(message) + b"\n")

    async def _listen(self, worker: asyncio.subprocess.Process) -> None:
        assert worker.stdout is not None
        while True:
            try:
                async with asyncio.timeout(_SIGN_SECONDS):
                    line = await worker.stdout.readline()
            except TimeoutError:
                self._problem = f"the worker says nothing for {_SIGN_SECONDS:.0f} s"
                return
            except ValueError:
                self._problem = f"the worker sent a line of more than {_LINE_MAX} bytes"
                return
            if not line:
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(_END_SECONDS):
                        await worker.wait()
                return
            self._on_message(orjson.loads(line))

    def _on_message(self, message: dict[str, Any]) -> None:
        if "counts" in message:
            self._counts = message["counts"]
            self._listener = message["listener"]
            if message["ready"]:
                self._ready.set()
        elif "ask" in message:
            task = asyncio.create_task(self._answer(message["ask"]))
            self._answers.add(task)
            task.add_done_callback(self._answers.discard)
        elif "missed" in message:
            self._missed = [*self._missed[-9:], message]
            _log.warning("fanotify gate: a start was not held: %s", message["reason"])
        elif "unanswered" in message:
            _log.warning(
                "fanotify gate: %s: not decided within %g s; %s",
                message["unanswered"],
                self._failure.seconds,
                "allowed" if self._failure.allow else "refused",
            )
        elif "refused" in message:
            self._problem = f"{message['refused']}: not watched: {message['reason']}"
            _log.warning("fanotify gate: %s", self._problem)
        elif "error" in message:
            self._problem = message["error"]

    async def _answer(self, bundle: str) -> None:
        allow = self._failure.allow
        try:
            if self._ask is not None:
                async with asyncio.timeout(self._failure.seconds):
                    allow = (await self._ask(Path(bundle))).allow
        except TimeoutError:
            pass  # said when the worker says it
        finally:
            self._send({"answer": bundle, "allow": allow})

    async def _find(self) -> None:
        """Look from time to time which containerd's there are."""
        while True:
            await asyncio.sleep(_FIND_SECONDS)
            found = tuple(await asyncio.to_thread(find_states))
            # One that is gone may come again in the same place: what is watched stays.
            new = tuple(path for path in found if path not in self._directories)
            if new:
                self._directories += new
                self._send({"directories": [str(path) for path in self._directories]})
