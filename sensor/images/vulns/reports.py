"""Reports of Trivy and Grype, taken in place of an own scan."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import orjson

from sensor.errors import FeedError
from sensor.images.package import OF_DISTRIBUTION, Distribution
from sensor.images.vulns.advisory import Status, find_cves
from sensor.images.vulns.ecosystems import of_distribution, of_purl_type
from sensor.images.vulns.feeds.files import head_of, read_whole
from sensor.images.vulns.feeds.kinds import kind_of
from sensor.images.vulns.finding import Finding, finding_from_json, sorted_findings
from sensor.images.vulns.matcher import Matcher
from sensor.images.vulns.severity import base_score, cvss_rank, severity_of_word
from sensor.images.vulns.store import VulnStore

_TRIVY_STATUS = {
    "affected": Status.OPEN, "fixed": Status.FIXED, "will_not_fix": Status.IGNORED,
    "fix_deferred": Status.POSTPONED, "end_of_life": Status.END_OF_LIFE,
    "not_affected": Status.NOT_AFFECTED, "under_investigation": Status.UNDETERMINED,
}  # fmt: skip
# What Trivy calls a result, for reports of versions that did not write package URLs.
_TRIVY_TYPES = {
    "python-pkg": "pypi", "pip": "pypi", "poetry": "pypi", "pipenv": "pypi", "node-pkg": "npm",
    "npm": "npm", "yarn": "npm", "pnpm": "npm", "jar": "maven", "pom": "maven",
    "gobinary": "golang", "gomod": "golang", "rustbinary": "cargo", "cargo": "cargo",
    "gemspec": "gem", "bundler": "gem",
}  # fmt: skip
_GRYPE_STATUS = {
    "fixed": Status.FIXED, "not-fixed": Status.OPEN, "wont-fix": Status.IGNORED,
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Report:
    """What another scanner found in an image.

    Attributes:
        image_id: ``sha256:…`` of the image's configuration; what it is kept by.
        reference: what the scanner was told to scan.
        tool: ``trivy`` or ``grype``.
        created: ISO time; "" when it does not say.
        findings: the worst first.
        skipped: entries that could not be used, each with its place and why.
    """

    image_id: str
    reference: str
    tool: str
    created: str
    findings: tuple[Finding, ...]
    skipped: tuple[str, ...] = ()


def read_report(path: Path, *, image_id: str = "") -> Report:
    """Read a report.

    Args:
        path: JSON of ``trivy image`` or ``grype``.
        image_id: that it must be about; "": whichever it is about.

    Raises:
        FeedError: it is no report, not of an image, or of another one.
    """
    kind = kind_of(path)
    if kind not in ("trivy", "grype"):
        raise FeedError(f"{path}: looks like {kind}; expected a JSON report of Trivy or Grype")
    try:
        value = orjson.loads(read_whole(path))
    except orjson.JSONDecodeError as error:
        raise FeedError(
            f"{path}: line {error.lineno}: not JSON: {error.msg}; expected a whole report"
        ) from error
    report = _trivy(value) if kind == "trivy" else _grype(value)
    if not report.image_id.startswith("sha256:"):
        raise FeedError(f"{path}: names no image id; expected the report of an image")
    if image_id and report.image_id != image_id:
        raise FeedError(
            f"{path}: is about {report.image_id} ({report.reference}); expected {image_id}"
        )
    return report


def is_sbom(path: Path) -> bool:
    """Whether a file looks like a CycloneDX document.

    Raises:
        FeedError: it cannot be read.
    """
    return b'"bomFormat"' in head_of(path)


def _map(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _maps(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []


def _report(
    entries: Iterator[tuple[str, Finding | None]], image_id: str, reference: str, tool: str,
    created: str,
) -> Report:  # fmt: skip
    findings, skipped = [], []
    for place, finding in entries:
        if finding is None:
            skipped.append(f"{place}: expected an id, a package and its version")
        elif finding.status is not Status.NOT_AFFECTED:
            findings.append(finding)
    return Report(
        image_id, reference, tool, created, tuple(sorted_findings(findings)), tuple(skipped)
    )


def _trivy(value: Any) -> Report:
    about = _map(_map(value).get("Metadata"))
    system = _map(about.get("OS"))
    family = str(system.get("Family", ""))
    distribution = Distribution(family, str(system.get("Name", ""))) if family else None
    entries = (
        (
            f"Results[{i}].Vulnerabilities[{j}]",
            _trivy_finding(_map(entry), distribution, str(_map(result).get("Type", ""))),
        )
        for i, result in enumerate(_maps(_map(value).get("Results")))
        for j, entry in enumerate(_maps(_map(result).get("Vulnerabilities")))
    )
    return _report(
        entries, str(about.get("ImageID", "")), str(value.get("ArtifactName", "")), "trivy",
        str(value.get("CreatedAt", "")),
    )  # fmt: skip


def _trivy_finding(
    entry: dict[str, Any], distribution: Distribution | None, kind: str
) -> Finding | None:
    id_, package = str(entry.get("VulnerabilityID", "")), str(entry.get("PkgName", ""))
    version = str(entry.get("InstalledVersion", ""))
    if not (id_ and package and version):
        return None
    purl = str(_map(entry.get("PkgIdentifier")).get("PURL", ""))
    source = str(entry.get("SeveritySource", ""))
    scores = {str(name): _map(score) for name, score in _map(entry.get("CVSS")).items()}
    # NVD's score where there is one, because it is the one that can be compared.
    scored_by = next((name for name in ("nvd", "ghsa", source, *scores) if name in scores), "")
    score, vector = _trivy_score(scores.get(scored_by, {}))
    vendor = source not in ("", "nvd")
    fixed = str(entry.get("FixedVersion", ""))
    return Finding(
        id=id_,
        ecosystem=_ecosystem(purl or f"pkg:{_TRIVY_TYPES.get(kind, '')}", distribution),
        package=package,
        version=version,
        fixed=fixed,
        status=_TRIVY_STATUS.get(
            str(entry.get("Status", "")), Status.FIXED if fixed else Status.OPEN
        ),
        # What it took from NVD is no vendor's; without a score it is all there is.
        vendor_severity=severity_of_word(
            str(entry.get("Severity", "")) if vendor or score is None else ""
        ),
        score=score,
        vector=vector,
        scored_by=scored_by if score is not None else "",
        published=str(entry.get("PublishedDate", ""))[:10],
        advisories=tuple(dict.fromkeys([id_, *map(str, _maps(entry.get("VendorIDs")))])),
        feeds=("trivy",),
        installed=(package,),
        locations=tuple(filter(None, [str(entry.get("PkgPath", ""))])),
        summary=str(entry.get("Title", "")),
    )


def _trivy_score(scores: dict[str, Any]) -> tuple[float | None, str]:
    for version in ("V3", "V40", "V2"):
        score = scores.get(f"{version}Score")
        if isinstance(score, (int, float)):
            return float(score), str(scores.get(f"{version}Vector", ""))
    return None, ""


def _grype(value: Any) -> Report:
    source = _map(_map(value).get("source"))
    target = _map(source.get("target"))
    system = _map(value.get("distro"))
    name = str(system.get("name", ""))
    distribution = Distribution(name, str(system.get("version", ""))) if name else None
    entries = (
        (f"matches[{i}]", _grype_finding(_map(match), distribution))
        for i, match in enumerate(_maps(value.get("matches")))
    )
    created = str(_map(value.get("descriptor")).get("timestamp", ""))
    return _report(
        entries, str(target.get("imageID", "")), str(target.get("userInput", "")), "grype", created
    )


def _grype_finding(match: dict[str, Any], distribution: Distribution | None) -> Finding | None:
    about, artifact = _map(match.get("vulnerability")), _map(match.get("artifact"))
    name, package = str(about.get("id", "")), str(artifact.get("name", ""))
    version = str(artifact.get("version", ""))
    if not (name and package and version):
        return None
    related = [_map(entry) for entry in _maps(match.get("relatedVulnerabilities"))]
    cves = find_cves(" ".join([name, *(str(entry.get("id", "")) for entry in related)]))
    fix = _map(about.get("fix"))
    fixed = [str(one) for one in _maps(fix.get("versions"))]
    score, vector, scored_by = _grype_score(about, *related)
    exploited = [_map(one) for one in _maps(about.get("knownExploited"))]
    epss = [_map(one).get("epss") for one in _maps(about.get("epss"))]
    locations = [str(_map(one).get("path", "")) for one in _maps(artifact.get("locations"))]
    return Finding(
        id=cves[0] if cves else name,
        ecosystem=_ecosystem(str(artifact.get("purl", "")), distribution),
        package=package,
        version=version,
        fixed=fixed[0] if fixed else "",
        status=_GRYPE_STATUS.get(str(fix.get("state", "")), Status.OPEN),
        vendor_severity=severity_of_word(str(about.get("severity", ""))),
        score=score,
        vector=vector,
        scored_by=scored_by,
        exploited=str(exploited[0].get("dateAdded", ""))[:10] if exploited else "",
        ransomware=any(
            str(one.get("knownRansomwareCampaignUse", "")).lower() == "known" for one in exploited
        ),
        epss=next((float(one) for one in epss if isinstance(one, (int, float))), None),
        advisories=tuple(dict.fromkeys([name, *cves])),
        feeds=("grype",),
        installed=(package,),
        locations=tuple(filter(None, locations)),
        summary=str(about.get("description", ""))[:200],
    )


def _grype_score(*places: dict[str, Any]) -> tuple[float | None, str, str]:
    found = [
        (_map(entry), str(_map(entry).get("vector", "")))
        for place in places
        for entry in _maps(place.get("cvss"))
    ]
    for entry, vector in sorted(found, key=lambda pair: -cvss_rank(pair[1])):
        try:
            return base_score(vector), vector, str(entry.get("source", ""))
        except ValueError:
            continue  # another one may be whole
    return None, "", ""


def _ecosystem(purl: str, distribution: Distribution | None) -> str:
    kind = purl.removeprefix("pkg:").partition("/")[0]
    if kind in OF_DISTRIBUTION or not kind:
        return of_distribution(distribution)
    return of_purl_type(kind)


def keep_report(store: VulnStore, report: Report) -> None:
    """Keep a report in the place of an earlier one of the same image."""
    content = orjson.dumps([finding.to_json() for finding in report.findings])
    with store.transaction("write"):
        store.db.execute(
            "INSERT OR REPLACE INTO report VALUES (?,?,?,?,?,?)",
            (report.image_id, report.reference, report.tool, report.created, time.time_ns(),
             content),
        )  # fmt: skip
        store.db.execute("UPDATE generation SET number = number + 1")


def kept_report(store: VulnStore, image_id: str) -> Report | None:
    """The report that is kept of an image, with what feeds know today of its CVEs."""
    with store.errors("read"):
        row = store.db.execute(
            "SELECT reference, tool, created, findings FROM report WHERE image=?", (image_id,)
        ).fetchone()
    if row is None:
        return None
    reference, tool, created, content = row
    found = [finding_from_json(value) for value in orjson.loads(content)]
    return with_facts(store, Report(image_id, reference, tool, created, tuple(found)))


def with_facts(store: VulnStore, report: Report) -> Report:
    """A report with what the store knows of its CVEs and the report does not say."""
    matcher = Matcher(store)
    findings = []
    for finding in report.findings:
        facts = matcher.facts(finding.id)
        changed: dict[str, Any] = {}
        if finding.score is None and facts.score is not None:
            changed = {"score": facts.score, "vector": facts.vector, "scored_by": facts.scored_by}
        if not finding.exploited and facts.exploited:
            changed |= {"exploited": facts.exploited, "ransomware": facts.ransomware}
        if facts.epss is not None:
            changed["epss"] = facts.epss
        if not finding.published:
            changed["published"] = facts.published
        findings.append(replace(finding, **changed))
    return replace(report, findings=tuple(sorted_findings(findings)))


def kept_reports(store: VulnStore) -> list[dict[str, Any]]:
    """Which reports are kept."""
    with store.errors("read"):
        rows = store.db.execute(
            "SELECT image, reference, tool, created, imported_ns FROM report ORDER BY reference"
        ).fetchall()
    names = ("image", "reference", "tool", "created", "imported_ns")
    return [dict(zip(names, row, strict=True)) for row in rows]
