"""Blocking, with a runtime and a freezer that do as the test says."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable
from pathlib import Path
from typing import Any

import pytest

from sensor.audits.audit import Action, Audit, AuditType, Guarantee, Sensor, Severity, Step
from sensor.containers.container import Container
from sensor.containers.runtime import RestartPolicy
from sensor.errors import HostError, RuntimeUnavailableError, StateError, UsageError
from sensor.responses import block as block_module
from sensor.responses.blocked import BlockCause, BlockState
from sensor.responses.records import RecordStore
from tests.unit.builders import container
from tests.unit.worlds import ALWAYS, WEB, Bench


@pytest.fixture
async def bench(tmp_path: Path) -> AsyncIterator[Bench]:
    """A Blocker whose container runs under the policy "always"."""
    bench = Bench(tmp_path)
    yield bench
    await bench.blocker.close()


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(block_module, "_RETRY_SECONDS", (0.02,))
    monkeypatch.setattr(block_module, "_COUNT_SECONDS", 0.02)
    monkeypatch.setattr(block_module, "_CLOSE_SECONDS", 0.05)


def violation(**values: Any) -> Audit:
    """An audit as a rule sees it."""
    defaults: dict[str, Any] = {
        "time_ns": 1, "host": "h", "container_id": WEB.id, "container_name": "web", "image": "i",
        "sensor": Sensor.PROCESS, "type": AuditType.UNKNOWN_PROGRAM, "severity": Severity.HIGH,
        "model_id": "m", "model_state": "active", "action": Action.BLOCK,
        "guarantee": Guarantee.DENY, "program": "/tmp/x", "path": "/tmp/x", "operation": "exec",
        "outcome": "denied",
    }  # fmt: skip
    return Audit(**{**defaults, **values})


def results(steps: Iterable[Step]) -> dict[str, str]:
    """Name → result."""
    return {step.name: step.result for step in steps}


async def test_steps_come_in_order_and_each_has_a_result(bench: Bench) -> None:
    """Frozen first, its restart policy changed before it is stopped."""

    async def evidence(target: Container, cause: BlockCause) -> str:
        await bench.world.call(f"evidence of {target.name}: {cause.reason}")
        assert target.id in bench.world.frozen
        return "pack-1"

    bench.blocker.evidence = evidence
    blocked = await bench.block()
    acts = [c for c in bench.world.calls if c not in ("details", "policy?", "condemn")]
    assert acts == [
        "freeze", "evidence of web: it misbehaves", "policy=unless-stopped", "stop 0",
    ]  # fmt: skip
    assert list(results(blocked.steps).items()) == [
        ("freeze", "done"), ("evidence", "done"), ("restart policy", "done"), ("stop", "done"),
    ]  # fmt: skip
    assert blocked.state is BlockState.BLOCKED
    assert bench.blocker.is_blocked(WEB.id)
    assert bench.blocker.blocked_ids() == {WEB.id}
    assert bench.changes == [(WEB.id, True)]
    (audit,) = bench.audits
    assert audit.type is AuditType.CONTAINER_BLOCKED
    assert audit.outcome == "blocked"
    assert audit.steps == blocked.steps
    assert audit.extra["evidence"] == "pack-1"
    assert audit.extra["restart_policy"] == "always"


@pytest.mark.parametrize(
    ("call", "step", "still"),
    [
        ("freeze", "freeze", {"restart policy": "done", "stop": "done"}),
        ("evidence", "evidence", {"freeze": "done", "restart policy": "done", "stop": "done"}),
        ("policy?", "restart policy", {"freeze": "done", "stop": "done"}),
        ("policy=unless-stopped", "restart policy", {"freeze": "done", "stop": "done"}),
        ("stop 0", "stop", {"freeze": "done", "restart policy": "done", "kill": "done"}),
    ],
)
@pytest.mark.parametrize("fault", ["raises", "raises the unexpected", "hangs"])
async def test_a_failure_in_one_step_never_prevents_the_next(
    bench: Bench, call: str, step: str, still: dict[str, str], fault: str
) -> None:
    """Also when a step does not come back, and when it fails in a way nobody thought of."""

    async def evidence(_: Container, __: BlockCause) -> str:
        await bench.world.call("evidence")
        return "pack-1"

    bench.blocker.evidence = evidence
    if fault == "hangs":
        bench.world.hanging.add(call)
    else:
        bench.world.broken[call] = {
            "raises": RuntimeUnavailableError("gone"),
            "raises the unexpected": ZeroDivisionError("oops"),
        }[fault]
    blocked = await bench.block()
    found = results(blocked.steps)
    assert found[step] == "failed"
    assert still.items() <= found.items()
    assert WEB.id not in bench.world.running
    assert bench.audits[0].outcome == "blocked"
    assert next(s for s in bench.audits[0].steps if s.name == step).detail


async def test_what_failed_is_tried_again_until_the_runtime_is_back(bench: Bench) -> None:
    """It went away in the middle; meanwhile the container was killed through its cgroup."""
    gone = RuntimeUnavailableError("docker: connection refused")
    for call in ("details", "policy?", "stop 0"):
        bench.world.broken[call] = gone
    blocked = await bench.block()
    assert results(blocked.steps)["kill"] == "done"
    assert str(blocked.state) == "blocking"
    assert "tried again" in bench.audits[0].remarks[0]

    bench.world.running.add(WEB.id)  # it comes back and starts it, as its policy says
    bench.world.broken.clear()
    await bench.until(lambda: len(bench.audits) == 2)
    assert str(blocked.state) == "blocked"
    assert WEB.id not in bench.world.running
    assert bench.world.policies[WEB.id] == RestartPolicy("unless-stopped")
    assert results(bench.audits[-1].steps)["stop"] == "done"


async def test_a_runtime_that_started_it_meanwhile_is_told_again(bench: Bench) -> None:
    """A restart may be under way when the stop comes."""
    bench.world.restarts = 2
    blocked = await bench.block()
    assert bench.world.calls.count("stop 0") == 3
    assert blocked.state is BlockState.BLOCKED


async def test_a_daemon_killed_in_the_middle_finishes_it_at_its_next_start(bench: Bench) -> None:
    """And remembers the restart policy as it was before the first try."""
    bench.world.hanging.add("stop 0")
    bench.blocker.violation(WEB, violation(), "r1")
    await bench.until(lambda: "stop 0" in bench.world.calls)
    bench.world.calls.clear()
    bench.world.hanging.clear()

    other = bench.open()  # the first one is never heard of again: kill -9
    assert other.is_blocked(WEB.id)
    await other.resume()
    await bench.until(lambda: other.records()[0].state is BlockState.BLOCKED)
    # The first one may yet wake up and tell of it as well.
    await bench.until(
        lambda: any("after a restart" in remark for a in bench.audits for remark in a.remarks)
    )
    assert "stop 0" in bench.world.calls
    assert "policy?" not in bench.world.calls
    record = other.records()[0]
    assert record.state is BlockState.BLOCKED
    assert record.restart_policy == ALWAYS
    await other.close()


async def test_a_record_is_on_the_disk_before_the_first_step(bench: Bench) -> None:
    """Whatever is done, somebody knows that it has to be finished."""
    bench.world.hanging.add("freeze")
    bench.blocker.violation(WEB, violation(), "r1")
    await bench.until(lambda: "freeze" in bench.world.calls)
    assert bench.open().is_blocked(WEB.id)


async def test_a_disk_that_is_full_does_not_keep_it_running(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The audit says that a restart will not remember."""

    def full(*_: Any) -> None:
        raise StateError("blocked.db: cannot write: database or disk is full")

    monkeypatch.setattr(RecordStore, "put", full)
    await bench.block()
    assert WEB.id not in bench.world.running
    assert results(bench.audits[0].steps)["record"] == "failed"


