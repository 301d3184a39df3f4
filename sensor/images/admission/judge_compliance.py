"""What rules of kind ``compliance`` make of a container's start."""

from __future__ import annotations

import asyncio
import datetime as dt
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sensor.audits.audit import Action, AuditType, Severity
from sensor.containers.container import Container
from sensor.errors import ImageError
from sensor.images.admission.opinion import Opinion
from sensor.images.admission.start import Start
from sensor.images.compliance.custom import CustomCheck, read_custom_checks
from sensor.images.compliance.facts import HashList, ImageFacts, read_hash_list
from sensor.images.compliance.judge import ComplianceDecision, Result, decide, evaluate
from sensor.images.compliance.subject import Subject, read_host_facts
from sensor.images.package import Inventory
from sensor.images.vulns.told import ToldStore
from sensor.rules.compliance import ComplianceRule

_SEVERITIES = {
    "low": Severity.LOW, "medium": Severity.MEDIUM, "high": Severity.HIGH,
    "critical": Severity.CRITICAL,
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Contents:
    """What an image holds, and how its runtime describes it."""

    inventory: Inventory
    facts: ImageFacts
    details: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class OwnChecks:
    """What people add to the checks: programs, and hashes of malware."""

    customs: tuple[CustomCheck, ...] = ()
    hashes: HashList = HashList()

    @classmethod
    def read(cls, directory: Path, hash_file: Path) -> OwnChecks:
        """Read both; what is not there is empty.

        Raises:
            BadInputError: one is not what it should be.
        """
        hashes = read_hash_list(hash_file) if hash_file.exists() else HashList()
        return cls(read_custom_checks(directory), hashes)


async def about_compliance(
    start: Start,
    rule: ComplianceRule,
    contents: Contents,
    own: OwnChecks,
    *,
    told: ToldStore,
    today: dt.date,
) -> Opinion | None:
    """What failed checks lead to.

    Args:
        start: of the container.
        rule: that counts for it.
        contents: of its image.
        own: people's own checks.
        told: what people know already.
        today: is noted with it.

    Returns:
        None when no check failed that the rule minds, and all are known that would refuse.

    Raises:
        ImageError: one that would refuse is not known, and the rule refuses what cannot be judged.
    """
    subject = Subject.from_start(
        start, contents.details, contents.facts, inventory=contents.inventory,
        host=read_host_facts(),
    )  # fmt: skip
    results = await _results(subject, own.customs)
    decision = decide(results, rule)
    container = start.container
    unknown = [r for r in decision.unknown if rule.effect(r.check) is Action.BLOCK]
    if unknown and decision.action is not Action.BLOCK and not rule.allow_on_error:
        raise ImageError(f"not known: {'; '.join(map(_line, unknown))}")
    if decision.action is Action.IGNORE:
        return _about_unknown(container, rule, unknown, told, today) if unknown else None
    notes = {_note(result, action): result for result, action in _counting(decision)}
    fresh = told.unnoted(container.model_id, notes)
    new = [notes[note] for note in fresh]
    failed = [result for result, _ in _counting(decision)]
    worst = max((_SEVERITIES[r.check.severity] for r in new or failed), default=Severity.LOW)
    return Opinion(
        AuditType.COMPLIANCE_FAILED,
        decision.action,
        rule.name,
        decision.message,
        worst,
        "; ".join(_line(result) for result in new),
        {
            "counts": " ".join(f"{level}:{count}" for level, count in decision.counts.items()),
            "checks": " ".join(result.check.id for result in failed),
            **({"not_known": " ".join(r.check.id for r in unknown)} if unknown else {}),
        },
        lambda: told.note(container.model_id, tuple(notes), today),
    )


def _about_unknown(
    container: Container,
    rule: ComplianceRule,
    unknown: Sequence[Result],
    told: ToldStore,
    today: dt.date,
) -> Opinion:
    """What could not be judged of what would refuse: it goes on, and people are told so once."""
    notes = [f"check {result.check.id}: not known" for result in unknown]
    fresh = told.unnoted(container.model_id, notes)
    found = "; ".join(map(_line, unknown)) if fresh else ""
    return Opinion(
        AuditType.COMPLIANCE_FAILED,
        Action.ALERT,
        rule.name,
        severity=Severity.LOW,
        found=f"not known, so that it goes on: {found}" if found else "",
        facts={"not_known": " ".join(result.check.id for result in unknown)},
        told=lambda: told.note(container.model_id, notes, today),
    )


async def _results(subject: Subject, customs: Sequence[CustomCheck]) -> list[Result]:
    # Programs take their time; the others take a millisecond or two.
    if customs:
        return await asyncio.to_thread(evaluate, subject, customs)
    return evaluate(subject)


def _counting(decision: ComplianceDecision) -> list[tuple[Result, Action]]:
    return [pair for pair in decision.results if pair[1] is not Action.IGNORE]


def _note(result: Result, action: Action) -> str:
    return f"check {result.check.id}: {action}"


def _line(result: Result) -> str:
    evidence = f" ({result.evidence})" if result.evidence else ""
    return f"{result.check.id} {result.check.title}{evidence}"
