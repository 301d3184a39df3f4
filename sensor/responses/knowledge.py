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
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace

from sensor.events import (
    Actor,
    Event,
    EventFlag,
    EventKind,
    Operation,
    OperationClass,
    Origin,
    WalkEnd,
)
from sensor.kernel.decode import MULTICALL_NAMES
from sensor.kernel.port import (
    MODEL_ROOT_BASE,
    NODE_ANY,
    NODE_DENIED,
    NODE_FIRST,
    NODE_PROGRAMS,
    NODE_PROTECTED,
    NODE_RUNTIME,
    RULE_EXEC,
    RULE_EXEC_ADDED,
    RULE_EXEC_REPORT,
    Edge,
    ExecEntry,
    Kernel,
    LabelKind,
    NameEntry,
    NodeFlag,
    WriteEntry,
)
from sensor.models.arguments import exec_key, shape
from sensor.models.keys import ANY_ARGUMENTS, ExecKey, Key, Program, WriteKey
from sensor.models.model import Model
from sensor.models.trie import Node, PathTrie
from sensor.models.trust import GRANTED, WritesAndExecutes
from sensor.paths import Label, Match, Pattern, protected_patterns, split
from sensor.rules.rule import ALL_OPERATIONS, Lists, ProgramMatch, Rule

_BELOW_SHIFT = 16  # in write entries: operations for everything below the node
_Value = tuple[int, int]  # program node, operation class
_Place = tuple[int, int, int, int, int]
_NO_RULE = Rule("")
_NOTHING = "nothing"  # in place of a model's id
_KIND = {
    Match.EXACT: LabelKind.EXACT,
    Match.CLASS: LabelKind.CLASS,
    Match.ANY: LabelKind.ANY,
    Match.TEMPORARY: LabelKind.TEMPORARY,
    Match.TEMPORARY_LONG: LabelKind.TEMPORARY_LONG,
    Match.EXTENSION: LabelKind.EXTENSION,
    Match.DATA: LabelKind.DATA,
}


