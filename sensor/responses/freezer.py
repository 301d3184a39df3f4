"""Freezing and killing what is in a container's cgroup, without asking its runtime.

Source: Documentation/admin-guide/cgroup-v2.rst ("cgroup.freeze", "cgroup.kill"),
Documentation/admin-guide/cgroup-v1/freezer-subsystem.rst.

The two versions differ in one thing that matters here. A process that version 2 has frozen dies of
SIGKILL where it stands. One that version 1 has frozen keeps SIGKILL pending until it is thawed, and
then dies before it executes another instruction of its own. Hence version 2 is used where the
container has a cgroup there, also on hosts that have both.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

from sensor.containers import cgroups
from sensor.containers.container import Container
from sensor.errors import HostError

_STEPS = (0.001, 0.002, 0.005, 0.01, 0.02)  # seconds between two looks
_GONE = ("", "Z", "X")
_SIGNALS_AT_ONCE = 256  # each holds a descriptor meanwhile
_LOOKED_AT = 16  # processes that are asked where a container is
_SHOWN = 5  # processes named in a message
V1, V2 = 1, 2


@dataclass(frozen=True, slots=True)
class Place:
    """A cgroup that can be frozen."""

    directory: Path
    version: int  # V1 or V2

    def pids(self) -> list[int]:
        """Its processes and those below it, without what has ended already."""
        found: set[int] = set()
        for directory, _, _ in os.walk(self.directory):
            with contextlib.suppress(OSError):  # it went away meanwhile
                text = (Path(directory) / "cgroup.procs").read_text(encoding="ascii")
                found.update(int(pid) for pid in text.split())
        return sorted(pid for pid in found if _runs(pid))

    def is_frozen(self) -> bool:
        """Whether nothing in it runs."""
        try:
            if self.version == V2:
                events = (self.directory / "cgroup.events").read_text(encoding="ascii")
                return "frozen 1" in events
            return (self.directory / "freezer.state").read_text(encoding="ascii") == "FROZEN\n"
        except OSError:
            return False

    def set_frozen(self, *, on: bool) -> None:
        """Ask for it; it takes a moment to be so.

        Raises:
            OSError: the cgroup is gone, or may not be written.
        """
        name, values = (
            ("cgroup.freeze", ("0", "1"))
            if self.version == V2
            else ("freezer.state", ("THAWED", "FROZEN"))
        )
        (self.directory / name).write_text(values[on], encoding="ascii")


@dataclass(frozen=True, slots=True)
class Mounts:
    """Where the hierarchies are that can freeze; None where one is not mounted."""

    v2: Path | None
    v1: Path | None  # of the controller "freezer"

    @classmethod
    def find(cls) -> Mounts:
        """Of this host. Source: /proc/self/mountinfo (proc_pid_mountinfo(5))."""
        v1 = v2 = None
        text = Path("/proc/self/mountinfo").read_text(encoding="utf-8", errors="replace")
        for line in text.splitlines():
            left, _, right = line.partition(" - ")
            kind, _, options = right.split(" ", 2)
            mount = Path(left.split()[4].encode().decode("unicode_escape"))
            if kind == "cgroup2":
                v2 = v2 or mount
            elif kind == "cgroup" and "freezer" in options.split(","):
                v1 = v1 or mount
        return cls(v2, v1)


class Freezer:
    """Freezes, thaws and kills containers through their cgroups.

    Every method refuses, with HostError, a root cgroup and one that holds this process.

    Args:
        mounts: where hierarchies are; replaced in tests to use one version only.
        strays: processes of a container that left its cgroup; the kernel side knows them by the
            stamp that they carry.
    """

    def __init__(
        self,
        mounts: Mounts | None = None,
        strays: Callable[[Container], Iterable[int]] = lambda _: (),
    ) -> None:
        self._mounts = mounts or Mounts.find()
        self._hierarchy = cgroups.find_hierarchy()  # by which containers are told apart
        self._strays = strays

    def place(self, container: Container) -> Place | None:
        """The cgroup of a container that can be frozen; None when it has none now.

        Raises:
            HostError: there is one, and it must not be touched.
        """
        for version, mount in ((V2, self._mounts.v2), (V1, self._mounts.v1)):
            if mount is None:
                continue
            path = self._path(container, version, mount)
            if path is None:
                continue
            place = Place(mount / path.lstrip("/"), version)
            control = "cgroup.freeze" if version == V2 else "freezer.state"
            if (place.directory / control).exists():
                self._check(container, path, place)
                return place
        return None

    def _path(self, container: Container, version: int, mount: Path) -> str | None:
        """Where the container is in one hierarchy; None when it is not there."""
        controller = "" if version == V2 else "freezer"
        hierarchy = cgroups.Hierarchy(mount, controller)
        for pid in self._known_pids(container):
            path = hierarchy.path_of_pid(pid)
            if path is None:
                continue
            own = own_cgroup(path, container)
            if own is not None:
                return own
        if version == V2 and container.cgroup_path and hierarchy.id_of(container.cgroup_path):
            return container.cgroup_path  # of processes that nobody has named to us
        return None

    def _known_pids(self, container: Container) -> list[int]:
        found = [container.pid] if container.pid else []
        if container.cgroup_path:
            # That hierarchy need not be one that can freeze.
            found.extend(self._hierarchy.pids(container.cgroup_path)[:_LOOKED_AT])
        return found

    def _check(self, container: Container, path: str, place: Place) -> None:
        name = container.name or container.short_id
        if not path.strip("/") or ".." in path.split("/"):
            raise HostError(f"{name}: its cgroup is {path!r}: shared with the host, not touched")
        if os.getpid() in place.pids():
            raise HostError(f"{name}: this sensor runs in its cgroup {path}: not touched")

    def pids(self, container: Container) -> list[int]:
        """Its processes, also those that left its cgroup."""
        place = self.place(container)
        own = place.pids() if place is not None else []
        return sorted({*own, *self._outside(container, own)})

    def _outside(self, container: Container, own: Iterable[int]) -> list[int]:
        """Those of its processes that left its cgroup."""
        known = {*own, os.getpid()}
        return [pid for pid in self._strays(container) if pid not in known and _runs(pid)]

    def _signal(self, container: Container, pids: list[int], number: int) -> None:
        """Send a signal to processes of a container, and to none that got such a number since."""
        for start in range(0, len(pids), _SIGNALS_AT_ONCE):
            opened: dict[int, int] = {}
            for pid in pids[start : start + _SIGNALS_AT_ONCE]:
                with contextlib.suppress(ProcessLookupError):
                    opened[pid] = os.pidfd_open(pid)
            try:
                for pid in set(self.pids(container)) & opened.keys():
                    with contextlib.suppress(ProcessLookupError):
                        signal.pidfd_send_signal(opened[pid], number)
            finally:
                for descriptor in opened.values():
                    os.close(descriptor)

    def is_frozen(self, container: Container) -> bool:
        """Whether nothing of it runs, because it was frozen."""
        place = self.place(container)
        return place is not None and place.is_frozen()

    async def freeze(self, container: Container, seconds: float = 2.0) -> str:
        """Let nothing of it run any more.

        Returns:
            What was frozen, for a person; "" when nothing of it runs.

        Raises:
            HostError: not within ``seconds``, or it must not be touched.
        """
        place = self.place(container)
        if place is None or not place.pids():
            return ""
        deadline = time.monotonic() + seconds
        step = 0
        try:
            place.set_frozen(on=True)
            while not place.is_frozen():
                if time.monotonic() > deadline:
                    raise HostError(f"not frozen within {seconds:g} s: {_names(place.pids())}")
                await asyncio.sleep(_STEPS[min(step, len(_STEPS) - 1)])
                step += 1
                if step % 8 == 0:
                    place.set_frozen(on=True)  # version 1 looks only when it is written or read
        except OSError as error:
            if not place.directory.exists():
                return ""
            raise HostError(f"{place.directory}: {error.strerror}") from error
        pids = place.pids()
        outside = self._outside(container, pids)
        self._signal(container, outside, signal.SIGSTOP)
        more = f"; {len(outside)} outside its cgroup stopped" if outside else ""
        return f"{_count(pids)}, cgroup v{place.version}{more}"

    async def thaw(self, container: Container) -> None:
        """Let it run again; nothing happens when it is not frozen.

        Raises:
            HostError: it cannot be thawed.
        """
        place = self.place(container)
        if place is None:
            return
        try:
            place.set_frozen(on=False)
        except OSError as error:
            if place.directory.exists():
                raise HostError(f"{place.directory}: {error.strerror}") from error
        self._signal(container, self._outside(container, place.pids()), signal.SIGCONT)

    def condemn(self, container: Container) -> bool:
        """Make sure that a frozen container dies as soon as it is thawed, before it does anything.

        With version 2 SIGKILL takes effect at once, so nothing is done: whoever stops it through
        its runtime must be first, or a restart policy would bring it back.

        Returns:
            Whether SIGKILL is pending for all of it.
        """
        place = self.place(container)
        if place is None or place.version != V1 or not place.is_frozen():
            return False
        pids = place.pids()
        self._signal(container, pids, signal.SIGKILL)
        return all(_is_condemned(pid) for pid in pids)

    async def kill(self, container: Container, seconds: float = 10.0) -> str:
        """Kill all of it, frozen or not, and wait until nothing is left.

        Returns:
            What was killed, for a person; "" when nothing of it ran.

        Raises:
            HostError: something is left after ``seconds``, or it must not be touched.
        """
        place = self.place(container)
        first = self.pids(container)
        deadline = time.monotonic() + seconds
        step = 0
        while left := self.pids(container):
            if time.monotonic() > deadline:
                raise HostError(f"alive {seconds:g} s after SIGKILL: {_names(left)}")
            # Again and again: without a freezer, something may fork between two looks.
            if place is not None and _kill_at_once(place):
                left = self._outside(container, place.pids())
            self._signal(container, left, signal.SIGKILL)
            if place is not None and place.version == V1:
                await self.thaw(container)  # or the signal stays pending
            await asyncio.sleep(_STEPS[min(step, len(_STEPS) - 1)])
            step += 1
        if place is not None and place.directory.exists():
            with contextlib.suppress(OSError):  # it went away with its last process
                place.set_frozen(on=False)  # a cgroup of a service is used again
        return _count(first) if first else ""

    async def terminate(self, container: Container, grace_seconds: float) -> bool:
        """Ask its first process to end, thaw it, and wait.

        Returns:
            Whether all of it has ended by itself.
        """
        self._signal(container, [container.pid] if container.pid else [], signal.SIGTERM)
        await self.thaw(container)
        deadline = time.monotonic() + grace_seconds
        while self.pids(container):
            if time.monotonic() > deadline:
                return False
            await asyncio.sleep(0.05)
        return True


def own_cgroup(path: str, container: Container) -> str | None:
    """The part of a process's cgroup path that is the container's own, or None.

    A process that is somewhere else than its container, or whose number now belongs to another,
    is thereby found out.
    """
    parts = path.rstrip("/").split("/")
    for end in range(len(parts), 0, -1):
        if cgroups.container_id("/" + parts[end - 1]) == container.id:
            return "/".join(parts[:end])
    own = container.cgroup_path.rstrip("/")
    if own and (path == own or path.startswith(own + "/")):
        return own
    return None


def own_containers() -> frozenset[str]:
    """Ids of the containers that this process runs in; empty on the host."""
    try:
        lines = Path("/proc/self/cgroup").read_text(encoding="utf-8").splitlines()
    except OSError as error:
        raise HostError(f"/proc/self/cgroup: {error.strerror}") from error
    found = (
        cgroups.container_id("/" + part)
        for line in lines
        for part in line.split(":", 2)[2].split("/")
    )
    return frozenset(identity for identity in found if identity)


def _kill_at_once(place: Place) -> bool:
    """Kill a cgroup as a whole, since Linux 5.14; whether that is possible."""
    if place.version != V2:
        return False
    try:
        (place.directory / "cgroup.kill").write_text("1", encoding="ascii")
    except OSError:
        return False
    return True


def _state(pid: int) -> str:
    """One letter, as in proc_pid_stat(5); "" when there is no such process."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""
    return text.rpartition(")")[2].split()[0]


def _runs(pid: int) -> bool:
    """Whether a process has not ended."""
    return _state(pid) not in _GONE


def _is_condemned(pid: int) -> bool:
    """Whether SIGKILL is pending for a process, or it has ended. Source: proc_pid_status(5)."""
    try:
        text = Path(f"/proc/{pid}/status").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return True
    pending = 0
    for line in text.splitlines():
        if line.startswith(("SigPnd:", "ShdPnd:")):
            pending |= int(line.split()[1], 16)
    return bool(pending >> (signal.SIGKILL - 1) & 1) or not _runs(pid)


def _count(pids: list[int]) -> str:
    return f"{len(pids)} process{'' if len(pids) == 1 else 'es'}"


def _names(pids: list[int]) -> str:
    """Processes with their states, for a message."""
    shown = [f"{pid} ({_state(pid) or 'ended'})" for pid in pids[:_SHOWN]]
    more = f" and {len(pids) - _SHOWN} more" if len(pids) > _SHOWN else ""
    return f"{_count(pids)}: {', '.join(shown)}{more}"
