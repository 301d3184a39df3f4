"""Alpine's security database, and those of Wolfi and Chainguard: JSON, or YAML as it once was."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import orjson

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
from sensor.images.vulns.feeds.files import RECORD_MAX, open_feed
from sensor.images.vulns.keys import apk_key
from sensor.yamlfiles import parse_yaml

_RELEASE = re.compile(r"v?(\d+\.\d+)|edge")
# A CVE however it is written, or another kind of identifier.
_ID = re.compile(r"CVE[-_ ]\d{4}[-_ ]\d{4,19}|[A-Za-z][\w.]*-[\w.-]+", re.IGNORECASE)


def read_secdb(path: Path, release: str, skip: int) -> Iterator[list[Record]]:
    """Read a database, a package at a time.

    Args:
        path: the file; of some megabytes.
        release: instead of what the file says it is about, such as ``v3.20``.
        skip: so many packages are passed over.

    Raises:
        FeedError: it is neither JSON nor YAML, or does not look like one.
    """
    with open_feed(path)[1] as reader:
        data = reader.read(RECORD_MAX + 1)
    value = _parse(path, data)
    ecosystem = ecosystem_of(value, release)
    packages = value.get("packages")
    if not ecosystem or not isinstance(packages, list):
        raise FeedError(
            f"{path}: no 'distroversion' or no 'packages'; expected a security database of Alpine, "
            "Wolfi or Chainguard"
        )
    for i, entry in enumerate(packages):
        if i >= skip:
            yield list(_package(ecosystem, f"packages[{i}]", entry))


def _parse(path: Path, data: bytes) -> dict[str, Any]:
    try:
        value = orjson.loads(data) if data.lstrip()[:1] == b"{" else parse_yaml(data, path).value
    except orjson.JSONDecodeError as error:
        raise FeedError(
            f"{path}: line {error.lineno}: not JSON: {error.msg}; expected a whole file"
        ) from error
    except YamlFileError as error:
        raise FeedError(f"{error}; expected a security database") from error
    if not isinstance(value, dict):
        raise FeedError(f"{path}: expected a map with 'packages'")
    return value


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
