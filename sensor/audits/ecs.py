"""Audits in the Elastic Common Schema.

Source: ECS 9.4. What it has no field for lies under ``rote``.
"""

from __future__ import annotations

from typing import Any

from sensor import __version__
from sensor.audits.audit import Audit, AuditType, Sensor, Severity
from sensor.audits.mitre import TACTICS, tactics, technique_name
from sensor.audits.native import extra_json, step_json
from sensor.audits.parts import (
    acting,
    by_rule,
    file_name,
    image_id,
    image_name,
    is_alert,
    program_hash,
)
from sensor.audits.text import command_line, escape, iso, one_line

ECS_VERSION = "9.4.0"
# As Elastic's own detection rules write severities as numbers.
_SEVERITY = {
    Severity.INFO: 10,
    Severity.LOW: 21,
    Severity.MEDIUM: 47,
    Severity.HIGH: 73,
    Severity.CRITICAL: 99,
}
# Operation on a file → event.type; what is not listed is a change.
_TYPES = {
    "create": "creation",
    "mkdir": "creation",
    "mknod": "creation",
    "link": "creation",
    "symlink": "creation",
    "unlink": "deletion",
    "rmdir": "deletion",
}
# "denied" is expected with intrusion_detection alone, so that stands beside what was done.
_CATEGORY = {
    Sensor.PROCESS: ["process", "intrusion_detection"],
    Sensor.FILESYSTEM: ["file", "intrusion_detection"],
    Sensor.IMAGE: ["vulnerability", "intrusion_detection"],
    Sensor.SELF: ["configuration", "intrusion_detection"],
}
# What of the audits about Rote itself refused something.
_REFUSALS = (
    AuditType.CONTAINER_BLOCKED,
    AuditType.CONTAINER_QUARANTINED,
    AuditType.START_REFUSED,
)


def to_ecs(audit: Audit) -> dict[str, Any]:
    """The audit as an ECS document, nested."""
    last_ns = audit.last_ns or audit.time_ns
    image = image_name(audit.image)
    return _without_empty(
        {
            "@timestamp": iso(last_ns),
            "ecs": {"version": ECS_VERSION},
            "message": one_line(audit),
            "tags": ["rote", str(audit.type)],
            "agent": {"type": "rote", "version": __version__},
            "event": {
                "kind": "alert" if is_alert(audit) else "event",
                "module": "rote",
                "dataset": "rote.audits",
                "category": _CATEGORY[audit.sensor],
                "type": _event_type(audit),
                "action": _event_action(audit),
                "outcome": _event_outcome(audit),
                "code": str(audit.type),
                "severity": _SEVERITY[audit.severity],
                "id": f"{escape(audit.host)}/{audit.id}",
                "sequence": audit.sequence,
                "hash": audit.hash,
                "start": iso(audit.time_ns),
                "end": iso(last_ns),
                "reason": "; ".join(escape(remark) for remark in audit.remarks),
            },
            "rule": {
                "name": escape(audit.rule),
                "category": "rule" if by_rule(audit) else "learned",
            },
            "threat": _threat(audit),
            "host": {"hostname": escape(audit.host), "name": escape(audit.host)},
            "container": {
                "id": escape(audit.container_id),
                "name": escape(audit.container_name),
                "runtime": audit.runtime,
                "image": {
                    "name": image.name,
                    "tag": [image.tag] if image.tag else [],
                    "hash": {"all": [image_id(audit)] if image_id(audit) else []},
                },
            },
            "orchestrator": {
                "type": "kubernetes" if audit.pod else "",
                "namespace": escape(audit.namespace),
                "resource": {
                    "type": "pod" if audit.pod else "",
                    "name": escape(audit.pod),
                },
            },
            "process": _process(audit),
            "file": _file(audit),
            "rote": _rest(audit),
        }
    )


def _without_empty(value: dict[str, Any]) -> dict[str, Any]:
    """ECS documents leave out what is not known; 0 and false are known."""
    kept = {}
    for name, inner in value.items():
        shown = _without_empty(inner) if isinstance(inner, dict) else inner
        if shown not in ("", [], {}):
            kept[name] = shown
    return kept


def _event_type(audit: Audit) -> list[str]:
    if not audit.of_event:
        refused = audit.type in _REFUSALS or audit.outcome == "denied"
        return ["denied"] if refused else ["info"]
    executed = audit.sensor is Sensor.PROCESS
    return [
        "start" if executed else _TYPES.get(audit.operation, "change"),
        *(["denied"] if audit.outcome == "denied" else []),
    ]


def _event_action(audit: Audit) -> str:
    return audit.operation or str(audit.type).replace("_", "-")


def _event_outcome(audit: Audit) -> str:
    """Whether what was tried succeeded, as far as that is known.

    A refused operation failed. What a signal ended may have happened before.
    """
    if not audit.of_event:
        return "failure" if any(step.result == "failed" for step in audit.steps) else "success"
    return {"denied": "failure", "killed": "unknown"}.get(audit.outcome, "success")


def _threat(audit: Audit) -> dict[str, Any]:
    if not audit.technique:
        return {}
    found = [uid for technique in audit.technique for uid in tactics(technique)]
    served = list(dict.fromkeys(found))
    parents = list(dict.fromkeys(t.partition(".")[0] for t in audit.technique))
    subs = [t for t in audit.technique if "." in t]
    return {
        "framework": "MITRE ATT&CK",
        "tactic": {"id": served, "name": [TACTICS[uid] for uid in served]},
        "technique": {
            "id": parents,
            "name": [technique_name(uid) for uid in parents],
            "subtechnique": {"id": subs, "name": [technique_name(uid) for uid in subs]},
        },
    }


def _process(audit: Audit) -> dict[str, Any]:
    if not audit.of_event:
        return {}
    process, parent = acting(audit)
    return {
        "pid": audit.pid,
        "executable": process.path if process else "",
        "name": process.name if process else "",
        "args": [escape(argument) for argument in audit.argv],
        "command_line": command_line(audit),
        "working_directory": escape(audit.cwd),
        "hash": {"sha256": program_hash(audit) if audit.sensor is Sensor.PROCESS else ""},
        "user": {"id": str(audit.uid)},
        "real_group": {"id": str(audit.gid)},  # ECS has no process.group
        "parent": {"executable": parent.path, "name": parent.name} if parent else {},
    }


def _file(audit: Audit) -> dict[str, Any]:
    if audit.sensor is not Sensor.FILESYSTEM or not audit.path:
        return {}
    return {
        "path": escape(audit.path),
        "name": file_name(audit.path),
        "directory": escape(audit.path.rpartition("/")[0]),
        # A second name that is no link's target has no field in ECS: see rote.path2.
        "target_path": escape(audit.path2) if audit.operation == "symlink" else "",
    }


def _rest(audit: Audit) -> dict[str, Any]:
    """What ECS has no field for, under our own names."""
    return {
        "action": str(audit.action),
        "guarantee": str(audit.guarantee),
        "outcome": audit.outcome,
        "errno": audit.errno,
        "signal": audit.signal,
        "count": audit.count,
        "actor": audit.actor,
        "operation": audit.operation,
        "origin": audit.origin,
        "path2": escape(audit.path2),
        "program": escape(audit.program),
        "parents": [escape(parent) for parent in audit.parents],
        "model": escape(audit.model_id),
        "model_state": audit.model_state,
        "pod_container": escape(audit.pod_container),
        "steps": [step_json(step) for step in audit.steps],
        "extra": extra_json(audit),
    }
