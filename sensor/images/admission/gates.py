"""The gates of one daemon: the socket that hooks ask, and what counts when nobody answers."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from sensor.config import Settings
from sensor.containers.container import Container
from sensor.containers.registry import ContainerChange, Registry
from sensor.containers.runtime import Gated, Runtime
from sensor.errors import RoteError
from sensor.images.admission.facts import Facts
from sensor.images.admission.failures import FailureFiles
from sensor.images.admission.fanotify import FanotifyGate
from sensor.images.admission.fanotify_hook import make_hook
from sensor.images.admission.installed import Installation
from sensor.images.admission.server import GateServer
from sensor.images.admission.start import Answer, Failure, Judge, Start

_log = logging.getLogger("rote.gate")
FailureOf = Callable[[Container | None], Failure]


async def allow_all(_: Start) -> Answer:
    """The judge where nobody judges: the gate still brings models into the kernel in time."""
    return Answer(allow=True)


def goes_on(_: Container | None) -> Failure:
    """What counts where no rule says otherwise."""
    return Failure()


class Gates:
    """Admission in one daemon.

    Args:
        settings: of the daemon.
        runtimes: that containers belong to.
        registry: told of what may go on.
        judge: decides about a start.
        failure: what becomes of a start that nobody decides; asked with None for the default,
            which counts for containers that nobody knows: the strictest that a rule says.
    """

    def __init__(
        self,
        settings: Settings,
        runtimes: Sequence[Runtime],
        registry: Registry,
        judge: Judge = allow_all,
        failure: FailureOf = goes_on,
    ) -> None:
        self._settings = settings
        self._fanotify: FanotifyGate | None = None
        self._failure = failure
        self._files = FailureFiles(settings.run_dir)
        self._installation = Installation(settings.gate_dir)
        self.server = GateServer(
            settings.gate_socket,
            Facts([runtime for runtime in runtimes if isinstance(runtime, Gated)]),
            judge,
            failure,
            registry.admitted,
        )

    async def start(self) -> None:
        """Write what counts when nobody answers, and listen.

        Raises:
            StateError: one of them is impossible.
        """
        self._files.start(self._failure(None))
        await self.server.start()
        if self._settings.gate_fanotify != "off":
            self._fanotify = FanotifyGate.of(
                self._settings,
                await make_hook(self._settings),
                ask=self.server.ask_about,
                failure=self._failure(None),
            )
        if self._fanotify is not None:
            await self._fanotify.start()

    async def close(self) -> None:
        """Listen no more. What counts when nobody answers stays: that is now."""
        if self._fanotify is not None:
            await self._fanotify.close()
        await self.server.stop()

    def on_container(self, change: ContainerChange) -> None:
        """A container came or went (``Registry``'s callback)."""
        # One that was removed may be started again: its file stays until others push it out.
        if change.kind in ("created", "added", "changed"):
            self._files.put(change.container.id, self._failure(change.container))

    def blocked(self, container_id: str, held: bool) -> None:
        """A container was taken out of service, or may run again."""
        if held:
            self._files.bar(container_id, _out_of_service(container_id))
        else:
            self._files.unbar(container_id)

    def rules_changed(self, containers: Iterable[Container]) -> None:
        """What counts when nobody answers may be another now."""
        try:
            self._files.set_default(self._failure(None))
        except OSError as error:
            _log.error("gate: %s: %s", error.filename, error.strerror)
        if self._fanotify is not None:
            self._fanotify.set_failure(self._failure(None))
        for container in containers:
            self._files.put(container.id, self._failure(container))

    def status(self) -> dict[str, Any]:
        """For `rote status`."""
        try:
            installed = self._installation.summary()
            problem = ""
        except RoteError as error:
            installed, problem = [], str(error)
        fanotify = self._fanotify.status() if self._fanotify is not None else None
        return {
            "installed": installed,
            "problem": problem,
            "fanotify": fanotify,
            **self.server.status(),
        }


def _out_of_service(container_id: str) -> str:
    short = container_id[:12]
    return (
        f"{short} was taken out of service: rote blocked show {short} says why, "
        f"rote unblock {short} lets it run"
    )
