"""What all checks find in a subject, and what a rule makes of it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

# Each of these defines its checks.
from sensor.audits.audit import Action
from sensor.images.compliance import (  # noqa: F401
    checks_image,
    checks_privileges,
    checks_running,
    checks_sharing,
)
from sensor.images.compliance.check import Status, Verdict, builtin, run
from sensor.images.compliance.custom import CustomCheck
from sensor.images.compliance.subject import Subject
from sensor.rules.checks import LEVELS, Check, natural, sort_key
from sensor.rules.compliance import ComplianceRule

NAMED_MAX = 5  # of the failed checks, in a line
_ORDER = {Action.BLOCK: 0, Action.ALERT: 1, Action.IGNORE: 2}
_STATUSES = {s: i for i, s in enumerate(Status)}


@dataclass(frozen=True, slots=True)
class Result:
    """How one check came out.

    Attributes:
        check: that.
        status: fail, pass, unknown, or not-applicable.
        evidence: what was found, or why nothing is known; one line without secrets.
        error: a custom check ended otherwise than it should.
    """

    check: Check
    status: Status
    evidence: str = ""
    error: bool = False

    def to_json(self) -> dict[str, Any]:
        """As plain values."""
        return {
            "id": self.check.id,
            "alias": self.check.alias,
            "title": self.check.title,
            "severity": self.check.severity,
            "status": str(self.status),
            "evidence": self.evidence,
            "remedy": self.check.remedy,
            "standards": [f"{name} {number}".strip() for name, number in self.check.standards],
        }


@dataclass(frozen=True, slots=True)
class ComplianceDecision:
    """What the results lead to under one rule.

    Attributes:
        action: the hardest of what failed checks lead to.
        rule: name of the rule.
        results: each with what it leads to: what blocks first, then what alerts, then the rest.
        text: one line: how many checks failed, of which severity, and the worst; "" when none
            counts.
        message: ``text`` with the rule and what it does, for who starts the container.
        counts: how many failed checks of which severity count.
    """

    action: Action
    rule: str
    results: tuple[tuple[Result, Action], ...]
    text: str = ""
    message: str = ""
    counts: dict[str, int] = field(default_factory=dict, compare=False)

    @property
    def blocking(self) -> tuple[Result, ...]:
        """What keeps the container from running."""
        return tuple(result for result, action in self.results if action is Action.BLOCK)

    @property
    def alerting(self) -> tuple[Result, ...]:
        """What is told."""
        return tuple(result for result, action in self.results if action is Action.ALERT)

    @property
    def unknown(self) -> tuple[Result, ...]:
        """What could not be judged."""
        return tuple(result for result, _ in self.results if result.status is Status.UNKNOWN)


def evaluate(subject: Subject, customs: Sequence[CustomCheck] = ()) -> list[Result]:
    """Ask every check.

    Custom checks are programs and take their time: call this in a thread when there are some.

    Args:
        subject: what they look at.
        customs: people's own checks.
    """
    found = [_result(check, run(check, subject)) for check in builtin()]
    return found + [_result(custom.check, custom.run(subject)) for custom in customs]


def _result(check: Check, verdict: Verdict) -> Result:
    return Result(check, verdict.status, verdict.evidence, verdict.error)


def decide(results: Sequence[Result], rule: ComplianceRule) -> ComplianceDecision:
    """What results lead to.

    What is not known leads to nothing, but is among the results; only a custom check that ended in
    an error counts as failed where the rule refuses what cannot be judged.
    """
    judged = sorted(
        ((result, _effect(result, rule)) for result in results),
        key=lambda pair: (_ORDER[pair[1]], _STATUSES[pair[0].status], sort_key(pair[0].check)),
    )
    action = min((a for _, a in judged), key=_ORDER.__getitem__, default=Action.IGNORE)
    counting = [result for result, a in judged if a is not Action.IGNORE]
    counts = Counter(result.check.severity for result in counting)
    # What blocks is what whoever starts it has to mend; the rest is told elsewhere.
    text = _text([result for result, a in judged if a is action and a is not Action.IGNORE])
    message = ""
    if text:
        what = "blocked by" if action is Action.BLOCK else "alert of"
        message = f"{what} rule {rule.name!r}: {text}"
        message += f" - {rule.message}" if rule.message else ""
    return ComplianceDecision(action, rule.name, tuple(judged), text, message, dict(counts))


def _effect(result: Result, rule: ComplianceRule) -> Action:
    counts = result.status is Status.FAIL or (result.error and not rule.allow_on_error)
    return rule.effect(result.check) if counts else Action.IGNORE


def _text(failed: Sequence[Result]) -> str:
    if not failed:
        return ""
    counts = Counter(result.check.severity for result in failed)
    listed = ", ".join(f"{level}: {counts[level]}" for level in reversed(LEVELS) if counts[level])
    number = f"{len(failed)} failed check{'' if len(failed) == 1 else 's'}"
    worst = ", ".join(f"{r.check.id} {r.check.title}" for r in failed[:NAMED_MAX])
    more = f", and {len(failed) - NAMED_MAX} more" if len(failed) > NAMED_MAX else ""
    return f"{number} [{listed}]: {worst}{more}"


def by_number(results: Sequence[Result]) -> list[Result]:
    """In the order of the benchmark."""
    return sorted(results, key=lambda r: natural(r.check.id))


def unnamed(rule: ComplianceRule, results: Sequence[Result]) -> tuple[str, ...]:
    """Checks that a rule names and that there are none of: custom ones that were not loaded."""
    known = {name for r in results for name in (r.check.id, r.check.alias)}
    return tuple(name for name in rule.own_checks if name not in known)
