"""What goes through a channel at once: an audit, many that were gathered, or a test."""

from __future__ import annotations

import platform
import time
from dataclasses import dataclass, replace
from typing import Any

import msgpack

from sensor.audits.audit import Action, Audit, AuditType, Guarantee, Sensor, Severity
from sensor.audits.formats import escape, iso, one_line, render, to_json, when
from sensor.audits.store import pack_audit, unpack_audit
from sensor.channels.files import Shape

SAMPLES_MAX = 20
_RANGES_SHOWN = 200
_GROUPS_SHOWN = 50


@dataclass(frozen=True, slots=True)
class Group:
    """What was gathered of one kind."""

    rule: str
    image: str
    type: str
    severity: int
    audits: int
    times: int  # how often it happened, as far as it was known then
    first_ns: int
    last_ns: int

    def line(self) -> str:
        """For a person."""
        times = f", {self.times} times" if self.times > self.audits else ""
        what = f"{self.audits} of" if self.audits else "more of"  # repeats of what was told before
        return (
            f"{what} {self.type} in {escape(self.image) or '-'} by rule "
            f"{escape(self.rule)} ({Severity(self.severity).name.lower()}{times})"
        )


@dataclass(frozen=True, slots=True)
class Message:
    """One delivery."""

    kind: str  # "audit", "gathered" or "test"
    audits: tuple[Audit, ...]  # the one; of what was gathered the first of each group, the worst
    groups: tuple[Group, ...] = ()
    ranges: tuple[tuple[int, int], ...] = ()  # ids, from and to

    def pack(self) -> bytes:
        """As it is stored."""
        packed: bytes = msgpack.packb(
            [
                self.kind,
                [pack_audit(audit) for audit in self.audits],
                [[getattr(group, name) for name in Group.__slots__] for group in self.groups],
                self.ranges,
            ],
            unicode_errors="surrogateescape",
        )
        return packed

    @classmethod
    def unpack(cls, data: bytes) -> Message:
        """Read what ``pack`` wrote."""
        kind, audits, groups, ranges = msgpack.unpackb(data, unicode_errors="surrogateescape")
        return cls(
            kind,
            tuple(unpack_audit(audit) for audit in audits),
            tuple(Group(*group) for group in groups),
            tuple((first, last) for first, last in ranges),
        )

    @property
    def worst(self) -> Audit:
        """The audit that stands for all."""
        return max(self.audits, key=lambda audit: audit.severity)

    @property
    def severity(self) -> Severity:
        """Of the worst."""
        return max([Severity(group.severity) for group in self.groups], default=self.worst.severity)

    @property
    def count(self) -> int:
        """How many audits; of a single one how often it happened."""
        if self.groups:
            return sum(group.audits for group in self.groups)
        return self.worst.count

    @property
    def first_ns(self) -> int:
        """When it began, nanoseconds since the epoch."""
        return min([group.first_ns for group in self.groups], default=self.worst.time_ns)

    @property
    def last_ns(self) -> int:
        """When it was last seen, nanoseconds since the epoch."""
        return max([group.last_ns for group in self.groups], default=self.worst.last_ns)

    @property
    def uid(self) -> str:
        """The same whenever this message is delivered again: receivers drop what they have."""
        host = escape(self.worst.host)
        if self.kind == "gathered":
            return f"{host}/{self.ranges[0][0]}-{self.ranges[-1][1]}/{self.last_ns}"
        if self.kind == "test":
            return f"{host}/test/{self.worst.time_ns}"
        times = f"/{self.worst.count}" if self.worst.count > 1 else ""
        return f"{host}/{self.worst.id}{times}"

    def ids(self) -> str:
        """The ids of the audits: ``17-42, 51``."""
        if self.kind != "gathered":
            return str(self.worst.id)
        texts = [f"{a}-{b}" if b > a else str(a) for a, b in self.ranges[:_RANGES_SHOWN]]
        if len(self.ranges) > _RANGES_SHOWN:
            texts.append(f"… up to {self.ranges[-1][1]}")
        return ", ".join(texts)

    def _amount(self) -> str:
        if self.count:
            return f"{self.count} audits"
        return f"{sum(group.times for group in self.groups)} repeats of audits"

    def title(self) -> str:
        """In one line."""
        if self.kind == "test":
            return f"TEST: Rote on {escape(self.worst.host)} reaches this channel"
        if self.kind == "audit":
            return one_line(self.worst)
        kinds = sorted({group.type for group in self.groups})
        return (
            f"{self.severity.name:8} {self._amount()} on {escape(self.worst.host)} since "
            f"{when(self.first_ns)}: {', '.join(kinds)} [audits {_short(self.ids())}]"
        )

    def text(self) -> str:
        """In several lines, for a person."""
        if self.kind == "test":
            return f"{self.title()}.\nNothing happened; somebody ran: rote channels test\n"
        if self.kind == "audit":
            return f"{render(self.worst)}\n\nHost {escape(self.worst.host)}.\n"
        groups = sorted(self.groups, key=lambda group: (-group.severity, -group.audits))
        lines = [
            f"{self._amount()} on host {escape(self.worst.host)}",
            f"from {when(self.first_ns)} to {when(self.last_ns)}:",
            "",
            *(f"  {group.line()}" for group in groups[:_GROUPS_SHOWN]),
            *(
                [f"  … and {len(groups) - _GROUPS_SHOWN} other kinds"]
                if len(groups) > _GROUPS_SHOWN
                else []
            ),
            "",
            f"Ids: {self.ids()}",
            "",
            "For example:",
            *(f"  {one_line(audit)}" for audit in self.audits),
            "",
            f"All of them: rote audits list --since '{when(self.first_ns)}' --limit 0",
        ]
        return "\n".join(lines) + "\n"

    def as_audit(self) -> Audit:
        """One audit that says it, for formats that know nothing else."""
        if self.kind != "gathered":
            return self.worst
        return replace(
            self.worst,
            count=max(self.count, 1),
            time_ns=self.first_ns,
            last_ns=self.last_ns,
            severity=self.severity,
            remarks=(*self.worst.remarks, f"stands for {self._amount()}: {self.ids()}"),
        )

    def as_json(self, shape: Shape | None = None) -> dict[str, Any]:
        """A JSON object.

        Args:
            shape: the format of one audit; none: our own fields.
        """
        if shape is not None and shape is not to_json:
            return shape(self.as_audit())
        if self.kind != "gathered":
            test = {"test": True} if self.kind == "test" else {}
            return {**test, **to_json(self.worst)}
        return {
            "gathered": self.count,
            "host": escape(self.worst.host),
            "severity": self.severity.name.lower(),
            "time": iso(self.first_ns),
            "last_time": iso(self.last_ns),
            "ids": [list(span) for span in self.ranges],
            "groups": [
                {
                    "rule": escape(group.rule),
                    "image": escape(group.image),
                    "type": group.type,
                    "severity": Severity(group.severity).name.lower(),
                    "audits": group.audits,
                    "times": group.times,
                    "time": iso(group.first_ns),
                    "last_time": iso(group.last_ns),
                }
                for group in self.groups
            ],
            "examples": [to_json(audit) for audit in self.audits],
        }

    def facts(self) -> dict[str, Any]:
        """The values of ``template.MACROS``. Where gathered ones differ: ``several``."""
        each = [to_json(audit) for audit in self.audits]
        names = (
            "sensor", "container", "container_id", "namespace", "pod", "action", "outcome",
            "program", "path",
        )  # fmt: skip
        kinds = {
            "type": {group.type for group in self.groups} or {each[0]["type"]},
            "rule": {escape(group.rule) for group in self.groups} or {each[0]["rule"]},
            "image": {escape(group.image) for group in self.groups} or {each[0]["image"]},
            **{name: {one[name] for one in each} for name in names},
        }
        return {
            **{
                name: values.pop() if len(values) == 1 else "several"
                for name, values in kinds.items()
            },
            "time": iso(self.first_ns),
            "last_time": iso(self.last_ns),
            "severity": self.severity.name.lower(),
            "host": escape(self.worst.host),
            "message": self.title(),
            "text": self.text(),
            "count": self.count,
            "id": self.uid,
            "ids": self.ids(),
            "kind": self.kind,
            "audit": self.as_json(),
        }


def _short(ids: str) -> str:
    return ids if len(ids) <= 60 else ids.split(",", 1)[0] + ", …"


def trial_message() -> Message:
    """What ``rote channels test`` sends: clearly none of what it looks like."""
    now_ns = time.time_ns()
    return Message(
        "test",
        (
            Audit(
                time_ns=now_ns,
                last_ns=now_ns,
                host=platform.node(),
                container_id="",
                container_name="rote-test",
                image="",
                sensor=Sensor.SELF,
                type=AuditType.RULES_CHANGED,
                severity=Severity.INFO,
                model_id="",
                model_state="",
                action=Action.ALERT,
                guarantee=Guarantee.DETECT,
                rule="test",
                remarks=("this is a test of the channel; nothing happened",),
                extra={"test": "rote channels test; nothing happened"},
            ),
        ),
    )
