"""What is decided about a model, as msgpack values: a part of the model's own file."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from sensor.errors import ModelFileError
from sensor.models.keys import Key, Program
from sensor.models.model import Evidence
from sensor.models.trust import Held, Trust, writes_and_executes

PackKey = Callable[[Key, Evidence], list[Any]]
UnpackKeys = Callable[[Any, str], list[tuple[Key, Evidence]]]


def pack_trust(trust: Trust, pack_key: PackKey) -> dict[str, Any]:
    """As plain values.

    Args:
        trust: what is decided.
        pack_key: writes one key with its evidence.
    """
    return {
        "removed": [pack_key(key, Evidence(when, when)) for key, when in trust.removed.items()],
        "held": [pack_key(key, held.evidence) for key, held in trust.held.items()],
        "held_for": [held.reason for held in trust.held.values()],
        "inherited": [pack_key(key, evidence) for key, evidence in trust.inherited.items()],
        "inherited_from": trust.inherited_from,
        "checked": trust.checked,
        "capabilities": [[c.directory, str(c.by)] for c in sorted(trust.capabilities)],
        "tried": [[path, p.path, p.applet, n] for (path, p), n in trust.tried.items()],
        "untaught": trust.untaught,
    }


def unpack_trust(values: Any, unpack_keys: UnpackKeys, where: str) -> Trust:
    """Read what ``pack_trust`` wrote; None (an earlier Rote's model) is nothing decided.

    Args:
        values: as it wrote them.
        unpack_keys: reads keys with their evidence, given what to name in errors.
        where: what to name in errors.

    Raises:
        ModelFileError: naming the place.
    """
    if values is None:
        return Trust()
    try:
        held = unpack_keys(values["held"], "trust.held")
        return Trust(
            removed={
                key: evidence.first_ns
                for key, evidence in unpack_keys(values["removed"], "trust.removed")
            },
            held={
                key: Held(evidence, str(reason))
                for (key, evidence), reason in zip(held, values["held_for"], strict=True)
            },
            inherited=dict(unpack_keys(values["inherited"], "trust.inherited")),
            inherited_from=str(values["inherited_from"]),
            checked=bool(values["checked"]),
            capabilities={
                writes_and_executes(str(directory), str(by))
                for directory, by in values["capabilities"]
            },
            tried={
                (str(path), Program(str(program), str(applet))): int(count)
                for path, program, applet, count in values["tried"]
            },
            untaught=int(values["untaught"]),
        )
    except (KeyError, TypeError, ValueError) as error:
        raise ModelFileError(f"{where}: trust: {type(error).__name__}: {error}") from error
