"""Small feeds for tests: genuine entries (facts of public advisories), cut down by hand."""

from __future__ import annotations

import io
import zipfile
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import orjson

from sensor.images.package import Distribution, Inventory, Package
from sensor.images.vulns.finding import Finding
from sensor.images.vulns.importer import Imported, import_feed
from sensor.images.vulns.matcher import Matcher
from sensor.images.vulns.store import VulnStore

DSA = """\
[07 Feb 2020] DSA-4613-1 libidn2 - security update
\t{CVE-2019-18224}
\t[buster] - libidn2 2.0.5-1+deb10u1
[09 Dec 2020] DSA-4808-1 apt - security update
\t{CVE-2020-27350}
\t[buster] - apt 1.8.2.2
[25 May 2022] DSA-5147-1 dpkg - security update
\t{CVE-2022-1664}
\t[buster] - dpkg 1.19.8
\t[bullseye] - dpkg 1.20.10
[25 Mar 2023] DSA-5378-1 xen - security update
\t{CVE-2022-23824 CVE-2022-42331}
\t[buster] - xen <end-of-life>
\t[bullseye] - xen 4.14.5+94-ge49571868d-1
\tNOTE: what notes say is passed over
"""
SECDB: dict[str, Any] = {
    "distroversion": "v3.9",
    "reponame": "main",
    "urlprefix": "http://dl-cdn.alpinelinux.org/alpine",
    "packages": [
        {"pkg": {"name": "musl", "secfixes": {"1.1.20-r5": ["CVE-2019-14697"]}}},
        {"pkg": {"name": "openssl", "secfixes": {
            "1.1.1d-r0": ["CVE-2019-1547", "CVE-2019-1549", "CVE-2019-1563"],
            "1.1.1a-r0": ["CVE-2018-0734", "CVE-2018-0735"],
            "0": ["CVE-2019-0190"]}}},
        {"pkg": {"name": "ansible", "secfixes": {"2.7.3-r0": ["CVE 2018-16859"]}}},
        {"pkg": {"name": "xen", "secfixes": {
            "4.10-1-r1": ["CVE-2018-15471"],
            "4.11.0-r0": ["CVE-2018-15470  XSA-272", "no id"]}}},
    ],
}  # fmt: skip
TRACKER: dict[str, Any] = {
    "prototypejs": {
        "CVE-2008-7220": {"scope": "remote", "description": "Prototype", "releases": {
            "buster": {"status": "resolved", "fixed_version": "1.6.0.2-1", "urgency": "high**"},
            "sid": {"status": "resolved", "fixed_version": "0", "urgency": "high**"}}},
    },
    "bash": {
        "CVE-2019-18276": {"releases": {
            "buster": {"status": "open", "urgency": "unimportant"},
            "bullseye": {"status": "open", "urgency": "low", "nodsa": "Minor issue",
                         "nodsa_reason": "ignored"},
            "jessie": {"status": "open", "urgency": "end-of-life"},
            "sid": {"status": "undetermined", "urgency": "not yet assigned"},
            "hamm": {"status": "open", "urgency": "low"}}},
        "CVE-2020-0001": {"scope": "remote"},
    },
}  # fmt: skip
PYSEC = """\
id: PYSEC-2022-43012
details: setuptools before 65.5.1 allows remote attackers to cause a denial of service
aliases:
- CVE-2022-40897
modified: '2023-05-04T04:29:29.797493Z'
published: '2022-12-23T00:15:00Z'
affected:
- package:
    name: setuptools
    ecosystem: PyPI
    purl: pkg:pypi/setuptools
  ranges:
  - type: GIT
    repo: https://github.com/pypa/setuptools
    events:
    - introduced: '0'
    - fixed: 43a9c9bfa6aa626ec2a22540bea28d2ca77964be
  - type: ECOSYSTEM
    events:
    - introduced: '0'
    - fixed: 65.5.1
  versions:
  - 0.6b1
  - 65.5.0
"""
NVD: dict[str, Any] = {
    "resultsPerPage": 2, "format": "NVD_CVE", "version": "2.0",
    "vulnerabilities": [
        {"cve": {
            "id": "CVE-2019-14697", "published": "2019-08-06T16:15:11.430",
            "lastModified": "2024-11-21T04:27:11.930",
            "descriptions": [{"lang": "es", "value": "musl libc hasta 1.1.23"},
                             {"lang": "en", "value": "musl libc through 1.1.23 has an x87\n stack "
                                                     "adjustment imbalance"}],
            "metrics": {
                "cvssMetricV31": [
                    {"source": "cna@example.org", "type": "Secondary", "cvssData": {
                        "vectorString": "CVSS:3.1/AV:L/AC:H/PR:N/UI:N/S:U/C:L/I:N/A:N",
                        "baseScore": 2.9}},
                    {"source": "nvd@nist.gov", "type": "Primary", "cvssData": {
                        "vectorString": "CVSS:3.1/AV:N/AC:L/PR:N/UI:N/S:U/C:H/I:H/A:H",
                        "baseScore": 9.8}}],
                "cvssMetricV2": [{"source": "nvd@nist.gov", "type": "Primary", "cvssData": {
                    "vectorString": "AV:N/AC:L/Au:N/C:P/I:P/A:P", "baseScore": 7.5}}]}}},
        {"cve": {"id": "CVE-2019-1547", "published": "2019-09-10T17:15:11",
                 "lastModified": "2024-11-21T04:36:47", "metrics": {"cvssMetricV31": [
                     {"source": "nvd@nist.gov", "type": "Primary", "cvssData": {
                         "vectorString": "CVSS:3.1/AV:L/AC:H/PR:L/UI:N/S:U/C:H/I:N/A:N",
                         "baseScore": 4.7}}]}}},
        {"cve": {"id": "nonsense"}},
    ],
}  # fmt: skip
KEV: dict[str, Any] = {
    "title": "CISA Catalog of Known Exploited Vulnerabilities", "catalogVersion": "2025.08.25",
    "count": 2, "vulnerabilities": [
        {"cveID": "CVE-2021-44228", "dateAdded": "2021-12-10", "dueDate": "2021-12-24",
         "knownRansomwareCampaignUse": "Known"},
        {"cveID": "CVE-2025-48384", "dateAdded": "2025-08-25", "dueDate": "2025-09-15",
         "knownRansomwareCampaignUse": "Unknown"},
        {"cveID": ""},
    ],
}  # fmt: skip
EPSS = """\
#model_version:v2025.03.14,score_date:2025-08-25T12:55:00Z
cve,epss,percentile
CVE-2021-44228,0.94358,0.99957
CVE-2019-14697,0.02312,0.84102
CVE-2019-1547,twelve,0.2
CVE-2019-1549,1.5,0.2
"""
DEBSECAN = """\
VERSION 1
CVE-2019-18276,,An issue was discovered in disable_priv_mode
CVE-2021-0001,,of a binary package

bash,0, M?F,5.0-7,5.0-4+deb10u1 5.0-4+deb10u2
open,0, H  ,,1.0-1
libx,1,BL  ,2.0-1,
bad,7, L  ,1.0-1,

bash,bash bash-doc

"""
ALSA: dict[str, Any] = {
    "id": "ALSA-2024:8127", "summary": "Moderate: java-21-openjdk security update",
    "published": "2024-10-16T00:00:00Z", "modified": "2024-10-17T00:00:00Z",
    "related": ["CVE-2024-21208", "CVE-2024-21210"],
    "affected": [{"package": {"ecosystem": "AlmaLinux:8", "name": "java-21-openjdk"}, "ranges": [
        {"type": "ECOSYSTEM", "events": [{"introduced": "0"},
                                         {"fixed": "1:21.0.5.0.10-3.el8.alma.1"}]}]}],
}  # fmt: skip
GHSA: dict[str, Any] = {
    "id": "GHSA-jfh8-c2jp-5v3q", "aliases": ["CVE-2021-44228"],
    "summary": "Remote code injection in Log4j", "published": "2021-12-10T00:40:56Z",
    "severity": [{"type": "CVSS_V3", "score": "CVSS:3.1/AV:N/AC:L/PR:N/UI:N/S:C/C:H/I:H/A:H"}],
    "database_specific": {"severity": "CRITICAL"},
    "affected": [{"package": {"ecosystem": "Maven", "name": "org.apache.logging.log4j:log4j-core"},
                  "ranges": [
        {"type": "ECOSYSTEM", "events": [{"introduced": "2.13.0"}, {"fixed": "2.15.0"}]},
        {"type": "ECOSYSTEM", "events": [{"introduced": "2.0-beta9"}, {"fixed": "2.3.1"},
                                         {"introduced": "2.4"}, {"fixed": "2.12.2"}]}]}],
}  # fmt: skip


