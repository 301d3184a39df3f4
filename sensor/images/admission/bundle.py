"""Our hook put into an OCI runtime's ``config.json``, and nothing else in it changed.

The text is cut in one place and the hook stands there: what Go's and Python's readers of JSON see
differently (numbers, keys that are there twice) stays byte for byte as it was.

Source: opencontainers/runtime-spec, config.md, "POSIX-platform Hooks".
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any, NamedTuple

from sensor.errors import BadInputError

SPEC_MAX = 4 << 20  # bytes; they have some 20 KB
_HOOKS, _STAGE = "hooks", "createRuntime"
_SPACE = " \t\n\r"


class RuntimeHook(NamedTuple):
    """A program that the runtime starts when the container is made and nothing of it runs yet.

    Attributes:
        path: absolute, in the runtime's mount namespace.
        arguments: without the program's own name.
        seconds: after which the runtime gives up, and with it the start.
    """

    path: str
    arguments: tuple[str, ...] = ()
    seconds: int = 15

    @property
    def text(self) -> str:
        """As it stands in ``config.json``."""
        hook = {
            "path": self.path,
            "args": [self.path, *self.arguments],
            "timeout": self.seconds,
        }
        return json.dumps(hook, separators=(",", ":"))


class _Member(NamedTuple):
    name: str
    start: int  # where its value begins
    end: int
    value: Any


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is not JSON")


_decoder = json.JSONDecoder(parse_constant=_refuse_constant)


def insert(data: bytes, hook: RuntimeHook) -> bytes | None:
    """``config.json`` with the hook as the first of its stage; None: it has it already.

    Raises:
        BadInputError: it is too large, no whole JSON, no ``config.json``, or its hooks are not
            what they should be.
    """
    if len(data) > SPEC_MAX:
        raise BadInputError(f"config.json: {len(data)} bytes; expected {SPEC_MAX} at most")
    try:
        return _insert(data.decode(), hook)
    except (ValueError, IndexError) as error:
        raise BadInputError(f"config.json: expected JSON: {error}") from error
    except RecursionError:
        raise BadInputError("config.json: expected JSON that is not as deep") from None


def _insert(text: str, hook: RuntimeHook) -> bytes | None:
    start = _skip(text, 0)
    members, end = _members(text, start)
    if _skip(text, end) != len(text):
        raise ValueError(f"more after its end at {end}")
    if not any(member.name == "ociVersion" for member in members):
        raise BadInputError("config.json: has no ociVersion; expected an OCI runtime's")
    hooks = _only(members, _HOOKS)
    if hooks is None:
        stages = f'"{_HOOKS}":{{"{_STAGE}":[{hook.text}]}}'
        return _at(text, start + 1, stages, more=bool(members))
    if hooks.value is None:
        return _put(text, hooks, f'{{"{_STAGE}":[{hook.text}]}}')
    if not isinstance(hooks.value, dict):
        raise BadInputError("config.json: hooks: expected an object")
    stages_found, _ = _members(text, hooks.start)
    stage = _only(stages_found, _STAGE)
    if stage is None:
        entry = f'"{_STAGE}":[{hook.text}]'
        return _at(text, hooks.start + 1, entry, more=bool(stages_found))
    if stage.value is None:
        return _put(text, stage, f"[{hook.text}]")
    if not isinstance(stage.value, list):
        raise BadInputError(f"config.json: hooks.{_STAGE}: expected a list")
    if any(isinstance(entry, dict) and entry.get("path") == hook.path for entry in stage.value):
        return None
    return _at(text, stage.start + 1, hook.text, more=bool(stage.value))


def _at(text: str, at: int, new: str, *, more: bool) -> bytes:
    return (text[:at] + new + ("," if more else "") + text[at:]).encode()


def _put(text: str, member: _Member, new: str) -> bytes:
    return (text[: member.start] + new + text[member.end :]).encode()


def _only(members: Iterable[_Member], name: str) -> _Member | None:
    """The member that Go takes for ``name``: it does not look at upper and lower case."""
    folded = name.casefold()
    found = [member for member in members if member.name.casefold() == folded]
    if not found:
        return None
    if len(found) > 1 or found[0].name != name:
        raise BadInputError(f"config.json: has {name} more than once, or spelled otherwise")
    return found[0]


def _skip(text: str, at: int) -> int:
    while at < len(text) and text[at] in _SPACE:
        at += 1
    return at


def _members(text: str, at: int) -> tuple[list[_Member], int]:
    """The members of the object that begins at ``at``, and where it ends.

    Raises:
        ValueError, IndexError: it is no object, or does not end.
    """
    if text[at] != "{":
        raise ValueError(f"no object at {at}")
    members: list[_Member] = []
    at = _skip(text, at + 1)
    if text[at] == "}":
        return members, at + 1
    while True:
        if text[at] != '"':
            raise ValueError(f"no name at {at}")
        name, at = _decoder.raw_decode(text, at)
        at = _skip(text, at)
        if text[at] != ":":
            raise ValueError(f"no value at {at}")
        start = _skip(text, at + 1)
        value, at = _decoder.raw_decode(text, start)
        members.append(_Member(name, start, at, value))
        at = _skip(text, at)
        if text[at] == "}":
            return members, at + 1
        if text[at] != ",":
            raise ValueError(f"no comma at {at}")
        at = _skip(text, at + 1)
