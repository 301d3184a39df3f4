"""One model: what was learned of one image, how, and the answer to one event."""

from __future__ import annotations

import enum
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace

from sensor.containers.container import Image
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
from sensor.models.arguments import exec_key, shapes
from sensor.models.incidence import Incidence, Trial
from sensor.models.keys import ANY_ARGUMENTS, ExecKey, Key, Program, WriteKey, written_paths
from sensor.models.phases import ALWAYS, SETTLED_SECONDS, Phase
from sensor.models.trie import PathTrie
from sensor.models.trust import Trust
from sensor.paths import Pattern, generalise, is_protected


class ModelState(enum.StrEnum):
    """The life of a model (learning.md 3.2)."""

    LEARNING = "learning"
    DRY_RUN = "dry-run"
    ACTIVE = "active"
    SUSPECT = "suspect"  # active, but wrong more often than it promised; a person is asked
    ARCHIVED = "archived"


_SETTLED = (ModelState.ACTIVE, ModelState.SUSPECT, ModelState.ARCHIVED)


class Source(enum.StrEnum):
    """How a key came into a model."""

    LEARNED = "learned"
    STATIC = "static"  # the image's entrypoint, command, health check
    POPULATION = "population"  # several learned siblings made one pattern
    IMPORTED = "imported"
    INHERITED = "inherited"  # an earlier image's model knew it; unconfirmed while its count is 0
    ACCEPTED = "accepted"  # a person accepted an audit


@dataclass(slots=True)
class Evidence:
    """How a key was seen. Counts are lower bounds: what is known the kernel does not report."""

    first_ns: int
    last_ns: int
    count: int = 1
    containers: int = 1
    runs: int = 1
    source: Source = Source.LEARNED
    phases: Phase = ALWAYS
    last_container: str = field(default="", compare=False)  # not kept in the store


@dataclass(frozen=True, slots=True)
class Transition:
    """One change of state, and why."""

    time_ns: int
    model_id: str
    old: str
    new: str
    cause: str


class Verdict(enum.StrEnum):
    """The answer for one event."""

    KNOWN = "known"
    NOVEL = "novel"


@dataclass(frozen=True, slots=True)
class Judgement:
    """The verdict, and what learning would make of it."""

    verdict: Verdict
    novel: tuple[Key, ...] = ()  # as it happened: exact
    learnable: tuple[Key, ...] = ()  # as it would be learned; empty when it must not be
    known_program: bool = False  # EXEC: the program is known under another parent
    known_otherwise: Detection = Detection.NONE  # EXEC: known, but at start-up only
    reason: str = ""


