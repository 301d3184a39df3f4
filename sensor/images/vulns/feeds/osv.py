"""OSV records: a zip file or a directory or a tar file of them, or one; JSON or YAML.

What the format means is said at https://ossf.github.io/osv-schema/. Ranges of kind GIT are passed
over, because packages have versions and not commits.
"""

from __future__ import annotations

import tarfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import orjson

from sensor.errors import FeedError, YamlFileError
from sensor.images.vulns.advisory import Advisory, Affected, Problem, Record, Status, find_cves
from sensor.images.vulns.ecosystems import canonical_ecosystem, canonical_name, key_of
from sensor.images.vulns.feeds.files import (
    RECORD_MAX,
    files_below,
    head_of,
    open_feed,
    read_whole,
    zip_members,
)
from sensor.images.vulns.keys import ALWAYS, after
from sensor.images.vulns.severity import Severity, cvss_rank, severity_of_word
from sensor.yamlfiles import parse_yaml

# They announce the fixes of a distribution, and name the CVEs as "related".
_ERRATA = (
    "DSA-", "DLA-", "ALSA-", "ALBA-", "ALEA-", "RLSA-", "RXSA-", "RHSA-", "RHBA-", "RHEA-", "USN-",
    "SUSE-", "openSUSE-", "MGASA-", "OESA-",
)  # fmt: skip
_WORDS_OF_SUMMARY = ("Critical", "Important", "Moderate", "Low")


def read_osv(path: Path, release: str, skip: int) -> Iterator[list[Record]]:  # noqa: ARG001
    """Read a dump.

    Args:
        path: a zip file, a directory, a tar file, or one record.
        release: not asked for.
        skip: so many records are passed over.

    Yields:
        Of each record what it says.

    Raises:
        FeedError: the dump as a whole cannot be read.
    """
    for name, data in _members(path, skip):
        if isinstance(data, str):
            yield [Problem(name, data)]
            continue
        try:
            yield list(records_of(parse(data, name), name))
        except ValueError as error:
            yield [Problem(name, str(error))]


def _members(path: Path, skip: int) -> Iterator[tuple[str, bytes | str]]:
    if path.is_dir():
        for file in files_below(path)[skip:]:
            try:
                if file.stat().st_size > RECORD_MAX:
                    yield str(file.relative_to(path)), f"expected at most {RECORD_MAX >> 20} MiB"
                else:
                    yield str(file.relative_to(path)), file.read_bytes()
            except OSError as error:
                yield str(file.relative_to(path)), f"{error.strerror}; expected a readable file"
        return
    head = head_of(path)
    if head[:4] in (b"PK\x03\x04", b"PK\x05\x06"):
        yield from zip_members(path, skip)
    elif head[257:262] == b"ustar":
        yield from _tar_members(path, skip)
    elif skip == 0:
        yield path.name, read_whole(path)


def _tar_members(path: Path, skip: int) -> Iterator[tuple[str, bytes | str]]:
    stream, reader = open_feed(path)
    count = 0
    try:
        with reader, tarfile.open(fileobj=reader, mode="r|") as archive:
            for member in archive:
                stream.mark()
                if not member.isfile() or not member.name.endswith((".json", ".yaml", ".yml")):
                    continue
                count += 1
                if count <= skip:
                    continue
                if member.size > RECORD_MAX:
                    yield member.name, f"expected at most {RECORD_MAX >> 20} MiB"
                    continue
                file = archive.extractfile(member)
                assert file is not None
                yield member.name, file.read()
                archive.members = []  # type: ignore[attr-defined]  # it remembers them all else
    except tarfile.TarError as error:
        raise FeedError(f"{path}: damaged: {error}; expected a whole tar file") from error


def parse(data: bytes, name: str) -> dict[str, Any]:
    """A record as plain values.

    Raises:
        ValueError: it is neither JSON nor YAML, or no record.
    """
    if name.endswith((".yaml", ".yml")):
        try:
            value = parse_yaml(data, Path(name)).value
        except YamlFileError as error:
            raise ValueError(str(error).removeprefix(f"{name}:")) from error
    else:
        try:
            value = orjson.loads(data)
        except orjson.JSONDecodeError as error:
            raise ValueError(f"line {error.lineno}: not JSON: {error.msg}") from error
    if not isinstance(value, dict) or not isinstance(value.get("id"), str) or not value["id"]:
        raise ValueError("no OSV record; expected a map with 'id' and 'affected'")
    return value


