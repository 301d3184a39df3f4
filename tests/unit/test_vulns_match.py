"""Matching packages against advisories, severities, and reports of other scanners."""

from __future__ import annotations

import re
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from packaging.version import Version
from univers.versions import DebianVersion

from sensor.errors import FeedError
from sensor.images.package import Distribution, Inventory, Package
from sensor.images.vulns.advisory import Status
from sensor.images.vulns.ecosystems import (
    canonical_ecosystem,
    canonical_name,
    look_up,
    of_distribution,
)
from sensor.images.vulns.feeds.osv import records_of
from sensor.images.vulns.finding import Finding, finding_from_json
from sensor.images.vulns.language_keys import pep440_key
from sensor.images.vulns.matcher import Matcher
from sensor.images.vulns.reports import keep_report, kept_report, read_report, with_facts
from sensor.images.vulns.severity import (
    Severity,
    base_score,
    severity_of_score,
    severity_of_word,
)
from sensor.images.vulns.store import stale_feeds
from tests.unit import feeds
from tests.unit.feeds import Host, as_json, osv

DAY_NS = 86400 * 10**9


@pytest.fixture
def host(tmp_path: Path) -> Host:
    """An empty store."""
    return Host(tmp_path)


@pytest.mark.parametrize(
    ("id_", "version", "codename", "ecosystem"),
    [
        ("debian", "12", "bookworm", "Debian:12"),
        ("debian", "10.13", "buster", "Debian:10"),
        ("debian", "", "trixie", "Debian:13"),
        ("debian", "", "", "Debian:sid"),
        ("ubuntu", "22.04", "jammy", "Ubuntu:22.04"),
        ("alpine", "3.19.1", "", "Alpine:v3.19"),
        ("alpine", "3.21.0_alpha20240923", "", "Alpine:edge"),
        ("almalinux", "8.10", "", "AlmaLinux:8"),
        ("rocky", "9.3", "", "Rocky Linux:9"),
        ("rhel", "9.4", "", "Red Hat:9"),
        ("centos", "7", "", "Red Hat:7"),
        ("opensuse-leap", "15.5", "", "openSUSE:Leap 15.5"),
        ("sles", "15.5", "", "SUSE:Linux Enterprise Server 15 SP5"),
        ("mariner", "2.0.20240123", "", "Azure Linux:2"),
        ("wolfi", "20230201", "", "Wolfi"),
        ("gentoo", "2.14", "", ""),
    ],
)
def test_ecosystems_of_distributions(id_: str, version: str, codename: str, ecosystem: str) -> None:
    """As feeds call what os-release says."""
    assert of_distribution(Distribution(id_, version, codename)) == ecosystem


@pytest.mark.parametrize(
    ("written", "called"),
    [
        ("Ubuntu:22.04:LTS", "Ubuntu:22.04"),
        ("Ubuntu:Pro:22.04:LTS", "Ubuntu:Pro:22.04"),
        ("Red Hat:enterprise_linux:9::baseos", "Red Hat:9"),
        ("Red Hat:enterprise_linux:8.6::appstream", "Red Hat:8"),
        ("Debian:12", "Debian:12"),
        ("PyPI", "PyPI"),
    ],
)
def test_ecosystems_as_feeds_write_them(written: str, called: str) -> None:
    """One name for each."""
    assert canonical_ecosystem(written) == called


def test_what_no_feed_is_about_is_said(host: Host) -> None:
    """Packages of unknown distributions, without a version, or with one that is none."""
    host.put(feeds.DSA)
    packages = (
        Package("deb", "apt", ""), Package("deb", "dpkg", "1.0/2"), Package("rpm", "apt", "1-1"),
        Package("conan", "zlib", "1.0"), Package("deb", "libidn2", "2.0.5-1"),
    )  # fmt: skip
    found = Matcher(host.store).match(Inventory("", feeds.BUSTER, packages))
    assert [finding.id for finding in found.findings] == ["CVE-2019-18224"]
    assert {(package.name, reason) for package, reason in found.unmatched} == {
        ("apt", "its version is not known"),
        ("dpkg", "version '1.0/2': not a Debian version"),
        ("apt", "no feed is about packages of rpm (debian)"),
        ("zlib", "no feed is about packages of conan (debian)"),
    }


