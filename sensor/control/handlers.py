"""What each verb on the control socket does."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Callable
from dataclasses import asdict
from typing import Any

from sensor import __version__
from sensor.audits.audit import Audit
from sensor.audits.query import AuditQuery
from sensor.audits.store import pack_audit
from sensor.control.server import Handler
from sensor.errors import UsageError
from sensor.models.diff import difference
from sensor.models.files import export_bytes, import_model, pack_model
from sensor.models.inherit import parent_of
from sensor.models.model import Model
from sensor.models.outlook import bound_a_day, expected_a_day
from sensor.pipeline import Pipeline

_FOLLOW_SECONDS = 0.25
_STEP = 500


class Handlers:
    """The verbs, by name.

    Args:
        pipeline: the running loop.
        settings: what `rote status` says of them.
        stop: lets the daemon end.
        more: what others add to `rote status`.
    """

    def __init__(
        self,
        pipeline: Pipeline,
        settings: dict[str, Any],
        stop: Callable[[], None],
        more: Callable[[], dict[str, Any]],
    ) -> None:
        self._more = more
        self._pipeline = pipeline
        self._settings = settings
        self._stop = stop

    def table(self) -> dict[str, Handler]:
        """Verb → handler."""
        return {
            "status": self._status,
            "stop": self._end,
            "containers": lambda _: self._pipeline.containers(),
            "models.list": self._models_list,
            "models.show": self._models_show,
            "models.diff": self._models_diff,
            "models.change": self._models_change,
            "models.export": self._models_export,
            "models.import": self._models_import,
            "models.remove": self._models_remove,
            "audits.list": self._audits_list,
            "audits.show": self._audits_show,
            "audits.follow": self._audits_follow,
            "audits.head": self._audits_head,
        }

    def _status(self, _: dict[str, Any]) -> dict[str, Any]:
        return {
            "version": __version__,
            **self._pipeline.status(),
            **self._more(),
            "settings": self._settings,
        }

    def _end(self, _: dict[str, Any]) -> int:
        asyncio.get_running_loop().call_soon(self._stop)
        return os.getpid()

    def _models_list(self, _: dict[str, Any]) -> list[dict[str, Any]]:
        return [summary(model) for model in self._pipeline.models.all()]

    def _models_show(self, args: dict[str, Any]) -> bytes:
        return pack_model(self._model(args))

    def _models_diff(self, args: dict[str, Any]) -> dict[str, Any]:
        models = self._pipeline.models
        right = models.get(str(args["right"]))
        left = models.get(str(args["left"])) if args["left"] else parent_of(right, models.all())
        found = difference(left, right)
        return {
            "left": found.left,
            "right": found.right,
            "common": found.common,
            "unconfirmed": len(found.unconfirmed),
            "lines": found.lines(),
        }

    def _models_change(self, args: dict[str, Any]) -> dict[str, Any]:
        model = self._model(args)
        models = self._pipeline.models
        verbs = {
            "learn": models.learn_again,
            "extend": models.extend,
            "activate": models.activate,
            "archive": models.archive,
            "restore": models.restore,
        }
        verb = str(args.get("verb"))
        if verb not in verbs:
            raise UsageError(f"model verb {verb!r}: expected one of {', '.join(verbs)}")
        moved = verbs[verb](model)
        if verb == "archive":
            self._pipeline.forget_model(model)
        else:
            self._pipeline.reload_model(models.get(moved.model_id))
        return asdict(moved)

    def _models_export(self, args: dict[str, Any]) -> bytes:
        return export_bytes(self._model(args))

    def _models_import(self, args: dict[str, Any]) -> dict[str, Any]:
        model = import_model(args["data"], str(args["where"]))
        taken = self._pipeline.models.take_in(
            model,
            replace_existing=bool(args.get("replace")),
            merge=bool(args.get("merge")),
        )
        self._pipeline.reload_model(taken)
        self._pipeline.flush()
        return summary(taken)

    def _models_remove(self, args: dict[str, Any]) -> dict[str, Any]:
        model = self._model(args)
        self._pipeline.models.remove(model)
        self._pipeline.forget_model(model)
        return summary(model)

    def _model(self, args: dict[str, Any]) -> Model:
        return self._pipeline.models.get(str(args.get("name", "")))

    def _audits_list(self, args: dict[str, Any]) -> list[bytes]:
        return [
            packed(audit) for audit in self._pipeline.audits.query(AuditQuery.from_options(args))
        ]

    def _audits_show(self, args: dict[str, Any]) -> bytes:
        number = int(args.get("id", 0))
        audit = self._pipeline.audits.get(number)
        if audit is None:
            raise UsageError(f"audit {number}: there is none; see: rote audits list")
        return packed(audit)

    def _audits_head(self, _: dict[str, Any]) -> dict[str, Any]:
        """Where the audits are, and the head of their chain as this process remembers it."""
        store = self._pipeline.audits
        return {"database": str(store.path.absolute()), "head": str(store.head)}

    async def _audits_follow(self, args: dict[str, Any]) -> AsyncIterator[bytes]:
        query = AuditQuery.from_options({**args, "limit": int(args.get("limit") or 10)})
        recent = self._pipeline.audits.query(query)
        last = self._pipeline.audits.last_id()
        for audit in recent:
            yield packed(audit)
        while True:
            await asyncio.sleep(_FOLLOW_SECONDS)
            if self._pipeline.audits.last_id() == last:
                yield b""  # notices a reader that has gone
                continue
            fresh = self._pipeline.audits.query(
                AuditQuery.from_options({**args, "after_id": last, "limit": _STEP})
            )
            last = self._pipeline.audits.last_id()
            for audit in fresh:
                yield packed(audit)


def packed(audit: Audit) -> bytes:
    """An audit as it travels; the reader formats it."""
    return pack_audit(audit)


def summary(model: Model) -> dict[str, Any]:
    """A model in one row."""
    return {
        "number": model.number,
        "id": model.id,
        "image": model.name,
        "state": str(model.state),
        "manual": model.manual,
        "keys": len(model.keys),
        "executions": sum(1 for key in model.keys if not hasattr(key, "pattern")),
        "writes": sum(1 for key in model.keys if hasattr(key, "pattern")),
        "containers": model.containers,
        "runs": model.runs,
        "complete_runs": model.complete_runs,
        "observed_seconds": round(model.observed_seconds, 1),
        "dry_run_seconds": round(model.dry_run_seconds, 1),
        "extensions": model.extensions,
        "lost": model.lost,
        "expected_per_day": expected_a_day(model),
        "max_false_alarms_per_day": bound_a_day(model),
        "unsettled": sorted(model.unsettled),
        "unconfirmed": model.unconfirmed,
        "held": len(model.trust.held),
    }
