"""The loop while a model learns: what is waited for, learned, silent, or audited all the same."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from sensor.audits.audit import AuditType, Severity
from sensor.containers.registry import ContainerChange
from sensor.events import Event, EventKind, Operation, Origin, WalkEnd
from sensor.kernel.port import ContainerFlag
from sensor.models.model import ModelState
from tests.unit.builders import CGROUP, IMAGE, change, container, execution
from tests.unit.stories import DRY_RUN_SECONDS, LEARN_SECONDS, Story, session


@pytest.fixture
def story(tmp_path: Path) -> Story:
    """A host on which nothing has happened yet."""
    return Story(tmp_path)


def test_the_first_instruction_waits_for_its_container(story: Story) -> None:
    """What happens before anybody knows the container is learned once it is known."""
    assert story.happen(execution("/bin/serve", ""), execution("/bin/tool")) == 2
    assert story.pipeline.status()["waiting"] == 2
    model = story.start()
    assert {key.program.path for key in model.keys} >= {"/bin/serve", "/bin/tool"}
    assert story.pipeline.status()["waiting"] == 0
    assert story.pipeline.containers()[0]["complete"]
    assert story.recorded() == []


def test_waiting_events_are_taken_in_the_order_they_came(story: Story) -> None:
    """Order survives the waiting, and comes before what happens later."""
    paths = [f"/run/d{i}x/f" for i in range(5)]
    first = [
        execution(path, origin=Origin.ADDED, time_ns=1_000 + i) for i, path in enumerate(paths)
    ]
    story.happen(*first[:3])
    story.kernel.feed(*first[3:])
    story.start()
    story.pipeline.drain()
    assert [audit.path for audit in story.recorded()] == paths


def test_learned_behaviour_is_silent_in_the_kernel(story: Story) -> None:
    """A key is reported once; then the kernel knows it and says nothing."""
    story.start()
    events = (
        execution("/bin/serve", ""),
        execution("/bin/tool"),
        change("/var/lib/web/data"),
        change("/var/lib/web/old", operation=Operation.RENAME, path2="/var/lib/web/new",
               walk_end2=WalkEnd.ROOT),
    )  # fmt: skip
    # The entrypoint is known from the image's configuration.
    assert story.happen(*events) == 3
    assert story.happen(*events) == 0
    assert story.kernel.counters()[CGROUP].known == 5


def test_a_learned_class_is_silent_for_names_never_seen(story: Story) -> None:
    """Volatile parts of names are learned as such, and the kernel matches them."""
    story.start()
    assert story.happen(change("/var/lib/web/temp-38.rdb")) == 1
    assert story.happen(change("/var/lib/web/temp-4711.rdb")) == 0
    assert story.happen(change("/var/lib/web/temp-x.rdb")) == 1


def test_a_multicall_program_is_told_apart_by_applet(story: Story) -> None:
    """Knowing busybox as ls does not make busybox as nc known."""
    story.start()
    busybox = "/bin/busybox"
    assert story.happen(execution(busybox, applet="ls")) == 1
    assert story.happen(execution(busybox, applet="ls")) == 0
    assert story.happen(execution(busybox, applet="nc")) == 1


def test_knowledge_comes_down_before_the_container_is_judged_by_it(story: Story) -> None:
    """A second container of an image reports nothing that the first one taught."""
    story.start()
    story.happen(execution("/bin/tool"), change("/var/lib/web/data"))
    story.stop()
    story.models.flush()
    again = Story(story.directory)  # the daemon starts anew, on an empty kernel
    second = container("second", cgroup_id=CGROUP + 1)
    again.start(second)
    names = [name for name, _ in again.kernel.calls]
    assert names.index("put_exec") < names.index("watch")
    assert names.index("put_write") < names.index("watch")
    assert (
        again.happen(
            execution("/bin/tool", cgroup_id=CGROUP + 1),
            change("/var/lib/web/data", cgroup_id=CGROUP + 1),
        )
        == 0
    )


def test_a_known_event_by_name_is_answered(story: Story) -> None:
    """Where the kernel could not walk, it is told that the name is known, and stays silent."""
    story.start()
    story.happen(execution("/bin/serve", ""))
    by_name: dict[str, Any] = {"walk_end": WalkEnd.BY_NAME, "base": (8, 2), "name": "data"}
    assert story.happen(change("/var/lib/web/data", **by_name)) == 1
    assert story.happen(change("/var/lib/web/data", **by_name)) == 0
    assert story.happen(change("/var/lib/web/other", **{**by_name, "name": "other"})) == 1


def test_a_script_is_answered_by_name(story: Story) -> None:
    """The kernel hears of a script by name only, and is told when it is known."""
    story.start()
    script = execution(
        "/entry.sh", "/bin/serve", operation=Operation.SCRIPT, walk_end=WalkEnd.BY_NAME,
        base2=(8, 2), name2="/entry.sh",
    )  # fmt: skip
    assert story.happen(script) == 1
    assert story.happen(script) == 0


@pytest.mark.parametrize(
    ("origin", "kind"),
    [
        (Origin.ADDED, AuditType.CHANGED_PROGRAM),
        (Origin.TMPFS, AuditType.CHANGED_PROGRAM),
        (Origin.MEMORY, AuditType.MEMORY_PROGRAM),
    ],
)
@pytest.mark.parametrize("in_session", [False, True])
def test_programs_that_the_image_does_not_hold_are_audited_in_every_state(
    story: Story, origin: Origin, kind: AuditType, in_session: bool
) -> None:
    """A program made at run time is an audit while learning, never learned, whoever runs it."""
    model = story.start()
    event = (session if in_session else execution)("/tmp/x", "/bin/sh", origin=origin)
    for state in (ModelState.LEARNING, ModelState.DRY_RUN, ModelState.ACTIVE):
        model.state = state
        before = story.pipeline.statistics.novel
        assert story.happen(event) == 1
        assert story.pipeline.statistics.novel == before + 1
    audits = story.recorded()
    assert {audit.type for audit in audits} == {kind}
    assert {audit.severity for audit in audits} == {Severity.CRITICAL}
    assert {audit.model_state for audit in audits} >= {"learning", "dry-run"}
    assert not [key for key in model.keys if getattr(key, "origin", None) is origin]


def test_a_session_is_not_learned_and_audited_once(story: Story) -> None:
    """What a person does inside teaches the model nothing, and is one remark."""
    model = story.start()
    keys = set(model.keys)
    story.happen(
        session("/bin/sh"),
        session("/bin/ls", "/bin/sh"),
        change("/etc/motd", "/bin/sh", actor=session().actor),
    )
    assert set(model.keys) == keys
    assert len(model.sessions) == 3
    (audit,) = story.recorded()
    assert (audit.type, audit.severity, audit.actor) == (
        AuditType.EXEC_SESSION, Severity.INFO, "session",
    )  # fmt: skip


def test_a_session_in_the_dry_run_is_a_remark_and_starts_nothing_again(story: Story) -> None:
    """Somebody who looks inside does not make the dry run longer."""
    model = story.start()
    story.wait(LEARN_SECONDS)
    story.wait(10)
    story.happen(session("/bin/sh"), session("/bin/ls", "/bin/sh"))
    assert (model.state, model.dry_run_seconds, model.extensions) == (ModelState.DRY_RUN, 10, 0)
    assert [(a.type, a.severity) for a in story.recorded()] == [
        (AuditType.EXEC_SESSION, Severity.INFO)
    ]


def test_a_dry_run_audits_what_would_be_and_starts_again(story: Story) -> None:
    """A novelty in the dry run is labelled, learned, and sets the clock back."""
    model = story.start()
    story.wait(LEARN_SECONDS)
    story.wait(DRY_RUN_SECONDS - 1)
    assert story.happen(execution("/bin/late")) == 1
    (audit,) = story.recorded()
    assert (audit.type, audit.outcome) == (AuditType.UNKNOWN_PROGRAM, "would-alert")
    assert (model.state, model.dry_run_seconds, model.extensions) == (ModelState.DRY_RUN, 0, 1)
    assert story.happen(execution("/bin/late")) == 0
    story.wait(DRY_RUN_SECONDS - 1)
    assert str(model.state) == "dry-run"
    story.wait(1)
    assert str(model.state) == "active"


def test_a_container_that_ran_before_is_adopted(story: Story) -> None:
    """Its processes, its child cgroups, its health check and its first process are told."""
    health = ("/bin/sh", "-c", "curl -f localhost")
    story.start(
        container(healthcheck=health), running_before=True, pids=(100, 101), child_cgroups=(9, 10)
    )
    kernel = story.kernel
    assert kernel.aliases == {9: CGROUP, 10: CGROUP}
    assert set(kernel.adopted) == {100, 101}
    assert kernel.probes == {CGROUP: health}
    assert kernel.called("watch")[0]["init_pid"] == 100
    assert not story.pipeline.containers()[0]["complete"]


@pytest.mark.parametrize(
    ("who", "flags"),
    [
        (container(), ContainerFlag.WATCHED),
        (
            container(
                runtime="cgroup",
                cgroup_path="/system.slice/web.service",
                image=type(IMAGE)("/system.slice/web.service", id="cgroup:x"),
                host_mount_namespace=True,
            ),
            ContainerFlag.WATCHED | ContainerFlag.NO_SESSIONS | ContainerFlag.HOST_MOUNTS,
        ),
    ],
)
def test_the_kernel_is_told_what_kind_of_container_it_is(
    story: Story, who: object, flags: ContainerFlag
) -> None:
    """A plain cgroup has no sessions and lives among the host's mounts."""
    story.pipeline.on_container(ContainerChange("added", CGROUP, who))  # type: ignore[arg-type]
    assert story.kernel.watched[CGROUP][1] == flags