def test_names(host: Host) -> None:
    """PyPI's names are one however they are written; rpm's are those of the binary."""
    assert canonical_name("PyPI", "Zope.Interface_x") == "zope-interface-x"
    alma = Distribution("almalinux", "8.10")
    binary = Package("rpm", "glibc-common", "2.28-251.el8", "glibc", "2.28-251.el8")
    assert look_up(binary, alma)[1] == "glibc-common"
    assert look_up(binary, Distribution("rocky", "8.9"))[1] == "glibc"
    host.put(osv("X-1", "PyPI", "Zope.Interface", [{"introduced": "0"}]), "X-1.json")
    assert host.of("pypi", "zope_interface", "5.0") == ["X-1"]


def test_streams_of_modules_are_not_mixed_up(host: Host) -> None:
    """A fix in one stream says nothing of another, nor of the package that is in none."""
    fixed = "1:16.20.2-4.module_el8.9.0+3735+c3b8a3a6"
    record = osv(
        "ALSA-2024:1", "AlmaLinux:8", "nodejs", [{"introduced": "0"}, {"fixed": fixed}],
        related=["CVE-2024-1111"], summary="Important: nodejs:16 security update",
    )  # fmt: skip
    host.put(record, "ALSA.json")

    def found(version: str, module: str = "") -> int:
        package = Package("rpm", "nodejs", version, module=module)
        return len(host.match([package], Distribution("almalinux", "8.10")))

    older, other = "1:16.19.0-1.module_el8.8.0+1", "1:10.24.0-1.module_el8.3.0+2"
    assert found(older, "nodejs:16:8080020230101:abc") == 1
    assert found(other, "nodejs:10:8030020210101:def") == 0
    assert found(older) == 1  # an SBOM does not say the stream
    assert found("1:10.24.0-1.el8") == 0
    assert found("1:16.21.0-1.module_el8.9.0+9", "nodejs:16:1:x") == 0


def test_what_a_distributions_package_brought_is_left_to_the_distribution(host: Host) -> None:
    """It mends without changing the version. Where no feed is about it, all is matched."""
    host.put(feeds.PYSEC, "PYSEC-2022-43012.yaml")
    owned = Package("pypi", "setuptools", "65.5.0", owner="python3-setuptools")
    packages = [owned, Package("deb", "dpkg", "1.19.7"), Package("pypi", "setuptools", "65.5.0")]
    assert [f.package for f in host.match(packages[:2], feeds.BUSTER)] == ["setuptools"]
    host.put(feeds.DSA, "DSA.list")
    assert [f.package for f in host.match(packages[:2], feeds.BUSTER)] == ["dpkg"]
    inventory = Inventory("", feeds.BUSTER, tuple(packages))
    found = Matcher(host.store).match(inventory)
    assert {f.package for f in found.findings} == {"dpkg", "setuptools"}
    assert found.unmatched == (
        (owned, "belongs to packages of Debian:10, which are matched themselves"),
    )


def test_a_release_that_no_feed_is_about_is_said(host: Host) -> None:
    """No findings would look like no vulnerabilities."""
    host.put(feeds.DSA)
    package = Package("deb", "dpkg", "1.19.7")
    inventory = Inventory("", Distribution("debian", "12", "bookworm"), (package,))
    found = Matcher(host.store).match(inventory)
    assert found.unmatched == ((package, "no feed in the store is about Debian:12"),)
    host.store.remove_feed("debian-dsa")
    inventory = Inventory("", feeds.BUSTER, (package,))
    assert Matcher(host.store).match(inventory).unmatched == (
        (package, "no feed in the store is about Debian:10"),
    )


