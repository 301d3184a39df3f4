"""Secrets in environments and in histories of images, found by their names and by their look.

A net with known holes: a secret that looks like any other word, under a name like any other, is
not found. What is told is where it is, never what it is.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

from sensor.audits.scrub import MASK, scrub_text
from sensor.images.compliance.values import shorten

_NAME = re.compile(
    r"(?:password|passwd|passphrase|secret|token|api_?key|access_?key|secret_?key|private_?key|"
    r"auth_?key|encryption_?key|credentials?|(?:^|_)(?:pass|pwd))(?:_?\d+)?$",
    re.IGNORECASE,
)
_ELSEWHERE = re.compile(r"(?:_|^)(?:FILE|PATH|DIR|URL|NAME|USER|LENGTH|TTL)$", re.IGNORECASE)
# What is no secret under such a name: a switch, a place, a reference that is filled in later.
_HARMLESS = re.compile(
    r"(?:true|false|yes|no|on|off|none|null|0|1)?|/[^\s]*|\$\{?\w+\}?|\$\(.*\)|\*+|<.*>",
    re.IGNORECASE,
)
_LOOKS = (
    ("an AWS key", re.compile(r"\bA(?:KIA|SIA)[0-9A-Z]{16}\b")),
    ("a GitHub token", re.compile(r"\bgh[pousr]_[A-Za-z0-9]{20,}\b|\bgithub_pat_\w{20,}\b")),
    ("a GitLab token", re.compile(r"\bglpat-[\w-]{20,}")),
    ("a Slack token", re.compile(r"\bxox[abprs]-[\w-]{10,}")),
    ("a JSON web token", re.compile(r"\beyJ[\w-]{8,}\.[\w-]{8,}\.[\w-]*")),
    ("a private key", re.compile(r"-----BEGIN (?:[A-Z]+ )*PRIVATE KEY-----")),
    (
        "a URL with a password",
        re.compile(r"\b[a-z][a-z0-9+.-]*://[^\s/:@]*:(?![$*<{])[^\s/@]+@", re.IGNORECASE),
    ),
)  # fmt: skip
_TEXT_MAX = 64 << 10  # characters of one value or step that are looked at
_ASSIGNED = re.compile(r"(?<![\w$-])([A-Za-z_]\w{0,80})=(\"[^\"]*\"|'[^']*'|[^\s;&|]+)")
_STEP_MAX = 160


def secret_names(environment: Iterable[str]) -> list[str]:
    """The entries that hold a secret, each as its name and why.

    Args:
        environment: entries as NAME=VALUE.
    """
    found = []
    for entry in environment:
        name, _, value = entry.partition("=")
        reason = _why(name, value[:_TEXT_MAX])
        if reason:
            found.append(f"{shorten(name)} ({reason})")
    return found


def secret_steps(steps: Iterable[str]) -> list[str]:
    """The steps of a history that hold a secret, each as its beginning without it, and why.

    Args:
        steps: command lines.
    """
    found = []
    for step in steps:
        part = step[:_TEXT_MAX]
        reasons = {_look(part): None}
        for name, value in _ASSIGNED.findall(part):
            reasons[_why(name, value.strip("'\""))] = None
        reasons.pop("", None)
        if reasons:
            shown = shorten(_hidden(part))
            shown = shown if len(shown) <= _STEP_MAX else shown[: _STEP_MAX - 1] + "…"
            found.append(f"{shown} ({', '.join(reasons)})")
    return found


def _why(name: str, value: str) -> str:
    """Why this is a secret; "" when it is none."""
    if look := _look(value):
        return look
    value = value.strip()
    named = _NAME.search(name) and not _ELSEWHERE.search(name)
    return "by its name" if named and not _HARMLESS.fullmatch(value) else ""


def _look(value: str) -> str:
    return next((what for what, pattern in _LOOKS if pattern.search(value)), "")


def _hidden(step: str) -> str:
    """A step without what made it suspicious."""

    def hide(match: re.Match[str]) -> str:
        return f"{match[1]}={MASK}" if _why(match[1], match[2].strip("'\"")) else match[0]

    text = scrub_text(_ASSIGNED.sub(hide, step))
    for _, pattern in _LOOKS:
        text = pattern.sub(MASK, text)
    return text