def test_an_alias_counts_as_its_container(story: Story) -> None:
    """What a process does in a cgroup below the container's own is the container's."""
    model = story.start(child_cgroups=(9,))
    story.happen(execution("/bin/tool", cgroup_id=9))
    assert "/bin/tool" in {key.program.path for key in model.keys}


def test_cgroup_events_go_to_the_registry(story: Story) -> None:
    """The kernel's word about cgroups is passed on in its order."""
    told: list[tuple[str, int, str]] = []

    class Registry:
        def cgroup_created(self, cgroup_id: int, path: str) -> None:
            told.append(("created", cgroup_id, path))

        def cgroup_removed(self, cgroup_id: int) -> None:
            told.append(("removed", cgroup_id, ""))

        def is_pending(self, cgroup_id: int) -> bool:
            return cgroup_id < 0

        def statuses(self) -> list[object]:
            return []

    story.pipeline.registry = Registry()  # type: ignore[assignment]
    made = Event(EventKind.CGROUP_CREATED, 1, 7, Operation.EXEC, path="/docker/x")
    gone = Event(EventKind.CGROUP_REMOVED, 2, 7, Operation.EXEC, path="/docker/x")
    story.happen(made, execution("/bin/x", cgroup_id=7), gone)
    assert told == [("created", 7, "/docker/x"), ("removed", 7, "")]
    assert story.pipeline.status()["waiting"] == 0
    assert story.pipeline.status()["given_up"] == 1
