"""Models: judging, learning, states, store, files."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sensor.errors import ModelFileError, StateError, UsageError
from sensor.events import Actor, Event, EventFlag, Operation, OperationClass, Origin, WalkEnd
from sensor.models.diff import difference
from sensor.models.files import export_bytes, import_model
from sensor.models.keys import ExecKey, Program, WriteKey
from sensor.models.learning import LearningSettings
from sensor.models.model import Model, ModelState, Verdict
from sensor.models.registry import ModelRegistry
from sensor.models.store import ModelStore
from tests.unit.builders import change, container, execution


class Clock:
    """A clock that a test turns."""

    def __init__(self) -> None:
        self.now = 1_000_000.0

    def __call__(self) -> float:
        """What time it is."""
        return self.now


@pytest.fixture
def clock() -> Clock:
    """Time in the test's hands."""
    return Clock()


@pytest.fixture
def store(tmp_path: Path) -> Iterator[ModelStore]:
    """An empty store."""
    made = ModelStore(tmp_path / "models.db")
    yield made
    made.close()


@pytest.fixture
def registry(store: ModelStore, clock: Clock) -> ModelRegistry:
    """A registry that learns for a minute and dry-runs for an hour."""
    return ModelRegistry(store, LearningSettings(60, 3600), clock=clock)


def learn(registry: ModelRegistry, model: Model, *events: Event) -> list[object]:
    """Judge and learn events; the new keys."""
    new: list[object] = []
    for event in events:
        new.extend(registry.learn(model, registry.judge(model, event), event, "c1"))
    return new


def test_what_was_learned_is_known_and_else_is_novel(registry: ModelRegistry) -> None:
    """Keys are exact in caller, program, origin and kind of change."""
    model = registry.attach(container(), complete=True)
    learn(registry, model, execution("/bin/tar"), change("/var/log/app-2026.log"))
    for event in (execution("/bin/tar"), change("/var/log/app-7.log")):
        assert model.judge(event).verdict is Verdict.KNOWN
    for event in (
        execution("/bin/tar", "/bin/sh"),
        execution("/bin/tar", origin=Origin.ADDED),
        execution("/bin/nc"),
        change("/var/log/app.log"),
        change("/var/log/app-7.log", "/bin/sh"),
        change("/var/log/app-7.log", operation=Operation.UNLINK),
    ):
        assert model.judge(event).verdict is Verdict.NOVEL, event
    assert model.judge(execution("/bin/tar", "/bin/sh")).known_program


@pytest.mark.parametrize(
    "event",
    [
        execution("/tmp/x", origin=Origin.ADDED),
        execution("/dev/shm/x", origin=Origin.TMPFS),
        execution("/memfd:x", origin=Origin.MEMORY),
        execution("/bin/x", walk_end=WalkEnd.OTHER_NAMESPACE),
        execution("/bin/x", actor=Actor.SESSION),
        change("/x", walk_end=WalkEnd.DETACHED),
        change("/x", flags=EventFlag.PATH_TRUNCATED),
        change("/x", actor=Actor.SESSION),
        change("/x", operation=Operation.RENAME, path2="/y", walk_end2=WalkEnd.DETACHED),
    ],
)
def test_some_things_are_never_learned(registry: ModelRegistry, event: Event) -> None:
    """Dropped, memory-only and unresolvable objects and sessions teach nothing."""
    model = registry.attach(container(), complete=True)
    before = set(model.keys)
    assert learn(registry, model, event) == []
    assert set(model.keys) == before
    assert not model.judge(event).learnable
    if event.actor is not Actor.SESSION:  # these have a list of their own
        assert model.judge(event).verdict is Verdict.NOVEL
        assert model.judge(event).reason


def test_rename_needs_both_names(registry: ModelRegistry) -> None:
    """A rename is known when its old and its new name are."""
    model = registry.attach(container(), complete=True)
    rename = change("/d/tmp-1", operation=Operation.RENAME, path2="/d/final")
    new = learn(registry, model, rename)
    assert {key.operation for key in new if isinstance(key, WriteKey)} == {
        OperationClass.REMOVE,
        OperationClass.RENAME,
    }
    assert model.judge(rename).verdict is Verdict.KNOWN
    other = change("/d/tmp-2", operation=Operation.RENAME, path2="/d/passwd")
    assert model.judge(other).verdict is Verdict.NOVEL


def test_protected_and_image_files_are_learned_by_name_only(registry: ModelRegistry) -> None:
    """Where the very name matters, no class takes its place."""
    model = registry.attach(container(), complete=True)
    learn(registry, model, change("/usr/lib/x1.so"), change("/srv/v1", origin=Origin.IMAGE))
    assert model.judge(change("/usr/lib/x2.so")).verdict is Verdict.NOVEL
    assert model.judge(change("/srv/v2")).verdict is Verdict.NOVEL


