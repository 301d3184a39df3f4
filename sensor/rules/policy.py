"""What a deviation leads to: alert everywhere, prevent where a person said so."""

from __future__ import annotations

import fnmatch
from dataclasses import dataclass

from sensor.audits.audit import Action
from sensor.containers.container import Container


@dataclass(frozen=True, slots=True)
class Decision:
    """Which rule decided, and what it asks for."""

    rule: str
    action: Action


_ALERT = Decision("default", Action.ALERT)


@dataclass(frozen=True, slots=True)
class Policy:
    """Which containers are under prevention.

    Args:
        prevent: globs over a container's name and its image's reference and name.
        allow_on_error: under prevention, allow what cannot be judged instead of refusing it.
    """

    prevent: tuple[str, ...] = ()
    allow_on_error: bool = False

    def decide(self, container: Container) -> Decision:
        """What a deviation of this container leads to."""
        names = (container.name, container.image.reference, container.image.name)
        for pattern in self.prevent:
            if any(fnmatch.fnmatchcase(name, pattern) for name in names):
                return Decision(f"--prevent {pattern}", Action.PREVENT)
        return _ALERT

    def prevents(self, container: Container) -> bool:
        """Whether what its model does not know is refused, once the model is active."""
        return self.decide(container).action is Action.PREVENT
