"""What must never enter a model: hard detections, tainted lineages, bursts, removed keys."""

from __future__ import annotations

import stat
from pathlib import Path
from typing import Any

import pytest

from sensor.ancestry import parent_of
from sensor.audits.audit import AuditType, Severity
from sensor.control.trust_handlers import TrustHandlers, find_keys
from sensor.errors import UsageError
from sensor.events import Event, EventFlag, Operation, Origin, WalkEnd
from sensor.models.bursts import LIMIT, START_UP_NS, WINDOW_NS
from sensor.models.files import export_bytes, import_model
from sensor.models.keys import ExecKey, WriteKey
from sensor.models.model import Model, ModelState
from sensor.models.trust import key_id, singletons
from sensor.rules.teaching import Teaching
from tests.unit.builders import CGROUP, change, container, execution
from tests.unit.stories import Story, session

FIRST = container().pid


@pytest.fixture
def story(tmp_path: Path) -> Story:
    """A host on which nothing has happened yet."""
    return Story(tmp_path)


def ask(story: Story, verb: str, **args: Any) -> Any:
    """What a command asks of the daemon."""
    return TrustHandlers(story.pipeline, lambda: story.now).table()[verb](args)


def patterns(model: Model) -> set[str]:
    """The paths that a model knows to be changed."""
    return {key.pattern for key in model.keys if isinstance(key, WriteKey)}


def programs(model: Model) -> set[str]:
    """The programs that a model knows."""
    return {str(key.program) for key in model.keys if isinstance(key, ExecKey)}


def begin(story: Story) -> Model:
    """A service that has executed its entrypoint and one tool."""
    model = story.start()
    story.happen(execution("/bin/serve", "", pid=FIRST), execution("/bin/tool", pid=4_000_100))
    assert not story.recorded()
    return model


@pytest.mark.parametrize("state", [ModelState.LEARNING, ModelState.DRY_RUN])
def test_the_service_changes_protected_places_by_exact_name_and_it_is_told(
    story: Story, state: ModelState
) -> None:
    """An entrypoint that adds a user is the service; a person sees it all the same."""
    model = begin(story)
    model.state = state
    assert story.happen(change("/etc/passwd", "/bin/tool", pid=4_000_101)) == 1
    assert story.happen(change("/etc/passwd", "/bin/tool", pid=4_000_101)) == 0
    assert story.happen(change("/etc/passwd2", "/bin/tool", pid=4_000_101)) == 1
    (audit,) = [a for a in story.recorded() if a.path == "/etc/passwd"]
    assert (audit.type, audit.severity) == (AuditType.PROTECTED_WRITE, Severity.MEDIUM)
    assert any("exact name" in remark for remark in audit.remarks)
    assert "/etc/passwd" in patterns(model)


def test_code_in_a_data_directory_is_a_remark_only(story: Story) -> None:
    """A cache that writes .php is ordinary; it is told as information."""
    begin(story)
    story.happen(change("/var/cache/twig/a.php", "/bin/tool", pid=4_000_101))
    assert [a.severity for a in story.recorded()] == [Severity.INFO]


def test_an_unknown_program_never_teaches_a_protected_place(story: Story) -> None:
    """Nobody saw it being executed as a part of the service; its lineage teaches nothing after."""
    model = begin(story)
    evil = {"pid": 4_000_200, "exec_id": 77}
    story.happen(change("/etc/cron.d/x", "/opt/stranger", **evil))
    story.happen(change("/var/data/a", "/opt/stranger", **evil))  # the same process
    story.happen(change("/var/data/b", "/bin/tool", pid=4_000_201, parent_pid=4_000_200))
    story.happen(execution("/bin/late", "/bin/tool", pid=4_000_202, parent_pid=4_000_201))
    story.happen(change("/var/data/c", "/bin/tool", pid=4_000_203, exec_id=77))
    assert not patterns(model)
    assert "/bin/late" not in programs(model)
    kinds = [audit.type for audit in story.recorded()]
    assert kinds == [
        AuditType.PROTECTED_WRITE, AuditType.UNKNOWN_WRITE, AuditType.UNKNOWN_WRITE,
        AuditType.UNKNOWN_PROGRAM, AuditType.UNKNOWN_WRITE,
    ]  # fmt: skip
    assert all("not learned" in " ".join(audit.remarks) for audit in story.recorded())
    # Somebody else still teaches.
    story.happen(change("/var/data/d", "/bin/tool", pid=4_000_101))
    assert patterns(model) == {"/var/data/d"}
    assert model.trust.untaught == 5


