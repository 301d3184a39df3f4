"""The record of one container that was taken out of service."""

from __future__ import annotations

import enum
from dataclasses import dataclass, field, fields
from typing import Any

from sensor.audits.audit import Audit, Step
from sensor.containers.container import Container, Image
from sensor.containers.runtime import RestartPolicy

_CAUSES_MAX = 16  # audits that are named as causes; more are only counted
_CONTAINER_FIELDS = (
    "id", "runtime", "name", "namespace", "pod", "pod_container", "cgroup_path", "cgroup_id", "pid",
)  # fmt: skip


class BlockState(enum.StrEnum):
    """What has become of a block."""

    BLOCKING = "blocking"  # not all of it is done yet
    BLOCKED = "blocked"
    ORCHESTRATED = "orchestrated"  # stopped; whether a fresh one comes is the orchestrator's
    UNBLOCKED = "unblocked"


# In these a container may not run.
HELD = (BlockState.BLOCKING, BlockState.BLOCKED)


@dataclass(slots=True)
class BlockCause:
    """Why a container is to be blocked.

    ``audits`` get their ids when they are stored, which may be after the block began.
    """

    reason: str  # one line, for people
    rule: str = ""  # of the rule that asked for it; empty: a person did
    audits: list[Audit] = field(default_factory=list)


@dataclass(slots=True)
class Blocked:
    """One container that is, or was, blocked. Times are seconds since the epoch."""

    container: Container
    reason: str
    rule: str
    blocked_at: float
    state: BlockState = BlockState.BLOCKING
    grace_seconds: float = 0.0
    with_evidence: bool = True
    causes: list[Audit] = field(default_factory=list)  # of this daemon's time
    cause_ids: tuple[int, ...] = ()  # of earlier ones
    steps: tuple[Step, ...] = ()
    violations: int = 0  # that asked for the block, the first included
    starts_refused: int = 0
    evidence: str = ""  # id of the evidence pack
    orchestrator: str = ""
    restart_policy: RestartPolicy | None = None  # what it was; None: not asked, or changed, yet
    policy_changed: bool = False
    finished_at: float = 0.0
    unblocked_at: float = 0.0

    @property
    def id(self) -> str:
        """The container's."""
        return self.container.id

    def audit_ids(self) -> tuple[int, ...]:
        """Ids of the audits that led to it, as far as they are stored."""
        fresh = (audit.id for audit in self.causes if audit.id)
        return tuple(dict.fromkeys((*self.cause_ids, *fresh)))[:_CAUSES_MAX]

    def count(self, audit: Audit | None) -> None:
        """One more violation."""
        self.violations += 1
        if audit is not None and len(self.causes) + len(self.cause_ids) < _CAUSES_MAX:
            self.causes.append(audit)

    def done(self, name: str) -> bool:
        """Whether a step has succeeded."""
        return any(step.name == name and step.result == "done" for step in self.steps)

    def to_values(self) -> dict[str, Any]:
        """As plain values, to be stored or shown."""
        policy = self.restart_policy
        return {
            "container": container_values(self.container),
            "reason": self.reason,
            "rule": self.rule,
            "blocked_at": self.blocked_at,
            "state": str(self.state),
            "grace_seconds": self.grace_seconds,
            "with_evidence": self.with_evidence,
            "cause_ids": list(self.audit_ids()),
            "steps": [[s.name, s.result, s.detail, s.seconds] for s in self.steps],
            "violations": self.violations,
            "starts_refused": self.starts_refused,
            "evidence": self.evidence,
            "orchestrator": self.orchestrator,
            "restart_policy": [policy.name, policy.maximum_retries] if policy else None,
            "policy_changed": self.policy_changed,
            "finished_at": self.finished_at,
            "unblocked_at": self.unblocked_at,
        }

    @classmethod
    def from_values(cls, values: dict[str, Any]) -> Blocked:
        """From what ``to_values`` made."""
        rest = dict(values)
        policy = rest.pop("restart_policy")
        return cls(
            container=container_from_values(rest.pop("container")),
            state=BlockState(rest.pop("state")),
            cause_ids=tuple(rest.pop("cause_ids")),
            steps=tuple(Step(*step) for step in rest.pop("steps")),
            restart_policy=RestartPolicy(*policy) if policy else None,
            **rest,
        )


def container_values(container: Container) -> dict[str, Any]:
    """What has to be known of a container to act on it later, as plain values."""
    return {name: getattr(container, name) for name in _CONTAINER_FIELDS} | {
        "image": {f.name: getattr(container.image, f.name) for f in fields(Image)},
        "labels": dict(container.labels),
    }


def container_from_values(values: dict[str, Any]) -> Container:
    """From what ``container_values`` made."""
    return Container(**{**values, "image": Image(**values["image"])})
