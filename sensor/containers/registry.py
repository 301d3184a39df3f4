"""Which container a cgroup belongs to.

Two sources meet here. The kernel reports a container's cgroup when it is created, before anything
runs in it; the runtime knows who it is. Whichever comes first, the container is announced once,
with both.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace

from sensor.containers import cgroups
from sensor.containers.cgroups import Hierarchy
from sensor.containers.container import Container, Image
from sensor.containers.runtime import Runtime, RuntimeEvent, RuntimeStatus
from sensor.errors import RuntimeUnavailableError

_log = logging.getLogger("rote.containers")
_LOOKUP_SECONDS = 30.0
_ENDED_LOOKUP_SECONDS = 2.0  # of a container that is gone already; events wait for it
_LOOKUP_STEPS = (0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0)
_WATCH_SECONDS = 2.0


@dataclass(frozen=True, slots=True)
class ContainerChange:
    """A container came, went, or turned out to be nobody's."""

    # "created" (it does not run yet), "added", "removed", "changed",
    # "unresolved" (a container, but no runtime knows it)
    kind: str
    cgroup_id: int
    container: Container
    running_before: bool = False  # it ran before the sensor looked
    pids: tuple[int, ...] = ()  # its processes then
    child_cgroups: tuple[int, ...] = ()


OnChange = Callable[[ContainerChange], None]


