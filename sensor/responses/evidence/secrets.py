"""Secrets out of environments and inspections, beyond what ``sensor.audits.scrub`` does.

A value goes when its name says that it is secret, or when it looks like one; names stay. What was
taken out of an environment is taken out of command lines as well, where a shell may have put it
under no name at all. A net with known holes: contents of files are kept as they are.
"""

from __future__ import annotations

import itertools
import math
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from sensor.audits.scrub import MASK, scrub_argv, scrub_text

_SECRET_NAME = re.compile(
    r"pass|pwd|secret|token|api.?key|_key$|^key$|key_id|keys?_|auth|cred|private|cookie|session|"
    r"signature|salt|dsn|webhook|bearer|jwt|cert$|pin$",
    re.IGNORECASE,
)
# Where a secret is, or how long one lives, is none.
_HARMLESS_NAME = re.compile(r"(?:_file|_path|_dir|_ttl|_timeout|_expiry|_url)$", re.IGNORECASE)
_HARMLESS = ("PWD", "OLDPWD")  # where a shell is, and was
_TOKEN = re.compile(r"[A-Za-z0-9+/=_.~-]{20,}")
_TOKEN_BITS = 3.0  # a character; English words have less, hex digits nearly four
_TOKEN_CHANGES = 0.3  # between digits, lower and upper case, for each character
_KNOWN_MIN = 6  # shorter values would take ordinary words out of command lines
_ENVIRONMENTS = ("Env", "env", "Environment")
_ARGUMENTS = ("Cmd", "Args", "Entrypoint", "Command", "CreateCommand", "Test", "Shell")
_DEPTH_MAX = 32


class Secrets:
    """Takes secrets out, and remembers which they were."""

    def __init__(self) -> None:
        self._known: set[str] = set()

    def environment(self, variables: Mapping[str, str]) -> dict[str, str]:
        """An environment, or labels, without the values that are or look secret."""
        return {name: self._value(name, value) for name, value in variables.items()}

    def argv(self, arguments: Sequence[str]) -> list[str]:
        """A command line without secrets."""
        return [self._without_known(argument) for argument in scrub_argv(arguments)]

    def text(self, text: str) -> str:
        """Any text without secrets."""
        return self._without_known(scrub_text(text))

    def inspection(self, value: Any, depth: int = 0) -> Any:
        """What a runtime says of a container or an image, without secrets."""
        if depth > _DEPTH_MAX:
            return MASK
        if isinstance(value, str):
            return self.text(value)
        if isinstance(value, list):
            return [self.inspection(item, depth + 1) for item in value]
        if not isinstance(value, dict):
            return value
        # The environment first: what is secret in it is then known wherever else it stands.
        first = {
            name: self._entries(value[name])
            for name in _ENVIRONMENTS
            if isinstance(value.get(name), list)
        }
        return {
            name: first[name] if name in first else self._member(name, inner, depth)
            for name, inner in value.items()
        }

    def learn(self, value: Any, depth: int = 0) -> None:
        """Remember the secrets of every environment in an inspection, however deep."""
        if depth > _DEPTH_MAX:
            return
        if isinstance(value, dict):
            for name, inner in value.items():
                if name in _ENVIRONMENTS and isinstance(inner, list):
                    self._entries(inner)
                else:
                    self.learn(inner, depth + 1)
        elif isinstance(value, list):
            for item in value:
                self.learn(item, depth + 1)

    def _member(self, name: str, value: Any, depth: int) -> Any:
        if name in _ARGUMENTS and isinstance(value, list):
            return self.argv([str(item) for item in value])
        if name in ("Labels", "Annotations") and isinstance(value, dict):
            return self.environment({str(key): str(item) for key, item in value.items()})
        return self.inspection(value, depth + 1)

    def _entries(self, entries: list[Any]) -> list[str]:
        found = []
        for entry in entries:
            name, equals, value = str(entry).partition("=")
            found.append(f"{name}{equals}{self._value(name, value)}")
        return found

    def _value(self, name: str, value: str) -> str:
        if value and is_secret(name, value):
            if len(value) >= _KNOWN_MIN:
                self._known.add(value)
            return MASK
        return self.text(value)

    def _without_known(self, text: str) -> str:
        for secret in self._known:
            if secret in text:
                text = text.replace(secret, MASK)
        return text


def is_secret(name: str, value: str) -> bool:
    """Whether a variable's value must not be kept."""
    if name in _HARMLESS:
        return False
    if _HARMLESS_NAME.search(name) and (value.startswith("/") or value.isdigit()):
        return False
    if _SECRET_NAME.search(name):
        return not value.isdigit() or len(value) >= 4
    return any(_is_random(token) for token in _TOKEN.findall(value))


def _is_random(token: str) -> bool:
    """Whether a word looks as if dice had made it."""
    if not (any(char.isdigit() for char in token) and any(char.isalpha() for char in token)):
        return False
    kinds = [char.isdigit() * 2 + char.isupper() for char in token if char.isalnum()]
    changes = sum(left != right for left, right in itertools.pairwise(kinds))
    if changes < _TOKEN_CHANGES * len(token):
        return False  # words, versions, paths
    counts = Counter(token)
    bits = -sum(n / len(token) * math.log2(n / len(token)) for n in counts.values())
    return bits >= _TOKEN_BITS
