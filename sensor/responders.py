"""The responses of one daemon, and what connects them with the loop."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable
from typing import Any

from sensor.audits.audit import Audit, Guarantee
from sensor.audits.formats import to_json
from sensor.audits.query import AuditQuery
from sensor.config import Settings
from sensor.containers import cgroups
from sensor.containers.container import Container
from sensor.containers.registry import ContainerChange, OnChange
from sensor.containers.runtime import Control, Runtime
from sensor.control.blocking import Find, block_handlers
from sensor.control.evidence import evidence_handlers
from sensor.control.server import Handler
from sensor.errors import HostError
from sensor.models.files import export_bytes
from sensor.pipeline import Pipeline
from sensor.responses.block import Blocker
from sensor.responses.blocked import BlockCause
from sensor.responses.evidence.collect import Collector, Sources
from sensor.responses.evidence.recorder import FlightRecorder
from sensor.responses.evidence.store import EvidenceStore
from sensor.responses.freezer import Freezer
from sensor.responses.quarantine import Quarantine
from sensor.responses.records import RecordStore
from sensor.rules.files import describe
from sensor.rules.rule import Rule

_log = logging.getLogger("rote.responders")
_EVIDENCE_AUDITS = 1000
_EXPORT_SECONDS = 60.0  # for the whole file system, while the container stands still
_EVIDENCE_MARGIN_SECONDS = 60.0  # beyond what taking evidence is meant to take


class Responders:
    """Takes containers out of service, cuts them off, and takes evidence of them.

    Args:
        settings: of the daemon.
        pipeline: whose violations lead here.
        runtimes: that can be told to stop something.
        stack: closes the stores at the end.

    Raises:
        StateError: a store cannot be read.
    """

    def __init__(
        self,
        settings: Settings,
        pipeline: Pipeline,
        runtimes: list[Runtime],
        stack: contextlib.ExitStack,
    ) -> None:
        self._pipeline = pipeline
        self.watchers: list[OnChange] = []  # who else is told of containers
        self._held_watchers: list[Callable[[str, bool], None]] = []  # and of what is blocked
        self._controls = {r.name: r for r in runtimes if isinstance(r, Control)}
        store = RecordStore(settings.blocked_db)
        stack.callback(store.close)
        freezer = Freezer(strays=self._strays)
        guarantee = Guarantee(pipeline.kernel.attachment.guarantee)
        self.collector = self._collector(settings)
        self.blocker = Blocker(
            store,
            freezer,
            self._control,
            pipeline.record,
            evidence=self._take_evidence,
            evidence_seconds=settings.evidence_seconds + _EXPORT_SECONDS + _EVIDENCE_MARGIN_SECONDS,
            protected=self._protected,
            on_change=self._on_held,
            guarantee=guarantee,
            grace_seconds=settings.block_grace_seconds,
        )
        self.quarantine = Quarantine(
            store, freezer, pipeline.record, refusal=self.blocker.refusal, guarantee=guarantee
        )
        pipeline.is_blocked = self.blocker.is_blocked
        pipeline.on_block = self._on_block
        pipeline.on_cgroup = self.blocker.cgroup_created
        for blocked in self.blocker.records():
            if self.blocker.is_blocked(blocked.id):
                pipeline.expect_again(blocked.container)

    def verbs(self, find: Find) -> dict[str, Handler]:
        """What the control socket may ask of them."""
        return {
            **block_handlers(self.blocker, self.quarantine, find),
            **evidence_handlers(self.collector, find),
        }

    def status(self) -> dict[str, object]:
        """How much of everything there is."""
        return {
            "blocked": len(self.blocker.blocked_ids()),
            "quarantined": len(self.quarantine.records()),
            "sessions": len(self._pipeline.sessions.all()),
            "evidence": len(self.collector.store.entries()),
        }

    async def close(self) -> None:
        """Let what is under way end."""
        await self.blocker.close()
        await self.quarantine.close()

    def on_container(self, change: ContainerChange) -> None:
        """A container came, went or changed (``Registry``'s callback)."""
        self._pipeline.on_container(change)
        for watcher in self.watchers:
            watcher(change)
        # Changed: the first process of a container that was added while it was being started, say.
        if change.kind in ("added", "unresolved", "changed"):
            self.blocker.started(change.container)
            self.quarantine.started(change.container)

    def _control(self, container: Container) -> Control | None:
        return self._controls.get(container.runtime)

    def _strays(self, container: Container) -> list[int]:
        """Processes of a container that left its cgroup."""
        if not container.cgroup_id or cgroups.shares_host_mounts(container.pid):
            return []
        # The stamp alone would do, were it not that a wrong one kills somebody else's process.
        return [
            process.pid
            for process in self._pipeline.kernel.processes()
            if process.cgroup_id == container.cgroup_id
            and cgroups.share_mounts(process.pid, container.pid)
        ]

    def _protected(self, container: Container) -> str:
        rule = self._pipeline.policy.rule(container)
        return f"rule {rule.name} protects it" if rule.protected else ""

    def _on_block(self, container: Container, rule: Rule, audit: Audit) -> None:
        if rule.quarantine:
            self.quarantine.violation(container, audit, rule.name)
        else:
            self.blocker.violation(container, audit, rule.name, grace_seconds=rule.grace_seconds)

    def tell_held(self, watcher: Callable[[str, bool], None]) -> None:
        """Tell somebody which containers are blocked, now and from now on."""
        self._held_watchers.append(watcher)
        for identity in self.blocker.blocked_ids():
            watcher(identity, True)

    def _on_held(self, container_id: str, held: bool) -> None:
        """Let the kernel know whether a container may start.

        One that still runs goes on under its rule: it may have a while to end by itself.
        """
        for watcher in self._held_watchers:
            watcher(container_id, held)
        for blocked in self.blocker.records():
            if blocked.id == container_id:
                self._pipeline.expect_again(blocked.container)

    async def _take_evidence(self, container: Container, cause: BlockCause) -> str:
        rule = self._pipeline.policy.rule(container)
        pack = await self.collector.collect(
            container,
            reason=cause.reason,
            audit_ids=[audit.id for audit in cause.audits],
            rule=describe(rule) if cause.rule else None,
            filesystem=rule.evidence_filesystem,
            export_seconds=_EXPORT_SECONDS,
        )
        if not pack.id:
            raise HostError("; ".join(pack.missing))
        lacking = f"; without {', '.join(pack.missing)}" if pack.partial else ""
        return f"{pack.id} sha256:{pack.sha256}{lacking}"

    def _kept(self) -> set[str]:
        """Packs of containers that are still blocked stay."""
        return {b.evidence for b in self.blocker.records() if self.blocker.is_blocked(b.id)}

    def _collector(self, settings: Settings) -> Collector:
        store = EvidenceStore(
            settings.evidence_dir,
            quota=settings.evidence_quota,
            pack_max=settings.evidence_pack_max,
        )
        for identity in store.recover():
            _log.warning("evidence %s is partial: the daemon ended while it was taken", identity)
        pipeline = self._pipeline
        pipeline.recorder = recorder = FlightRecorder()

        def model(container: Container) -> bytes | None:
            models = pipeline.models
            known = models.model_of(container.id) or models.of_container(container)
            return export_bytes(known) if known is not None else None

        def audits(container: Container) -> list[dict[str, Any]]:
            query = AuditQuery(container=container.id, limit=_EVIDENCE_AUDITS)
            return [to_json(audit) for audit in pipeline.audits.query(query)]

        return Collector(
            store,
            self._control,
            recorder=recorder,
            sources=Sources(model, audits),
            seconds=settings.evidence_seconds,
            kept=self._kept,
        )
