"""The path trie: what the kernel walks, kept in user space as well.

Patterns are inserted so that a walk never has to go back: at each component it takes the
exact edge if there is one, else the class edge, else the ``*`` edge, and the node it reaches
stands for *every* pattern that matches so far. Insertion keeps that true: an exact child
repeats what its siblings' wildcards allow, and a wildcard is inserted below its more specific
siblings too. The kernel's walk (``bpf/match.bpf.c``) and ``PathTrie.walk`` are the same rule.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Generic, TypeVar

from sensor.paths import LAST_ONLY, Label, Match, Pattern, canonical, last_labels, split

T = TypeVar("T")


class Node(Generic[T]):
    """One node: its edges by label, and the values of the patterns that end here."""

    __slots__ = ("children", "number", "subtree", "values")

    def __init__(self, number: int) -> None:
        self.number = number
        self.children: dict[Label, Node[T]] = {}
        self.values: set[T] = set()
        self.subtree: set[T] = set()  # of patterns ending in ** here: hold for all below

    @property
    def has_class(self) -> bool:
        """Whether some edge out of this node is a class."""
        return any(label.match is Match.CLASS for label in self.children)

    @property
    def has_any(self) -> bool:
        """Whether ``*`` leads out of this node."""
        return _ANY in self.children

    @property
    def has_last(self) -> bool:
        """Whether a label for last components only leads out of this node."""
        return any(label.match in LAST_ONLY for label in self.children)


_ANY = Label(Match.ANY)


class PathTrie(Generic[T]):
    """Patterns with values, walked without backtracking.

    Args:
        root: number of the root node.
        number: gives the next free node number.
    """

    def __init__(self, root: int = 1, number: Callable[[], int] | None = None) -> None:
        self._counter = root
        self._number = number or self._count
        self.root: Node[T] = Node(root)
        self.changed: dict[int, tuple[Node[T], Label, Node[T]]] = {}  # child number → edge
        self._edge_to: dict[int, tuple[Node[T], Label, Node[T]]] = {}
        self.touched: dict[int, Node[T]] = {}  # nodes whose values changed

    def _count(self) -> int:
        self._counter += 1
        return self._counter

    def insert(self, pattern: Pattern, value: T) -> None:
        """Let ``pattern`` carry ``value``. What changed is noted in ``changed`` and ``touched``."""
        self._insert(self.root, pattern.labels, value)

    def _insert(self, node: Node[T], labels: Sequence[Label], value: T) -> None:
        if not labels:
            if value not in node.values:
                node.values.add(value)
                self.touched[node.number] = node
            return
        label, rest = labels[0], labels[1:]
        if label.match is Match.SUBTREE:
            self._insert_subtree(node, value)
            return
        for other, child in list(node.children.items()):
            if other != label and _covers(label, other):
                self._insert(child, rest, value)
        self._insert(self._child(node, label), rest, value)

    def _insert_subtree(self, node: Node[T], value: T) -> None:
        node.subtree.add(value)
        self.touched[node.number] = node
        for child in node.children.values():
            self._add_below(child, value)

    def _add_below(self, node: Node[T], value: T) -> None:
        node.values.add(value)
        node.subtree.add(value)
        self.touched[node.number] = node
        for child in node.children.values():
            self._add_below(child, value)

    def _child(self, node: Node[T], label: Label) -> Node[T]:
        child = node.children.get(label)
        if child is not None:
            return child
        child = Node(self._number())
        # A more specific edge hides the wildcards beside it, so it repeats what they allow.
        for other, sibling in list(node.children.items()):
            if _covers(other, label):
                self._copy(sibling, child)
        child.values |= node.subtree
        child.subtree |= node.subtree
        node.children[label] = child
        self._note_edge(node, label, child)
        if child.values:
            self.touched[child.number] = child
        return child

    def _note_edge(self, parent: Node[T], label: Label, child: Node[T]) -> None:
        self.changed[child.number] = self._edge_to[child.number] = (parent, label, child)

    def edge_to(self, number: int) -> tuple[Node[T], Label, Node[T]] | None:
        """The edge that leads to a node; None for the root."""
        return self._edge_to.get(number)

    def pattern_to(self, number: int) -> Pattern | None:
        """The labels on the way to a node; None: there is no such node."""
        labels: list[Label] = []
        while number != self.root.number:
            step = self._edge_to.get(number)
            if step is None:
                return None
            labels.append(step[1])
            number = step[0].number
        return Pattern(tuple(reversed(labels)))

    def _copy(self, source: Node[T], target: Node[T]) -> None:
        target.values |= source.values
        target.subtree |= source.subtree
        if source.values or source.subtree:
            self.touched[target.number] = target
        for label, child in source.children.items():
            copy = target.children.get(label)
            if copy is None:
                copy = Node(self._number())
                target.children[label] = copy
                self._note_edge(target, label, copy)
            self._copy(child, copy)

    def walk(self, components: Sequence[bytes], *, any_name: bool = True) -> frozenset[T]:
        """The values of every pattern that matches these components.

        Args:
            components: of a path.
            any_name: whether labels for last components only count.
        """
        node = self.root
        below: set[T] = set()
        beside: set[T] = set()
        for i, part in enumerate(components):
            below = node.subtree
            if any_name and i == len(components) - 1 and node.has_last:
                for label in last_labels(part):
                    if (child := node.children.get(label)) is not None:
                        beside |= child.values
            step = node.children.get(Label(Match.EXACT, part))
            if step is None and (form := canonical(part)) is not None:
                step = node.children.get(Label(Match.CLASS, form))
            if step is None:
                step = node.children.get(_ANY)
            if step is None:
                return frozenset(below | beside)
            node = step
        return frozenset(node.values | beside)

    def lookup(self, path: str, *, any_name: bool = True) -> frozenset[T]:
        """The values of every pattern that matches an absolute path; see ``walk``."""
        return self.walk(split(path), any_name=any_name)

    def nodes(self) -> Iterator[Node[T]]:
        """Every node, parents before children."""
        stack = [self.root]
        while stack:
            node = stack.pop()
            yield node
            stack.extend(node.children.values())

    def edges(self) -> Iterator[tuple[Node[T], Label, Node[T]]]:
        """Every edge as (parent, label, child), parents first."""
        for node in self.nodes():
            for label, child in node.children.items():
                yield node, label, child

    def take_changes(
        self,
    ) -> tuple[list[tuple[Node[T], Label, Node[T]]], list[Node[T]]]:
        """New edges and nodes with changed values since the last call."""
        edges, nodes = list(self.changed.values()), list(self.touched.values())
        self.changed, self.touched = {}, {}
        return edges, nodes


def _covers(wide: Label, narrow: Label) -> bool:
    """Whether what takes ``narrow``, which is another, also matches ``wide``; but not beside it."""
    if wide.match is Match.EXACT or wide == narrow:
        return False
    return not {wide.match, narrow.match} & LAST_ONLY and wide.covers(narrow)
