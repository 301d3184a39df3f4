"""What people and caution decided about a model: what it may not learn, and what it may run.

The keys themselves are in ``Model.keys``; here is what keeps others out, what waits for a person,
and what an earlier image's model said.
"""

from __future__ import annotations

import hashlib
import posixpath
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from sensor.errors import UsageError
from sensor.events import Event, EventKind, OperationClass, Origin, WalkEnd
from sensor.models.keys import ANY_ARGUMENTS, ExecKey, Key, Program, WriteKey
from sensor.paths import Label, Match, Pattern, is_protected

if TYPE_CHECKING:
    from sensor.models.model import Evidence, Model

GRANTED = (
    OperationClass.WRITE
    | OperationClass.REMOVE
    | OperationClass.RENAME
    | OperationClass.LINK
    | OperationClass.MKDIR
    | OperationClass.ATTRIBUTES
)
_TRIED_MAX = 256  # programs made at run time that a model remembers for its suggestions
_SINGLETON_RUNS = 3  # with fewer runs, that a key was seen in one of them says nothing
_HOMES = "/root/"  # protected for its keys and start-up files, but people build there
_WRITTEN = (OperationClass.WRITE, OperationClass.RENAME, OperationClass.LINK)


@dataclass(frozen=True, slots=True, order=True)
class WritesAndExecutes:
    """``by`` may make programs below a directory, and the model may execute them.

    ``directory`` is the text form of a pattern that ends in ``**``.
    """

    directory: str
    by: Program

    @property
    def pattern(self) -> Pattern:
        """Everything below the directory."""
        return Pattern.parse(self.directory)

    def __str__(self) -> str:
        return f"what {self.by} makes below {self.directory.removesuffix('/**')}"


def writes_and_executes(directory: str, by: str) -> WritesAndExecutes:
    """A capability as a person asks for it.

    Args:
        directory: a pattern; ``/**`` at its end may be left out.
        by: the program that writes: its absolute path, with ``#APPLET`` where it is one of many.

    Raises:
        UsageError: it is no pattern, or too wide, or the program is no absolute path.
    """
    pattern = Pattern.parse(directory)
    if not pattern.labels or pattern.labels[-1].match is not Match.SUBTREE:
        pattern = Pattern((*pattern.labels, Label(Match.SUBTREE)))
    base = Pattern(pattern.labels[:-1])
    if not base.labels or all(label.match is Match.ANY for label in base.labels):
        raise UsageError(f"directory {directory!r}: is everything; expected one like /src/**")
    if is_protected(f"{base.text}/") and not f"{base.text}/".startswith(_HOMES):
        raise UsageError(
            f"directory {directory!r}: is a protected place (programs, libraries, accounts); "
            "expected a directory of the build"
        )
    path, _, applet = by.partition("#")
    if not path.startswith("/") or posixpath.normpath(path) != path:
        raise UsageError(f"program {by!r}: expected an absolute path, as rote models show says it")
    return WritesAndExecutes(pattern.text, Program(path, applet))


@dataclass(slots=True)
class Held:
    """A key that waits for a person."""

    evidence: Evidence
    reason: str


@dataclass(slots=True)
class Trust:
    """What is decided about a model beside its keys."""

    removed: dict[Key, int] = field(default_factory=dict)  # by a person → when
    held: dict[Key, Held] = field(default_factory=dict)
    inherited: dict[Key, Evidence] = field(default_factory=dict)  # not seen with this image yet
    inherited_from: str = ""  # id of the earlier image's model
    checked: bool = True  # what the new image does not hold any more is dropped
    capabilities: set[WritesAndExecutes] = field(default_factory=set)
    # Programs made at run time, with who executed them → how often; for suggestions.
    tried: dict[tuple[str, Program], int] = field(default_factory=dict)
    untaught: int = 0  # how often something was not learned for who did it

    def decisions(self) -> Trust:
        """What people decided: stays when a model learns anew."""
        return Trust(
            removed=dict(self.removed),
            capabilities=set(self.capabilities),
            inherited_from=self.inherited_from,
        )

    def may_execute(self, event: Event) -> bool:
        """Whether a capability covers an execution of what was made at run time.

        Coming in from outside is never covered, and memory is not below any directory.
        """
        if event.kind is not EventKind.EXEC or event.origin is Origin.MEMORY:
            return False
        if not event.program or event.walk_end not in (WalkEnd.ROOT, WalkEnd.BY_NAME):
            return False
        return any(found.pattern.matches(event.path) for found in self.capabilities)

    def may_write(self, program: Program, path: str, operation: int) -> bool:
        """Whether a capability covers a change of an absolute path."""
        return bool(operation & GRANTED) and any(
            found.by == program and found.pattern.matches(path) for found in self.capabilities
        )

    def note_tried(self, event: Event) -> None:
        """Remember that something made at run time was executed."""
        if event.kind is not EventKind.EXEC or event.origin is Origin.MEMORY or not event.program:
            return
        key = event.path, Program(event.program, event.program_applet)
        if key in self.tried or len(self.tried) < _TRIED_MAX:
            self.tried[key] = self.tried.get(key, 0) + 1

    def lift(self, keys: Iterable[Key]) -> None:
        """A person wants these keys: nothing keeps them out any more."""
        for key in keys:
            # Accepted whatever its arguments are, an interpreter is so with each of them.
            for gone in [
                gone for gone in self.removed if gone == key or _differs_in_shape(gone, key)
            ]:
                del self.removed[gone]
            self.held.pop(key, None)
            self.inherited.pop(key, None)


