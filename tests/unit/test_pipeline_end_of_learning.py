"""The loop until learning is over, and after: counts, limits, loss, and when a model is wrong."""

from __future__ import annotations

import string
from collections.abc import Iterator
from dataclasses import replace
from itertools import product
from pathlib import Path

import msgpack
import pytest

from sensor.audits.audit import AuditType
from sensor.containers.container import Image
from sensor.errors import ModelFileError
from sensor.events import Detection, Event, Origin
from sensor.models.files import import_model, pack_model, unpack_model
from sensor.models.incidence import UNIT
from sensor.models.learning import LearningSettings
from sensor.models.model import Model, ModelState
from sensor.models.outlook import bound_a_day
from sensor.rules.policy import Policy
from sensor.testing import ReplayKernel
from tests.unit.builders import CGROUP, change, container, execution
from tests.unit.stories import Story

HOUR = 3600.0
# 72 a day is one in twenty minutes: 59 quiet ones are enough.
SETTINGS = LearningSettings(
    learn_seconds=4 * HOUR,
    dry_run_seconds=6 * HOUR,
    learn_min_seconds=600,
    dry_run_min_seconds=600,
    max_false_alarms_per_day=72,
    archive_after_seconds=24 * HOUR,
)
PREVENT = Policy(prevent=("*",))
STEADY = (execution("/bin/tool"), change("/var/lib/web/data"), change("/run/web-7.tmp"))


def fresh_names() -> Iterator[str]:
    """Paths that have nothing in common, so that no pattern covers them."""
    for letters in product(string.ascii_lowercase, repeat=3):
        word = "".join(letters)
        yield f"/srv/{word}dir/{word}"


class Service(Story):
    """A story of one image whose containers start, do the same all the time, and stop."""

    def __init__(self, directory: Path, **options: object) -> None:
        options.setdefault("settings", SETTINGS)
        super().__init__(directory, **options)  # type: ignore[arg-type]
        self.pipeline._next_flush = float("inf")  # hours pass: else the disk decides how fast

    def two_starts(self, *events: Event) -> Model:
        """Start, run for a while, and start again in a fresh container."""
        first = container("first")
        self.start(first)
        self.happen(execution("/bin/serve", ""), execution("/bin/chown"))
        self.busy(4, *(events or STEADY))
        self.stop(first)
        model = self.start()
        self.happen(execution("/bin/serve", ""), execution("/bin/chown"))
        return model

    def until(self, state: ModelState, *events: Event, minutes: int = 600) -> float:
        """Be busy until the model comes into a state; how many minutes that took."""
        (model,) = self.models.all()
        for minute in range(minutes):
            if model.state is state:
                return minute
            self.busy(1, *(events or STEADY))
        raise AssertionError(f"{model.state} after {minutes} minutes: {model.history[-1].cause}")


@pytest.fixture
def service(tmp_path: Path) -> Service:
    """A host on which nothing has happened yet."""
    return Service(tmp_path)


def test_learning_ends_when_the_counts_say_so(service: Service) -> None:
    """Two starts, ten minutes, nothing rare: dry run; an hour of quiet: active, with a bound."""
    model = service.two_starts()
    minutes = service.until(ModelState.DRY_RUN)
    assert 8 <= minutes <= 20
    cause = model.history[-1].cause
    assert "2 starts" in cause
    assert "coverage 100 %, 0.0 new keys expected" in cause
    assert 58 <= service.until(ModelState.ACTIVE) <= 61
    assert "nothing new in 59 active minutes" in model.history[-1].cause
    assert "false alarms a day with 95 % confidence" in model.history[-1].cause
    bound = bound_a_day(model)
    assert bound is not None
    assert 71 < bound <= 72
    assert service.recorded() == []
    service.busy(120, *STEADY)
    later = bound_a_day(model)
    assert later is not None
    assert later < bound / 2  # the bound follows what is seen


def test_one_start_is_not_enough_before_the_upper_limit(service: Service) -> None:
    """What of the start-up is made up only a second start would tell; the cause says so."""
    model = service.start()
    service.happen(execution("/bin/serve", ""))
    service.busy(239, *STEADY)
    assert model.state is ModelState.LEARNING
    service.until(ModelState.DRY_RUN, minutes=3)
    cause = model.history[-1].cause
    assert cause.startswith("upper limit of 240 min reached")
    assert "1 start seen from the beginning" in cause
    assert "do not converge" not in cause
    assert model.unsettled == frozenset()


def test_the_next_image_learns_in_minutes(service: Service) -> None:
    """Its predecessor has shown which names of a start-up are made up: one start is enough."""
    service.two_starts()
    service.until(ModelState.DRY_RUN)
    service.stop()
    image = Image("shop/web", "1.3", "", "sha256:" + "b" * 64)
    model = service.start(container("next", image=image))
    assert model.inherited_from
    model.trust.checked = True  # that the programs are in the image
    service.happen(execution("/bin/serve", ""))
    for minute in range(20):
        if str(model.state) == "dry-run":
            break
        service.busy(1, *STEADY)
        assert minute < 14
    assert "of the earlier image's model were seen again" in model.history[-1].cause