def test_binaries_of_one_source_are_one_finding(host: Host) -> None:
    """With all of them, their places and their files."""
    host.put(feeds.DSA)
    packages = [
        Package("deb", "apt", "1.8.2", "apt", "1.8.2", location="/var/lib/dpkg/status",
                files=("/usr/bin/apt",)),
        Package("deb", "libapt-pkg5.0", "1.8.2", "apt", "1.8.2", location="/var/lib/dpkg/status",
                files=("/usr/lib/x86_64-linux-gnu/libapt-pkg.so.5.0",)),
    ]  # fmt: skip
    (finding,) = host.match(packages, feeds.BUSTER)
    assert finding.installed == ("apt", "libapt-pkg5.0")
    assert finding.locations == ("/var/lib/dpkg/status",)
    assert len(finding.files) == 2


def test_a_change_of_feeds_is_seen_by_a_matcher_that_is_kept(host: Host) -> None:
    """What it remembers is of the feeds as they are."""
    host.put(feeds.DSA)
    matcher = Matcher(host.store)
    inventory = Inventory("", feeds.BUSTER, (Package("deb", "dpkg", "1.19.7"),))
    assert len(matcher.match(inventory).findings) == 1
    host.store.remove_feed("debian-dsa")
    assert matcher.match(inventory).findings == ()


VERSIONS = st.from_regex(r"[0-9]{1,2}\.[0-9]{1,2}(-[1-3](~a|\+b)?)?", fullmatch=True)


@given(st.lists(VERSIONS, min_size=1, max_size=6), st.lists(VERSIONS, min_size=1, max_size=6))
def test_a_list_is_matched_as_dpkg_compares(fixes: list[str], installed: list[str]) -> None:
    """Against the plain way: compare every version with every fix."""
    with tempfile.TemporaryDirectory() as directory:
        host = Host(Path(directory))
        host.put(
            "".join(
                f"[01 Jan 2020] DSA-{i}-1 x - security update\n\t{{CVE-2020-{i + 1000}}}\n"
                f"\t[buster] - x {version}\n"
                for i, version in enumerate(fixes)
            )
        )
        for version in installed:
            expected = {
                f"CVE-2020-{i + 1000}"
                for i, fixed in enumerate(fixes)
                if DebianVersion(version) < DebianVersion(fixed)
            }
            assert set(host.of("deb", "x", version)) == expected
        host.store.close()


PLAIN = st.from_regex(r"[0-5]\.[0-3](rc1|\.post1)?", fullmatch=True)
EVENT = st.tuples(st.sampled_from(["introduced", "fixed", "last_affected"]), PLAIN)


def plainly_affected(events: list[tuple[str, str]], version: str) -> bool:
    """OSV's own way of evaluating events: go through them in order, the last one decides."""
    at = Version(version)
    affected = False
    order = {"fixed": 0, "introduced": 1, "last_affected": 2}
    for kind, text in sorted(events, key=lambda e: (Version(e[1]), order[e[0]])):
        if kind == "introduced" and at >= Version(text):
            affected = True
        elif (kind == "fixed" and at >= Version(text)) or (
            kind == "last_affected" and at > Version(text)
        ):
            affected = False
    return affected


@given(st.lists(EVENT, min_size=1, max_size=6), PLAIN)
def test_events_are_evaluated_as_osv_says(events: list[tuple[str, str]], version: str) -> None:
    """The intervals that are stored hold a version exactly when the events say so."""
    ranges = [{"type": "ECOSYSTEM", "events": [{kind: text} for kind, text in events]}]
    affected = [{"package": {"ecosystem": "PyPI", "name": "x"}, "ranges": ranges}]
    record: dict[str, Any] = {"id": "X-1", "affected": affected}
    at = pep440_key(version)
    stored = any(
        found.low <= at < found.high
        for advisory in records_of(record, "x")
        for found in advisory.affected  # type: ignore[union-attr]
    )
    assert stored == plainly_affected(events, version)


