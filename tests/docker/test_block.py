"""Blocking and quarantine of Docker containers, through the daemon, as a person does it."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import statistics
import subprocess
import sys
import time
import uuid
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest

from sensor.audits.audit import Audit
from sensor.containers.container import Container
from sensor.containers.docker import DockerRuntime
from sensor.responses.block import Blocker
from sensor.responses.blocked import BlockCause
from sensor.responses.freezer import V1, V2, Freezer, Mounts
from sensor.responses.records import RecordStore
from tests.docker import images
from tests.docker.client import Docker, Running
from tests.docker.engine import EngineError, PrivateEngine, program
from tests.docker.sensor import Rote
from tests.waiting import wait_for

# Writes as fast as it can, from two processes, and does not end when it is asked to.
STUBBORN = """
trap '' TERM
(while :; do i=$((i+1)); echo $i >/var/child; (:); done) &
while :; do i=$((i+1)); echo $i >/var/parent; done
"""
MEASURED = 5  # scripts/bench block measures more
HOST = Mounts.find()
VERSIONS = [version for version, mount in ((V2, HOST.v2), (V1, HOST.v1)) if mount is not None]


@pytest.fixture(scope="module")
def engine() -> Iterator[PrivateEngine]:
    """An Engine whose daemon may be stopped: never the machine's own."""
    engine = PrivateEngine(tag="block")
    failed = True
    try:
        try:
            engine.start()
        except EngineError as error:
            pytest.exit(f"no Docker Engine for the tests: {error}", returncode=1)
        yield engine
        failed = False
    finally:
        engine.stop(keep_logs=failed)


@pytest.fixture
def own_docker(engine: PrivateEngine) -> Iterator[Docker]:
    """The docker command for that Engine, which has the image of busybox."""
    docker = Docker(engine.url)
    images.import_busybox(docker)
    yield docker
    docker.clean()


@pytest.fixture
def own_rote(engine: PrivateEngine) -> Iterator[Rote]:
    """A daemon that follows that Engine, and runs."""
    rote = Rote("block", ("--runtime", f"docker={engine.url}"))
    try:
        rote.start()
        yield rote
    finally:
        rote.remove()


def _policy(container: Running) -> str:
    return str(container.inspect()["HostConfig"]["RestartPolicy"]["Name"])


def _is_down(container: Running) -> bool:
    state = container.inspect()["State"]
    return not state["Running"] and not state["Restarting"]


def _stays_down(container: Running, seconds: float = 2.0) -> None:
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        assert _is_down(container), container.inspect()["State"]
        time.sleep(0.1)


def _watched(rote: Rote, container: Running) -> None:
    rote.wait_for(lambda: rote.watches(container.id), seconds=20, what="the container")


def _steps(found: dict[str, Any]) -> dict[str, str]:
    return {step["name"]: step["result"] for step in found["steps"]}


def test_blocked_is_out_of_service_until_it_is_unblocked(
    own_docker: Docker, own_rote: Rote, engine: PrivateEngine
) -> None:
    """Also when Docker's daemon is restarted, Rote's is, and somebody starts it by hand."""
    container = own_docker.run(
        images.BUSYBOX, "sh", "-c", STUBBORN, options=("--restart", "always")
    )
    _watched(own_rote, container)

    found = json.loads(own_rote("block", container.name, "--reason", "a test", "-o", "json"))
    assert _steps(found) == {
        "freeze": "done", "evidence": "done", "restart policy": "done", "stop": "done",
    }  # fmt: skip
    assert found["state"] == "blocked"
    assert found["restart_policy"] == "always"
    assert _policy(container) == "unless-stopped"
    assert "Exited (137)" in own_docker("ps", "--all", "--filter", f"id={container.id}")
    _stays_down(container)

    engine.restart()
    _stays_down(container)

    own_rote.wait_for(
        lambda: own_rote.status()["runtimes"][0]["available"], seconds=30, what="Docker again"
    )
    own_docker.complete("start", container.id)
    own_rote.wait_for(
        lambda: own_rote.json("blocked", "show", container.name)["starts_refused"] == 1,
        seconds=20,
        what="the start to be refused",
    )
    wait_for(lambda: _is_down(container), seconds=20, what="it to be down again")
    _stays_down(container)
    (refused,) = own_rote.audits("--type", "start_refused")
    assert refused["outcome"] == "refused"

    own_rote.stop()
    own_docker.complete("start", container.id)
    _stays_down(container)  # the kernel refuses, without the sensor

    own_rote("unload", "--bpf-dir", str(own_rote.pins), "--force")
    own_docker("start", container.id)
    assert not _is_down(container)
    own_rote.start()  # finds running what must not be
    wait_for(lambda: _is_down(container), seconds=20, what="it to be down again")

    said = own_rote("unblock", container.name, "--start")
    assert "always again" in said
    assert _policy(container) == "always"
    _watched(own_rote, container)
    assert not _is_down(container)
    assert own_rote.json("blocked", "list") == []
    assert [a["type"] for a in own_rote.audits("--type", "container_unblocked")] == [
        "container_unblocked"
    ]


