"""Units of time: what counts as one, which keys were seen in it, what the counts add up to."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sensor.events import Actor, OperationClass, Origin
from sensor.models.files import export_bytes, import_model
from sensor.models.incidence import (
    START_UP_SECONDS,
    UNIT,
    Counts,
    Incidence,
    Stratum,
    Trial,
)
from sensor.models.keys import ExecKey, Key, Program, WriteKey
from sensor.models.model import Evidence, Model, ModelState
from sensor.models.observer import Observer
from sensor.models.outlook import Kind, prospect
from sensor.paths import Pattern
from tests.unit.builders import IMAGE

SERVE = Program("/bin/serve")


def write(pattern: str, program: Program = SERVE) -> WriteKey:
    """A write key."""
    return WriteKey(program, pattern, OperationClass.WRITE)


def run(path: str) -> ExecKey:
    """An execution key."""
    return ExecKey(SERVE, Program(path), Origin.IMAGE, Actor.SERVICE)


def model(*keys: Key) -> Model:
    """A model that knows these keys."""
    return Model("m", 1, IMAGE, "s", keys={key: Evidence(1, 1) for key in keys})


class Watch:
    """An observer and a clock."""

    def __init__(self, of: Model) -> None:
        self.now = 1000.0
        self.model = of
        self.observer = Observer(of, self.now)

    def start(self, name: str = "a", *, complete: bool = True) -> None:
        """A container starts."""
        self.observer.started(name, self.now, complete=complete, since=self.now)

    def pass_slots(self, *slots: tuple[Key, ...] | None, name: str = "a") -> None:
        """Half minutes pass; in each these keys are seen. None: nothing happens at all."""
        for keys in slots:
            if keys is not None:
                self.observer.active(name)
                self.observer.seen(keys)
            self.now += 30
            self.observer.tick(self.now)

    @property
    def counts(self) -> Incidence:
        """What was counted."""
        return self.model.incidence


def test_a_key_is_seen_in_a_minute_or_not() -> None:
    """However often it is seen within one; in each grid for itself."""
    key, other = write("/a"), write("/b")
    watch = Watch(model(key, other))
    watch.start(complete=False)
    watch.pass_slots((key, key), (key,), (key, other), (), (other,), ())
    assert watch.counts.units == [6, 3, 1]
    assert watch.counts.keys[key].steady == [3, 2, 1]
    assert watch.counts.keys[other].steady == [2, 2, 1]
    sample = watch.counts.sample(Stratum.WRITE_STEADY)
    assert (sample.units, dict(sample.frequencies)) == (3, {2: 2})


def test_a_minute_in_which_nothing_happened_is_no_unit() -> None:
    """A service that sleeps proves nothing."""
    key = write("/a")
    watch = Watch(model(key))
    watch.start(complete=False)
    watch.pass_slots((key,), None, None, None, None, None, None, None)
    assert watch.counts.units == [1, 1, 1]


def test_the_start_up_is_a_unit_of_its_own() -> None:
    """What only happens there does not look rare in hundreds of minutes."""
    early, always = run("/bin/chown"), write("/a")
    watch = Watch(model(early, always))
    for _ in range(2):
        watch.start()
        watch.pass_slots((early, always), (always,), (), (), *[(always,)] * 6)
        watch.observer.ended("a", watch.now)
    assert (watch.counts.starts, watch.counts.units[UNIT]) == (2, 6)
    start_up = watch.counts.sample(Stratum.EXEC_START_UP)
    assert (start_up.units, dict(start_up.frequencies)) == (2, {2: 1})
    assert watch.counts.sample(Stratum.EXEC_STEADY).keys == 0
    # Seen in steady minutes as well: it counts there, and only there.
    assert watch.counts.sample(Stratum.WRITE_START_UP).keys == 0
    assert dict(watch.counts.sample(Stratum.WRITE_STEADY).frequencies) == {6: 1}


def test_a_start_that_was_not_seen_whole_is_none() -> None:
    """A container that ran before has no start-up to count."""
    watch = Watch(model(write("/a")))
    watch.start(complete=False)
    watch.pass_slots(*[(write("/a"),)] * 6)
    assert watch.counts.starts == 0


def test_of_a_short_life_the_run_is_the_unit() -> None:
    """A job that runs for ten seconds is one start, and one unit of the hold-out."""
    key = write("/out")
    watch = Watch(model(key))
    watch.model.state = ModelState.DRY_RUN
    for number in range(5):
        watch.start(f"job{number}")
        watch.observer.seen([key], f"job{number}")
        watch.observer.active(f"job{number}")
        watch.now += 10
        watch.observer.tick(watch.now)
        watch.observer.ended(f"job{number}", watch.now)
        watch.now += 300
    assert watch.counts.short_lived
    assert watch.counts.starts == 5
    assert dict(watch.counts.sample(Stratum.WRITE_START_UP).frequencies) == {5: 1}
    assert (watch.model.trial.units, watch.model.trial.runs) == (5, 5)


def test_a_short_run_across_the_border_of_a_minute_counts_once() -> None:
    """Beside a long-lived container, minutes do not begin with the job."""
    watch = Watch(model())
    watch.model.state = ModelState.DRY_RUN
    watch.start("long", complete=False)
    watch.pass_slots(None)
    watch.now += 20
    watch.start("job")
    watch.observer.active("job")
    watch.now += 10
    watch.observer.tick(watch.now)
    watch.observer.active("job")
    watch.now += 10
    watch.observer.ended("job", watch.now)
    watch.now += 50
    watch.observer.tick(watch.now)
    watch.now += 60
    watch.observer.tick(watch.now)
    assert watch.model.trial.units == 1


def test_what_starts_beside_a_steady_replica_is_told_apart() -> None:
    """The kernel names no container. What is known from steady minutes counts for those."""
    early, always = run("/bin/chown"), write("/a")
    watch = Watch(model(early, always))
    watch.start("old", complete=False)
    watch.pass_slots((always,), (always,), name="old")
    watch.start("new")
    watch.pass_slots((early, always), (always,), (always,), (always,), name="old")
    assert watch.counts.keys[early].starts == 1
    assert watch.counts.keys[early].steady == [0, 0, 0]
    assert watch.counts.keys[always].steady == [6, 3, 1]
    watch.observer.seen([early], "old")  # an event says whose it is
    watch.pass_slots((), ())
    assert watch.counts.keys[early].steady[UNIT] == 1


def test_replicas_count_for_less(tmp_path: Path) -> None:
    """Three that run side by side for ten minutes are thirty units, and weigh fifteen."""
    del tmp_path
    watch = Watch(model())
    watch.model.state = ModelState.DRY_RUN
    for name in "abc":
        watch.start(name, complete=False)
    for _ in range(20):
        for name in "abc":
            watch.observer.active(name)
        watch.pass_slots(())
    assert watch.model.trial.units == 30
    assert watch.model.trial.weight == pytest.approx(15)
    assert watch.model.trial.bound() == pytest.approx(1 - 0.05 ** (1 / 15))


def test_an_idle_replica_proves_nothing_but_takes_weight() -> None:
    """Only the active one counts, and no more than one of two that are alike."""
    watch = Watch(model())
    watch.model.state = ModelState.ACTIVE
    watch.start("busy", complete=False)
    watch.start("idle", complete=False)
    watch.pass_slots(*[()] * 20, name="busy")
    assert (watch.model.trial.units, watch.model.in_active.units) == (10, 10)
    assert watch.model.trial.weight == pytest.approx(10 / 1.5)


def test_a_novelty_is_a_failed_unit() -> None:
    """Once, however many there are in the minute."""
    watch = Watch(model())
    watch.model.state = ModelState.ACTIVE
    watch.start(complete=False)
    watch.pass_slots((), ())
    watch.observer.novel("a")
    watch.observer.novel("a")
    watch.pass_slots((), (), (), ())
    assert (watch.model.trial.units, watch.model.trial.novel) == (3, 1)
    assert watch.model.trial.bound() == pytest.approx(Trial(3, 3.0, 1, 1.0).bound())


def test_after_a_gap_nothing_is_continued() -> None:
    """A host that slept for an hour has not shown an hour of quiet."""
    watch = Watch(model(write("/a")))
    watch.model.state = ModelState.DRY_RUN
    watch.start(complete=False)
    watch.pass_slots((write("/a"),))
    watch.now += 3600
    watch.observer.tick(watch.now)
    watch.pass_slots((), ())
    assert watch.counts.units[UNIT] == 2
    assert watch.model.trial.units == 2


def test_what_a_wider_key_covers_is_counted_as_that_key() -> None:
    """Eight literals that became one pattern are no eight keys that were seen once."""
    wide = write("/spool/*")
    narrow = [write(f"/spool/{letter}") for letter in "abc"]
    other = write("/spool/a", Program("/bin/other"))
    watch = Watch(model(*narrow, other))
    watch.start(complete=False)
    watch.pass_slots((narrow[0],), (), (narrow[1], other), (), (narrow[2],), ())
    assert watch.counts.sample(Stratum.WRITE_STEADY).once == 4
    watch.model.add(wide, Evidence(1, 1))
    watch.pass_slots((narrow[1],), ())
    sample = watch.counts.sample(Stratum.WRITE_STEADY)
    assert set(watch.counts.keys) == {wide, other}
    assert dict(sample.frequencies) == {4: 1, 1: 1}


def test_what_was_not_learned_is_not_counted() -> None:
    """Keys that a person removed, or that must not be learned, are none of the model's."""
    watch = Watch(model(write("/a")))
    watch.start(complete=False)
    watch.pass_slots((write("/a"), write("/evil")), ())
    assert set(watch.counts.keys) == {write("/a")}


