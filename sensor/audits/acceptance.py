"""Whether what an audit records can become known, and what a model would have to know for it."""

from __future__ import annotations

from sensor.audits.audit import Audit, AuditType, Sensor
from sensor.errors import UsageError
from sensor.models.files import key_from_text
from sensor.models.keys import Key


def accepted_keys(audit: Audit) -> list[Key]:
    """The keys that make it known.

    Args:
        audit: that a person accepts.

    Raises:
        UsageError: it can never be accepted; says why, and which rule would do.
        ModelFileError: its keys were written by another version.
    """
    if not audit.of_event:
        raise UsageError(
            f"audit {audit.id}: {audit.type} is about nothing that the container "
            "did; there is nothing to accept"
        )
    if why := why_not(audit):
        raise UsageError(f"audit {audit.id}: cannot be accepted: {why}")
    return [key_from_text(text, f"audit {audit.id}") for text in audit.keys]


def why_not(audit: Audit) -> str:
    """Why an audit cannot be accepted, and what can be done instead; "" when it can."""
    is_exec = audit.sensor is Sensor.PROCESS
    if audit.type in (AuditType.DENIED_PROGRAM, AuditType.DENIED_PATH):
        return (
            f"rule {audit.rule} denies {audit.extra.get('denied_by', 'it')}, and that counts "
            "before the model; change that rule"
        )
    if audit.type is AuditType.MEMORY_PROGRAM:
        return (
            "the program has no file, so that nothing says what it is; no rule allows it: one "
            "that says `processes: {memory_program: ignore}` is silent about it"
        )
    if audit.type is AuditType.CHANGED_PROGRAM:
        return (
            "the program was written or changed at run time, so that its path does not say what "
            "it is; where that is what the image is for: rote models allow-writes-and-executes, "
            f"or a rule that says `processes: {{allow: [{{path: {audit.path}, added: true}}]}}`"
        )
    if not audit.keys:
        reason = audit.extra.get("not_learnable") or "an earlier Rote recorded it, without its keys"
        section = "processes" if is_exec else "filesystem"
        return (
            f"{reason}; no key and no allow list can name it: a rule can only choose what it "
            f"leads to, as in `{section}: {{unknown_{'program' if is_exec else 'write'}: ignore}}`"
        )
    if audit.actor == "session" and not is_exec:
        return (
            "a session did it, and a key would let the service do it as well; use `rote session "
            f"allow`, or a rule that says `filesystem: {{allow: [{{path: {audit.path}, "
            f"by: {audit.program}}}]}}`"
        )
    return ""
