"""The flight recorder: the last minutes of each container, in a fixed amount of memory.

It holds what the kernel reported: novelties, and what was refused. What a model knows never leaves
the kernel and so is not here.
"""

from __future__ import annotations

import time
from collections import OrderedDict, deque
from collections.abc import Callable
from typing import Any

import msgpack

from sensor.audits.scrub import scrub_argv
from sensor.events import Actor, Event, EventFlag, EventKind, Operation, Origin, WalkEnd

_ENTRY_OVERHEAD = 120  # bytes of Python around one entry
_PATH_MAX = 1024  # characters; longer ones are cut, so that no entry pushes out all others
_ARGV_MAX = 16


class FlightRecorder:
    """Remembers events by container; the oldest go first.

    Args:
        entry_limit: entries of one container.
        byte_limit: bytes of one container.
        container_limit: containers; of more, the one that was silent longest is forgotten.
        gone_seconds: how long a container that is gone is remembered.
        clock: seconds since the epoch.
    """

    def __init__(
        self,
        *,
        entry_limit: int = 512,
        byte_limit: int = 256 << 10,
        container_limit: int = 512,
        gone_seconds: float = 600.0,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._entry_limit = entry_limit
        self._byte_limit = byte_limit
        self._container_limit = container_limit
        self._gone_seconds = gone_seconds
        self._clock = clock
        self._rings: OrderedDict[int, _Ring] = OrderedDict()
        self._pack = msgpack.Packer(unicode_errors="surrogateescape").pack

    def note(self, event: Event) -> None:
        """Remember an event."""
        ring = self._ring(event.cgroup_id)
        same = (event.operation, event.path, event.program, event.action, event.pid)
        if ring.same == same:
            # A storm of one thing must not wash away what led to it.
            ring.repeats += event.repeat
            ring.repeated_ns = event.time_ns
            return
        self._settle(ring)
        ring.same = same
        self._add(
            ring,
            self._pack(
                (
                    event.time_ns, int(event.kind), int(event.operation), event.path[:_PATH_MAX],
                    event.path2[:_PATH_MAX], event.pid, event.parent_pid, event.uid, event.gid,
                    event.program[:_PATH_MAX], event.applet, event.program_applet,
                    event.cwd[:_PATH_MAX],
                    [argument[:_PATH_MAX] for argument in event.argv[:_ARGV_MAX]],
                    int(event.origin), int(event.walk_end), int(event.actor), int(event.flags),
                    event.action, event.errno, event.repeat,
                )
            ),
        )  # fmt: skip

    def state(self, cgroup_id: int, what: str) -> None:
        """Remember that a container, or its model, changed: one line."""
        ring = self._ring(cgroup_id)
        self._settle(ring)
        self._add(ring, self._pack((int(self._clock() * 1e9), what[:_PATH_MAX])))

    def gone(self, cgroup_id: int) -> None:
        """The container of a cgroup is gone; what is known of it stays for some minutes."""
        now = self._clock()
        if (ring := self._rings.get(cgroup_id)) is not None:
            ring.gone_at = now
        for other, old in list(self._rings.items()):
            if old.gone_at and now - old.gone_at > self._gone_seconds:
                del self._rings[other]

    def take(self, cgroup_id: int) -> list[dict[str, Any]]:
        """What is remembered of a container, oldest first, without secrets. It stays remembered."""
        ring = self._rings.get(cgroup_id)
        if ring is None:
            return []
        self._settle(ring)
        found = [_shown(msgpack.unpackb(e, unicode_errors="surrogateescape")) for e in ring.entries]
        if ring.dropped:
            found.insert(0, {"what": f"{ring.dropped} earlier entries did not fit"})
        return found

    def __len__(self) -> int:
        """Containers remembered."""
        return len(self._rings)

    @property
    def bytes_held(self) -> int:
        """Bytes of all containers, roughly."""
        return sum(ring.size for ring in self._rings.values())

    def _ring(self, cgroup_id: int) -> _Ring:
        ring = self._rings.get(cgroup_id)
        if ring is None:
            if len(self._rings) >= self._container_limit:
                self._rings.popitem(last=False)
            ring = self._rings[cgroup_id] = _Ring()
        else:
            self._rings.move_to_end(cgroup_id)
        return ring

    def _settle(self, ring: _Ring) -> None:
        """Write down how often the last entry repeated itself."""
        if ring.repeats:
            repeats, ring.repeats = ring.repeats, 0
            self._add(ring, self._pack((ring.repeated_ns, f"the same {repeats} times more")))
        ring.same = None

    def _add(self, ring: _Ring, entry: bytes) -> None:
        entries = ring.entries
        entries.append(entry)
        ring.size += len(entry) + _ENTRY_OVERHEAD
        while len(entries) > self._entry_limit or ring.size > self._byte_limit:
            ring.size -= len(entries.popleft()) + _ENTRY_OVERHEAD
            ring.dropped += 1


class _Ring:
    __slots__ = ("dropped", "entries", "gone_at", "repeated_ns", "repeats", "same", "size")

    def __init__(self) -> None:
        self.entries: deque[bytes] = deque()
        self.size = 0
        self.dropped = 0
        self.gone_at = 0.0
        self.same: tuple[object, ...] | None = None
        self.repeats = 0
        self.repeated_ns = 0


def _shown(entry: list[Any]) -> dict[str, Any]:
    if len(entry) == 2:
        return {"time_ns": entry[0], "what": entry[1]}
    (
        time_ns, kind, operation, path, path2, pid, parent_pid, uid, gid, program, applet,
        program_applet, cwd, argv, origin, walk_end, actor, flags, action, errno, repeat,
    ) = entry  # fmt: skip
    names = (EventFlag(flags).name or "").lower().split("|")
    return {
        "time_ns": time_ns,
        "kind": EventKind(kind).name.lower(),
        "operation": Operation(operation).name.lower(),
        "path": path,
        "path2": path2,
        "pid": pid,
        "parent_pid": parent_pid,
        "uid": uid,
        "gid": gid,
        "program": program,
        "applet": applet,
        "program_applet": program_applet,
        "cwd": cwd,
        "argv": list(scrub_argv(argv)),
        "origin": Origin(origin).name.lower(),
        "walk_end": WalkEnd(walk_end).name.lower(),
        "actor": Actor(actor).name.lower(),
        "flags": [name for name in names if name],
        "action": action,
        "errno": errno,
        "repeat": repeat,
    }
