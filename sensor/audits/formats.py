"""How audits look: JSON with stable names, OCSF, a line, a page.

What a container chose (paths, arguments, names) is escaped wherever a person reads it, so that a
file name can neither break a line nor send commands to a terminal.
"""

from __future__ import annotations

import time
from typing import Any

from sensor import __version__
from sensor.audits.audit import Audit, AuditType, Sensor, Step
from sensor.audits.mitre import TECHNIQUES

_TITLES = {
    AuditType.UNKNOWN_PROGRAM: "executed a program that its model does not know",
    AuditType.UNKNOWN_PARENT: "executed a known program from one that never did",
    AuditType.CHANGED_PROGRAM: "executed a program that was written or changed at run time",
    AuditType.MEMORY_PROGRAM: "executed a program that has no file",
    AuditType.EXEC_SESSION: "was entered from outside",
    AuditType.UNKNOWN_WRITE: "changed a file that its model does not know",
    AuditType.PROTECTED_WRITE: "changed a protected file",
    AuditType.UNRESOLVED_OBJECT: "used an object outside its own file system",
    AuditType.SETUID_PROGRAM: "executed an unknown program that raises privileges",
    AuditType.DENIED_PROGRAM: "executed a program that a rule denies",
    AuditType.DENIED_PATH: "changed a file that a rule denies",
    AuditType.CONTAINER_BLOCKED: "was taken out of service",
    AuditType.CONTAINER_UNBLOCKED: "may run again",
    AuditType.CONTAINER_QUARANTINED: "was cut off from the network",
    AuditType.CONTAINER_RELEASED: "has its network again",
    AuditType.START_REFUSED: "was started although it is blocked",
    AuditType.SESSION_ALLOWED: "may be worked in by hand",
    AuditType.SESSION_ENDED: "may no longer be worked in by hand",
    AuditType.RULES_CHANGED: "is judged by other rules",
    AuditType.EVENTS_LOST: "did more than could be handed over",
    AuditType.PROTECTION_FAILED: "no longer refuses what it must",
}
COLUMNS = ("id", "time", "severity", "container", "type", "what", "by", "count", "outcome")


def escape(text: str) -> str:
    """Text that is safe to print: control characters and odd bytes as ``\\xNN`` or ``\\uNNNN``."""
    if text.isprintable():
        return text
    out = []
    for char in text:
        if char.isprintable():
            out.append(char)
        elif 0xDC80 <= ord(char) <= 0xDCFF:  # a byte that is no UTF-8 (surrogateescape)
            out.append(f"\\x{ord(char) - 0xDC00:02x}")
        elif ord(char) < 0x100:
            out.append(f"\\x{ord(char):02x}")
        else:
            out.append(f"\\u{ord(char):04x}")
    return "".join(out)


def when(time_ns: int) -> str:
    """Local time to the second, with the offset from UTC."""
    return time.strftime("%Y-%m-%d %H:%M:%S%z", time.localtime(time_ns / 1e9))


def iso(time_ns: int) -> str:
    """UTC to the microsecond, as RFC 3339 writes it."""
    seconds, rest = divmod(time_ns, 10**9)
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(seconds)) + f".{rest // 1000:06d}Z"


def command_line(audit: Audit) -> str:
    """The arguments, quoted where a shell would need it, escaped."""
    return " ".join(
        f"'{escape(a)}'" if not a or any(c.isspace() for c in a) else escape(a) for a in audit.argv
    )


def subject(audit: Audit) -> str:
    """What was executed or changed, in one word or two."""
    if audit.sensor is Sensor.PROCESS:
        return escape(audit.program)
    if audit.path2:
        return f"{escape(audit.path)} → {escape(audit.path2)}"
    return escape(audit.path)


def to_json(audit: Audit) -> dict[str, Any]:
    """Our own stable fields. Times are RFC 3339 in UTC; odd bytes are escaped."""
    return {
        "id": audit.id,
        "time": iso(audit.time_ns),
        "last_time": iso(audit.last_ns),
        "count": audit.count,
        "severity": audit.severity.name.lower(),
        "type": str(audit.type),
        "sensor": str(audit.sensor),
        "host": escape(audit.host),
        "runtime": audit.runtime,
        "container_id": escape(audit.container_id),
        "container": escape(audit.container_name),
        "image": escape(audit.image),
        "namespace": escape(audit.namespace),
        "pod": escape(audit.pod),
        "pod_container": escape(audit.pod_container),
        "program": escape(audit.program),
        "parents": [escape(p) for p in audit.parents],
        "argv": [escape(a) for a in audit.argv],
        "cwd": escape(audit.cwd),
        "pid": audit.pid,
        "uid": audit.uid,
        "gid": audit.gid,
        "actor": audit.actor,
        "operation": audit.operation,
        "path": escape(audit.path),
        "path2": escape(audit.path2),
        "origin": audit.origin,
        "model": escape(audit.model_id),
        "model_state": audit.model_state,
        "rule": escape(audit.rule),
        "action": str(audit.action),
        "guarantee": str(audit.guarantee),
        "outcome": audit.outcome,
        "errno": audit.errno,
        "signal": audit.signal,
        "technique": list(audit.technique),
        "remarks": list(audit.remarks),
        **({"extra": audit.extra} if audit.extra else {}),
        **({"steps": [_step(step) for step in audit.steps]} if audit.steps else {}),
    }


def _step(step: Step) -> dict[str, Any]:
    return {
        "step": step.name,
        "result": step.result,
        "detail": escape(step.detail),
        "seconds": round(step.seconds, 4),
    }


