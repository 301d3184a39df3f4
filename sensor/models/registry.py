"""All models of this host: which container has which, what they learn, which state they are in."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace

from sensor.containers.container import Container
from sensor.errors import UsageError
from sensor.events import Actor, Event, EventFlag, EventKind, Operation
from sensor.models.arguments import MANY_SHAPES, exec_key
from sensor.models.counting import Counting
from sensor.models.evidence import see
from sensor.models.generalise import Generaliser, temporary_keys
from sensor.models.incidence import Trial
from sensor.models.inherit import find_parent, inherit, settle_inherited
from sensor.models.keys import ANY_ARGUMENTS, ExecKey, Key, WriteKey
from sensor.models.learning import LearningSettings, Move, next_state
from sensor.models.model import (
    Evidence,
    Judgement,
    Model,
    ModelState,
    Source,
    Transition,
    Verdict,
)
from sensor.models.phases import Phase
from sensor.models.static import static_keys
from sensor.models.store import ModelStore

_FINDING_SECONDS = 60.0


@dataclass(slots=True)
class Run:
    """One container's life under a model."""

    model: Model
    complete: bool  # watched from its first instruction
    since: float  # when observation was last added up
    starting_until: float = 0.0  # seconds since the epoch
    # Executed at start-up, after the first process executed something last.
    after_last: set[ExecKey] = field(default_factory=set)


