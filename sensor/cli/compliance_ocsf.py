"""Results of compliance checks as OCSF Compliance Findings (class 2003).

Source: the Open Cybersecurity Schema Framework, release 1.8.0, profile host.
"""

from __future__ import annotations

import uuid
from typing import Any

from sensor import __version__
from sensor.audits.ocsf import OCSF_VERSION
from sensor.audits.text import escape
from sensor.images.compliance.check import Status
from sensor.images.compliance.judge import Result
from sensor.images.compliance.subject import Subject

_CLASS = 2003
_SEVERITY = {"low": (2, "Low"), "medium": (3, "Medium"), "high": (4, "High"),
             "critical": (5, "Critical")}  # fmt: skip
_INFORMATIONAL = (1, "Informational")
# OCSF: "Warning" is for what did not yield a result for want of information.
_STATUS = {
    Status.PASS: (1, "Pass"),
    Status.UNKNOWN: (2, "Warning"),
    Status.FAIL: (3, "Fail"),
    Status.NOT_APPLICABLE: (99, "Not applicable"),
}


def to_ocsf(subject: Subject, result: Result, time_ns: int, host: str) -> dict[str, Any]:
    """One result as a Compliance Finding.

    Args:
        subject: what was checked.
        result: of one check.
        time_ns: when, Unix time in nanoseconds.
        host: name of this host.
    """
    check = result.check
    resource = _resource(subject)
    severity = _SEVERITY[check.severity] if result.status is Status.FAIL else _INFORMATIONAL
    status_id, status = _STATUS[result.status]
    own = ("Rote", check.id)
    uid = uuid.uuid5(uuid.NAMESPACE_URL, f"rote:compliance:{host}:{resource['uid']}:{check.id}")
    return {
        "class_uid": _CLASS,
        "class_name": "Compliance Finding",
        "category_uid": 2,
        "category_name": "Findings",
        "activity_id": 1,
        "activity_name": "Create",
        "type_uid": _CLASS * 100 + 1,
        "type_name": "Compliance Finding: Create",
        "severity_id": severity[0],
        "severity": severity[1],
        "status_id": 4 if result.status is Status.PASS else 1,
        "status": "Resolved" if result.status is Status.PASS else "New",
        "time": time_ns // 10**6,
        "message": f"{check.id} {escape(check.title)}: {result.status}"
        + (f": {escape(result.evidence)}" if result.evidence else ""),
        "metadata": {
            "version": OCSF_VERSION,
            "uid": f"{uid}/{time_ns}",
            "log_name": "rote.compliance",
            "event_code": check.id,
            "profiles": ["host"],
            "product": {"name": "Rote", "vendor_name": "Rote", "version": __version__},
        },
        "finding_info": {
            "uid": str(uid),
            "title": f"{check.id} {escape(check.title)}",
            "types": ["compliance"],
            **({"desc": escape(check.why)} if check.why else {}),
            "created_time": time_ns // 10**6,
        },
        "compliance": {
            "control": f"{check.id} {escape(check.title)}",
            "standards": list(dict.fromkeys(name for name, _ in check.standards or (own,))),
            "requirements": [f"{name} {number}" for name, number in check.standards or (own,)],
            "status_id": status_id,
            "status": status,
            "status_details": [escape(result.evidence)]
            if result.evidence
            else [str(result.status)],
        },
        **({"remediation": {"desc": escape(check.remedy)}} if check.remedy else {}),
        "resources": [resource],
        "device": {"hostname": escape(host), "type_id": 1, "type": "Server"},
        "unmapped": {"rote": result.to_json()},
    }


def _resource(subject: Subject) -> dict[str, Any]:
    whose = escape(subject.container_id or subject.image_id or subject.name)
    image = {"id": escape(subject.image_id), "reference": escape(subject.reference)}
    known = {key: value for key, value in image.items() if value}
    return {
        "type": "container" if subject.is_container else "image",
        "uid": whose,
        "name": escape(subject.name),
        **({"data": {"image": known}} if known else {}),
    }
