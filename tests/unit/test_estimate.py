"""What is unseen and what may be promised: known values, properties, and a simulation."""

from __future__ import annotations

import math
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sensor.models.estimate import (
    Sample,
    binomial_tail,
    confidence_of,
    effective_units,
    poisson_tail,
    units_needed,
    upper_bound,
)

samples = st.integers(1, 400).flatmap(
    lambda units: st.lists(st.integers(0, units), max_size=60).map(
        lambda counts: Sample.of(units, counts)
    )
)


def test_a_sample_by_hand() -> None:
    """The formulas of the page, worked out with pencil and paper."""
    sample = Sample.of(10, [1, 1, 1, 2, 2, 5, 10])
    assert (sample.keys, sample.incidences, sample.once, sample.twice) == (7, 22, 3, 2)
    assert sample.coverage == pytest.approx(1 - 3 / 22 * 27 / (27 + 4))
    assert sample.unseen == pytest.approx(0.9 * 9 / 4)
    rate = 3 / (10 * 2.025 + 3)
    assert sample.expected(10) == pytest.approx(2.025 * (1 - (1 - rate) ** 10))
    assert sample.good_toulmin(10) == pytest.approx(3 - 2 + 1 - 1)
    assert sample.good_toulmin(5) == pytest.approx(1.5 - 0.5 + 1 / 32 - 1 / 1024)
    assert sample.good_toulmin(11) is None


def test_without_keys_seen_twice_pairs_count() -> None:
    """Chao2 where nothing was seen in exactly two units."""
    assert Sample.of(4, [1, 1, 1]).unseen == pytest.approx(0.75 * 3)
    assert Sample.of(4, [1]).unseen == 0


@pytest.mark.parametrize(
    ("units", "counts", "coverage"),
    [(0, [], 1.0), (50, [], 1.0), (1, [1, 1], 0.0), (2, [2, 2], 1.0), (5, [1], 0.0)],
)
def test_the_ends_of_coverage(units: int, counts: list[int], coverage: float) -> None:
    """One unit says nothing; what recurs everywhere is all there is."""
    sample = Sample.of(units, counts)
    assert sample.coverage == coverage
    assert sample.unseen == 0 or units > 1


@given(samples, st.integers(0, 2000))
def test_estimates_stay_in_their_ranges(sample: Sample, further: int) -> None:
    """Coverage is a share; more units bring more new keys, but never more than are unseen."""
    assert 0.0 <= sample.coverage <= 1.0
    assert 0.0 <= sample.expected(further) <= sample.unseen * (1 + 1e-9)
    assert sample.expected(further) <= sample.expected(further + 1) + 1e-12
    toulmin = sample.good_toulmin(min(further, sample.units))
    assert toulmin is not None
    assert toulmin >= 0


@given(samples)
def test_what_is_seen_again_is_better_known(sample: Sample) -> None:
    """A unit in which every key is seen once more never lowers coverage."""
    again = Sample(sample.units + 1, {n + 1: keys for n, keys in sample.frequencies.items()})
    assert again.coverage >= sample.coverage


# The 0.95 quantile of the beta distribution with k + 1 and n - k, to seven places.
@pytest.mark.parametrize(
    ("seen", "units", "bound"),
    [
        (0, 1, 0.95),
        (0, 60, 0.0487029133),
        (0, 1440, 0.0020782198),
        (1, 10, 0.3941632703),
        (3, 20, 0.3436636680),
        (10, 10, 1.0),
        (0, 0, 1.0),
    ],
)
def test_known_bounds(seen: int, units: int, bound: float) -> None:
    """The values that tables of the beta distribution give."""
    assert upper_bound(seen, units) == pytest.approx(bound, abs=2e-7)


@given(st.integers(1, 3000), st.data())
def test_the_bound_is_where_the_tail_is_the_doubt(units: int, data: st.DataObject) -> None:
    """Definition of the bound: with it, so few hits or fewer come with probability 5 %."""
    seen = data.draw(st.integers(0, units - 1))
    bound = upper_bound(seen, units)
    assert seen / units < bound <= 1
    assert binomial_tail(seen, units, bound) == pytest.approx(0.05, rel=1e-6)
    assert upper_bound(seen + 1, units) >= bound >= upper_bound(seen, units + 1)


@given(st.integers(1, 60), st.floats(0, 1), st.data())
def test_the_tail_is_the_sum_of_its_terms(units: int, p: float, data: st.DataObject) -> None:
    """Against the definition with whole binomial coefficients."""
    seen = data.draw(st.integers(0, units))
    exact = math.fsum(math.comb(units, i) * p**i * (1 - p) ** (units - i) for i in range(seen + 1))
    assert binomial_tail(seen, units, p) == pytest.approx(exact, abs=1e-9)