@pytest.mark.parametrize(
    "hard",
    [
        execution("/tmp/x", "/bin/tool", origin=Origin.ADDED, pid=4_000_300, exec_id=5),
        execution("/memfd:x", "/bin/tool", origin=Origin.MEMORY, pid=4_000_300, exec_id=5),
        change("/bin/su", "/bin/tool", operation=Operation.CHMOD, pid=4_000_300, exec_id=5,
               open_flags=stat.S_IFREG | 0o4755),
        change("/etc/ld.so.preload", "/bin/tool", pid=4_000_300, exec_id=5),
        change("/root/.ssh/authorized_keys", "/bin/sh", pid=4_000_300, exec_id=5),
    ],
    ids=["dropped", "memory", "setuid", "preload", "stranger"],
)  # fmt: skip
@pytest.mark.parametrize("state", [ModelState.LEARNING, ModelState.DRY_RUN, ModelState.ACTIVE])
def test_hard_detections_are_told_in_every_state_and_never_learned(
    story: Story, hard: Event, state: ModelState
) -> None:
    """Nor is what the same process does next, while there is anything to learn."""
    model = begin(story)
    model.state = state
    known = set(model.keys)
    assert story.happen(hard) == 1
    assert story.happen(change("/var/data/next", "/bin/tool", pid=4_000_300)) == 1
    assert [audit.path for audit in story.recorded()] == [hard.path, "/var/data/next"]
    assert set(model.keys) == known


def test_taint_ends_with_the_container(story: Story) -> None:
    """The same pid in the next container is somebody else."""
    model = begin(story)
    story.happen(execution("/tmp/x", "/bin/tool", origin=Origin.ADDED, pid=4_000_300))
    story.stop()
    story.start()
    story.happen(change("/var/data/a", "/bin/tool", pid=4_000_300))
    assert patterns(model) == {"/var/data/a"}


def test_a_restart_of_the_daemon_absolves_nobody(story: Story, tmp_path: Path) -> None:
    """Who was suspected still is, and what was planted still is; a new run is somebody else."""
    file = tmp_path / "suspects.json"
    story.pipeline.teaching = Teaching(parent_of, file)
    begin(story)
    mine = {"actor": session().actor, "pid": 4_000_400, "origin": Origin.MOUNT}
    story.happen(
        execution("/tmp/x\udcff", "/bin/tool", origin=Origin.ADDED, pid=4_000_300, exec_id=8),
        change("/data/tool", "/bin/sh", **mine),
    )
    story.pipeline.flush()
    for run, learned in ((container(), set()), (container(pid=101), {"/var/a", "/var/b"})):
        again = Story(tmp_path)
        again.pipeline.teaching = Teaching(parent_of, file)
        model = again.start(run)
        again.happen(
            change("/var/a", "/bin/tool", pid=4_000_300),
            change("/var/b", "/bin/tool", pid=4_000_301, exec_id=8),
            execution("/data/tool", origin=Origin.MOUNT, pid=4_000_302),
        )
        assert patterns(model) == learned
        assert ("/data/tool" in programs(model)) == bool(learned)
    story.stop()
    story.pipeline.flush()
    assert file.read_text() == "{}"
    file.write_text('{"ended": {"first": 1}}')
    later = Teaching(parent_of, file)
    later.keep_only({container().id})
    later.flush()
    assert file.read_text() == "{}"
    file.write_text("[1")
    assert Teaching(parent_of, file).tainted("x") == 0  # worth a word, no more


def test_the_parent_of_a_dropped_program_is_tainted_but_not_the_first_process(story: Story) -> None:
    """The shell that ran it is no better; the service itself must stay learnable."""
    model = begin(story)
    drop = {"origin": Origin.ADDED, "parent_pid": 4_000_301}
    story.happen(execution("/tmp/x", "/bin/tool", pid=4_000_302, **drop))
    story.happen(execution("/tmp/y", "/bin/serve", pid=4_000_303, origin=Origin.ADDED,
                           parent_pid=FIRST))  # fmt: skip
    story.happen(change("/var/data/shell", "/bin/tool", pid=4_000_301))
    story.happen(change("/var/data/service", "/bin/serve", pid=FIRST))
    assert patterns(model) == {"/var/data/service"}


def test_the_first_process_is_spared_when_the_attempt_was_refused(story: Story) -> None:
    """It still is the service's program; had it run the other, nothing would be spared."""
    model = begin(story)
    refused = execution(
        "/tmp/x", "/bin/serve", origin=Origin.ADDED, pid=FIRST, flags=EventFlag.BEFORE
    )
    story.happen(refused)
    story.happen(change("/var/data/a", "/bin/serve", pid=FIRST))
    assert patterns(model) == {"/var/data/a"}
    story.happen(execution("/tmp/x", "/bin/serve", origin=Origin.ADDED, pid=FIRST, exec_id=9))
    story.happen(change("/var/data/b", "/tmp/x", pid=FIRST, exec_id=9))
    story.happen(change("/var/data/c", "/bin/tool", pid=4_000_101, parent_pid=FIRST))
    assert patterns(model) == {"/var/data/a"}


