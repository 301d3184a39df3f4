"""Audits as OCSF Detection Findings (class 2004).

Source: the Open Cybersecurity Schema Framework, release 1.8.0, profiles container, host and
security_control. What OCSF has no attribute for lies under ``unmapped.rote``: our own JSON, whole.
"""

from __future__ import annotations

from typing import Any

from sensor import __version__
from sensor.audits.audit import Audit, AuditType, Sensor, Severity
from sensor.audits.mitre import TACTICS, tactics, technique_name
from sensor.audits.native import extra_json, step_json, to_json
from sensor.audits.parts import (
    ProgramName,
    acting,
    ancestors,
    by_rule,
    file_name,
    image_id,
    image_name,
    is_alert,
    program_hash,
)
from sensor.audits.text import TITLES, command_line, escape, one_line

OCSF_VERSION = "1.8.0"
_CLASS = 2004
_SEVERITY = {
    Severity.INFO: "Informational",
    Severity.LOW: "Low",
    Severity.MEDIUM: "Medium",
    Severity.HIGH: "High",
    Severity.CRITICAL: "Critical",
}
_ALLOWED, _DENIED, _OBSERVED, _MODIFIED, _OTHER = (
    (1, "Allowed"), (2, "Denied"), (3, "Observed"), (4, "Modified"), (99, "Killed"),
)  # fmt: skip
# What was done, for audits about what Rote itself did: (action, disposition).
_SELF = {
    AuditType.CONTAINER_BLOCKED: (_DENIED, (2, "Blocked")),
    AuditType.CONTAINER_UNBLOCKED: (_MODIFIED, (9, "Restored")),
    AuditType.CONTAINER_QUARANTINED: (_DENIED, (4, "Isolated")),
    AuditType.CONTAINER_RELEASED: (_MODIFIED, (9, "Restored")),
    AuditType.START_REFUSED: (_DENIED, (2, "Blocked")),
    AuditType.SESSION_ALLOWED: (_ALLOWED, (1, "Allowed")),
    AuditType.SESSION_ENDED: (_DENIED, (24, "Access Revoked")),
    AuditType.MODEL_SUSPECT: (_OBSERVED, (17, "Logged")),
    AuditType.RULES_CHANGED: (_OBSERVED, (17, "Logged")),
}
_FOLDERS, _LINKS = ("mkdir", "rmdir"), ("symlink",)
_REGULAR = ("open_write", "create", "truncate", "write", "map_write")


def to_ocsf(audit: Audit) -> dict[str, Any]:
    """The audit as a Detection Finding; its own fields are inside."""
    last_ns = audit.last_ns or audit.time_ns
    activity, activity_name = (1, "Create") if audit.count == 1 else (2, "Update")
    (action_id, action), (disposition_id, disposition) = _decision(audit)
    container = _container(audit)
    return {
        "class_uid": _CLASS,
        "class_name": "Detection Finding",
        "category_uid": 2,
        "category_name": "Findings",
        "activity_id": activity,
        "activity_name": activity_name,
        "type_uid": _CLASS * 100 + activity,
        "type_name": f"Detection Finding: {activity_name}",
        "severity_id": int(audit.severity),
        "severity": _SEVERITY[audit.severity],
        "status_id": 1,
        "status": "New",
        "action_id": action_id,
        "action": action,
        "disposition_id": disposition_id,
        "disposition": disposition,
        "is_alert": is_alert(audit),
        "time": last_ns // 10**6,
        "start_time": audit.time_ns // 10**6,
        "end_time": last_ns // 10**6,
        "count": audit.count,
        "message": one_line(audit),
        "metadata": {
            "version": OCSF_VERSION,
            "uid": str(audit.id),
            "sequence": audit.sequence,
            "log_name": "rote.audits",
            "event_code": str(audit.type),
            "profiles": ["container", "host", "security_control"],
            "product": {"name": "Rote", "vendor_name": "Rote", "version": __version__},
        },
        "finding_info": {
            "uid": f"{escape(audit.host)}/{audit.id}",
            "title": f"Container {TITLES[audit.type]}",
            "types": [str(audit.type)],
            "created_time": audit.time_ns // 10**6,
            "first_seen_time": audit.time_ns // 10**6,
            "last_seen_time": last_ns // 10**6,
            "analytic": _analytic(audit),
            "attacks": [_attack(technique) for technique in audit.technique],
        },
        "policy": {"name": escape(audit.rule) or "none"},
        **_if("evidences", _evidences(audit, container)),
        **_if("resources", _resources(audit)),
        "device": {"hostname": escape(audit.host), "type_id": 1, "type": "Server"},
        "unmapped": {"rote": to_json(audit)},
    }


def _if(name: str, value: Any) -> dict[str, Any]:
    return {name: value} if value else {}


