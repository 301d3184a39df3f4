"""What rules of one kind make of a container's start."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from sensor.audits.audit import Action, AuditType, Severity


@dataclass(frozen=True, slots=True)
class Opinion:
    """What rules of one kind make of it.

    Attributes:
        kind: of the audit that tells of it.
        action: ``ignore``, ``alert`` or ``block``.
        rule: that decided.
        message: one line for who started the container; "" when there is nothing to say.
        severity: of the worst that was found.
        found: one line of what nobody was told of yet; "" when all of it was told.
        facts: what else belongs into the audit.
        told: to be called when the audit is kept.
    """

    kind: AuditType
    action: Action
    rule: str
    message: str = ""
    severity: Severity = Severity.MEDIUM
    found: str = ""
    facts: dict[str, str] = field(default_factory=dict)
    told: Callable[[], None] = lambda: None


def refusal(opinions: Sequence[Opinion]) -> str:
    """One line of why a start is refused; "" when it is not."""
    return "; ".join(o.message for o in opinions if o.action is Action.BLOCK)