def records_of(value: dict[str, Any], place: str) -> Iterator[Record]:
    """What a record says; nothing when it was withdrawn."""
    if value.get("withdrawn"):
        return
    name = value["id"]
    aliases, upstream, related = (_texts(value, key) for key in ("aliases", "upstream", "related"))
    is_errata = name.startswith(_ERRATA)
    cves = find_cves(" ".join((name, *aliases, *upstream)))
    if not cves and is_errata:
        cves = find_cves(" ".join(related))
        if not cves and "security" not in f"{value.get('summary')} {value.get('details')}".lower():
            return  # it mends something else
    ranges: list[Affected] = []
    for i, entry in enumerate(_maps(value, "affected")):
        try:
            ranges += _affected(entry, value)
        except ValueError as error:
            yield Problem(place, f"affected[{i}]: {error}")
    if not ranges:
        return
    vectors = [
        text
        for text in _vectors(value, *_maps(value, "affected"))
        if text.startswith(("CVSS:", "AV:"))
    ]
    yield Advisory(
        name=name,
        affected=tuple(dict.fromkeys(ranges)),
        cves=cves,
        aliases=tuple(alias for alias in aliases if alias not in cves and alias != name),
        published=str(value.get("published") or "")[:10],
        vector=max(vectors, key=cvss_rank, default=""),
        summary=str(value.get("summary") or value.get("details") or "")[:400],
        is_errata=is_errata,
    )


def _vectors(*places: dict[str, Any]) -> Iterator[str]:
    for place in places:
        for entry in _maps(place, "severity"):
            if str(entry.get("type", "")).startswith("CVSS"):
                yield str(entry.get("score", ""))


def _maps(value: dict[str, Any], key: str) -> list[dict[str, Any]]:
    found = value.get(key)
    return [item for item in found if isinstance(item, dict)] if isinstance(found, list) else []


def _texts(value: dict[str, Any], key: str) -> tuple[str, ...]:
    found = value.get(key)
    return tuple(str(item) for item in found) if isinstance(found, list) else ()


def _affected(entry: dict[str, Any], value: dict[str, Any]) -> list[Affected]:
    package = entry.get("package")
    if not isinstance(package, dict):
        return []  # about commits only
    ecosystem = canonical_ecosystem(str(package.get("ecosystem", "")))
    key = key_of(ecosystem)
    if key is None:
        raise ValueError(f"versions of {ecosystem or 'no ecosystem'!r} are not compared")
    name = canonical_name(ecosystem, str(package.get("name", "")))
    severity = _severity(ecosystem, entry, value)
    found: list[Affected] = []
    for listed in _maps(entry, "ranges"):
        if listed.get("type") in ("SEMVER", "ECOSYSTEM"):
            found += _intervals(ecosystem, name, severity, _maps(listed, "events"))
    # What is enumerated is affected as well, where no range says so already.
    for version in _texts(entry, "versions"):
        try:
            at = key(version)
        except ValueError as error:
            if found:
                continue  # the ranges are what counts
            raise ValueError(f"version {version!r}: {error}") from error
        if not any(a.low <= at < a.high for a in found):
            found.append(Affected(ecosystem, name, at, after(at), "", Status.OPEN, severity))
    return found


def _intervals(
    ecosystem: str, package: str, severity: Severity, events: Iterable[dict[str, Any]]
) -> Iterator[Affected]:
    """The intervals of a list of events, which is sorted by version here."""
    key = key_of(ecosystem)
    assert key is not None
    # At one version an end comes before a beginning: [1, 2) and [2, 3) are two intervals.
    kinds = {"fixed": 0, "introduced": 1, "last_affected": 2}
    points: list[tuple[bytes, int, str]] = []
    for event in events:
        for kind, given in event.items():
            if kind not in kinds:
                continue
            version = str(given)
            try:
                at = b"" if kind == "introduced" and version == "0" else key(version)
            except ValueError as error:
                raise ValueError(f"{kind} {version!r}: {error}") from error
            points.append((at, kinds[kind], version))
    low: bytes | None = None
    for at, order, version in sorted(points):
        if order == kinds["introduced"]:
            low = at if low is None else low
        elif low is not None:
            if order == kinds["fixed"]:
                yield Affected(ecosystem, package, low, at, version, Status.FIXED, severity)
            else:
                yield Affected(ecosystem, package, low, after(at), "", Status.OPEN, severity)
            low = None
    if low is not None:
        yield Affected(ecosystem, package, low, ALWAYS, "", Status.OPEN, severity)


def _severity(ecosystem: str, entry: dict[str, Any], value: dict[str, Any]) -> Severity:
    """What the vendor says, wherever it says so."""
    for place in (entry, value):
        for listed in _maps(place, "severity"):
            if not str(listed.get("type", "")).startswith("CVSS"):
                return severity_of_word(str(listed.get("score", "")))
    for place in (entry, value):
        for name in ("ecosystem_specific", "database_specific"):
            found = place.get(name)
            if isinstance(found, dict):
                for field in ("urgency", "severity"):
                    if isinstance(found.get(field), str):
                        return severity_of_word(found[field])
    word, colon, _ = str(value.get("summary") or "").partition(":")
    if colon and word in _WORDS_OF_SUMMARY and ecosystem.startswith(("AlmaLinux", "Rocky")):
        return severity_of_word(word)
    return Severity.UNKNOWN