class Registry:
    """All containers of this host.

    Args:
        runtimes: who to ask.
        watches: paths of plain cgroups that count as containers.
        on_change: told of each change, in the order of their happening.
        hierarchy: where cgroups are.
        lookup_seconds: how long to ask for a cgroup's container before it is "unresolved".
    """

    def __init__(
        self,
        runtimes: Sequence[Runtime],
        watches: Iterable[str],
        on_change: OnChange,
        *,
        hierarchy: Hierarchy | None = None,
        lookup_seconds: float = _LOOKUP_SECONDS,
    ) -> None:
        self._runtimes = runtimes
        self._watches = tuple(watches)
        self._on_change = on_change
        self._hierarchy = hierarchy or cgroups.find_hierarchy()
        self._lookup_seconds = lookup_seconds
        self._by_cgroup: dict[int, Container] = {}
        self._by_id: dict[str, int] = {}
        self._pending: dict[int, asyncio.Task[None]] = {}
        self._ended: dict[int, float] = {}  # pending, but gone: until when to go on asking

    async def run(self) -> None:
        """Follow runtimes and watched cgroups until cancelled."""
        async with asyncio.TaskGroup() as group:
            for runtime in self._runtimes:
                group.create_task(runtime.run(self._on_runtime_event), name=runtime.name)
            if self._watches:
                group.create_task(self._follow_watches(), name="watched cgroups")

    async def close(self) -> None:
        """Stop looking up; let go of the runtimes."""
        for task in self._pending.values():
            task.cancel()
        for runtime in self._runtimes:
            await runtime.close()

    def resolve(self, cgroup_id: int) -> Container | None:
        """The container of a cgroup, or None while it is not known."""
        return self._by_cgroup.get(cgroup_id)

    def is_pending(self, cgroup_id: int) -> bool:
        """Whether somebody is being asked about this cgroup."""
        return cgroup_id in self._pending

    def pids(self, cgroup_id: int) -> list[int]:
        """Processes of a container."""
        container = self._by_cgroup.get(cgroup_id)
        return self._hierarchy.pids(container.cgroup_path) if container else []

    def containers(self) -> list[Container]:
        """All known containers."""
        return list(self._by_cgroup.values())

    async def inspect(self, name: str) -> Container | None:
        """A container by its name, its id or the beginning of one, also when it does not run.

        A runtime that does not answer is passed over.
        """
        return await self._ask(name)

    def statuses(self) -> list[RuntimeStatus]:
        """How the runtimes are."""
        return [runtime.status() for runtime in self._runtimes]

    def cgroup_created(self, cgroup_id: int, path: str) -> None:
        """The kernel saw a container's cgroup being made. Returns at once."""
        if cgroup_id in self._by_cgroup or cgroup_id in self._pending:
            return
        identity = cgroups.container_id(path) or path
        self._pending[cgroup_id] = asyncio.create_task(
            self._look_up(cgroup_id, path, identity), name=f"look up {identity[:12]}"
        )

    def process_seen(self, cgroup_id: int, pid: int) -> None:
        """A process of a cgroup whose creation nobody reported acted. Returns at once."""
        path = self._hierarchy.path_of_pid(pid)
        if path is not None and self._hierarchy.id_of(path) == cgroup_id:
            self.cgroup_created(cgroup_id, path)

    def admitted(self, container: Container, pid: int) -> Container | None:
        """A container whose start was held may go on: watch it before its first instruction.

        The runtime's own events come later, and only refresh what is known.

        Args:
            container: who it is.
            pid: the process that will become its first one, already in the container's cgroup.

        Returns:
            It, with pid and cgroup; None when the process ended or is in no cgroup of its own:
            then the runtime's events count, as without a gate.
        """
        path = self._hierarchy.path_of_pid(pid)
        own = self._own_cgroup(path, container.id) if path is not None else None
        if own is None:
            return None
        path, cgroup_id = own
        container = replace(container, pid=pid)
        known = self._by_id.get(container.id)
        if known == cgroup_id:
            self._refresh(cgroup_id, container)
            return self._by_cgroup[cgroup_id]
        if known is not None:
            self._remove(known)
        if (task := self._pending.pop(cgroup_id, None)) is not None:
            task.cancel()
        self._add(cgroup_id, path, container, running_before=False)
        return self._by_cgroup[cgroup_id]

    def cgroup_removed(self, cgroup_id: int) -> None:
        """The kernel saw a cgroup being removed."""
        if cgroup_id in self._pending:
            # It lived for less than it took to ask. What it did still counts, so go on asking.
            self._ended[cgroup_id] = asyncio.get_running_loop().time() + _ENDED_LOOKUP_SECONDS
            return
        self._remove(cgroup_id)

    async def _look_up(self, cgroup_id: int, path: str, identity: str) -> None:
        loop = asyncio.get_running_loop()
        deadline = loop.time() + self._lookup_seconds
        step = 0
        while True:
            container = await self._ask(identity)
            if cgroup_id not in self._pending:
                return  # a runtime's event was faster
            until = min(deadline, self._ended.get(cgroup_id, deadline))
            if container is not None or loop.time() >= until or not self._runtimes:
                break
            await asyncio.sleep(_LOOKUP_STEPS[min(step, len(_LOOKUP_STEPS) - 1)])
            step += 1
        self._pending.pop(cgroup_id, None)
        if container is not None:
            self._add(cgroup_id, path, container, running_before=False)
        else:
            self._add_stranger(cgroup_id, path, identity)
        if self._ended.pop(cgroup_id, None) is not None:
            self._remove(cgroup_id)

    def _add_stranger(self, cgroup_id: int, path: str, identity: str) -> None:
        _log.warning("cgroup %s: no runtime knows container %s", path, identity[:12])
        stranger = Container(
            id=identity,
            runtime="cgroup",
            name=identity[:12],
            image=Image(name="(unknown)", id=f"unknown:{path.rpartition('/')[0]}"),
            cgroup_path=path,
            cgroup_id=cgroup_id,
        )
        self._announce("unresolved", cgroup_id, stranger, running_before=False)

    async def _ask(self, identity: str) -> Container | None:
        for runtime in self._runtimes:
            try:
                container = await runtime.inspect(identity)
            except RuntimeUnavailableError as error:
                _log.debug("%s", error)
                continue
            if container is not None:
                return container
        return None

    def _on_runtime_event(self, event: RuntimeEvent) -> None:
        known = self._by_id.get(event.container_id)
        if event.kind == "stopped":
            if known is not None:
                self._remove(known)
            return
        container = event.container
        if event.kind == "created" and container is not None and known is None:
            self._on_change(ContainerChange("created", 0, container))
        if container is None or not container.pid:
            return
        path = self._hierarchy.path_of_pid(container.pid)
        cgroup_id = self._hierarchy.id_of(path) if path is not None else None
        if path is None or cgroup_id is None:
            return
        # A container may run its processes in a cgroup below its own (podman with crun).
        own = self._own_cgroup(path, container.id)
        if own is not None:
            path, cgroup_id = own
        if known == cgroup_id:
            self._refresh(cgroup_id, container)
            return
        if known is not None:
            self._remove(known)
        task = self._pending.pop(cgroup_id, None)
        if task is not None:
            task.cancel()
        # Only when the kernel saw the cgroup being made is it watched from the first instruction.
        self._add(cgroup_id, path, container, running_before=task is None)

    def _own_cgroup(self, path: str, container_id: str) -> tuple[str, int] | None:
        parts = path.split("/")
        for end in range(len(parts), 0, -1):
            if cgroups.container_id("/" + parts[end - 1]) == container_id:
                own = "/".join(parts[:end])
                found = self._hierarchy.id_of(own)
                return (own, found) if found is not None else None
        return None

    def _refresh(self, cgroup_id: int, container: Container) -> None:
        old = self._by_cgroup[cgroup_id]
        new = replace(container, cgroup_id=cgroup_id, cgroup_path=old.cgroup_path)
        if new != old:
            self._by_cgroup[cgroup_id] = new
            self._on_change(ContainerChange("changed", cgroup_id, new))

    def _add(
        self, cgroup_id: int, path: str, container: Container, *, running_before: bool
    ) -> None:
        container = replace(container, cgroup_id=cgroup_id, cgroup_path=path)
        self._announce("added", cgroup_id, container, running_before=running_before)

    def _announce(
        self, kind: str, cgroup_id: int, container: Container, *, running_before: bool
    ) -> None:
        self._by_cgroup[cgroup_id] = container
        self._by_id[container.id] = cgroup_id
        path = container.cgroup_path
        self._on_change(
            ContainerChange(
                kind,
                cgroup_id,
                container,
                running_before=running_before,
                pids=tuple(self._hierarchy.pids(path)) if running_before else (),
                child_cgroups=tuple(self._hierarchy.children(path)),
            )
        )

    def _remove(self, cgroup_id: int) -> None:
        container = self._by_cgroup.pop(cgroup_id, None)
        if container is not None:
            self._by_id.pop(container.id, None)
            self._on_change(ContainerChange("removed", cgroup_id, container))

    async def _follow_watches(self) -> None:
        """Plain cgroups have no runtime that speaks up; look every few seconds."""
        known: dict[str, int] = {}
        missing: set[str] = set()
        while True:
            for path in self._watches:
                cgroup_id = self._hierarchy.id_of(path)
                if known.get(path) == cgroup_id:
                    continue
                if path in known:
                    self._remove(known.pop(path))
                if cgroup_id is None:
                    if path not in missing:
                        _log.warning(
                            "cgroup %s: not there; expected below %s, waiting for it",
                            path,
                            self._hierarchy.root,
                        )
                        missing.add(path)
                    continue
                missing.discard(path)
                known[path] = cgroup_id
                self._add(cgroup_id, path, self._plain(path), running_before=True)
            await asyncio.sleep(_WATCH_SECONDS)

    def _plain(self, path: str) -> Container:
        pids = self._hierarchy.pids(path)
        return Container(
            id=f"cgroup:{path}",
            runtime="cgroup",
            name=path.rpartition("/")[2] or path,
            image=Image(name=path, id=f"cgroup:{path}"),
            pid=pids[0] if pids else 0,
            host_mount_namespace=not pids or cgroups.shares_host_mounts(pids[0]),
        )