def as_json(value: Any) -> bytes:
    """JSON as feeds have it."""
    return orjson.dumps(value, option=orjson.OPT_INDENT_2)


def as_zip(records: dict[str, bytes]) -> bytes:
    """A zip file of records by name."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in records.items():
            archive.writestr(name, data)
    return buffer.getvalue()


def osv(
    name: str, ecosystem: str, package: str, events: list[dict[str, str]], **more: Any
) -> bytes:
    """An OSV record with one range."""
    ranges = [{"type": "ECOSYSTEM", "events": events}]
    affected = [{"package": {"ecosystem": ecosystem, "name": package}, "ranges": ranges}]
    return as_json({"id": name, "affected": affected, **more})


class Host:
    """A store with feeds, and images to match against it."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.store = VulnStore(directory / "vulns.db")

    def put(self, content: bytes | str, file: str = "feed", **options: Any) -> Imported:
        """Import a feed that holds this."""
        path = self.directory / file
        path.write_bytes(content.encode() if isinstance(content, str) else content)
        return import_feed(self.store, path, **options)

    def problems(self, feed: str) -> list[str]:
        """What of a feed could not be used."""
        return [f"{place}: {text}" for place, text in self.store.problems(feed)]

    def match(
        self, packages: Sequence[Package], distribution: Distribution | None = None
    ) -> tuple[Finding, ...]:
        """What an image of these packages has."""
        return (
            Matcher(self.store).match(Inventory("sha256:1", distribution, tuple(packages))).findings
        )

    def of(self, ecosystem: str, name: str, version: str) -> list[str]:
        """The ids of what one package has."""
        os_of = {"deb": BUSTER, "apk": ALPINE, "rpm": Distribution("almalinux", "8.10")}
        found = self.match([Package(ecosystem, name, version)], os_of.get(ecosystem))
        return [finding.id for finding in found]

    def everything(self) -> list[list[tuple[Any, ...]]]:
        """All that feeds say, to compare; without times."""
        tables = (
            """SELECT p.ecosystem, p.name, a.high, a.low, v.name, a.fixed, a.status, a.severity
            FROM affected a JOIN package p ON p.id=a.package JOIN advisory v ON v.id=a.advisory""",
            "SELECT cve, score, vector FROM cve",
            "SELECT cve, added FROM exploited",
            "SELECT cve, probability FROM likelihood",
            "SELECT place, text FROM problem",
            "SELECT v.name, n.name FROM advisory_name n JOIN advisory v ON v.id=n.advisory",
        )
        return [sorted(self.store.db.execute(query).fetchall()) for query in tables]


ALPINE = Distribution("alpine", "3.9.4")
BUSTER = Distribution("debian", "10", "buster")
DEBSECAN_PACKED = zlib.compress(DEBSECAN.encode())
