"""A rule as the loop uses it: a scope, lists of what is allowed and denied, and actions."""

from __future__ import annotations

import fnmatch
import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace

from sensor.audits.audit import Action
from sensor.events import Detection, Event, EventKind, OperationClass, Origin
from sensor.models.keys import Program, written_paths
from sensor.paths import Pattern
from sensor.rules.detection import DENIALS
from sensor.rules.scope import Scope

ALL_OPERATIONS = OperationClass((OperationClass.LOAD_CODE << 1) - 1)
Hasher = Callable[[Event], str]
_RUN_TIME = (Origin.ADDED, Origin.TMPFS)


@dataclass(frozen=True, slots=True)
class ProgramMatch:
    """Programs that a rule names; everything that is given must match.

    ``path`` is a pattern, ``name`` a file name or an applet, wherever it lies; ``sha256`` of the
    file's content in hexadecimal; ``args`` a shell glob over the arguments after the first, joined
    by spaces; ``added`` says that it may have been written at run time.
    """

    path: Pattern | None = None
    name: str = ""
    sha256: str = ""
    args: str = ""
    added: bool = False

    @property
    def by_place(self) -> bool:
        """Whether path or name alone decide, so that the kernel can."""
        return not self.sha256 and not self.args

    def names_program(self, program: Program) -> bool:
        """Whether path and name fit."""
        if self.path is not None and not self.path.matches(program.path):
            return False
        return not self.name or self.name in (program.path.rpartition("/")[2], program.applet)

    def matches(self, event: Event, sha256: Hasher) -> bool:
        """Whether an execution is meant.

        Args:
            event: the execution.
            sha256: gives the digest of the program's file, or "" when it cannot be read.
        """
        if not self.names_program(Program(event.path, event.applet)):
            return False
        if self.args and not fnmatch.fnmatchcase(" ".join(event.argv[1:]), self.args):
            return False
        return not self.sha256 or sha256(event) == self.sha256

    @property
    def text(self) -> str:
        """For a person: ``/usr/bin/nc``, ``name nc``, ``/bin/sh with args *-c*``."""
        parts = [self.path.text] if self.path is not None else []
        parts += [f"name {self.name}"] if self.name else []
        parts += [f"sha256 {self.sha256[:12]}…"] if self.sha256 else []
        parts += [f"with args {self.args}"] if self.args else []
        return " ".join(parts)


@dataclass(frozen=True, slots=True)
class PathMatch:
    """Changes that a rule names: of what, by which program (empty: any), in which ways."""

    path: Pattern
    by: str = ""
    operations: OperationClass = ALL_OPERATIONS

    def matches(self, program: Program, path: str, operation: OperationClass) -> bool:
        """Whether a change of an absolute path is meant."""
        return (
            bool(operation & self.operations)
            and (not self.by or self.by in (program.path, str(program)))
            and self.path.matches(path)
        )

    @property
    def text(self) -> str:
        """For a person."""
        by = f" by {self.by}" if self.by else ""
        ways = "" if self.operations == ALL_OPERATIONS else f" ({_names(self.operations)})"
        return f"{self.path.text}{by}{ways}"


def _names(operations: OperationClass) -> str:
    return ", ".join((o.name or "").lower() for o in OperationClass if o in operations)


