"""What Debian's security team publishes: the tracker's JSON, the DSA and DLA lists, debsecan."""

from __future__ import annotations

import datetime as dt
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import ijson

from sensor.errors import FeedError
from sensor.images.vulns.advisory import (
    Advisory,
    Affected,
    Problem,
    Record,
    Status,
    find_cves,
    unfixed,
    until,
)
from sensor.images.vulns.ecosystems import CODENAMES
from sensor.images.vulns.feeds.files import json_errors, open_feed
from sensor.images.vulns.keys import ALWAYS, after, deb_key
from sensor.images.vulns.severity import Severity, severity_of_word

_NODSA = {"ignored": Status.IGNORED, "postponed": Status.POSTPONED}
_LINE_MAX = 1 << 16
_HEADER = re.compile(r"\[(\d{1,2} \w{3} \d{4})\] (D[SL]A-\S+)(?: +(.*))?")
_FIX = re.compile(r"\s+\[(\S+)\] +- +(\S+) +(\S+)")
_MONTHS = ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"]
_MARKS = {
    "<not-affected>": Status.NOT_AFFECTED, "<unfixed>": Status.OPEN,
    "<end-of-life>": Status.END_OF_LIFE, "<ignored>": Status.IGNORED,
    "<postponed>": Status.POSTPONED, "<no-dsa>": Status.OPEN,
    "<undetermined>": Status.UNDETERMINED,
}  # fmt: skip


def _ecosystem(codename: str) -> str:
    base = codename.partition("-")[0]
    return f"Debian:{CODENAMES[base]}" if base in CODENAMES else ""


def read_tracker(path: Path, release: str, skip: int) -> Iterator[list[Record]]:  # noqa: ARG001
    """Read the tracker's ``data/json``, a source package at a time.

    Args:
        path: the file.
        release: not asked for; it has all releases.
        skip: so many packages are passed over.

    Raises:
        FeedError: it is no JSON, or ends in the middle.
    """
    stream, reader = open_feed(path)
    with reader, json_errors(path, "expected source packages with their CVEs"):
        items = ijson.kvitems(reader, "", use_float=True)
        for i, (package, content) in enumerate(items):
            stream.mark()
            if i >= skip:
                yield list(_tracker_package(package, content))


def _tracker_package(package: str, content: Any) -> Iterator[Record]:
    if not isinstance(content, dict):
        yield Problem(package, "expected a map of CVEs")
        return
    for name, entry in content.items():
        releases = entry.get("releases") if isinstance(entry, dict) else None
        if not isinstance(releases, dict):
            yield Problem(f"{package} {name}", "expected a map with 'releases'")
            continue
        affected = []
        for codename, state in releases.items():
            ecosystem = _ecosystem(codename)
            if not ecosystem:
                yield Problem(f"{package} {name}", f"release {codename!r} is not known")
                continue
            try:
                known = state if isinstance(state, dict) else {}
                affected.append(_tracker_state(ecosystem, package, known))
            except ValueError as error:
                yield Problem(f"{package} {name} {codename}", str(error))
        if affected:
            yield Advisory(
                name,
                tuple(affected),
                cves=find_cves(name),
                summary=str(entry.get("description") or "")[:400],
            )


def _tracker_state(ecosystem: str, package: str, state: dict[str, Any]) -> Affected:
    urgency, status = str(state.get("urgency", "")), state.get("status")
    severity = severity_of_word(urgency)
    if status == "resolved":
        fixed = str(state.get("fixed_version", ""))
        if fixed == "0":
            return unfixed(ecosystem, package, Status.NOT_AFFECTED, severity)
        try:
            return until(ecosystem, package, deb_key(fixed), fixed, severity)
        except ValueError as error:
            raise ValueError(f"fixed_version {fixed!r}: {error}") from error
    if status == "undetermined":
        return unfixed(ecosystem, package, Status.UNDETERMINED, severity)
    if status != "open":
        raise ValueError(f"status {status!r}: expected open, resolved or undetermined")
    why = Status.END_OF_LIFE if urgency == "end-of-life" else Status.OPEN
    return unfixed(ecosystem, package, _NODSA.get(str(state.get("nodsa_reason")), why), severity)


def read_lists(path: Path, release: str, skip: int) -> Iterator[list[Record]]:  # noqa: ARG001
    """Read a DSA or DLA list, an advisory at a time.

    Args:
        path: the file.
        release: not asked for; every line names its own.
        skip: so many advisories are passed over.
    """
    count, first = 0, 1
    block: list[str] = []
    for number, line in _lines(path):
        if line.startswith("[") and block:
            if count >= skip:
                yield list(_list_entry(block, first))
            count, block = count + 1, []
        if not block:
            first = number
        if line.strip():
            block.append(line)
    if block and count >= skip:
        yield list(_list_entry(block, first))


