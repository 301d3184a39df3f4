"""The shipped rule: alert on every deviation of every container."""

from __future__ import annotations

from dataclasses import dataclass

from sensor.audits.audit import Action
from sensor.containers.container import Container
from sensor.events import Event


@dataclass(frozen=True, slots=True)
class Decision:
    """Which rule decided, and what it asks for."""

    rule: str
    action: Action


_ALERT = Decision("default", Action.ALERT)


def decide(container: Container, event: Event) -> Decision:  # noqa: ARG001 - every rule's question
    """What a deviation leads to."""
    return _ALERT
