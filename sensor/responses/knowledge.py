"""What a model knows, put into the kernel's maps, so that known behaviour stays silent there.

Programs have one number on the whole host: the node of their path in the trie below
NODE_PROGRAMS. Each loading of a model has a number of its own, and a trie of written paths below
MODEL_ROOT_BASE + that number. A model is loaded anew beside the old one, its containers change
over, then the old one goes: at no moment is a container judged by half a model. So it is too when
the daemon starts again: what an earlier one loaded stays for as long as a container uses it.

The stamps of running tasks hold program numbers, so a restarted daemon takes over those in use.
"""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field, replace

from sensor.events import Actor, Event, EventFlag, EventKind, Operation, WalkEnd
from sensor.kernel.decode import MULTICALL_NAMES
from sensor.kernel.port import (
    MODEL_ROOT_BASE,
    NODE_FIRST,
    NODE_PROGRAMS,
    NODE_RUNTIME,
    Edge,
    ExecEntry,
    Kernel,
    LabelKind,
    NameEntry,
    NodeFlag,
    WriteEntry,
)
from sensor.models.keys import ExecKey, Key, Program, WriteKey, exec_key
from sensor.models.model import Model
from sensor.models.trie import Node, PathTrie
from sensor.paths import Label, Match, Pattern, split

_BELOW_SHIFT = 16  # in write entries: operations for everything below the node
_Value = tuple[int, int]  # program node, operation class
_KIND = {
    Match.EXACT: LabelKind.EXACT,
    Match.CLASS: LabelKind.CLASS,
    Match.ANY: LabelKind.ANY,
}


@dataclass(slots=True)
class _Loaded:
    """What one loading put into the kernel."""

    trie: PathTrie[_Value]
    executions: set[ExecEntry] = field(default_factory=set)


@dataclass(slots=True)
class _Left:
    """What a loading of an earlier daemon left in the kernel."""

    edges: list[Edge] = field(default_factory=list)
    executions: list[ExecEntry] = field(default_factory=list)
    writes: list[WriteEntry] = field(default_factory=list)