def _lines(path: Path) -> Iterator[tuple[int, str]]:
    stream, reader = open_feed(path)
    with reader:
        number = 0
        while line := reader.readline(_LINE_MAX):
            number += 1
            stream.mark()
            yield number, line.decode("utf-8", "replace").rstrip("\r\n")


def _list_entry(block: list[str], first: int) -> Iterator[Record]:
    match = _HEADER.match(block[0])
    if match is None:
        yield Problem(f"line {first}", "expected [DAY MONTH YEAR] DSA-NUMBER PACKAGE")
        return
    date, name, summary = match.groups()
    published = _day(date)
    if not published:
        yield Problem(f"line {first}", f"date {date!r}: expected such as 29 Mar 2023")
    cves: tuple[str, ...] = ()
    affected = []
    for i, line in enumerate(block[1:], first + 1):
        if line.lstrip().startswith("{"):
            cves = find_cves(line)
        elif fix := _FIX.match(line):
            try:
                affected.append(_list_fix(*fix.groups()))
            except ValueError as error:
                yield Problem(f"line {i}", f"{name}: {error}")
    # The DLA list also announces new time zones and the like.
    if affected and (cves or "security" in (summary or "")):
        yield Advisory(
            name, tuple(affected), cves, published=published, summary=summary or "", is_errata=True
        )


def _day(text: str) -> str:
    """An ISO date from ``29 Mar 2023``; "" when it is none. Whatever the locale is."""
    day, month, year = text.split()
    try:
        return dt.date(int(year), _MONTHS.index(month) + 1, int(day)).isoformat()
    except ValueError:
        return ""


def _list_fix(codename: str, package: str, version: str) -> Affected:
    ecosystem = _ecosystem(codename)
    if not ecosystem:
        raise ValueError(f"release {codename!r} is not known")
    if version.startswith("<"):
        if version not in _MARKS:
            raise ValueError(f"{version}: expected a version or one of {', '.join(_MARKS)}")
        return unfixed(ecosystem, package, _MARKS[version])
    try:
        return until(ecosystem, package, deb_key(version), version)
    except ValueError as error:
        raise ValueError(f"version {version!r}: {error}") from error


_URGENCY = {"L": Severity.LOW, "M": Severity.MEDIUM, "H": Severity.HIGH}


def read_debsecan(path: Path, release: str, skip: int) -> Iterator[list[Record]]:
    """Read debsecan's file of one release; the format is told in debsecan's own source.

    Args:
        path: the file, packed by zlib as it is published, or plain.
        release: the codename of the release, which the file does not say.
        skip: so many lines of the second part are passed over.

    Raises:
        FeedError: it is not of version 1, or the release is none.
    """
    ecosystem = _ecosystem(release)
    if not ecosystem:
        raise FeedError(
            f"{path}: release {release!r}; expected one of {', '.join(CODENAMES)}: debsecan's file "
            "does not say of which it is"
        )
    lines = _lines(path)
    if next(lines, (0, ""))[1].strip() != "VERSION 1":
        raise FeedError(f"{path}: line 1: expected VERSION 1")
    names: list[tuple[str, str]] = []  # by their number; some tens of thousands
    for _, line in lines:
        if not line:
            break
        name, _, rest = line.partition(",")
        names.append((name, rest.partition(",")[2][:200]))
    done = 0
    for number, line in lines:
        if not line:
            return  # the third part: which binary packages a source package makes
        done += 1
        if done <= skip:
            continue
        try:
            yield [_debsecan_line(ecosystem, line, names)]
        except ValueError as error:
            yield [Problem(f"line {number}", str(error))]
    raise FeedError(f"{path}: ends in the middle; expected a third part")


def _debsecan_line(ecosystem: str, line: str, names: list[tuple[str, str]]) -> Record:
    parts = line.split(",", 4)
    if len(parts) != 5 or not parts[1].isdigit() or int(parts[1]) >= len(names):
        raise ValueError("expected PACKAGE,NUMBER,FLAGS,VERSION,VERSIONS")
    package, index, flags, fixed, others = parts
    if len(flags) < 4:
        raise ValueError(f"flags {flags!r}: expected four")
    if flags[0] == "B":
        raise ValueError(f"about the binary package {package}; expected a source package")
    name, summary = names[int(index)]
    severity = _URGENCY.get(flags[1], Severity.UNKNOWN)
    high = deb_key(fixed) if fixed else ALWAYS
    # Vulnerable is what is below the fixed version and is none of the other versions.
    affected, low = [], b""
    for good in sorted({deb_key(version) for version in others.split()}):
        if good >= high:
            break
        if low < good:
            affected.append((low, good))
        low = after(good)
    affected.append((low, high))
    status = Status.FIXED if fixed or flags[3] == "F" else Status.OPEN
    return Advisory(
        name,
        tuple(
            Affected(ecosystem, package, begin, end, fixed, status, severity)
            for begin, end in affected
            if begin < end
        ),
        cves=find_cves(name),
        summary=summary,
    )
