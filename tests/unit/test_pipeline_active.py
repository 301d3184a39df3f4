"""The loop under an active model, and what happens when something does not work."""

from __future__ import annotations

import asyncio
import sqlite3
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgpack
import pytest

from sensor.audits.audit import AuditType, Severity
from sensor.containers.cgroups import Hierarchy
from sensor.containers.container import Container
from sensor.containers.registry import Registry
from sensor.containers.runtime import RuntimeEvent, RuntimeStatus, Sink
from sensor.errors import RuntimeUnavailableError, StateError
from sensor.events import Actor, Event, EventKind, Operation, Origin, WalkEnd
from sensor.models.model import Model, ModelState
from sensor.testing import ReplayKernel
from sensor.waiting import WaitingRoom
from tests.unit.builders import CGROUP, change, container, execution
from tests.unit.stories import DRY_RUN_SECONDS, LEARN_SECONDS, Story, session


@pytest.fixture
def story(tmp_path: Path) -> Story:
    """A host on which nothing has happened yet."""
    return Story(tmp_path)


def test_a_novelty_is_stored_before_it_is_shown(story: Story) -> None:
    """An audit that was shown can be looked up: it has its number and is in the store."""
    story.learn(execution("/bin/tool"))
    story.happen(
        execution("/bin/evil", argv=("/bin/evil", "-x")),
        execution("/bin/tool", "/bin/evil"),
        change("/etc/passwd"),
        change("/var/lib/web/new"),
    )
    kinds = [
        AuditType.UNKNOWN_PROGRAM,
        AuditType.UNKNOWN_PARENT,
        AuditType.PROTECTED_WRITE,
        AuditType.UNKNOWN_WRITE,
    ]
    assert story.types() == kinds
    assert [audit.type for audit in story.shown.audits] == kinds
    assert all(story.shown.stored)
    first = story.recorded()[0]
    assert (first.path, first.argv, first.container_name, first.model_state) == (
        "/bin/evil", ("/bin/evil", "-x"), "web", "active",
    )  # fmt: skip
    assert (first.outcome, str(first.action), first.rule) == ("observed", "alert", "default")


def test_an_active_model_learns_nothing(story: Story) -> None:
    """A novelty stays one; its repeats are counted in one audit."""
    model = story.learn(execution("/bin/tool"))
    keys = set(model.keys)
    assert story.happen(*[execution("/bin/evil")] * 2) == 2
    assert story.happen(execution("/bin/evil")) == 1
    assert set(model.keys) == keys
    (audit,) = story.recorded()
    assert audit.count == 3
    assert story.pipeline.statistics.audits == 1


def test_known_behaviour_makes_no_audit(story: Story) -> None:
    """What was learned is silent under the active model."""
    known = (execution("/bin/tool"), change("/var/lib/web/temp-1"))
    story.learn(*known)
    assert story.happen(*known, change("/var/lib/web/temp-22")) == 0
    assert story.recorded() == []


def test_a_known_event_that_the_kernel_reported_is_no_audit(story: Story) -> None:
    """Events that were on their way while their key was learned are known when they arrive."""
    story.start()
    story.kernel.feed(*[execution("/bin/tool")] * 3)
    story.pipeline.drain()
    assert story.pipeline.statistics.novel == 1
    assert len(story.kernel.called("resolve")) == 3


def test_a_session_in_an_active_container_is_judged_like_everything_else(story: Story) -> None:
    """Coming in is an audit, and so is everything new that is done inside."""
    story.learn(execution("/bin/tool"))
    story.happen(
        session("/bin/sh"),
        session("/bin/wget", "/bin/sh"),
        change("/etc/shadow", "/bin/sh", actor=Actor.SESSION),
    )
    assert story.types() == [
        AuditType.EXEC_SESSION, AuditType.UNKNOWN_PROGRAM, AuditType.PROTECTED_WRITE,
    ]  # fmt: skip
    assert story.recorded()[0].severity is Severity.MEDIUM


def test_an_archived_model_judges_nothing(story: Story) -> None:
    """A model that a person archived neither learns nor alerts."""
    model = story.learn()
    story.pipeline.forget_model(model)
    story.models.archive(model)
    keys = set(model.keys)
    story.happen(execution("/bin/evil"))
    assert (set(model.keys), story.recorded()) == (keys, [])


