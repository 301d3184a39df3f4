"""What the registry asks of a container runtime."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from sensor.containers.container import Container


@dataclass(slots=True)
class RuntimeStatus:
    """Whether a runtime answers, for `rote status`."""

    name: str
    address: str
    available: bool = False
    version: str = ""
    error: str = ""
    containers: int = 0


@dataclass(frozen=True, slots=True)
class RuntimeEvent:
    """A container started, stopped or changed (its name, say)."""

    kind: str  # "created", "running" (found running), "started", "stopped", "changed"
    container_id: str
    container: Container | None = None


Sink = Callable[[RuntimeEvent], None]


class Runtime(Protocol):
    """One container runtime on this host."""

    name: str

    async def run(self, sink: Sink) -> None:
        """Report containers until cancelled; reconnect by itself when the runtime goes away."""

    async def inspect(self, container_id: str) -> Container | None:
        """Everything about one container, or None when this runtime does not know it.

        Raises:
            RuntimeUnavailableError: the runtime does not answer.
        """

    def status(self) -> RuntimeStatus:
        """How it is."""

    async def close(self) -> None:
        """Let go of connections."""
