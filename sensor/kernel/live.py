"""The real kernel: pinned maps, and the process that puts them there."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections import OrderedDict
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

import orjson

from sensor.errors import KernelSupportError
from sensor.events import Actor, Event, EventFlag, EventKind, Operation, WalkEnd
from sensor.kernel import bpf
from sensor.kernel.build import remove_pins
from sensor.kernel.decode import Decoder, Record, applet_of
from sensor.kernel.headers import btf_bytes
from sensor.kernel.layout import check_mirrors, header
from sensor.kernel.port import (
    ERROR_CAUSES,
    NODE_PROGRAMS,
    NODE_RUNTIME,
    NOTHING_REFUSED,
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
from sensor.kernel.ring import Ring
from sensor.kernel.unit import LOCK, fingerprint, unit_text

_BUILD_SECONDS = 900  # an emulated machine needs minutes
_NAME_HOLDS_NS = 60 * 10**9
_REMEMBERED_PROGRAMS = 16384
_GUARANTEE = {"lsm": "deny", "fmod-ret": "deny", "tracepoint": "kill"}
_ADOPTED = 1 << 63  # EXEC_ID_ADOPTED in bpf/maps.h
_EXEC_KNOWN, _EXEC_BY_APPLET, _EXEC_REPORTED, _EXEC_BY_SHAPE = 1, 2, 3, 4  # rote_exec_value
_EXEC_STARTUP = 1  # enum rote_exec_flag
_KEEPER = (2).to_bytes(4, "little")  # KEEPER in bpf/lock.bpf.c
_WRITE_HOOK = "file_permission"
_ID_DIGITS = 64
_SHORT_NAME_MAX = 22  # SHORT_NAME_MAX in bpf/match.bpf.c
_SKIPPED_SINCE = (6, 19)  # see stamp_heal() in bpf/identity.bpf.c
_TYPED_SINCE = (5, 11)  # bpf_get_current_task_btf()


class KernelSettings(Protocol):
    """What LiveKernel reads of ``sensor.config.Settings``."""

    @property
    def attach(self) -> str:
        """See ``Settings.attach``."""

    @property
    def write_probe(self) -> str:
        """See ``Settings.write_probe``."""

    @property
    def ring_size(self) -> int:
        """See ``Settings.ring_size``."""

    @property
    def bpf_dir(self) -> Path:
        """See ``Settings.bpf_dir``."""

    @property
    def run_dir(self) -> Path:
        """See ``Settings.run_dir``."""

    @property
    def discover(self) -> bool:
        """See ``Settings.discover``."""

    @property
    def startup_pause(self) -> float:
        """See ``Settings.startup_pause``."""

    @property
    def lock(self) -> bool:
        """See ``Settings.lock``."""


@dataclass(frozen=True, slots=True)
class CgroupLayout:
    """Which cgroup hierarchy tells containers apart on this host.

    ``subsystem`` is the index of the controller in the kernel's css_set, -1 for version 2;
    ``hierarchy`` the number that /proc/self/cgroup shows.
    """

    subsystem: int
    hierarchy: int


class LiveKernel:
    """Implements ``sensor.kernel.port.Kernel`` with pinned objects."""

    def __init__(
        self, pins: Path, attachment: Attachment, ring_size: int, older: tuple[Path, ...] = ()
    ) -> None:
        self.attachment = attachment
        self._older = older
        self._pins = pins
        self._layouts = header().structs
        self._maps = {
            name: bpf.Map(bpf.get(pins / "maps" / name), key, value)
            for name, (key, value) in self._sizes().items()
        }
        self._ring = Ring(bpf.get(pins / "maps" / "events"), ring_size)
        self._decoder = Decoder()
        self._records: list[Record] = []
        # node number → (parent node, label): programs by number, to name callers in events
        self._program_edges: dict[int, tuple[int, LabelKind, bytes]] = {}
        # execution → program path and applet, for programs without a number
        self._programs: OrderedDict[int, tuple[str, str]] = OrderedDict()
        self._next_sync = 0.0

    def _sizes(self) -> dict[str, tuple[int, int]]:
        size = {name: layout.size for name, layout in self._layouts.items()}
        return {
            "containers": (8, size["container"]),
            "tasks": (4, size["task_stamp"]),
            "resolved": (8, 4),
            "counts": (8, size["counters"]),
            "edges": (size["edge_key"], size["edge"]),
            "short_edges": (size["short_edge_key"], size["edge"]),
            "exec_keys": (size["exec_key"], size["exec_known"]),
            "write_keys": (size["write_key"], size["write_value"]),
            "names": (size["name_key"], 8),
            "probes": (size["probe_key"], 4),
            "settings": (4, 8),
            "expected": (_ID_DIGITS, size["expected"]),
        }

    @classmethod
    def open(cls, settings: KernelSettings, *, cache: Path | None = None) -> LiveKernel:
        """Bring the kernel side up, or take over what an earlier daemon pinned.

        Raises:
            KernelSupportError: what this kernel lacks, with the remedy.
        """
        started = time.monotonic()
        check_mirrors()
        layout = cgroup_layout()
        _require_bpffs(settings.bpf_dir)
        name = fingerprint(
            unit_text(),
            *([unit_text(main=LOCK)] if settings.lock else []),
            btf_bytes(),
            settings.attach,
            str(settings.ring_size),
            str(settings.discover),
            repr(layout),
        )
        pins = settings.bpf_dir / name
        described = settings.run_dir / f"kernel-{name}.json"
        answer = _reusable(pins, described)
        reused = answer is not None
        if answer is None:
            if pins.exists():
                remove_pins(pins)
            try:
                answer = _build(settings, layout, pins, cache or settings.run_dir / "cache")
            except KernelSupportError:
                remove_pins(pins)  # what the builder could not remove under another's lock
                raise
            described.write_bytes(orjson.dumps(answer))
        # What another version left goes on refusing until its successor knows all containers.
        older = tuple(sorted(path for path in settings.bpf_dir.iterdir() if path != pins))
        attachment = Attachment(
            mode=answer["attach"],
            hooks=tuple(answer["hooks"]),
            missing=tuple((hook, reason) for hook, reason in answer["missing"]),
            guarantee=_GUARANTEE[answer["attach"]],
            guarantee_files=_GUARANTEE[answer["attach"]],
            reused=reused,
            load_seconds=round(time.monotonic() - started, 3),
            notes=tuple(answer["notes"]),
        )
        try:
            kernel = cls(pins, attachment, settings.ring_size, older)
        except PermissionError as error:
            raise KernelSupportError(
                f"{pins}: {error.strerror}; the kernel side is locked: expected to be started as "
                "the `rote` that locked it, or after `rote unload` by that one"
            ) from error
        if settings.lock:
            kernel.note_daemon()
        if settings.lock and not reused:
            try:
                kernel.check_lock(lock_script())
            except KernelSupportError:
                kernel.close()
                remove_pins(pins)
                raise
        if settings.write_probe == "always":
            kernel.set_write_probe(on=True)
        kernel.set_startup_pause(settings.startup_pause)
        if not reused:
            for directory in older:
                kernel._inherit(directory)
        return kernel

    def _inherit(self, older: Path) -> None:
        """Take over which process belongs to which container, from an earlier version's maps.

        Not by which model it is judged: that one is not loaded here yet, and until it is the
        earlier version goes on refusing.
        """
        changes = {
            "containers": ("container", {"model": 0, "flags": 0, "prevent": 0, "ignored": 0}),
            "tasks": ("task_stamp", {"program": 0}),
        }
        for name, (struct_name, change) in changes.items():
            mine, layout = self._maps[name], self._layouts[struct_name]
            try:
                theirs = bpf.Map(bpf.get(older / "maps" / name), mine.key_size, mine.value_size)
            except OSError:
                continue
            with contextlib.closing(theirs):
                if not theirs.fits():
                    continue  # another layout: its processes are adopted one by one
                for key, value in theirs.items():
                    fields: dict[str, Any] = {**layout.unpack(value), **change}
                    if name == "containers" and fields["container"] != int.from_bytes(
                        key, "little"
                    ):
                        fields["flags"] = int(ContainerFlag.ALIAS)
                    mine.update(key, layout.pack(**fields))

    @staticmethod
    def unload(bpf_dir: Path) -> list[str]:
        """Remove every pin of Rote's; the programs go with them. What was removed."""
        removed: list[str] = []
        if bpf_dir.is_dir():
            for pins in sorted(bpf_dir.iterdir()):
                removed.extend(f"{pins.name}/{item}" for item in remove_pins(pins))
            bpf_dir.rmdir()
        return removed

    def note_daemon(self) -> None:
        """Tell the lock which process is the daemon."""
        key = header().enums["lock_key"]["LOCK_DAEMON_PID"].to_bytes(4, "little")
        with contextlib.closing(
            bpf.Map(bpf.get(self._pins / "maps/lock_settings"), 4, 8)
        ) as settings:
            settings.update(key, os.getpid().to_bytes(8, "little"))

    def check_lock(self, script: Path) -> None:
        """See whether an execution of the script is recognised; else nobody could unlock.

        Raises:
            KernelSupportError: it is not.
        """
        keepers = bpf.Map(bpf.get(self._pins / "maps/lock_keepers"), 4, 4)
        with contextlib.closing(keepers):
            process = subprocess.Popen(
                [script, "--version"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
            )
            key = process.pid.to_bytes(4, "little")
            try:
                while process.poll() is None:
                    if keepers.lookup(key) == _KEEPER:
                        return
            finally:
                process.wait(60)
        raise KernelSupportError(
            f"--lock: {script}: its execution is not recognised by its inode; expected a file "
            "system that shows the inode numbers that the kernel has"
        )

    def fileno(self) -> int:
        """The ring's descriptor."""
        return self._ring.fd

    def read_events(self, limit: int = 4096) -> list[Event]:
        """Events that wait, oldest first."""
        now = time.monotonic()
        if now >= self._next_sync:
            self._decoder.synchronise()
            self._next_sync = now + 10
        records: list[Record] = []
        decode = self._decoder.decode
        self._ring.read(lambda data: records.append(decode(data)), limit)
        events: list[Event] = []
        for record in records:
            events.extend(self._complete(record))
        return events

    def _complete(self, record: Record) -> Iterable[Event]:
        """Add what follows from node numbers and earlier records; split a script's exec."""
        event = record.event
        event.program_node = record.program_node
        if event.kind is EventKind.FILE:
            if record.program_node:
                event.program, event.applet = self._program(record.program_node)
            else:
                event.applet = applet_of(event.program, event.argv)
            return (event,)
        if event.kind is not EventKind.EXEC:
            return (event,)
        event.program, event.program_applet = self._caller(record)
        if event.operation is Operation.MAP_EXEC:
            return (event,)  # the process goes on to run what it ran
        if event.flags & EventFlag.BEFORE:
            if event.operation is Operation.EXEC:
                event.applet = applet_of(event.path, event.argv)
            return (event,)  # as long as it is not complete it runs what it ran
        event.applet = applet_of(event.path, event.argv)
        self._remember(event.exec_id, event.path, event.applet)
        if event.operation is not Operation.SCRIPT:
            return (event,)
        return _split_script(event)

    def _caller(self, record: Record) -> tuple[str, str]:
        if record.program_node == NODE_RUNTIME:
            return "", ""
        if record.program_node:
            return self._program(record.program_node)
        return self._programs.get(record.event.caller_exec_id) or (record.caller_path, "")

    def _remember(self, exec_id: int, path: str, applet: str) -> None:
        self._programs[exec_id] = path, applet
        if len(self._programs) > _REMEMBERED_PROGRAMS:
            self._programs.popitem(last=False)

    def _program(self, node: int) -> tuple[str, str]:
        parts: list[bytes] = []
        applet = ""
        while node != NODE_PROGRAMS:
            edge = self._program_edges.get(node)
            if edge is None:
                return "", ""
            node, kind, label = edge
            if kind is LabelKind.APPLET:
                applet = os.fsdecode(label)
            else:
                parts.append(label)
        return os.fsdecode(b"/" + b"/".join(reversed(parts))), applet

    def watch(
        self,
        cgroup_id: int,
        *,
        model: int,
        flags: ContainerFlag,
        init_pid: int = 0,
        mode: Mode = NOTHING_REFUSED,
    ) -> None:
        """See ``Kernel.watch``. What the kernel noted about the root stays."""
        layout = self._layouts["container"]
        key = cgroup_id.to_bytes(8, "little")
        counts = self._maps["counts"]
        if counts.lookup(key) is None:
            counts.update(key, bytes(counts.value_size))
        old = self._maps["containers"].lookup(key)
        values: dict[str, Any] = layout.unpack(old) if old else {}
        values.update(container=cgroup_id, model=model, flags=int(flags))
        values.update(prevent=mode.prevent, ignored=mode.ignored)
        if init_pid and not values.get("init_pid"):
            # It ran before us: whatever its start-up was, it is over.
            values.update(init_pid=init_pid, startup_until=1)
        self._maps["containers"].update(key, layout.pack(**values))

    def alias(self, cgroup_id: int, container_cgroup_id: int) -> None:
        """See ``Kernel.alias``."""
        above = self._maps["containers"].lookup(container_cgroup_id.to_bytes(8, "little"))
        layout = self._layouts["container"]
        flags = int(layout.unpack(above)["flags"]) if above else 0  # type: ignore[call-overload]
        value = layout.pack(container=container_cgroup_id, flags=flags | ContainerFlag.ALIAS)
        self._maps["containers"].update(cgroup_id.to_bytes(8, "little"), value)

    def unwatch(self, cgroup_id: int) -> None:
        """See ``Kernel.unwatch``."""
        layout = self._layouts["container"]
        for key, value in self._maps["containers"].items():
            if layout.unpack(value)["container"] == cgroup_id:
                self._maps["containers"].delete(key)
        stamp = self._layouts["task_stamp"]
        for key, value in self._maps["tasks"].items():
            if stamp.unpack(value)["container"] == cgroup_id:
                self._maps["tasks"].delete(key)
        for key in list(self._maps["probes"].keys()):
            if int.from_bytes(key[:8], "little") == cgroup_id:
                self._maps["probes"].delete(key)
        self._maps["counts"].delete(cgroup_id.to_bytes(8, "little"))

    def adopt(self, pid: int, cgroup_id: int, *, session: bool) -> None:
        """See ``Kernel.adopt``. A process that has its stamp already keeps it."""
        key = pid.to_bytes(4, "little")
        if self._maps["tasks"].lookup(key) is None:
            actor = 2 if session else 1
            # Its execution was before our time; the high bit keeps this apart from real ones.
            value = self._layouts["task_stamp"].pack(
                container=cgroup_id, exec_id=_ADOPTED | pid, actor=actor
            )
            self._maps["tasks"].update(key, value)

    def resolve(self, exec_id: int, program: int) -> None:
        """See ``Kernel.resolve``."""
        self._maps["resolved"].update(exec_id.to_bytes(8, "little"), program.to_bytes(4, "little"))

    def allow_probe(self, cgroup_id: int, argv: tuple[str, ...]) -> None:
        """See ``Kernel.allow_probe``. An argv of 255 bytes or more is not recognised."""
        text = b"".join(os.fsencode(part) + b"\0" for part in argv)
        if text and len(text) < 256:
            key = self._layouts["probe_key"].pack(container=cgroup_id, argv=text)
            self._maps["probes"].update(key, (1).to_bytes(4, "little"))

    def _edge_place(self, edge: Edge) -> tuple[bpf.Map, bytes]:
        """The map that an edge belongs to, and its key there."""
        name = "short_edges" if len(edge.label) <= _SHORT_NAME_MAX else "edges"
        layout = self._layouts["short_edge_key" if name == "short_edges" else "edge_key"]
        key = layout.pack(parent=edge.parent, kind=int(edge.kind), name=edge.label)
        return self._maps[name], key

    def _trie_changed(self) -> None:
        """Let the kernel forget which directories stand where in the trie."""
        key = header().enums["config_key"]["CONFIG_GENERATION"].to_bytes(4, "little")
        old = int.from_bytes(self._maps["settings"].lookup(key) or b"", "little")
        self._maps["settings"].update(key, ((old + 1) & 0xFFFFFFFF).to_bytes(8, "little"))

    def put_edges(self, edges: Iterable[Edge]) -> None:
        """See ``Kernel.put_edges``."""
        pack = self._layouts["edge"].pack
        for edge in edges:
            self._note_program(edge)
            place, key = self._edge_place(edge)
            place.update(key, pack(node=edge.node, flags=int(edge.flags)))
        self._trie_changed()

    def _note_program(self, edge: Edge) -> None:
        is_program = edge.parent == NODE_PROGRAMS or edge.parent in self._program_edges
        # A multi-call program's own name leads back to itself; see bpf/exec.bpf.c.
        if is_program and edge.node != edge.parent:
            self._program_edges[edge.node] = edge.parent, edge.kind, edge.label

    def drop_edges(self, edges: Iterable[Edge]) -> None:
        """See ``Kernel.drop_edges``."""
        for edge in edges:
            self._program_edges.pop(edge.node, None)
            place, key = self._edge_place(edge)
            place.delete(key)
        self._trie_changed()

    def edges(self) -> list[Edge]:
        """See ``Kernel.edges``; parents before children."""
        long, short = self._layouts["edge_key"], self._layouts["short_edge_key"]
        found: dict[int, list[Edge]] = {}
        for layout, key, value in (
            *((long, *item) for item in self._maps["edges"].items()),
            *((short, *item) for item in self._maps["short_edges"].items()),
        ):
            k: dict[str, Any] = layout.unpack(key)
            v: dict[str, Any] = self._layouts["edge"].unpack(value)
            edge = Edge(
                k["parent"],
                LabelKind(k["kind"]),
                k["name"].rstrip(b"\0"),
                v["node"],
                NodeFlag(v["flags"]),
            )
            found.setdefault(edge.parent, []).append(edge)
        children = {edge.node for edges in found.values() for edge in edges}
        ordered: list[Edge] = []
        waiting = [parent for parent in found if parent not in children]
        while waiting:
            for edge in found.pop(waiting.pop(), ()):
                ordered.append(edge)
                waiting.append(edge.node)
        for edge in ordered:
            self._note_program(edge)
        return ordered

    def put_exec(self, entries: Iterable[ExecEntry]) -> None:
        """See ``Kernel.put_exec``."""
        for entry in entries:
            value = _EXEC_KNOWN
            if entry.by_applet:
                value = _EXEC_BY_APPLET
            elif entry.by_shape:
                value = _EXEC_BY_SHAPE
            elif entry.reported:
                value = _EXEC_REPORTED
            known = self._layouts["exec_known"].pack(value=value, flags=int(entry.startup))
            self._maps["exec_keys"].update(self._exec_key(entry), known)

    def drop_exec(self, entries: Iterable[ExecEntry]) -> None:
        """See ``Kernel.drop_exec``."""
        for entry in entries:
            self._maps["exec_keys"].delete(self._exec_key(entry))

    def _exec_key(self, entry: ExecEntry) -> bytes:
        return self._layouts["exec_key"].pack(
            model=entry.model,
            parent=entry.parent,
            program=entry.program,
            origin=entry.origin,
            actor=entry.actor,
        )

    def put_write(self, entries: Iterable[WriteEntry]) -> None:
        """See ``Kernel.put_write``."""
        for entry in entries:
            key = self._layouts["write_key"].pack(node=entry.node, program=entry.program)
            if entry.operations:
                value = self._layouts["write_value"].pack(operations=entry.operations)
                self._maps["write_keys"].update(key, value)
            else:
                self._maps["write_keys"].delete(key)

    def executions(self) -> list[ExecEntry]:
        """See ``Kernel.executions``."""
        unpack = self._layouts["exec_key"].unpack
        found = []
        for key, value in self._maps["exec_keys"].items():
            found.append(self._exec_entry(unpack(key), value))
        return found

    def _exec_entry(self, key: dict[str, Any], value: bytes) -> ExecEntry:
        known: dict[str, Any] = self._layouts["exec_known"].unpack(value)
        return ExecEntry(
            **key,
            by_applet=known["value"] == _EXEC_BY_APPLET,
            reported=known["value"] == _EXEC_REPORTED,
            by_shape=known["value"] == _EXEC_BY_SHAPE,
            startup=bool(known["flags"] & _EXEC_STARTUP),
        )

    def writes(self) -> list[WriteEntry]:
        """See ``Kernel.writes``."""
        unpack = self._layouts["write_key"].unpack
        found = []
        for key, value in self._maps["write_keys"].items():
            fields: dict[str, Any] = unpack(key)
            known: dict[str, Any] = self._layouts["write_value"].unpack(value)
            found.append(WriteEntry(**fields, operations=known["operations"]))
        return found

    def take_seen(self, executions: Iterable[ExecEntry], writes: Iterable[WriteEntry]) -> Seen:
        """See ``Kernel.take_seen``. A sighting between look and clearing is lost for this time."""
        execution, change = self._layouts["exec_known"], self._layouts["write_value"]
        seen_executions: list[ExecEntry] = []
        for entry in executions:
            key = self._exec_key(entry)
            value = self._maps["exec_keys"].lookup(key)
            known: dict[str, Any] = execution.unpack(value) if value else {"seen": 0}
            if known["seen"]:
                seen_executions.append(entry)
                self._maps["exec_keys"].update(key, execution.pack(**{**known, "seen": 0}))
        seen_writes: list[WriteEntry] = []
        for write in writes:
            key = self._layouts["write_key"].pack(node=write.node, program=write.program)
            value = self._maps["write_keys"].lookup(key)
            changed: dict[str, Any] = change.unpack(value) if value else {"seen": 0}
            if changed["seen"]:
                seen_writes.append(replace(write, operations=changed["seen"]))
                self._maps["write_keys"].update(key, change.pack(**{**changed, "seen": 0}))
        return Seen(tuple(seen_executions), tuple(seen_writes))

    def models_in_use(self) -> set[int]:
        """See ``Kernel.models_in_use``."""
        unpack = self._layouts["container"].unpack
        values: list[dict[str, Any]] = [
            unpack(value) for _, value in self._maps["containers"].items()
        ]
        expected = self._layouts["expected"].unpack
        values += [expected(value) for _, value in self._maps["expected"].items()]
        return {value["model"] for value in values} - {0}

    def processes(self) -> list[Process]:
        """See ``Kernel.processes``."""
        found = []
        for key, value in self._maps["tasks"].items():
            stamp: dict[str, Any] = self._layouts["task_stamp"].unpack(value)
            exec_id = stamp["exec_id"]
            program = stamp["program"]
            if not program:
                number = self._maps["resolved"].lookup(exec_id.to_bytes(8, "little"))
                program = int.from_bytes(number or b"", "little")
            pid = int.from_bytes(key, "little")
            session = stamp["actor"] == Actor.SESSION
            found.append(Process(pid, stamp["container"], exec_id, program, session))
        return found

    def kill(self, pid: int, exec_id: int) -> bool:
        """See ``Kernel.kill``. The pidfd makes sure that the pid is still the same process."""
        try:
            process = os.pidfd_open(pid)
        except OSError:
            return False
        try:
            value = self._maps["tasks"].lookup(pid.to_bytes(4, "little"))
            stamp: dict[str, Any] = self._layouts["task_stamp"].unpack(value) if value else {}
            if stamp.get("exec_id") != exec_id:
                return False
            signal.pidfd_send_signal(process, signal.SIGKILL)
        except OSError:
            return False
        finally:
            os.close(process)
        return True

    def set_write_probe(self, *, on: bool) -> None:
        """See ``Kernel.set_write_probe``. Nothing of it stays on the host's writes when off."""
        key = header().enums["config_key"]["CONFIG_WRITE_PROBE"].to_bytes(4, "little")
        link = self._pins / "links" / _WRITE_HOOK
        program = self._pins / "programs" / _WRITE_HOOK
        if on:
            self._maps["settings"].update(key, (1).to_bytes(8, "little"))
            if program.exists() and not link.exists():
                with bpf.owned(bpf.get(program)) as fd, bpf.owned(bpf.attach(fd)) as attached:
                    bpf.pin(attached, link)
        else:
            link.unlink(missing_ok=True)
            self._maps["settings"].update(key, bytes(8))

    def set_startup_pause(self, seconds: float) -> None:
        """How long without a new execution ends a start-up; 0: it never ends."""
        key = header().enums["config_key"]["CONFIG_STARTUP"].to_bytes(4, "little")
        self._maps["settings"].update(key, int(seconds * 1e9).to_bytes(8, "little"))

    def expect(
        self, container_id: str, *, model: int, flags: ContainerFlag, mode: Mode = NOTHING_REFUSED
    ) -> None:
        """See ``Kernel.expect``. Only ids of 64 hex digits are recognised."""
        value = self._layouts["expected"].pack(
            model=model, flags=int(flags), prevent=mode.prevent, ignored=mode.ignored
        )
        key = container_id.encode("ascii", "replace")
        if len(key) == _ID_DIGITS:
            self._maps["expected"].update(key, value)

    def expect_no_more(self, container_id: str) -> None:
        """See ``Kernel.expect_no_more``."""
        key = container_id.encode("ascii", "replace")
        if len(key) == _ID_DIGITS:
            self._maps["expected"].delete(key)

    def put_names(self, entries: Iterable[NameEntry]) -> None:
        """See ``Kernel.put_names``. An answer holds for a minute; links on the way may change."""
        until = time.clock_gettime_ns(time.CLOCK_MONOTONIC) + _NAME_HOLDS_NS
        for entry in entries:
            if len(entry.name) >= 255:
                continue
            key = self._layouts["name_key"].pack(
                device=entry.device,
                inode=entry.inode,
                model=entry.model,
                program=entry.program,
                operation=entry.operation,
                second=int(entry.second),
                name=entry.name,
            )
            self._maps["names"].update(key, until.to_bytes(8, "little"))

    def clear_knowledge(self) -> None:
        """See ``Kernel.clear_knowledge``."""
        for name in ("exec_keys", "write_keys", "names", "edges", "short_edges"):
            self._maps[name].clear()
        self._program_edges.clear()
        self._trie_changed()

    def counters(self) -> dict[int, ContainerCounters]:
        """See ``Kernel.counters``."""
        layout = self._layouts["counters"]
        result: dict[int, ContainerCounters] = {}
        for key, value in self._maps["counts"].items():
            n: dict[str, Any] = layout.unpack(value)
            result[int.from_bytes(key, "little")] = ContainerCounters(
                events=n["events"],
                lost=n["lost"],
                truncated=n["truncated"],
                known=n["known"],
                refused=n["refused"],
                suppressed=n["suppressed"],
                errors=tuple(n[f"errors[{i}]"] for i in range(len(ERROR_CAUSES))),
            )
        return result

    def retire(self) -> bool:
        """See ``Kernel.retire``."""
        older, self._older = self._older, ()
        for directory in older:
            remove_pins(directory)
        return bool(older)

    def close(self) -> None:
        """See ``Kernel.close``."""
        self._ring.close()
        for mapping in self._maps.values():
            mapping.close()


def _split_script(event: Event) -> tuple[Event, Event]:
    """A script's exec is two: of the script by its name, and of its interpreter."""
    interpreter = Event(**{name: getattr(event, name) for name in Event.__slots__})
    interpreter.operation = Operation.EXEC
    interpreter.path2 = ""
    event.path, event.path2, event.applet = event.path2, "", ""
    event.walk_end = WalkEnd.BY_NAME
    return event, interpreter


def cgroup_layout() -> CgroupLayout:
    """Find the hierarchy that tells containers apart: version 2 where it is mounted.

    Source: /proc/self/cgroup and /proc/self/mountinfo (cgroups(7)).

    Raises:
        KernelSupportError: neither version 2 nor a usable version 1 hierarchy.
    """
    mounts = Path("/proc/self/mountinfo").read_text(encoding="utf-8", errors="replace")
    if " - cgroup2 " in mounts:
        return CgroupLayout(-1, 0)
    lines = Path("/proc/self/cgroup").read_text(encoding="utf-8").splitlines()
    order = [
        line.split()[0]
        for line in Path("/proc/cgroups").read_text(encoding="utf-8").splitlines()
        if not line.startswith("#")
    ]
    for controller in ("pids", "memory", "devices", "cpu"):
        for line in lines:
            number, names, _ = line.split(":", 2)
            if controller in names.split(",") and f",{controller}" in mounts.replace(" ", ","):
                return CgroupLayout(order.index(controller), int(number))
    raise KernelSupportError(
        "no cgroup file system is mounted; expected cgroup2 or the version 1 controllers: "
        "mount -t cgroup2 cgroup2 /sys/fs/cgroup"
    )


def _require_bpffs(directory: Path) -> None:
    try:
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise KernelSupportError(
            f"{directory}: {error.strerror}; expected a BPF file system: "
            "mount -t bpf bpf /sys/fs/bpf"
        ) from error
    result = subprocess.run(
        ["stat", "-f", "-c", "%t", str(directory)],  # noqa: S607 - coreutils, wherever
        capture_output=True,
        text=True,
        timeout=10,
        check=False,
    )
    if result.stdout.strip() != "cafe4a11":  # BPF_FS_MAGIC
        raise KernelSupportError(
            f"{directory}: not on a BPF file system; expected one: mount -t bpf bpf /sys/fs/bpf"
        )


def lock_script() -> Path:
    """The script whose execution makes a keeper: the `rote` that runs now.

    Raises:
        KernelSupportError: this process was started another way.
    """
    path = Path(sys.argv[0]).resolve()
    with contextlib.suppress(OSError), path.open("rb") as file:
        if path.name == "rote" and file.read(2) == b"#!":
            return path
    raise KernelSupportError(
        f"--lock: started as {path}; expected the installed `rote` script, because that is what "
        "stays able to unlock"
    )


def _reusable(pins: Path, described: Path) -> dict[str, Any] | None:
    """What was pinned, if it is all still there."""
    with contextlib.suppress(OSError, orjson.JSONDecodeError):
        answer: dict[str, Any] = orjson.loads(described.read_bytes())
        links = {path.name for path in (pins / "links").iterdir()}
        if set(answer["hooks"]) == links - {_WRITE_HOOK} and (pins / "maps" / "events").exists():
            return answer
    return None


def _build(
    settings: KernelSettings, layout: CgroupLayout, pins: Path, cache: Path
) -> dict[str, Any]:
    keys = header().enums["config_key"]
    attach = settings.attach
    if attach == "auto":
        candidates = [name for name in _candidates() if name != "tracepoint" or not settings.lock]
    else:
        candidates = [attach]
    if settings.lock and "tracepoint" in candidates:
        raise KernelSupportError("--lock: the tracepoint attachment can refuse nothing")
    addresses = _symbols("rename_lock", "mount_lock")
    request = {
        "attach": candidates,
        "typed": _release() >= _TYPED_SINCE,
        "heal": _release() >= _SKIPPED_SINCE,
        "lock": str(lock_script()) if settings.lock else "",
        "daemon_pid": os.getpid(),
        "pins": str(pins),
        "cache": str(cache),
        "ring_pages": settings.ring_size // os.sysconf("SC_PAGESIZE"),
        "cgroup_subsys": layout.subsystem,
        "cgroup_hierarchy": layout.hierarchy,
        "settings": {
            keys["CONFIG_DISCOVER"]: int(settings.discover),
            keys["CONFIG_HOST_MOUNTS"]: _host_mount_namespace(),
            keys["CONFIG_RENAME_LOCK"]: addresses.get("rename_lock", 0),
            keys["CONFIG_MOUNT_LOCK"]: addresses.get("mount_lock", 0),
        },
    }
    try:
        result = subprocess.run(
            [sys.executable, "-m", "sensor.kernel.build"],
            input=orjson.dumps(request, option=orjson.OPT_NON_STR_KEYS),
            capture_output=True,
            timeout=_BUILD_SECONDS,
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        raise KernelSupportError(
            f"compiling the BPF sources took more than {_BUILD_SECONDS} s; expected a few"
        ) from error
    try:
        answer: dict[str, Any] = orjson.loads(result.stdout.splitlines()[-1])
    except (orjson.JSONDecodeError, IndexError) as error:
        tail = result.stderr.decode(errors="replace").strip().splitlines()[-1:]
        raise KernelSupportError(
            f"the compiler process ended with {result.returncode}: {''.join(tail) or 'no message'}"
        ) from error
    if "error" in answer:
        raise KernelSupportError(answer["error"])
    return answer


def _host_mount_namespace() -> int:
    """Inode number of the host's mount namespace: init's, or ours where init is hidden from us."""
    try:
        return Path("/proc/1/ns/mnt").stat().st_ino
    except PermissionError:
        return Path("/proc/self/ns/mnt").stat().st_ino


def _release() -> tuple[int, int]:
    """The running kernel's series: (6, 12)."""
    major, minor = os.uname().release.split(".")[:2]
    return int(major), int(minor)


def _symbols(*names: str) -> dict[str, int]:
    """Addresses of the kernel's own variables; those that it does not show are left out."""
    found: dict[str, int] = {}
    with contextlib.suppress(OSError), Path("/proc/kallsyms").open(encoding="ascii") as lines:
        for line in lines:
            fields = line.split()
            if len(fields) == 3 and fields[2] in names and int(fields[0], 16):
                found[fields[2]] = int(fields[0], 16)
    return found


def _candidates() -> list[str]:
    """Attachments worth a try, best first."""
    names: str = ""
    with contextlib.suppress(OSError):
        names = Path("/sys/kernel/security/lsm").read_text(encoding="utf-8")
    return [*(["lsm"] if "bpf" in names.split(",") else []), "fmod-ret", "tracepoint"]
