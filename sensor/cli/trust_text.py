"""What keeps keys out of a model, and what waits for a person, as text and as JSON."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from sensor.audits.formats import escape, iso, when
from sensor.models.diff import describe
from sensor.models.inherit import unconfirmed
from sensor.models.keys import Key
from sensor.models.model import Model
from sensor.models.trust import Suggestion, key_id, singletons, suggestions


def key_line(key: Key, remark: str = "") -> str:
    """A key by its id and in words."""
    return f"  {key_id(key)}  {escape(describe(key))}" + (f"  ({escape(remark)})" if remark else "")


def _listed(title: str, lines: Iterable[str]) -> list[str]:
    found = list(lines)
    return [f"{title} ({len(found)})", *found] if found else []


def trust_page(model: Model) -> list[str]:
    """What a person should know besides the keys; nothing when there is nothing."""
    trust = model.trust
    lines: list[str] = []
    if trust.inherited_from:
        lines.append(
            f"Started from {escape(trust.inherited_from)}; what changed: rote models diff "
            + escape(model.name)
        )
    lines += _listed(
        "May execute what was made at run time",
        (f"  {escape(str(one))}" for one in sorted(trust.capabilities)),
    )
    lines += _listed(
        "Held until a person has looked: rote models accept --held, rote models held --drop",
        held_lines(model),
    )
    lines += _listed("Inherited, not seen with this image yet", map(key_line, unconfirmed(model)))
    lines += _listed(
        f"Seen in one of {model.runs} runs only: look at them", map(key_line, singletons(model))
    )
    lines += _listed(
        "Removed by a person, and kept out",
        (key_line(key, when(time_ns)) for key, time_ns in trust.removed.items()),
    )
    if trust.untaught:
        lines.append(
            f"{trust.untaught} times something was not learned for what it was or who did it; "
            "the audits say why"
        )
    return lines + suggestion_lines(model)


def held_lines(model: Model) -> list[str]:
    """What waits for a person, with the reason."""
    return [key_line(key, held.reason) for key, held in model.trust.held.items()]


def suggestion_lines(model: Model) -> list[str]:
    """Capabilities that would cover what the model's programs made and executed."""
    lines: list[str] = []
    for one in suggestions(model):
        made = ", ".join(one.programs[:3]) + (", …" if len(one.programs) > 3 else "")
        by = one.capability.by
        lines.append(
            f"{escape(str(by))} made {len(one.programs)} programs that were executed: "
            f"{escape(made)}, by {escape(', '.join(one.executed_by))}, {one.count} times."
        )
        lines.append(
            "If that is what this image is for: rote models allow-writes-and-executes "
            f"{escape(model.name)} --directory '{escape(one.capability.directory)}' "
            f"--by '{escape(str(by))}'"
        )
    return lines


def trust_json(model: Model) -> dict[str, Any]:
    """With stable field names."""
    trust = model.trust
    return {
        "inherited_from": escape(trust.inherited_from),
        "unconfirmed": [_key(key) for key in unconfirmed(model)],
        "held": [{**_key(key), "reason": escape(h.reason)} for key, h in trust.held.items()],
        "removed": [{**_key(key), "time": iso(t)} for key, t in trust.removed.items()],
        "singletons": [_key(key) for key in singletons(model)],
        "writes_and_executes": [
            {"directory": escape(c.directory), "by": escape(str(c.by))}
            for c in sorted(trust.capabilities)
        ],
        "suggestions": [_suggestion(one) for one in suggestions(model)],
        "untaught": trust.untaught,
    }


def _key(key: Key) -> dict[str, str]:
    return {"id": key_id(key), "key": escape(describe(key))}


def _suggestion(one: Suggestion) -> dict[str, Any]:
    return {
        "directory": escape(one.capability.directory),
        "by": escape(str(one.capability.by)),
        "programs": [escape(path) for path in one.programs],
        "executed_by": [escape(program) for program in one.executed_by],
        "count": one.count,
    }