def key_id(key: Key) -> str:
    """Eight hexadecimal digits by which people name a key."""
    return hashlib.sha256(repr(key).encode("utf-8", "surrogateescape")).hexdigest()[:8]


def singletons(model: Model) -> list[Key]:
    """Learned keys that were seen in one run only, of three or more.

    A key that the kernel knows is not reported again, so this says something only once others
    have been counted in several runs.
    """
    if model.runs < _SINGLETON_RUNS or all(e.runs < 2 for e in model.keys.values()):
        return []
    return [
        key
        for key, evidence in model.keys.items()
        if evidence.runs == 1 and str(evidence.source) == "learned"
    ]


@dataclass(frozen=True, slots=True)
class Suggestion:
    """A capability that a model seems to need, and why."""

    capability: WritesAndExecutes
    programs: tuple[str, ...]  # what was made and executed
    executed_by: tuple[str, ...]
    count: int


def suggestions(model: Model) -> list[Suggestion]:
    """Capabilities that would cover what a model's programs made and executed.

    Who made a program is taken from what the model learned of writes; what a session or a
    suspicious process made is not learned, and so is never suggested.
    """
    made: dict[Program, dict[str, set[str]]] = defaultdict(lambda: defaultdict(set))
    for path, executor in model.trust.tried:
        for writer in _writers(model, path):
            made[writer][path].add(str(executor))
    found: list[Suggestion] = []
    for writer, paths in made.items():
        for directory in _directories(paths):
            below = [path for path in paths if path.startswith(f"{directory}/")]
            try:
                text = Pattern.exact(directory).text
                capability = writes_and_executes(text, str(writer))
            except UsageError:
                continue  # too wide, or a protected place
            if capability in model.trust.capabilities:
                continue
            executors = sorted({name for path in below for name in paths[path]})
            count = sum(n for (path, _), n in model.trust.tried.items() if path in below)
            found.append(Suggestion(capability, tuple(sorted(below)), tuple(executors), count))
    return sorted(found, key=lambda one: one.capability)


def _writers(model: Model, path: str) -> set[Program]:
    return {
        key.program
        for key in model.keys
        if isinstance(key, WriteKey)
        and key.operation in _WRITTEN
        and Pattern.parse(key.pattern).matches(path)
    }


def _directories(paths: Iterable[str]) -> list[str]:
    """The smallest directories that hold these paths, never the root itself."""
    below: dict[str, list[str]] = defaultdict(list)
    for path in paths:
        below[path.split("/")[1]].append(posixpath.dirname(path))
    return sorted(posixpath.commonpath(found) for found in below.values())


def known_as_service(model: Model, program: Program) -> bool:
    """Whether the model knows a program as one of the image that the service executes."""
    return any(
        isinstance(key, ExecKey)
        and key.program == program
        and key.origin in (Origin.IMAGE, Origin.UNKNOWN)
        and key.actor.name != "SESSION"
        for key in model.keys
    )


def _differs_in_shape(one: Key, whole: Key) -> bool:
    if not isinstance(one, ExecKey) or not isinstance(whole, ExecKey):
        return False
    return whole.shape == ANY_ARGUMENTS and replace(one, shape=ANY_ARGUMENTS) == whole