def test_what_comes_rarely_keeps_a_model_learning(service: Service) -> None:
    """Executions that each come once say that more of them will come."""
    model = service.two_starts()
    for letter in "abcde":
        service.busy(5, *STEADY)
        service.happen(execution(f"/bin/rare{letter}"))
    service.busy(10, *STEADY)
    assert model.state is ModelState.LEARNING
    for letter in "abcde":
        service.busy(2, *STEADY)
        service.happen(execution(f"/bin/rare{letter}"))
    assert service.until(ModelState.DRY_RUN, minutes=5) >= 0


def test_a_model_that_never_converges_says_so_by_kind(tmp_path: Path) -> None:
    """Executions come to be refused; writes, of which new ones come for ever, are only told."""
    settings = replace(SETTINGS, learn_seconds=HOUR, dry_run_seconds=HOUR)
    kernel = ReplayKernel(guarantee="deny")
    service = Service(tmp_path, policy=PREVENT, kernel=kernel, settings=settings)
    model = service.two_starts()
    names = fresh_names()
    for _ in range(53):
        service.happen(change(next(names)))
        service.busy(1, *STEADY)
    assert str(model.state) == "learning"
    for _ in range(10):
        service.happen(change(next(names)))
        service.busy(1, *STEADY)
    assert str(model.state) == "dry-run"
    assert "writes do not converge" in model.history[-1].cause
    assert "executions do not" not in model.history[-1].cause
    assert model.unsettled == {"writes"}
    before = model.extensions
    for _ in range(61):
        service.happen(change(next(names)))
        service.busy(1, *STEADY)
    assert str(model.state) == "active"
    assert model.extensions == before  # such novelties do not start the dry run again
    assert model.unsettled == {"writes"}
    assert "upper limit of 60 min reached" in model.history[-1].cause
    assert "instead of 72" in model.history[-1].cause
    mode = service.kernel.modes[CGROUP]
    assert not mode.prevent & 1 << Detection.UNKNOWN_WRITE
    for refused in (Detection.UNKNOWN_PROGRAM, Detection.PROTECTED_WRITE):
        assert mode.prevent & 1 << refused
    service.happen(change(next(names)), change("/etc/cron.d/x"), execution("/bin/evil"))
    assert [audit.outcome for audit in service.recorded()[-3:]] == ["observed", "denied", "denied"]


def test_what_has_ceased_by_the_dry_run_has_settled(tmp_path: Path) -> None:
    """Writes that did not converge are refused after all, once the promise is made for them too."""
    settings = replace(SETTINGS, learn_seconds=HOUR)
    service = Service(tmp_path, settings=settings)
    model = service.two_starts()
    names = fresh_names()
    while str(model.state) == "learning":
        service.happen(change(next(names)))
        service.busy(1, *STEADY)
    service.happen(change(next(names)))
    assert model.unsettled == {"writes"}
    assert service.until(ModelState.ACTIVE) > 59  # one failed minute takes more quiet ones
    assert model.trial.novel == 1
    assert model.unsettled == frozenset()


def test_a_novelty_starts_the_hold_out_again(service: Service) -> None:
    """What was quiet before it says nothing of the model as it is now."""
    model = service.two_starts()
    service.until(ModelState.DRY_RUN)
    service.busy(50, *STEADY)
    assert model.trial.units >= 49
    service.happen(execution("/bin/late"))
    assert (model.trial.units, model.extensions) == (0, 1)
    service.busy(50, *STEADY)
    assert model.state is ModelState.DRY_RUN
    # A second attempt has to be surer than the first, so that both together are as sure as said.
    assert model.trial.attempt == 2
    assert 34 <= service.until(ModelState.ACTIVE) <= 40


def test_idle_minutes_prove_nothing(service: Service) -> None:
    """Time passes, nothing happens: only the upper limit ends the dry run, and owns up to it."""
    model = service.two_starts()
    service.until(ModelState.DRY_RUN)
    service.busy(30, *STEADY)
    for _ in range(5 * 60):
        service.wait(60)
    assert model.state is ModelState.DRY_RUN
    for _ in range(60):
        service.wait(60)
    assert str(model.state) == "active"
    assert "upper limit" in model.history[-1].cause
    assert "30 active minutes" in model.history[-1].cause


