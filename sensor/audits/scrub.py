"""Secrets out of command lines, before anything is stored.

The shape of the command stays, the secret becomes ``***``. This is a net with known holes: a
secret that looks like any other word stays.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

MASK = "***"
ARGUMENTS_MAX = 64
ARGUMENT_MAX = 1024

_NAME = (
    r"(?:pass(?:word|wd|phrase)?|pwd|secret|token|api[-_]?key|access[-_]?key|private[-_]?key|"
    r"auth|credentials?|client[-_]?secret|session[-_]?key)"
)
_OPTION = re.compile(rf"^(--?[\w-]*{_NAME})([=:])(.+)$", re.IGNORECASE | re.DOTALL)
_OPTION_NEXT = re.compile(rf"^--?[\w-]*{_NAME}$", re.IGNORECASE)
_ASSIGNMENT = re.compile(rf"\b(\w*{_NAME}\w*)=([^\s;&|'\"]+|'[^']*'|\"[^\"]*\")", re.IGNORECASE)
_URL = re.compile(r"\b([a-z][a-z0-9+.-]*://[^\s/:@]*):([^\s/@]+)@", re.IGNORECASE)
_HEADER = re.compile(
    r"\b((?:proxy-)?authorization|x-api-key|x-auth-token|cookie)(\s*:\s*)(?:(basic|bearer|token)\s+)?\S+",
    re.IGNORECASE,
)
_BEARER = re.compile(r"\b(bearer|basic)\s+[A-Za-z0-9._~+/=-]{8,}", re.IGNORECASE)
_WELL_KNOWN = re.compile(
    r"\bA(?:KIA|SIA)[0-9A-Z]{16}\b"  # AWS access key id
    r"|\beyJ[\w-]{8,}\.[\w-]{8,}\.[\w-]*"  # JSON web token
    r"|\bgh[pousr]_[A-Za-z0-9]{20,}\b|\bgithub_pat_\w{20,}\b|\bglpat-[\w-]{20,}"
    r"|\bxox[abprs]-[\w-]{10,}|\bsk-[A-Za-z0-9_-]{20,}"
    r"|-----BEGIN [A-Z ]*PRIVATE KEY-----.*?(?:-----END [A-Z ]*PRIVATE KEY-----|$)",
    re.DOTALL,
)
# Programs whose -p is a password, written in one word with it (mysql) or as the next (sshpass).
_SHORT_PASSWORD = re.compile(r"(?:^|/)(?:mysql\w*|mariadb[\w-]*|sshpass|smbclient|ldap\w+)$")


def scrub_argv(argv: Sequence[str]) -> tuple[str, ...]:
    """A command line without its secrets, at most ARGUMENTS_MAX arguments of ARGUMENT_MAX."""
    scrubbed: list[str] = []
    hide_next = False
    short = bool(argv) and _SHORT_PASSWORD.search(argv[0]) is not None
    for argument in argv[:ARGUMENTS_MAX]:
        if hide_next:
            scrubbed.append(MASK)
            hide_next = False
            continue
        if short and argument.startswith("-p") and not argument.startswith("--"):
            scrubbed.append("-p" + MASK if len(argument) > 2 else argument)
            hide_next = len(argument) == 2
            continue
        hide_next = _OPTION_NEXT.match(argument) is not None
        scrubbed.append(_cut(scrub_text(argument)))
    if len(argv) > ARGUMENTS_MAX:
        scrubbed.append(f"… ({len(argv) - ARGUMENTS_MAX} more)")
    return tuple(scrubbed)


def scrub_text(text: str) -> str:
    """One argument, or a whole shell command, without its secrets."""
    if match := _OPTION.match(text):
        return f"{match.group(1)}{match.group(2)}{MASK}"
    text = _WELL_KNOWN.sub(MASK, text)
    text = _URL.sub(rf"\1:{MASK}@", text)
    text = _HEADER.sub(rf"\1\2{MASK}", text)
    text = _BEARER.sub(rf"\1 {MASK}", text)
    return _ASSIGNMENT.sub(rf"\1={MASK}", text)


def _cut(text: str) -> str:
    return text if len(text) <= ARGUMENT_MAX else text[:ARGUMENT_MAX] + "…"
