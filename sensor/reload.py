"""Reading rules and channels again: by command, by signal, and when files change."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from typing import Any

from sensor.audits.audit import AuditType, Guarantee, Severity, audit_about
from sensor.channels.channel import Channels
from sensor.containers.container import Container
from sensor.errors import BadInputError, RoteError
from sensor.pipeline import Pipeline
from sensor.rules.keeper import RuleKeeper, signature

_log = logging.getLogger("rote.reload")
_LOOK_SECONDS = 2.0
_HOST = Container(id="", runtime="", name="rote")


class Reloader:
    """Lets new rules and channels hold, all of a kind or none.

    Args:
        keeper: of the rules.
        pipeline: where they are to hold.
        channels: that are to be read again as well.
    """

    def __init__(self, keeper: RuleKeeper, pipeline: Pipeline, channels: Channels) -> None:
        self._keeper = keeper
        self._pipeline = pipeline
        self._channels = channels
        self.on_rules: Callable[[], None] = lambda: None  # who else goes by rules
        self._next_look = 0.0
        self._channels_seen = self._channel_files()
        self._later: asyncio.Task[None] | None = None

    async def reload(self) -> dict[str, Any]:
        """Read everything again.

        Returns:
            How many rules and channels hold now.

        Raises:
            BadInputError: a file is bad; what held before holds on. Bad rules keep good channels
                from being read, not the other way round.
        """
        before, others_before = self._pipeline.policy, self._keeper.rules.image_rules
        rules = self._keeper.reload()
        policy = self._keeper.policy
        if policy != before:
            self._pipeline.set_policy(policy)
        if policy != before or rules.image_rules != others_before:
            others = [rule.name for rule in rules.image_rules]
            self._tell([*(rule.name for rule in policy.rules), *others])
            self.on_rules()
        self._channels_seen = self._channel_files()
        await self._channels.reload()
        return {
            "rules": len(rules.rules) + len(rules.image_rules),
            "channels": self._channels.count,
        }

    def reload_soon(self) -> None:
        """The same for who cannot be answered: the log has what is bad. Needs the loop."""

        async def quietly() -> None:
            try:
                found = await self.reload()
            except BadInputError as error:
                _log.error("%s; what held before holds on", error)
            except RoteError as error:
                _log.error("%s", error)
            else:
                _log.info("%d rules and %d channels hold", found["rules"], found["channels"])

        self._later = asyncio.create_task(quietly(), name="reload")

    def tick(self) -> None:
        """Look every other second whether files changed."""
        now = time.monotonic()
        if now < self._next_look:
            return
        self._next_look = now + _LOOK_SECONDS
        if self._keeper.changed() or self._channel_files() != self._channels_seen:
            self.reload_soon()

    def _channel_files(self) -> object:
        outbox = self._channels.outbox
        return signature(outbox.directory) if outbox is not None else ()

    def _tell(self, names: list[str]) -> None:
        audit = audit_about(
            _HOST, AuditType.RULES_CHANGED, Severity.INFO, time.time_ns(), Guarantee.DETECT
        )
        audit.extra = {"rules": ", ".join([*names, "default"]), "from": str(self._keeper.path)}
        self._pipeline.record(audit)
