"""Prevention, as the loop arranges it: who, from when on, by what, and what is told of it."""

from __future__ import annotations

import errno
import os
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest

from sensor.audits.audit import Action, AuditType, Guarantee
from sensor.containers.registry import ContainerChange
from sensor.events import Detection, Operation, Origin, WalkEnd
from sensor.kernel.port import ContainerFlag
from sensor.models.keys import Program
from sensor.models.model import Model, ModelState
from sensor.responses.prevent import Prevention, program_of
from sensor.rules.policy import Policy
from sensor.testing import ReplayKernel
from tests.unit.builders import CGROUP, change, container, execution
from tests.unit.stories import DRY_RUN_SECONDS, LEARN_SECONDS, Story

UNKNOWN = 1 << Detection.UNKNOWN_PROGRAM | 1 << Detection.UNKNOWN_WRITE


@pytest.fixture
def story(tmp_path: Path) -> Story:
    """A host that can deny, with everything under prevention."""
    return Story(tmp_path, ReplayKernel(guarantee="deny"), Policy(("*",)))


def flags(story: Story) -> ContainerFlag:
    """What the kernel was told of the container."""
    return story.kernel.watched[CGROUP][1]


def refused(story: Story) -> int:
    """The mask of what the kernel refuses in the container."""
    return story.kernel.modes[CGROUP].prevent


def test_prevention_begins_when_the_model_becomes_active(story: Story) -> None:
    """Not while it learns, and not in its dry run."""
    story.start()
    story.happen(execution("/bin/tool"))
    assert not refused(story) & UNKNOWN
    story.wait(LEARN_SECONDS)
    assert not refused(story) & UNKNOWN
    story.wait(DRY_RUN_SECONDS)
    assert refused(story) & UNKNOWN


def test_a_refusal_is_an_audit_with_what_the_process_saw(story: Story) -> None:
    """Action, outcome, errno, guarantee and the rule that asked for it."""
    story.learn(execution("/bin/tool"))
    story.happen(execution("/bin/evil"), change("/etc/passwd"))
    audits = story.recorded()
    assert [audit.type for audit in audits] == [
        AuditType.UNKNOWN_PROGRAM,
        AuditType.PROTECTED_WRITE,
    ]
    for audit in audits:
        assert (audit.action, audit.outcome, audit.errno) == (
            Action.PREVENT,
            "denied",
            errno.EPERM,
        )
        assert (audit.guarantee, audit.rule) == (Guarantee.DENY, "--prevent *")


def test_what_is_known_goes_on(story: Story) -> None:
    """Nothing is refused, nothing is told."""
    story.learn(execution("/bin/tool"), change("/var/lib/web/data"))
    assert story.happen(execution("/bin/tool"), change("/var/lib/web/data")) == 0


@pytest.mark.parametrize(
    ("glob", "prevented"),
    [("web", True), ("w*", True), ("shop/*", True), ("shop/web:1.2", True), ("other*", False)],
)
def test_globs_name_containers_or_images(tmp_path: Path, glob: str, prevented: bool) -> None:
    """A container's name, its image's name, or its reference."""
    story = Story(tmp_path, ReplayKernel(guarantee="deny"), Policy((glob,)))
    story.learn(execution("/bin/tool"))
    assert bool(refused(story) & UNKNOWN) == prevented
    assert story.pipeline.preventing == prevented


def test_on_error_allow_is_passed_down(tmp_path: Path) -> None:
    """What cannot be judged is then allowed."""
    story = Story(tmp_path, ReplayKernel(), Policy(("*",), allow_on_error=True))
    story.learn(execution("/bin/tool"))
    assert flags(story) & ContainerFlag.ERROR_ALLOW