async def test_a_thousand_violations_are_one_block_and_a_number(bench: Bench) -> None:
    """Two at once as well; each returns at once."""
    for _ in range(1000):
        assert bench.blocker.violation(WEB, violation(), "r1") == ""
    await bench.until(lambda: bench.audits)
    for _ in range(1000):
        bench.blocker.violation(WEB, violation(), "r1")
    assert bench.world.calls.count("stop 0") == 1
    assert len(bench.audits) == 1
    assert bench.blocker.records()[0].violations == 2000
    await bench.until(lambda: bench.open().records()[0].violations == 2000)


async def test_a_violation_says_what_it_was_and_which_audits(bench: Bench) -> None:
    """An audit gets its id only when it is stored, perhaps after the block began."""
    audit = violation()
    bench.blocker.violation(WEB, audit, "no shells")
    audit.id = 42
    await bench.until(lambda: bench.audits)
    (told,) = bench.audits
    assert told.rule == "no shells"
    assert told.extra["reason"] == "unknown program: /tmp/x"
    assert told.extra["causes"] == "42"
    assert told.steps[0] == Step("refuse", "done", "exec: denied")
    assert bench.open().records()[0].audit_ids() == (42,)


@pytest.mark.parametrize(
    ("labels", "who"),
    [
        ({"io.kubernetes.pod.name": "p"}, "Kubernetes"),
        ({"com.docker.swarm.task.id": "t"}, "Docker Swarm"),
        ({"com.hashicorp.nomad.alloc_id": "a"}, "Nomad"),
    ],
)
async def test_under_an_orchestrator_nothing_keeps_it_down(
    bench: Bench, labels: dict[str, str], who: str
) -> None:
    """It is stopped; whether a fresh one comes is not for us to say, and the audit says so."""
    target = container("web", labels=labels)
    blocked = await bench.block(target)
    assert blocked.state is BlockState.ORCHESTRATED
    assert results(blocked.steps)["restart policy"] == "skipped"
    assert results(blocked.steps)["stop"] == "done"
    assert bench.world.policies[WEB.id] == ALWAYS
    assert not bench.blocker.is_blocked(target.id)
    assert not bench.blocker.started(target)
    assert who in bench.audits[0].remarks[0]
    assert bench.changes == [(WEB.id, True), (WEB.id, False)]


