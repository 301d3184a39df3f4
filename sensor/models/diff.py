"""What two models have and have not in common."""

from __future__ import annotations

from dataclasses import dataclass

from sensor.models.arguments import shape_text
from sensor.models.keys import ANY_ARGUMENTS, ExecKey, Key
from sensor.models.model import Model


@dataclass(frozen=True)
class Difference:
    """Keys that only one of two models knows, and how many both do."""

    left: str
    right: str
    only_left: tuple[Key, ...]
    only_right: tuple[Key, ...]
    common: int

    def lines(self) -> list[str]:
        """One line a key, ``-`` for the left model's, ``+`` for the right one's."""
        return [f"- {describe(key)}" for key in self.only_left] + [
            f"+ {describe(key)}" for key in self.only_right
        ]


def describe(key: Key) -> str:
    """A key in words."""
    if isinstance(key, ExecKey):
        caller = str(key.parent) or "(runtime)"
        what = "script" if key.script else "program"
        actor = key.actor.name.lower()
        called = "" if key.shape == ANY_ARGUMENTS else f", called with {shape_text(key.shape)}"
        origin = key.origin.name.lower()
        return f"exec  {caller} → {key.program} ({what}, {origin}, {actor}{called})"
    operation = (key.operation.name or str(int(key.operation))).lower()
    return f"write {key.program}: {operation} {key.pattern}"


def difference(left: Model, right: Model) -> Difference:
    """Compare the keys of two models."""
    return Difference(
        left=left.id,
        right=right.id,
        only_left=tuple(sorted(left.keys.keys() - right.keys.keys(), key=describe)),
        only_right=tuple(sorted(right.keys.keys() - left.keys.keys(), key=describe)),
        common=len(left.keys.keys() & right.keys.keys()),
    )