@pytest.mark.parametrize("version", VERSIONS)
async def test_after_the_freeze_nothing_of_it_does_anything_more(
    own_docker: Docker, engine: PrivateEngine, tmp_path: Path, version: int
) -> None:
    """What it had written when it was frozen is what it has written when it is gone."""
    running = await asyncio.to_thread(own_docker.run, images.BUSYBOX, "sh", "-c", STUBBORN)
    upper = Path(running.inspect()["GraphDriver"]["Data"]["UpperDir"]) / "var"
    await asyncio.to_thread(wait_for, (upper / "child").exists, seconds=10, what="the first write")
    mounts = Mounts(HOST.v2 if version == V2 else None, HOST.v1 if version == V1 else None)
    async with _blocker(engine, tmp_path, mounts) as (blocker, runtime):
        frozen: list[list[tuple[bytes, int]]] = []

        async def evidence(_: Container, __: BlockCause) -> str:
            await asyncio.sleep(0)
            frozen.append(_written(upper))
            return "looked"

        blocker.evidence = evidence
        container = await runtime.inspect(running.id)
        assert container is not None
        before = _written(upper)
        blocked = await blocker.block(container, BlockCause("a test"))
        results = {step.name: step.result for step in blocked.steps}
        assert (results["freeze"], results["evidence"], results["stop"]) == ("done",) * 3
        assert f"v{version}" in blocked.steps[0].detail
        assert _written(upper) == frozen[0]
        assert frozen[0] != before  # it was busy until then


def test_with_a_grace_period_it_may_end_by_itself(own_docker: Docker, own_rote: Rote) -> None:
    """It is asked first, and what it does then is its own affair."""
    script = "trap 'echo asked >/var/end; exit 3' TERM; while :; do sleep 0.1; done"
    container = own_docker.run(images.BUSYBOX, "sh", "-c", script)
    _watched(own_rote, container)
    own_rote("block", container.name, "--reason", "a test", "--grace", "10s", "--no-evidence")
    state = container.inspect()["State"]
    assert state["ExitCode"] == 3
    upper = Path(container.inspect()["GraphDriver"]["Data"]["UpperDir"])
    assert (upper / "var/end").read_text() == "asked\n"


@pytest.mark.parametrize("seconds", [0.0, 0.7])
def test_docker_that_goes_away_in_the_middle_is_told_when_it_is_back(
    own_docker: Docker, own_rote: Rote, engine: PrivateEngine, seconds: float
) -> None:
    """Meanwhile the container was killed through its cgroup, and the audit says so."""
    container = own_docker.run(
        images.BUSYBOX, "sh", "-c", STUBBORN, options=("--restart", "always")
    )
    _watched(own_rote, container)
    engine.kill_dockerd()
    time.sleep(seconds)
    try:
        found = json.loads(own_rote("block", container.name, "--reason", "a test", "-o", "json"))
        steps = _steps(found)
        assert steps["freeze"] == "done"
        assert (steps["restart policy"], steps["stop"]) == ("failed", "failed")
        assert steps["kill"] == "done"
        assert found["state"] == "blocking"
    finally:
        engine.start_dockerd()
    own_rote.wait_for(
        lambda: own_rote.json("blocked", "show", container.name)["state"] == "blocked",
        seconds=60,
        what="the rest of the block",
    )
    wait_for(lambda: _is_down(container), seconds=20, what="it to be down")
    assert _policy(container) in ("unless-stopped", "no")
    _stays_down(container)
    engine.restart()
    _stays_down(container)
    own_rote("unblock", container.name)
    assert _policy(container) == "always"


def test_a_daemon_killed_in_the_middle_finishes_it_when_it_is_back(
    own_docker: Docker, own_rote: Rote
) -> None:
    """A grace period makes the middle long enough to be killed in."""
    container = own_docker.run(
        images.BUSYBOX, "sh", "-c", STUBBORN, options=("--restart", "always")
    )
    _watched(own_rote, container)
    blocking = own_rote.spawn("block", container.name, "--reason", "a test", "--grace", "20s")
    try:
        own_rote.wait_for(
            lambda: [r for r in own_rote.json("blocked", "list") if "restart policy" in _steps(r)],
            seconds=20,
            what="the middle of the block",
        )
        assert own_rote.stop(number=9) == -9
    finally:
        blocking.kill()
        blocking.wait(10)
    assert not _is_down(container)
    own_rote.start()
    own_rote.wait_for(
        lambda: own_rote.json("blocked", "show", container.name)["state"] == "blocked",
        seconds=60,
        what="the rest of the block",
    )
    assert _is_down(container)
    assert own_rote.json("blocked", "show", container.name)["restart_policy"] == "always"
    (audit,) = own_rote.audits("--type", "container_blocked")
    assert any("after a restart" in remark for remark in audit["remarks"])


