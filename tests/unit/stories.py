"""The loop with everything around it real but the kernel, for tests that tell whole stories."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from sensor.audits.audit import Audit, AuditType
from sensor.audits.query import AuditQuery
from sensor.audits.store import AuditStore
from sensor.channels.channel import Channels
from sensor.containers.container import Container
from sensor.containers.registry import ContainerChange
from sensor.events import Actor, Event
from sensor.models.learning import LearningSettings
from sensor.models.model import Model
from sensor.models.registry import ModelRegistry
from sensor.models.store import ModelStore
from sensor.pipeline import Pipeline
from sensor.rules.policy import Policy
from sensor.testing import ReplayKernel
from tests.unit.builders import CGROUP, container, execution

LEARN_SECONDS = 100.0
DRY_RUN_SECONDS = 200.0


class Shown(Channels):
    """Channels that remember what they were given, and what was in the store by then."""

    def __init__(self, store: AuditStore) -> None:
        super().__init__([])
        self.audits: list[Audit] = []
        self.stored: list[bool] = []
        self._store = store

    def send(self, audit: Audit) -> None:
        """See ``Channels.send``."""
        self.audits.append(audit)
        self.stored.append(self._store.get(audit.id) is not None)


class Story:
    """One host, from the first container on."""

    def __init__(
        self,
        directory: Path,
        kernel: ReplayKernel | None = None,
        policy: Policy | None = None,
        settings: LearningSettings | None = None,
        now: float = 1_800_000_000.0,
    ) -> None:
        self.now = now
        self.directory = directory
        self.kernel = kernel or ReplayKernel()
        self.models = ModelRegistry(
            ModelStore(directory / "models.db"),
            settings or LearningSettings(LEARN_SECONDS, DRY_RUN_SECONDS),
            clock=lambda: self.now,
        )
        self.audits = AuditStore(directory / "audits.db")
        self.shown = Shown(self.audits)
        self.pipeline = Pipeline(
            self.kernel,
            self.models,
            self.audits,
            self.shown,
            policy=policy,
            clock=lambda: self.now,
        )

    def start(self, who: Container | None = None, **change: Any) -> Model:
        """A container was found out; its model."""
        who = who or container()
        told = {"kind": "added", "cgroup_id": who.cgroup_id, "container": who, **change}
        self.pipeline.on_container(ContainerChange(**told))
        model = self.models.model_of(who.id)
        assert model is not None
        return model

    def stop(self, who: Container | None = None) -> None:
        """The runtime says that a container is gone."""
        who = who or container()
        self.pipeline.on_container(ContainerChange("removed", who.cgroup_id, who))

    def happen(self, *events: Event) -> int:
        """Things happen, and the loop takes them in; how many the kernel reported."""
        novel = self.kernel.feed(*events)
        while self.pipeline.drain():
            pass
        return novel

    def wait(self, seconds: float) -> None:
        """Time passes."""
        self.now += seconds
        self.pipeline.tick()

    def busy(self, minutes: float, *events: Event) -> None:
        """For so long these things happen again and again, and the loop ticks."""
        for _ in range(round(minutes * 6)):
            self.happen(*events)
            self.wait(10)

    def learn(self, *events: Event) -> Model:
        """A container starts, does this, and its model becomes active."""
        model = self.start()
        self.happen(*events)
        self.wait(LEARN_SECONDS)
        self.wait(DRY_RUN_SECONDS)
        assert str(model.state) == "active"
        return model

    def recorded(self) -> list[Audit]:
        """Every audit in the store, oldest first."""
        return sorted(self.audits.query(AuditQuery()), key=lambda audit: audit.id)

    def types(self) -> list[AuditType]:
        """Their types."""
        return [audit.type for audit in self.recorded()]


def session(path: str = "/bin/sh", caller: str = "", **values: Any) -> Event:
    """Somebody comes in (``caller`` empty), or does something once inside."""
    return execution(path, caller, **{"actor": Actor.SESSION, **values})


__all__ = ["CGROUP", "DRY_RUN_SECONDS", "LEARN_SECONDS", "Shown", "Story", "session"]
