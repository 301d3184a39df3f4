"""Our own JSON: stable names, one schema (``docs/audit.schema.json``)."""

from __future__ import annotations

from typing import Any

from sensor.audits.audit import Action, Audit, AuditType, Guarantee, Sensor, Severity, Step
from sensor.audits.text import escape, iso


def to_json(audit: Audit) -> dict[str, Any]:
    """Our own stable fields. Times are RFC 3339 in UTC; odd bytes are escaped."""
    return {
        "id": audit.id,
        "sequence": audit.sequence,
        "hash": audit.hash,
        "time": iso(audit.time_ns),
        "last_time": iso(audit.last_ns or audit.time_ns),
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
        "remarks": [escape(remark) for remark in audit.remarks],
        **({"keys": [escape(key) for key in audit.keys]} if audit.keys else {}),
        **({"extra": extra_json(audit)} if audit.extra else {}),
        **({"steps": [step_json(step) for step in audit.steps]} if audit.steps else {}),
    }


def extra_json(audit: Audit) -> dict[str, str]:
    """What only this type of audit says, escaped."""
    return {escape(key): escape(value) for key, value in audit.extra.items()}


def step_json(step: Step) -> dict[str, Any]:
    """One step of a response."""
    return {
        "step": step.name,
        "result": step.result,
        "detail": escape(step.detail),
        "seconds": round(step.seconds, 4),
    }


_TEXT = {"type": "string"}
_TEXTS = {"type": "array", "items": _TEXT}
_NUMBER = {"type": "integer", "minimum": 0}
_TIME = {"type": "string", "pattern": r"^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z$"}


def _one_of(values: type[AuditType | Sensor | Action | Guarantee]) -> dict[str, Any]:
    return {"enum": [str(value) for value in values]}


_STEP = {
    "type": "object",
    "additionalProperties": False,
    "required": ["step", "result", "detail", "seconds"],
    "properties": {
        "step": _TEXT,
        "result": _TEXT,
        "detail": _TEXT,
        "seconds": {"type": "number", "minimum": 0},
    },
}
# name → what a reader may rely on, and what it means
_FIELDS: dict[str, tuple[dict[str, Any], str]] = {
    "id": (_NUMBER, "Number of the audit in its host's store; 0: not stored."),
    "sequence": (_NUMBER, "Number of the newest entry of the hash chain about it; 0: not stored."),
    "hash": (
        {"type": "string", "pattern": "^([0-9a-f]{64})?$"},
        "Hash of that entry: SEQUENCE:HASH is a head for `rote audits verify --head`.",
    ),
    "time": (_TIME, "First occurrence, UTC."),
    "last_time": (_TIME, "Last occurrence, UTC."),
    "count": ({"type": "integer", "minimum": 1}, "How often."),
    "severity": ({"enum": [s.name.lower() for s in Severity]}, "How much it matters."),
    "type": (_one_of(AuditType), "What kind of deviation."),
    "sensor": (_one_of(Sensor), "Which sensor saw it; self: Rote about itself."),
    "host": (_TEXT, "Name of the host."),
    "runtime": (_TEXT, "The container's runtime."),
    "container_id": (_TEXT, "As the runtime says it."),
    "container": (_TEXT, "Its name."),
    "image": (_TEXT, "As people write it."),
    "namespace": (_TEXT, "Of the pod."),
    "pod": (_TEXT, "The pod, where there is one."),
    "pod_container": (_TEXT, "The container's name in the pod."),
    "program": (_TEXT, 'The acting program, with "#applet"; of an execution the new one.'),
    "parents": (_TEXTS, "Programs above it, nearest first."),
    "argv": (_TEXTS, "Arguments, secrets masked."),
    "cwd": (_TEXT, "Working directory."),
    "pid": (_NUMBER, "As the host says it."),
    "uid": (_NUMBER, "User."),
    "gid": (_NUMBER, "Group."),
    "actor": (_TEXT, "service, session or probe."),
    "operation": (_TEXT, "What was done."),
    "path": (_TEXT, "To what."),
    "path2": (_TEXT, "The new name of a rename or link."),
    "origin": (_TEXT, "Where the object's content comes from."),
    "model": (_TEXT, "Which model judged."),
    "model_state": (_TEXT, "In which state it was."),
    "rule": (_TEXT, "Which rule decided."),
    "action": (_one_of(Action), "What the rule asks for."),
    "guarantee": (_one_of(Guarantee), "What this host can do."),
    "outcome": (_TEXT, "What was done."),
    "errno": ({"type": "integer"}, "What the process saw, when it was denied."),
    "signal": (_NUMBER, "Which signal the process got, when it was killed."),
    "technique": (
        {"type": "array", "items": {"type": "string", "pattern": r"^T\d{4}(\.\d{3})?$"}},
        "MITRE ATT&CK.",
    ),
    "remarks": (_TEXTS, "What a reader should know besides."),
    "keys": (
        _TEXTS,
        "What the model would have to know, as JSON: for `rote models accept`; absent when empty.",
    ),
    "extra": (
        {"type": "object", "additionalProperties": _TEXT},
        "What only this type says; absent when empty.",
    ),
    "steps": ({"type": "array", "items": _STEP}, "Of a response; absent when there are none."),
}


def audit_schema() -> dict[str, Any]:
    """The JSON Schema (draft 2020-12) of what ``to_json`` returns.

    It is closed: a field that it does not name is a mistake of ours. Readers should nevertheless
    pass over fields they do not know, for a later version may add some.
    """
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "Rote audit",
        "description": "One audit as `rote audits list -o jsonl` and channels write it. Control "
        "characters and bytes that are no UTF-8 appear as \\xNN or \\uNNNN in every text.",
        "type": "object",
        "additionalProperties": False,
        "required": [name for name in _FIELDS if name not in ("keys", "extra", "steps")],
        "properties": {
            name: {**kind, "description": meaning} for name, (kind, meaning) in _FIELDS.items()
        },
    }