def test_learning_anew_ends_prevention_before_the_keys_go(story: Story) -> None:
    """At no moment is a container under prevention by a model that is being emptied."""
    model = story.learn(execution("/bin/tool"))
    before = story.kernel.watched[CGROUP][0]
    story.models.learn_again(model)
    story.kernel.calls.clear()
    story.pipeline.reload_model(story.models.get(model.id))
    names = [name for name, _ in story.kernel.calls]
    assert names.index("watch") < names.index("drop_exec")
    assert not refused(story) & UNKNOWN
    assert story.kernel.watched[CGROUP][0] != before


def test_a_reloaded_model_stands_beside_the_old_one(story: Story) -> None:
    """The container changes over when the new one is whole; then the old one goes."""
    model = story.learn(execution("/bin/tool"), change("/var/lib/web/data"))
    story.kernel.calls.clear()
    story.pipeline.reload_model(model)
    calls = story.kernel.calls
    watched = next(i for i, (name, _) in enumerate(calls) if name == "watch")
    new = calls[watched][1]["model"]
    put = [i for i, (name, a) in enumerate(calls) if name == "put_exec" and a["entry"].model == new]
    dropped = [i for i, (name, _) in enumerate(calls) if name == "drop_exec"]
    assert put[-1] < watched < dropped[0]
    assert story.happen(execution("/bin/tool"), change("/var/lib/web/data")) == 0


def test_archiving_ends_prevention(story: Story) -> None:
    """An archived model judges nothing."""
    model = story.learn(execution("/bin/tool"))
    story.models.archive(model)
    story.pipeline.forget_model(model)
    assert not refused(story) & UNKNOWN
    assert not story.kernel.known_executions


def test_a_refusal_of_what_is_known_is_told_as_such(story: Story) -> None:
    """When the kernel could not tell, the audit says so."""
    story.learn(execution("/bin/tool"))
    story.kernel.known_executions.clear()
    story.happen(execution("/bin/tool"))
    (audit,) = story.recorded()
    assert audit.outcome == "denied"
    assert any("the model knows this" in remark for remark in audit.remarks)


def test_what_was_known_by_name_only_is_killed_late(tmp_path: Path) -> None:
    """Where the kernel has only a name, user space decides, and kills the execution it was."""
    story = Story(tmp_path, ReplayKernel(guarantee="kill"), Policy(("*",)))
    story.learn(execution("/bin/tool"))
    story.happen(
        change(
            "/etc/shadow",
            operation=Operation.UNLINK,
            walk_end=WalkEnd.BY_NAME,
            name="shadow",
            pid=4_000_002,
            exec_id=77,
            time_ns=int(story.now * 1e9) + 1,
        )
    )
    assert story.kernel.called("kill") == [{"pid": 4_000_002, "exec_id": 77}]
    (audit,) = story.recorded()
    assert (audit.outcome, audit.guarantee) == ("killed", Guarantee.DETECT)
    assert "killed after it had happened" in audit.remarks


@pytest.mark.parametrize(
    ("operation", "killed"),
    [(Operation.UNLINK, False), (Operation.RMDIR, False), (Operation.RENAME, True)],
)
def test_who_cleans_up_is_not_killed_for_it(
    tmp_path: Path, operation: Operation, killed: bool
) -> None:
    """A server that removes what its killed child left behind goes on; it is told all the same."""
    story = Story(tmp_path, ReplayKernel(guarantee="kill"), Policy(("*",)))
    story.learn(execution("/bin/tool"))
    story.happen(
        change(
            "/var/lib/temp-77.rdb",
            operation=operation,
            path2="/var/lib/x" if operation is Operation.RENAME else "",
            walk_end=WalkEnd.BY_NAME,
            walk_end2=WalkEnd.BY_NAME if operation is Operation.RENAME else WalkEnd.NONE,
            name="temp-77.rdb",
            time_ns=int(story.now * 1e9) + 1,
        )
    )
    assert bool(story.kernel.called("kill")) == killed
    (audit,) = story.recorded()
    assert audit.type is AuditType.UNKNOWN_WRITE