def test_an_interpreter_that_is_called_in_many_ways_is_one_key() -> None:
    """Once its arguments do not matter any more, the calls before count as that."""
    calls = [replace(run("/bin/sh"), shape=f"-{letter}") for letter in "abc"]
    counts = Incidence(
        units=[6, 3, 1], keys={k: Counts(i, 0, [1, 1, 1]) for i, k in enumerate(calls)}
    )
    assert counts.fold(calls) == {}
    assert counts.sample(Stratum.EXEC_STEADY).once == 3
    anyhow = run("/bin/sh")
    assert counts.fold([anyhow]) == dict.fromkeys(calls, anyhow)
    assert dict(counts.sample(Stratum.EXEC_STEADY).frequencies) == {3: 1}


def test_keys_that_are_gone_are_not_counted() -> None:
    """A key that a person removed says nothing about what is to come."""
    gone, kept = write("/a"), write("/b")
    counts = Incidence(units=[2, 1, 1], keys={gone: Counts(0), kept: Counts(0)})
    counts.fold([kept])
    assert set(counts.keys) == {kept}


def test_the_curve_has_a_point_where_it_rises_and_stays_short() -> None:
    """Distinct keys over units; a long one loses inner points, never its ends."""
    counts = Incidence()
    for number in range(2000):
        counts.add_steady(UNIT, [write(f"/{number}")])
        counts.add_steady(UNIT, [])
    assert len(counts.curve) <= 240
    assert counts.curve[0] == (1, 1)
    assert counts.curve[-1] == (3999, 2000)
    assert counts.curve == sorted(counts.curve)