def test_a_container_that_is_restarted_all_the_time_stays_down(
    own_docker: Docker, own_rote: Rote, engine: PrivateEngine
) -> None:
    """It ends by itself before anybody can freeze it, and comes back by its policy."""
    container = own_docker.run(
        images.BUSYBOX, "sh", "-c", "sleep 0.05", options=("--restart", "always")
    )
    wait_for(lambda: container.inspect()["RestartCount"] >= 2, seconds=20, what="restarts")
    found = json.loads(own_rote("block", container.name, "--reason", "a test", "-o", "json"))
    assert found["state"] == "blocked", found["steps"]
    _stays_down(container)
    engine.restart()
    _stays_down(container)


def test_names_that_are_not_clear_are_said_to_be(own_docker: Docker, own_rote: Rote) -> None:
    """A wrong container out of service is worse than a question."""
    containers = [own_docker.run(images.BUSYBOX, "sleep", "1000") for _ in range(17)]
    for container in containers:
        _watched(own_rote, container)
    firsts = [container.id[0] for container in containers]
    twice = next(first for first in firsts if firsts.count(first) > 1)  # 17 ids, 16 digits
    result = own_rote.complete("block", twice, "--reason", "x")
    assert result.returncode == 2
    assert "give more of the id" in result.stderr
    result = own_rote.complete("block", "nobody", "--reason", "x")
    assert result.returncode == 2
    assert "none of that name or id" in result.stderr
    assert all(not _is_down(container) for container in containers)
    own_rote("block", containers[0].id[:20], "--reason", "x")
    assert _is_down(containers[0])


@pytest.mark.parametrize("mode", ["links", "drop"])
def test_in_quarantine_it_runs_without_a_network(
    own_docker: Docker, own_rote: Rote, mode: str
) -> None:
    """In both directions, over a restart of Rote, until it is released."""
    suspect = own_docker.run(
        images.BUSYBOX, "sh", "-c", "while :; do date >/var/tick; sleep 0.1; done"
    )
    other = own_docker.run(images.BUSYBOX, "sleep", "1000")
    for container in (suspect, other):
        _watched(own_rote, container)

    def reach(one: Running, target: Running) -> bool:
        address = target.inspect()["NetworkSettings"]["IPAddress"]
        return one.try_exec("ping", "-c", "1", "-W", "1", address).returncode == 0

    routes = suspect.exec("ip", "route")
    assert reach(suspect, other)
    assert reach(other, suspect)

    said = own_rote("quarantine", suspect.name, "--reason", "a test", "--mode", mode)
    assert ("links down" if mode == "links" else "traffic dropped") in said
    assert not reach(suspect, other)
    assert not reach(other, suspect)
    assert suspect.try_exec("ping", "-c", "1", "-W", "1", "127.0.0.1").returncode == 0
    tick = suspect.exec("cat", "/var/tick")
    wait_for(lambda: suspect.exec("cat", "/var/tick") != tick, seconds=10, what="it to go on")
    assert own_rote.complete("quarantine", suspect.name, "--reason", "x").returncode == 2

    own_rote.stop()
    own_rote.start()
    _watched(own_rote, suspect)
    (row,) = own_rote.json("quarantined")
    assert row["mode"] == mode
    assert not reach(suspect, other)
    if mode == "links":  # a new network namespace is cut off in turn
        own_docker("restart", "--time", "0", suspect.id)
        own_rote.wait_for(
            lambda: not reach(suspect, other), seconds=20, what="it to be cut off again"
        )

    own_rote("release", suspect.name)
    assert reach(suspect, other)
    assert reach(other, suspect)
    assert suspect.exec("ip", "route") == routes
    assert own_rote.json("quarantined") == []
    kinds = [audit["type"] for audit in own_rote.audits()]
    assert "container_quarantined" in kinds
    assert "container_released" in kinds


def test_the_network_of_the_host_is_never_cut_off(own_docker: Docker, own_rote: Rote) -> None:
    """Its links are not the container's."""
    container = own_docker.run(images.BUSYBOX, "sleep", "1000", options=("--network", "host"))
    _watched(own_rote, container)
    result = own_rote.complete("quarantine", container.name, "--reason", "x")
    assert result.returncode != 0
    assert "--network host" in result.stderr
    assert own_rote.json("quarantined") == []


