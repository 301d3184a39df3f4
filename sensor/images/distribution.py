"""Which distribution an image is, by its own words.

Source: os-release(5). Before there was that file, each distribution had its own.
"""

from __future__ import annotations

import re
import shlex

from sensor.errors import ImageError
from sensor.images.omissions import printable
from sensor.images.package import Distribution
from sensor.images.tree import Tree

_PLACES = ("etc/os-release", "usr/lib/os-release")
_MAX = 64 << 10  # of such a file; real ones have 500 bytes
_ID = re.compile(r"[a-z0-9._-]{1,64}")
_RED_HAT = re.compile(r"^(?P<name>.+?) (?:Linux )?release (?P<version>[0-9]+(?:\.[0-9]+)*)")
_RED_HAT_IDS = {"red hat": "rhel", "centos": "centos", "fedora": "fedora", "rocky": "rocky"}


def read_distribution(tree: Tree) -> Distribution | None:
    """The distribution of an image; None when nothing says. What is damaged is noted."""
    for place in _PLACES:
        text = _text(tree, place)
        if text is None:
            continue
        found = parse_os_release(text)
        if found is not None:
            return found
        tree.omissions.add("/" + place, "names no distribution; expected ID=… as os-release has it")
    return _by_old_files(tree)


def parse_os_release(text: str) -> Distribution | None:
    """The distribution that an os-release file names; None when it names none."""
    facts: dict[str, str] = {}
    for line in text.splitlines():
        name, equals, value = line.strip().partition("=")
        if not equals or name.startswith("#"):
            continue
        try:
            words = shlex.split(value)
        except ValueError:  # an open quote
            words = [value.strip("\"'")]
        facts[name] = printable(words[0]) if words else ""
    name = facts.get("ID", "").lower()
    if not _ID.fullmatch(name):
        return None
    return Distribution(
        name,
        facts.get("VERSION_ID", "")[:64],
        facts.get("VERSION_CODENAME", "")[:64],
        facts.get("PRETTY_NAME", "")[:256],
        tuple(facts.get("ID_LIKE", "").split()[:8]),
    )


def _by_old_files(tree: Tree) -> Distribution | None:
    if version := _line(tree, "etc/alpine-release"):
        return Distribution("alpine", version, pretty=f"Alpine Linux {version}")
    if line := _line(tree, "etc/centos-release") or _line(tree, "etc/redhat-release"):
        if match := _RED_HAT.match(line):
            name = match["name"].lower()
            known = next((i for start, i in _RED_HAT_IDS.items() if name.startswith(start)), "")
            if known:
                return Distribution(known, match["version"], pretty=line)
        tree.omissions.add("/etc/redhat-release", f"{line[:80]!r}: not a known distribution")
        return None
    if version := _line(tree, "etc/debian_version"):
        # "12.5", or "trixie/sid" before it is released.
        number = version.partition(".")[0]
        if number.isdigit():
            return Distribution("debian", number, pretty=f"Debian {version}")
        return Distribution("debian", "", version.partition("/")[0], pretty=f"Debian {version}")
    return None


def _line(tree: Tree, place: str) -> str:
    text = _text(tree, place)
    return printable(text.partition("\n")[0].strip())[:256] if text else ""


def _text(tree: Tree, place: str) -> str | None:
    found = tree.file(place)
    if found is None:
        return None
    try:
        return tree.read(found, _MAX).decode("utf-8", "replace")
    except ImageError as error:
        tree.omissions.add("/" + found.path, error)
        return None