def test_severity_of_a_finding() -> None:
    """By CVSS, else the vendor's; what the vendor calls of no consequence stays so."""
    bare = Finding("CVE-1", "Debian:10", "x", "1")
    assert bare.severity is Severity.UNKNOWN

    def severity(vendor: Severity, score: float | None) -> Severity:
        return Finding("C", "Debian:10", "x", "1", vendor_severity=vendor, score=score).severity

    assert severity(Severity.LOW, 9.8) is Severity.CRITICAL
    assert severity(Severity.HIGH, None) is Severity.HIGH
    assert severity(Severity.NEGLIGIBLE, 9.8) is Severity.NEGLIGIBLE


@pytest.mark.parametrize(
    ("score", "severity"),
    [(0.0, "negligible"), (0.1, "low"), (3.9, "low"), (4.0, "medium"), (7.0, "high"),
     (8.9, "high"), (9.0, "critical"), (10.0, "critical")],
)  # fmt: skip
def test_ratings_of_scores(score: float, severity: str) -> None:
    """The table of CVSS v3.1."""
    assert str(severity_of_score(score)) == severity


def test_vectors_and_words() -> None:
    """Of every version; what is none is said."""
    assert base_score("CVSS:3.1/AV:N/AC:L/PR:N/UI:N/S:U/C:H/I:H/A:H") == 9.8
    assert base_score("AV:N/AC:L/Au:N/C:P/I:P/A:P") == base_score("(AV:N/AC:L/Au:N/C:P/I:P/A:P)")
    assert base_score("CVSS:4.0/AV:N/AC:L/AT:N/PR:N/UI:N/VC:H/VI:H/VA:H/SC:N/SI:N/SA:N") == 9.3
    with pytest.raises(ValueError, match="no CVSS vector"):
        base_score("CVSS:3.1/AV:Q")
    assert severity_of_word("high**") is Severity.HIGH
    assert severity_of_word("not yet assigned") is Severity.UNKNOWN
    assert severity_of_word("Moderate") is Severity.MEDIUM


def test_feeds_grow_stale(host: Host) -> None:
    """After three days, or what is configured; a feed that never came is stale at once."""
    host.put(feeds.DSA)
    feed = host.store.feed("debian-dsa")
    assert feed is not None
    assert not stale_feeds(host.store, feed.checked_ns + 2 * DAY_NS)
    assert stale_feeds(host.store, feed.checked_ns + 4 * DAY_NS) == [feed]
    host.store.update_feed("debian-dsa", stale_seconds=7 * 86400.0)
    assert not stale_feeds(host.store, feed.checked_ns + 4 * DAY_NS)
    never = host.store.add_feed("kev", "kev", "https://feeds.example/kev.json")
    assert stale_feeds(host.store, feed.checked_ns) == [never]


