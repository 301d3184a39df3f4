"""What two models have and have not in common."""

from __future__ import annotations

from dataclasses import dataclass

from sensor.models.arguments import shape_text
from sensor.models.inherit import unconfirmed
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
    unconfirmed: tuple[Key, ...] = ()  # the right one inherited them and has not seen them yet

    def lines(self) -> list[str]:
        """One line a key: ``-`` the left model's, ``+`` the right one's, ``?`` to be confirmed."""
        return [
            *(f"- {describe(key)}" for key in self.only_left),
            *(f"+ {describe(key)}" for key in self.only_right),
            *(f"? {describe(key)}" for key in self.unconfirmed),
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
    waiting = frozenset(unconfirmed(right))
    confirmed = right.keys.keys() - waiting
    return Difference(
        left=left.id,
        right=right.id,
        only_left=tuple(sorted(left.keys.keys() - confirmed - waiting, key=describe)),
        only_right=tuple(sorted(confirmed - left.keys.keys(), key=describe)),
        common=len(left.keys.keys() & confirmed),
        unconfirmed=tuple(sorted(waiting, key=describe)),
    )