def test_two_replicas_count_for_one_and_a_third(service: Service) -> None:
    """Both are asked for at once, and taken for half as alike as one."""
    model = service.two_starts()
    service.until(ModelState.DRY_RUN)
    twin = container("twin", cgroup_id=CGROUP + 1)
    service.start(twin)
    both = (*STEADY, *(execution("/bin/tool", cgroup_id=CGROUP + 1),))
    minutes = service.until(ModelState.ACTIVE, *both)
    assert 43 <= minutes <= 47  # 59 units at 4/3 a minute
    assert model.trial.runs == 2


def test_lost_events_are_not_quiet(service: Service) -> None:
    """Loss starts the clock of learning again, and the hold-out of the dry run."""
    model = service.two_starts()
    service.busy(4, *STEADY)
    service.kernel.lose(CGROUP, 5)
    service.busy(1, *STEADY)
    assert service.until(ModelState.DRY_RUN) >= 8
    service.busy(40, *STEADY)
    service.kernel.lose(CGROUP, 5)
    service.busy(1, *STEADY)
    assert model.trial.units <= 1
    assert service.until(ModelState.ACTIVE) >= 57


def test_a_restart_of_the_daemon_in_the_middle(service: Service) -> None:
    """Counts, starts and hold-out go on; a container that ran on is no second start."""
    model = service.two_starts()
    service.until(ModelState.DRY_RUN)
    service.busy(30, *STEADY)
    service.pipeline.flush()
    again = Service(service.directory, kernel=service.kernel, now=service.now + 60)
    again.kernel.attachment.reused = True
    taken = again.start(running_before=True)
    assert (taken.runs, taken.containers, taken.complete_runs) == (2, 2, 2)
    assert (taken.state, taken.incidence.starts) == (ModelState.DRY_RUN, 2)
    assert taken.trial.units == model.trial.units
    assert taken.incidence.units[UNIT] == model.incidence.units[UNIT]
    assert 25 <= again.until(ModelState.ACTIVE) <= 32


def test_after_a_gap_a_container_that_ran_on_is_another_run(service: Service) -> None:
    """Where the kernel side was gone as well, nobody knows what it did meanwhile."""
    service.two_starts()
    service.busy(5, *STEADY)
    service.pipeline.flush()
    again = Service(service.directory, now=service.now + 60)
    taken = again.start(running_before=True)
    assert (taken.runs, taken.complete_runs) == (3, 2)


def test_short_lived_containers_are_counted_by_runs(service: Service) -> None:
    """A job that runs for twenty seconds has no minutes: its runs are the units."""
    for number in range(10):
        job = container(f"job{number}")
        service.start(job)
        service.happen(execution("/bin/serve", ""), change("/out/report-1"))
        service.wait(10)
        service.happen(execution("/bin/tool"))
        service.wait(10)
        service.stop(job)
        service.wait(280)
    (model,) = service.models.all()
    service.start(container("last"))
    service.wait(1)
    assert model.state is ModelState.DRY_RUN
    assert "0 active minutes and 10 starts" in model.history[-1].cause


def suspect_service(tmp_path: Path) -> tuple[Service, Model]:
    """A service under prevention whose load changes once its model is active."""
    service = Service(
        tmp_path, policy=Policy(prevent=("*",)), kernel=ReplayKernel(guarantee="deny")
    )
    model = service.two_starts()
    service.until(ModelState.DRY_RUN)
    service.until(ModelState.ACTIVE)
    service.busy(30, *STEADY)
    return service, model


def test_a_model_that_is_wrong_becomes_suspect(tmp_path: Path) -> None:
    """More new than was promised: soft novelties pass from then on, hard ones never do."""
    service, model = suspect_service(tmp_path)
    names = fresh_names()
    for number in range(30):
        service.happen(change(next(names)))
        if number == 8:
            assert str(model.state) == "active"  # fewer than ten are chance
        service.busy(1, *STEADY)
    assert str(model.state) == "suspect"
    assert "were foretold" in model.history[-1].cause
    told = [audit for audit in service.recorded() if audit.type is AuditType.MODEL_SUSPECT]
    assert len(told) == 1
    assert "rote models extend" in told[0].extra["decide"]
    service.happen(
        change(next(names)),
        execution("/bin/tool", "/bin/chown"),
        execution("/bin/evil"),
        execution("/tmp/x", origin=Origin.ADDED),
        change("/etc/ld.so.preload"),
    )
    assert [(audit.type, audit.outcome) for audit in service.recorded()[-5:]] == [
        (AuditType.UNKNOWN_WRITE, "observed"),
        (AuditType.UNKNOWN_PARENT, "observed"),
        (AuditType.UNKNOWN_PROGRAM, "denied"),
        (AuditType.CHANGED_PROGRAM, "denied"),
        (AuditType.PROTECTED_WRITE, "denied"),
    ]


