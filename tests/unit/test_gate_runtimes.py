"""Who a container is whose start is held: an engine that answers nothing about it meanwhile."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from sensor.containers import docker_files
from sensor.containers.cgroups import Hierarchy
from sensor.containers.container import Container
from sensor.containers.docker import DockerRuntime
from sensor.containers.registry import ContainerChange, Registry
from sensor.containers.runtime import RuntimeEvent
from sensor.errors import RuntimeUnavailableError
from tests.unit.builders import container

ID = "a" * 64
OTHER = "b" * 64


class Engine:
    """Docker's API, with a lock for each container."""

    def __init__(self, directory: Path) -> None:
        self.data = directory / "data"
        self.url = f"unix://{directory}/docker.sock"
        self.locks: dict[str, asyncio.Event] = {}
        self.events: asyncio.Queue[dict[str, Any]] = asyncio.Queue()
        self.asked: list[str] = []
        application = web.Application()
        application.router.add_get("/version", self._version)
        application.router.add_get("/{api}/info", self._info)
        application.router.add_get("/{api}/events", self._events)
        application.router.add_get("/{api}/containers/json", self._list)
        application.router.add_get("/{api}/containers/{id}/json", self._inspect)
        application.router.add_get("/{api}/images/{id}/json", self._image)
        self._runner = web.AppRunner(application, shutdown_timeout=0.1)
        self._path = f"{directory}/docker.sock"

    async def start(self) -> None:
        """Listen."""
        await self._runner.setup()
        await web.UnixSite(self._runner, self._path).start()

    async def stop(self) -> None:
        """Let everybody go, end."""
        for lock in self.locks.values():
            lock.set()
        await self._runner.cleanup()

    def create(self, identity: str, **more: Any) -> dict[str, Any]:
        """Write what dockerd writes for a new container."""
        directory = self.data / "containers" / identity
        directory.mkdir(parents=True)
        config: dict[str, Any] = {
            "ID": identity,
            "Name": f"/{identity[:3]}",
            "Image": "sha256:" + "1" * 64,
            "Config": {"Image": "shop/web:2", "Entrypoint": ["/serve"], "Env": ["B=1", "A=2"]},
            "State": {"Status": "created", "Pid": 7},
            "MountPoints": {
                "/data": {"Type": "volume", "Destination": "/data", "Name": "v", "RW": True}
            },
            **more,
        }
        (directory / "config.v2.json").write_text(json.dumps(config))
        (directory / "hostconfig.json").write_text(
            json.dumps({"ReadonlyRootfs": True, "Tmpfs": {"/tmp": ""}})
        )
        return config

    async def _version(self, _: web.Request) -> web.Response:
        return web.json_response({"ApiVersion": "1.41", "Version": "20.10"})

    async def _info(self, _: web.Request) -> web.Response:
        return web.json_response({"DockerRootDir": str(self.data)})

    async def _list(self, _: web.Request) -> web.Response:
        return web.json_response([])

    async def _image(self, _: web.Request) -> web.Response:
        return web.json_response({"RepoDigests": ["shop/web@sha256:" + "2" * 64]})

    async def _events(self, request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        while True:
            await response.write(json.dumps(await self.events.get()).encode() + b"\n")

    async def _inspect(self, request: web.Request) -> web.Response:
        identity = request.match_info["id"]
        self.asked.append(identity)
        if (lock := self.locks.get(identity)) is not None:
            await lock.wait()
        found = docker_files.inspection(self.data, identity)
        return web.json_response(found) if found else web.Response(status=404)


@pytest.fixture
async def engine(tmp_path: Path) -> AsyncIterator[Engine]:
    """One that answers."""
    made = Engine(tmp_path)
    await made.start()
    yield made
    await made.stop()


@pytest.fixture
async def runtime(engine: Engine) -> AsyncIterator[DockerRuntime]:
    """Our end of it, after it has said its version."""
    made = DockerRuntime(engine.url)
    await made._negotiate()
    yield made
    await made.close()


async def test_a_container_at_the_gate_is_known_from_files(
    engine: Engine, runtime: DockerRuntime
) -> None:
    """As its inspection has it, and without asking for that."""
    engine.create(ID)
    known = await runtime.at_gate(ID)
    assert engine.asked == []
    assert known is not None
    inspected = await runtime.inspect(ID)
    assert known[0] == inspected
    assert known[0].model_id == inspected.model_id
    assert known[0].image.reference == "shop/web:2"
    assert known[0].image.digest == "sha256:" + "2" * 64
    assert known[0].env_names == ("A", "B")
    assert [mount.target for mount in known[0].mounts] == ["/data", "/tmp"]
    assert known[1]["HostConfig"]["ReadonlyRootfs"]
    assert await runtime.at_gate(OTHER) is None
    assert await runtime.at_gate("../etc") is None


@pytest.mark.parametrize("file", ["config.v2.json", "hostconfig.json"])
async def test_damaged_files_are_named(engine: Engine, runtime: DockerRuntime, file: str) -> None:
    """The container is known by its bundle then."""
    engine.create(ID)
    for text in ("{", "[]"):
        (engine.data / "containers" / ID / file).write_text(text)
        with pytest.raises(RuntimeUnavailableError, match=file):
            await runtime.at_gate(ID)


async def test_what_only_the_inspection_knew_is_remembered(
    engine: Engine, runtime: DockerRuntime
) -> None:
    """Podman has no such files: the inspection at its creation counts."""
    engine.create(ID)
    created = await runtime.inspect(ID)
    for path in (engine.data / "containers" / ID).iterdir():
        path.unlink()
    (engine.data / "containers" / ID).rmdir()
    known = await runtime.at_gate(ID)
    assert known is not None
    assert known[0] == created


async def test_nothing_asks_about_a_container_that_is_held(
    engine: Engine, runtime: DockerRuntime
) -> None:
    """Whoever wants to know waits, and is answered when the start is over."""
    engine.create(ID)
    known = await runtime.at_gate(ID)
    assert known is not None
    runtime.hold(known[0])
    asking = [
        asyncio.create_task(runtime.inspect(ID)), asyncio.create_task(runtime.details(ID))
    ]  # fmt: skip
    await asyncio.sleep(0.05)
    assert engine.asked == []
    runtime.release(ID)
    assert (await asyncio.gather(*asking))[0] == known[0]
    assert engine.asked == [ID, ID]


async def test_events_of_others_do_not_wait_for_one_that_is_held(
    engine: Engine, runtime: DockerRuntime
) -> None:
    """Also when its inspection was asked for just before."""
    engine.create(ID)
    engine.create(OTHER)
    lock = engine.locks[ID] = asyncio.Event()
    told: asyncio.Queue[RuntimeEvent] = asyncio.Queue()
    following = asyncio.create_task(runtime.run(told.put_nowait))
    try:
        engine.events.put_nowait({"Action": "create", "Actor": {"ID": ID}})
        engine.events.put_nowait({"Action": "create", "Actor": {"ID": OTHER}})
        async with asyncio.timeout(20):
            while ID not in engine.asked:  # noqa: ASYNC110 - it tells nobody
                await asyncio.sleep(0.01)
        known = await runtime.at_gate(ID)
        assert known is not None
        runtime.hold(known[0])
        first = await asyncio.wait_for(told.get(), 20)
        assert (first.container_id, first.container) == (ID, known[0])
        assert (await asyncio.wait_for(told.get(), 20)).container_id == OTHER
        runtime.release(ID)
        lock.set()
    finally:
        following.cancel()
        await asyncio.gather(following, return_exceptions=True)


class Cgroups(Hierarchy):
    """A hierarchy of directories, with one process."""

    def path_of_pid(self, pid: int) -> str | None:
        """Of pid 9, which is in the container's cgroup, and pid 8, which is not."""
        return {9: f"/docker/{ID}/below", 8: "/system.slice/x"}.get(pid)


@pytest.fixture
def registry(tmp_path: Path) -> tuple[Registry, list[ContainerChange]]:
    """A registry that nobody tells anything, and what it told."""
    (tmp_path / "docker" / ID / "below").mkdir(parents=True)
    told: list[ContainerChange] = []
    return Registry([], [], told.append, hierarchy=Cgroups(tmp_path)), told


async def test_what_is_admitted_is_watched_from_its_first_instruction(
    registry: tuple[Registry, list[ContainerChange]], tmp_path: Path
) -> None:
    """With pid and cgroup; what its runtime tells later only refreshes it."""
    known, told = registry
    cgroup_id = (tmp_path / "docker" / ID).stat().st_ino
    known.cgroup_created(cgroup_id, f"/docker/{ID}")
    assert known.is_pending(cgroup_id)
    admitted = known.admitted(container(id=ID, pid=0, cgroup_id=0), 9)
    assert admitted is not None
    assert (admitted.pid, admitted.cgroup_id) == (9, cgroup_id)
    assert admitted.cgroup_path == f"/docker/{ID}"
    assert not known.is_pending(cgroup_id)
    (change,) = told
    assert (change.kind, change.running_before, change.cgroup_id) == ("added", False, cgroup_id)
    known._on_runtime_event(RuntimeEvent("created", ID, container(id=ID, pid=0)))
    known._on_runtime_event(RuntimeEvent("started", ID, container(id=ID, pid=9, name="renamed")))
    assert [change.kind for change in told] == ["added", "changed"]
    known.admitted(container(id=ID, pid=0, name="renamed"), 9)
    assert [change.kind for change in told] == ["added", "changed"]
    known.cgroup_removed(cgroup_id)
    assert told[-1].kind == "removed"


@pytest.mark.parametrize("pid", [8, 7])
async def test_a_process_elsewhere_admits_nothing(
    registry: tuple[Registry, list[ContainerChange]], pid: int
) -> None:
    """It has ended, or is in no cgroup of the container."""
    found: Container | None = registry[0].admitted(container(id=ID), pid)
    assert found is None
    assert registry[1] == []
