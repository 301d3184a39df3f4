"""Version numbers of distributions as bytes that sort as the versions do.

Each package manager has an order of its own. A key is that order in bytes: for any two versions
``a`` is older than ``b`` exactly when ``key(a) < key(b)``. So a range of versions is a range of
bytes, which SQLite finds in an index without asking anybody how versions are compared.

Property tests hold every key against the package managers' rules as the library `univers` has
them. Where a text is no version, ``ValueError`` says so in a few words.
"""

from __future__ import annotations

import functools
import re

NEVER = b""  # as the end of a range: nothing is older than this
ALWAYS = b"\xff\xff"  # as the end of a range: every key is older than this
_DIGITS_MAX = 200
_REMEMBERED = 8192  # keys: one erratum names one version for many packages, images share most
_NUMBER = 0x10  # plus the number of digits; whatever must sort below numbers is less than this


def number(digits: str) -> bytes:
    """A run of decimal digits: longer is greater, leading zeros do not count.

    Raises:
        ValueError: more digits than any version has.
    """
    digits = digits.lstrip("0")
    if len(digits) > _DIGITS_MAX:
        raise ValueError(f"a number of {len(digits)} digits")
    return bytes((_NUMBER + len(digits),)) + digits.encode("ascii")


def after(key: bytes) -> bytes:
    """The end of a range that holds ``key`` as its last one."""
    return key + b"\0"


_DEB = re.compile(r"(?:(\d+):)?([A-Za-z0-9.+:~-]*?)(?:-([A-Za-z0-9.+~]*))?", re.ASCII)
_DEB_RUNS = re.compile(r"([^0-9]*)([0-9]*)")
_DEB_ORDER = bytes(
    0x01 if char == ord("~") else char if chr(char).isalpha() else char | 0x80
    for char in range(128)
)
_DEB_END = b"\x02"  # above a tilde, below everything else that may follow


@functools.lru_cache(maxsize=_REMEMBERED)
def deb_key(version: str) -> bytes:
    """The order of dpkg: epoch, upstream version, revision; "~" comes before the end."""
    text = version.strip()
    match = _DEB.fullmatch(text)
    if match is None or not text:
        raise ValueError("not a Debian version")
    epoch, upstream, revision = match.groups()
    return number(epoch or "0") + _deb_part(upstream) + _deb_part(revision or "")


def _deb_part(text: str) -> bytes:
    out = bytearray()
    for i, (letters, digits) in enumerate(_DEB_RUNS.findall(text)):
        if not (letters or digits) and i:
            break
        out += letters.encode("ascii").translate(_DEB_ORDER + bytes(128))
        out += _DEB_END + number(digits)
    return bytes(out) + _DEB_END


_APK = re.compile(
    r"(\d+(?:\.\d+)*)([a-z]?)((?:_[a-z]+\d*)*)(?:~([0-9a-f]+))?(?:-r(\d+))?", re.ASCII
)
_APK_SUFFIX = re.compile(r"_([a-z]+)(\d*)")
_APK_SUFFIXES = {
    "alpha": 1, "beta": 2, "pre": 3, "rc": 4, "cvs": 6, "svn": 7, "git": 8, "hg": 9, "p": 10,
}  # fmt: skip
_APK_NO_SUFFIX = b"\x05"


@functools.lru_cache(maxsize=_REMEMBERED)
def apk_key(version: str) -> bytes:
    """The order of apk: numbers, a letter, suffixes such as ``_rc1`` or ``_p2``, the revision.

    A later number with a leading zero counts as if behind a decimal point: 1.05 < 1.1.
    """
    match = _APK.fullmatch(version.strip())
    if match is None:
        raise ValueError("not an Alpine version")
    numbers, letter, suffixes, commit, revision = match.groups()
    out = bytearray()
    for i, part in enumerate(numbers.split(".")):
        if i and part.startswith("0"):
            out += b"\x08" + part.rstrip("0").encode("ascii") + b"\0"
        else:
            out += number(part)
    out += b"\x02" + (letter.encode("ascii") or b"\x01")
    for name, digits in _APK_SUFFIX.findall(suffixes):
        if name not in _APK_SUFFIXES:
            raise ValueError(f"not an Alpine version: suffix _{name}")
        out.append(_APK_SUFFIXES[name])
        out += number(digits)
    out += _APK_NO_SUFFIX
    out += b"\x02" + commit.encode("ascii") + b"\0" if commit else b"\x01"
    return bytes(out + number(revision or "0"))


_RPM = re.compile(r"(?:(\d+):)?([^-:\s]+)(?:-([^-\s]+))?")
_RPM_RUNS = re.compile(r"[0-9]+|[A-Za-z]+|~|\^")
_RPM_TILDE, _RPM_END, _RPM_CARET, _RPM_LETTERS = b"\x01", b"\x02", b"\x03", b"\x04"


@functools.lru_cache(maxsize=_REMEMBERED)
def rpm_key(version: str) -> bytes:
    """The order of rpm: epoch, version, release; "~" before the end, "^" after it, numbers last."""
    match = _RPM.fullmatch(version.strip())
    if match is None:
        raise ValueError("not an RPM version")
    epoch, upstream, release = match.groups()
    return number(epoch or "0") + _rpm_part(upstream) + _rpm_part(release or "")


def _rpm_part(text: str) -> bytes:
    out = bytearray()
    for run in _RPM_RUNS.findall(text):
        if run == "~":
            out += _RPM_TILDE
        elif run == "^":
            out += _RPM_CARET
        elif run.isalpha():
            out += _RPM_LETTERS + run.encode("ascii") + b"\0"
        else:
            out += number(run)
    return bytes(out) + _RPM_END
