"""When learning ends."""

from __future__ import annotations

from dataclasses import dataclass

from sensor.models.estimate import poisson_tail
from sensor.models.incidence import UNIT, UNIT_SECONDS
from sensor.models.inherit import holds_again
from sensor.models.model import Model, ModelState
from sensor.models.outlook import Prospect, bound_a_day, percent, prospects

STARTS_MIN = 2
_UNITS_LEAST = 10  # fewer say nothing, however short a person wants learning to be
_UNITS_ENOUGH = 60  # with so many, the estimates decide
_NOVELTIES_MIN = 10  # fewer never make a model suspect
_BY_CHANCE = 0.001


@dataclass(frozen=True, slots=True)
class LearningSettings:
    """How sure a model must be, and the least and the most time that may take.

    Seconds, added up over an image's containers; 0 means at once. Where the least is None or equal
    to the most, that time alone decides, whatever the counts say.
    """

    learn_seconds: float = 86400.0  # at most
    dry_run_seconds: float = 259200.0  # at most
    startup_pause: float = 30.0  # without anything new: a start-up is over
    learn_min_seconds: float | None = None
    dry_run_min_seconds: float | None = None
    max_false_alarms_per_day: float = 1.0  # of one container, with 95 % confidence
    archive_after_seconds: float = 86400.0

    def by_time(self, state: ModelState) -> bool:
        """Whether a state ends by time alone, so that its end need not wait for a unit's."""
        if state is ModelState.LEARNING:
            return self.learns_by_time
        return state is ModelState.DRY_RUN and self.dry_runs_by_time

    @property
    def learns_by_time(self) -> bool:
        """Whether learning ends by time alone."""
        return self.learn_min_seconds in (None, self.learn_seconds)

    @property
    def dry_runs_by_time(self) -> bool:
        """Whether the dry run ends by quiet time alone."""
        return self.dry_run_min_seconds in (None, self.dry_run_seconds)


@dataclass(frozen=True, slots=True)
class Move:
    """Where a model goes by itself, why, and which kinds of keys did not converge."""

    state: ModelState
    cause: str
    unsettled: frozenset[str] = frozenset()


def next_state(model: Model, settings: LearningSettings, now_ns: int) -> Move | None:
    """The state that time and counts move a model to, or None while it stays."""
    if model.manual:
        return None
    if model.state is ModelState.LEARNING:
        return _after_learning(model, settings, now_ns)
    if model.state is ModelState.DRY_RUN:
        return _after_dry_run(model, settings, now_ns)
    if model.state is ModelState.ACTIVE:
        return _after_active(model)
    return None


def _after_learning(model: Model, settings: LearningSettings, now_ns: int) -> Move | None:
    # Loss while learning starts the clock again: what was lost may have been anything.
    clean = model.observed_seconds - model.lost_seconds
    if not model.runs:
        return None
    learned = f"learned {len(model.keys)} keys"
    if settings.learns_by_time:
        if clean < settings.learn_seconds:
            return None
        cause = f"{learned} for {_minutes(clean)} without loss in {model.runs} runs"
        return Move(ModelState.DRY_RUN, cause)
    incidence = model.incidence
    starts, units = incidence.starts, incidence.units[UNIT]
    found = prospects(model)
    basis = f"{learned} in {units} active minutes and {starts} start{'s' * (starts != 1)}"
    if _watched_enough(model, settings, clean) and all(p.converged for p in found):
        coverage = min(p.coverage for p in found)
        more = sum(p.expected for p in found)
        return Move(
            ModelState.DRY_RUN,
            f"{basis}: coverage {percent(coverage)}, {more:.1f} new keys expected in as many again",
        )
    if again := holds_again(model, _units_min(settings), now_ns):
        return Move(ModelState.DRY_RUN, again)
    spent = _age(model, now_ns) if incidence.short_lived and starts else clean
    if spent < settings.learn_seconds:
        return None
    lacks = [f"{p.kind} do not converge" for p in found if not p.settled]
    lacks += [p.lacking for p in found if p.lacking]
    if starts < STARTS_MIN:
        lacks.append(f"{starts or 'no'} start{'s' * (starts != 1)} seen from the beginning")
    if units < _units_min(settings):
        lacks.append("few active minutes")
    return Move(
        ModelState.DRY_RUN,
        f"upper limit of {_minutes(settings.learn_seconds)} reached; {basis}"
        + (f"; {'; '.join(lacks)}" if lacks else ""),
        _unsettled(found),
    )