def test_forgetting_and_reloading_a_model(story: Story) -> None:
    """A model taken out of the kernel is novel there; put in again it is silent."""
    model = story.learn(execution("/bin/tool"), change("/var/lib/web/data"))
    story.pipeline.forget_model(model)
    assert not story.kernel.known_executions
    assert not story.kernel.known_writes
    assert story.happen(execution("/bin/tool"), change("/var/lib/web/data")) == 2
    assert story.recorded() == []  # user space still knows them
    story.pipeline.reload_model(model)
    assert story.happen(execution("/bin/tool"), change("/var/lib/web/data")) == 0


def test_lost_events_hold_up_the_promotion(story: Story) -> None:
    """What was lost may have been anything: the learning time begins again, visibly."""
    model = story.start()
    story.wait(LEARN_SECONDS - 1)
    story.kernel.lose(CGROUP, 5)
    story.wait(2)
    assert str(model.state) == "learning"
    (audit,) = story.recorded()
    assert (audit.type, audit.extra["lost"]) == (AuditType.EVENTS_LOST, "5")
    assert story.pipeline.containers()[0]["lost"] == 5
    story.wait(LEARN_SECONDS - 10)
    assert str(model.state) == "learning"
    story.wait(20)
    assert str(model.state) == "dry-run"
    assert len(story.recorded()) == 1  # no new loss, no new audit


def test_events_lost_before_the_container_was_known_count_as_its_own(story: Story) -> None:
    """A tick between the loss and the container's name does not swallow the loss."""
    story.happen(execution("/bin/serve", ""))
    story.kernel.lose(CGROUP, 3)
    story.wait(1)
    model = story.start()
    story.wait(1)
    assert model.lost == 3
    assert story.types() == [AuditType.EVENTS_LOST]


def test_events_lost_last_are_counted_when_the_container_goes(story: Story) -> None:
    """A loss between the last tick and the end is noted."""
    model = story.start()
    story.wait(1)
    story.kernel.lose(CGROUP, 2)
    story.stop()
    assert model.lost == 2
    assert story.types() == [AuditType.EVENTS_LOST]


def test_a_full_ring_loses_visibly_and_heals(tmp_path: Path) -> None:
    """A key that was lost is novel again, and so comes again."""
    story = Story(tmp_path, ReplayKernel(capacity=2))
    model = story.start()
    events = [execution(f"/bin/tool{'x' * i}") for i in range(4)]
    assert story.happen(*events) == 2
    story.wait(1)
    assert model.lost == 2
    assert story.happen(*events) == 2
    assert story.happen(*events) == 0


def test_the_waiting_room_is_bounded_and_says_so(story: Story) -> None:
    """Of too many waiting events the oldest are lost, counted and audited."""
    story.pipeline._waiting = WaitingRoom(limit=2)
    story.happen(*(execution(f"/bin/tool{'x' * i}") for i in range(5)))
    assert story.pipeline.status()["given_up"] == 3
    model = story.start()
    programs = {key.program.path for key in model.keys}
    assert programs >= {"/bin/toolxxx", "/bin/toolxxxx"}
    assert "/bin/tool" not in programs
    assert model.lost == 3
    assert story.types() == [AuditType.EVENTS_LOST]


def test_the_waiting_room_holds_so_many_cgroups() -> None:
    """The cgroup that waits longest makes room; its loss is told when it is asked for."""
    room = WaitingRoom(limit=10, cgroups=2)
    for cgroup in (1, 1, 2, 3):
        room.put(execution("/x", cgroup_id=cgroup))
    assert len(room) == 2
    assert room.take(1) == ([], 2)
    assert [event.cgroup_id for event in room.take(2)[0]] == [2]
    assert room.drop(3) == 1
    assert (len(room), room.given_up) == (0, 3)


def test_what_a_container_did_last_is_taken_before_it_is_forgotten(story: Story) -> None:
    """The runtime may say "gone" while the last events are still in the ring."""
    story.learn()
    story.kernel.feed(execution("/bin/evil"))
    story.stop()
    assert story.types() == [AuditType.UNKNOWN_PROGRAM]
    assert story.pipeline.status()["waiting"] == 0
    assert story.kernel.watched == {}
    assert story.pipeline.containers() == []


def test_totals_outlive_their_container(story: Story) -> None:
    """What the kernel counted for a container that is gone stays in the sum."""
    story.start()
    story.happen(execution("/bin/tool"))
    story.stop()
    assert story.pipeline.status()["kernel"]["events"] == 1


