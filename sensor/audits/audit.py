"""The durable record of a verdict and of what was done about it."""

from __future__ import annotations

import enum
from dataclasses import dataclass, field
from typing import Any

from sensor.containers.container import Container


class AuditType(enum.StrEnum):
    """What kind of deviation an audit records. Stable names: people filter by them."""

    UNKNOWN_PROGRAM = "unknown_program"
    UNKNOWN_PARENT = "unknown_parent"  # known program, started by a program that never did
    STARTUP_PROGRAM = "startup_program"  # known, but only while the service starts up
    UNKNOWN_ARGUMENTS = "unknown_arguments"  # a known interpreter, told to do something new
    CHANGED_PROGRAM = "changed_program"  # origin added, mount or tmpfs: dropped or modified
    MEMORY_PROGRAM = "memory_program"  # memfd or deleted
    EXEC_SESSION = "exec_session"  # somebody came in from outside
    UNKNOWN_WRITE = "unknown_write"
    PROTECTED_WRITE = "protected_write"  # programs, libraries, accounts, keys, cron, ld.so
    UNRESOLVED_OBJECT = "unresolved_object"  # the walk did not end at the container's root
    SETUID_PROGRAM = "setuid_program"  # unknown, and it raises privileges
    DENIED_PROGRAM = "denied_program"  # a rule names it
    DENIED_PATH = "denied_path"  # a rule names it
    CONTAINER_BLOCKED = "container_blocked"
    CONTAINER_UNBLOCKED = "container_unblocked"
    CONTAINER_QUARANTINED = "container_quarantined"
    CONTAINER_RELEASED = "container_released"  # from quarantine
    START_REFUSED = "start_refused"  # somebody started a blocked container
    SESSION_ALLOWED = "session_allowed"  # a person may do anything for a while
    SESSION_ENDED = "session_ended"
    RULES_CHANGED = "rules_changed"
    MODEL_SUSPECT = "model_suspect"  # more is new than the model promised; a person decides
    EVENTS_LOST = "events_lost"
    PROTECTION_FAILED = "protection_failed"  # what must be refused was tried, and was not
    VULNERABLE_IMAGE = "vulnerable_image"  # vulnerabilities that nobody was told of yet
    COMPLIANCE_FAILED = "compliance_failed"  # checks of how the container is configured
    UNTRUSTED_IMAGE = "untrusted_image"
    ADMISSION_FAILED = "admission_failed"  # a start could not be judged, or not in time
    FEED_STALE = "feed_stale"  # advisories are older than they may be


class Sensor(enum.StrEnum):
    """Which sensor saw it."""

    PROCESS = "process"
    FILESYSTEM = "filesystem"
    IMAGE = "image"  # what a container consists of and how it is configured
    SELF = "self"  # Rote about itself


class Action(enum.StrEnum):
    """What the rule asks for."""

    IGNORE = "ignore"
    ALERT = "alert"
    PREVENT = "prevent"
    BLOCK = "block"


class Guarantee(enum.StrEnum):
    """What this host can really do (design.md section 2)."""

    DENY = "deny"
    KILL = "kill"
    DETECT = "detect"


class Severity(enum.IntEnum):
    """How much it matters; the numbers are OCSF's severity_id."""

    INFO = 1
    LOW = 2
    MEDIUM = 3
    HIGH = 4
    CRITICAL = 5


@dataclass(frozen=True, slots=True)
class Step:
    """One step of a response, and what became of it."""

    name: str  # "freeze", "evidence", "restart policy", "stop", …
    result: str  # "done", "failed", "skipped"
    detail: str = ""  # why, or what: one line
    seconds: float = 0.0  # how long it took


@dataclass(slots=True)
class Audit:
    """One deviation. ``id`` is 0 until the store has given it one.

    Times are nanoseconds since the epoch. Paths as in ``sensor.events``.
    """

    time_ns: int  # first occurrence
    host: str
    container_id: str
    container_name: str
    image: str  # as people write it: "nginx:1.25"
    sensor: Sensor
    type: AuditType
    severity: Severity
    model_id: str
    model_state: str  # "learning", "dry-run", "active", …
    action: Action
    guarantee: Guarantee
    program: str = ""  # acting program, "#applet" appended for multi-call binaries
    parents: tuple[str, ...] = ()  # nearest first
    path: str = ""
    path2: str = ""
    operation: str = ""  # lower case name of sensor.events.Operation
    origin: str = ""  # lower case name of sensor.events.Origin
    argv: tuple[str, ...] = ()  # scrubbed of secrets
    cwd: str = ""
    uid: int = 0
    gid: int = 0
    pid: int = 0
    actor: str = "service"
    rule: str = "default"
    outcome: str = "observed"  # "observed", "denied", "killed"; would-… while in dry run
    errno: int = 0
    signal: int = 0
    technique: tuple[str, ...] = ()  # MITRE ATT&CK ids, where known
    namespace: str = ""
    pod: str = ""
    pod_container: str = ""
    runtime: str = ""
    remarks: tuple[str, ...] = ()  # "path truncated", "by name", …
    count: int = 1
    last_ns: int = 0  # last occurrence; equals time_ns for a single one
    id: int = 0
    extra: dict[str, str] = field(default_factory=dict)
    keys: tuple[str, ...] = ()  # that would make it known: sensor.models.files.key_text
    steps: tuple[Step, ...] = ()  # of a response that has several
    sequence: int = 0  # newest entry of the hash chain about it; 0 until it is stored
    hash: str = ""  # of that entry, 64 hex digits

    @property
    def of_event(self) -> bool:
        """Whether something that a container did led to it."""
        return self.sensor in (Sensor.PROCESS, Sensor.FILESYSTEM)

    def identity(self) -> tuple[object, ...]:
        """What makes two audits repeats of one another within the window."""
        return (
            self.container_id,
            self.type,
            self.program,
            self.path,
            self.path2,
            self.operation,
            self.origin,
            self.actor,
            self.uid,
            self.outcome,
            self.parents[:1],
            self.time_ns if self.steps else 0,  # what was done is never a repeat
            # Where the arguments are the deviation, others are another one.
            self.argv if self.type is AuditType.UNKNOWN_ARGUMENTS else (),
            self.extra.get("found", ""),
        )


def audit_about(
    container: Container,
    kind: AuditType,
    severity: Severity,
    time_ns: int,
    guarantee: Guarantee,
    *,
    sensor: Sensor = Sensor.SELF,
    action: Action = Action.ALERT,
    **more: Any,
) -> Audit:
    """An audit of what Rote itself, or a person through it, did to a container, or found of it.

    Args:
        container: which.
        kind: what it is about.
        severity: how much it matters.
        time_ns: nanoseconds since the epoch.
        guarantee: what this host can do.
        sensor: who saw it.
        action: what a rule asks for.
        more: other fields of ``Audit``.
    """
    return Audit(
        time_ns=time_ns,
        last_ns=time_ns,
        host=more.pop("host", ""),
        container_id=container.id,
        container_name=container.name,
        image=container.image.reference,
        sensor=sensor,
        type=kind,
        severity=severity,
        model_id=more.pop("model_id", ""),
        model_state=more.pop("model_state", ""),
        action=action,
        guarantee=guarantee,
        namespace=container.namespace,
        pod=container.pod,
        pod_container=container.pod_container,
        runtime=container.runtime,
        **more,
    )
