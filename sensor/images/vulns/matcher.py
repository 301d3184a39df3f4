"""Which advisories concern an image: the packages of an inventory against the store."""

from __future__ import annotations

import functools
import re
from collections.abc import Iterable
from dataclasses import dataclass, replace

from sensor.images.package import Distribution, Inventory, Package
from sensor.images.vulns.advisory import Status
from sensor.images.vulns.ecosystems import key_of, look_up, of_distribution
from sensor.images.vulns.feeds.kinds import RANKS
from sensor.images.vulns.finding import Finding, sorted_findings
from sensor.images.vulns.severity import Severity
from sensor.images.vulns.store import VulnStore

_PACKAGE = "SELECT id FROM package WHERE ecosystem = ? AND name = ?"
# CROSS JOIN keeps SQLite to the order that is written: ranges of the package, what they belong to.
_RANGES = """
SELECT a.fixed, a.status, a.severity, v.name, v.cves, v.aliases, v.published, v.score,
    v.vector, v.summary, v.is_errata, f.name, f.kind
FROM affected a
CROSS JOIN advisory v ON v.id = a.advisory
CROSS JOIN feed f ON f.id = v.feed
WHERE a.package = ? AND a.high > ? AND a.low <= ?
"""
_COVERED = """
SELECT 1 FROM package p CROSS JOIN affected a ON a.package = p.id WHERE p.ecosystem = ? LIMIT 1
"""
_CLEARED = """
SELECT v.name, v.cves, f.kind FROM affected a CROSS JOIN advisory v ON v.id = a.advisory
CROSS JOIN feed f ON f.id = v.feed WHERE a.package = ? AND a.high = x'' AND a.status = ?
"""
_CVE = (
    "SELECT score, vector, scored_by, published, summary FROM cve WHERE cve=? "
    "ORDER BY modified DESC LIMIT 1"
)
_EXPLOITED = "SELECT added, ransomware FROM exploited WHERE cve=? LIMIT 1"
_LIKELIHOOD = "SELECT max(probability) FROM likelihood WHERE cve=?"
_CACHED = 20_000  # packages, or CVEs, whose answers are kept for the next image
_MODULE = ".module"
_STREAMS = re.compile(r"[\w.+-]+:[\w.+-]+")


@dataclass(frozen=True, slots=True)
class Matches:
    """What was found in an image.

    Attributes:
        findings: the worst first.
        unmatched: packages that no feed can say anything of, with the reason.
        generation: of the store.
    """

    findings: tuple[Finding, ...]
    unmatched: tuple[tuple[Package, str], ...]
    generation: int


@dataclass(frozen=True, slots=True)
class CveSummary:
    """What feeds know of a CVE; see ``Finding`` for the fields."""

    score: float | None = None
    vector: str = ""
    scored_by: str = ""
    published: str = ""
    summary: str = ""
    exploited: str = ""
    ransomware: bool = False
    epss: float | None = None


@dataclass(slots=True)
class _Hit:
    """One range that holds the version, for one vulnerability of its advisory."""

    rank: int
    fixed: str
    status: Status
    severity: Severity
    advisory: str
    aliases: tuple[str, ...]
    published: str
    score: float | None
    vector: str
    summary: str
    is_errata: bool
    feed: str


