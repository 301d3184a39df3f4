"""How audits look to people: a line, a row, a page.

What a container chose (paths, arguments, names) is escaped wherever a person reads it, so that a
file name can neither break a line nor send commands to a terminal. What machines read
(``formats``) is escaped in the same way.
"""

from __future__ import annotations

import time

from sensor.audits.acceptance import why_not
from sensor.audits.audit import Audit, AuditType, Sensor
from sensor.audits.mitre import TECHNIQUES

TITLES = {  # after "Container NAME"
    AuditType.UNKNOWN_PROGRAM: "executed a program that its model does not know",
    AuditType.UNKNOWN_PARENT: "executed a known program from one that never did",
    AuditType.STARTUP_PROGRAM: "executed a program of the start-up after it",
    AuditType.UNKNOWN_ARGUMENTS: "executed a known interpreter in a way that is not known",
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
    AuditType.MODEL_SUSPECT: "does more that is new than its model promised",
    AuditType.EVENTS_LOST: "did more than could be handed over",
    AuditType.PROTECTION_FAILED: "no longer refuses what it must",
    AuditType.VULNERABLE_IMAGE: "has an image with vulnerabilities",
    AuditType.COMPLIANCE_FAILED: "is configured in a way that checks find fault with",
    AuditType.UNTRUSTED_IMAGE: "has an image that no rule trusts",
    AuditType.ADMISSION_FAILED: "was started and could not be judged",
    AuditType.FEED_STALE: "is judged by advisories that are older than they may be",
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


def what_to_do(audit: Audit) -> str:
    """What a person does about behaviour that is right."""
    if why := why_not(audit):
        return f"This cannot be accepted: {escape(why)}"
    return (
        f"If this is what {escape(audit.image) or 'the container'} should do:  "
        f"rote models accept {audit.id}"
    )


def one_line(audit: Audit) -> str:
    """The audit in one line, for terminals and journals."""
    by = f" by {escape(audit.program)}" if audit.sensor is Sensor.FILESYSTEM else ""
    if audit.sensor is Sensor.PROCESS and audit.parents:
        by = f" by {escape(audit.parents[0])}"
    if not audit.of_event:
        return (
            f"{audit.severity.name:8} {escape(audit.container_name)} {TITLES[audit.type]}: "
            + ", ".join(f"{escape(key)} {escape(value)}" for key, value in audit.extra.items())
        )
    times = f", {audit.count} times" if audit.count > 1 else ""
    return (
        f"{audit.severity.name:8} {escape(audit.container_name or audit.container_id[:12])} "
        f"{TITLES[audit.type]}: {subject(audit)} ({audit.operation}){by}"
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
        f"  Container {where} ({escape(audit.image)}) {TITLES[audit.type]}.",
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
        line(escape(key), escape(value))
    for step in audit.steps:
        line(step.name, f"{step.result} in {step.seconds:.3f} s  {escape(step.detail)}".rstrip())
    lines.append("")
    if audit.sensor in (Sensor.PROCESS, Sensor.FILESYSTEM) and audit.model_id:
        lines.append(f"  {what_to_do(audit)}")
    return "\n".join(lines)
