"""What a run of a service gave, kept as JSON and shown as a table."""

from __future__ import annotations

import json
import time
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path

from sensor.models.adversary import Admission
from sensor.models.files import key_from_text
from sensor.models.keys import WriteKey
from sensor.paths import is_protected

RESULTS = Path(".cache/soak/results.json")


@dataclass(slots=True)
class Report:
    """One service: learned, and judged in a fresh container under other load."""

    service: str
    date: str = field(default_factory=lambda: time.strftime("%Y-%m-%d"))
    state: str = ""  # of the model when learning was over
    by_hand: bool = False  # it did not become active by itself in the time it had
    minutes_active: float | None = None  # from the first container until active
    learned_minutes: float = 0.0
    judged_minutes: float = 0.0
    runs: int = 0
    lost: int = 0
    keys_executions: int = 0
    keys_writes: int = 0
    executions: list[str] = field(default_factory=list)  # distinct false keys
    run_time_programs: list[str] = field(default_factory=list)  # written and executed: by design
    writes: list[str] = field(default_factory=list)
    protected: list[str] = field(default_factory=list)
    alarms: int = 0
    # As the model predicted when learning was over; None: it does not say.
    expected_per_day: float | None = None  # new keys
    bound_per_day: float | None = None  # false alarms, at most, with 95 % confidence
    sentence: str = ""
    tried: int = 0
    admitted: int = 0
    tried_outside: int = 0
    admitted_outside: list[str] = field(default_factory=list)
    admitted_protected: list[str] = field(default_factory=list)
    granted: list[str] = field(default_factory=list)
    failure: str = ""

    @property
    def actual(self) -> int:
        """Distinct false keys; programs written at run time are told in every state."""
        return len(self.executions) + len(self.writes) + len(self.protected)

    @property
    def alarms_per_hour(self) -> float:
        """Audits an hour, as judged."""
        return self.alarms * 60 / self.judged_minutes if self.judged_minutes else 0.0

    def take_admission(self, admission: Admission) -> None:
        """What the adversarial list gave."""
        self.tried, self.admitted = admission.tried, admission.admitted
        self.tried_outside = admission.tried_outside
        self.admitted_outside = list(admission.outside)
        self.admitted_protected = list(admission.protected)
        self.granted = list(admission.granted)

    def take_audits(self, audits: Iterable[dict[str, object]]) -> None:
        """Count what a fresh container was accused of."""
        kinds: dict[str, set[str]] = {"executions": set(), "run": set(), "protected": set()}
        writes: set[str] = set()
        for audit in audits:
            self.alarms += 1
            what = f"{audit['program']} {audit['operation']} {audit['path']}"
            if audit["path2"]:
                what += f" → {audit['path2']}"
            if audit["sensor"] == "process":
                added = audit["type"] in ("changed_program", "memory_program")
                parents = audit["parents"]
                caller = parents[0] if isinstance(parents, list) and parents else ""
                kinds["run" if added else "executions"].add(f"{caller} → {what}")
            elif audit["type"] == "protected_write" or is_protected(str(audit["path"])):
                kinds["protected"].add(what)
            else:
                writes |= _write_keys(audit) or {what}
        self.executions = sorted(kinds["executions"])
        self.run_time_programs = sorted(kinds["run"])
        self.protected = sorted(kinds["protected"])
        self.writes = sorted(writes)


def _write_keys(audit: Mapping[str, object]) -> set[str]:
    """What the model would have had to know: names that only differ in a number are one key."""
    texts = audit.get("keys")
    found = set()
    for text in texts if isinstance(texts, list) else ():
        key = key_from_text(text, "audit")
        if isinstance(key, WriteKey):
            operation = (key.operation.name or "").lower()
            found.add(f"{key.program} {operation} {key.pattern}")
    return found


def keep(reports: Iterable[Report], path: Path = RESULTS) -> None:
    """Add reports to the kept ones; a newer one of a service replaces the older."""
    kept = {report.service: report for report in load(path)}
    kept.update({report.service: report for report in reports})
    path.parent.mkdir(parents=True, exist_ok=True)
    text = json.dumps([asdict(report) for report in kept.values()], indent=1)
    path.write_text(text + "\n", encoding="utf-8")


def load(path: Path = RESULTS) -> list[Report]:
    """The kept reports; those that another version of this file kept are left out."""
    if not path.exists():
        return []
    rows = json.loads(path.read_text(encoding="utf-8"))
    known = {entry.name for entry in fields(Report)}
    return [Report(**row) for row in rows if row.keys() == known]


_COLUMNS = (
    "service", "minutes learned / until active", "keys: executions, writes", "false executions",
    "false writes", "of protected places", "alarms an hour", "predicted", "actual",
    "admitted: all / outside grants",
)  # fmt: skip


def table(reports: Iterable[Report]) -> str:
    """All reports as Markdown."""
    head = f"| {' | '.join(_COLUMNS)} |\n{'|---' * len(_COLUMNS)}|\n"
    return head + "".join(_line(report) for report in reports if not report.failure)


def _line(r: Report) -> str:
    active = "by hand" if r.minutes_active is None else f"{r.minutes_active:.1f}"
    added = f" (+{len(r.run_time_programs)} written at run time)" if r.run_time_programs else ""
    days = r.judged_minutes / (24 * 60)
    predicted = "—" if r.expected_per_day is None else f"{r.expected_per_day * days:.1f}"
    if r.bound_per_day is not None:
        predicted += f", at most {r.bound_per_day * days:.1f}"
    everything = 100 * r.admitted / r.tried if r.tried else 0.0
    outside = 100 * len(r.admitted_outside) / r.tried_outside if r.tried_outside else 0.0
    return (
        f"| {r.service} | {r.learned_minutes:.1f} / {active} "
        f"| {r.keys_executions}, {r.keys_writes} "
        f"| {len(r.executions)}{added} | {len(r.writes)} | {len(r.protected)} "
        f"| {r.alarms_per_hour:.1f} | {predicted} | {r.actual} in {r.judged_minutes:.1f} min "
        f"| {everything:.1f} % / {outside:.2f} % |\n"
    )


def names(report: Report) -> str:
    """What a report is about, by name: for whoever looks into it."""
    lines = [f"{report.service}: {report.failure or report.sentence}"]
    for title, found in (
        ("false execution", report.executions),
        ("written at run time", report.run_time_programs),
        ("false write", report.writes),
        ("false write, protected", report.protected),
        ("granted", report.granted),
        ("admitted outside", report.admitted_outside[:20]),
        ("admitted, protected", report.admitted_protected[:20]),
    ):
        lines += [f"  {title}: {name}" for name in found]
    return "\n".join(lines) + "\n"
