"""The replay kernel: events in by hand or from a file, and dictionaries instead of BPF maps.

Everything after the ring runs on it without root. Rote's own tests do, and yours can::

    kernel = ReplayKernel()
    pipeline = Pipeline(kernel, models, audits, Channels([]))
    pipeline.on_container(ContainerChange("added", 42, container))
    kernel.feed(Event(EventKind.EXEC, time_ns, 42, Operation.EXEC, path="/bin/sh", …))
    pipeline.drain()

It keeps silent about what its tables know, by the rules of ``bpf/match.bpf.c``,
``exec_known()`` and ``change_judge()``, and so shows a key that never came down: the event
comes again. It differs from the real kernel in four ways:

* programs are found by the path the event names, not by a stamp on the process, as if every stamp
  had always been up to date;
* a script and its interpreter are two events here, each judged by itself;
* answers for names do not expire;
* a cgroup that nobody has taken up yet is always reported, created before our eyes or not.
"""

from __future__ import annotations

import errno
import gzip
import itertools
import os
import zlib
from collections import defaultdict, deque
from collections.abc import Iterable
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import msgpack

from sensor.errors import BadInputError
from sensor.events import (
    Actor,
    Detection,
    Event,
    EventFlag,
    EventKind,
    Operation,
    Origin,
    WalkEnd,
)
from sensor.kernel.port import (
    MODEL_ROOT_BASE,
    NODE_ANY,
    NODE_DENIED,
    NODE_PROGRAMS,
    NODE_RUNTIME,
    NOTHING_REFUSED,
    RULE_EXEC,
    RULE_EXEC_ADDED,
    RULE_EXEC_REPORT,
    Attachment,
    ContainerCounters,
    ContainerFlag,
    Edge,
    ExecEntry,
    LabelKind,
    Mode,
    NameEntry,
    NodeFlag,
    Process,
    Seen,
    WriteEntry,
)
from sensor.models.arguments import shapes
from sensor.models.keys import Program, written_paths
from sensor.paths import DEPTH_MAX, canonical, last_labels, split
from sensor.rules.detection import detect

_BELOW_SHIFT = 16  # in write entries: operations for everything below the node
_LABEL_MAX = 255
_FORMAT, _VERSION = "rote-events", 1
_ROOT_FLAGS = NodeFlag.HAS_CLASS | NodeFlag.HAS_ANY | NodeFlag.HAS_LAST
_SILENT_ENDS = (WalkEnd.INTERNAL, WalkEnd.PSEUDO)

Call = tuple[str, dict[str, Any]]