TRIVY: dict[str, Any] = {
    "SchemaVersion": 2, "CreatedAt": "2021-08-25T12:20:30Z", "ArtifactName": "shop:1",
    "Metadata": {"OS": {"Family": "debian", "Name": "10.1"}, "ImageID": "sha256:c2c0"},
    "Results": [
        {"Target": "shop:1 (debian 10.1)", "Class": "os-pkgs", "Type": "debian",
         "Vulnerabilities": [
            {"VulnerabilityID": "CVE-2019-18276", "PkgName": "bash", "InstalledVersion": "5.0-4",
             "PkgIdentifier": {"PURL": "pkg:deb/debian/bash@5.0-4?arch=amd64"},
             "Status": "affected", "Severity": "LOW", "SeveritySource": "debian",
             "CVSS": {"nvd": {"V2Score": 7.2, "V3Score": 7.8, "V3Vector": "CVSS:3.1/AV:L"},
                      "redhat": {"V3Score": 7.0}}, "PublishedDate": "2019-11-28T01:15:00Z"},
            {"VulnerabilityID": "CVE-2019-18224", "VendorIDs": ["DSA-4613-1"],
             "PkgName": "libidn2-0", "InstalledVersion": "2.0.5-1",
             "FixedVersion": "2.0.5-1+deb10u1", "Status": "fixed", "Severity": "CRITICAL",
             "SeveritySource": "nvd", "CVSS": {"nvd": {"V3Score": 9.8}}},
            {"VulnerabilityID": "CVE-2019-0001", "PkgName": "x"}]},
        {"Target": "app", "Class": "lang-pkgs", "Type": "jar", "Vulnerabilities": [
            {"VulnerabilityID": "CVE-2021-44228", "PkgName": "org.apache.logging.log4j:log4j-core",
             "PkgPath": "app/log4j.jar", "InstalledVersion": "2.14.1", "FixedVersion": "2.15.0",
             "PkgIdentifier": {"PURL": "pkg:maven/org.apache.logging.log4j/log4j-core@2.14.1"},
             "Severity": "CRITICAL"}]},
        {"Target": "clean", "Class": "lang-pkgs", "Type": "npm"},
    ],
}  # fmt: skip
GRYPE: dict[str, Any] = {
    "matches": [
        {"vulnerability": {
            "id": "GHSA-jfh8-c2jp-5v3q", "severity": "Critical",
            "fix": {"versions": ["2.15.0"], "state": "fixed"},
            "cvss": [{"source": "x", "version": "3.1", "vector": "CVSS:3.1/broken"},
                     {"source": "nvd@nist.gov", "version": "3.1",
                      "vector": "CVSS:3.1/AV:N/AC:L/PR:N/UI:N/S:C/C:H/I:H/A:H"}],
            "epss": [{"cve": "CVE-2021-44228", "epss": 0.94, "percentile": 0.99}],
            "knownExploited": [{"cve": "CVE-2021-44228", "dateAdded": "2021-12-10",
                                "knownRansomwareCampaignUse": "Known"}]},
         "relatedVulnerabilities": [{"id": "CVE-2021-44228"}],
         "artifact": {"name": "log4j-core", "version": "2.14.1", "type": "java-archive",
                      "purl": "pkg:maven/org.apache.logging.log4j/log4j-core@2.14.1",
                      "locations": [{"path": "/app/log4j.jar"}]}},
        {"vulnerability": {"id": "CVE-2019-18276", "severity": "Negligible",
                           "fix": {"versions": [], "state": "wont-fix"}},
         "artifact": {"name": "bash", "version": "5.0-4", "purl": "pkg:deb/debian/bash@5.0-4"}},
        {"vulnerability": {}},
    ],
    "source": {"type": "image", "target": {"imageID": "sha256:beef", "userInput": "shop:2"}},
    "distro": {"name": "debian", "version": "10"},
    "descriptor": {"name": "grype", "timestamp": "2025-01-02T03:04:05Z"},
}  # fmt: skip


def write(directory: Path, value: Any) -> Path:
    """A report as a file."""
    path = directory / "report.json"
    path.write_bytes(as_json(value))
    return path


def test_a_report_of_trivy(tmp_path: Path) -> None:
    """Its vendor's word beside NVD's score; what is no entry is counted."""
    report = read_report(write(tmp_path, TRIVY))
    assert (report.tool, report.image_id, report.reference) == ("trivy", "sha256:c2c0", "shop:1")
    found = {finding.id: finding for finding in report.findings}
    bash = found["CVE-2019-18276"]
    assert (bash.ecosystem, bash.vendor_severity, bash.score, bash.scored_by) == (
        "Debian:10", Severity.LOW, 7.8, "nvd",
    )  # fmt: skip
    assert (bash.status, bash.fixed, bash.severity) == (Status.OPEN, "", Severity.HIGH)
    idn = found["CVE-2019-18224"]
    assert (idn.severity, idn.vendor_severity) == (Severity.CRITICAL, Severity.UNKNOWN)
    assert "DSA-4613-1" in idn.advisories
    log4j = found["CVE-2021-44228"]
    assert (log4j.ecosystem, log4j.severity, log4j.locations) == (
        "Maven", Severity.CRITICAL, ("app/log4j.jar",),
    )  # fmt: skip
    assert report.skipped == (
        "Results[0].Vulnerabilities[2]: expected an id, a package and its version",
    )