@dataclass(frozen=True, slots=True)
class Lists:
    """What a rule allows and denies beyond the model. Equal ones share a place in the kernel."""

    allow_programs: tuple[ProgramMatch, ...] = ()
    deny_programs: tuple[ProgramMatch, ...] = ()
    allow_paths: tuple[PathMatch, ...] = ()
    deny_paths: tuple[PathMatch, ...] = ()
    session_programs: tuple[ProgramMatch, ...] = ()  # what may come in from outside

    def denied_program(self, event: Event, sha256: Hasher) -> ProgramMatch | None:
        """The entry that denies an execution."""
        return next((m for m in self.deny_programs if m.matches(event, sha256)), None)

    def allowed_program(self, event: Event, sha256: Hasher) -> ProgramMatch | None:
        """The entry that allows an execution; memory is never allowed."""
        if event.origin is Origin.MEMORY:
            return None
        entering = not event.program and event.actor != 1
        for match in self.session_programs if entering else self.allow_programs:
            if event.origin in _RUN_TIME and not match.added:
                continue
            if match.matches(event, sha256):
                return match
        return None

    def denied_change(
        self, program: Program, path: str, operation: OperationClass
    ) -> PathMatch | None:
        """The entry that denies a change."""
        return next((m for m in self.deny_paths if m.matches(program, path, operation)), None)

    def allowed_change(
        self, program: Program, path: str, operation: OperationClass
    ) -> PathMatch | None:
        """The entry that allows a change."""
        return next((m for m in self.allow_paths if m.matches(program, path, operation)), None)

    def denies(self, event: Event, sha256: Hasher) -> str:
        """What denies an event, for a person; empty when nothing does."""
        if event.kind is EventKind.EXEC:
            program = self.denied_program(event, sha256)
            return program.text if program else ""
        acting = Program(event.program, event.applet)
        for path, operation in written_paths(event):
            if change := self.denied_change(acting, path, operation):
                return change.text
        return ""


EMPTY = Lists()


@dataclass(frozen=True, slots=True)
class Rule:
    """One rule of kind ``container``."""

    name: str
    scope: Scope = Scope()
    actions: Mapping[Detection, Action] = field(default_factory=dict, hash=False)
    explicit: frozenset[Detection] = frozenset()  # the file names an action for these
    lists: Lists = EMPTY
    protected: bool = False  # never blocked or quarantined
    allow_on_error: bool | None = None  # None: as the daemon was told
    quarantine: bool = False  # block by cutting off from the network instead of stopping
    grace_seconds: float | None = None
    evidence_filesystem: bool = False
    message: str = ""
    source: str = ""  # FILE:LINE, or the flag it comes from

    def action(self, detection: Detection) -> Action:
        """What a deviation of this kind leads to."""
        return self.actions.get(detection, Action.ALERT)

    def only_telling(self, detections: frozenset[Detection]) -> Rule:
        """This rule, except that these kinds of deviation are told and nothing more."""
        strong = (Action.PREVENT, Action.BLOCK)
        softer = {d: Action.ALERT for d in detections if self.action(d) in strong}
        return replace(self, actions={**self.actions, **softer}) if softer else self

    def holds_without_model(self, detection: Detection) -> bool:
        """Whether the action counts before the model is active.

        What a person denied by name; and sessions, where the rule says so itself.
        """
        return detection in DENIALS or (
            detection is Detection.EXEC_SESSION and detection in self.explicit
        )

    def refused(self, *, active: bool) -> int:
        """The mask of detections that are refused.

        Args:
            active: the container's model is active.
        """
        return sum(
            1 << detection
            for detection in Detection
            if detection
            and self.action(detection) in (Action.PREVENT, Action.BLOCK)
            and (active or self.holds_without_model(detection))
        )

    def ignored(self, *, active: bool) -> int:
        """The mask of detections that nobody is told of; a model that learns is told all."""
        if not active:
            return 0
        return sum(
            1 << detection
            for detection in Detection
            if detection and self.action(detection) is Action.IGNORE
        )

    @property
    def marks_protected(self) -> bool:
        """Whether the kernel has to tell writes to protected places from others."""
        return self.action(Detection.PROTECTED_WRITE) != self.action(Detection.UNKNOWN_WRITE)

    @property
    def fingerprint(self) -> str:
        """What tells its contents in the kernel from another rule's; empty when there are none."""
        if self.lists == EMPTY and not self.marks_protected:
            return ""
        text = f"{self.lists!r}{self.marks_protected}"
        return hashlib.sha256(text.encode("utf-8", "surrogateescape")).hexdigest()[:16]


def uniform(name: str, scope: Scope, action: Action, *, source: str = "") -> Rule:
    """A rule with one action for everything."""
    actions = {detection: action for detection in Detection if detection}
    return Rule(name, scope, actions, source=source)