def test_what_a_session_writes_is_not_learnable_as_a_program(story: Story) -> None:
    """On a volume its origin would say nothing against it."""
    model = begin(story)
    on_volume = {"origin": Origin.MOUNT, "pid": 4_000_400}
    story.happen(change("/data/tool", "/bin/sh", actor=session().actor, **on_volume))
    story.happen(
        change("/data/.new", "/bin/sh", operation=Operation.RENAME, path2="/data/renamed",
               walk_end2=WalkEnd.ROOT, actor=session().actor, **on_volume)
    )  # fmt: skip
    story.happen(
        execution("/data/tool", origin=Origin.MOUNT, pid=4_000_401),
        execution("/data/renamed", origin=Origin.MOUNT, pid=4_000_402),
        execution("/data/own", origin=Origin.MOUNT, pid=4_000_403),
    )
    assert programs(model) == {"/bin/serve", "/bin/tool", "/data/own"}
    told = [a for a in story.recorded() if a.operation == "exec"]
    assert [a.path for a in told] == ["/data/tool", "/data/renamed"]
    assert all("a session wrote" in " ".join(a.remarks) for a in told)


def test_a_session_that_changes_a_protected_place_is_told_while_learning(story: Story) -> None:
    """Other changes of sessions are not: they are listed with the model."""
    model = begin(story)
    mine = {"actor": session().actor, "pid": 4_000_400}
    story.happen(change("/tmp/notes", "/bin/sh", **mine), change("/etc/shadow", "/bin/sh", **mine))
    (audit,) = story.recorded()
    assert (audit.type, audit.path) == (AuditType.PROTECTED_WRITE, "/etc/shadow")
    assert audit.severity == Severity.HIGH
    assert not patterns(model)


def test_a_worker_that_is_caught_does_not_taint_its_siblings(story: Story) -> None:
    """They share an execution with the first process, which forked them."""
    model = begin(story)
    story.happen(change("/etc/ld.so.preload", "/bin/serve", pid=4_000_500, exec_id=3,
                        parent_pid=FIRST))  # fmt: skip
    story.happen(
        change("/var/caught", "/bin/serve", pid=4_000_500, exec_id=3, parent_pid=FIRST),
        change("/var/below", "/bin/serve", pid=4_000_501, exec_id=3, parent_pid=4_000_500),
        change("/var/sibling", "/bin/serve", pid=4_000_502, exec_id=3, parent_pid=FIRST),
        change("/var/first", "/bin/serve", pid=FIRST, exec_id=3),
    )
    assert patterns(model) == {"/var/sibling", "/var/first"}


def test_who_writes_more_than_can_be_remembered_hides_nothing(story: Story) -> None:
    """Then nothing is learnable as a program but what the image holds."""
    model = begin(story)
    mine = {"actor": session().actor, "pid": 4_000_400, "origin": Origin.MOUNT}
    story.happen(*(change(f"/data/f{i}", "/bin/sh", **mine) for i in range(5000)))
    story.happen(
        execution("/data/f0", origin=Origin.MOUNT, pid=4_000_401),
        execution("/bin/own", pid=4_000_402),
    )
    assert programs(model) == {"/bin/serve", "/bin/tool", "/bin/own"}


def burst(story: Story, number: int, start_ns: int, parent: str = "/bin/tool") -> None:
    """So many new programs of one parent, a second apart."""
    for i in range(number):
        story.happen(
            execution(f"/usr/bin/t{chr(97 + i)}", parent, time_ns=start_ns + i * 10**9,
                      pid=4_001_000 + i)
        )  # fmt: skip


def steady(story: Story) -> tuple[Model, int]:
    """A service whose start is over, and the time."""
    model = story.start(container(started_at=1_000.0))
    return model, int(1_000e9) + START_UP_NS


def test_a_burst_is_held_whole_and_may_be_accepted(story: Story) -> None:
    """Also what was learned before it was seen to be one."""
    model, now = steady(story)
    burst(story, LIMIT, now)
    assert len(programs(model)) == LIMIT + 1  # the entrypoint too
    burst(story, LIMIT + 3, now)
    assert len(model.trust.held) == LIMIT + 3
    assert len(programs(model)) == 1
    assert story.happen(execution("/usr/bin/ta", "/bin/tool")) == 1  # the kernel forgot it too
    story.happen(change("/var/x", "/usr/bin/ta", pid=4_001_000))
    assert not patterns(model)
    story.models.flush()
    stored = Story(story.directory).models.get(model.id)
    assert stored.trust.held.keys() == model.trust.held.keys()

    said = ask(story, "models.accept_held", model=model.id)
    assert len(said["keys"]) == LIMIT + 3
    assert not model.trust.held
    assert story.happen(execution("/usr/bin/ta", "/bin/tool")) == 0
    story.happen(change("/var/x", "/usr/bin/ta", pid=4_001_000))
    assert patterns(model) == {"/var/x"}