async def test_labels_that_the_image_brings_make_nobody_an_orchestrator(bench: Bench) -> None:
    """Else whoever makes the image decides that its containers come back."""
    labels = {"com.docker.swarm.task.id": "t"}
    bench.world.image_labels = dict(labels)
    blocked = await bench.block(container("web", labels=labels))
    assert blocked.state is BlockState.BLOCKED
    assert bench.world.policies[WEB.id] == RestartPolicy("unless-stopped")


async def test_a_container_that_exited_by_itself_does_not_come_back(bench: Bench) -> None:
    """Its runtime does not count it as stopped: with "unless-stopped" a reboot would start it."""
    bench.world.running.clear()
    blocked = await bench.block()
    assert results(blocked.steps)["freeze"] == "skipped"
    assert blocked.state is BlockState.BLOCKED
    assert bench.world.policies[WEB.id] == RestartPolicy("no")
    await bench.blocker.unblock(WEB.id)
    assert bench.world.policies[WEB.id] == ALWAYS


async def test_a_policy_of_no_stays_as_it_is(bench: Bench) -> None:
    """Nothing is kept down by giving it a policy that starts it."""
    bench.world.policies[WEB.id] = RestartPolicy("no")
    blocked = await bench.block()
    assert results(blocked.steps)["restart policy"] == "skipped"
    assert not any(call.startswith("policy=") for call in bench.world.calls)


async def test_with_a_grace_period_it_is_told_to_end_and_runs_until_then(bench: Bench) -> None:
    """Thawed only once the runtime has been asked to stop it."""
    blocked = await bench.block(grace_seconds=5)
    assert "stop 5" in bench.world.calls
    assert "condemn" not in bench.world.calls
    assert results(blocked.steps)["stop"] == "done"


async def test_without_a_runtime_it_is_killed_through_its_cgroup(tmp_path: Path) -> None:
    """With containerd and plain cgroups; the steps say so."""
    bench = Bench(tmp_path, no_runtime=True)
    target = container("web", runtime="containerd")
    blocked = await bench.block(target)
    assert results(blocked.steps) == {
        "freeze": "done", "evidence": "skipped", "restart policy": "skipped", "stop": "done",
    }  # fmt: skip
    assert "containerd offers no way to stop it here" in blocked.steps[-1].detail
    assert not bench.world.running
    await bench.blocker.close()