class Knowledge:
    """Keeps the kernel's maps equal to the models.

    Args:
        kernel: where to.
    """

    def __init__(self, kernel: Kernel) -> None:
        self._kernel = kernel
        self._next = NODE_FIRST
        # (parent node, kind, label) → node, for the trie of programs
        self._program_edges: dict[tuple[int, LabelKind, bytes], int] = {}
        self._numbers: dict[str, int] = {}  # model id → number of its loading
        self._loaded: dict[int, _Loaded] = {}
        self._left: dict[int, _Left] = defaultdict(_Left)
        self._take_over()
        self._last = max([0, *self._left, *kernel.models_in_use()])

    def _take_over(self) -> None:
        programs = {NODE_PROGRAMS}
        loading: dict[int, int] = {}  # node of a written path → number of its loading
        for edge in self._kernel.edges():  # parents first
            self._next = max(self._next, edge.node + 1)
            if edge.parent in programs:
                self._program_edges[edge.parent, edge.kind, edge.label] = edge.node
                programs.add(edge.node)
                continue
            number = loading.get(edge.parent, max(0, edge.parent - MODEL_ROOT_BASE))
            loading[edge.node] = number
            self._left[number].edges.append(edge)
        for entry in self._kernel.executions():
            self._left[entry.model].executions.append(entry)
        for write in self._kernel.writes():
            number = loading.get(write.node, max(0, write.node - MODEL_ROOT_BASE))
            self._left[number].writes.append(write)

    def drop_unused(self) -> None:
        """Drop what earlier daemons loaded and no container is judged by any more."""
        if not self._left:
            return
        in_use = self._kernel.models_in_use()
        for number in [number for number in self._left if number not in in_use]:
            left = self._left.pop(number)
            self._kernel.put_write(WriteEntry(w.node, w.program, 0) for w in left.writes)
            self._kernel.drop_exec(left.executions)
            self._kernel.drop_edges(left.edges)

    def number(self, model: Model) -> int:
        """The kernel's number of a model; 0 while it is not loaded."""
        return self._numbers.get(model.id, 0)

    def _number(self) -> int:
        number = self._next
        self._next += 1
        return number

    def program_number(self, program: Program) -> int:
        """The node of a program, made known to the kernel when it is new."""
        if not program.path:
            return NODE_RUNTIME
        node = NODE_PROGRAMS
        parts = split(program.path)
        for i, part in enumerate(parts):
            is_multicall = i == len(parts) - 1 and os.fsdecode(part) in MULTICALL_NAMES
            node = self._step(
                node, LabelKind.EXACT, part, NodeFlag.MULTICALL if is_multicall else NodeFlag(0)
            )
            if is_multicall:
                # The binary's own name as argv[0]: the applet is the next argument.
                self._link(node, LabelKind.APPLET, part, node, NodeFlag.MULTICALL)
        if program.applet:
            node = self._step(
                node, LabelKind.APPLET, os.fsencode(program.applet)[:255], NodeFlag(0)
            )
        return node

    def _step(self, parent: int, kind: LabelKind, label: bytes, flags: NodeFlag) -> int:
        node = self._program_edges.get((parent, kind, label))
        return node if node is not None else self._link(parent, kind, label, self._number(), flags)

    def _link(self, parent: int, kind: LabelKind, label: bytes, node: int, flags: NodeFlag) -> int:
        if (parent, kind, label) not in self._program_edges:
            self._kernel.put_edges([Edge(parent, kind, label, node, flags)])
            self._program_edges[parent, kind, label] = node
        return node

    def load(self, model: Model) -> int:
        """Put everything a model knows into the kernel, under a new number.

        Returns:
            The number it was loaded under before, 0 for none: what ``drop`` takes once no
            container is judged by it any more.
        """
        old = self._numbers.pop(model.id, 0)
        self.add(model, model.keys)
        return old

    def _loading(self, model: Model) -> _Loaded:
        """The present loading of a model; an empty one is begun where there is none."""
        number = self._numbers.get(model.id, 0)
        if not number:
            self._last += 1
            number = self._numbers[model.id] = self._last
            self._loaded[number] = _Loaded(PathTrie(MODEL_ROOT_BASE + number, self._number))
        return self._loaded[number]

    def add(self, model: Model, keys: Iterable[Key]) -> None:
        """Put some of a model's keys into the kernel."""
        loaded = self._loading(model)
        executions: list[ExecEntry] = []
        for key in keys:
            if isinstance(key, ExecKey):
                executions.append(self._exec_entry(model, key))
                if key.program.applet:
                    executions.append(self._binary_entry(model, key))
            elif isinstance(key, WriteKey):
                loaded.trie.insert(
                    Pattern.parse(key.pattern),
                    (self.program_number(key.program), int(key.operation)),
                )
        self._push_trie(loaded.trie)
        self._put_exec(loaded, executions)

    def _put_exec(self, loaded: _Loaded, executions: Iterable[ExecEntry]) -> None:
        """Put executions. By its applets a binary is known only where it is not known whole."""
        wanted = set(executions)
        known = loaded.executions | wanted
        entries = {e for e in wanted if not e.by_applet or replace(e, by_applet=False) not in known}
        loaded.executions |= entries
        self._kernel.put_exec(entries)

    def _binary_entry(self, model: Model, key: ExecKey) -> ExecEntry:
        binary = replace(key, program=Program(key.program.path))
        return replace(self._exec_entry(model, binary), by_applet=True)

    def _exec_entry(self, model: Model, key: ExecKey) -> ExecEntry:
        return ExecEntry(
            model=self._numbers[model.id],
            parent=self.program_number(key.parent),
            program=self.program_number(key.program),
            origin=int(key.origin),
            actor=int(key.actor),
        )

    def _push_trie(self, trie: PathTrie[_Value]) -> None:
        edges, nodes = trie.take_changes()
        # A node's flags stand on the edge that leads to it, so a new child rewrites that one.
        parents = {parent.number for parent, _, _ in edges} | {node.number for node in nodes}
        rewritten = [edge for number in parents if (edge := trie.edge_to(number)) is not None]
        self._kernel.put_edges(_edge(*edge) for edge in [*rewritten, *edges])
        self._kernel.put_write(entry for node in nodes for entry in _write_entries(node))

    def forget(self, model: Model) -> None:
        """Take everything a model knows out of the kernel; its programs keep their numbers."""
        self.drop(self._numbers.pop(model.id, 0))

    def drop(self, number: int) -> None:
        """Take one loading out of the kernel. 0 is none."""
        loaded = self._loaded.pop(number, None)
        if loaded is None:
            return
        trie = loaded.trie
        programs = {program for node in trie.nodes() for program, _ in node.values}
        self._kernel.put_write(
            WriteEntry(node.number, program, 0) for node in trie.nodes() for program in programs
        )
        self._kernel.drop_edges(_edge(*edge) for edge in trie.edges())
        self._kernel.drop_exec(loaded.executions)

    def answer(self, model: Model, event: Event) -> None:
        """Tell the kernel that this event was known, where it could not find that out itself."""
        self._loading(model)
        self.settle(event)
        if event.operation is Operation.EXEC and event.actor is not Actor.SERVICE:
            # A session or probe did what the service does; its executions have keys of their own.
            key = replace(exec_key(event), script=False)
            loaded = self._loading(model)
            entries = [self._exec_entry(model, key)]
            if key.program.applet:
                entries.append(self._binary_entry(model, key))
            self._put_exec(loaded, entries)
        if event.walk_end is not WalkEnd.BY_NAME or (not event.name and not event.name2):
            return
        if event.kind is EventKind.EXEC:
            program = self.program_number(Program(event.program, event.program_applet))
        else:
            program = self.program_number(Program(event.program, event.applet))
        names = []
        if event.name:
            names.append(self._name(model, program, event, event.base, event.name, second=False))
        if event.name2:
            names.append(self._name(model, program, event, event.base2, event.name2, second=True))
        self._kernel.put_names(names)

    def _name(
        self,
        model: Model,
        program: int,
        event: Event,
        base: tuple[int, int],
        name: str,
        *,
        second: bool,
    ) -> NameEntry:
        return NameEntry(
            model=self._numbers[model.id],
            program=program,
            operation=int(event.operation),
            device=base[0],
            inode=base[1],
            name=os.fsencode(name),
            second=second,
        )

    def settle_process(self, exec_id: int, program: Program) -> bool:
        """Give a running execution the number of its program; whether it has one."""
        number = self._known_number(program)
        if number:
            self._kernel.resolve(exec_id, number)
        return bool(number)

    def settle(self, event: Event) -> None:
        """Give an execution the number of its program, if that is known by now.

        A process that executed something then unknown carries no number, and everything it does
        would stay novel.
        """
        if event.operation in (Operation.SCRIPT, Operation.MAP_EXEC) or (
            event.flags & EventFlag.BEFORE
        ):
            return
        if event.kind is EventKind.EXEC:
            program = Program(event.path, event.applet)
        elif event.program_node == 0:
            program = Program(event.program, event.applet)
        else:
            return
        self.settle_process(event.exec_id, program)

    def _known_number(self, program: Program) -> int:
        node = NODE_PROGRAMS
        labels = [(LabelKind.EXACT, part) for part in split(program.path)]
        if program.applet:
            labels.append((LabelKind.APPLET, os.fsencode(program.applet)[:255]))
        for kind, label in labels:
            node = self._program_edges.get((node, kind, label), 0)
        return node


def _edge(parent: Node[_Value], label: Label, child: Node[_Value]) -> Edge:
    flags = NodeFlag(0)
    if child.has_class:
        flags |= NodeFlag.HAS_CLASS
    if child.has_any:
        flags |= NodeFlag.HAS_ANY
    if child.subtree:
        flags |= NodeFlag.SUBTREE
    return Edge(parent.number, _KIND[label.match], label.name, child.number, flags)


def _write_entries(node: Node[_Value]) -> list[WriteEntry]:
    operations: dict[int, int] = defaultdict(int)
    for program, operation in node.values:
        operations[program] |= operation
    for program, operation in node.subtree:
        operations[program] |= operation << _BELOW_SHIFT
    return [WriteEntry(node.number, program, mask) for program, mask in operations.items()]