def _decision(audit: Audit) -> tuple[tuple[int, str], tuple[int, str]]:
    """OCSF's action and disposition.

    A kill is no denial: what the process did before the signal came has happened. OCSF has no word
    for that, so both are "Other" with ours.
    """
    if audit.type in _SELF:
        return _SELF[audit.type]
    if audit.outcome == "denied":
        return _DENIED, (2, "Blocked")
    if audit.outcome == "killed":
        return _OTHER, (99, "Killed")
    if is_alert(audit):
        return _OBSERVED, (19, "Alert")
    return _OBSERVED, (15, "Detected") if audit.outcome.startswith("would-") else (17, "Logged")


def _analytic(audit: Audit) -> dict[str, Any]:
    """What found it: what was learned, or a rule alone."""
    rule = {"type_id": 1, "type": "Rule", "name": escape(audit.rule) or "none"}
    if by_rule(audit):
        return rule
    return {
        "type_id": 4,
        "type": "Learning (ML/DL)",
        "name": f"model of {escape(audit.image)}",
        **_if("uid", escape(audit.model_id)),
        "category": escape(audit.model_state),
        "related_analytics": [rule],
    }


def _attack(technique: str) -> dict[str, Any]:
    parent, dot, _ = technique.partition(".")
    found = [{"uid": uid, "name": TACTICS[uid]} for uid in tactics(technique)]
    return {
        **({"tactic": found[0]} if found else {}),
        # Deprecated, but the only place for a technique's other tactics.
        **_if("tactics", found),
        "technique": {"uid": parent, **_if("name", technique_name(parent))},
        **(
            {"sub_technique": {"uid": technique, **_if("name", technique_name(technique))}}
            if dot
            else {}
        ),
    }


def _container(audit: Audit) -> dict[str, Any]:
    if not audit.container_id and not audit.container_name:
        return {}
    image = image_name(audit.image)
    return {
        **_if("uid", escape(audit.container_id)),
        **_if("name", escape(audit.container_name)),
        **_if("runtime", audit.runtime),
        **_if("orchestrator", "kubernetes" if audit.pod else ""),
        **(
            {
                "image": {
                    "uid": image_id(audit) or escape(audit.image),
                    "name": image.name,
                    **_if("tag", image.tag),
                }
            }
            if audit.image
            else {}
        ),
    }


def _resources(audit: Audit) -> list[dict[str, Any]]:
    if not audit.container_id and not audit.container_name:
        return []
    return [
        {
            "type": "container",
            **_if("uid", escape(audit.container_id)),
            **_if("name", escape(audit.container_name)),
            **_if("namespace", escape(audit.namespace)),
            "data": {"image": escape(audit.image), "pod": escape(audit.pod)},
        }
    ]


def _evidences(audit: Audit, container: dict[str, Any]) -> list[dict[str, Any]]:
    if not audit.of_event:
        data = {
            **_if("steps", [step_json(step) for step in audit.steps]),
            **_if("extra", extra_json(audit)),
        }
        return [{"data": data, **_if("container", container)}] if data else []
    evidence = {"process": _process(audit), **_if("container", container)}
    if audit.sensor is not Sensor.FILESYSTEM or not audit.path:
        return [evidence]
    found = [{**evidence, "file": _file(audit, audit.path)}]
    if audit.path2:  # the new name is an object as well
        found.append({"file": _file(audit, audit.path2), **_if("container", container)})
    return found


def _process(audit: Audit) -> dict[str, Any]:
    process, parent = acting(audit)
    digest = program_hash(audit) if audit.sensor is Sensor.PROCESS else ""
    return {
        "pid": audit.pid,
        **({"name": process.name, "file": _program(process, digest)} if process else {}),
        **_if("cmd_line", command_line(audit)),
        **_if("working_directory", escape(audit.cwd)),
        "user": {"uid": str(audit.uid)},
        **({"parent_process": _parent(audit, parent)} if parent else {}),
        **_if("ancestry", [{"name": p.name, "path": p.path} for p in ancestors(audit)]),
    }


def _parent(audit: Audit, parent: ProgramName) -> dict[str, Any]:
    # A process must have a pid or a uid; the pid of a parent is not known, its place is.
    return {"uid": f"parent of {audit.pid}", "name": parent.name, "file": _program(parent)}


def _program(program: ProgramName, digest: str = "") -> dict[str, Any]:
    hashes = [{"algorithm_id": 3, "algorithm": "SHA-256", "value": digest}] if digest else []
    return {
        "path": program.path,
        "name": program.path.rpartition("/")[2] or program.path,
        "type_id": 8,
        "type": "Executable File",
        **_if("hashes", hashes),
    }


def _file(audit: Audit, path: str) -> dict[str, Any]:
    kind = (0, "Unknown")
    if audit.operation in _FOLDERS:
        kind = (2, "Folder")
    elif audit.operation in _LINKS:
        kind = (7, "Symbolic Link")
    elif audit.operation in _REGULAR:
        kind = (1, "Regular File")
    return {"path": escape(path), "name": file_name(path), "type_id": kind[0], "type": kind[1]}
