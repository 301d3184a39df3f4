"""A runtime and a freezer that do as a test says, and a Blocker in between."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

from sensor.audits.audit import Audit
from sensor.containers.container import Container
from sensor.containers.runtime import Control, RestartPolicy
from sensor.responses.block import Blocker
from sensor.responses.blocked import BlockCause, Blocked
from sensor.responses.freezer import Freezer, Place
from sensor.responses.records import RecordStore
from tests.unit.builders import container

ALWAYS = RestartPolicy("always")
WEB = container("web")


class World:
    """A runtime and the cgroups of a host. What happens is noted in ``calls``, in order."""

    def __init__(self) -> None:
        self.calls: list[str] = []
        self.running = {WEB.id}
        self.frozen: set[str] = set()
        self.policies = {WEB.id: ALWAYS}
        self.known = {WEB.id}
        self.image_labels: dict[str, str] = {}
        self.broken: dict[str, Exception] = {}  # call → what it raises
        self.hanging: set[str] = set()  # calls that never return
        self.restarts = 0  # how often the runtime starts it again after a stop

    async def call(self, name: str) -> None:
        """Note a call, and let it fail or hang where the test says so."""
        self.calls.append(name)
        await asyncio.sleep(0)
        if name in self.hanging:
            await asyncio.sleep(3600)
        if name in self.broken:
            raise self.broken[name]


class FakeControl:
    """A ``Control``."""

    def __init__(self, world: World) -> None:
        self._world = world

    async def details(self, container_id: str) -> dict[str, Any] | None:
        """See ``Control``."""
        await self._world.call("details")
        if container_id not in self._world.known:
            return None
        return {"State": {"Running": container_id in self._world.running}}

    async def image_details(self, image_id: str) -> dict[str, Any] | None:
        """See ``Control``."""
        await self._world.call(f"image {image_id[:6]}")
        return {"Config": {"Labels": self._world.image_labels}}

    async def changes(self, container_id: str) -> list[tuple[str, str]]:
        """See ``Control``."""
        raise AssertionError(container_id)

    def export(self, container_id: str) -> AsyncIterator[bytes]:
        """See ``Control``."""
        raise AssertionError(container_id)

    async def restart_policy(self, container_id: str) -> RestartPolicy:
        """See ``Control``."""
        await self._world.call("policy?")
        return self._world.policies[container_id]

    async def set_restart_policy(self, container_id: str, policy: RestartPolicy) -> None:
        """See ``Control``."""
        await self._world.call(f"policy={policy}")
        self._world.policies[container_id] = policy

    async def stop(self, container_id: str, grace_seconds: float) -> bool:
        """See ``Control``."""
        await self._world.call(f"stop {grace_seconds:g}")
        ran = container_id in self._world.running
        self._world.running.discard(container_id)
        self._world.frozen.discard(container_id)
        if self._world.restarts:
            self._world.restarts -= 1
            self._world.running.add(container_id)
        return ran

    async def start(self, container_id: str) -> None:
        """See ``Control``."""
        await self._world.call("start")
        self._world.running.add(container_id)


class FakeFreezer(Freezer):
    """A ``Freezer`` of sets."""

    def __init__(self, world: World) -> None:
        self._world = world

    def place(self, container: Container) -> Place | None:
        """See ``Freezer``."""
        del container
        if "place" in self._world.broken:
            raise self._world.broken["place"]
        return None

    def pids(self, container: Container) -> list[int]:
        """See ``Freezer``."""
        return [7] if container.id in self._world.running else []

    def is_frozen(self, container: Container) -> bool:
        """See ``Freezer``."""
        return container.id in self._world.frozen

    async def freeze(self, container: Container, seconds: float = 2.0) -> str:
        """See ``Freezer``."""
        del seconds
        await self._world.call("freeze")
        if container.id not in self._world.running:
            return ""
        self._world.frozen.add(container.id)
        return "1 process, cgroup v2"

    async def thaw(self, container: Container) -> None:
        """See ``Freezer``."""
        await self._world.call("thaw")
        self._world.frozen.discard(container.id)

    def condemn(self, container: Container) -> bool:
        """See ``Freezer``."""
        del container
        self._world.calls.append("condemn")
        return False

    async def kill(self, container: Container, seconds: float = 10.0) -> str:
        """See ``Freezer``."""
        del seconds
        if container.id not in self._world.running:
            return ""
        await self._world.call("kill")
        self._world.running.discard(container.id)
        return "1 process"

    async def terminate(self, container: Container, grace_seconds: float) -> bool:
        """See ``Freezer``."""
        del container
        await self._world.call(f"terminate {grace_seconds:g}")
        return False


class Bench:
    """A Blocker in a world, and what it recorded."""

    def __init__(self, path: Path, **options: Any) -> None:
        self.world = World()
        self.audits: list[Audit] = []
        self.changes: list[tuple[str, bool]] = []
        self.path = path / "blocked.db"
        self.options = options
        self.blocker = self.open()

    def open(self) -> Blocker:
        """A Blocker that knows what is on the disk, as after a start of the daemon."""
        control: Control | None = FakeControl(self.world)
        options = {"step_seconds": 0.3, "evidence_seconds": 0.3, **self.options}
        if options.pop("no_runtime", False):
            control = None
        return Blocker(
            RecordStore(self.path),
            FakeFreezer(self.world),
            lambda _: control,
            self.audits.append,
            on_change=lambda identity, held: self.changes.append((identity, held)),
            **options,
        )

    async def block(self, target: Container = WEB, **options: Any) -> Blocked:
        """Block it by hand."""
        return await self.blocker.block(target, BlockCause("it misbehaves"), **options)

    async def until(self, question: Any) -> None:
        """Wait for something the Blocker does by itself."""
        deadline = asyncio.get_running_loop().time() + 60
        while not question():
            assert asyncio.get_running_loop().time() < deadline
            await asyncio.sleep(0.005)
