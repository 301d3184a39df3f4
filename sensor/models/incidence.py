"""Which keys were seen in which units of time: what estimates are made from.

Events come in bursts and depend on one another, so they are not counted. A unit is a minute in
which some container of the model did something; a key was seen in it or not. The start-up of a
run is a unit of another kind, since what a container does then it does once a run. A container
that lives for less than a unit is a unit with its whole run, which is its start-up.

Is a minute a fair unit? The counts are kept for half minutes and for two minutes as well; where
they foretell something else, units depend on one another and the estimate is not to be trusted.
"""

from __future__ import annotations

import enum
import functools
import math
from collections import defaultdict
from collections.abc import Collection, Iterable
from dataclasses import dataclass, field, replace

from sensor.models.estimate import RHO, Sample, confidence_of, effective_units, upper_bound
from sensor.models.keys import ANY_ARGUMENTS, ExecKey, Key, WriteKey
from sensor.paths import Pattern

SLOT_SECONDS = 30.0  # the kernel is asked this often what it saw
GRIDS = (1, 2, 4)  # slots in a unit
UNIT = 1  # place in GRIDS of the unit that counts
UNIT_SECONDS = SLOT_SECONDS * GRIDS[UNIT]
START_UP_SECONDS = 120.0  # so long a run counts as starting; services are up in less
_CURVE_MAX = 240
_parsed = functools.lru_cache(maxsize=65536)(Pattern.parse)


class Stratum(enum.StrEnum):
    """Kinds of units and keys that are not to be thrown together."""

    EXEC_START_UP = "exec-startup"
    EXEC_STEADY = "exec-steady"
    WRITE_START_UP = "write-startup"
    WRITE_STEADY = "write-steady"

    @property
    def of_executions(self) -> bool:
        """Whether it is about executions, else about writes."""
        return self in (Stratum.EXEC_START_UP, Stratum.EXEC_STEADY)

    @property
    def of_start_up(self) -> bool:
        """Whether its units are starts, else minutes."""
        return self in (Stratum.EXEC_START_UP, Stratum.WRITE_START_UP)


@dataclass(slots=True)
class Counts:
    """In how many units one key was seen.

    A key that was ever seen in a steady minute is a steady key: what is left for the start-up
    are the keys that were seen nowhere else.
    """

    first: int  # how many units there were when it was seen first
    starts: int = 0
    steady: list[int] = field(default_factory=lambda: [0] * len(GRIDS))