def _watched_enough(model: Model, settings: LearningSettings, clean: float) -> bool:
    """Whether there is enough to make an estimate from."""
    incidence = model.incidence
    if incidence.starts < STARTS_MIN:
        return False
    if incidence.short_lived:
        return incidence.starts - model.lost_starts >= _units_min(settings)
    least = settings.learn_min_seconds or 0.0
    return clean >= least and incidence.units[UNIT] >= _units_min(settings)


def _units_min(settings: LearningSettings) -> int:
    least = (settings.learn_min_seconds or 0.0) / UNIT_SECONDS
    return round(min(max(least, _UNITS_LEAST), _UNITS_ENOUGH))


def _unsettled(found: list[Prospect]) -> frozenset[str]:
    return frozenset(str(p.kind) for p in found if not p.settled)


def _after_dry_run(model: Model, settings: LearningSettings, now_ns: int) -> Move | None:
    quiet = model.dry_run_seconds
    if settings.dry_runs_by_time:
        if quiet < settings.dry_run_seconds:
            return None
        return Move(
            ModelState.ACTIVE,
            f"nothing new for {_minutes(quiet)} of dry run" + _promised(model),
            model.unsettled,
        )
    bound = bound_a_day(model)
    target = settings.max_false_alarms_per_day
    if bound is not None and bound <= target and quiet >= (settings.dry_run_min_seconds or 0.0):
        # It was made for all kinds: novelties of one that had not converged count in it.
        return Move(ModelState.ACTIVE, promise(model))
    by_runs = model.incidence.short_lived and model.incidence.starts
    if (_age(model, now_ns) if by_runs else model.dry_run_total) < settings.dry_run_seconds:
        return None
    said = promise(model) if bound is not None else "nothing happened that a bound could rest on"
    return Move(
        ModelState.ACTIVE,
        f"upper limit of {_minutes(settings.dry_run_seconds)} reached; {said}, "
        f"instead of {target:g}",
        _unsettled(prospects(model)) if not settings.learns_by_time else frozenset(),
    )


def promise(model: Model) -> str:
    """What the hold-out allows to say, for a person."""
    trial = model.trial
    units = "runs" if model.incidence.short_lived and model.incidence.starts else "active minutes"
    bound = bound_a_day(model)
    new = f"{trial.novel} of" if trial.novel else "nothing new in"
    return (
        f"{new} {trial.units:,} {units}"
        + (" had something new" if trial.novel else "")
        + (
            ""
            if bound is None
            else f": at most {rate(bound)} false alarms a day with 95 % confidence"
        )
    )


def _promised(model: Model) -> str:
    return "" if bound_a_day(model) is None else f"; {promise(model)}"


def _after_active(model: Model) -> Move | None:
    novel = int(model.in_active.novel_weight)
    if not model.promise or len(model.novelties) < _NOVELTIES_MIN:
        return None
    foretold = model.promise * model.in_active.weight
    if poisson_tail(novel, foretold) >= _BY_CHANCE:
        return None
    return Move(
        ModelState.SUSPECT,
        f"{len(model.novelties)} novelties in {model.in_active.novel:,} of "
        f"{model.in_active.units:,} active minutes, at most {rate(foretold)} were foretold: "
        "the model is wrong, or the container is",
        model.unsettled,
    )


def rate(number: float) -> str:
    """A number of keys or alarms for a person: two digits, or whole."""
    return f"{number:,.0f}" if number >= 10 else f"{number:.2g}"


def _age(model: Model, now_ns: int) -> float:
    return (now_ns - model.since_ns) / 1e9


def _minutes(seconds: float) -> str:
    return f"{seconds / 60:.0f} min" if seconds >= 120 else f"{seconds:.0f} s"
