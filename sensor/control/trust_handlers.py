"""What the verbs do by which people decide about a model's keys."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable
from typing import Any

from sensor.audits.acceptance import accepted_keys
from sensor.control.server import Handler
from sensor.errors import UsageError
from sensor.models.diff import describe
from sensor.models.keys import ExecKey, Key
from sensor.models.model import Evidence, Model, Source
from sensor.models.trust import WritesAndExecutes, key_id, writes_and_executes
from sensor.pipeline import Pipeline

_log = logging.getLogger("rote.trust")
_ID_MIN = 4  # of eight digits


class TrustHandlers:
    """The verbs, by name.

    Args:
        pipeline: the running loop.
        clock: seconds since the epoch.
    """

    def __init__(self, pipeline: Pipeline, clock: Callable[[], float] = time.time) -> None:
        self._pipeline = pipeline
        self._clock = clock

    def table(self) -> dict[str, Handler]:
        """Verb → handler."""
        return {
            "models.accept": self._accept,
            "models.accept_held": self._accept_held,
            "models.drop_held": self._drop_held,
            "models.remove_keys": self._remove_keys,
            "models.writes_and_executes": self._writes_and_executes,
        }

    def _model(self, args: dict[str, Any]) -> Model:
        return self._pipeline.models.get(str(args["model"]))

    def _accept(self, args: dict[str, Any]) -> list[dict[str, Any]]:
        """Everything is looked at before anything is changed."""
        wanted: list[tuple[int, Model, list[Key]]] = []
        for number in args["audits"]:
            audit = self._pipeline.audits.get(int(number))
            if audit is None:
                raise UsageError(f"audit {number}: there is none; see: rote audits list")
            keys = accepted_keys(audit)
            wanted.append((audit.id, self._pipeline.models.get(audit.model_id), keys))
        return [
            {"audit": number, "model": _name(model), "keys": self._admit(model, keys)}
            for number, model, keys in wanted
        ]

    def _accept_held(self, args: dict[str, Any]) -> dict[str, Any]:
        model = self._model(args)
        return {"model": _name(model), "keys": self._admit(model, list(model.trust.held))}

    def _admit(self, model: Model, keys: list[Key]) -> list[str]:
        """Let the model know keys, and the kernel at once; those that it did not know, in words."""
        fresh = [key for key in dict.fromkeys(keys) if key not in model.keys]
        model.trust.lift(keys)
        for key in fresh:
            model.add(key, Evidence(self._now_ns(), self._now_ns(), source=Source.ACCEPTED))
        self._pipeline.admit(model, fresh)
        self._pipeline.flush()
        for key in fresh:
            _log.info("model %s: a person accepted: %s", _name(model), describe(key))
        return [describe(key) for key in fresh]

    def _drop_held(self, args: dict[str, Any]) -> dict[str, Any]:
        model = self._model(args)
        return self._keep_out(model, list(model.trust.held))

    def _remove_keys(self, args: dict[str, Any]) -> dict[str, Any]:
        model, texts = self._model(args), [str(text) for text in args["keys"]]
        trust = model.trust
        if not args.get("forget"):
            known = [*model.keys, *trust.held, *trust.inherited]
            return self._keep_out(model, [k for t in texts for k in find_keys(known, t, model)])
        keys = [key for text in texts for key in find_keys(trust.removed, text, model)]
        for key in keys:
            trust.removed.pop(key, None)
        self._changed(model)
        return _answer(model, keys)

    def _keep_out(self, model: Model, keys: list[Key]) -> dict[str, Any]:
        model.remove(keys)
        model.trust.lift(keys)
        model.trust.removed.update(dict.fromkeys(keys, self._now_ns()))
        self._changed(model)
        return _answer(model, keys)

    def _writes_and_executes(self, args: dict[str, Any]) -> dict[str, Any]:
        model, directory = self._model(args), str(args["directory"])
        asked = [writes_and_executes(directory, str(program)) for program in args["by"]]
        allowed = model.trust.capabilities
        if args.get("remove"):
            for one in asked:
                if one not in allowed:
                    there = "; ".join(map(str, sorted(allowed))) or "nothing"
                    raise UsageError(
                        f"model {model.name}: may not execute {one} as it is; it may: {there}"
                    )
            allowed.difference_update(asked)
        else:
            allowed.update(asked)
            self._trust_again(model, asked)
        self._changed(model)
        return {"model": _name(model), "capabilities": [str(one) for one in asked]}

    def _trust_again(self, model: Model, allowed: list[WritesAndExecutes]) -> None:
        """Who was suspected for just what is allowed now may teach again."""

        def covers(path: str) -> bool:
            return any(one.pattern.matches(path) for one in allowed)

        model.trust.tried = {t: n for t, n in model.trust.tried.items() if not covers(t[0])}
        for watched in self._pipeline.watched():
            if watched.model.id == model.id:
                self._pipeline.teaching.lift(watched.container.id, covers)

    def _changed(self, model: Model) -> None:
        self._pipeline.models.changed(model)
        self._pipeline.reload_model(model)
        self._pipeline.flush()

    def _now_ns(self) -> int:
        return int(self._clock() * 1e9)


def _name(model: Model) -> str:
    return f"#{model.number} {model.name}"


def _answer(model: Model, keys: list[Key]) -> dict[str, Any]:
    return {"model": _name(model), "keys": [describe(key) for key in keys]}


def find_keys(keys: Iterable[Key], text: str, model: Model) -> list[Key]:
    """The keys that a person means.

    Args:
        keys: among these.
        text: an id as `rote models keys` shows it, or the beginning of one; or a program, or the
            pattern of changed paths, exactly as shown.
        model: named in errors.

    Raises:
        UsageError: none, or an id that is several's.
    """
    found: list[Key] = []
    if text.startswith("/"):
        found = [key for key in keys if text == _object(key)]
    elif len(text) >= _ID_MIN:
        found = [key for key in keys if key_id(key).startswith(text.lower())]
        if len(set(found)) > 1:
            raise UsageError(f"key {text!r}: {len(found)} keys begin so; give more of it")
    if not found:
        raise UsageError(
            f"key {text!r}: model {model.name} has none; expected an id, a program or a pattern "
            "as shown by: rote models keys"
        )
    return list(dict.fromkeys(found))


def _object(key: Key) -> str:
    return str(key.program) if isinstance(key, ExecKey) else key.pattern
