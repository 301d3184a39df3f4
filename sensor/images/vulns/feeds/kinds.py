"""Which kind of feed a file is, by what it holds."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from pathlib import Path

from sensor.errors import FeedError, UsageError
from sensor.images.vulns.advisory import Record
from sensor.images.vulns.feeds.debian import read_debsecan, read_lists, read_tracker
from sensor.images.vulns.feeds.facts import read_epss, read_kev, read_nvd
from sensor.images.vulns.feeds.files import files_below, head_of
from sensor.images.vulns.feeds.osv import read_osv
from sensor.images.vulns.feeds.secdb import ecosystem_of, read_secdb
from sensor.yamlfiles import nearest

Reader = Callable[[Path, str, int], Iterator[list[Record]]]

# Kind → its reader: file, release, how many units to pass over → what each unit says.
READERS: dict[str, Reader] = {
    "osv": read_osv,
    "debian-tracker": read_tracker,
    "debian-list": read_lists,
    "debsecan": read_debsecan,
    "secdb": read_secdb,
    "nvd": read_nvd,
    "kev": read_kev,
    "epss": read_epss,
}
REPORTS = ("trivy", "grype")
# How much a kind knows of a distribution's own packages; the better one decides where two differ.
RANKS = {"debian-tracker": 3, "secdb": 3, "osv": 2, "debsecan": 2, "debian-list": 1}

_SUFFIXES = re.compile(r"(?:\.(?:json|ya?ml|zip|tar|csv|list|gz|xz|bz2))+$")
_NVD_PART = re.compile(r"-(\d{4}|modified|recent)$")
_LIST = re.compile(rb"\s*\[\d{1,2} \w{3} \d{4}\] D[SL]A-")
# In this order: the first that is found decides.
_JSON: tuple[tuple[str, re.Pattern[bytes]], ...] = (
    ("nvd", re.compile(rb'"format"\s*:\s*"NVD_CVE"')),
    ("kev", re.compile(rb'"catalogVersion"')),
    ("trivy", re.compile(rb'"SchemaVersion"\s*:\s*\d')),
    ("secdb", re.compile(rb'"secfixes"|"apkurl"|"distroversion"')),
    ("grype", re.compile(rb'^\s*\{\s*"matches"\s*:')),
    ("osv", re.compile(rb'"affected"\s*:|"schema_version"\s*:|"withdrawn"\s*:')),
    ("debian-tracker", re.compile(rb'^\s*\{\s*(?:\}|"[^"]+"\s*:\s*\{\s*"(?:CVE|TEMP)-)')),
)
_YAML: tuple[tuple[str, re.Pattern[bytes]], ...] = (
    ("secdb", re.compile(rb"^(?:distroversion|apkurl|packages):", re.MULTILINE)),
    ("osv", re.compile(rb"^(?:id|affected):", re.MULTILINE)),
)


def kind_of(path: Path) -> str:
    """Recognise a file or directory.

    Returns:
        A name of ``READERS``, or of ``REPORTS`` for a scanner's report.

    Raises:
        FeedError: it cannot be read, or is none of them.
    """
    if path.is_dir():
        if not files_below(path):
            raise FeedError(f"{path}: no *.json and no *.yaml in it; expected OSV records")
        return "osv"
    head = head_of(path)
    if head[:4] in (b"PK\x03\x04", b"PK\x05\x06") or head[257:262] == b"ustar":
        return "osv"
    if head.startswith(b"VERSION 1"):
        return "debsecan"
    if _LIST.match(head):
        return "debian-list"
    if head.startswith((b"#model_version", b"cve,epss")):
        return "epss"
    table = _JSON if head.lstrip()[:1] == b"{" else _YAML
    for kind, pattern in table:
        if pattern.search(head):
            return kind
    raise FeedError(
        f"{path}: not recognised; expected one of {', '.join((*READERS, *REPORTS))}, or --kind"
    )


def reader_of(kind: str) -> Reader:
    """The reader of a kind.

    Raises:
        UsageError: there is none.
    """
    if kind not in READERS:
        raise UsageError(
            f"kind {kind!r}: expected one of {', '.join(READERS)}{nearest(kind, READERS)}"
        )
    return READERS[kind]


def default_name(path: Path, kind: str, release: str) -> str:
    """What a feed is called when nobody says: by its content, else by its file."""
    stem = _SUFFIXES.sub("", path.name) or kind
    if kind in ("kev", "epss"):
        return kind
    if kind == "debian-tracker":
        return "debian"
    if kind == "debian-list":
        return "debian-dla" if b"] DLA-" in head_of(path)[:200] else "debian-dsa"
    if kind == "secdb":
        return _secdb_name(path, release)
    if kind == "nvd" and (part := _NVD_PART.search(stem)):
        return f"nvd-{part.group(1)}"
    name = release or stem
    return name if name.startswith(kind) else f"{kind}-{name}"


def _secdb_name(path: Path, release: str) -> str:
    head = head_of(path)

    def value(field: str) -> str:
        found = re.search(rf'["\s]?{field}["\s]*:\s*"?([\w./:-]+)'.encode(), head)
        return found.group(1).decode() if found else ""

    ecosystem = ecosystem_of(
        {"urlprefix": value("urlprefix"), "distroversion": value("distroversion")}, release
    )
    base = ecosystem.lower().replace(":", "-") or _SUFFIXES.sub("", path.name)
    repository = value("reponame")
    return f"{base}-{repository}" if repository and base.startswith("alpine") else base