def test_many_siblings_become_a_directory(registry: ModelRegistry) -> None:
    """Eight literals of one program with one extension open their directory for it."""
    model = registry.attach(container(), complete=True)
    for letter in "abcdefgh":
        learn(registry, model, change(f"/spool/job{letter}.tmp"))
    assert model.judge(change("/spool/jobz.tmp")).verdict is Verdict.KNOWN
    assert model.judge(change("/spool/jobz.tmp", "/bin/sh")).verdict is Verdict.NOVEL
    for letter in "abcdefghij":
        learn(registry, model, change(f"/etc/cron.d/{letter}"))
    assert model.judge(change("/etc/cron.d/zz")).verdict is Verdict.NOVEL


def test_temporary_names_are_any_name(registry: ModelRegistry) -> None:
    """What mkstemp names by chance like a word is still temporary; the final name is exact."""
    model = registry.attach(container(), complete=True)
    rename = change("/srv/sedKjhgfd", "/bin/sed", operation=Operation.RENAME, path2="/srv/app.conf")
    learn(registry, model, change("/srv/sedKjhgfd", "/bin/sed"), rename)
    assert model.judge(change("/srv/sedabcdef", "/bin/sed")).verdict is Verdict.KNOWN
    again = change("/srv/sedx1Y2z3", "/bin/sed", operation=Operation.RENAME, path2="/srv/app.conf")
    assert model.judge(again).verdict is Verdict.KNOWN
    for event in (
        change("/srv/sedabcdef", "/bin/sh"),
        change("/etc/sedabcdef", "/bin/sed"),
        change("/srv/sedabcdef", "/bin/sed", operation=Operation.RENAME, path2="/srv/other"),
    ):
        assert model.judge(event).verdict is Verdict.NOVEL
    protected = change(
        "/etc/ssh/sedKjhgfd", "/bin/sed", operation=Operation.RENAME, path2="/etc/ssh/sshd_config"
    )
    learn(registry, model, protected)
    assert model.judge(change("/etc/ssh/sedabcdef", "/bin/sed")).verdict is Verdict.NOVEL


def test_coming_in_is_never_known(registry: ModelRegistry) -> None:
    """That the service starts with a shell does not let anybody enter with one unseen."""
    model = registry.attach(container(), complete=True)
    learn(registry, model, execution("/bin/sh", ""), execution("/bin/date", "/bin/sh"))
    entering = execution("/bin/sh", "", actor=Actor.SESSION)
    assert model.judge(entering).verdict is Verdict.NOVEL
    inside = execution("/bin/date", "/bin/sh", actor=Actor.SESSION)
    assert model.judge(inside).verdict is Verdict.KNOWN


def test_time_moves_states(registry: ModelRegistry, clock: Clock) -> None:
    """Learning and dry run end by time, added up over containers; novelty extends the dry run."""
    model = registry.attach(container("a"), complete=True)
    registry.attach(container("b"), complete=True)
    clock.now += 31
    moved = registry.tick(clock.now)
    assert [(t.old, t.new) for t in moved] == [("learning", "dry-run")]
    clock.now += 1700
    registry.tick(clock.now)
    learn(registry, model, execution("/bin/new"))
    assert (model.dry_run_seconds, model.extensions) == (0.0, 1)
    clock.now += 1799
    assert registry.tick(clock.now) == []
    clock.now += 10
    assert [t.new for t in registry.tick(clock.now)] == ["active"]
    assert len(model.history) == 3


def test_a_model_that_lost_events_is_not_promoted(registry: ModelRegistry, clock: Clock) -> None:
    """Loss starts the learning time again."""
    made = container()
    model = registry.attach(made, complete=True)
    clock.now += 59
    registry.tick(clock.now)
    registry.note_lost(made.id, 3)
    clock.now += 30
    assert registry.tick(clock.now) == []
    assert model.lost == 3
    clock.now += 31
    assert [t.new for t in registry.tick(clock.now)] == ["dry-run"]


def test_a_person_sets_states(registry: ModelRegistry, clock: Clock) -> None:
    """What a person sets, time does not move; each change keeps its cause."""
    model = registry.attach(container(), complete=True)
    learn(registry, model, execution("/bin/a"))
    registry.activate(model)
    clock.now += 10**6
    assert registry.tick(clock.now) == []
    registry.extend(model)
    assert model.state is ModelState.LEARNING
    assert model.judge(execution("/bin/a")).verdict is Verdict.KNOWN
    registry.archive(model)
    registry.restore(model)
    with pytest.raises(UsageError, match="only archived"):
        registry.restore(model)
    registry.learn_again(registry.get("#1"))
    assert registry.get("#1").keys == {}
    assert all(t.cause for t in model.history)