def test_what_happened_before_prevention_is_not_killed(tmp_path: Path) -> None:
    """It may have been learned just then."""
    story = Story(tmp_path, ReplayKernel(guarantee="kill"), Policy(("*",)))
    story.learn(execution("/bin/tool"))
    story.happen(
        change(
            "/etc/shadow",
            operation=Operation.UNLINK,
            walk_end=WalkEnd.BY_NAME,
            name="shadow",
            time_ns=int((story.now - 10) * 1e9),
        )
    )
    assert not story.kernel.called("kill")


def test_a_container_is_judged_from_its_first_instruction(story: Story) -> None:
    """Created, not started: the kernel gets its model by its id, so there is no window."""
    story.learn(execution("/bin/tool"))
    second = container("second")
    story.pipeline.on_container(ContainerChange("created", 0, second))
    (told,) = story.kernel.called("expect")
    assert told["container_id"] == second.id
    assert told["mode"].prevent & UNKNOWN
    assert told["model"] == story.kernel.watched[CGROUP][0]


def test_a_stopped_container_is_expected_again(story: Story) -> None:
    """`docker start` announces nothing."""
    story.learn(execution("/bin/tool"))
    story.stop()
    assert [told["container_id"] for told in story.kernel.called("expect")] == [container().id]


def test_what_happened_before_the_kernel_knew_whose_it_was_is_killed(story: Story) -> None:
    """A new container of an active model that somebody was faster with than its identity."""
    story.learn(execution("/bin/tool"))
    story.stop()
    story.happen(execution("/bin/evil", exec_id=5, cgroup_id=99))
    story.start(replace(container("fast"), cgroup_id=99))
    assert story.kernel.called("kill") == [{"pid": 4_000_001, "exec_id": 5}]