@dataclass(slots=True)
class Model:
    """What one image does when it is started in one way."""

    id: str
    number: int
    image: Image
    signature: str
    state: ModelState = ModelState.LEARNING
    manual: bool = False  # a person set the state; time does not move it
    keys: dict[Key, Evidence] = field(default_factory=dict)
    sessions: dict[Key, Evidence] = field(default_factory=dict)
    observed_seconds: float = 0.0
    dry_run_seconds: float = 0.0
    extensions: int = 0  # how often a novelty sent the dry run back to its start
    containers: int = 0
    runs: int = 0
    complete_runs: int = 0
    lost: int = 0  # events lost while it learned
    lost_seconds: float = 0.0  # value of observed_seconds when events were last lost
    lost_starts: int = 0  # value of incidence.starts then
    dry_run_total: float = 0.0  # seconds in this dry run, however often it began again
    incidence: Incidence = field(default_factory=Incidence)
    trial: Trial = field(default_factory=Trial)  # since it learned last: what the bound rests on
    in_active: Trial = field(default_factory=Trial)  # since it became active
    promise: float = 0.0  # share of units with something new, at most; 0: nothing was promised
    novelties: dict[Key, Evidence] = field(default_factory=dict)  # new while active, not learned
    unsettled: frozenset[str] = frozenset()  # kinds that did not converge: alert-only
    last_used_ns: int = 0  # a container ran under it, or a person set its state
    open_runs: dict[str, tuple[bool, float]] = field(default_factory=dict)  # complete, since
    created_ns: int = 0
    updated_ns: int = 0
    history: list[Transition] = field(default_factory=list)
    steady_seconds: float = 0.0  # observed after start-ups, over all runs
    trust: Trust = field(default_factory=Trust)
    _writes: PathTrie[tuple[Program, int]] = field(default_factory=PathTrie)
    _programs: dict[Program, int] = field(default_factory=dict)
    _bases: dict[ExecKey, set[ExecKey]] = field(default_factory=dict)  # by shape → these

    def __post_init__(self) -> None:
        for key in self.keys:
            self._index(key)

    @property
    def name(self) -> str:
        """How people call it: the image's reference."""
        return self.image.reference

    @property
    def judges(self) -> bool:
        """Whether rules act on what it does not know."""
        return self.state in (ModelState.ACTIVE, ModelState.SUSPECT)

    @property
    def standing(self) -> ModelState:
        """The state for a container that starts now: time takes a model out of the archive."""
        if self.state is ModelState.ARCHIVED and not self.manual and self.history:
            return ModelState(self.history[-1].old or ModelState.LEARNING)
        return self.state

    @property
    def since_ns(self) -> int:
        """When it came into its state."""
        return self.history[-1].time_ns if self.history else self.created_ns

    def trials(self) -> list[Trial]:
        """The hold-outs that are under way."""
        return [self.trial, self.in_active] if self.judges else [self.trial]

    def add(self, key: Key, evidence: Evidence) -> None:
        """Let the model know a key."""
        if key not in self.keys:
            self._index(key)
        self.keys[key] = evidence

    def shapes(self, key: ExecKey) -> set[ExecKey]:
        """The keys of one execution that differ in nothing but the shape of the arguments."""
        return self._bases.get(_base(key), set())

    def absorb(self, key: Key, evidence: Evidence) -> None:
        """Let the model know a wider key, in place of those that it covers."""
        if isinstance(key, ExecKey):
            evidence.phases = Phase(0)
            covered: list[Key] = list(self._bases.pop(_base(key), ()))
        else:
            covered = list(self._covered(key))
        for known in covered:
            old = self.keys.pop(known)
            evidence.phases |= old.phases
            evidence.first_ns = min(evidence.first_ns, old.first_ns)
            evidence.containers = max(evidence.containers, old.containers)
            evidence.runs = max(evidence.runs, old.runs)
            evidence.count += old.count
        self.add(key, evidence)

    def _covered(self, key: WriteKey) -> Iterator[WriteKey]:
        pattern = Pattern.parse(key.pattern)
        for known in self.keys:
            if (
                isinstance(known, WriteKey)
                and (known.program, known.operation) == (key.program, key.operation)
                and pattern.covers(Pattern.parse(known.pattern))
            ):
                yield known

    def is_startup_only(self, key: Key) -> bool:
        """Whether a key is known at start-up only.

        While the model learns, to find out whether it is; later, if enough was watched to say so.
        """
        evidence = self.keys.get(key)
        if not isinstance(key, ExecKey) or evidence is None or evidence.phases & Phase.STEADY:
            return False
        if key.actor is not Actor.SERVICE or not key.parent.path:
            return False
        return self.state not in _SETTLED or self.steady_seconds >= SETTLED_SECONDS

    def remove(self, keys: Iterable[Key]) -> list[Key]:
        """Let the model know some keys no more; which of them it knew."""
        gone = [key for key in keys if self.keys.pop(key, None) is not None]
        self._writes, self._programs, self._bases = PathTrie(), {}, {}
        for key in self.keys:
            self._index(key)
        return gone

    @property
    def inherited_from(self) -> str:
        """The id of the earlier image's model that it started from, or empty."""
        return self.trust.inherited_from

    @property
    def unconfirmed(self) -> int:
        """How many of its inherited keys were not seen with this image yet."""
        return sum(key not in self.keys for key in self.trust.inherited) + sum(
            e.source is Source.INHERITED and not e.count for e in self.keys.values()
        )

    def _index(self, key: Key) -> None:
        if isinstance(key, WriteKey):
            self._writes.insert(Pattern.parse(key.pattern), (key.program, int(key.operation)))
        else:
            self._programs[key.program] = self._programs.get(key.program, 0) + 1
            if key.shape != ANY_ARGUMENTS:
                self._bases.setdefault(_base(key), set()).add(key)

    def executes(self, program: Program) -> bool:
        """Whether it knows that somebody executes a program."""
        return program in self._programs

    def image_programs(self) -> list[str]:
        """The programs that it knows, by name."""
        return sorted(str(program) for program in self._programs)

    def writes(self, program: Program, path: str, operation: int, *, shipped: bool = False) -> bool:
        """Whether the model knows this change of an absolute path by this program.

        Args:
            program: who.
            path: what.
            operation: its class.
            shipped: whether the file came with the image: what holds for any name does not then.
        """
        known = self._writes.lookup(path, any_name=not shipped)
        return (program, operation) in known or self.trust.may_write(program, path, operation)

    def changers(self, path: str) -> frozenset[tuple[Program, int]]:
        """Who may change an absolute path, and how: each program with a kind of change."""
        return self._writes.lookup(path)

    def judge(self, event: Event) -> Judgement:
        """Whether the model knows what happened, and what it would learn from it."""
        if event.kind is EventKind.EXEC:
            return self._judge_execution(event)
        return self._judge_change(event)

    def _judge_execution(self, event: Event) -> Judgement:
        key = exec_key(event)
        # The letters of a path mean nothing where it does not start at the container's root.
        found = None if unknowable(event) else self._known_as(key, event)
        is_late = (
            found is not None
            and self.is_startup_only(found)
            and not event.flags & EventFlag.STARTUP
        )
        if found is not None and not is_late:
            return Judgement(Verdict.KNOWN)
        if not unknowable(event) and self.trust.may_execute(event):
            return Judgement(Verdict.KNOWN)
        refusal = _refusal(event) or _program_refusal(event)
        return Judgement(
            Verdict.NOVEL,
            novel=(key,),
            learnable=() if refusal else (key,),
            known_program=key.program in self._programs,
            known_otherwise=self._otherwise(key, is_late=is_late),
            reason=refusal,
        )

    def _otherwise(self, key: ExecKey, *, is_late: bool) -> Detection:
        if is_late:
            return Detection.STARTUP_PROGRAM
        bases = [_base(key)]
        if key.parent.path:
            bases.append(replace(bases[0], actor=Actor.SERVICE))
        if any(base in self._bases for base in bases):
            return Detection.UNKNOWN_ARGUMENTS
        return Detection.NONE

    def _known_as(self, key: ExecKey, event: Event) -> ExecKey | None:
        """The key itself if it is known; for sessions and probes what the service does as well.

        Coming in is not: that the runtime started the service with a shell says nothing about
        who enters with one later.
        """
        called = shapes(key.program, event.argv) if key.shape != ANY_ARGUMENTS else ()
        wanted = [key, *(replace(key, shape=label) for label in called), _base(key)]
        if key.actor is not Actor.SERVICE and key.parent.path:
            of_service = replace(key, actor=Actor.SERVICE)
            wanted += [replace(of_service, shape=s) for s in shapes(key.program, event.argv)]
            wanted.append(of_service)
        found = next((known for known in wanted if known in self.keys), None)
        if found is None and key in self.sessions and key.parent.path:
            return None if _program_refusal(event) else key  # as somebody did while it learned
        if found is None and event.flags & EventFlag.BEFORE:
            # How it would have been called was not settled yet.
            return next(iter(self._bases.get(_base(key), ())), None)
        return found

    def _judge_change(self, event: Event) -> Judgement:
        program = Program(event.program, event.applet)
        novel: list[Key] = []
        learnable: list[Key] = []
        refusal = _refusal(event)
        can_be_known = not unknowable(event)
        shipped = event.origin is Origin.IMAGE or bool(event.flags & EventFlag.SHIPPED)
        for path, operation in written_paths(event):
            exact = WriteKey(program, Pattern.exact(path).text, operation)
            if can_be_known and (
                self.writes(program, path, int(operation), shipped=shipped)
                or self._session_did(exact, event)
            ):
                continue
            novel.append(exact)
            pattern = Pattern.exact(path) if shipped else _pattern(path, event.origin)
            learnable.append(WriteKey(program, pattern.text, operation))
        if not novel:
            return Judgement(Verdict.KNOWN)
        return Judgement(
            Verdict.NOVEL,
            novel=tuple(novel),
            learnable=() if refusal else tuple(learnable),
            reason=refusal,
        )

    def _session_did(self, key: WriteKey, event: Event) -> bool:
        """Whether a session did this while the model learned, and it is nobody's to worry about."""
        if event.actor is not Actor.SESSION or key not in self.sessions:
            return False
        return not any(is_protected(path) for path, _ in written_paths(event))