@pytest.mark.slow
async def test_from_a_violation_to_its_end(
    own_docker: Docker, engine: PrivateEngine, tmp_path: Path
) -> None:
    """How long it takes until it is frozen, and until it is stopped, without evidence."""
    frozen, stopped = [], []
    async with _blocker(engine, tmp_path, HOST) as (blocker, runtime):
        for _ in range(MEASURED):
            running = await asyncio.to_thread(
                own_docker.run, images.BUSYBOX, "sh", "-c", STUBBORN,
                options=("--restart", "always"),
            )  # fmt: skip
            container = await runtime.inspect(running.id)
            assert container is not None
            began = time.monotonic()
            blocked = await blocker.block(container, BlockCause("a test"), with_evidence=False)
            stopped.append(time.monotonic() - began)
            frozen.append(blocked.steps[0].seconds)
            assert blocked.state == "blocked", blocked.steps
            assert _is_down(running)
            await asyncio.to_thread(running.remove)
    _tell_figures("frozen after", frozen)
    _tell_figures("stopped after", stopped)
    assert statistics.median(stopped) < 5


@contextlib.asynccontextmanager
async def _blocker(
    engine: PrivateEngine, directory: Path, mounts: Mounts
) -> AsyncIterator[tuple[Blocker, DockerRuntime]]:
    """A Blocker for an Engine, without a daemon around it."""
    runtime = DockerRuntime(engine.url)
    audits: list[Audit] = []
    store = RecordStore(directory / "blocked.db")
    blocker = Blocker(store, Freezer(mounts), lambda _: runtime, audits.append)
    try:
        yield blocker, runtime
        assert audits
    finally:
        await blocker.close()
        await runtime.close()
        store.close()


def _written(directory: Path) -> list[tuple[bytes, int]]:
    files = (directory / "parent", directory / "child")
    return [(file.read_bytes(), file.stat().st_mtime_ns) for file in files]


def _tell_figures(what: str, seconds: list[float]) -> None:
    cuts = statistics.quantiles(seconds, n=100)
    text = f"{what}: p50 {cuts[49] * 1e3:.1f} ms, p99 {cuts[98] * 1e3:.1f} ms\n"
    sys.stderr.write(text)
    if results := os.environ.get("ROTE_TEST_RESULTS"):
        with Path(results, "block.txt").open("a") as file:
            file.write(text)


def test_containerd_alone_offers_no_stop_and_its_cgroup_does(
    own_docker: Docker, engine: PrivateEngine
) -> None:
    """Kubernetes and nerdctl are like that; the steps say how it was done."""
    rote = Rote("containerd", ("--runtime", f"containerd={engine.home}/containerd.sock"))
    identity = uuid.uuid4().hex * 2

    def ctr(*arguments: str) -> str:
        result = subprocess.run(
            [program("ctr"), "--address", f"{engine.home}/containerd.sock", *arguments],
            check=False,
            capture_output=True,
            text=True,
            timeout=60,
        )
        assert result.returncode == 0, result.stderr
        return result.stdout

    archive = engine.home / "busybox.tar"
    own_docker("save", "--output", str(archive), images.BUSYBOX)
    ctr("images", "import", str(archive))
    try:
        rote.start()
        image = f"docker.io/{images.BUSYBOX}"
        cgroup = f"{engine.cgroup}/{identity}"
        ctr("run", "--detach", "--cgroup", cgroup, image, identity, "sh", "-c", STUBBORN)
        rote.wait_for(lambda: rote.watches(identity), seconds=20, what="the container")
        assert "RUNNING" in ctr("tasks", "list")
        found = json.loads(rote("block", identity[:16], "--reason", "a test", "-o", "json"))
        assert _steps(found) == {
            "freeze": "done", "evidence": "done", "restart policy": "skipped", "stop": "done",
        }  # fmt: skip
        assert "through its cgroup" in found["steps"][-1]["detail"]
        assert found["state"] == "blocked"
        wait_for(lambda: "RUNNING" not in ctr("tasks", "list"), seconds=20, what="its end")

        ctr("tasks", "delete", identity)
        with contextlib.suppress(AssertionError):  # killed before its first instruction, mostly
            ctr("tasks", "start", "--detach", identity)
        wait_for(lambda: "RUNNING" not in ctr("tasks", "list"), seconds=20, what="its end again")
        rote.wait_for(
            lambda: rote.json("blocked", "show", identity)["starts_refused"],
            seconds=20,
            what="the start to be counted",
        )
    finally:
        for arguments in (("tasks", "kill", "--signal", "9"), ("tasks", "delete", "--force"),
                          ("containers", "delete")):  # fmt: skip
            with contextlib.suppress(AssertionError):
                ctr(*arguments, identity)
        rote.remove()
