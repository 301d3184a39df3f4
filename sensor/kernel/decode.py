"""From the bytes of a record to ``sensor.events.Event``."""

from __future__ import annotations

import os
import time
from dataclasses import dataclass

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
from sensor.kernel.layout import header

NODE_RUNTIME = 2

MULTICALL_NAMES = frozenset(
    {"busybox", "busybox.static", "toybox", "coreutils", "sbase-box", "ubase-box", "toolbox"}
)


@dataclass(slots=True)
class Record:
    """A decoded record: the event, and what only the kernel side needs of it."""

    event: Event
    program_node: int  # EXEC: of the caller; FILE: of the acting program; 0 unknown
    caller_path: str  # program of the calling process; after an exec of its parent


class Decoder:
    """Decodes records; keeps the offset between the kernel's clock and the wall clock."""

    def __init__(self) -> None:
        layout = header().structs["event"]
        self._packer = layout.packer
        self._size = layout.size
        index = {name: i for i, name in enumerate(layout.fields)}
        self._index = index
        self._text = index["text_end[0]"]
        self._offset_ns = 0
        self.synchronise()

    def synchronise(self) -> None:
        """Take the wall clock's offset again; it moves when the clock is set."""
        self._offset_ns = time.time_ns() - time.clock_gettime_ns(time.CLOCK_MONOTONIC)

    def decode(self, data: memoryview) -> Record:
        """Decode one record. The memory is not kept."""
        values = self._packer.unpack_from(data)
        (
            kind, _size, ktime_ns, cgroup_id, base_device, base_inode, base2_device, base2_inode,
            exec_id, caller_exec_id,
            pid, tid, parent_pid, uid, gid, model, operation, actor, origin, walk_end, walk_end2,
            flags, open_flags, program_node, error, detection, *ends,
        ) = values  # fmt: skip
        text = bytes(data[self._size : self._size + ends[-1]])
        time_ns = ktime_ns + self._offset_ns
        if kind in (EventKind.CGROUP_CREATED, EventKind.CGROUP_REMOVED):
            event = Event(
                EventKind(kind), time_ns, cgroup_id, Operation.EXEC, path=os.fsdecode(text)
            )
            return Record(event, 0, "")
        parts: list[str] = []
        start = 0
        for end in ends[:-1]:
            parts.append(os.fsdecode(text[start:end]))
            start = end
        path, path2, program, parent, cwd, name, name2 = parts
        argv = _argv(text[start : ends[-1]])
        event = Event(
            EventKind(kind),
            time_ns,
            cgroup_id,
            Operation(operation),
            pid=pid,
            tid=tid,
            parent_pid=parent_pid,
            uid=uid,
            gid=gid,
            actor=Actor(actor),
            origin=Origin(origin),
            walk_end=WalkEnd(walk_end),
            walk_end2=WalkEnd(walk_end2),
            cwd=cwd,
            argv=argv,
            flags=EventFlag(flags),
            open_flags=open_flags,
            model=model,
            action="denied" if error else "killed" if flags & EventFlag.KILLED else "none",
            errno=-error if error < 0 else 0,
            base=(base_device, base_inode),
            base2=(base2_device, base2_inode),
            name=name,
            name2=name2,
            exec_id=exec_id,
            caller_exec_id=caller_exec_id,
            detection=Detection(detection),
        )
        if kind == EventKind.EXEC:
            event.path = path
            if flags & EventFlag.BEFORE:
                return Record(event, program_node, program)
            if operation == Operation.SCRIPT:
                event.path2 = join(path2, name2)
            return Record(event, program_node, parent)
        event.program = program
        event.parent_program = parent
        if walk_end == WalkEnd.BY_NAME:
            event.path = join(path, name)
            event.path2 = join(path2, name2) if name2 else ""
        else:
            event.path, event.path2 = path, path2
        return Record(event, program_node, parent)


def _argv(text: bytes) -> tuple[str, ...]:
    if not text:
        return ()
    return tuple(os.fsdecode(part) for part in text.removesuffix(b"\0").split(b"\0"))


def join(base: str, name: str) -> str:
    """The path that ``name`` means in directory ``base``, by its letters alone."""
    path = os.path.normpath(name if name.startswith("/") and base == "/" else f"{base}/{name}")
    return "/" + path.lstrip("/")


def applet_of(program: str, argv: tuple[str, ...]) -> str:
    """The applet a multi-call program runs as; empty for other programs.

    The same rule as ``program_node()`` in bpf/exec.bpf.c: argv[0], or argv[1] when argv[0] is
    the program's own name.
    """
    own = program.rpartition("/")[2]
    if own not in MULTICALL_NAMES:
        return ""
    for argument in argv[:2]:
        applet = argument.removeprefix("-").rpartition("/")[2]
        if applet != own:
            return applet
    return ""
