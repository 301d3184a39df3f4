"""A vulnerability that an image has."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any

from sensor.images.vulns.advisory import Status
from sensor.images.vulns.severity import Severity, severity_of_score


@dataclass(frozen=True, slots=True)
class Finding:
    """One vulnerability in one package of an image. Dates are ISO dates; "" when not known.

    Attributes:
        id: the CVE, or what the advisory is called where there is none.
        ecosystem: as OSV calls it: ``Debian:12``.
        package: as advisories call it: of distributions mostly the source package.
        version: that is installed.
        fixed: the version without it; "" when there is none.
        status: what the vendor says.
        vendor_severity: what the vendor says.
        score: CVSS base score; None when nobody has scored it.
        vector: CVSS.
        scored_by: whose score it is.
        exploited: since when it is in the catalogue of known exploited vulnerabilities; "": not.
        ransomware: it is known to be used by ransomware.
        epss: how likely it is to be exploited within 30 days, 0 to 1; None when not known.
        published: when the vulnerability became known.
        fixed_since: when the fix was announced.
        first_seen: when this host first found it in this image; filled in by ``told``.
        advisories: what says so.
        feeds: which feeds do.
        installed: the packages of the image that it is about.
        locations: where in the image they are told of.
        files: programs and libraries that they brought.
        summary: one line.
    """

    id: str
    ecosystem: str
    package: str
    version: str
    fixed: str = ""
    status: Status = Status.OPEN
    vendor_severity: Severity = Severity.UNKNOWN
    score: float | None = None
    vector: str = ""
    scored_by: str = ""
    exploited: str = ""
    ransomware: bool = False
    epss: float | None = None
    published: str = ""
    fixed_since: str = ""
    first_seen: str = ""
    advisories: tuple[str, ...] = ()
    feeds: tuple[str, ...] = ()
    installed: tuple[str, ...] = ()
    locations: tuple[str, ...] = ()
    files: tuple[str, ...] = field(default=(), repr=False)
    summary: str = ""

    @property
    def cvss_severity(self) -> Severity:
        """What the score means."""
        return Severity.UNKNOWN if self.score is None else severity_of_score(self.score)

    @property
    def severity(self) -> Severity:
        """As people expect it: by CVSS, else as the vendor says.

        Distributions that look at each vulnerability never say "critical" (Debian), or nothing at
        all (Alpine); with their words alone a rule about critical ones would never fire. What the
        vendor found to be of no consequence for its package stays so.
        """
        if self.vendor_severity is Severity.NEGLIGIBLE or self.score is None:
            return self.vendor_severity
        return self.cvss_severity

    @property
    def key(self) -> tuple[str, str, str]:
        """What makes it the same finding in the next scan."""
        return self.id, self.ecosystem, self.package

    def to_json(self) -> dict[str, Any]:
        """As plain values; ``finding_from_json`` reads it back."""
        return {
            **asdict(self),
            "status": str(self.status),
            "vendor_severity": str(self.vendor_severity),
            "severity": str(self.severity),
        }


def finding_from_json(value: dict[str, Any]) -> Finding:
    """A finding from what ``to_json`` made."""
    fields = {name: value[name] for name in Finding.__slots__ if name in value}
    for name in ("advisories", "feeds", "installed", "locations", "files"):
        fields[name] = tuple(fields.get(name, ()))
    fields["status"] = Status[value["status"].upper().replace("-", "_")]
    fields["vendor_severity"] = Severity[value["vendor_severity"].upper()]
    return Finding(**fields)


def sorted_findings(findings: list[Finding]) -> list[Finding]:
    """The worst first: exploited ones, then by severity and score."""
    return sorted(
        findings,
        key=lambda f: (not f.exploited, -f.severity, -(f.score or 0.0), f.package, f.id),
    )