class ModelRegistry:
    """The models, their containers, and time.

    Args:
        store: where models are kept.
        settings: how long they learn.
        clock: seconds since the epoch.
    """

    def __init__(
        self,
        store: ModelStore,
        settings: LearningSettings,
        *,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._store = store
        self._settings = settings
        self._clock = clock
        self._models = {model.id: model for model in store.load()}
        self._generalisers = {model.id: Generaliser(model.keys) for model in self._models.values()}
        self._runs: dict[str, Run] = {}
        # By then every container that runs has been found, also after a start of the daemon.
        self._looked_for_at = clock() + _FINDING_SECONDS
        self._counting = Counting(clock)
        self._changed: set[str] = set()
        self._widened: dict[str, list[Key]] = defaultdict(list)

    def attach(self, container: Container, *, complete: bool, continued: bool = False) -> Model:
        """The model of a container, made when there is none; its run begins.

        Args:
            container: who.
            complete: whether it is watched from its first instruction.
            continued: it ran before this daemon started, and the kernel side watched it since: its
                run goes on, if it is one that an earlier daemon noted.
        """
        model = self._models.get(container.model_id)
        if model is None:
            model = self.make(container)
        elif model.state is ModelState.ARCHIVED and not model.manual:
            self._move(model, model.standing, "a container of the image started again")
        now = self._clock()
        known = model.open_runs.get(container.id) if continued else None
        if container.id not in self._runs and known is None:
            model.containers += 1
            model.runs += 1
            model.complete_runs += complete
        complete, since = known or (complete, now)
        model.open_runs[container.id] = complete, since
        starting = now + self._settings.startup_pause if complete and known is None else 0.0
        self._runs[container.id] = Run(model, complete, now, starting)
        self._counting.started(container.id, model, complete=complete, since=since)
        model.last_used_ns = self._now_ns()
        self._touch(model)
        return model

    def make(self, container: Container) -> Model:
        """A new model for a container that has none."""
        now_ns = self._now_ns()
        model = Model(
            id=container.model_id,
            number=0,
            image=container.image,
            signature=container.launch_signature,
            created_ns=now_ns,
            updated_ns=now_ns,
            last_used_ns=now_ns,
        )
        model.history.append(
            Transition(now_ns, model.id, "", str(ModelState.LEARNING), "first container seen")
        )
        for key in static_keys(container):
            model.add(key, Evidence(now_ns, now_ns, 0, 0, 0, Source.STATIC))
        if parent := find_parent(container, self._models.values()):
            inherit(model, parent)
        model.number = self._store.add(model)
        self._models[model.id] = model
        self._generalisers[model.id] = Generaliser(model.keys)
        return model

    def detach(self, container_id: str) -> None:
        """A container's run ends. Unknown ids are ignored."""
        run = self._runs.pop(container_id, None)
        if run is not None:
            self._add_time(run, self._clock())
            self._started(run)
            self._counting.ended(container_id)
            run.model.open_runs.pop(container_id, None)
            run.model.last_used_ns = self._now_ns()
            self._touch(run.model)

    def note_active(self, container_id: str) -> None:
        """Something happened in a container, known or not: its minute counts."""
        self._counting.active(container_id)

    def is_due(self, model: Model, now: float) -> bool:
        """Whether a unit of a model is over, so that it is time for ``note_seen``."""
        return self._counting.observer(model).is_due(now)

    def note_seen(self, model: Model, keys: Iterable[Key], now: float) -> None:
        """The kernel saw these keys of a model since it was last asked (``Knowledge.take_seen``).

        Args:
            model: whose.
            keys: of the model; others are ignored.
            now: seconds since the epoch.
        """
        if self._counting.seen_by_kernel(model, keys, now):
            self._touch(model)

    def note_confirmed(
        self, model: Model, keys: Iterable[Key], event: Event, container_id: str, init_pid: int
    ) -> None:
        """A container showed inherited keys: they count for how much is still to come."""
        self._note_startup(event, container_id, init_pid)
        self._counting.observer(model).seen(keys, container_id)
        self._touch(model)

    def note_novelty(
        self, model: Model, judgement: Judgement, event: Event, container_id: str
    ) -> None:
        """A model that is active met something new that it would have learned before."""
        if model.judges and event.actor is not Actor.SESSION and judgement.learnable:
            self._counting.met_while_active(model, judgement.learnable, event, container_id)
            self._touch(model)

    def get(self, name: str) -> Model:
        """The model that a person means.

        Args:
            name: its id, "#number", the image's reference, or an unambiguous prefix of any.

        Raises:
            UsageError: none, or more than one.
        """
        if name.startswith("#") and name[1:].isdigit():
            found = [m for m in self._models.values() if m.number == int(name[1:])]
        elif name in self._models:
            found = [self._models[name]]
        else:
            found = [m for m in self._models.values() if m.name == name] or [
                m
                for m in self._models.values()
                if m.id.startswith(name)
                or m.id.startswith(f"sha256:{name}")
                or m.name.startswith(name)
            ]
        if len(found) == 1:
            return found[0]
        known = ", ".join(f"#{m.number} {m.name}" for m in found or self._models.values())
        if found:
            raise UsageError(f"model {name!r}: {len(found)} models fit; name one of: {known}")
        raise UsageError(
            f"model {name!r}: not known; expected one of: {known or '(no models yet)'}"
        )

    def by_number(self, number: int) -> Model | None:
        """The model with the kernel's number, or None."""
        return next((m for m in self._models.values() if m.number == number), None)

    def all(self) -> list[Model]:
        """Every model, oldest first."""
        return sorted(self._models.values(), key=lambda model: model.number)

    def model_of(self, container_id: str) -> Model | None:
        """The model of a running container."""
        run = self._runs.get(container_id)
        return run.model if run else None

    def of_container(self, container: Container) -> Model | None:
        """The model that a container will have, or None while there is none."""
        return self._models.get(container.model_id)

    def judge(self, model: Model, event: Event) -> Judgement:
        """See ``Model.judge``."""
        return model.judge(event)

    def learn(
        self,
        model: Model,
        judgement: Judgement,
        event: Event,
        container_id: str,
        *,
        init_pid: int = 0,
    ) -> list[Key]:
        """Take in one event. In a dry run a novelty starts the dry run again.

        Returns:
            The keys that are new to the model, for the kernel.
        """
        if event.actor is Actor.SESSION:
            # What sessions do later is news, and stays it.
            for key in judgement.novel if not model.judges else ():
                see(model.sessions, key, event, container_id)
            self._touch(model)
            return []
        if judgement.verdict is Verdict.KNOWN or not judgement.learnable:
            return []
        self._note_startup(event, container_id, init_pid)
        new: list[Key] = []
        wider: list[Key] = [*temporary_keys(event)]
        generaliser = self._generalisers[model.id]
        for exact, key in zip(judgement.novel, judgement.learnable, strict=True):
            if see(model.keys, key, event, container_id, model):
                new.append(key)
                if isinstance(key, WriteKey) and isinstance(exact, WriteKey):
                    wider += generaliser.add(key, exact)
                elif isinstance(key, ExecKey) and len(model.shapes(key)) >= MANY_SHAPES:
                    wider.append(replace(key, shape=ANY_ARGUMENTS))
        for key in wider:
            if key not in model.keys and not model.trust.keeps_out(key):
                model.absorb(key, Evidence(event.time_ns, event.time_ns, source=Source.POPULATION))
                new.append(key)
        self._counting.observer(model).seen({*judgement.learnable, *wider}, container_id)
        if new and model.state is ModelState.DRY_RUN:
            self._counting.met_in_dry_run(model, new, container_id)
        self._touch(model)
        return new

    def _note_startup(self, event: Event, container_id: str, init_pid: int) -> None:
        """How long a run starts up, as far as what is new shows, and what its first process is."""
        run = self._runs.get(container_id)
        if run is None or event.kind is not EventKind.EXEC:
            return
        if event.flags & EventFlag.STARTUP:
            run.starting_until = self._clock() + self._settings.startup_pause
        if event.pid == init_pid and event.operation is Operation.EXEC:
            run.after_last.clear()
        elif event.flags & EventFlag.STARTUP and event.actor is Actor.SERVICE:
            run.after_last.add(exec_key(event))

    def _started(self, run: Run) -> None:
        """A run has started up: what came after its first process's last program is its own."""
        model = run.model
        for seen in run.after_last:
            for key in (seen, replace(seen, shape=ANY_ARGUMENTS)):
                evidence = model.keys.get(key)
                if evidence is not None and not evidence.phases & Phase.STEADY:
                    evidence.phases |= Phase.STEADY
                    self._widened[model.id].append(key)
        run.after_last.clear()

    def take_widened(self) -> list[tuple[Model, list[Key]]]:
        """Keys that are known for good since the last call, for the kernel."""
        widened, self._widened = self._widened, defaultdict(list)
        return [(self._models[i], keys) for i, keys in widened.items() if i in self._models]

    def note_lost(self, container_id: str, lost: int) -> None:
        """Events of a container were lost: its model's quiet time starts again."""
        run = self._runs.get(container_id)
        if run is None or lost <= 0:
            return
        model = run.model
        model.lost += lost
        if model.state in (ModelState.LEARNING, ModelState.DRY_RUN):
            model.lost_seconds = model.observed_seconds
            model.lost_starts = model.incidence.starts
            model.dry_run_seconds = 0.0
        # Nobody can say that it was quiet.
        self._counting.begin_trial(model, Trial(attempt=model.trial.attempt))
        self._touch(model)

    def tick(self, now: float) -> list[Transition]:
        """Add up time under observation; move models whose time has come."""
        for run in self._runs.values():
            self._add_time(run, now)
            if run.after_last and now >= run.starting_until:
                self._started(run)
        moved = []
        running = {run.model.id: run.model for run in self._runs.values()}
        for model in running.values():
            model.last_used_ns = int(now * 1e9)
            if not self._counting.observer(model).tick(now) and not self._settings.by_time(
                model.state
            ):
                continue  # no count has changed
            following = next_state(model, self._settings, int(now * 1e9))
            if following is not None:
                moved.append(self._follow(model, following))
        moved += self._archive_idle(running, now)
        return moved

    def _follow(self, model: Model, move: Move) -> Transition:
        transition = self._move(model, move.state, move.cause)
        model.unsettled = move.unsettled
        if move.state is ModelState.ACTIVE:
            model.in_active, model.novelties = Trial(), {}
            model.promise = model.trial.bound() if model.trial.weight >= 1 else 0.0
        return transition

    def _archive_idle(self, running: Mapping[str, Model], now: float) -> list[Transition]:
        """Archive models under which nothing has run for long. What a person set stays."""
        if now < self._looked_for_at:
            return []
        limit = int((now - self._settings.archive_after_seconds) * 1e9)
        idle = [
            model
            for model in self._models.values()
            if model.id not in running
            and not model.manual
            and model.state is not ModelState.ARCHIVED
            and model.last_used_ns <= limit
        ]
        hours = f"{self._settings.archive_after_seconds / 3600:.3g} h"
        return [
            self._move(model, ModelState.ARCHIVED, f"no container for {hours}") for model in idle
        ]

    def _add_time(self, run: Run, now: float) -> None:
        elapsed = max(0.0, now - run.since)
        run.since = now
        if elapsed:
            run.model.observed_seconds += elapsed
            run.model.steady_seconds += max(0.0, min(elapsed, now - run.starting_until))
            if run.model.state is ModelState.DRY_RUN:
                run.model.dry_run_seconds += elapsed
                run.model.dry_run_total += elapsed
            self._touch(run.model)

    def learn_again(self, model: Model) -> Transition:
        """Begin anew: everything learned goes."""
        model.keys.clear()
        model.sessions.clear()
        emptied = replace_contents(model)
        self._models[model.id] = emptied
        self._generalisers[model.id] = Generaliser()
        for run in self._runs.values():
            if run.model is model:
                run.model = emptied
        self._counting.replace(model, emptied)
        return self._move(emptied, ModelState.LEARNING, "a person let it learn anew")

    def extend(self, model: Model) -> Transition:
        """Learn on, keeping what is known."""
        model.lost_seconds = model.observed_seconds
        model.unsettled = frozenset()
        model.novelties.clear()
        return self._move(model, ModelState.LEARNING, "a person let it learn on")

    def activate(self, model: Model) -> Transition:
        """End learning now."""
        return self._move(model, ModelState.ACTIVE, "a person activated it", manual=True)

    def archive(self, model: Model) -> Transition:
        """Keep it, but judge nothing by it."""
        return self._move(model, ModelState.ARCHIVED, "a person archived it", manual=True)

    def restore(self, model: Model) -> Transition:
        """Take it out of the archive.

        Raises:
            UsageError: it is not archived.
        """
        if model.state is not ModelState.ARCHIVED:
            raise UsageError(
                f"model {model.name}: is {model.state}; only archived ones are restored"
            )
        return self._move(model, ModelState.ACTIVE, "a person restored it")

    def remove(self, model: Model) -> None:
        """Forget a model.

        Raises:
            UsageError: containers run under it.
        """
        users = [container for container, run in self._runs.items() if run.model is model]
        if users:
            raise UsageError(
                f"model {model.name}: {len(users)} running containers use it "
                f"({', '.join(u[:12] for u in users[:3])}); stop them, or use: rote models learn"
            )
        self._store.remove(model)
        del self._models[model.id]
        self._counting.forget(model)
        self._changed.discard(model.id)

    def take_in(
        self, model: Model, *, replace_existing: bool = False, merge: bool = False
    ) -> Model:
        """Add an imported model; the model as it now is.

        Raises:
            UsageError: there is one with its id, and neither replace nor merge was asked for.
        """
        existing = self._models.get(model.id)
        if existing is None:
            model.last_used_ns, model.open_runs = self._now_ns(), {}
            model.number = self._store.add(model)
            self._models[model.id] = model
            self._generalisers[model.id] = Generaliser(model.keys)
            return model
        if not replace_existing and not merge:
            raise UsageError(
                f"model {model.name} exists as #{existing.number}; "
                "expected --replace or --merge to say what is to become of it"
            )
        if replace_existing:
            self.learn_again(existing)
            existing = self._models[model.id]
            existing.state, existing.manual = model.state, model.manual
            existing.trust = model.trust
        for key, evidence in model.keys.items():
            if key not in existing.keys and key not in existing.trust.removed:
                existing.add(key, replace(evidence, source=Source.IMPORTED))
        existing.trust.capabilities |= model.trust.capabilities
        self._touch(existing)
        return existing

    def _move(
        self, model: Model, state: ModelState, cause: str, *, manual: bool = False
    ) -> Transition:
        transition = Transition(self._now_ns(), model.id, str(model.state), str(state), cause)
        if state is ModelState.ACTIVE:
            settle_inherited(model)
        model.state = state
        model.manual = manual
        model.dry_run_seconds = model.dry_run_total = 0.0
        if state is not ModelState.ARCHIVED:
            model.last_used_ns = transition.time_ns
        if state is ModelState.DRY_RUN:
            self._counting.begin_trial(model, Trial())
        model.history.append(transition)
        self._touch(model)
        self.flush()
        return transition

    def changed(self, model: Model) -> None:
        """A model was changed from outside; it is written with the next flush."""
        self._touch(model)

    def _touch(self, model: Model) -> None:
        model.updated_ns = self._now_ns()
        self._changed.add(model.id)

    def _now_ns(self) -> int:
        return int(self._clock() * 1e9)

    def flush(self) -> None:
        """Write what changed. A crash loses what was learned since the last flush.

        Raises:
            StateError: the store cannot be written; what changed is kept and tried again.
        """
        changed = [self._models[i] for i in self._changed if i in self._models]
        if changed:
            self._store.save(changed)
        self._changed.clear()


def replace_contents(model: Model) -> Model:
    """A model of the same identity that knows nothing."""
    return Model(
        id=model.id,
        number=model.number,
        image=model.image,
        signature=model.signature,
        containers=model.containers,
        runs=model.runs,
        created_ns=model.created_ns,
        history=model.history,
        last_used_ns=model.last_used_ns,
        open_runs=model.open_runs,
        trust=model.trust.decisions(),
    )
