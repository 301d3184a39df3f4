"""Holds the opens of new bundles' ``config.json`` until our hook stands in it.

A bundle is a directory ``STATE/io.containerd.runtime.v2.task/NAMESPACE/ID``. containerd makes it,
writes ``config.json`` and starts the shim, some milliseconds later, which opens it first. The new
directory is told of by inotify and marked for fanotify at once, and only as long as its container
is being made: no other open on that mount ever waits for us.

Two rules keep a reader from seeing half a file. Once a directory is marked while its
``config.json`` is not there whole, whoever opens the whole one is held; it is rewritten in place
while all of them wait. When it was there whole already, somebody may be reading: then another
file takes its place (rename), and who has opened the old one sees all of the old one.

This process must open nothing in a marked directory: it would wait for itself.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import stat
import time
from collections.abc import Callable
from typing import Any, NamedTuple

from sensor.errors import BadInputError
from sensor.images.admission.bundle import SPEC_MAX, RuntimeHook, insert
from sensor.images.admission.bundle_files import (
    CONFIG,
    PID_FILES,
    is_made,
    is_trusted,
    is_young,
    overwrite,
    replace,
    size_of,
)
from sensor.images.admission.bundle_watch import BundleWatch
from sensor.kernel.fanotify import Opening, PermissionGroup

_KEEP_SECONDS = 60.0  # a bundle whose container is not made by then is no longer held
_LOOKS = 5
_ASKED_MAX = 1000

# Places in the memory shared with the guard, 64 bits each.
(
    BEAT, READY, HELD, INJECTED, AHEAD, DENIED, PASSED, LATE, MISSED, SLOWEST_US, MARGIN_US,
) = range(11)  # fmt: skip
SHARED = 11
COUNTS = {
    "held": HELD,
    "injected": INJECTED,
    "ahead": AHEAD,
    "denied": DENIED,
    "passed": PASSED,
    "late": LATE,
    "missed": MISSED,
    "slowest_us": SLOWEST_US,
    "margin_us": MARGIN_US,
}


class Orders(NamedTuple):
    """What the listener is to do.

    Attributes:
        directories: the state directories of containerd and its like.
        hook: to be injected; None: the daemon is asked, and starts are refused by EPERM.
        beat: seconds between two signs of life.
        ask_seconds: how long an answer may take.
        allow: what becomes of a start that nobody answers for.
        readers: processes that are never held.
        outlive: go on when nobody reads what is told.
    """

    directories: tuple[str, ...]
    hook: RuntimeHook | None
    beat: float = 0.125
    ask_seconds: float = 10.0
    allow: bool = True
    readers: frozenset[int] = frozenset()
    outlive: bool = False


class _Bundle:
    """One that is being made.

    Attributes:
        fd: of the directory.
        reason: why it was left as it was; "" while it was not.
        answer: of the daemon's; None while there is none.
        waiting: opens that wait for it.
    """

    def __init__(self, path: str, fd: int) -> None:
        self.path = path
        self.fd = fd
        self.born = time.monotonic()
        self.taken = 0  # in ns: when it was sure that whoever opens it is held, or sees our hook
        self.done = False
        self.reason = ""
        self.asked = 0.0
        self.answer: bool | None = None
        self.waiting: list[Opening] = []


class Listener:
    """The loop of the listening process.

    Args:
        orders: what to do.
        shared: counts and signs of life, read by the guard.
        tell: sends a message to the daemon; must not wait.
    """

    def __init__(
        self,
        orders: Orders,
        shared: memoryview,
        tell: Callable[[dict[str, Any]], None],
    ) -> None:
        self._orders = orders
        self._shared = shared
        self._tell = tell
        self._group = PermissionGroup()
        self._bundles: dict[str, _Bundle] = {}
        self._watch = BundleWatch(self._on_bundle, self._on_gone, self._refuse, self._on_lost)

    def run(self, commands: int) -> None:
        """Listen until nobody is there to listen for.

        Args:
            commands: descriptor of the daemon's messages, one a line.
        """
        poll = select.poll()
        for fd in (self._group.fd, self._watch.fd, commands):
            poll.register(fd, select.POLLIN)
        text = b""
        self._watch.follow(self._orders.directories)
        self._shared[READY] = 1
        while True:
            self._shared[BEAT] = time.monotonic_ns()
            ready = {fd for fd, _ in poll.poll(self._orders.beat * 1000)}
            # First what is new: between its making and its mark nobody is held.
            if self._watch.fd in ready:
                self._watch.read()
            if self._group.fd in ready:
                self._on_opens()
            if commands in ready:
                data = os.read(commands, 65536)
                if not data:
                    poll.unregister(commands)
                    if not self._orders.outlive:
                        return
                *lines, text = (text + data).split(b"\n")
                for line in lines:
                    self._on_command(json.loads(line))
            self._on_time()

    # ---- bundles

    def _refuse(self, path: str, reason: str) -> None:
        self._tell({"refused": path, "reason": reason})

    def _on_gone(self, path: str) -> None:
        if (bundle := self._bundles.get(path)) is not None:
            self._forget(bundle)

    def _on_lost(self) -> None:
        for bundle in tuple(self._bundles.values()):
            if not os.fstat(bundle.fd).st_nlink:
                self._forget(bundle)

    def _on_bundle(self, path: str, *, is_new: bool) -> None:
        if path in self._bundles:
            return
        try:
            fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
        except OSError:
            return
        if not (is_new or is_young(fd)):
            os.close(fd)
            return
        bundle = self._bundles[path] = _Bundle(path, fd)
        if not is_trusted(fd):
            bundle.reason = f"{path}: others than root may write to it"
            self._made(bundle)
            return
        if is_made(fd):
            self._shared[LATE] += 1
            bundle.reason = f"{path}: its container was made before it could be held"
            self._made(bundle)
            return
        try:
            self._take(bundle)
        except OSError as error:
            bundle.reason = f"{path}: {error.strerror}"
            with contextlib.suppress(OSError):
                self._group.mark(fd)  # who opens it next is held

    def _take(self, bundle: _Bundle) -> None:
        """Mark a new bundle, so that nobody can have opened its whole ``config.json`` unheld."""
        for _ in range(_LOOKS):
            size = self._look(bundle)
            self._group.mark(bundle.fd)
            if bundle.done or size_of(bundle.fd) == size:
                bundle.taken = time.monotonic_ns()
                return
            self._group.unmark(bundle.fd)  # it was written meanwhile
        self._group.mark(bundle.fd)
        bundle.reason = f"{bundle.path}: {CONFIG} changes all the time"

    def _look(self, bundle: _Bundle) -> int:
        """The size of ``config.json``; when it is whole, the hook is put into it at once."""
        try:
            flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
            fd = os.open(CONFIG, flags, dir_fd=bundle.fd)
        except FileNotFoundError:
            return 0
        try:
            found = os.fstat(fd)
            if not found.st_size:
                return 0
            try:
                new = self._rewritten(bundle, fd, found)
            except BadInputError as error:
                bundle.reason = f"{bundle.path}: {error}"
                return found.st_size
            if self._orders.hook is None:
                bundle.reason = f"{bundle.path}: was whole before it could be held"
                return found.st_size
            if new is not None:
                replace(bundle.fd, fd, found, new)
                self._shared[INJECTED] += 1
                self._shared[AHEAD] += 1
            bundle.done = True
            return found.st_size
        finally:
            os.close(fd)

    def _rewritten(self, bundle: _Bundle, fd: int, found: os.stat_result) -> bytes | None:
        """What ``config.json`` is to be; None: it is that already, or nothing is to be injected.

        Raises:
            BadInputError: it is not whole, or not one that we may change.
        """
        if not stat.S_ISREG(found.st_mode) or found.st_uid or found.st_nlink != 1:
            raise BadInputError(f"{CONFIG}: expected an ordinary file of root's with one name")
        data = os.pread(fd, SPEC_MAX + 1, 0)
        if self._orders.hook is None:
            insert(data, RuntimeHook(""))  # is it whole?
            return None
        if not os.access(self._orders.hook.path, os.X_OK):
            # With it the runtime would refuse every start.
            raise BadInputError(f"{self._orders.hook.path}: is not there, or no program")
        new = insert(data, self._orders.hook)
        bundle.reason = ""
        return new

    def _forget(self, bundle: _Bundle) -> None:
        del self._bundles[bundle.path]
        for opening in bundle.waiting:
            self._group.answer(opening, allow=True)
        with contextlib.suppress(OSError):
            self._group.unmark(bundle.fd)
        os.close(bundle.fd)

    def _made(self, bundle: _Bundle) -> None:
        """Its container is made, or never will be: hold nobody any more."""
        if not bundle.done and bundle.answer is None:
            self._shared[MISSED] += 1
            reason = bundle.reason or f"{bundle.path}: its {CONFIG} was not opened while held"
            self._tell({"missed": bundle.path, "reason": reason})
        self._forget(bundle)

    # ---- opens

    def _on_opens(self) -> None:
        started = time.monotonic_ns()
        try:
            openings = self._group.read()
        except OSError as error:
            # ETXTBSY, EMFILE, …: that one open has failed, and it should be known why.
            self._tell({"error": f"an open in a bundle failed: {error.strerror}"})
            return
        for opening in openings:
            self._on_open(opening)
            now = time.monotonic_ns()
            self._shared[BEAT] = now
            self._shared[SLOWEST_US] = max(self._shared[SLOWEST_US], (now - started) // 1000)

    def _on_open(self, opening: Opening) -> None:
        allow: bool | None = True
        bundle = None
        try:
            path = os.readlink(f"/proc/self/fd/{opening.fd}")  # noqa: PTH115 - quicker
            folder, _, name = path.rpartition("/")
            bundle = self._bundles.get(folder)
            if name == CONFIG and opening.pid not in self._orders.readers:
                found = os.fstat(opening.fd)
                bundle = bundle or self._bundle_with(found)
                if bundle is not None:
                    allow = self._on_config(bundle, opening, found)
                    self._measure(bundle)
                    return
            self._shared[PASSED] += 1
            if bundle is not None and name in PID_FILES:
                self._made(bundle)
        except (OSError, BadInputError) as error:
            reason = error.strerror if isinstance(error, OSError) else str(error)
            if bundle is not None:
                bundle.reason = f"{bundle.path}: {reason}"
            self._shared[PASSED] += 1
        finally:
            if allow is not None:
                self._group.answer(opening, allow=allow)

    def _measure(self, bundle: _Bundle) -> None:
        """Keep the least time that was left between a bundle's mark and its first reader."""
        if bundle.taken:
            margin = max(1, (time.monotonic_ns() - bundle.taken) // 1000)
            least = self._shared[MARGIN_US]
            self._shared[MARGIN_US] = min(least, margin) if least else margin
            bundle.taken = 0

    def _bundle_with(self, found: os.stat_result) -> _Bundle | None:
        """The bundle a file is in, when its path is another one where it was opened."""
        for bundle in self._bundles.values():
            with contextlib.suppress(OSError):
                own = os.stat(CONFIG, dir_fd=bundle.fd, follow_symlinks=False)
                if (own.st_dev, own.st_ino) == (found.st_dev, found.st_ino):
                    return bundle
        return None

    def _on_config(self, bundle: _Bundle, opening: Opening, found: os.stat_result) -> bool | None:
        """The answer for one who opens a bundle's ``config.json``; None: later.

        Raises:
            BadInputError: it is not whole yet, or not one that we may change.
            OSError: it could not be rewritten, and is as it was.
        """
        if not found.st_nlink and bundle.done:
            self._shared[PASSED] += 1  # opened just before another took its place
            return True
        new = self._rewritten(bundle, opening.fd, found)
        if self._orders.hook is None:
            return self._ask(bundle, opening)
        if new is None:
            self._shared[PASSED] += 1
        else:
            self._shared[HELD] += 1
            overwrite(opening.fd, new, found.st_size)
            self._shared[INJECTED] += 1
        bundle.done = True
        return True

    def _ask(self, bundle: _Bundle, opening: Opening) -> bool | None:
        if bundle.answer is not None:
            return self._answered(allow=bundle.answer)
        if len(bundle.waiting) >= _ASKED_MAX:
            return self._answered(allow=self._orders.allow)
        self._shared[HELD] += 1
        if not bundle.waiting:
            bundle.asked = time.monotonic()
            self._tell({"ask": bundle.path, "pid": opening.pid})
        bundle.waiting.append(opening)
        return None

    def _answered(self, *, allow: bool) -> bool:
        self._shared[PASSED if allow else DENIED] += 1
        return allow

    def _decide(self, bundle: _Bundle, *, allow: bool) -> None:
        bundle.answer = allow
        waiting, bundle.waiting = bundle.waiting, []
        for opening in waiting:
            self._group.answer(opening, allow=self._answered(allow=allow))

    # ---- the daemon's messages, and time

    def _on_command(self, command: dict[str, Any]) -> None:
        if "directories" in command:
            self._watch.follow(tuple(command["directories"]))
        elif "failure" in command:
            self._orders = self._orders._replace(**command["failure"])
        elif (bundle := self._bundles.get(command.get("answer", ""))) is not None:
            self._decide(bundle, allow=bool(command["allow"]))

    def _on_time(self) -> None:
        now = time.monotonic()
        self._watch.tick()
        for bundle in tuple(self._bundles.values()):
            if bundle.waiting and now - bundle.asked > self._orders.ask_seconds:
                self._tell({"unanswered": bundle.path})
                self._decide(bundle, allow=self._orders.allow)
            elif (
                not bundle.waiting
                and bundle.answer is not False  # whose bundle is held until it is removed
                and now - bundle.born > _KEEP_SECONDS
            ):
                self._made(bundle)
