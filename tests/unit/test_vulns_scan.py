"""From an image to a decision, as admission and the daily scan ask for it."""

from __future__ import annotations

import datetime as dt
from pathlib import Path

import pytest

from sensor.images.package import Inventory, Package
from sensor.images.vulns import scan
from sensor.images.vulns.finding import Finding
from sensor.images.vulns.reports import Report, keep_report
from sensor.images.vulns.scan import Scanner
from sensor.images.vulns.told import ToldStore
from sensor.rules.vulnerability import VulnerabilityRule
from tests.unit import feeds
from tests.unit.feeds import Host, as_json

RULE = VulnerabilityRule("v", block="critical")
DAY = dt.date(2026, 11, 25)


@pytest.fixture
def host(tmp_path: Path) -> Host:
    """Alpine's database."""
    made = Host(tmp_path)
    made.put(as_json(feeds.SECDB), "main.json")
    return made


def image(number: int = 1, version: str = "1.1.20-r4") -> Inventory:
    """An image with musl."""
    musl = Package("apk", "musl", version, "musl", version, files=("/lib/libc.musl.so.1",))
    return Inventory(f"sha256:{number}", feeds.ALPINE, (musl,))


def test_a_feed_changes_the_decision(host: Host) -> None:
    """Nobody has rated it: an alert. Once NVD's score is there, it is blocked, and told again."""
    told = ToldStore(host.directory / "told.db")
    scanner = Scanner(host.store, told)
    first = scanner.decide(image(), RULE, DAY)
    assert first.action == "alert"
    news = scanner.news("sha256:1", first)
    assert [j.finding.id for j in news] == ["CVE-2019-14697"]
    assert news[0].finding.first_seen == "2026-11-25"
    scanner.told("sha256:1", news, DAY)
    assert scanner.news("sha256:1", scanner.decide(image(), RULE, DAY)) == []
    host.put(as_json(feeds.NVD), "nvd-2019.json")
    later = scanner.decide(image(), RULE, DAY + dt.timedelta(days=1))
    assert later.action == "block"
    assert later.judgements[0].finding.first_seen == "2026-11-25"
    assert len(scanner.news("sha256:1", later)) == 1
    assert scanner.decide(image(version="1.1.20-r5"), RULE, DAY).action == "block"  # one image, id


def test_what_is_remembered_is_not_matched_again(
    host: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Until a feed or a report says something else; of the last images only."""
    monkeypatch.setattr(scan, "_KEPT", 2)
    scanner = Scanner(host.store)
    first = scanner.scan(image(1))
    assert scanner.scan(image(1)) is first
    scanner.scan(image(2))
    scanner.scan(image(3))
    again = scanner.scan(image(1))
    assert again == first
    assert again is not first
    host.store.remove_feed("alpine-v3.9-main")
    assert scanner.scan(image(1)).findings == ()


def test_a_report_stands_for_the_own_scan(host: Host) -> None:
    """From the moment it is kept; on request the packages are matched all the same."""
    scanner = Scanner(host.store)
    own = scanner.scan(image())
    theirs = Finding("CVE-2020-1111", "Alpine:v3.9", "zlib", "1.2.11-r1")
    keep_report(host.store, Report("sha256:1", "shop:1", "trivy", "2026-11-24", (theirs,)))
    scanned = scanner.scan(image())
    assert (scanned.by, scanned.made, scanned.findings) == ("trivy", "2026-11-24", (theirs,))
    assert scanner.scan(image(), own=True).findings == own.findings
    assert scanner.scan(image(2)).by == "rote"


def test_without_a_memory_of_what_was_told(host: Host) -> None:
    """Everything that counts is news."""
    scanner = Scanner(host.store)
    decision = scanner.decide(image(), RULE, DAY)
    scanner.told("sha256:1", scanner.news("sha256:1", decision), DAY)
    assert len(scanner.news("sha256:1", decision)) == 1
