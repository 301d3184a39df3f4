"""What feeds say, in one form for all of them."""

from __future__ import annotations

import enum
import re
from dataclasses import dataclass

from sensor.images.vulns.keys import ALWAYS, NEVER, after
from sensor.images.vulns.severity import Severity

_CVE = re.compile(r"CVE[-_ ](\d{4})[-_ ](\d{4,19})", re.IGNORECASE)


class Status(enum.IntEnum):
    """What a vendor says about a vulnerability in one of its packages."""

    FIXED = 0  # there is a version without it
    OPEN = 1  # there is none
    POSTPONED = 2  # there is none yet, and no hurry
    IGNORED = 3  # there will be none
    END_OF_LIFE = 4  # the release or the package is no longer looked after
    UNDETERMINED = 5  # nobody has looked yet
    NOT_AFFECTED = 6

    def __str__(self) -> str:
        return self.name.lower().replace("_", "-")


@dataclass(frozen=True, slots=True)
class Affected:
    """A range of versions of a package.

    Attributes:
        ecosystem: as OSV calls it: ``Debian:12``, ``PyPI``; see ``ecosystems``.
        package: as the ecosystem calls it; of the source where that is what advisories are about.
        low: key of the first version.
        high: key that is above the last version; ``NEVER`` when no version is affected.
        fixed: the version that has it no more; "" when there is none.
        status: what the vendor says.
        severity: what the vendor says.
    """

    ecosystem: str
    package: str
    low: bytes
    high: bytes
    fixed: str = ""
    status: Status = Status.FIXED
    severity: Severity = Severity.UNKNOWN


@dataclass(frozen=True, slots=True)
class Advisory:
    """One statement of one feed about one or more vulnerabilities.

    Attributes:
        name: what the feed calls it: ``DSA-5380-1``, ``GHSA-…``, ``CVE-…``.
        affected: packages and versions.
        cves: the CVEs that it is about.
        aliases: other names for the very same thing.
        published: ISO date; "" when not known. Of an errata notice the day of the fix.
        vector: CVSS vector; "" without.
        summary: one line; may be "".
        is_errata: it announces a fix, so that ``published`` is the day from which there is one.
    """

    name: str
    affected: tuple[Affected, ...]
    cves: tuple[str, ...] = ()
    aliases: tuple[str, ...] = ()
    published: str = ""
    vector: str = ""
    summary: str = ""
    is_errata: bool = False


@dataclass(frozen=True, slots=True)
class CveFacts:
    """What is known of a CVE whatever it is in. Dates are ISO dates; "" when not known."""

    cve: str
    score: float | None  # 0.0 to 10.0
    vector: str
    scored_by: str  # who: nvd@nist.gov
    published: str
    modified: str
    summary: str = ""


@dataclass(frozen=True, slots=True)
class Exploited:
    """A CVE of the catalogue of known exploited vulnerabilities; dates are ISO dates."""

    cve: str
    added: str
    due: str
    ransomware: bool


@dataclass(frozen=True, slots=True)
class Likelihood:
    """How likely a CVE is to be exploited in 30 days (EPSS), and how many are less so; 0 to 1."""

    cve: str
    probability: float
    percentile: float


@dataclass(frozen=True, slots=True)
class Problem:
    """Something in a feed that could not be used; the rest of the feed is.

    Attributes:
        place: where in the file.
        text: what was expected.
    """

    place: str
    text: str


Record = Advisory | CveFacts | Exploited | Likelihood | Problem


def until(
    ecosystem: str, package: str, key: bytes, fixed: str, severity: Severity = Severity.UNKNOWN
) -> Affected:
    """Every version below one that is fixed."""
    return Affected(ecosystem, package, b"", key, fixed, Status.FIXED, severity)


def unfixed(
    ecosystem: str, package: str, status: Status, severity: Severity = Severity.UNKNOWN
) -> Affected:
    """Every version, or none, as the status says; there is no fixed one."""
    none = status in (Status.NOT_AFFECTED, Status.UNDETERMINED)
    return Affected(ecosystem, package, b"", NEVER if none else ALWAYS, "", status, severity)


def exactly(ecosystem: str, package: str, key: bytes) -> Affected:
    """One version."""
    return Affected(ecosystem, package, key, after(key), "", Status.OPEN)


def find_cves(text: str) -> tuple[str, ...]:
    """The CVEs that a text names, as they are written properly; each once, in order."""
    found = (f"CVE-{year}-{number}" for year, number in _CVE.findall(text))
    return tuple(dict.fromkeys(found))
