"""What the registry asks of a container runtime."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

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


@dataclass(frozen=True, slots=True)
class RestartPolicy:
    """When a runtime starts a container again by itself."""

    name: str = "no"  # "no", "always", "unless-stopped", "on-failure"
    maximum_retries: int = 0  # with "on-failure"; 0: no limit

    def __str__(self) -> str:
        return f"{self.name}:{self.maximum_retries}" if self.maximum_retries else self.name


@runtime_checkable
class Gated(Protocol):
    """What a runtime tells of a container whose start is being held. Docker, Podman, containerd."""

    name: str

    async def at_gate(self, container_id: str) -> tuple[Container, dict[str, Any]] | None:
        """The container and the runtime's own inspection of it, empty where there is none.

        Never waits for the start that is held. None: the runtime does not know it.

        Raises:
            RuntimeUnavailableError: the runtime does not answer.
        """

    def hold(self, container: Container) -> None:
        """Its start is held: nothing may ask for what the runtime does not answer meanwhile."""

    def release(self, container_id: str) -> None:
        """Its start goes on, or is over."""


@runtime_checkable
class Control(Protocol):
    """What a runtime can do to a container, and tell of it. Docker and Podman offer it.

    Every method raises RuntimeUnavailableError when the runtime does not answer or refuses.
    """

    async def details(self, container_id: str) -> dict[str, Any] | None:
        """The runtime's own inspection, as it is; None for a container it does not know."""

    async def image_details(self, image_id: str) -> dict[str, Any] | None:
        """The runtime's own inspection of an image."""

    async def changes(self, container_id: str) -> list[tuple[str, str]]:
        """What differs from the image: ("added" | "changed" | "deleted", path)."""

    def export(self, container_id: str) -> AsyncIterator[bytes]:
        """The container's whole file system as a tar, in pieces."""

    async def restart_policy(self, container_id: str) -> RestartPolicy:
        """When the runtime starts it again."""

    async def set_restart_policy(self, container_id: str, policy: RestartPolicy) -> None:
        """Change that. It is durable: it outlives the runtime's daemon."""

    async def stop(self, container_id: str, grace_seconds: float) -> bool:
        """Stop it as a person would, so that the policy "unless-stopped" does not bring it back.

        Returns:
            False when it did not run: then the runtime does not count it as stopped by hand.
        """

    async def start(self, container_id: str) -> None:
        """Start it again."""
