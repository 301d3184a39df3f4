"""Which audits a person asks for."""

from __future__ import annotations

import fnmatch
import os
import re
import time
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sensor.audits.audit import Action, Audit, AuditType, Severity
from sensor.errors import UsageError

_AGE = re.compile(r"(\d+)\s*([smhdw])")
_UNIT = {"s": 1, "m": 60, "h": 3600, "d": 86400, "w": 604800}


def parse_time(text: str) -> int:
    """A point in time, in nanoseconds since the epoch.

    Args:
        text: an age ("2h", "1d12h"), an ISO time ("2026-11-23 14:00", local unless it says
            otherwise), or seconds since the epoch.

    Raises:
        UsageError: none of these.
    """
    stripped = text.strip()
    if stripped and _AGE.sub("", stripped) == "":
        age = sum(int(n) * _UNIT[unit] for n, unit in _AGE.findall(stripped))
        return time.time_ns() - age * 10**9
    if stripped.isdigit():
        return int(stripped) * 10**9
    try:
        return int(datetime.fromisoformat(stripped).astimezone().timestamp() * 1e9)
    except ValueError as error:
        raise UsageError(
            f"time {text!r}: expected an age (90s, 2h, 1d12h), a time (2026-11-23T14:00), "
            "or seconds since the epoch"
        ) from error


def _choice(kind: str, text: str, allowed: list[str]) -> str:
    if text not in allowed:
        raise UsageError(f"{kind} {text!r}: expected one of {', '.join(allowed)}")
    return text


@dataclass(frozen=True, slots=True)
class AuditQuery:
    """Filters; all that are given must hold. Globs are the shell's: ``*``, ``?``, ``[a-z]``."""

    container: str = ""  # name, a prefix of the id, or a glob of either
    image: str = ""  # glob
    type: str = ""
    action: str = ""
    severity: int = 0  # at least
    path: str = ""  # glob over both paths
    rule: str = ""  # glob over the name of the rule that decided
    since_ns: int = 0
    until_ns: int = 0
    after_id: int = 0
    limit: int = 100  # the newest that many; 0: all

    @classmethod
    def from_options(cls, options: dict[str, Any]) -> AuditQuery:
        """Read what a person typed.

        Raises:
            UsageError: naming the value and what was expected.
        """
        severity = str(options.get("severity") or "")
        names = [s.name.lower() for s in Severity]
        return cls(
            container=str(options.get("container") or ""),
            image=str(options.get("image") or ""),
            type=_choice("type", options["type"], [str(t) for t in AuditType])
            if options.get("type")
            else "",
            action=_choice("action", options["action"], [str(a) for a in Action])
            if options.get("action")
            else "",
            severity=Severity[_choice("severity", severity, names).upper()] if severity else 0,
            path=str(options.get("path") or ""),
            rule=str(options.get("rule") or ""),
            since_ns=parse_time(options["since"]) if options.get("since") else 0,
            until_ns=parse_time(options["until"]) if options.get("until") else 0,
            after_id=int(options.get("after_id") or 0),
            limit=int(options.get("limit", 100) or 0),
        )

    def where(self) -> tuple[str, list[Any]]:
        """A condition for SQL, with its values."""
        parts: list[str] = []
        values: list[Any] = []

        def add(condition: str, *bound: Any) -> None:
            parts.append(condition)
            values.extend(bound)

        if self.container:
            add(
                "(container_name GLOB ? OR container_id GLOB ?)",
                self.container,
                self.container + "*",
            )
        if self.image:
            add("image GLOB ?", self.image)
        if self.type:
            add("type = ?", self.type)
        if self.action:
            add("action = ?", self.action)
        if self.severity:
            add("severity >= ?", self.severity)
        if self.path:
            glob = os.fsencode(self.path)
            add(
                "(CAST(path AS TEXT) GLOB CAST(? AS TEXT)"
                " OR CAST(path2 AS TEXT) GLOB CAST(? AS TEXT))",
                glob,
                glob,
            )
        if self.rule:
            add("rule GLOB ?", self.rule)
        if self.since_ns:
            add("last_ns >= ?", self.since_ns)
        if self.until_ns:
            add("time_ns <= ?", self.until_ns)
        if self.after_id:
            add("id > ?", self.after_id)
        return " AND ".join(parts) or "1", values

    def matches(self, audit: Audit) -> bool:
        """The same for one audit, for those who follow."""
        return (
            (
                not self.container
                or fnmatch.fnmatchcase(audit.container_name, self.container)
                or fnmatch.fnmatchcase(audit.container_id, self.container + "*")
            )
            and (not self.image or fnmatch.fnmatchcase(audit.image, self.image))
            and (not self.type or audit.type == self.type)
            and (not self.action or audit.action == self.action)
            and audit.severity >= self.severity
            and (
                not self.path
                or fnmatch.fnmatchcase(audit.path, self.path)
                or fnmatch.fnmatchcase(audit.path2, self.path)
            )
            and (not self.rule or fnmatch.fnmatchcase(audit.rule, self.rule))
            and audit.last_ns >= self.since_ns
            and (not self.until_ns or audit.time_ns <= self.until_ns)
        )