def to_ocsf(audit: Audit) -> dict[str, Any]:
    """OCSF 1.3 Detection Finding (class 2004), our own fields under ``unmapped.rote``."""
    process = {
        "pid": audit.pid,
        "cmd_line": command_line(audit),
        "file": {"path": escape(audit.program), "name": _name(audit.program), "type_id": 1},
        "user": {"uid": str(audit.uid)},
    }
    evidence: dict[str, Any] = {"process": process}
    if audit.sensor is Sensor.FILESYSTEM:
        evidence["file"] = {"path": escape(audit.path), "name": _name(audit.path), "type_id": 1}
    return {
        "class_uid": 2004,
        "class_name": "Detection Finding",
        "category_uid": 2,
        "category_name": "Findings",
        "activity_id": 1 if audit.count == 1 else 2,
        "type_uid": 200401 if audit.count == 1 else 200402,
        "severity_id": int(audit.severity),
        "severity": audit.severity.name.title(),
        "status_id": 1,
        "time": audit.time_ns // 10**6,
        "start_time": audit.time_ns // 10**6,
        "end_time": audit.last_ns // 10**6,
        "count": audit.count,
        "message": one_line(audit),
        "metadata": {
            "version": "1.3.0",
            "uid": str(audit.id),
            "product": {"name": "Rote", "vendor_name": "Rote", "version": __version__},
        },
        "finding_info": {
            "uid": f"{audit.host}/{audit.id}",
            "title": f"Container {_TITLES[audit.type]}",
            "types": [str(audit.type)],
            "created_time": audit.time_ns // 10**6,
            "attacks": [
                {"technique": {"uid": uid, "name": TECHNIQUES.get(uid, "")}}
                for uid in audit.technique
            ],
        },
        "evidences": [evidence],
        "resources": [
            {
                "type": "container",
                "uid": escape(audit.container_id),
                "name": escape(audit.container_name),
                "data": {"image": escape(audit.image)},
            }
        ],
        "device": {"hostname": escape(audit.host), "type_id": 1},
        "unmapped": {"rote": to_json(audit)},
    }


def _name(path: str) -> str:
    return escape(path.rpartition("/")[2])


def one_line(audit: Audit) -> str:
    """The audit in one line, for terminals and journals."""
    by = f" by {escape(audit.program)}" if audit.sensor is Sensor.FILESYSTEM else ""
    if audit.sensor is Sensor.PROCESS and audit.parents:
        by = f" by {escape(audit.parents[0])}"
    if audit.sensor is Sensor.SELF:
        return (
            f"{audit.severity.name:8} {escape(audit.container_name)} {_TITLES[audit.type]}: "
            + ", ".join(f"{key} {value}" for key, value in audit.extra.items())
        )
    times = f", {audit.count} times" if audit.count > 1 else ""
    return (
        f"{audit.severity.name:8} {escape(audit.container_name or audit.container_id[:12])} "
        f"{_TITLES[audit.type]}: {subject(audit)} ({audit.operation}){by}"
        f" [{audit.outcome}, audit {audit.id}]{times}"
    )


def row(audit: Audit) -> tuple[str, ...]:
    """The cells of COLUMNS."""
    by = audit.parents[0] if audit.sensor is Sensor.PROCESS and audit.parents else audit.program
    return (
        str(audit.id),
        when(audit.last_ns),
        audit.severity.name.lower(),
        escape(audit.container_name or audit.container_id[:12]),
        str(audit.type),
        subject(audit),
        escape(by),
        str(audit.count),
        audit.outcome,
    )


def render(audit: Audit) -> str:
    """The audit as a page for a person: what, where, by whom, what was done, what to do."""
    chain = " ← ".join(escape(p) for p in (audit.program, *audit.parents) if p)
    where = escape(audit.container_name or audit.container_id[:12])
    lines = [
        f"Audit {audit.id}   {audit.severity.name}   {when(audit.time_ns)}",
        f"  Container {where} ({escape(audit.image)}) {_TITLES[audit.type]}.",
        "",
        f"  what       {audit.operation.replace('_', ' ')} {subject(audit)}",
    ]

    def line(name: str, text: str) -> None:
        if text:
            lines.append(f"  {name:<10} {text}")

    line("command", command_line(audit))
    line("in", escape(audit.cwd))
    line("chain", chain)
    line("as", f"uid {audit.uid}, gid {audit.gid}, pid {audit.pid}, {audit.actor}")
    line("origin", audit.origin if audit.sensor is Sensor.PROCESS else "")
    pod = f"{audit.namespace}/{audit.pod}/{audit.pod_container}" if audit.pod else ""
    line("pod", escape(pod))
    line("model", f"{audit.model_state}   rule {escape(audit.rule)} → {audit.action}")
    line("outcome", f"{audit.outcome}   (this host can {audit.guarantee})")
    if audit.count > 1:
        line("times", f"{audit.count}, last {when(audit.last_ns)}")
    line("technique", ", ".join(f"{t} {TECHNIQUES.get(t, '')}".rstrip() for t in audit.technique))
    line("remarks", "; ".join(audit.remarks))
    for key, value in audit.extra.items():
        line(key, escape(value))
    for step in audit.steps:
        line(step.name, f"{step.result} in {step.seconds:.3f} s  {escape(step.detail)}".rstrip())
    lines.append("")
    lines.append(
        f"  If this is what {escape(audit.image) or 'the container'} should do:  "
        f"rote models extend {escape(audit.image)}"
    )
    return "\n".join(lines)
