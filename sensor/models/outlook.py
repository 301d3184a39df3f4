"""What a model's counts say of what is to come: by stratum, by kind, for a day."""

from __future__ import annotations

import enum
from dataclasses import dataclass

from sensor.models.estimate import Sample
from sensor.models.incidence import GRIDS, UNIT, UNIT_SECONDS, Stratum
from sensor.models.keys import ExecKey, Key
from sensor.models.model import Model

COVERAGE = 0.995
EXPECTED = 1.0  # new keys over as many units again
_FACTOR = 2.0  # between grids: beyond, units depend on one another
_SMALL = 0.5  # keys; estimates below differ by chance
_SERIES_MIN = 10  # units
UNITS_A_DAY = 86400 / UNIT_SECONDS
_SHORTEST_DAYS = 1 / 24  # of which a rate of runs is made


class Kind(enum.StrEnum):
    """What converges or not, each by itself."""

    EXECUTIONS = "executions"
    WRITES = "writes"


def kind_of(key: Key) -> Kind:
    """Which kind a key is of."""
    return Kind.EXECUTIONS if isinstance(key, ExecKey) else Kind.WRITES


@dataclass(frozen=True, slots=True)
class Prospect:
    """How far one kind of keys has converged."""

    kind: Kind
    coverage: float
    expected: float  # new keys over as many units again
    even: bool  # half minutes and double minutes foretell the same

    @property
    def converged(self) -> bool:
        """Whether learning may end, for this kind."""
        return self.settled and self.coverage >= COVERAGE

    @property
    def settled(self) -> bool:
        """Whether new keys have nearly ceased to come."""
        return self.even and self.expected <= EXPECTED

    @property
    def lacking(self) -> str:
        """What is missing, for a person; empty where nothing is."""
        lacks = []
        if self.expected > EXPECTED:
            lacks.append(f"{self.expected:.1f} new expected in as many minutes again")
        if not self.even:
            lacks.append("half and double minutes foretell something else")
        if self.coverage < COVERAGE:
            lacks.append(f"coverage {percent(self.coverage)}")
        return f"{self.kind}: {', '.join(lacks)}" if lacks else ""


def percent(share: float) -> str:
    """A share for a person, never rounded up to all."""
    return f"{int(share * 1000) / 10:g} %"


def expected(sample: Sample) -> float:
    """New keys over as many units again: the larger of two answers, so as not to promise much.

    The series of Good and Toulmin swings by the number of all keys when it is asked that far; over
    half as many units it is steady, from ten units on: of fewer, keys that are in every one of them
    would count.
    """
    if sample.units < _SERIES_MIN:
        return sample.expected(sample.units)
    return max(sample.expected(sample.units), sample.good_toulmin(sample.units / 2) or 0.0)


def prospect(model: Model, kind: Kind) -> Prospect:
    """How far one kind of keys has converged.

    One start tells nothing of what the next will bring, and so is left out.
    """
    counts = model.incidence
    strata = [s for s in Stratum if s.of_executions == (kind is Kind.EXECUTIONS)]
    samples = [counts.sample(s) for s in strata if not s.of_start_up or counts.starts > 1]
    total = sum(sample.incidences for sample in samples)
    uncovered = sum(sample.incidences * (1 - sample.coverage) for sample in samples)
    steady = next(stratum for stratum in strata if not stratum.of_start_up)
    by_grid = [
        (sample := counts.sample(steady, grid)).expected(sample.units) for grid in range(len(GRIDS))
    ]
    low, high = max(min(by_grid), _SMALL), max(by_grid)
    return Prospect(
        kind,
        coverage=1 - uncovered / total if total else 1.0,
        expected=sum(map(expected, samples)),
        even=high <= _FACTOR * low,
    )


def prospects(model: Model) -> list[Prospect]:
    """How far each kind has converged."""
    return [prospect(model, kind) for kind in Kind]


def starts_a_day(model: Model) -> float:
    """Starts a day, as they were seen; a first day counts as a whole one."""
    days = (model.last_used_ns - model.created_ns) / 86400e9
    return model.incidence.starts / max(1.0, days)


def units_a_day(model: Model) -> float:
    """Units in a day of a container that is never idle; of short-lived ones, runs a day."""
    if model.incidence.short_lived and model.incidence.starts:
        # What was seen for minutes may go on all day: a promise is not to rest on less.
        days = (model.last_used_ns - model.created_ns) / 86400e9
        return max(1.0, model.incidence.starts / max(_SHORTEST_DAYS, days))
    return UNITS_A_DAY


def expected_a_day(model: Model) -> float | None:
    """New keys that a day of activity brings, by what was counted; None before two units."""
    if max(model.incidence.units[UNIT], model.incidence.starts) < 2:
        return None
    total = 0.0
    for stratum in Stratum:
        units = starts_a_day(model) if stratum.of_start_up else UNITS_A_DAY
        total += model.incidence.sample(stratum).expected(units)
    return total


def bound_a_day(model: Model) -> float | None:
    """False alarms a day and container, at most, with 95 % confidence; None before any unit."""
    if model.trial.weight < 1:
        return None
    return model.trial.bound() * units_a_day(model)
