"""Version numbers of programming languages as bytes that sort as the versions do; see ``keys``."""

from __future__ import annotations

import re
from dataclasses import dataclass, field

from packaging.version import InvalidVersion, Version

from sensor.images.vulns.keys import number

_SEMVER = re.compile(
    r"[v=]?(\d+)(?:\.(\d+))?(?:\.(\d+))?(?:-([0-9A-Za-z.-]+))?(?:\+[0-9A-Za-z.+-]*)?", re.ASCII
)
_GO_RELEASE = re.compile(
    r"(?:go)?(\d+)\.(\d+)(?:\.(\d+))?(?:(rc|beta)(\d+))?(?:[ +-].*)?", re.ASCII
)
_RELEASED = b"\xfe"  # above every pre-release


def semver_key(version: str) -> bytes:
    """The order of semver.org; missing numbers are 0, build metadata does not count."""
    match = _SEMVER.fullmatch(version.strip())
    if match is None:
        raise ValueError("not a semantic version")
    major, minor, patch, pre = match.groups()
    return b"".join(number(part or "0") for part in (major, minor, patch)) + _prerelease(pre)


def _prerelease(text: str | None) -> bytes:
    if not text:
        return _RELEASED
    out = bytearray()
    for part in text.split("."):
        out += number(part) if part.isdigit() else b"\xf0" + part.encode("ascii") + b"\0"
    return bytes(out) + b"\0"


def go_key(version: str) -> bytes:
    """Go modules are semantic versions; Go's own releases look like ``go1.22rc1``."""
    try:
        return semver_key(version)
    except ValueError:
        match = _GO_RELEASE.fullmatch(version.strip())
        if match is None:
            raise ValueError("not a Go version") from None
        major, minor, patch, kind, count = match.groups()
        pre = f"-{kind}.{count}" if kind else ""
        return semver_key(f"{major}.{minor}.{patch or 0}{pre}")


_PRE = {"a": b"\x01", "b": b"\x02", "rc": b"\x03"}
_INFINITE = b"\x04"


def pep440_key(version: str) -> bytes:
    """The order of PEP 440: 1.dev0 < 1a1 < 1rc1 < 1 < 1+local < 1.post1."""
    try:
        parsed = Version(version)
    except InvalidVersion as error:
        raise ValueError("not a version by PEP 440") from error
    release = list(parsed.release)
    while release and release[-1] == 0:
        release.pop()
    out = bytearray(number(str(parsed.epoch)))
    for part in release:
        out += number(str(part))
    out += b"\x01"
    if parsed.pre is not None:
        out += _PRE[parsed.pre[0]] + number(str(parsed.pre[1]))
    else:
        only_dev = parsed.post is None and parsed.dev is not None
        out += b"\0" if only_dev else _INFINITE
    out += b"\0" if parsed.post is None else b"\x01" + number(str(parsed.post))
    out += _INFINITE if parsed.dev is None else b"\x01" + number(str(parsed.dev))
    for piece in (parsed.local or "").split("."):
        if piece:
            out += number(piece) if piece.isdigit() else b"\x01" + piece.encode("ascii") + b"\0"
    return bytes(out) + b"\0"


_GEM = re.compile(r"[0-9]+(?:\.[0-9A-Za-z]+)*(?:-[0-9A-Za-z-]+(?:\.[0-9A-Za-z-]+)*)?")
# What ends is compared as if it went on with zeros. No gem has more of them in a row.
_GEM_ZERO, _GEM_ZEROS = b"\x02", 16
_GEM_RUNS = re.compile(r"[0-9]+|[A-Za-z]+")


def gem_key(version: str) -> bytes:
    """RubyGems' order: letters mark a pre-release; zeros before them and last do not count."""
    text = version.strip()
    if _GEM.fullmatch(text) is None:
        raise ValueError("not a version of a gem")
    runs = _GEM_RUNS.findall(text.replace("-", ".pre."))
    first_text = next((i for i, run in enumerate(runs) if run.isalpha()), len(runs))
    kept = _without_zeros(runs[:first_text]) + _without_zeros(runs[first_text:])
    out = bytearray()
    for run in kept:
        if not run.isdigit():
            out += b"\x01" + run.encode("ascii") + b"\0"
        else:
            out += number(run) if run.strip("0") else _GEM_ZERO
    return bytes(out) + _GEM_ZERO * _GEM_ZEROS


def _without_zeros(runs: list[str]) -> list[str]:
    while runs and not runs[-1].strip("0"):
        runs = runs[:-1]
    return runs


