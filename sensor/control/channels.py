"""What the verbs about channels do."""

from __future__ import annotations

from typing import Any

from sensor.channels.channel import Channels
from sensor.control.server import Handler


def channel_handlers(channels: Channels) -> dict[str, Handler]:
    """Verb → handler.

    Args:
        channels: of the running daemon.
    """

    def status(_: dict[str, Any]) -> dict[str, Any]:
        outbox = channels.outbox
        return {
            "directory": str(outbox.directory) if outbox else "",
            "error": outbox.error if outbox else "",
            "repeats_dropped": outbox.repeats_dropped if outbox else 0,
            "channels": channels.status(),
        }

    async def test(args: dict[str, Any]) -> list[dict[str, Any]]:
        return await channels.test(str(args.get("name") or ""))

    async def reload(_: dict[str, Any]) -> dict[str, list[str]]:
        return await channels.reload()

    return {"channels.status": status, "channels.test": test, "channels.reload": reload}
