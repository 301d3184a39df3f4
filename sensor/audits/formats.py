"""The forms an audit can take, by name: one place to find them all.

``text`` for people, ``native`` our own JSON, ``ocsf``, ``ecs`` and ``falco`` for what others read.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from sensor.audits.audit import Audit
from sensor.audits.ecs import to_ecs
from sensor.audits.falco import to_falco
from sensor.audits.native import to_json
from sensor.audits.ocsf import to_ocsf
from sensor.audits.text import COLUMNS, command_line, escape, iso, one_line, render, row, when

__all__ = [
    "COLUMNS",
    "FORMATS",
    "command_line",
    "escape",
    "iso",
    "one_line",
    "render",
    "row",
    "to_ecs",
    "to_falco",
    "to_json",
    "to_ocsf",
    "when",
]

FORMATS: dict[str, Callable[[Audit], dict[str, Any]]] = {
    "rote": to_json,
    "ocsf": to_ocsf,
    "ecs": to_ecs,
    "falco": to_falco,
}