@dataclass(slots=True)
class _Loaded:
    """What one loading put into the kernel."""

    trie: PathTrie[_Value]
    lists: Lists
    denied: frozenset[str] = frozenset()  # programs that rules name by their content
    capabilities: frozenset[WritesAndExecutes] = frozenset()  # of the model
    executions: set[ExecEntry] = field(default_factory=set)
    whole: set[_Place] = field(default_factory=set)  # of these, what is known with any arguments
    keys: dict[ExecEntry, ExecKey] = field(default_factory=dict)  # of these, which
    names: list[Edge] = field(default_factory=list)
    writes: set[tuple[int, int]] = field(default_factory=set)  # node, program

    def denies(self, program: Program) -> bool:
        """Whether a rule denies a program whatever its arguments are."""
        return program.path in self.denied or any(
            match.by_place and match.names_program(program) for match in self.lists.deny_programs
        )

    def looks_at_arguments(self, program: Program) -> bool:
        """Whether a rule denies a program with some arguments."""
        return any(
            match.args and match.names_program(program) for match in self.lists.deny_programs
        )


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
        self._programs: dict[int, Program] = {}  # by number
        # model id → fingerprint of a rule → number of the loading
        self._numbers: dict[str, dict[str, int]] = defaultdict(dict)
        self._loaded: dict[int, _Loaded] = {}
        self._protected: set[str] = set()  # fingerprints of rules that mark protected places
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

    def number(self, model: Model, rule: Rule = _NO_RULE) -> int:
        """The kernel's number of a model under a rule; 0 while it is not loaded."""
        return self._numbers[model.id].get(rule.fingerprint, 0)

    def _number(self) -> int:
        number = self._next
        self._next += 1
        return number

    def program_number(self, program: Program) -> int:
        """The node of a program, made known to the kernel when it is new."""
        node = self._program_number(program)
        self._programs[node] = program
        return node

    def _program_number(self, program: Program) -> int:
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

    def load(self, model: Model, rule: Rule = _NO_RULE, *, denied: Iterable[str] = ()) -> int:
        """Put everything a model knows and a rule says into the kernel, under a new number.

        Args:
            model: what is known.
            rule: what is allowed and denied beside it.
            denied: paths of programs whose content the rule denies.

        Returns:
            The number it was loaded under before, 0 for none: what ``drop`` takes once no
            container is judged by it any more.
        """
        old = self._numbers[model.id].pop(rule.fingerprint, 0)
        loaded = self._begin(model, rule, frozenset(denied))
        self._add(loaded, self._numbers[model.id][rule.fingerprint], model.keys, model)
        return old

    def denied(self, model: Model, rule: Rule) -> frozenset[str]:
        """The programs that a loading denies for their content."""
        number = self.number(model, rule)
        return self._loaded[number].denied if number else frozenset()

    @property
    def nothing(self) -> int:
        """The number of a model that knows nothing: who is judged by it may do nothing."""
        return self._numbers[_NOTHING].get("", 0)

    def load_nothing(self) -> None:
        """Give the model that knows nothing its number."""
        if not self.nothing:
            self._new_number_of(_NOTHING, "")

    def load_again(self, model: Model) -> list[int]:
        """Load a model that was changed anew, under all rules; the numbers it had before."""
        earlier = dict(self._numbers[model.id])
        for fingerprint, old in earlier.items():
            loaded = self._loaded[old]
            number = self._new_number(model, fingerprint)
            fresh = _Loaded(
                PathTrie(MODEL_ROOT_BASE + number, self._number),
                loaded.lists,
                loaded.denied,
                frozenset(model.trust.capabilities),
            )
            self._loaded[number] = fresh
            self._put_lists(fresh, number, protected=fingerprint in self._protected)
            self._add(fresh, number, model.keys, model)
        return list(earlier.values())

    def _new_number(self, model: Model, fingerprint: str) -> int:
        return self._new_number_of(model.id, fingerprint)

    def _new_number_of(self, model_id: str, fingerprint: str) -> int:
        self._last += 1
        self._numbers[model_id][fingerprint] = self._last
        return self._last

    def _begin(self, model: Model, rule: Rule, denied: frozenset[str]) -> _Loaded:
        number = self._new_number(model, rule.fingerprint)
        loaded = _Loaded(
            PathTrie(MODEL_ROOT_BASE + number, self._number),
            rule.lists,
            denied,
            frozenset(model.trust.capabilities),
        )
        self._loaded[number] = loaded
        if rule.marks_protected:
            self._protected.add(rule.fingerprint)
        self._put_lists(loaded, number, protected=rule.marks_protected)
        return loaded

    def _put_lists(self, loaded: _Loaded, number: int, *, protected: bool) -> None:
        """Put what a rule says beside the model; denials are taken off as nodes are written."""
        lists, trie = loaded.lists, loaded.trie
        names: dict[str, dict[int, int]] = defaultdict(lambda: defaultdict(int))
        for match, program, classes in self._program_grants(loaded):
            if match.name:
                names[match.name][program] |= classes
            elif match.path is not None:
                _insert(trie, match.path, program, classes)
        for change in (*lists.deny_paths, *lists.allow_paths):
            mark = NODE_DENIED if change in lists.deny_paths else 0
            program = self._acting(change.by) if change.by else NODE_ANY
            _insert(trie, change.path, program | mark, int(change.operations))
        for capability in loaded.capabilities:
            writer = self.program_number(capability.by)
            _insert(trie, capability.pattern, writer, int(GRANTED))
            _insert(trie, capability.pattern, NODE_ANY, RULE_EXEC | RULE_EXEC_ADDED)
        for pattern in protected_patterns() if protected else ():
            _insert(trie, pattern, NODE_PROTECTED, int(ALL_OPERATIONS))
        self._put_names(loaded, number, names)
        executions = [
            ExecEntry(number, NODE_RUNTIME, self._acting(match.path.text), int(origin), 2)
            for match in lists.session_programs
            if match.path is not None and match.path.is_exact and match.by_place
            for origin in (Origin.IMAGE, Origin.MOUNT, Origin.UNKNOWN)
        ]
        self._put_exec(loaded, executions)
        self._push_trie(loaded)

    def _program_grants(self, loaded: _Loaded) -> Iterator[tuple[ProgramMatch, int, int]]:
        """What the kernel can tell by itself: (which programs, for whom, rule classes).

        Path and name at once, and a digest, only user space can tell.
        """
        for match in loaded.lists.deny_programs:
            if match.by_place and not (match.path and match.name):
                yield match, NODE_DENIED | NODE_ANY, RULE_EXEC
        for path in loaded.denied:
            yield ProgramMatch(Pattern.exact(path)), NODE_DENIED | NODE_ANY, RULE_EXEC
        for match in loaded.lists.allow_programs:
            if not match.sha256 and not (match.path and match.name):
                kind = RULE_EXEC_REPORT if match.args else RULE_EXEC
                yield match, NODE_ANY, kind | (RULE_EXEC_ADDED if match.added else 0)

    def _put_names(self, loaded: _Loaded, number: int, names: dict[str, dict[int, int]]) -> None:
        entries: list[WriteEntry] = []
        for name, masks in names.items():
            label = os.fsencode(name)[:255]
            edge = Edge(MODEL_ROOT_BASE + number, LabelKind.NAME, label, self._number())
            loaded.names.append(edge)
            entries += [WriteEntry(edge.node, program, mask) for program, mask in masks.items()]
        self._kernel.put_edges(loaded.names)
        self._put_writes(loaded, entries)

    def _acting(self, text: str) -> int:
        path, _, applet = text.partition("#")
        return self.program_number(Program(path, applet))

    def add(self, model: Model, keys: Iterable[Key]) -> None:
        """Put some of a model's keys into the kernel, under each rule it is loaded with."""
        wanted = list(keys)
        if not self._numbers[model.id]:
            self._begin(model, _NO_RULE, frozenset())
        for number in self._numbers[model.id].values():
            self._add(self._loaded[number], number, wanted, model)

    def _add(self, loaded: _Loaded, number: int, keys: Iterable[Key], model: Model) -> None:
        executions: list[ExecEntry] = []
        for key in keys:
            if isinstance(key, ExecKey):
                if not loaded.denies(key.program):
                    startup = model.is_startup_only(key)
                    entries = self._exec_entries(loaded, number, key, startup=startup)
                    loaded.keys[entries[-1]] = key
                    executions.extend(entries)
            elif isinstance(key, WriteKey):
                loaded.trie.insert(
                    Pattern.parse(key.pattern),
                    (self.program_number(key.program), int(key.operation)),
                )
        self._push_trie(loaded)
        self._put_exec(loaded, executions)

    def _exec_entries(
        self, loaded: _Loaded, number: int, key: ExecKey, *, startup: bool = False
    ) -> list[ExecEntry]:
        """What the kernel is told of an execution.

        That its binary may begin; that somebody executes it at all; of an interpreter that it may
        begin, for what it is told to do decides; and last the execution itself.
        """
        entry = self._exec_entry(number, key)
        entries = [replace(entry, by_shape=key.shape != ANY_ARGUMENTS)]
        if key.program.applet:
            entries.append(self._binary_entry(number, key))
        entries += [replace(e, parent=NODE_ANY, origin=0, actor=0, by_shape=False) for e in entries]
        known = replace(entry, reported=loaded.looks_at_arguments(key.program), startup=startup)
        if key.shape == ANY_ARGUMENTS:
            return [*entries[1:], known]
        return [*entries, replace(known, program=self._shape_number(entry.program, key.shape))]

    def _shape_number(self, program: int, shape: str) -> int:
        """The node of a way in which an interpreter is called."""
        return self._step(program, LabelKind.SHAPE, os.fsencode(shape)[:255], NodeFlag(0))

    def _put_exec(self, loaded: _Loaded, executions: Iterable[ExecEntry]) -> None:
        """Put executions. By applets or arguments one is known only where it is not known whole."""
        wanted = set(executions)
        loaded.whole.update(_place(e) for e in wanted if _is_whole(e))
        entries = {e for e in wanted if _is_whole(e) or _place(e) not in loaded.whole}
        loaded.executions |= entries
        self._kernel.put_exec(entries)

    def _binary_entry(self, number: int, key: ExecKey) -> ExecEntry:
        binary = replace(key, program=Program(key.program.path))
        return replace(self._exec_entry(number, binary), by_applet=True)

    def _exec_entry(self, number: int, key: ExecKey) -> ExecEntry:
        return ExecEntry(
            model=number,
            parent=self.program_number(key.parent),
            program=self.program_number(key.program),
            origin=int(key.origin),
            actor=int(key.actor),
        )

    def _push_trie(self, loaded: _Loaded) -> None:
        trie = loaded.trie
        edges, nodes = trie.take_changes()
        # A node's flags stand on the edge that leads to it, so a new child rewrites that one.
        parents = {parent.number for parent, _, _ in edges} | {node.number for node in nodes}
        rewritten = [edge for number in parents if (edge := trie.edge_to(number)) is not None]
        self._kernel.put_edges(_edge(*edge) for edge in [*rewritten, *edges])
        self._put_writes(loaded, [entry for node in nodes for entry in _write_entries(node)])

    def _put_writes(self, loaded: _Loaded, entries: list[WriteEntry]) -> None:
        loaded.writes |= {(entry.node, entry.program) for entry in entries}
        self._kernel.put_write(entries)

    def take_seen(self, model: Model) -> set[Key]:
        """The keys of a model by which the kernel judged something known since the last call.

        Of known behaviour the kernel tells nothing else; how often keys recur says how much of
        what a model will meet it has met already. Asked about once a minute.
        """
        found: set[Key] = set()
        for number in self._numbers[model.id].values():
            loaded = self._loaded[number]
            seen = self._kernel.take_seen(
                list(loaded.keys), [WriteEntry(node, program, 0) for node, program in loaded.writes]
            )
            found |= {loaded.keys[entry] for entry in seen.executions}
            for write in seen.writes:
                for key in self._keys_of(loaded, write):
                    found |= {key} if key in model.keys else _wider(model, key)
        return found & model.keys.keys()

    def _keys_of(self, loaded: _Loaded, write: WriteEntry) -> set[WriteKey]:
        """The keys by which a change was known: those whose pattern leads to the node."""
        program = self._programs.get(write.program)
        pattern = loaded.trie.pattern_to(write.node)
        if program is None or pattern is None:
            return set()
        keys: set[WriteKey] = set()
        for operation in OperationClass:
            if write.operations & operation:
                keys.add(WriteKey(program, pattern.text, operation))
            if write.operations & operation << _BELOW_SHIFT:
                below = Pattern((*pattern.labels, Label(Match.SUBTREE)))
                keys.add(WriteKey(program, below.text, operation))
        return keys

    def forget(self, model: Model) -> None:
        """Take everything a model knows out of the kernel; its programs keep their numbers."""
        for number in self._numbers.pop(model.id, {}).values():
            self.drop(number)

    def keep_only(self, wanted: Mapping[str, set[str]]) -> None:
        """Drop what no container is judged by.

        Args:
            wanted: by the model's id the fingerprints of the rules that containers have.
        """
        for model_id, numbers in self._numbers.items():
            for fingerprint in [f for f in numbers if f not in wanted.get(model_id, set())]:
                if fingerprint:  # without a rule it may be wanted again at any time
                    self.drop(numbers.pop(fingerprint))

    def drop(self, number: int) -> None:
        """Take one loading out of the kernel. 0 is none."""
        loaded = self._loaded.pop(number, None)
        if loaded is None:
            return
        self._kernel.put_write(WriteEntry(node, program, 0) for node, program in loaded.writes)
        self._kernel.drop_edges([*map(_edge_of, loaded.trie.edges()), *loaded.names])
        self._kernel.drop_exec(loaded.executions)

    def answer(self, model: Model, event: Event) -> None:
        """Tell the kernel that this event was known, where it could not find that out itself."""
        if not self._numbers[model.id]:
            self._begin(model, _NO_RULE, frozenset())
        self.settle(event)
        for number in self._numbers[model.id].values():
            self._answer(number, event)

    def _answer(self, number: int, event: Event) -> None:
        if event.operation is Operation.EXEC and event.actor is not Actor.SERVICE:
            # A session or probe did what the service does; its executions have keys of their own.
            # With the arguments it had, where these matter: an answer is for nothing else.
            called = shape(Program(event.path, event.applet), event.argv)
            key = replace(exec_key(event), script=False, shape=called)
            loaded = self._loaded[number]
            if not loaded.denies(key.program):
                self._put_exec(loaded, self._exec_entries(loaded, number, key))
        if event.walk_end is not WalkEnd.BY_NAME or (not event.name and not event.name2):
            return
        if event.kind is EventKind.EXEC:
            program = self.program_number(Program(event.program, event.program_applet))
        else:
            program = self.program_number(Program(event.program, event.applet))
        names = []
        if event.name:
            names.append(self._name(number, program, event, event.base, event.name, second=False))
        if event.name2:
            names.append(self._name(number, program, event, event.base2, event.name2, second=True))
        self._kernel.put_names(names)

    def _name(
        self,
        number: int,
        program: int,
        event: Event,
        base: tuple[int, int],
        name: str,
        *,
        second: bool,
    ) -> NameEntry:
        return NameEntry(
            model=number,
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


def _wider(model: Model, seen: WriteKey) -> set[Key]:
    """The keys that a more specific node repeats (see sensor/models/trie.py)."""
    pattern = Pattern.parse(seen.pattern)
    if not pattern.is_exact:
        return set()
    return {
        key
        for key in model.keys
        if isinstance(key, WriteKey)
        and (key.program, key.operation) == (seen.program, seen.operation)
        and Pattern.parse(key.pattern).matches_components([label.name for label in pattern.labels])
    }


def _is_whole(entry: ExecEntry) -> bool:
    return not entry.by_applet and not entry.by_shape


def _place(entry: ExecEntry) -> _Place:
    """Its key in the kernel's map."""
    return entry.model, entry.parent, entry.program, entry.origin, entry.actor


def _edge(parent: Node[_Value], label: Label, child: Node[_Value]) -> Edge:
    flags = NodeFlag(0)
    if child.has_class:
        flags |= NodeFlag.HAS_CLASS
    if child.has_any:
        flags |= NodeFlag.HAS_ANY
    if child.subtree:
        flags |= NodeFlag.SUBTREE
    if child.has_last:
        flags |= NodeFlag.HAS_LAST
    return Edge(parent.number, _KIND[label.match], label.name, child.number, flags)


def _edge_of(edge: tuple[Node[_Value], Label, Node[_Value]]) -> Edge:
    return _edge(*edge)


def _insert(trie: PathTrie[_Value], pattern: Pattern, program: int, classes: int) -> None:
    for value in _bits(classes):
        trie.insert(pattern, (program, value))


def _bits(mask: int) -> Iterator[int]:
    bit = 1
    while bit <= mask:
        if mask & bit:
            yield bit
        bit <<= 1


def _write_entries(node: Node[_Value]) -> list[WriteEntry]:
    """What programs may do at a node and below it: grants without what a rule denies, and marks."""
    operations: dict[int, int] = defaultdict(int)
    for program, operation in node.values:
        operations[program] |= operation
    for program, operation in node.subtree:
        operations[program] |= operation << _BELOW_SHIFT
    denied = operations.get(NODE_DENIED | NODE_ANY, 0)
    return [
        WriteEntry(node.number, program, mask)
        if program & NODE_DENIED or program == NODE_PROTECTED
        else WriteEntry(
            node.number, program, mask & ~(denied | operations.get(NODE_DENIED | program, 0))
        )
        for program, mask in operations.items()
    ]