def test_a_report_of_trivy_without_package_urls(tmp_path: Path) -> None:
    """Older versions wrote none; the kind of the result says whose package it is."""
    text = as_json(TRIVY).replace(b'"PkgIdentifier"', b'"Unknown"')
    (tmp_path / "report.json").write_bytes(text)
    found = {f.id: f.ecosystem for f in read_report(tmp_path / "report.json").findings}
    assert (found["CVE-2021-44228"], found["CVE-2019-18276"]) == ("Maven", "Debian:10")


def test_a_report_of_grype(tmp_path: Path) -> None:
    """The CVE of a GHSA, the score whose vector is one, exploitation."""
    report = read_report(write(tmp_path, GRYPE))
    assert (report.tool, report.image_id, report.created) == (
        "grype", "sha256:beef", "2025-01-02T03:04:05Z",
    )  # fmt: skip
    first, second = report.findings
    assert (first.id, first.score, first.fixed, first.exploited, first.ransomware, first.epss) == (
        "CVE-2021-44228", 10.0, "2.15.0", "2021-12-10", True, 0.94,
    )  # fmt: skip
    assert (second.ecosystem, second.status, second.severity) == (
        "Debian:10", Status.IGNORED, Severity.NEGLIGIBLE,
    )  # fmt: skip
    assert report.skipped == ("matches[2]: expected an id, a package and its version",)


def test_a_report_is_kept_and_gains_by_feeds(host: Host) -> None:
    """By the image's id; a newer one takes its place; KEV and EPSS are today's."""
    report = read_report(write(host.directory, TRIVY))
    keep_report(host.store, report)
    assert kept_report(host.store, "sha256:c2c0") == replace(report, skipped=())
    host.put(as_json(feeds.KEV), "kev.json")
    host.put(feeds.EPSS, "epss.csv")
    host.put(as_json(feeds.NVD), "nvd.json")
    kept = kept_report(host.store, "sha256:c2c0")
    assert kept is not None
    worst = kept.findings[0]
    assert (worst.id, worst.exploited, worst.epss) == ("CVE-2021-44228", "2021-12-10", 0.94358)
    assert with_facts(host.store, report).findings == kept.findings
    keep_report(host.store, read_report(write(host.directory, {**TRIVY, "Results": []})))
    empty = kept_report(host.store, "sha256:c2c0")
    assert empty is not None
    assert empty.findings == ()
    assert kept_report(host.store, "sha256:other") is None


@pytest.mark.parametrize(
    ("value", "said"),
    [
        ({**TRIVY, "Metadata": {}}, "names no image id"),
        (feeds.KEV, "looks like kev; expected a JSON report"),
        ({"hello": 1}, "not recognised"),
    ],
)
def test_what_is_no_report_of_an_image(tmp_path: Path, value: Any, said: str) -> None:
    """One line with the file and what was expected."""
    with pytest.raises(FeedError, match=re.escape(said)):
        read_report(write(tmp_path, value))


def test_a_report_for_another_image(tmp_path: Path) -> None:
    """Is refused where somebody says which image it must be about."""
    path = write(tmp_path, TRIVY)
    with pytest.raises(FeedError, match=r"is about sha256:c2c0 \(shop:1\); expected sha256:beef"):
        read_report(path, image_id="sha256:beef")
    assert read_report(path, image_id="sha256:c2c0").findings
    path.write_bytes(path.read_bytes()[:400])
    with pytest.raises(FeedError, match="not JSON"):
        read_report(path)


def test_a_finding_as_plain_values_and_back(tmp_path: Path) -> None:
    """Nothing is lost."""
    for finding in read_report(write(tmp_path, GRYPE)).findings:
        assert finding_from_json(finding.to_json()) == finding