def test_a_person_decides_about_a_suspect_model(tmp_path: Path) -> None:
    """Activated by hand it refuses again, and stays; let learn on it takes in what is new."""
    service, model = suspect_service(tmp_path)
    names = fresh_names()
    for _ in range(30):
        service.happen(change(next(names)))
        service.busy(1, *STEADY)
    service.models.activate(model)
    service.pipeline.reload_model(model)
    path = next(names)
    service.happen(change(path))
    assert service.recorded()[-1].outcome == "denied"
    for _ in range(30):
        service.happen(change(next(names)))
        service.busy(1, *STEADY)
    assert str(model.state) == "active"
    service.models.extend(model)
    service.pipeline.reload_model(model)
    service.happen(change(path))
    assert service.happen(change(path)) == 0


def test_a_burst_does_not_make_a_model_suspect(tmp_path: Path) -> None:
    """Somebody who does a hundred new things at once breaks in; the model is not wrong."""
    service, model = suspect_service(tmp_path)
    names = fresh_names()
    service.happen(*(change(next(names)) for _ in range(100)))
    service.busy(30, *STEADY)
    assert str(model.state) == "active"
    assert len(model.novelties) == 100


def test_without_containers_a_model_goes_to_the_archive(service: Service) -> None:
    """After a day; it comes back in the state it had, whichever that was."""
    model = service.two_starts()
    service.until(ModelState.DRY_RUN)
    service.stop()
    service.wait(24 * HOUR - 1)
    assert model.state is ModelState.DRY_RUN
    service.wait(1)
    assert str(model.state) == "archived"
    assert model.history[-1].cause == "no container for 24 h"
    service.start()
    assert str(model.state) == "dry-run"
    assert service.happen(*STEADY) == 0


def test_from_the_archive_a_container_is_judged_from_its_first_instruction(tmp_path: Path) -> None:
    """One that was stopped and may start again finds its model where it left it."""
    service, model = suspect_service(tmp_path)
    service.stop()
    service.wait(25 * HOUR)
    assert str(model.state) == "archived"
    number, _ = service.kernel.expected[container().id]
    assert number
    (told,) = service.kernel.called("expect")[-1:]
    assert told["mode"].prevent
    service.start()
    assert str(model.state) == "active"
    assert service.happen(*STEADY) == 0
    service.happen(execution("/bin/evil"))
    assert service.recorded()[-1].outcome == "denied"


def test_what_a_person_set_is_not_archived(service: Service) -> None:
    """A model that was activated by hand stays that."""
    model = service.two_starts()
    service.models.activate(model)
    service.stop()
    service.wait(100 * HOUR)
    assert model.state is ModelState.ACTIVE


def test_a_daemon_that_was_away_looks_before_it_archives(service: Service) -> None:
    """Containers are found after the start; their models are not archived before."""
    service.two_starts()
    service.pipeline.flush()
    again = Service(service.directory, now=service.now + 48 * HOUR)
    again.wait(1)
    (model,) = again.models.all()
    assert model.state is ModelState.LEARNING


def test_models_of_the_first_version_are_read(service: Service) -> None:
    """What users have in their stores and files is not lost: it begins to count."""
    model = service.two_starts()
    service.busy(20, *STEADY)
    values = msgpack.unpackb(pack_model(model), unicode_errors="surrogateescape")
    for field in (
        "incidence", "trial", "in_active", "promise", "unsettled", "dry_run_total", "lost_starts",
        "last_used_ns", "open_runs", "novelties",
    ):  # fmt: skip
        del values[field]
    old = msgpack.packb(values, unicode_errors="surrogateescape")
    taken = unpack_model(old, 7, "old")
    assert taken.keys == model.keys
    assert taken.incidence.total == 0
    assert taken.last_used_ns == model.updated_ns


@pytest.mark.parametrize(
    ("field", "value", "complaint"),
    [
        ("incidence", {}, "incidence.keys: expected list, found nothing"),
        ("trial", [1, 2], "trial: expected 6 numbers"),
        ("trial", [1, "x", 0, 0, 0, 1], r"trial\[1\]"),
        ("open_runs", [["x"]], r"open_runs\[0\]"),
        ("promise", "much", "promise: expected number"),
    ],
)
def test_damaged_counts_are_named(
    service: Service, field: str, value: object, complaint: str
) -> None:
    """One line that says where, and nothing of the file is taken."""
    model = service.two_starts()
    values = msgpack.unpackb(pack_model(model), unicode_errors="surrogateescape")
    values[field] = value
    with pytest.raises(ModelFileError, match=complaint):
        unpack_model(msgpack.packb(values, unicode_errors="surrogateescape"), 7, "old")


def test_a_later_version_is_refused(service: Service) -> None:
    """Of a file from a later Rote nothing is guessed."""
    del service
    data = msgpack.packb({"magic": "rote-model", "version": 3, "sha256": "", "payload": b""})
    with pytest.raises(ModelFileError, match="version: 3"):
        import_model(data, "x")
