"""Audits in the form of Falco's JSON output, for what already reads that.

Source: falco's ``format_event``, falcosidekick's ``FalcoPayload``, and the field tables of
libsinsp. ``source`` is "rote": no rule of Falco's made these. Fields of ours begin with ``rote.``.
"""

from __future__ import annotations

import time
import uuid
from typing import Any

from sensor.audits.audit import Audit, Sensor, Severity
from sensor.audits.parts import acting, by_rule, image_id, image_name
from sensor.audits.text import command_line, escape, one_line

_PRIORITY = {
    Severity.INFO: "Informational",
    Severity.LOW: "Notice",
    Severity.MEDIUM: "Warning",
    Severity.HIGH: "Error",
    Severity.CRITICAL: "Critical",
}
_SHORT_ID = 12  # as Falco shows container ids
# Names are in the space of Rote's audits, so that an audit told twice has the same one.
_UUIDS = uuid.UUID("7f0c1d2e-51a4-5c39-9a53-0d6f2f6b8f10")


def to_falco(audit: Audit) -> dict[str, Any]:
    """The audit as one of Falco's alerts."""
    last_ns = audit.last_ns or audit.time_ns
    priority = _PRIORITY[audit.severity]
    seconds, rest = divmod(last_ns, 10**9)
    moment = time.gmtime(seconds)
    return {
        "uuid": str(uuid.uuid5(_UUIDS, f"{escape(audit.host)}/{audit.id}/{audit.time_ns}")),
        "output": f"{time.strftime('%H:%M:%S', moment)}.{rest:09d}: {priority} {one_line(audit)}",
        "priority": priority,
        "rule": escape(audit.rule) or str(audit.type),
        "time": f"{time.strftime('%Y-%m-%dT%H:%M:%S', moment)}.{rest:09d}Z",
        "source": "rote",
        "hostname": escape(audit.host),
        "tags": _tags(audit),
        "output_fields": {
            name: value
            for name, value in _fields(audit, last_ns).items()
            if value not in ("", None)
        },
    }


def _tags(audit: Audit) -> list[str]:
    """Sorted and each once, for Falco's are a set."""
    return sorted(
        {
            "rote",
            "container",
            str(audit.sensor),
            str(audit.type),
            "rule" if by_rule(audit) else "learned",
            *audit.technique,
        }
    )


def _fields(audit: Audit, last_ns: int) -> dict[str, Any]:
    image = image_name(audit.image)
    return {
        "evt.time": last_ns,
        "evt.type": audit.operation,
        "container.id": escape(audit.container_id[:_SHORT_ID]),
        "container.name": escape(audit.container_name),
        "container.type": audit.runtime,
        "container.image.repository": image.name,
        "container.image.tag": image.tag,
        "container.image.digest": image_id(audit),
        "k8s.ns.name": escape(audit.namespace),
        "k8s.pod.name": escape(audit.pod),
        **_process(audit),
        **_files(audit),
        "rote.id": audit.id,
        "rote.sequence": audit.sequence,
        "rote.hash": audit.hash,
        "rote.type": str(audit.type),
        "rote.action": str(audit.action),
        "rote.outcome": audit.outcome,
        "rote.guarantee": str(audit.guarantee),
        "rote.model": escape(audit.model_id),
        "rote.count": audit.count,
        # Readers of Falco's fields expect plain values, so steps and remarks are texts.
        "rote.steps": "; ".join(
            f"{step.name}: {step.result} {escape(step.detail)}".rstrip() for step in audit.steps
        ),
        "rote.remarks": "; ".join(escape(remark) for remark in audit.remarks),
        **{f"rote.{escape(name)}": escape(value) for name, value in audit.extra.items()},
    }


def _process(audit: Audit) -> dict[str, Any]:
    process, parent = acting(audit)
    if not audit.of_event:
        return {}
    executed = audit.sensor is Sensor.PROCESS
    return {
        "proc.pid": audit.pid,
        "proc.name": process.name if process else "",
        "proc.exepath": process.path if process else "",
        "proc.cmdline": command_line(audit),
        "proc.cwd": escape(audit.cwd),
        "proc.pname": parent.name if parent else "",
        "proc.pexepath": parent.path if parent else "",
        # The origin is the object's: the program's own only where one was executed.
        "proc.is_exe_upper_layer": audit.origin == "added" if executed else None,
        "proc.is_exe_from_memfd": audit.origin == "memory" if executed else None,
        "user.uid": audit.uid,
        "group.gid": audit.gid,
    }


def _files(audit: Audit) -> dict[str, Any]:
    if audit.sensor is not Sensor.FILESYSTEM:
        return {}
    if audit.path2:
        return {
            "fd.name": escape(audit.path),
            "fs.path.source": escape(audit.path),
            "fs.path.target": escape(audit.path2),
        }
    return {"fd.name": escape(audit.path), "fs.path.name": escape(audit.path)}
