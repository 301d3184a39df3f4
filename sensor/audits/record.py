"""From a novel event to an audit."""

from __future__ import annotations

from sensor.audits.audit import Action, Audit, AuditType, Guarantee, Sensor, Severity
from sensor.audits.mitre import techniques
from sensor.audits.scrub import scrub_argv
from sensor.containers.container import Container
from sensor.events import Event, EventFlag, EventKind, WalkEnd
from sensor.models.keys import Program

_SEVERITY = {
    AuditType.UNKNOWN_PROGRAM: Severity.HIGH,
    AuditType.UNKNOWN_PARENT: Severity.MEDIUM,
    AuditType.STARTUP_PROGRAM: Severity.MEDIUM,
    AuditType.UNKNOWN_ARGUMENTS: Severity.MEDIUM,
    AuditType.CHANGED_PROGRAM: Severity.CRITICAL,
    AuditType.MEMORY_PROGRAM: Severity.CRITICAL,
    AuditType.EXEC_SESSION: Severity.MEDIUM,
    AuditType.UNKNOWN_WRITE: Severity.MEDIUM,
    AuditType.PROTECTED_WRITE: Severity.HIGH,
    AuditType.UNRESOLVED_OBJECT: Severity.HIGH,
    AuditType.SETUID_PROGRAM: Severity.CRITICAL,
    AuditType.DENIED_PROGRAM: Severity.HIGH,
    AuditType.DENIED_PATH: Severity.HIGH,
    AuditType.MODEL_SUSPECT: Severity.HIGH,
    AuditType.EVENTS_LOST: Severity.HIGH,
    AuditType.PROTECTION_FAILED: Severity.CRITICAL,
}
_REMARKS = {
    EventFlag.PATH_TRUNCATED: "the path is not whole",
    EventFlag.PATH2_TRUNCATED: "the second path is not whole",
    EventFlag.ARGV_TRUNCATED: "the arguments are not whole",
    EventFlag.PROGRAM_TRUNCATED: "the program's path is not whole",
    EventFlag.DELETED: "the object has no name any more",
    EventFlag.SETUID: "the program raises privileges",
    EventFlag.TTY: "at a terminal",
    EventFlag.ON_ERROR: "the model knows this; refused, because the kernel could not tell",
    EventFlag.LEFTOVER: "open since before prevention began: each write through it is refused",
    EventFlag.MAPPED: "as a shared mapping: what is written to it cannot be refused",
}


def audit_from_event(
    event: Event,
    container: Container,
    kind: AuditType,
    *,
    model_id: str,
    model_state: str,
    rule: str,
    action: Action,
    guarantee: Guarantee,
    host: str,
    would: bool = False,
    parents: tuple[str, ...] = (),
    severity: Severity | None = None,
) -> Audit:
    """The audit of one novel event.

    Args:
        event: what happened.
        container: where.
        kind: what kind of deviation it is.
        model_id: of the model it deviates from.
        model_state: the model's state at that moment.
        rule: name of the rule that decided.
        action: what the rule asks for.
        guarantee: what this host can really do.
        host: name of this host.
        would: the model is in its dry run, so nothing was done but this record.
        parents: programs above the acting one, nearest first.
        severity: instead of the type's own.
    """
    is_exec = event.kind is EventKind.EXEC
    if is_exec:
        program = Program(event.path, event.applet)
        caller = str(Program(event.program, event.program_applet))
        parents = ((caller,) if caller else ()) + parents
    else:
        program = Program(event.program, event.applet)
    outcome = {"none": "observed"}.get(event.action, event.action)
    return Audit(
        time_ns=event.time_ns,
        last_ns=event.time_ns,
        host=host,
        container_id=container.id,
        container_name=container.name,
        image=container.image.reference,
        sensor=Sensor.PROCESS if is_exec else Sensor.FILESYSTEM,
        type=kind,
        severity=severity or _SEVERITY[kind],
        model_id=model_id,
        model_state=model_state,
        action=action,
        guarantee=guarantee,
        program=str(program),
        parents=parents,
        path=event.path,
        path2=event.path2,
        operation=event.operation.name.lower(),
        origin=event.origin.name.lower(),
        argv=scrub_argv(event.argv),
        cwd=event.cwd,
        uid=event.uid,
        gid=event.gid,
        pid=event.pid,
        actor=event.actor.name.lower(),
        rule=rule,
        outcome=f"would-{action}" if would else outcome,
        errno=event.errno,
        technique=techniques(event, kind),
        namespace=container.namespace,
        pod=container.pod,
        pod_container=container.pod_container,
        runtime=container.runtime,
        remarks=_remarks(event),
        count=event.repeat,
    )


def _remarks(event: Event) -> tuple[str, ...]:
    found = [text for flag, text in _REMARKS.items() if event.flags & flag]
    if event.flags & EventFlag.MAPPED:
        found.remove(_REMARKS[EventFlag.LEFTOVER])
    if event.action == "killed" and not event.flags & EventFlag.KILLED:
        found.append("killed after it had happened")
    if event.walk_end is WalkEnd.BY_NAME:
        found.append("by the name the caller gave; symbolic links are not followed")
    elif event.walk_end not in (WalkEnd.ROOT, WalkEnd.NONE):
        found.append(f"the object lies outside: {event.walk_end.name.lower().replace('_', ' ')}")
    return tuple(found)
