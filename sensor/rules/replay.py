"""What a changed rule would have done: recorded audits, judged again."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from sensor.audits.audit import Audit, AuditType, Sensor
from sensor.containers.container import Container, Image
from sensor.events import Actor, Detection, Event, EventKind, Operation, Origin, WalkEnd
from sensor.models.keys import Program, written_paths
from sensor.paths import is_protected
from sensor.rules.policy import Policy
from sensor.rules.rule import Rule

_SHOWN = 20


@dataclass(slots=True)
class Outcome:
    """What became of the replayed audits."""

    audits: int = 0
    repeats: int = 0
    by_action: Counter[str] = field(default_factory=Counter)
    changed: Counter[tuple[str, str, str]] = field(default_factory=Counter)  # was, would be, what
    by_rule: Counter[str] = field(default_factory=Counter)
    unknown_digests: int = 0  # entries by sha256 could not be asked

    def as_dict(self) -> dict[str, Any]:
        """Plain values, the most frequent changes first."""
        return {
            "audits": self.audits,
            "occurrences": self.repeats,
            "would": dict(self.by_action),
            "rules": dict(self.by_rule),
            "changes": [
                {"was": was, "would_be": would, "what": what, "count": count}
                for (was, would, what), count in self.changed.most_common(_SHOWN)
            ],
            "changes_in_all": len(self.changed),
            "entries_by_content_not_judged": self.unknown_digests,
        }


def replay(audits: Iterable[Audit], policy: Policy, containers: dict[str, Container]) -> Outcome:
    """Judge recorded audits by other rules.

    What was silent then is not among them: a rule that denies what the model knows shows nothing
    here until it is tried. Containers that are gone are known by what their audits say of them.

    Args:
        audits: deviations, in any order.
        policy: the rules to try.
        containers: those that are known, by id.
    """
    outcome = Outcome()
    for audit in audits:
        if not audit.of_event:
            continue
        container = containers.get(audit.container_id) or _container_of(audit)
        rule = policy.rule(container)
        event = event_of(audit)
        action = _action(audit, event, rule, outcome)
        outcome.audits += 1
        outcome.repeats += audit.count
        outcome.by_action[action] += 1
        outcome.by_rule[rule.name] += 1
        if action != str(audit.action):
            what = f"{audit.container_name} {audit.type} {audit.path2 or audit.path}"
            outcome.changed[str(audit.action), action, what] += 1
    return outcome


def _action(audit: Audit, event: Event, rule: Rule, outcome: Outcome) -> str:
    lists = rule.lists
    if any(m.sha256 for m in (*lists.deny_programs, *lists.allow_programs)):
        outcome.unknown_digests += 1
    if lists.denies(event, _no_digest):
        is_exec = event.kind is EventKind.EXEC
        return str(rule.action(Detection.DENIED_PROGRAM if is_exec else Detection.DENIED_PATH))
    if event.kind is EventKind.EXEC:
        if lists.allowed_program(event, _no_digest):
            return "silent"
    else:
        acting = Program(event.program, event.applet)
        if all(lists.allowed_change(acting, p, o) for p, o in written_paths(event)):
            return "silent"
    return str(rule.action(_detection(audit)))


def _detection(audit: Audit) -> Detection:
    """What the audit would be without the entries of the rule that denied it then."""
    if audit.type in (AuditType.UNRESOLVED_OBJECT, AuditType.DENIED_PROGRAM, AuditType.DENIED_PATH):
        if audit.sensor is Sensor.PROCESS:
            return Detection.UNKNOWN_PROGRAM
        protected = is_protected(audit.path) or is_protected(audit.path2)
        return Detection.PROTECTED_WRITE if protected else Detection.UNKNOWN_WRITE
    return Detection[audit.type.name]


def _no_digest(_: Event) -> str:
    return ""


def event_of(audit: Audit) -> Event:
    """The event that an audit records, as far as rules look at it."""
    is_exec = audit.sensor is Sensor.PROCESS
    program, _, applet = audit.program.partition("#")
    caller, _, caller_applet = (audit.parents[0] if audit.parents else "").partition("#")
    return Event(
        EventKind.EXEC if is_exec else EventKind.FILE,
        audit.time_ns,
        0,
        Operation[audit.operation.upper()],
        path=audit.path,
        path2=audit.path2,
        program=caller if is_exec else program,
        applet=applet,
        program_applet=caller_applet if is_exec else "",
        argv=audit.argv,
        actor=Actor[audit.actor.upper()],
        origin=Origin[audit.origin.upper()] if audit.origin else Origin.UNKNOWN,
        walk_end=WalkEnd.ROOT,
    )


def _container_of(audit: Audit) -> Container:
    name, colon, tag = audit.image.rpartition(":")
    image = Image(name, tag) if colon and "/" not in tag else Image(audit.image)
    return Container(
        audit.container_id,
        audit.runtime,
        audit.container_name,
        image,
        namespace=audit.namespace,
        pod=audit.pod,
        pod_container=audit.pod_container,
    )
