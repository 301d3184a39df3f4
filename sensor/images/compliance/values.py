"""Values out of other people's JSON. What has another shape than it should is said, never guessed.

None and what is not there are the same: runtimes write both where nothing was set.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from sensor.images.omissions import printable

_KINDS = (
    (bool, "true or false"), (int | float, "a number"), (str, "a text"), (Mapping, "an object"),
    (Sequence, "a list"),
)  # fmt: skip
_OBJECT = (dict, Mapping)  # the first is asked at a tenth of the price
SHOWN_MAX = 200  # characters of one value


class OddValueError(Exception):
    """A value is not what its format says; one line without the value, which may be a secret."""


def at(value: Any, *path: str) -> Any:
    """What lies at a path; None where nothing does.

    Raises:
        OddValueError: something on the way is no object.
    """
    for i, name in enumerate(path):
        if value is None:
            return None
        if not isinstance(value, _OBJECT):
            raise _odd(value, path[:i], "an object")
        value = value.get(name)
    return value


def section(value: Any, *path: str) -> Mapping[str, Any]:
    """An object; empty where there is none."""
    found = at(value, *path)
    if found is None:
        return {}
    if not isinstance(found, _OBJECT):
        raise _odd(found, path, "an object")
    return found


def text(value: Any, *path: str) -> str:
    """A text; "" where there is none."""
    found = at(value, *path)
    if found is None:
        return ""
    if not isinstance(found, str):
        raise _odd(found, path, "a text")
    return found


def number(value: Any, *path: str) -> int | None:
    """A whole number; None where there is none."""
    found = at(value, *path)
    if found is None:
        return None
    if isinstance(found, bool) or not isinstance(found, int | float) or found != found:  # noqa: PLR0124 - NaN
        raise _odd(found, path, "a number")
    return int(max(-(1 << 63), min(found, 1 << 64)))


def flag(value: Any, *path: str) -> bool:
    """True or false; false where there is nothing."""
    found = at(value, *path)
    if found is None:
        return False
    if not isinstance(found, bool):
        raise _odd(found, path, "true or false")
    return found


def items(value: Any, *path: str) -> Sequence[Any]:
    """A list; empty where there is none."""
    found = at(value, *path)
    if found is None:
        return ()
    if not isinstance(found, list | tuple):
        raise _odd(found, path, "a list")
    return found


def texts(value: Any, *path: str) -> list[str]:
    """A list of texts."""
    found = items(value, *path)
    for item in found:
        if not isinstance(item, str):
            raise _odd(item, (*path, "*"), "a text")
    return list(found)


def sections(value: Any, *path: str) -> list[Mapping[str, Any]]:
    """A list of objects."""
    found = items(value, *path)
    for item in found:
        if not isinstance(item, _OBJECT):
            raise _odd(item, (*path, "*"), "an object")
    return list(found)


def listed(parts: Sequence[str], most: int = 5) -> str:
    """Names for a line: the first ones, and how many more there are."""
    shown = ", ".join(shorten(part) for part in parts[:most])
    return shown + (f" and {len(parts) - most} more" if len(parts) > most else "")


def shorten(value: str) -> str:
    """One value as it may stand in a line."""
    value = printable(value)
    return value if len(value) <= SHOWN_MAX else value[: SHOWN_MAX - 1] + "…"


def _odd(value: Any, path: Sequence[str], expected: str) -> OddValueError:
    name = next((name for kind, name in _KINDS if isinstance(value, kind)), type(value).__name__)
    return OddValueError(f"{'.'.join(path) or 'it'} is {name}; expected {expected}")
