"""Everything that apprise can reach. It is optional, large, and loaded only where it is used."""

from __future__ import annotations

import importlib.util
from typing import Any

from sensor.audits.audit import Severity
from sensor.channels.files import Apprise
from sensor.channels.message import Message
from sensor.channels.sender import Worker, read_address
from sensor.errors import DeliveryError

MISSING = "apprise is not installed; install rote-sensor[apprise]"
_TYPES = {Severity.CRITICAL: "failure", Severity.HIGH: "failure", Severity.MEDIUM: "warning"}


class AppriseSender:
    """See ``Sender``."""

    def __init__(self, channel: Apprise) -> None:
        self._channel = channel
        self._worker = Worker()

    async def send(self, message: Message) -> str:
        """See ``Sender.send``."""
        await self._worker.run(lambda: self._deliver(message))
        return ""

    async def close(self) -> None:
        """See ``Sender.close``."""

    def _deliver(self, message: Message) -> None:
        if importlib.util.find_spec("apprise") is None:
            raise DeliveryError(MISSING)
        import apprise

        service: Any = apprise.Apprise()
        if not service.add(read_address(self._channel.url)):
            raise DeliveryError("apprise does not know such an address")
        # What is wrong it says in its own log, with addresses in it; we keep that out of ours.
        if not service.notify(
            title=f"[rote] {message.title()}",
            body=message.text(),
            notify_type=_TYPES.get(message.severity, "info"),
            body_format="text",
        ):
            raise DeliveryError("the service did not take it, says apprise")