def test_a_dropped_burst_stays_out(story: Story) -> None:
    """One by one it does not come back either."""
    model, now = steady(story)
    burst(story, LIMIT + 1, now)
    assert len(ask(story, "models.drop_held", model=model.id)["keys"]) == LIMIT + 1
    burst(story, 1, now + 10 * WINDOW_NS)
    assert len(programs(model)) == 1
    assert len(model.trust.removed) == LIMIT + 1


@pytest.mark.parametrize(
    ("start_ns", "parents"), [(0, ("/bin/tool",)), (START_UP_NS, ("/bin/tool", "/bin/serve"))]
)
def test_no_burst(story: Story, start_ns: int, parents: tuple[str, ...]) -> None:
    """While it starts, or of two parents."""
    model = story.start(container(started_at=1_000.0))
    for parent in parents:
        burst(story, 2 * LIMIT // (2 * len(parents)), int(1_000e9) + start_ns, parent)
    assert not model.trust.held
    assert len(model.keys) == LIMIT + 1


def test_removed_keys_do_not_come_back(story: Story) -> None:
    """Not by events, not from siblings, not by learning anew; only when a person lifts it."""
    model = begin(story)
    story.happen(change("/var/data/a", pid=4_000_101))
    (tool,) = [k for k in model.keys if isinstance(k, ExecKey) and k.program.path == "/bin/tool"]
    ask(story, "models.remove_keys", model=model.id, keys=[key_id(tool)[:5], "/var/data/a"])
    assert not patterns(model)
    assert story.happen(execution("/bin/tool", pid=4_000_102)) == 1
    assert story.happen(change("/var/data/a", pid=4_000_101)) == 1
    assert not patterns(model)
    assert tool not in model.keys
    assert [a.type for a in story.recorded()] == [
        AuditType.UNKNOWN_PROGRAM, AuditType.UNKNOWN_WRITE,
    ]  # fmt: skip
    story.models.learn_again(model)
    model = story.models.get(model.id)
    story.pipeline.reload_model(model)
    story.happen(execution("/bin/tool", pid=4_000_102))
    assert tool not in model.keys
    ask(story, "models.remove_keys", model=model.id, keys=["/bin/tool"], forget=True)
    story.happen(execution("/bin/tool", pid=4_000_102))
    assert tool in model.keys


def test_a_removed_wildcard_is_not_made_again_by_its_siblings(story: Story) -> None:
    """What it had taken in goes with it; from then on each name stays exact."""
    model = begin(story)
    names = [f"/var/data/{'x' * n}.db" for n in range(1, 11)]
    for name in names[:8]:
        story.happen(change(name, pid=4_000_101))
    assert patterns(model) == {"/var/data/*.db"}
    ask(story, "models.remove_keys", model=model.id, keys=["/var/data/*.db"])
    for name in names:
        assert story.happen(change(name, pid=4_000_101)) == 1
    assert patterns(model) == set(names)


def test_keys_are_named_without_doubt(story: Story) -> None:
    """An id of nobody, too short a one, a program that is not known."""
    model = begin(story)
    for text in ("abc", "zzzzzzzz", "/bin/none"):
        with pytest.raises(UsageError, match="rote models keys"):
            find_keys(model.keys, text, model)
    assert len(find_keys(model.keys, "/bin/tool", model)) == 1


def test_keys_of_one_run_are_marked_once_others_are_seen_in_several(story: Story) -> None:
    """With fewer than three runs, or no count at all, nothing is said."""
    model = begin(story)
    learned = [k for k, e in model.keys.items() if str(e.source) == "learned"]
    assert singletons(model) == []
    model.runs = 3
    assert singletons(model) == []
    story.happen(execution("/bin/other", pid=4_000_101))
    model.keys[learned[0]].runs = 2
    assert [k.program.path for k in singletons(model)] == ["/bin/other"]


def test_everything_decided_survives_a_restart(story: Story) -> None:
    """The store keeps it; an exported model carries it."""
    model = begin(story)
    ask(story, "models.remove_keys", model=model.id, keys=["/bin/tool"])
    ask(story, "models.writes_and_executes", model=model.id, directory="/src", by=["/usr/bin/ld"])
    model.trust.note_tried(execution("/src/x", "/bin/make"))
    model.trust.untaught = 3
    story.models.changed(model)
    story.models.flush()
    kept = Story(story.directory).models.get(model.id)
    assert kept.trust == model.trust
    assert import_model(export_bytes(model), "test").trust == model.trust
    assert CGROUP in story.kernel.watched
