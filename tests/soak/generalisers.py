"""Ways to make a model out of what was seen: ours, and those it is compared with.

All judge executions alike, exactly; they differ in what becomes of written paths. Each tells the
programs of a container apart, as ours does.
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Protocol

from sensor.containers.container import Container, Image
from sensor.events import Event
from sensor.models.adversary import PLANTING
from sensor.models.keys import ExecKey, Key, Program, WriteKey
from sensor.models.learning import LearningSettings
from sensor.models.model import Model
from sensor.models.registry import ModelRegistry
from sensor.models.store import ModelStore
from sensor.paths import Pattern, split
from tests.soak.traces import Run

_TICK_SECONDS = 1.0


class Generaliser(Protocol):
    """Something that learns from events and judges others."""

    name: str

    def learn(self, run: Run) -> None:
        """Take in one run of a service."""

    def novel(self, run: Run) -> dict[Key, Event]:
        """What of another run it does not know, as it happened: each key with its first event."""

    def admits(self, path: str) -> bool:
        """Whether some program may bring this path about."""

    def keys(self) -> int:
        """How many keys the model has."""

    def close(self) -> None:
        """Let go of what it keeps on disk."""


class Ours:
    """Rote's own model, by the code that learns in the daemon."""

    name = "ours"

    def __init__(self) -> None:
        self._folder = tempfile.TemporaryDirectory(prefix="rote-compare-")
        self._store = ModelStore(Path(self._folder.name, "models.db"))
        self._now = 0.0  # seconds, as the events say them; a later run begins later
        self._registry = ModelRegistry(self._store, LearningSettings(), clock=lambda: self._now)
        self._runs = 0
        self.model: Model | None = None

    def learn(self, run: Run) -> None:
        """See ``Generaliser.learn``."""
        container = _container(f"run {self._runs}")
        self._runs += 1
        model = self.model = self._registry.attach(container, complete=True)
        init_pid = next((event.pid for event in run.events if not event.program), 0)
        began = self._now
        for event in run.events:
            now = began + event.time_ns / 1e9
            if now >= self._now + _TICK_SECONDS:
                self._now = now
                self._registry.tick(now)
            judgement = self._registry.judge(model, event)
            self._registry.learn(model, judgement, event, container.id, init_pid=init_pid)
        self._now += _TICK_SECONDS
        self._registry.tick(self._now)
        self._registry.detach(container.id)

    def novel(self, run: Run) -> dict[Key, Event]:
        """See ``Generaliser.novel``."""
        assert self.model is not None
        self._registry.activate(self.model)
        found: dict[Key, Event] = {}
        for event in run.events:
            for key in self._registry.judge(self.model, event).novel:
                found.setdefault(key, event)
        return found

    def admits(self, path: str) -> bool:
        """See ``Generaliser.admits``."""
        assert self.model is not None
        return any(operation & PLANTING for _, operation in self.model.changers(path))

    def keys(self) -> int:
        """See ``Generaliser.keys``."""
        assert self.model is not None
        return len(self.model.keys)

    def close(self) -> None:
        """See ``Generaliser.close``."""
        self._store.close()
        self._folder.cleanup()


class Exact:
    """Every path as it is."""

    name = "exact"

    def __init__(self) -> None:
        self._known: set[Key] = set()
        self._planted: set[str] = set()

    def learn(self, run: Run) -> None:
        """See ``Generaliser.learn``."""
        for _, key in run.keys:
            self._known.add(key)
            if isinstance(key, WriteKey) and key.operation & PLANTING:
                self._planted.add(key.pattern)

    def novel(self, run: Run) -> dict[Key, Event]:
        """See ``Generaliser.novel``."""
        found: dict[Key, Event] = {}
        for event, key in run.keys:
            if key not in self._known:
                found.setdefault(key, event)
        return found

    def admits(self, path: str) -> bool:
        """See ``Generaliser.admits``."""
        return Pattern.exact(path).text in self._planted

    def keys(self) -> int:
        """See ``Generaliser.keys``."""
        return len(self._known)

    def close(self) -> None:
        """See ``Generaliser.close``."""


class _Node:
    """A directory or file of a trie that folds its children when there are too many."""

    __slots__ = ("children", "ends")

    def __init__(self) -> None:
        self.children: dict[bytes, _Node] = {}
        self.ends = False


_WILD = b"*"


class Threshold:
    """More than so many names in a directory become one wildcard, and what is below them is merged.

    Source: the path analysers of the peers, Kubescape's ``dynamicpathdetector`` (threshold 50) and
    tools that start at three.
    """

    def __init__(self, siblings: int) -> None:
        self.name = f"siblings > {siblings}"
        self._siblings = siblings
        self._executions: set[Key] = set()
        self._tries: dict[tuple[Program, int], _Node] = {}

    def learn(self, run: Run) -> None:
        """See ``Generaliser.learn``."""
        for _, key in run.keys:
            if isinstance(key, ExecKey):
                self._executions.add(key)
            else:
                group = (key.program, int(key.operation))
                self._add(self._tries.setdefault(group, _Node()), _components(key))

    def _add(self, node: _Node, components: tuple[bytes, ...]) -> None:
        for part in components:
            if _WILD in node.children:
                node = node.children[_WILD]
                continue
            child = node.children.setdefault(part, _Node())
            if len(node.children) > self._siblings:
                child = _fold(node, self._siblings)
            node = child
        node.ends = True

    def novel(self, run: Run) -> dict[Key, Event]:
        """See ``Generaliser.novel``."""
        found: dict[Key, Event] = {}
        for event, key in run.keys:
            if isinstance(key, ExecKey):
                known = key in self._executions
            else:
                trie = self._tries.get((key.program, int(key.operation)))
                known = trie is not None and _matches(trie, _components(key))
            if not known:
                found.setdefault(key, event)
        return found

    def admits(self, path: str) -> bool:
        """See ``Generaliser.admits``."""
        return any(
            _matches(trie, split(path))
            for (_, operation), trie in self._tries.items()
            if operation & PLANTING
        )

    def keys(self) -> int:
        """See ``Generaliser.keys``."""
        return len(self._executions) + sum(map(_ends, self._tries.values()))

    def close(self) -> None:
        """See ``Generaliser.close``."""


def _fold(node: _Node, limit: int) -> _Node:
    """Make one wildcard of all children; it."""
    wild = _Node()
    for child in node.children.values():
        _merge(wild, child, limit)
    node.children = {_WILD: wild}
    return wild


def _merge(target: _Node, source: _Node, limit: int) -> None:
    target.ends |= source.ends
    for name, child in source.children.items():
        into = _WILD if _WILD in target.children else name
        _merge(target.children.setdefault(into, _Node()), child, limit)
        if len(target.children) > (1 if _WILD in target.children else limit):
            _fold(target, limit)


def _matches(node: _Node, components: tuple[bytes, ...]) -> bool:
    for part in components:
        child = node.children.get(part) or node.children.get(_WILD)
        if child is None:
            return False
        node = child
    return node.ends


def _ends(node: _Node) -> int:
    return node.ends + sum(map(_ends, node.children.values()))


def _components(key: WriteKey) -> tuple[bytes, ...]:
    return tuple(label.name for label in Pattern.parse(key.pattern).labels)


def _container(name: str) -> Container:
    return Container(name, "docker", "compared", Image("compared", "1", "", "sha256:" + "0" * 64))
