"""The gate's server: who may ask, what is no question, and that no start waits for another."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import os
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from sensor.config import Settings
from sensor.containers.cgroups import Hierarchy
from sensor.containers.container import Container, Image
from sensor.containers.registry import ContainerChange, Registry
from sensor.containers.runtime import Gated
from sensor.errors import HostError, RuntimeUnavailableError
from sensor.images.admission.facts import Facts, State, from_spec, parse_state
from sensor.images.admission.gates import Gates
from sensor.images.admission.server import GateServer
from sensor.images.admission.start import Answer, Failure, Start

ID = "d" * 64


class Engine:
    """A runtime that knows one container."""

    name = "engine"

    def __init__(self) -> None:
        self.held: list[str] = []
        self.log: list[str] = []
        self.error: RuntimeUnavailableError | None = None

    async def at_gate(self, container_id: str) -> tuple[Container, dict[str, Any]] | None:
        """It, if it is."""
        if self.error is not None:
            raise self.error
        if not container_id.startswith("d"):
            return None
        return Container(container_id, "engine", "web", Image("shop/web", "1")), {"Config": {}}

    def hold(self, container: Container) -> None:
        """Noted."""
        self.held.append(container.id)
        self.log.append("hold")

    def release(self, container_id: str) -> None:
        """Noted."""
        self.held.remove(container_id)
        self.log.append("release")


class World:
    """A server, and what a test needs of it."""

    def __init__(self, directory: Path) -> None:
        self.engine = Engine()
        self.bundle = directory / "bundle"
        (self.bundle / "rootfs" / "bin").mkdir(parents=True)
        (self.bundle / "config.json").write_text(json.dumps({"process": {"args": ["serve"]}}))
        self.path = directory / "gate.sock"
        self.starts: list[Start] = []
        self.admitted: list[tuple[str, int]] = []
        self.answer: Callable[[Start], Awaitable[Answer]] = self._allow
        self.failure = Failure(allow=False, seconds=5, rule="strict")
        cgroups = directory / "cgroups"
        cgroups.mkdir()
        self.server = self.make()

    def make(self, owner: int | None = None) -> GateServer:
        """A server that is not listening yet."""
        runtimes: list[Gated] = [self.engine]
        return GateServer(
            self.path,
            Facts(runtimes, hierarchy=Hierarchy(self.path.parent / "cgroups")),
            self._judge,
            lambda _: self.failure,
            lambda container, pid: self.admitted.append((container.id, pid)),
            owner=owner,
        )

    async def _judge(self, start: Start) -> Answer:
        self.starts.append(start)
        return await self.answer(start)

    async def _allow(self, _: Start) -> Answer:
        return Answer(allow=True)

    async def ask(self, state: bytes, head: bytes | None = None) -> str:
        """The answer to a question."""
        reader, writer = await asyncio.open_unix_connection(str(self.path))
        try:
            writer.write((head or b"rote-gate 1 %d runtime\n" % len(state)) + state)
            return (await asyncio.wait_for(reader.readline(), 20)).decode()
        except ConnectionError:
            return ""  # closed on us, the question unread
        finally:
            writer.close()
            with contextlib.suppress(ConnectionError):
                await writer.wait_closed()

    def state(self, identity: str = ID, pid: int = 0, **more: Any) -> bytes:
        """What a runtime says."""
        return json.dumps({"id": identity, "pid": pid, "bundle": str(self.bundle), **more}).encode()


async def _until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(20):
        while not condition():  # noqa: ASYNC110 - what changes it tells nobody
            await asyncio.sleep(0.01)


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    """A server that listens."""
    made = World(tmp_path)
    await made.server.start()
    yield made
    await made.server.stop()


async def test_what_a_judge_is_told(world: World) -> None:
    """Container, specification, inspection and root; the gate's name; that it is held."""
    assert await world.ask(world.state()) == "allow\n"
    (start,) = world.starts
    assert start.container.name == "web"
    assert start.gate == "runtime"
    assert start.spec["process"]["args"] == ["serve"]
    assert start.inspected == {"Config": {}}
    assert start.root == world.bundle / "rootfs"
    assert start.held
    assert world.engine.log == ["hold", "release"]