_NUGET = re.compile(
    r"v?(\d+)(?:\.(\d+))?(?:\.(\d+))?(?:\.(\d+))?(?:-([0-9A-Za-z.-]+))?(?:\+.*)?", re.ASCII
)


def nuget_key(version: str) -> bytes:
    """NuGet's order: semantic versions with a fourth number, in which case does not count."""
    match = _NUGET.fullmatch(version.strip())
    if match is None:
        raise ValueError("not a version of NuGet")
    *numbers, pre = match.groups()
    key = b"".join(number(part or "0") for part in numbers)
    return key + _prerelease(pre.lower() if pre else None)


# Maven. Items of a list, in order of what they are; the end of a list stands among them, because
# a shorter version is compared as if it went on with nothing.
_MAVEN_QUALIFIERS = {
    "alpha": b"\x01", "beta": b"\x02", "milestone": b"\x03", "rc": b"\x04", "cr": b"\x04",
    "snapshot": b"\x05",
}  # fmt: skip
_MAVEN_LIST_BEFORE, _MAVEN_END, _MAVEN_SP, _MAVEN_OTHER, _MAVEN_LIST = (
    b"\x06", b"\x07", b"\x08", b"\x09", b"\x0a",
)  # fmt: skip
_MAVEN_NOTHING = ("", "ga", "final", "release")
_MAVEN_SHORT = {"a": "alpha", "b": "beta", "m": "milestone"}
_MAVEN_RUNS = re.compile(r"[0-9]+|[^0-9.-]+|[.-]")
_MAVEN_DEPTH_MAX = 40


@dataclass(slots=True)
class _List:
    """What stands behind a hyphen, or behind a change between digits and letters."""

    items: list[str | _List] = field(default_factory=list)

    @property
    def says_nothing(self) -> bool:
        """Whether it begins with a word for "as released"."""
        return self.items[0] in _MAVEN_NOTHING


def maven_key(version: str) -> bytes:
    """Maven's order (ComparableVersion).

    Where Maven's own order goes in circles (``1-alpha < 1 < 1.x < 1-alpha``), a qualifier that
    means "before the release" comes before the release.
    """
    text = version.strip().lower()
    if not text or len(text) > 500 or not text.isascii() or any(c.isspace() for c in text):
        raise ValueError("not a version of Maven")
    top = current = _List()
    depth = 0
    runs = _MAVEN_RUNS.findall(text)
    previous = "."
    for i, run in enumerate(runs):
        if run in ".-" and previous in ".-" and i:
            current.items.append("0")
        changes = run not in ".-" and previous not in ".-"
        if run == "-" or changes:
            depth += 1
            if depth > _MAVEN_DEPTH_MAX:
                raise ValueError("not a version of Maven: too many parts")
            below = _List()
            current.items.append(below)
            current = below
        if run not in ".-":
            before_digit = i + 1 < len(runs) and runs[i + 1].isdigit()
            current.items.append(_MAVEN_SHORT.get(run, run) if before_digit else run)
        previous = run
    return _maven_list(top)


def _maven_list(items: _List) -> bytes:
    kept: list[bytes] = []
    is_nothing_next = True  # the end, a text or a list: zeros before it do not count
    for item in reversed(items.items):
        if isinstance(item, str) and item.isdigit():
            if not item.strip("0") and is_nothing_next:
                continue
            kept.append(number(item))
            is_nothing_next = False
        elif isinstance(item, str):
            if item in _MAVEN_NOTHING:
                if kept and not is_nothing_next:
                    kept.append(_MAVEN_END)
                continue
            kept.append(_maven_text(item))
            is_nothing_next = True
        else:
            inner = _maven_list(item)
            if inner == _MAVEN_END:
                continue
            before = inner < _MAVEN_END
            kept.append((_MAVEN_LIST_BEFORE if before else _MAVEN_LIST) + inner)
            is_nothing_next = True
    if len(kept) == 1 and kept[0][:1] in (_MAVEN_LIST, _MAVEN_LIST_BEFORE) and items.says_nothing:
        return kept[0][1:]  # 1-ga-1 is 1-1
    return b"".join(reversed(kept)) + _MAVEN_END


def _maven_text(text: str) -> bytes:
    if text in _MAVEN_QUALIFIERS:
        return _MAVEN_QUALIFIERS[text]
    return _MAVEN_SP if text == "sp" else _MAVEN_OTHER + text.encode("ascii") + b"\0"