def test_units_that_depend_on_one_another_are_found_out() -> None:
    """New keys in pairs of half minutes look rarer by half minutes than by minutes."""
    counts = Incidence(units=[200, 100, 50])
    for number in range(20):
        counts.keys[write(f"/{number}")] = Counts(0, 0, [2, 1, 1])
    assert not prospect(Model("m", 1, IMAGE, "s", incidence=counts), Kind.WRITES).even
    for key in counts.keys:
        counts.keys[key] = Counts(0, 0, [30, 25, 20])
    assert prospect(Model("m", 1, IMAGE, "s", incidence=counts), Kind.WRITES).converged


@pytest.mark.parametrize("starts", [2, 3, 5, 9, 10, 11, 30])
def test_what_every_start_does_is_no_sign_of_more(starts: int) -> None:
    """Forty keys that were in each of so many start-ups: all is known."""
    counts = Incidence(starts, [100, 50, 25], {run(f"/{i}"): Counts(0, starts) for i in range(40)})
    found = prospect(Model("m", 1, IMAGE, "s", incidence=counts), Kind.EXECUTIONS)
    assert found.converged
    assert found.expected < 0.1


names = st.sampled_from(["a", "temp-1", "temp-22", "x.log", "x.php", "7.log", "sedAbCdEf", "b"])
labels = st.sampled_from(["a", "temp-<N>", "*", "x.log", "<N>.log", "b"])
ends = st.sampled_from(["**", "*.log", "<*>", "sed<T>", "a", "*", "<N>.log", "x.php"])
patterns = st.tuples(st.lists(labels, max_size=2), ends).map(
    lambda parts: Pattern.parse("/" + "/".join([*parts[0], parts[1]]))
)


@given(patterns, patterns, st.lists(names, min_size=1, max_size=4))
def test_covering_is_about_what_matches(wide: Pattern, narrow: Pattern, parts: list[str]) -> None:
    """Whatever the covered pattern matches, the covering one matches as well."""
    path = "/" + "/".join(parts)
    assert wide.covers(wide)
    if wide.covers(narrow) and narrow.matches(path):
        assert wide.matches(path)


@given(patterns, st.lists(names, min_size=1, max_size=4))
def test_an_exact_pattern_is_covered_by_what_matches_it(wide: Pattern, parts: list[str]) -> None:
    """For a single path, covering and matching are the same."""
    path = "/" + "/".join(parts)
    assert wide.covers(Pattern.exact(path)) == wide.matches(path)


def test_counts_travel_with_the_model() -> None:
    """A model that is carried to another host keeps what it was learned from."""
    key = write("/a")
    made = model(key, run("/bin/x"))
    made.incidence = Incidence(2, [10, 5, 3], {key: Counts(1, 2, [4, 3, 2])}, [(1, 1), (4, 2)])
    made.trial = Trial(7, 3.5, 1, 0.5, 2)
    made.in_active = Trial(3, 3.0)
    made.promise, made.unsettled = 0.25, frozenset({"writes"})
    made.dry_run_total, made.lost_starts, made.last_used_ns = 5.5, 1, 99
    made.open_runs = {"c" * 64: (True, 12.5)}
    made.novelties = {write("/new"): Evidence(3, 4, 5)}
    made.state = ModelState.SUSPECT
    taken = import_model(export_bytes(made), "x")
    for field in (
        "incidence", "trial", "in_active", "promise", "unsettled", "dry_run_total", "lost_starts",
        "last_used_ns", "open_runs", "novelties", "state",
    ):  # fmt: skip
        assert getattr(taken, field) == getattr(made, field), field


def test_a_start_up_is_longer_than_a_unit() -> None:
    """Else a run could end in its first steady unit and yet have lived for less than one."""
    assert START_UP_SECONDS >= 60