class Matcher:
    """Matches images against a store. What it learned of packages and CVEs serves the next image.

    Args:
        store: it may be imported into meanwhile; then everything is asked anew.
    """

    def __init__(self, store: VulnStore) -> None:
        self._store = store
        self._generation = -1
        self._found = functools.lru_cache(maxsize=_CACHED)(self._ask)
        self._facts = functools.lru_cache(maxsize=_CACHED)(self._ask_facts)
        self._covered = functools.lru_cache(maxsize=_CACHED)(self._ask_covered)

    def match(self, inventory: Inventory) -> Matches:
        """The vulnerabilities of an image.

        Raises:
            StateError: the store cannot be read.
        """
        generation = self._store.generation
        if generation != self._generation:
            self._found.cache_clear()
            self._facts.cache_clear()
            self._covered.cache_clear()
            self._generation = generation
        groups, unmatched = _grouped(inventory.packages, inventory.distribution)
        named = {ecosystem for ecosystem, *_ in groups}
        findings: list[Finding] = []
        with self._store.errors("read"):
            silent = {ecosystem for ecosystem in named if not self._covered(ecosystem)}
            distribution = of_distribution(inventory.distribution)
            if distribution in named - silent:
                unmatched += _drop_owned(groups, distribution)
            for (ecosystem, name, version, stream), packages in groups.items():
                if ecosystem in silent:
                    why = f"no feed in the store is about {ecosystem}"
                    unmatched += [(package, why) for package in packages]
                    continue
                try:
                    found = self._found(ecosystem, name, version, stream)
                except ValueError as error:
                    unmatched += [
                        (package, f"version {version!r}: {error}") for package in packages
                    ]
                    continue
                if found:
                    findings += _placed(found, packages)
        return Matches(tuple(sorted_findings(findings)), tuple(unmatched), generation)

    def _ask_covered(self, ecosystem: str) -> bool:
        return self._store.db.execute(_COVERED, (ecosystem,)).fetchone() is not None

    def facts(self, cve: str) -> CveSummary:
        """What is known of a CVE, whatever it is in."""
        with self._store.errors("read"):
            return self._facts(cve)

    def _ask(self, ecosystem: str, name: str, version: str, stream: str) -> tuple[Finding, ...]:
        known = self._store.db.execute(_PACKAGE, (ecosystem, name)).fetchone()
        key_function = key_of(ecosystem)
        if known is None or key_function is None:
            return ()
        key = key_function(version)
        rows = self._store.db.execute(_RANGES, (*known, key, key)).fetchall()
        if not rows:
            return ()
        hits: dict[str, list[_Hit]] = {}
        for row in rows:
            fixed, status, severity, advisory, cves, aliases, *rest = row
            *about, feed, kind = rest
            published, score, vector, summary, is_errata = about
            if _MODULE in fixed and not _of_stream(version, stream, summary):
                continue
            hit = _Hit(
                RANKS.get(kind, 0), fixed, Status(status), Severity(severity), advisory,
                tuple(aliases.split()), published, score, vector, summary, is_errata, feed,
            )  # fmt: skip
            for name_of_it in cves.split() or (min(advisory, *hit.aliases, advisory),):
                hits.setdefault(name_of_it, []).append(hit)
        cleared = self._cleared(known[0])
        return tuple(
            self._finding(id_, ecosystem, name, version, found)
            for id_, found in hits.items()
            if cleared.get(id_, 0) <= max(hit.rank for hit in found)
        )

    def _cleared(self, package: int) -> dict[str, int]:
        """The vulnerabilities that do not affect a package, and the rank of who says so."""
        found: dict[str, int] = {}
        for name, cves, kind in self._store.db.execute(_CLEARED, (package, Status.NOT_AFFECTED)):
            for id_ in cves.split() or (name,):
                found[id_] = max(found.get(id_, 0), RANKS.get(kind, 0))
        return found

    def _finding(
        self, id_: str, ecosystem: str, name: str, version: str, hits: list[_Hit]
    ) -> Finding:
        facts = self._facts(id_)
        key = key_of(ecosystem)
        assert key is not None
        # Who knows most decides; among equals whoever has a fix, and the latest of them.
        best = max(
            hits,
            key=lambda hit: (hit.rank, bool(hit.fixed), key(hit.fixed) if hit.fixed else b""),
        )
        scored = max(hits, key=lambda hit: hit.score or -1.0)
        score, vector, scored_by = facts.score, facts.vector, facts.scored_by
        if score is None and scored.score is not None:
            score, vector, scored_by = scored.score, scored.vector, scored.feed
        errata = sorted(hit.published for hit in hits if hit.is_errata and hit.published)
        known = sorted(hit.published for hit in hits if hit.published)
        return Finding(
            id=id_,
            ecosystem=ecosystem,
            package=name,
            version=version,
            fixed=best.fixed,
            status=best.status,
            vendor_severity=max(
                (hit.severity for hit in hits if hit.rank == best.rank), default=Severity.UNKNOWN
            )
            or max(hit.severity for hit in hits),
            score=score,
            vector=vector,
            scored_by=scored_by,
            exploited=facts.exploited,
            ransomware=facts.ransomware,
            epss=facts.epss,
            published=facts.published or (known[0] if known else ""),
            fixed_since=errata[0] if errata and best.fixed else "",
            advisories=tuple(dict.fromkeys(hit.advisory for hit in hits)),
            feeds=tuple(dict.fromkeys(hit.feed for hit in hits)),
            summary=facts.summary or next((hit.summary for hit in hits if hit.summary), ""),
        )

    def _ask_facts(self, cve: str) -> CveSummary:
        db = self._store.db
        score, vector, scored_by, published, summary = db.execute(_CVE, (cve,)).fetchone() or (
            None, "", "", "", "",
        )  # fmt: skip
        exploited, ransomware = db.execute(_EXPLOITED, (cve,)).fetchone() or ("", 0)
        epss = db.execute(_LIKELIHOOD, (cve,)).fetchone()[0]
        return CveSummary(
            score, vector, scored_by, published, summary, exploited, bool(ransomware), epss
        )


