"""Everybody who is told: the channels that are always there, and those of the channel files.

The first, terminal and journal, are told at once and from memory. The others are fed from the
store of audits through a durable queue (``outbox.py``).
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from sensor.audits.audit import Audit
from sensor.channels.outbox import Outbox

_log = logging.getLogger("rote.channels")
_QUEUE_MAX = 10_000


class Channel(Protocol):
    """One way to tell somebody."""

    name: str

    async def send(self, audit: Audit) -> None:
        """Deliver one audit.

        Raises:
            OSError: it could not be delivered.
        """


@dataclass
class _Line:
    """A channel, its queue, and what became of what was put in."""

    channel: Channel
    queue: asyncio.Queue[Audit] = field(default_factory=lambda: asyncio.Queue(_QUEUE_MAX))
    sent: int = 0
    failed: int = 0
    dropped: int = 0
    task: asyncio.Task[None] | None = None


class Channels:
    """Hands audits to every channel; a slow or broken one holds up only itself.

    Args:
        channels: the ones that are always there.
        outbox: the ones of the files.
    """

    def __init__(self, channels: Sequence[Channel], outbox: Outbox | None = None) -> None:
        self._lines = [_Line(channel) for channel in channels]
        self.outbox = outbox

    def start(self) -> None:
        """Begin to deliver; needs a running loop."""
        for line in self._lines:
            line.task = asyncio.create_task(self._deliver(line), name=line.channel.name)
        if self.outbox is not None:
            self.outbox.start()

    def send(self, audit: Audit) -> None:
        """Queue an audit for every channel. Never waits; what does not fit is counted."""
        for line in self._lines:
            try:
                line.queue.put_nowait(audit)
            except asyncio.QueueFull:
                line.dropped += 1
        if self.outbox is not None:
            self.outbox.notice(audit)

    async def reload(self) -> dict[str, list[str]]:
        """Read the channel files anew; see ``Outbox.reload``."""
        return await self.outbox.reload() if self.outbox is not None else {}

    @property
    def count(self) -> int:
        """How many channels there are."""
        return len(self.status())

    async def test(self, name: str = "") -> list[dict[str, Any]]:
        """Send a test message; see ``Outbox.test``."""
        return await self.outbox.test(name) if self.outbox is not None else []

    async def _deliver(self, line: _Line) -> None:
        while True:
            audit = await line.queue.get()
            try:
                await line.channel.send(audit)
                line.sent += 1
            except OSError as error:
                line.failed += 1
                if line.failed == 1 or line.failed % 1000 == 0:
                    _log.warning(
                        "channel %s: %s (%d failed so far)",
                        line.channel.name,
                        error.strerror or error,
                        line.failed,
                    )
            finally:
                line.queue.task_done()

    async def close(self, seconds: float = 1.0) -> None:
        """Deliver what waits, at most so many seconds, and stop."""
        waits = [line.queue.join() for line in self._lines if line.task]
        if waits:
            try:
                await asyncio.wait_for(asyncio.gather(*waits), seconds)
            except TimeoutError:
                _log.warning("channels: some alerts were not delivered before the stop")
        for line in self._lines:
            if line.task:
                line.task.cancel()
        if self.outbox is not None:
            await self.outbox.close(seconds)

    def status(self) -> list[dict[str, object]]:
        """What became of the alerts, a map a channel."""
        return [
            *self._always(),
            *(self.outbox.status() if self.outbox is not None else []),
        ]

    def _always(self) -> list[dict[str, object]]:
        return [
            {
                "name": line.channel.name,
                "sent": line.sent,
                "failed": line.failed,
                "dropped": line.dropped,
                "waiting": line.queue.qsize(),
            }
            for line in self._lines
        ]