def test_a_tail_with_terms_beyond_a_float() -> None:
    """Many hits under a tiny probability: nearly certain, and no overflow."""
    assert binomial_tail(2000, 5000, 1e-6) == pytest.approx(1.0)
    assert binomial_tail(100, 1_000_000, 2e-4) == pytest.approx(0, abs=1e-9)


def test_a_day_of_quiet_promises_three_a_day() -> None:
    """The table of the design: 60 minutes 5 %, a day 3 alarms, three days one."""
    assert upper_bound(0, 1440) * 1440 == pytest.approx(2.99, abs=0.01)
    assert units_needed(1 / 1440) == 4313
    assert upper_bound(0, 4313) <= 1 / 1440 < upper_bound(0, 4312)
    assert units_needed(1.0) == 0


def test_replicas_count_for_less_than_they_are() -> None:
    """Three that do alike in half of what they do count for one and a half."""
    assert effective_units(3, 3) == pytest.approx(1.5)
    assert effective_units(5, 1) == 5
    assert effective_units(1000, 1000) < 2


@given(st.integers(0, 400), st.floats(0.01, 300))
def test_the_poisson_tail(seen: int, mean: float) -> None:
    """It falls as more is asked for, and agrees with the sum of what lies below."""
    tail = poisson_tail(seen, mean)
    assert 0 <= poisson_tail(seen + 1, mean) <= tail + 1e-12 <= 1 + 2e-12
    terms = [math.exp(i * math.log(mean) - mean - math.lgamma(i + 1)) for i in range(seen)]
    assert tail == pytest.approx(1 - math.fsum(terms), abs=1e-9)


def test_the_bound_holds_as_often_as_it_says() -> None:
    """Keys come by chance, each at its own rate; the promise made of one half holds in the other.

    An exchangeable process: 200 keys whose rates differ a thousandfold, a learning phase, a dry
    run of fixed length, a bound. The share of units that then bring something never seen is known
    exactly, and must lie below the bound in at least 95 of 100 histories.
    """
    chance = random.Random(7)
    held = trials = 0
    for _ in range(600):
        rates = [0.3 * 10 ** -chance.uniform(0, 4) for _ in range(60)]
        learning, dry_run = 120, 400
        unseen = [rate for rate in rates if chance.random() < (1 - rate) ** learning]
        novel_share = 1 - math.prod(1 - rate for rate in unseen)
        novel = sum(chance.random() < novel_share for _ in range(dry_run))
        held += novel_share <= upper_bound(novel, dry_run)
        trials += 1
    assert held / trials >= 0.95


def test_new_keys_are_foretold() -> None:
    """Over many histories the expected number of new keys is near the number that came."""
    chance = random.Random(11)
    expected = came = 0.0
    for _ in range(80):
        rates = [0.2 * 10 ** -chance.uniform(0, 3) for _ in range(60)]
        units = 150
        counts = [sum(chance.random() < rate for _ in range(units)) for rate in rates]
        expected += Sample.of(units, counts).expected(units)
        came += sum(
            1 - (1 - rate) ** units for rate, count in zip(rates, counts, strict=True) if not count
        )
    assert 0.7 <= expected / came <= 1.4


@pytest.mark.parametrize(("corrected", "least", "most"), [(True, 0.95, 1.0), (False, 0.0, 0.9)])
def test_a_trial_that_begins_again_and_again(corrected: bool, least: float, most: float) -> None:
    """What is new is learned, and the trial begins anew, until it stays quiet for long enough.

    Of models that learned too little, with many rare keys, the promise then holds often enough,
    and it would not without the correction for the number of attempts.
    """
    chance = random.Random(3)
    promise, held, trials = 0.05, 0, 60
    for _ in range(trials):
        unseen = [0.3 * 10 ** -chance.uniform(0, 4) for _ in range(200)]
        unseen = [rate for rate in unseen if chance.random() < (1 - rate) ** 60]
        attempt, quiet = 1, 0
        while upper_bound(0, quiet, confidence_of(attempt if corrected else 1)) > promise:
            left = [rate for rate in unseen if chance.random() >= rate]
            quiet = quiet + 1 if len(left) == len(unseen) else 0
            attempt += len(left) < len(unseen)
            unseen = left
        held += 1 - math.prod(1 - rate for rate in unseen) <= promise
    assert least <= held / trials <= most