def _of_stream(version: str, stream: str, summary: str) -> bool:
    """Whether a fix in a module's stream is about a package.

    Versions of different streams cannot be compared. Which stream a fix is for stands in the
    summary of the notice: "Important: nodejs:18 security update".

    Args:
        version: of the package.
        stream: that it was built in (``nodejs:18``); "" when not known, or for none.
        summary: of the advisory.
    """
    if not stream:
        return _MODULE in version
    named = _STREAMS.findall(summary)
    return not named or stream in named


# Ecosystem, name, version, and of RPM the module's stream.
Groups = dict[tuple[str, str, str, str], list[Package]]


def _grouped(
    packages: Iterable[Package], distribution: Distribution | None
) -> tuple[Groups, list[tuple[Package, str]]]:
    """Packages by what advisories would call them, and those that no advisory can be about."""
    groups: Groups = {}
    unmatched = []
    for package in packages:
        ecosystem, name, version = look_up(package, distribution)
        if not ecosystem:
            called = distribution.id if distribution else "no distribution"
            why = f"no feed is about packages of {package.ecosystem} ({called})"
            unmatched.append((package, why))
        elif not version:
            unmatched.append((package, "its version is not known"))
        else:
            stream = ":".join(package.module.split(":")[:2])
            groups.setdefault((ecosystem, name, version, stream), []).append(package)
    return groups, unmatched


def _drop_owned(groups: Groups, distribution: str) -> list[tuple[Package, str]]:
    """Take out what a package of the distribution brought.

    The distribution mends it without changing its version, and says so in its own advisories.

    Args:
        groups: changed.
        distribution: its ecosystem, which feeds are about.

    Returns:
        What was taken out, and why.
    """
    dropped = []
    for key in [key for key in groups if key[0] != distribution]:
        owned = [package for package in groups[key] if package.owner]
        dropped += [
            (package, f"belongs to packages of {distribution}, which are matched themselves")
            for package in owned
        ]
        kept = [package for package in groups[key] if not package.owner]
        if kept:
            groups[key] = kept
        else:
            del groups[key]
    return dropped


def _placed(found: tuple[Finding, ...], packages: list[Package]) -> list[Finding]:
    """Findings with the image's packages that they are about."""
    installed = tuple(dict.fromkeys(package.name for package in packages))
    locations = tuple(dict.fromkeys(p.location for p in packages if p.location))
    files = tuple(dict.fromkeys(file for package in packages for file in package.files))
    return [
        replace(finding, installed=installed, locations=locations, files=files) for finding in found
    ]
