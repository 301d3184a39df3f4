"""Reading rules and channels again: by command, by signal, and when files change."""

from __future__ import annotations

import logging
import time
from typing import Any

from sensor.audits.audit import AuditType, Guarantee, Severity
from sensor.audits.record import self_audit
from sensor.containers.container import Container
from sensor.errors import BadInputError
from sensor.pipeline import Pipeline
from sensor.rules.keeper import RuleKeeper

_log = logging.getLogger("rote.reload")
_LOOK_SECONDS = 2.0
_HOST = Container(id="", runtime="", name="rote")


class Reloader:
    """Lets new rules hold, all of them or none.

    Args:
        keeper: of the rules.
        pipeline: where they are to hold.
    """

    def __init__(self, keeper: RuleKeeper, pipeline: Pipeline) -> None:
        self._keeper = keeper
        self._pipeline = pipeline
        self._next_look = 0.0

    def reload(self) -> dict[str, Any]:
        """Read everything again.

        Returns:
            How many rules and channels hold now.

        Raises:
            BadInputError: a file is bad; what held before holds on.
        """
        before = self._pipeline.policy
        rules = self._keeper.reload()
        policy = self._keeper.policy
        if policy != before:
            self._pipeline.set_policy(policy)
            self._tell([rule.name for rule in policy.rules])
        return {"rules": len(rules.rules) + len(rules.image_rules), "channels": 0}

    def reload_quietly(self) -> None:
        """The same for who cannot be answered: the log has what is bad."""
        try:
            found = self.reload()
        except BadInputError as error:
            _log.error("%s; the rules that held before hold on", error)
        else:
            _log.info("%d rules hold", found["rules"])

    def tick(self) -> None:
        """Look every other second whether files changed."""
        now = time.monotonic()
        if now < self._next_look:
            return
        self._next_look = now + _LOOK_SECONDS
        if self._keeper.changed():
            self.reload_quietly()

    def _tell(self, names: list[str]) -> None:
        audit = self_audit(
            AuditType.RULES_CHANGED, Severity.INFO, _HOST, time.time_ns(), Guarantee.DETECT
        )
        audit.extra = {"rules": ", ".join([*names, "default"]), "from": str(self._keeper.path)}
        self._pipeline.record(audit)