def _base(key: ExecKey) -> ExecKey:
    return replace(key, shape=ANY_ARGUMENTS)


def _pattern(path: str, origin: Origin) -> Pattern:
    """How a written path is remembered: by classes, unless its very name matters."""
    if origin is Origin.IMAGE or is_protected(path):
        return Pattern.exact(path)
    return generalise(path)


def _refusal(event: Event) -> str:
    """Why nothing may be learned from an event, or empty."""
    if event.actor is Actor.SESSION:
        return "a session's activity is not the service's"
    return unknowable(event)


def unknowable(event: Event) -> str:
    """Why an event's paths do not say which object it was, or empty."""
    if event.walk_end not in (WalkEnd.ROOT, WalkEnd.BY_NAME):
        return f"the object's walk ended elsewhere ({event.walk_end.name.lower()})"
    if event.walk_end2 not in (WalkEnd.NONE, WalkEnd.ROOT, WalkEnd.BY_NAME):
        return f"the second object's walk ended elsewhere ({event.walk_end2.name.lower()})"
    if event.flags & (EventFlag.PATH_TRUNCATED | EventFlag.PATH2_TRUNCATED):
        return "the path is not whole"
    if event.flags & EventFlag.PROGRAM_TRUNCATED:
        return "the acting program's path is not whole"
    return ""


def _program_refusal(event: Event) -> str:
    if event.origin is Origin.MEMORY:
        return "the program has no file"
    if event.origin in (Origin.ADDED, Origin.TMPFS) and event.operation is not Operation.SCRIPT:
        return "the program was written or changed at run time"
    return ""