def test_models_survive_a_restart(store: ModelStore, registry: ModelRegistry) -> None:
    """What was learned is there again with its evidence, states and numbers."""
    model = registry.attach(container(), complete=True)
    odd = "/data/\udcff\n"
    learn(registry, model, change(odd), execution("/bin/a", applet="ls"))
    registry.activate(model)
    registry.flush()
    again = ModelRegistry(ModelStore(store.path), LearningSettings())
    loaded = again.get("shop/web:1.2")
    assert loaded.keys == model.keys
    assert (loaded.number, loaded.state, loaded.manual) == (1, ModelState.ACTIVE, True)
    assert loaded.judge(change(odd)).verdict is Verdict.KNOWN


def test_numbers_are_never_given_twice(registry: ModelRegistry) -> None:
    """A removed model's number, which the kernel may still hold, is not used again."""
    first = registry.attach(container("a"), complete=True)
    with pytest.raises(UsageError, match="running containers use it"):
        registry.remove(first)
    registry.detach(container("a").id)
    registry.remove(first)
    assert registry.attach(container("b"), complete=True).number == 2


def test_unknown_and_ambiguous_names_say_what_there_is(registry: ModelRegistry) -> None:
    """A wrong name is answered with the right ones."""
    registry.attach(container("a"), complete=True)
    registry.attach(container("b", user="1"), complete=True)
    with pytest.raises(UsageError, match=r"2 models fit.*#1.*#2"):
        registry.get("shop")
    with pytest.raises(UsageError, match="not known"):
        registry.get("shpo")


def test_same_image_started_otherwise_has_its_own_model(registry: ModelRegistry) -> None:
    """A model belongs to an image and the way it is started."""
    web = registry.attach(container(), complete=True)
    job = registry.attach(container("job", command=("migrate",)), complete=True)
    assert web is not job
    assert registry.attach(container("web2"), complete=True) is web


def test_export_and_import(registry: ModelRegistry, tmp_path: Path) -> None:
    """A file carries everything; importing over an existing model has to be asked for."""
    model = registry.attach(container(), complete=True)
    learn(registry, model, execution("/bin/a"), change("/x/1"))
    data = export_bytes(model)
    other = ModelRegistry(ModelStore(tmp_path / "other.db"), LearningSettings())
    taken = other.take_in(import_model(data, "m.rote"))
    assert taken.keys.keys() == model.keys.keys()
    with pytest.raises(UsageError, match="--replace or --merge"):
        other.take_in(import_model(data, "m.rote"))
    learn(other, taken, execution("/bin/b"))
    merged = other.take_in(import_model(data, "m.rote"), merge=True)
    assert ExecKey(Program("/bin/serve"), Program("/bin/b"), Origin.IMAGE, Actor.SERVICE) in (
        merged.keys
    )
    found = difference(model, merged)
    assert (len(found.only_left), len(found.only_right)) == (0, 1)
    replaced = other.take_in(import_model(data, "m.rote"), replace_existing=True)
    assert replaced.keys.keys() == model.keys.keys()


@given(st.data())
def test_damaged_files_are_one_clear_line(data: st.DataObject) -> None:
    """Whatever happened to a file on its way: an error that names it, or the same model."""
    model = Model("i~s", 1, container().image, "s")
    good = bytearray(export_bytes(model))
    for _ in range(data.draw(st.integers(1, 3))):
        at = data.draw(st.integers(0, len(good) - 1))
        good[at] = data.draw(st.integers(0, 255))
    cut = bytes(good[: data.draw(st.integers(0, len(good)))])
    try:
        found = import_model(cut, "m.rote").id
        said = "m.rote"
    except ModelFileError as error:
        found, said = model.id, str(error)
    assert found == model.id
    assert said.startswith("m.rote")
    assert "\n" not in said


def test_a_corrupt_database_is_named(tmp_path: Path) -> None:
    """A damaged store is an error with its file; nothing is deleted."""
    path = tmp_path / "models.db"
    path.write_bytes(b"not a database, but long enough to look like one" * 100)
    with pytest.raises(StateError, match=r"models\.db"):
        ModelStore(path)
    assert path.exists()


def test_a_corrupt_row_is_named(registry: ModelRegistry, store: ModelStore) -> None:
    """A row that cannot be read is named with the remedy."""
    registry.attach(container(), complete=True)
    with sqlite3.connect(store.path) as db:
        db.execute("UPDATE models SET content=x'00'")
    with pytest.raises(StateError, match="model 1: expected a map"):
        ModelStore(store.path).load()
