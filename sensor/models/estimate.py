"""How much is still unseen, and what may be promised: statistics, and nothing of models.

Sources: coverage after Chao and Jost (2012, Ecology 93:2533), unseen keys after Chao (1987,
Biometrics 43:783), new keys in further units after Colwell and others (2012, J. Plant Ecology
5:3), all for incidence data; the series of Good and Toulmin (1956, Biometrika 43:45); the exact
bound of Clopper and Pearson (1934, Biometrika 26:404); the design effect after Kish (1965).
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

CONFIDENCE = 0.95
RHO = 0.5  # how alike replicas are in one unit; 1: as one
_BISECTIONS = 200


@dataclass(frozen=True, slots=True)
class Sample:
    """In how many of so many units each key was seen.

    Args:
        units: how many units were looked at.
        frequencies: number of units → how many keys were seen in exactly so many.
    """

    units: int
    frequencies: Mapping[int, int] = field(default_factory=dict)

    @classmethod
    def of(cls, units: int, counts: Iterable[int]) -> Sample:
        """From one count a key. Keys that were seen in no unit are left out."""
        found = Counter(min(count, units) for count in counts if count > 0)
        found.pop(0, None)
        return cls(units, found)

    @property
    def keys(self) -> int:
        """How many keys were seen."""
        return sum(self.frequencies.values())

    @property
    def incidences(self) -> int:
        """Sum over all keys of the units they were seen in."""
        return sum(count * keys for count, keys in self.frequencies.items())

    @property
    def once(self) -> int:
        """Keys seen in exactly one unit."""
        return self.frequencies.get(1, 0)

    @property
    def twice(self) -> int:
        """Keys seen in exactly two units."""
        return self.frequencies.get(2, 0)

    @property
    def coverage(self) -> float:
        """Which share of what will be seen belongs to keys that were seen (Chao and Jost).

        One unit alone says nothing of how much recurs: 0. Where there was no key at all: 1.
        """
        if not self.keys:
            return 1.0
        if self.units < 2:
            return 0.0
        if not self.once:
            return 1.0
        others = (self.units - 1) * self.once
        return 1.0 - self.once / self.incidences * others / (others + 2 * self.twice)

    @property
    def unseen(self) -> float:
        """How many keys were not seen, at least (Chao2)."""
        if not self.units:
            return 0.0
        shrink = (self.units - 1) / self.units
        if self.twice:
            return shrink * self.once * self.once / (2 * self.twice)
        return shrink * self.once * (self.once - 1) / 2

    def expected(self, units: float) -> float:
        """How many new keys so many further units will bring."""
        unseen = self.unseen
        if not unseen:
            return 0.0
        a_unit = self.once / (self.units * unseen + self.once)
        return unseen * -math.expm1(units * math.log1p(-a_unit))

    def good_toulmin(self, units: float) -> float | None:
        """The same by the series of Good and Toulmin; None beyond as many units as were seen.

        It assumes nothing about keys never seen, and swings; a check, not an answer.
        """
        if not self.units or units > self.units:
            return None
        share = units / self.units
        terms = (
            (-1.0) ** (count + 1) * share**count * keys for count, keys in self.frequencies.items()
        )
        return max(0.0, math.fsum(terms))


def binomial_tail(seen: int, units: int, probability: float) -> float:
    """The probability of at most ``seen`` hits in so many units."""
    if seen >= units or probability <= 0.0:
        return 1.0
    if seen < 0 or probability >= 1.0:
        return 0.0
    log_term = (
        math.lgamma(units + 1)
        - math.lgamma(seen + 1)
        - math.lgamma(units - seen + 1)
        + seen * math.log(probability)
        + (units - seen) * math.log1p(-probability)
    )
    # The terms from ``seen`` down, relative to the first; their sum may be large, each is finite.
    odds = (1.0 - probability) / probability
    term = total = 1.0
    for hits in range(seen, 0, -1):
        term *= hits / (units - hits + 1) * odds
        total += term
        if term < total * 1e-17 and hits / (units - hits + 1) * odds < 1.0:
            break
        if total > 1e280:
            return min(1.0, _tail_in_logs(seen, units, probability))
    return min(1.0, math.exp(min(0.0, log_term + math.log(total))))


def _tail_in_logs(seen: int, units: int, probability: float) -> float:
    """The same where the terms grow beyond what a float holds: far below the mean's other side."""
    yes, no = math.log(probability), math.log1p(-probability)
    whole = math.lgamma(units + 1)
    return math.fsum(
        math.exp(
            whole
            - math.lgamma(hits + 1)
            - math.lgamma(units - hits + 1)
            + hits * yes
            + (units - hits) * no
        )
        for hits in range(seen + 1)
    )


def upper_bound(seen: int, units: int, confidence: float = CONFIDENCE) -> float:
    """The largest probability of a hit that so few hits leave possible (Clopper and Pearson).

    Args:
        seen: in how many units there was a hit.
        units: how many there were; none say nothing, and the bound is 1.
        confidence: how often the bound holds, at least, over many such trials.
    """
    if seen >= units:
        return 1.0
    doubt = 1.0 - confidence
    if seen == 0:
        return -math.expm1(math.log(doubt) / units)
    low, high = seen / units, 1.0
    for _ in range(_BISECTIONS):
        middle = (low + high) / 2
        if middle in (low, high):
            break
        if binomial_tail(seen, units, middle) > doubt:
            low = middle
        else:
            high = middle
    return high


def units_needed(probability: float, confidence: float = CONFIDENCE) -> int:
    """How many units without a hit it takes to promise at most this probability."""
    if probability >= 1.0:
        return 0
    return math.ceil(math.log(1.0 - confidence) / math.log1p(-probability))


def confidence_of(attempt: int, confidence: float = CONFIDENCE) -> float:
    """How sure one of several attempts must be, so that the one that succeeds is as sure as said.

    Whoever begins a trial again after each failure succeeds some day by chance. Without this, of
    models that learned too little and began again some hundred times only every other one kept its
    promise; with it, nearly all do (tests/unit/test_estimate.py).

    Args:
        attempt: the first is 1.
        confidence: of the whole.
    """
    return 1.0 - (1.0 - confidence) / (attempt * attempt)


def effective_units(units: float, replicas: int, rho: float = RHO) -> float:
    """What units of replicas that run side by side count for, since they do alike."""
    return units / (1 + (replicas - 1) * rho) if replicas > 1 else units


def poisson_tail(seen: int, mean: float) -> float:
    """The probability of at least ``seen`` where ``mean`` are expected."""
    if seen <= 0:
        return 1.0
    if mean <= 0.0:
        return 0.0
    if seen <= mean:
        below = (
            math.exp(number * math.log(mean) - mean - math.lgamma(number + 1))
            for number in range(seen)
        )
        return max(0.0, 1.0 - math.fsum(below))
    term = math.exp(seen * math.log(mean) - mean - math.lgamma(seen + 1))
    total, number = term, seen
    while term > total * 1e-17:
        number += 1
        term *= mean / number
        total += term
    return min(1.0, total)