class ReplayKernel:
    """A ``sensor.kernel.port.Kernel`` of dictionaries. The tables are public, to look at.

    Args:
        capacity: events the ring holds; what comes while it is full is lost, and counted.
        guarantee: what it claims to be able to do: "deny", "kill" or "detect".
    """

    def __init__(self, *, capacity: int = 1 << 20, guarantee: str = "detect") -> None:
        self.attachment = Attachment(mode="replay", guarantee=guarantee, guarantee_files=guarantee)
        self.calls: list[Call] = []  # (method, arguments) of each call, in order
        self.fed: list[Event] = []  # everything fed, known or not, lost or not
        self.watched: dict[int, tuple[int, ContainerFlag]] = {}  # cgroup → (model, flags)
        self.modes: dict[int, Mode] = {}
        self.expected: dict[str, tuple[int, ContainerFlag]] = {}
        self.aliases: dict[int, int] = {}
        self.adopted: dict[int, tuple[int, bool]] = {}  # pid → (cgroup, session)
        self.resolved: dict[int, int] = {}  # execution → program
        self.probes: dict[int, tuple[str, ...]] = {}
        self.known_executions: set[ExecEntry] = set()
        self.known_writes: dict[tuple[int, int], int] = {}  # (node, program) → operations
        self.names: set[NameEntry] = set()
        self.seen_executions: set[ExecEntry] = set()
        self.seen_writes: dict[tuple[int, int], int] = {}  # (node, program) → operations
        self._edges: dict[tuple[int, LabelKind, bytes], Edge] = {}
        self._counters: dict[int, ContainerCounters] = defaultdict(ContainerCounters)
        self._ring: deque[Event] = deque()
        self._capacity = capacity
        self._signal = -1

    def feed(self, *events: Event) -> int:
        """Let things happen in the kernel; how many of them are novel and so wait in the ring."""
        return sum(self._take(event) for event in events)

    def _take(self, event: Event) -> bool:
        self.fed.append(event)
        cgroup_id = self.aliases.get(event.cgroup_id, event.cgroup_id)
        if event.kind in (EventKind.CGROUP_CREATED, EventKind.CGROUP_REMOVED):
            return self._put(event, cgroup_id)
        model, flags = self.watched.get(cgroup_id, (0, ContainerFlag(0)))
        if event.kind is EventKind.FILE and event.walk_end in _SILENT_ENDS:
            return False  # pipes and sockets are no objects, backing files were judged above
        event = replace(
            event,
            cgroup_id=cgroup_id,
            model=model,
            program_node=self._acting_program(event),
            flags=event.flags if model else event.flags | EventFlag.PENDING,
        )
        if model and self._is_known(event, model):
            self._counters[cgroup_id].known += 1
            return bool(event.flags & EventFlag.REPORTED) and self._put(event, cgroup_id)
        mode = self.modes.get(cgroup_id, NOTHING_REFUSED)
        event.detection = self._detect(event, model)
        allowed = flags & ContainerFlag.SESSIONS and event.actor is Actor.SESSION
        if model and event.walk_end is not WalkEnd.BY_NAME:
            if mode.prevent & 1 << event.detection and not allowed:
                self._refuse(event)
                self._counters[cgroup_id].refused += 1
            elif mode.ignored & 1 << event.detection:
                self._counters[cgroup_id].known += 1
                return False
        return self._put(event, cgroup_id)

    def _refuse(self, event: Event) -> None:
        if self.attachment.guarantee == "deny":
            event.action, event.errno = "denied", errno.EPERM
            if event.kind is EventKind.EXEC:
                event.flags |= EventFlag.BEFORE
        elif self.attachment.guarantee == "kill":
            event.action = "killed"
            event.flags |= EventFlag.KILLED

    def _put(self, event: Event, cgroup_id: int) -> bool:
        if len(self._ring) >= self._capacity:
            self.lose(cgroup_id)
            return False
        self._ring.append(event)
        self._counters[cgroup_id].events += 1
        if self._signal >= 0:
            os.eventfd_write(self._signal, 1)
        return True

    def lose(self, cgroup_id: int, number: int = 1) -> None:
        """Count events of a container as lost, as when the ring is full."""
        self._counters[cgroup_id].lost += number

    def record(self, path: Path) -> None:
        """Write everything fed so far to a file."""
        save_events(path, self.fed)

    def replay(self, path: Path) -> int:
        """Feed the events of a file; how many were novel.

        Raises:
            BadInputError: it is no file of recorded events.
        """
        return self.feed(*load_events(path))

    def called(self, name: str) -> list[dict[str, Any]]:
        """The arguments of each call of one method, in order."""
        return [arguments for method, arguments in self.calls if method == name]

    def _is_known(self, event: Event, model: int) -> bool:
        if event.operation is Operation.SCRIPT:
            return self._name_is_known(event, model, second=True)
        if event.kind is EventKind.EXEC:
            return self._execution_is_known(event, model)
        return self._change_is_known(event, model)

    def _execution_is_known(self, event: Event, model: int) -> bool:
        if event.walk_end is not WalkEnd.ROOT:
            return False
        program = self.program_node(Program(event.path, event.applet))
        entry = ExecEntry(model, event.program_node, program, int(event.origin), int(event.actor))
        wanted = [entry]
        if entry.actor != Actor.SERVICE and event.program:
            # Sessions and probes may do what the service does; coming in is not that.
            wanted.append(replace(entry, actor=int(Actor.SERVICE)))
        for key in wanted if program else ():
            known = self._put_as(key)
            if known is not None and known.by_shape:
                known = self._called_as(known, event)
            if known is None or (known.startup and not event.flags & EventFlag.STARTUP):
                continue
            self.seen_executions.add(known)
            if known.reported:
                event.flags |= EventFlag.REPORTED
            return True
        marks = self._program_marks(event, model, NODE_ANY)
        if self._is_denied(event, model) or (
            event.actor is not Actor.SERVICE and not event.program
        ):
            return False
        if event.origin is Origin.MEMORY or (
            event.origin in (Origin.ADDED, Origin.TMPFS) and not marks & RULE_EXEC_ADDED
        ):
            return False
        if marks & RULE_EXEC_REPORT:
            event.flags |= EventFlag.REPORTED
        return bool(marks & (RULE_EXEC | RULE_EXEC_REPORT))

    def _put_as(self, key: ExecEntry) -> ExecEntry | None:
        """The entry that lies under a key, as it was put last."""
        for reported, startup, by_shape in itertools.product((False, True), repeat=3):
            known = replace(key, reported=reported, startup=startup, by_shape=by_shape)
            if known in self.known_executions:
                return known
        return None

    def _called_as(self, interpreter: ExecEntry, event: Event) -> ExecEntry | None:
        """The entry of the way in which an interpreter is called: the kernel's ``shape_node``."""
        for label in shapes(Program(event.path, event.applet), event.argv):
            edge = self._edges.get((interpreter.program, LabelKind.SHAPE, os.fsencode(label)))
            if edge is not None:
                return self._put_as(replace(interpreter, program=edge.node, by_shape=False))
        return None

    def _is_denied(self, event: Event, model: int) -> bool:
        return bool(self._program_marks(event, model, NODE_DENIED | NODE_ANY) & RULE_EXEC)

    def _program_marks(self, event: Event, model: int, program: int) -> int:
        """What a rule says of an executed program: by its path, its name, its applet."""
        if not self.watched[event.cgroup_id][1] & ContainerFlag.RULES:
            return 0
        marks = self._operations(model, program, event.path)
        for name in {event.path.rpartition("/")[2], event.applet} - {""}:
            edge = self._edges.get((MODEL_ROOT_BASE + model, LabelKind.NAME, os.fsencode(name)))
            if edge is not None:
                marks |= self.known_writes.get((edge.node, program), 0)
        return marks

    def _detect(self, event: Event, model: int) -> Detection:
        """The kernel's choice of ``exec_detect()`` and ``object_detect()``."""
        if event.kind is EventKind.EXEC:
            program = self.program_node(Program(event.path, event.applet))
            elsewhere = ExecEntry(model, NODE_ANY, program, 0, 0) in self.known_executions
            denied = bool(model) and self._is_denied(event, model)
            known = self._put_as(
                ExecEntry(model, event.program_node, program, int(event.origin), int(event.actor))
            )
            if known is not None and known.by_shape:
                known = self._called_as(known, event)
                otherwise = Detection.UNKNOWN_ARGUMENTS
            else:
                otherwise = Detection.NONE
            if known is not None:
                otherwise = Detection.STARTUP_PROGRAM
            return detect(event, known_program=elsewhere, denied=denied, known_otherwise=otherwise)
        denied = any(
            self._operations(model, NODE_DENIED | program, path) & operation
            for path, operation in written_paths(event)
            for program in (event.program_node, NODE_ANY)
        )
        return detect(event, known_program=False, denied=denied)

    def _change_is_known(self, event: Event, model: int) -> bool:
        if event.walk_end is WalkEnd.BY_NAME:
            second = event.walk_end2 is WalkEnd.BY_NAME
            return self._name_is_known(event, model, second=False) and (
                not second or self._name_is_known(event, model, second=True)
            )
        if event.walk_end is not WalkEnd.ROOT:
            return False
        if event.path2 and event.walk_end2 is not WalkEnd.ROOT:
            return False
        programs = [event.program_node]
        if self.watched[event.cgroup_id][1] & ContainerFlag.RULES:
            programs.append(NODE_ANY)
        known = all(
            any(self._operations(model, program, path) & operation for program in programs)
            for path, operation in written_paths(event)
        )
        if known:
            self._mark_change(event, model)
        return known

    def _mark_change(self, event: Event, model: int) -> None:
        for path, operation in written_paths(event):
            for node, below in self._reach(model, path):
                place = node, event.program_node
                mask = self.known_writes.get(place, 0)
                if operation & (mask >> _BELOW_SHIFT if below else mask):
                    seen = operation << _BELOW_SHIFT if below else operation
                    self.seen_writes[place] = self.seen_writes.get(place, 0) | seen

    def _name_is_known(self, event: Event, model: int, *, second: bool) -> bool:
        name, base = (event.name2, event.base2) if second else (event.name, event.base)
        entry = NameEntry(
            model,
            event.program_node,
            int(event.operation),
            base[0],
            base[1],
            os.fsencode(name),
            second,
        )
        return entry in self.names

    def _operations(self, model: int, program: int, path: str) -> int:
        """What a program may do to a path: the kernel's ``match_path`` and its write table."""
        operations = 0
        for node, below in self._reach(model, path):
            mask = self.known_writes.get((node, program), 0)
            operations |= mask >> _BELOW_SHIFT if below else mask & ((1 << _BELOW_SHIFT) - 1)
        return operations

    def _reach(self, model: int, path: str) -> list[tuple[int, bool]]:
        """The last nodes on a path's way through a model's trie; whether it goes on below them."""
        parts = split(path)
        if len(parts) > DEPTH_MAX:
            return []
        node, flags = MODEL_ROOT_BASE + model, _ROOT_FLAGS
        beside: list[tuple[int, bool]] = []
        for i, part in enumerate(parts):
            if i == len(parts) - 1 and flags & NodeFlag.HAS_LAST:
                for label in last_labels(part):
                    last = self._edges.get((node, LabelKind(int(label.match)), label.name))
                    beside += [(last.node, False)] if last is not None else []
            edge = self._step(node, flags, part)
            if edge is None:
                return [(node, True), *beside]
            node, flags = edge.node, edge.flags
        return [(node, False), *beside] if parts else [(node, False)]

    def _step(self, node: int, flags: NodeFlag, part: bytes) -> Edge | None:
        edge = self._edges.get((node, LabelKind.EXACT, part))
        if edge is None and flags & NodeFlag.HAS_CLASS and (form := canonical(part)) is not None:
            edge = self._edges.get((node, LabelKind.CLASS, form))
        if edge is None and flags & NodeFlag.HAS_ANY:
            edge = self._edges.get((node, LabelKind.ANY, b""))
        return edge

    def _acting_program(self, event: Event) -> int:
        applet = event.program_applet if event.kind is EventKind.EXEC else event.applet
        return self.program_node(Program(event.program, applet))

    def program_node(self, program: Program) -> int:
        """The number of a program, or 0 while the tables do not hold it."""
        if not program.path:
            return NODE_RUNTIME
        node, flags = NODE_PROGRAMS, NodeFlag(0)
        for part in split(program.path):
            edge = self._edges.get((node, LabelKind.EXACT, part))
            if edge is None:
                return 0
            node, flags = edge.node, edge.flags
        if not flags & NodeFlag.MULTICALL:
            return node
        label = os.fsencode(program.applet)[:_LABEL_MAX]
        applet = self._edges.get((node, LabelKind.APPLET, label))
        return 0 if applet is None or applet.node == node else applet.node

    def fileno(self) -> int:
        """See ``Kernel.fileno``: an eventfd(2), made when first asked for."""
        if self._signal < 0:
            self._signal = os.eventfd(len(self._ring), os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        return self._signal

    def read_events(self, limit: int = 4096) -> list[Event]:
        """See ``Kernel.read_events``."""
        events = [self._ring.popleft() for _ in range(min(limit, len(self._ring)))]
        if events and not self._ring and self._signal >= 0:
            os.eventfd_read(self._signal)
        return events

    def watch(
        self,
        cgroup_id: int,
        *,
        model: int,
        flags: ContainerFlag,
        init_pid: int = 0,
        mode: Mode = NOTHING_REFUSED,
    ) -> None:
        """See ``Kernel.watch``."""
        self._note(
            "watch", cgroup_id=cgroup_id, model=model, flags=flags, init_pid=init_pid, mode=mode
        )
        self.watched[cgroup_id] = model, flags
        self.modes[cgroup_id] = mode

    def alias(self, cgroup_id: int, container_cgroup_id: int) -> None:
        """See ``Kernel.alias``."""
        self._note("alias", cgroup_id=cgroup_id, container_cgroup_id=container_cgroup_id)
        self.aliases[cgroup_id] = container_cgroup_id

    def unwatch(self, cgroup_id: int) -> None:
        """See ``Kernel.unwatch``."""
        self._note("unwatch", cgroup_id=cgroup_id)
        self.watched.pop(cgroup_id, None)
        self.probes.pop(cgroup_id, None)
        self._counters.pop(cgroup_id, None)
        self.aliases = {c: own for c, own in self.aliases.items() if own != cgroup_id}
        self.adopted = {p: told for p, told in self.adopted.items() if told[0] != cgroup_id}

    def adopt(self, pid: int, cgroup_id: int, *, session: bool) -> None:
        """See ``Kernel.adopt``."""
        self._note("adopt", pid=pid, cgroup_id=cgroup_id, session=session)
        self.adopted.setdefault(pid, (cgroup_id, session))

    def allow_probe(self, cgroup_id: int, argv: tuple[str, ...]) -> None:
        """See ``Kernel.allow_probe``."""
        self._note("allow_probe", cgroup_id=cgroup_id, argv=argv)
        self.probes[cgroup_id] = argv

    def put_edges(self, edges: Iterable[Edge]) -> None:
        """See ``Kernel.put_edges``."""
        for edge in edges:
            self._note("put_edges", edge=edge)
            self._edges[edge.parent, edge.kind, edge.label] = edge

    def drop_edges(self, edges: Iterable[Edge]) -> None:
        """See ``Kernel.drop_edges``."""
        for edge in edges:
            self._note("drop_edges", edge=edge)
            self._edges.pop((edge.parent, edge.kind, edge.label), None)

    def edges(self) -> list[Edge]:
        """See ``Kernel.edges``; parents before children."""
        below: dict[int, list[Edge]] = defaultdict(list)
        for edge in self._edges.values():
            below[edge.parent].append(edge)
        children = {edge.node for edge in self._edges.values() if edge.node != edge.parent}
        ordered: list[Edge] = []
        waiting = [parent for parent in below if parent not in children]
        while waiting:
            for edge in below.pop(waiting.pop(), ()):
                ordered.append(edge)
                waiting.append(edge.node)
        return ordered

    def put_exec(self, entries: Iterable[ExecEntry]) -> None:
        """See ``Kernel.put_exec``."""
        for entry in entries:
            self._note("put_exec", entry=entry)
            self.known_executions.add(entry)

    def drop_exec(self, entries: Iterable[ExecEntry]) -> None:
        """See ``Kernel.drop_exec``."""
        for entry in entries:
            self._note("drop_exec", entry=entry)
            self.known_executions.discard(entry)

    def put_write(self, entries: Iterable[WriteEntry]) -> None:
        """See ``Kernel.put_write``."""
        for entry in entries:
            self._note("put_write", entry=entry)
            if entry.operations:
                self.known_writes[entry.node, entry.program] = entry.operations
            else:
                self.known_writes.pop((entry.node, entry.program), None)

    def executions(self) -> list[ExecEntry]:
        """See ``Kernel.executions``."""
        return list(self.known_executions)

    def writes(self) -> list[WriteEntry]:
        """See ``Kernel.writes``."""
        return [WriteEntry(node, program, o) for (node, program), o in self.known_writes.items()]

    def take_seen(self, executions: Iterable[ExecEntry], writes: Iterable[WriteEntry]) -> Seen:
        """See ``Kernel.take_seen``."""
        met = [entry for entry in executions if entry in self.seen_executions]
        changed = []
        for write in writes:
            seen = self.seen_writes.pop((write.node, write.program), 0)
            changed += [replace(write, operations=seen)] if seen else []
        self.seen_executions.difference_update(met)
        return Seen(tuple(met), tuple(changed))

    def models_in_use(self) -> set[int]:
        """See ``Kernel.models_in_use``."""
        return {model for model, _ in (*self.watched.values(), *self.expected.values()) if model}

    def processes(self) -> list[Process]:
        """See ``Kernel.processes``: those that were adopted."""
        return [
            Process(pid, cgroup_id, 1 << 63 | pid, self.resolved.get(1 << 63 | pid, 0))
            for pid, (cgroup_id, _) in self.adopted.items()
        ]

    def kill(self, pid: int, exec_id: int) -> bool:
        """See ``Kernel.kill``: noted, and that is all."""
        self._note("kill", pid=pid, exec_id=exec_id)
        return True

    def set_write_probe(self, *, on: bool) -> None:
        """See ``Kernel.set_write_probe``."""
        self._note("set_write_probe", on=on)

    def expect(
        self, container_id: str, *, model: int, flags: ContainerFlag, mode: Mode = NOTHING_REFUSED
    ) -> None:
        """See ``Kernel.expect``."""
        self._note("expect", container_id=container_id, model=model, flags=flags, mode=mode)
        self.expected[container_id] = model, flags

    def resolve(self, exec_id: int, program: int) -> None:
        """See ``Kernel.resolve``."""
        self._note("resolve", exec_id=exec_id, program=program)
        self.resolved[exec_id] = program

    def expect_no_more(self, container_id: str) -> None:
        """See ``Kernel.expect_no_more``."""
        self._note("expect_no_more", container_id=container_id)
        self.expected.pop(container_id, None)

    def put_names(self, entries: Iterable[NameEntry]) -> None:
        """See ``Kernel.put_names``."""
        for entry in entries:
            self._note("put_names", entry=entry)
            if len(entry.name) < _LABEL_MAX:
                self.names.add(entry)

    def clear_knowledge(self) -> None:
        """See ``Kernel.clear_knowledge``."""
        self._note("clear_knowledge")
        self._edges.clear()
        self.known_executions.clear()
        self.known_writes.clear()
        self.names.clear()

    def counters(self) -> dict[int, ContainerCounters]:
        """See ``Kernel.counters``."""
        return {cgroup_id: replace(counters) for cgroup_id, counters in self._counters.items()}

    def retire(self) -> bool:
        """See ``Kernel.retire``."""
        return False

    def close(self) -> None:
        """See ``Kernel.close``."""
        if self._signal >= 0:
            os.close(self._signal)
            self._signal = -1

    def _note(self, method: str, **arguments: object) -> None:
        self.calls.append((method, arguments))


_TYPES: dict[str, type[Any]] = {
    "kind": EventKind, "operation": Operation, "actor": Actor, "origin": Origin,
    "walk_end": WalkEnd, "walk_end2": WalkEnd, "detection": Detection,
    "flags": EventFlag, "argv": tuple, "base": tuple, "base2": tuple,
}  # fmt: skip
_FIELDS = {entry.name: entry for entry in fields(Event)}
_NEEDED = ("kind", "time_ns", "cgroup_id", "operation")


def save_events(path: Path, events: Iterable[Event]) -> None:
    """Write events to a file that ``load_events`` reads. Fields at their default are left out.

    A name that ends in ``.gz`` makes it a compressed file, the same bytes for the same events.
    """
    rows = [
        {
            name: getattr(event, name)
            for name, entry in _FIELDS.items()
            if name in _NEEDED or getattr(event, name) != entry.default
        }
        for event in events
    ]
    message = {"format": _FORMAT, "version": _VERSION, "events": rows}
    data = msgpack.packb(message, unicode_errors="surrogateescape", default=int, strict_types=False)
    path.write_bytes(gzip.compress(data, mtime=0) if path.suffix == ".gz" else data)


def load_events(path: Path) -> list[Event]:
    """Read a file of recorded events.

    Raises:
        BadInputError: it cannot be read, or is no such file; names the file and the event.
    """
    try:
        data = path.read_bytes()
        if path.suffix == ".gz":
            data = gzip.decompress(data)
        message = msgpack.unpackb(data, unicode_errors="surrogateescape")
    except (OSError, EOFError, zlib.error) as error:
        reason = getattr(error, "strerror", None) or error
        raise BadInputError(f"{path}: {reason}; expected recorded events") from error
    except (ValueError, msgpack.UnpackException) as error:
        raise BadInputError(
            f"{path}: is not msgpack; expected a file that sensor.testing.save_events wrote"
        ) from error
    if not isinstance(message, dict) or message.get("format") != _FORMAT:
        raise BadInputError(f"{path}: expected the format {_FORMAT!r} at its beginning")
    if message.get("version") != _VERSION:
        raise BadInputError(f"{path}: version {message.get('version')!r}; expected {_VERSION}")
    rows = message.get("events")
    if not isinstance(rows, list):
        raise BadInputError(f"{path}: 'events': expected a list")
    return [_event(row, f"{path}: event {number}") for number, row in enumerate(rows)]


def _event(row: object, where: str) -> Event:
    if not isinstance(row, dict):
        raise BadInputError(f"{where}: expected a map")
    for name in _NEEDED:
        if name not in row:
            raise BadInputError(f"{where}: {name!r} is missing")
    values: dict[str, Any] = {}
    for name, value in row.items():
        if name not in _FIELDS:
            raise BadInputError(f"{where}: {name!r}: not a field of an event")
        kind = _TYPES.get(name)
        wanted = int if name in _NEEDED else type(_FIELDS[name].default)
        if kind is None and not isinstance(value, wanted):
            raise BadInputError(f"{where}: {name!r}: {value!r}; expected {wanted.__name__}")
        try:
            values[name] = value if kind is None else kind(value)
        except (TypeError, ValueError) as error:
            raise BadInputError(f"{where}: {name!r}: {error}") from error
    return Event(**values)