def test_running_processes_get_their_program_before_prevention(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What runs when prevention begins is found in /proc and told to the kernel first."""
    story = Story(tmp_path, ReplayKernel(guarantee="deny"), Policy(("*",)))
    monkeypatch.setattr("sensor.responses.prevent.program_of", lambda _: Program("/bin/tool"))
    story.start(running_before=True, pids=(100,))
    story.happen(execution("/bin/tool"))
    story.kernel.calls.clear()
    model = story.models.all()[0]
    story.models.activate(model)
    story.pipeline.reload_model(model)
    names = [name for name, _ in story.kernel.calls]
    assert names.index("resolve") < names.index("watch")
    assert story.kernel.called("resolve")[0]["exec_id"] == 1 << 63 | 100


def test_old_descriptors_are_told_and_the_probe_attached(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A real process of ours holds a file open; once it lets go the probe is detached."""
    monkeypatch.setattr("sensor.responses.prevent.program_of", lambda _: Program("/bin/serve"))
    story = Story(tmp_path, ReplayKernel(guarantee="deny"), Policy(("*",)))
    kept, known = tmp_path / "kept", tmp_path / "known"
    with subprocess.Popen(
        ["/bin/sh", "-c", f"exec 7>{kept} 8>{known}; echo; read x; exec 7>&-; echo; read x"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdout.readline()
        story.start(running_before=True, pids=(process.pid,))
        story.happen(change(str(known), pid=process.pid))
        model = story.models.all()[0]
        story.models.activate(model)
        story.pipeline.reload_model(model)
        assert story.kernel.called("set_write_probe") == [{"on": True}]
        story.wait(1)
        (audit,) = story.recorded()
        assert (audit.path, audit.pid) == (str(kept), process.pid)
        assert any("before prevention began" in remark for remark in audit.remarks)
        story.wait(60)
        assert story.pipeline.prevention.holding == 1
        process.stdin.write(b"\n")
        process.stdin.flush()
        process.stdout.readline()
        story.wait(60)
        assert story.pipeline.prevention.holding == 0
        assert story.kernel.called("set_write_probe")[-1] == {"on": False}
        process.stdin.close()


@pytest.mark.parametrize(("choice", "on"), [("always", True), ("never", False)])
def test_the_write_probe_can_be_forced(choice: str, on: bool) -> None:
    """As the command line says."""
    kernel = ReplayKernel(guarantee="deny")
    from sensor.responses.knowledge import Knowledge

    prevention = Prevention(kernel, Knowledge(kernel), Policy(), choice)
    prevention.set_probe(may_detach=True)
    assert kernel.called("set_write_probe") == [{"on": on}]


def test_program_of_a_process() -> None:
    """The path as the process's own root has it; none for what has ended."""
    assert program_of(os.getpid()) == Program(str(Path("/proc/self/exe").readlink()))
    assert program_of(2**22 + 1) is None


def test_an_earlier_daemons_model_stays_until_nobody_uses_it(tmp_path: Path) -> None:
    """After a restart a container is judged by the old loading until it has the new one."""
    kernel = ReplayKernel(guarantee="deny")
    first = Story(tmp_path, kernel, Policy(("*",)))
    first.learn(execution("/bin/tool"), change("/var/lib/web/data"))
    first.models.flush()
    old = kernel.watched[CGROUP][0]
    second = Story(tmp_path, kernel, Policy(("*",)))
    second.wait(60)
    assert kernel.feed(execution("/bin/tool"), change("/var/lib/web/data")) == 0
    assert {entry.model for entry in kernel.known_executions} == {old}
    second.start(running_before=True)
    second.wait(60)
    assert kernel.watched[CGROUP][0] != old
    assert {entry.model for entry in kernel.known_executions} == {kernel.watched[CGROUP][0]}
    assert kernel.feed(execution("/bin/tool"), change("/var/lib/web/data")) == 0
    assert kernel.feed(execution("/bin/evil")) == 1


def test_applets_let_their_binary_begin(story: Story) -> None:
    """The kernel sees the applet only once the exec is complete; the binary must get that far."""
    story.learn(execution("/bin/busybox", applet="date"))
    entries = {(entry.by_applet, entry.program) for entry in story.kernel.known_executions}
    assert sum(by_applet for by_applet, _ in entries) == 1


def test_status_counts_refusals(story: Story) -> None:
    """How many, for which containers, and how it stands."""
    story.learn(execution("/bin/tool"))
    story.happen(execution("/bin/evil"), change("/x", origin=Origin.IMAGE))
    story.wait(1)
    found = story.pipeline.status()["prevention"]
    assert (found["containers"], found["refused"], found["globs"]) == (1, 2, ["*"])
    row = story.pipeline.containers()[0]
    assert (row["prevented"], row["refused"]) == (True, 2)


def test_policy_may_change_while_it_runs(story: Story) -> None:
    """Running containers follow at once."""
    story.learn(execution("/bin/tool"))
    story.pipeline.set_policy(Policy())
    assert not refused(story) & UNKNOWN
    assert not story.pipeline.preventing
    story.pipeline.set_policy(Policy(("*",)))
    assert refused(story) & UNKNOWN


def test_a_manually_activated_model_prevents(story: Story) -> None:
    """`rote models activate` is enough."""
    story.start()
    model: Model = story.models.all()[0]
    story.models.activate(model)
    story.pipeline.reload_model(model)
    assert model.state is ModelState.ACTIVE
    assert refused(story) & UNKNOWN


def test_a_container_that_is_yet_to_start_keeps_its_model(tmp_path: Path) -> None:
    """Over a restart of the daemon: else what it always does would be refused at its start."""
    policy = Policy(("*",))
    story = Story(tmp_path, ReplayKernel(guarantee="deny"), policy)
    story.learn(execution("/bin/tool"))
    story.stop()
    number, _ = story.kernel.expected[container().id]
    again = Story(tmp_path, story.kernel, policy)
    again.now = story.now + 100
    again.wait(100)
    assert number in {entry.model for entry in story.kernel.executions()}
    fresh = again.pipeline._knowledge.load(Model("other", 2, container().image, "s"))
    assert fresh == 0
    assert again.pipeline._knowledge._last > number