async def test_a_refusal_is_one_line(world: World) -> None:
    """Whatever the judge puts into it."""

    async def deny(_: Start) -> Answer:
        return Answer(allow=False, message="by rule\nstrict:\t\x1b[31m1 critical" + "x" * 9000)

    world.answer = deny
    answer = await world.ask(world.state())
    assert answer.startswith("deny: by rule strict: [31m1 criticalxxx")
    assert answer.endswith("x\n")
    assert len(answer) < 4096
    assert world.admitted == []
    assert world.server.counts.refused == 1


async def test_only_what_is_in_a_cgroup_of_its_own_is_admitted(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A pid of another namespace, or of somebody else, is no pid of the container."""
    await world.ask(world.state(pid=os.getpid()))
    assert world.admitted == []
    monkeypatch.setattr(Hierarchy, "path_of_pid", lambda _, pid: f"/docker/{ID}" if pid else None)
    await world.ask(world.state(pid=4321))
    assert world.admitted == [(ID, 4321)]
    assert world.starts[-1].container.cgroup_path == f"/docker/{ID}"


async def test_a_container_that_only_its_bundle_knows_is_judged_and_not_admitted(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its runtime would name another model."""
    monkeypatch.setattr(Hierarchy, "path_of_pid", lambda *_: f"/x/{'e' * 64}")
    annotations = {
        "io.kubernetes.cri.container-name": "web",
        "io.kubernetes.cri.image-name": "docker.io/shop/web:2",
        "io.kubernetes.cri.sandbox-namespace": "shop",
        "io.kubernetes.cri.sandbox-name": "web-0",
    }
    assert await world.ask(world.state("e" * 64, 7, annotations=annotations)) == "allow\n"
    container = world.starts[0].container
    assert (container.name, container.namespace, container.pod) == ("web", "shop", "web-0")
    assert container.image == Image("docker.io/shop/web", "2")
    assert world.admitted == []


async def test_starts_do_not_wait_for_one_another(world: World) -> None:
    """A hundred are held at once; the last that came is answered first."""
    gates = {f"d{n:063}": asyncio.Event() for n in range(100)}

    async def wait(start: Start) -> Answer:
        await gates[start.container.id].wait()
        return Answer(allow=True)

    world.answer = wait
    asking = {name: asyncio.create_task(world.ask(world.state(name))) for name in gates}
    await _until(lambda: len(world.starts) == len(gates))
    assert world.server.counts.held == len(gates)
    for name in reversed(gates):
        gates[name].set()
        assert await asking[name] == "allow\n"
    assert world.engine.held == []


@pytest.mark.parametrize("allow", [True, False])
@pytest.mark.parametrize("how", ["slow", "host", "bug"])
async def test_what_nobody_decides(world: World, allow: bool, how: str) -> None:
    """Too slow, an error, a mistake of ours: what was chosen counts, and the rule is named."""
    world.failure = Failure(allow, 0.1, "strict")

    async def fail(_: Start) -> Answer:
        if how == "slow":
            await asyncio.sleep(60)
        raise HostError("no advisories") if how == "host" else RuntimeError("oops")

    world.answer = fail
    answer = await world.ask(world.state())
    assert answer.startswith("allow\n" if allow else "deny: nobody decided about this start (web: ")
    assert allow or answer.endswith("it is refused: rule strict\n")
    assert world.server.counts.undecided == 1
    assert world.engine.held == []


@pytest.mark.parametrize(
    ("state", "head"),
    [
        (b"", b"GET / HTTP/1.1\r\n\n"),
        (b"{}", b"rote-gate 2 2 hook\n"),
        (b"{}", b"rote-gate 1 9999999 hook\n"),
        (b"", None),
        (b"[]", None),
        (b'{"id": "x"', None),
        (b'{"id": "", "bundle": "/b", "pid": 1}', None),
        (b'{"id": "x", "bundle": "b", "pid": 1}', None),
        (b'{"id": "x", "bundle": "/b", "pid": "1"}', None),
        (b'{"id": "x", "bundle": "/b", "pid": true}', None),
        (b'{"id": "x", "bundle": "/b", "pid": -1}', None),
        (b'{"id": "x", "bundle": "/b", "annotations": 3}', None),
        (b"\xff" * 100, None),
    ],
)
async def test_what_is_no_question(
    world: World, caplog: pytest.LogCaptureFixture, state: bytes, head: bytes | None
) -> None:
    """One line in the log, the answer that was chosen, and the next is answered as ever."""
    with caplog.at_level(logging.WARNING, "rote.gate"):
        answer = await world.ask(state, head)
    assert answer.startswith("deny: nobody decided")
    assert len(caplog.records) == 1
    assert world.server.counts.malformed == 1
    assert await world.ask(world.state()) == "allow\n"


async def test_a_bundle_without_a_specification(world: World) -> None:
    """It is said which file."""
    (world.bundle / "config.json").write_text("{")
    answer = await world.ask(world.state())
    assert f"{world.bundle}/config.json" in answer
    (world.bundle / "config.json").unlink()
    assert "No such file" in await world.ask(world.state())


async def test_an_engine_that_does_not_answer(world: World) -> None:
    """The container is known by its bundle."""
    world.engine.error = RuntimeUnavailableError("engine: no answer")
    assert await world.ask(world.state()) == "allow\n"
    assert world.starts[0].container.runtime == "oci"


async def test_others_may_not_ask(world: World) -> None:
    """Nothing is answered, and it is counted."""
    await world.server.stop()
    other = world.make(owner=os.geteuid() + 1)
    await other.start()
    assert await world.ask(world.state()) == ""
    assert other.counts.strangers == 1
    assert world.path.stat().st_mode & 0o777 == 0o600
    await other.stop()


async def test_a_hook_that_goes_ends_the_judging(world: World) -> None:
    """Its container was removed, or the runtime gave up."""
    ended = asyncio.Event()

    async def wait(_: Start) -> Answer:
        try:
            await asyncio.sleep(60)
        finally:
            ended.set()
        return Answer(allow=True)

    world.answer = wait
    asking = asyncio.create_task(world.ask(world.state()))
    await _until(lambda: bool(world.starts))
    asking.cancel()
    await asyncio.wait_for(ended.wait(), 10)
    await _until(lambda: not world.server.counts.held)
    assert world.server.counts.gone == 1
    assert world.engine.held == []


def test_podman_says_who_it_is() -> None:
    """By an annotation of its own."""
    state = parse_state(b'{"id": "x", "pid": 1, "bundle": "/b"}')
    assert state == State("x", 1, "/b")
    spec = {"annotations": {"io.container.manager": "libpod"}, "root": {"readonly": True}}
    container = from_spec(state, spec)
    assert (container.runtime, container.read_only) == ("podman", True)


async def test_what_is_out_of_service_is_refused_without_a_judge(tmp_path: Path) -> None:
    """With the way out in the message; what counts when nobody answers is written beforehand."""
    world = World(tmp_path)
    registry = Registry([], [], lambda _: None, hierarchy=Hierarchy(tmp_path / "cgroups"))
    barred = {ID}
    gates = Gates(
        Settings(run_dir=tmp_path, state_dir=tmp_path),
        [],
        registry,
        world._judge,
        lambda container: Failure(container is None, 3, "strict"),
        barred=barred.__contains__,
    )
    await gates.start()
    try:
        answer = await world.ask(world.state())
        assert answer.startswith(f"deny: {ID[:12]} was taken out of service: rote blocked")
        assert world.starts == []
        barred.clear()
        assert await world.ask(world.state()) == "allow\n"
        assert (tmp_path / "gate/default").read_text() == "allow 3.000 strict\n"
        gates.on_container(ContainerChange("created", 0, Container(ID, "engine")))
        assert (tmp_path / "gate" / ID).read_text() == "deny 3.000 strict\n"
        assert gates.status()["allowed"] == 1
    finally:
        await gates.close()
    assert (tmp_path / "gate" / ID).exists(), "it counts from now on"