async def test_a_start_by_hand_is_refused_until_it_is_unblocked(bench: Bench) -> None:
    """And counted; then it may."""
    await bench.block()
    bench.world.running.add(WEB.id)
    assert bench.blocker.started(WEB)
    await bench.until(lambda: len(bench.audits) == 2)
    assert WEB.id not in bench.world.running
    refused = bench.audits[1]
    assert refused.type is AuditType.START_REFUSED
    assert refused.outcome == "refused"
    assert bench.blocker.records()[0].starts_refused == 1

    blocked, policy = await bench.blocker.unblock(WEB.id, start=True)
    assert policy == Step("restart policy", "done", "always again", policy.seconds)
    assert bench.world.policies[WEB.id] == ALWAYS
    assert WEB.id in bench.world.running
    assert blocked.state is BlockState.UNBLOCKED
    assert not bench.blocker.started(WEB)
    assert bench.changes == [(WEB.id, True), (WEB.id, False)]
    assert bench.audits[2].type is AuditType.CONTAINER_UNBLOCKED
    assert not bench.open().is_blocked(WEB.id)


async def test_a_start_is_refused_when_its_cgroup_is_made(bench: Bench) -> None:
    """Before its runtime would have told of it; other cgroups are nobody's business."""
    target = container("x", id="ab" * 32)
    bench.world.policies[target.id] = ALWAYS
    bench.world.running.add(target.id)
    bench.world.known.add(target.id)
    await bench.block(target)
    assert not bench.blocker.cgroup_created(5, "/system.slice/other.service")
    assert not bench.blocker.cgroup_created(6, f"/docker/{'cd' * 32}")
    bench.world.running.add(target.id)
    assert bench.blocker.cgroup_created(7, f"/docker/{target.id}")
    await bench.until(lambda: len(bench.audits) == 2)
    assert bench.audits[1].type is AuditType.START_REFUSED
    assert target.id not in bench.world.running
    assert bench.blocker.records()[0].container.cgroup_path == f"/docker/{target.id}"


async def test_a_start_while_a_start_is_being_refused_is_refused_as_well(bench: Bench) -> None:
    """However short the time between them."""
    await bench.block()
    bench.world.running.add(WEB.id)
    assert bench.blocker.started(WEB)
    await bench.until(lambda: bench.world.calls[-1] == "details")
    bench.world.running.add(WEB.id)
    assert bench.blocker.started(WEB)
    await bench.until(lambda: len(bench.audits) >= 2 and not bench.blocker._tasks)
    assert WEB.id not in bench.world.running


async def test_a_runtime_that_does_not_answer_leaves_it_blocked(bench: Bench) -> None:
    """Or the restart policy that it had would be forgotten."""
    await bench.block()
    bench.world.broken["details"] = RuntimeUnavailableError("gone")
    with pytest.raises(RuntimeUnavailableError):
        await bench.blocker.unblock(WEB.id)
    assert bench.blocker.is_blocked(WEB.id)
    bench.world.broken.clear()
    bench.world.known.clear()  # removed meanwhile
    _, policy = await bench.blocker.unblock(WEB.id)
    assert "no such container" in policy.detail
    with pytest.raises(UsageError, match="not blocked"):
        await bench.blocker.unblock(WEB.id)


async def test_what_must_not_be_blocked_is_not(bench: Bench) -> None:
    """Protected by a rule, or the sensor's own; with the reason, and asked for once."""
    bench.blocker.protected = lambda _: "rule infrastructure says protected: true"
    with pytest.raises(UsageError, match="protected: true"):
        await bench.block()
    assert "protected" in bench.blocker.violation(WEB, violation(), "r1")
    bench.blocker.protected = lambda _: ""
    bench.world.broken["place"] = HostError("web: this sensor runs in its cgroup /x: not touched")
    with pytest.raises(UsageError, match="this sensor runs in its cgroup"):
        await bench.block()
    assert bench.world.calls == []
    assert bench.audits == []
    assert not bench.blocker.is_blocked(WEB.id)


async def test_the_container_that_the_sensor_runs_in_is_not_blocked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its id stands in the sensor's own cgroup."""
    monkeypatch.setattr(block_module, "own_containers", lambda: frozenset({WEB.id}))
    bench = Bench(tmp_path)
    with pytest.raises(UsageError, match="this sensor runs in it"):
        await bench.block()
    await bench.blocker.close()