def test_an_audit_that_cannot_be_stored_waits_and_is_not_shown(
    story: Story, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With a full disk alerts wait; when it has room again they are stored, then shown."""
    story.learn()

    def full(_: object) -> None:
        raise sqlite3.OperationalError("database or disk is full")

    with monkeypatch.context() as patch:
        patch.setattr(story.audits, "_write", full)
        story.happen(execution("/bin/evil"))
        assert story.shown.audits == []
        assert story.pipeline.status()["audits"]["pending"] == 1
        assert story.pipeline.statistics.store_errors
    story.wait(1)
    assert [audit.path for audit in story.shown.audits] == ["/bin/evil"]
    assert all(story.shown.stored)


def test_models_that_cannot_be_written_stay_in_memory(
    story: Story, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The loop goes on, and says what is wrong."""
    model = story.start()

    def broken() -> None:
        raise StateError("models.db: cannot write: disk is full")

    monkeypatch.setattr(story.models, "flush", broken)
    story.happen(execution("/bin/tool"))
    story.pipeline.flush()
    assert "disk is full" in caplog.text
    assert "/bin/tool" in {key.program.path for key in model.keys}


def test_a_changed_name_is_used_from_then_on(story: Story) -> None:
    """A renamed container keeps its model; audits carry the new name."""
    story.learn()
    story.start(replace(container(), name="shop"), kind="changed")
    story.happen(execution("/bin/evil"))
    assert [audit.container_name for audit in story.recorded()] == ["shop"]


def test_status_and_containers_can_travel(story: Story) -> None:
    """The control socket's msgpack carries both."""
    story.learn(execution("/bin/tool"))
    story.happen(execution("/bin/evil"))
    status = msgpack.unpackb(msgpack.packb(story.pipeline.status()))
    assert status["models"] == {"active": 1}
    assert status["statistics"]["executions"] == 2
    assert status["attachment"]["mode"] == "replay"
    (row,) = msgpack.unpackb(msgpack.packb(story.pipeline.containers()))
    assert (row["name"], row["model_state"], row["known"]) == ("web", "active", 0)


class SlowRuntime:
    """Answers when it is let."""

    name = "slow"

    def __init__(self, who: Container | None) -> None:
        self.who = who
        self.may_answer = asyncio.Event()
        self.away = False
        self.asked = 0
        self.sink: Sink | None = None

    async def run(self, sink: Sink) -> None:
        """See ``Runtime.run``."""
        self.sink = sink
        await asyncio.Event().wait()

    async def inspect(self, container_id: str) -> Container | None:
        """See ``Runtime.inspect``."""
        self.asked += 1
        if self.away:
            raise RuntimeUnavailableError("slow: does not answer")
        await self.may_answer.wait()
        return self.who if self.who and self.who.id == container_id else None

    def status(self) -> RuntimeStatus:
        """See ``Runtime.status``."""
        return RuntimeStatus(self.name, "nowhere", available=not self.away)

    async def close(self) -> None:
        """See ``Runtime.close``."""
        self.sink = None


class Host:
    """A story with a real registry over a directory that looks like a cgroup hierarchy."""

    def __init__(self, directory: Path, *, known: bool = True) -> None:
        self.path = "/docker/" + "ab" * 32
        root = directory / "cgroup"
        (root / self.path.lstrip("/")).mkdir(parents=True)
        self.hierarchy = Hierarchy(root)
        self.cgroup = self.hierarchy.id_of(self.path) or 0
        self.who = container(id="ab" * 32, cgroup_id=self.cgroup, cgroup_path=self.path)
        self.runtime = SlowRuntime(self.who if known else None)
        self.story = Story(directory)
        self.registry = Registry(
            [self.runtime],
            (),
            self.story.pipeline.on_container,
            hierarchy=self.hierarchy,
            lookup_seconds=0.2,
        )
        self.story.pipeline.registry = self.registry

    def cgroup_event(self, kind: EventKind) -> Event:
        """What the kernel says of the container's cgroup."""
        return Event(kind, 1, self.cgroup, Operation.EXEC, path=self.path)

    async def until_watched(self) -> Model:
        """The model of the container, once it is taken up."""
        deadline = asyncio.get_running_loop().time() + 10
        while not self.story.pipeline.containers():
            assert asyncio.get_running_loop().time() < deadline
            await asyncio.sleep(0.01)
        (model,) = self.story.models.all()
        return model


async def test_from_the_first_instruction_with_a_slow_runtime(tmp_path: Path) -> None:
    """Nothing is lost between the cgroup's making and the runtime's answer."""
    host = Host(tmp_path)
    host.story.happen(
        host.cgroup_event(EventKind.CGROUP_CREATED),
        execution("/bin/first", "", cgroup_id=host.cgroup),
    )
    assert host.registry.is_pending(host.cgroup)
    host.runtime.may_answer.set()
    model = await host.until_watched()
    assert "/bin/first" in {key.program.path for key in model.keys}
    assert model.complete_runs == 1
    assert host.story.happen(execution("/bin/first", "", cgroup_id=host.cgroup)) == 0
    host.story.happen(host.cgroup_event(EventKind.CGROUP_REMOVED))
    assert host.story.pipeline.containers() == []
    assert host.story.models.model_of(host.who.id) is None
    await host.registry.close()


async def test_a_container_that_nobody_knows_is_watched_all_the_same(tmp_path: Path) -> None:
    """When no runtime knows a cgroup in time, it gets a model of its own."""
    host = Host(tmp_path, known=False)
    host.runtime.may_answer.set()
    host.story.happen(
        host.cgroup_event(EventKind.CGROUP_CREATED),
        execution("/bin/first", "", cgroup_id=host.cgroup),
    )
    model = await host.until_watched()
    assert model.name == "(unknown)"
    assert "/bin/first" in {key.program.path for key in model.keys}
    await host.registry.close()


@pytest.mark.parametrize("known", [True, False])
async def test_a_container_shorter_than_the_question_who_it_is(tmp_path: Path, known: bool) -> None:
    """What a container did counts, also when it was gone before the runtime answered."""
    host = Host(tmp_path, known=known)
    host.story.happen(
        host.cgroup_event(EventKind.CGROUP_CREATED),
        execution("/bin/first", "", cgroup_id=host.cgroup),
        execution("/tmp/x", "/bin/first", cgroup_id=host.cgroup, origin=Origin.ADDED),
        host.cgroup_event(EventKind.CGROUP_REMOVED),
    )
    (host.hierarchy.directory(host.path)).rmdir()
    host.runtime.may_answer.set()
    deadline = asyncio.get_running_loop().time() + 10
    while host.registry.is_pending(host.cgroup):
        assert asyncio.get_running_loop().time() < deadline
        await asyncio.sleep(0.01)
    (model,) = host.story.models.all()
    assert model.name == (host.who.image.reference if known else "(unknown)")
    assert "/bin/first" in {key.program.path for key in model.keys}
    assert host.story.types() == [AuditType.CHANGED_PROGRAM]
    assert host.story.pipeline.containers() == []
    assert host.story.kernel.watched == {}
    assert host.story.pipeline.status()["waiting"] == 0
    await host.registry.close()


async def test_watching_goes_on_while_the_runtime_is_away(tmp_path: Path) -> None:
    """A runtime that goes away takes no container with it, and new ones are still taken up."""
    host = Host(tmp_path)
    host.runtime.may_answer.set()
    host.story.happen(host.cgroup_event(EventKind.CGROUP_CREATED))
    model = await host.until_watched()
    host.runtime.away = True
    host.story.happen(execution("/bin/tool", cgroup_id=host.cgroup))
    host.story.wait(LEARN_SECONDS)
    host.story.wait(DRY_RUN_SECONDS)
    assert model.state is ModelState.ACTIVE
    host.story.happen(execution("/bin/evil", cgroup_id=host.cgroup))
    assert host.story.types() == [AuditType.UNKNOWN_PROGRAM]
    assert not host.story.pipeline.status()["runtimes"][0]["available"]
    await host.registry.close()


async def test_a_container_that_stops_is_forgotten(tmp_path: Path) -> None:
    """The runtime's word is enough; the cgroup's removal afterwards changes nothing."""
    host = Host(tmp_path)
    host.runtime.may_answer.set()
    following = asyncio.create_task(host.registry.run())
    host.story.happen(host.cgroup_event(EventKind.CGROUP_CREATED))
    await host.until_watched()
    assert host.runtime.sink is not None
    host.runtime.sink(RuntimeEvent("stopped", host.who.id))
    assert host.story.pipeline.containers() == []
    host.story.happen(host.cgroup_event(EventKind.CGROUP_REMOVED))
    assert host.story.pipeline.status()["containers"] == 0
    following.cancel()
    with pytest.raises(asyncio.CancelledError):
        await following
    await host.registry.close()


def test_an_object_outside_the_container_is_never_known(story: Story) -> None:
    """A path counts only with where its walk ended, whatever was learned of its letters."""
    story.learn(execution("/bin/tool"), change("/var/lib/web/data"))
    elsewhere: dict[str, Any] = {"walk_end": WalkEnd.OTHER_NAMESPACE}
    assert (
        story.happen(execution("/bin/tool", **elsewhere), change("/var/lib/web/data", **elsewhere))
        == 2
    )
    assert story.types() == [AuditType.UNRESOLVED_OBJECT] * 2