@dataclass(slots=True)
class Incidence:
    """The counts of one model. Kept in the store."""

    starts: int = 0  # start-ups that were seen whole
    units: list[int] = field(default_factory=lambda: [0] * len(GRIDS))  # steady ones, by grid
    keys: dict[Key, Counts] = field(default_factory=dict)
    curve: list[tuple[int, int]] = field(default_factory=list)  # (units, distinct keys) by then

    @property
    def total(self) -> int:
        """All units: minutes and starts."""
        return self.units[UNIT] + self.starts

    @property
    def short_lived(self) -> bool:
        """Whether no container lived long enough for a steady minute: runs are the units."""
        return not self.units[UNIT]

    def add_start(self, keys: Iterable[Key]) -> None:
        """A start-up is over, in which these keys were seen."""
        for key in keys:
            self._counts(key).starts += 1
        self.starts += 1
        self._note_curve()

    def add_steady(self, grid: int, keys: Iterable[Key]) -> None:
        """A steady unit of one grid is over, in which these keys were seen."""
        for key in keys:
            self._counts(key).steady[grid] += 1
        self.units[grid] += 1
        if grid == UNIT:
            self._note_curve()

    def is_steady(self, key: Key) -> bool:
        """Whether a key was seen outside start-ups."""
        counts = self.keys.get(key)
        return counts is not None and counts.steady[0] > 0

    def _counts(self, key: Key) -> Counts:
        counts = self.keys.get(key)
        if counts is None:
            counts = self.keys[key] = Counts(self.total)
        return counts

    def _note_curve(self) -> None:
        distinct = len(self.keys)
        if self.curve and self.curve[-1][1] == distinct:
            return
        if self.curve and self.curve[-1][0] == self.total:
            self.curve.pop()
        self.curve.append((self.total, distinct))
        if len(self.curve) > _CURVE_MAX:
            self.curve[1:-1] = self.curve[1:-1:2]

    def sample(self, stratum: Stratum, grid: int = UNIT) -> Sample:
        """What the estimators want to know of one stratum."""
        wanted = ExecKey if stratum.of_executions else WriteKey
        counts = [c for key, c in self.keys.items() if isinstance(key, wanted)]
        if stratum.of_start_up:
            return Sample.of(self.starts, (c.starts for c in counts if not any(c.steady)))
        return Sample.of(self.units[grid], (c.steady[grid] for c in counts))

    def fold(self, known: Collection[Key]) -> dict[Key, Key]:
        """Count what a wider key covers as that key, and forget what the model has forgotten.

        Args:
            known: the keys of the model.

        Returns:
            Narrow key → the key that it counts as.
        """
        wide: dict[tuple[object, int], list[tuple[WriteKey, Pattern]]] = defaultdict(list)
        for key in known:
            if isinstance(key, WriteKey) and not (p := _parsed(key.pattern)).is_exact:
                wide[key.program, key.operation].append((key, p))
        folded: dict[Key, Key] = {}
        for key in {*known, *self.keys}:
            other: Key | None
            if isinstance(key, WriteKey):
                other = _widest(key, wide.get((key.program, key.operation), [])) if wide else None
            else:
                other = replace(key, shape=ANY_ARGUMENTS)
            if other is not None and other != key and other in known:
                folded[key] = other
        groups: dict[Key, list[Counts]] = defaultdict(list)
        for key in [key for key in self.keys if key in folded]:
            groups[folded[key]].append(self.keys.pop(key))
        for key, counts in groups.items():
            own = self.keys.get(key)
            self.keys[key] = _joined([*counts, own] if own else counts)
        for key in [key for key in self.keys if key not in known]:
            del self.keys[key]
        return folded


def _widest(key: WriteKey, candidates: list[tuple[WriteKey, Pattern]]) -> WriteKey | None:
    """The key that covers another and is covered by none but itself; None when there is none."""
    pattern = _parsed(key.pattern)
    found = [(other, p) for other, p in candidates if other != key and p.covers(pattern)]
    for other, p in found:
        if not any(q.covers(p) for another, q in found if another != other):
            return other
    return None


def _joined(parts: list[Counts]) -> Counts:
    """The counts of several keys as one: at least the largest, at least one for each beginning."""
    beginnings = len({counts.first for counts in parts})
    return Counts(
        min(counts.first for counts in parts),
        _joined_count([counts.starts for counts in parts], beginnings),
        [_joined_count([counts.steady[g] for counts in parts], beginnings) for g in range(3)],
    )


def _joined_count(counts: list[int], beginnings: int) -> int:
    return max(*counts, min(sum(counts), beginnings)) if len(counts) > 1 else counts[0]


@dataclass(slots=True)
class Trial:
    """Units in which a model was put to the test, and in how many it failed: the hold-out.

    Units are counted for each container, and weigh less the more containers ran beside it.
    """

    units: int = 0
    weight: float = 0.0
    novel: int = 0  # of the units: something happened that no key matched
    novel_weight: float = 0.0
    runs: int = 0  # containers that took part
    attempt: int = 1  # how often it was begun, with this

    def add(self, containers: int, novel: int, running: int) -> None:
        """One unit is over.

        Args:
            containers: in how many something happened.
            novel: in how many something new did.
            running: how many ran side by side.
        """
        self.units += containers
        self.novel += novel
        self.weight += effective_units(containers, running, RHO)
        self.novel_weight += effective_units(novel, running, RHO)

    def again(self) -> Trial:
        """What follows when something new was learned."""
        return Trial(attempt=self.attempt + 1)

    def bound(self) -> float:
        """The largest share of units with something new that this leaves possible, at 95 %."""
        return upper_bound(
            math.ceil(self.novel_weight), math.floor(self.weight), confidence_of(self.attempt)
        )
