"""Alpine's security database, and those of Wolfi and Chainguard: JSON, or YAML as it once was."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import ijson

from sensor.errors import FeedError, YamlFileError
from sensor.images.vulns.advisory import (
    Advisory,
    Problem,
    Record,
    Status,
    find_cves,
    unfixed,
    until,
)
from sensor.images.vulns.feeds.files import head_of, json_errors, open_feed, read_whole
from sensor.images.vulns.keys import apk_key
from sensor.yamlfiles import parse_yaml

_EXPECTED = (
    "no 'distroversion' or no 'packages'; expected a security database of Alpine, Wolfi or "
    "Chainguard"
)
_RELEASE = re.compile(r"v?(\d+\.\d+)|edge")
# A CVE however it is written, or another kind of identifier.
_ID = re.compile(r"CVE[-_ ]\d{4}[-_ ]\d{4,19}|[A-Za-z][\w.]*-[\w.-]+", re.IGNORECASE)


def read_secdb(path: Path, release: str, skip: int) -> Iterator[list[Record]]:
    """Read a database, a package at a time.

    Args:
        path: the file.
        release: instead of what the file says it is about, such as ``v3.20``.
        skip: so many packages are passed over.

    Raises:
        FeedError: it is neither JSON nor YAML, or does not look like one.
    """
    if head_of(path).lstrip()[:1] == b"{":
        yield from _read_json(path, release, skip)
        return
    try:
        value = parse_yaml(read_whole(path), path).value
    except YamlFileError as error:
        raise FeedError(f"{error}; expected a security database") from error
    ecosystem = ecosystem_of(value, release) if isinstance(value, dict) else ""
    packages = value.get("packages") if ecosystem else None
    if not isinstance(packages, list):
        raise FeedError(f"{path}: {_EXPECTED}")
    yield from _packages(ecosystem, packages, skip)


def _read_json(path: Path, release: str, skip: int) -> Iterator[list[Record]]:
    """A package at a time.

    Whose packages they are may stand behind them, so that is looked for before.
    """
    about: dict[str, Any] = {}
    stream, reader = open_feed(path)
    with reader, json_errors(path, _EXPECTED):
        for place, event, value in ijson.parse(reader):
            stream.mark()
            if event == "string" and place in ("distroversion", "urlprefix"):
                about[place] = value
                if ecosystem_of(about, release):
                    break
    ecosystem = ecosystem_of(about, release)
    if not ecosystem:
        raise FeedError(f"{path}: {_EXPECTED}")
    stream, reader = open_feed(path)

    def items() -> Iterator[Any]:
        for item in ijson.items(reader, "packages.item"):
            stream.mark()
            yield item

    with reader, json_errors(path, _EXPECTED):
        yield from _packages(ecosystem, items(), skip)


def _packages(ecosystem: str, entries: Iterable[Any], skip: int) -> Iterator[list[Record]]:
    for i, entry in enumerate(entries):
        if i >= skip:
            yield list(_package(ecosystem, f"packages[{i}]", entry))


def ecosystem_of(value: dict[str, Any], release: str = "") -> str:
    """Whose packages it is about; "" when it does not say."""
    prefix = str(value.get("urlprefix", ""))
    for word, name in (("wolfi", "Wolfi"), ("chainguard", "Chainguard")):
        if word in prefix:
            return name
    match = _RELEASE.fullmatch(release or str(value.get("distroversion", "")))
    if match is None:
        return ""
    return f"Alpine:v{match.group(1)}" if match.group(1) else "Alpine:edge"


def _package(ecosystem: str, place: str, entry: Any) -> Iterator[Record]:
    package = entry.get("pkg") if isinstance(entry, dict) else None
    name = package.get("name") if isinstance(package, dict) else None
    fixes = package.get("secfixes") if isinstance(package, dict) else None
    if not isinstance(name, str) or not isinstance(fixes, dict):
        yield Problem(place, "expected 'pkg' with 'name' and 'secfixes'")
        return
    for version, texts in fixes.items():
        if version == "0":
            affected = unfixed(ecosystem, name, Status.NOT_AFFECTED)
        else:
            try:
                affected = until(ecosystem, name, apk_key(version), version)
            except ValueError as error:
                yield Problem(f"{place} {name}", f"version {version!r}: {error}")
                continue
        for text in texts if isinstance(texts, list) else []:
            if not (ids := _ID.findall(str(text))):
                yield Problem(f"{place} {name} {version}", f"{text!r}: expected a CVE")
                continue
            cves = find_cves(" ".join(ids))
            others = tuple(one for one in ids if not find_cves(one))
            first = (*cves, *others)[0]
            aliases = tuple(one for one in others if one != first)
            yield Advisory(first, (affected,), cves, aliases)
