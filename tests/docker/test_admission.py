"""Images judged as their containers start, where no gate holds them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import orjson
import pytest
import yaml

from sensor.demo.busybox import root_archive
from tests.docker.client import Docker
from tests.docker.sensor import Rote
from tests.unit import feeds

pytestmark = pytest.mark.docker

IMAGE = "rote-test/alpine:3.9"
OS_RELEASE = 'ID=alpine\nVERSION_ID=3.9.4\nPRETTY_NAME="Alpine Linux v3.9"\n'
MUSL = "P:musl\nV:1.1.20-r4\nA:x86_64\no:musl\nF:lib\nR:libc.musl-x86_64.so.1\n\n"
CVE = "CVE-2019-14697"
SECONDS = 30


def alpine_root(mark: str = "") -> bytes:
    """The root of an image that says it is Alpine 3.9, with a critical vulnerability."""
    return root_archive(
        ("dev", "etc", "proc", "root", "sys", "tmp", "var", "lib", "lib/apk", "lib/apk/db"),
        {
            "etc/os-release": (0o644, OS_RELEASE),
            "lib/apk/db/installed": (0o644, MUSL),
            "etc/mark": (0o644, mark),
        },
    )


@pytest.fixture
def alpine(docker: Docker) -> Iterator[str]:
    """An image of it."""
    docker("import", "-", IMAGE, stdin=alpine_root())
    yield IMAGE
    docker("rmi", "--force", IMAGE)


class Judged:
    """A sensor with advisories and rules."""

    def __init__(self, rote: Rote) -> None:
        self.rote = rote
        self.rules = rote.home / "rules.yaml"
        self._feed("secdb.json", feeds.SECDB)

    def _feed(self, name: str, content: Any) -> None:
        path = self.rote.home / name
        path.write_bytes(orjson.dumps(content))
        self.rote("vulns", "import", str(path))

    def rate(self) -> None:
        """Let NVD say how bad it is."""
        self._feed("nvd.json", feeds.NVD)

    def rule(self, **fields: Any) -> None:
        """Let one rule about vulnerabilities hold."""
        rule = {"kind": "vulnerability", "name": "no criticals", "block": "critical", **fields}
        self.rules.write_text(yaml.safe_dump({"version": 1, "rules": [rule]}))

    def start(self) -> None:
        """Start the sensor."""
        self.rote.start("--rules", str(self.rules))

    def audits(self) -> list[dict[str, Any]]:
        """What was told of the image, newest first."""
        return self.rote.audits("--type", "vulnerable_image")

    def wait_for_audits(self, number: int) -> list[dict[str, Any]]:
        """So many of them."""
        self.rote.wait_for(
            lambda: len(self.audits()) >= number, seconds=SECONDS, what=f"{number} audits"
        )
        return self.audits()


@pytest.fixture
def judged(rote: Rote) -> Judged:
    """A sensor with Alpine's advisories; not started yet."""
    return Judged(rote)


def test_blocked_as_it_starts_and_running_with_an_exception(
    docker: Docker, judged: Judged, alpine: str
) -> None:
    """The audit says which rule, why, and how many; other images go on."""
    judged.rate()
    judged.rule()
    judged.start()
    container = docker.run(alpine, "sleep", "1000")
    (audit,) = judged.wait_for_audits(1)
    assert (audit["rule"], audit["action"], audit["severity"]) == (
        "no criticals", "block", "critical",
    )  # fmt: skip
    assert f"1 vulnerability [critical:1]: {CVE} critical in musl 1.1.20-r4" in str(audit["extra"])
    rote = judged.rote
    rote.wait_for(
        lambda: not container.inspect()["State"]["Running"], seconds=SECONDS, what="the block"
    )
    (blocked,) = rote.json("blocked", "list")
    assert blocked["name"] == container.name

    judged.rule(exceptions=[{"cve": CVE, "reason": "tested"}])
    rote("rules", "reload")
    rote("unblock", container.name, "--start")
    rote.wait_for(lambda: rote.watches(container.id), seconds=SECONDS, what="the container")
    rote.wait_for(
        lambda: rote.status()["images"]["judged"] >= 2, seconds=SECONDS, what="its judgement"
    )
    assert container.inspect()["State"]["Running"]
    assert len(judged.audits()) == 1
    strict = judged.rules.with_name("strict.yaml")
    trust = {"kind": "trust", "name": "t", "trusted": [{"images": "ours/*"}], "untrusted": "block"}
    vulnerability = {"kind": "vulnerability", "name": "all", "block": "low"}
    strict.write_text(yaml.safe_dump({"version": 1, "rules": [trust, vulnerability]}))
    said = rote.json("rules", "test", str(strict))["images"]
    assert [row["action"] for row in said] == ["block", "block"]
    assert "of no trusted group" in said[0]["message"]
    assert CVE in said[1]["message"]
    (rule,) = [row for row in rote.json("rules", "list") if row["kind"] == "vulnerability"]
    assert (rule["containers"], rule["hits"]) == (1, 1)


def test_each_vulnerability_is_told_once_and_again_when_it_is_worse(
    docker: Docker, judged: Judged, alpine: str
) -> None:
    """By the second container no more; by a feed that rates it, of what runs, without a block."""
    judged.rule()
    judged.start()
    first = docker.run(alpine, "sleep", "1000")
    (audit,) = judged.wait_for_audits(1)
    assert (audit["action"], audit["outcome"]) == ("alert", "observed")
    second = docker.run(alpine, "sleep", "1000")
    rote = judged.rote
    rote.wait_for(
        lambda: rote.status()["images"]["judged"] >= 2, seconds=SECONDS, what="the second one"
    )
    assert len(judged.audits()) == 1
    judged.rate()
    audits = judged.wait_for_audits(2)
    worse = next(audit for audit in audits if audit["action"] == "block")
    assert "it runs already" in worse["remarks"][0]
    for container in (first, second):
        assert container.inspect()["State"]["Running"]
    assert rote.status()["images"]["blocked"] == 0


def test_what_runs_before_the_sensor_is_told_of_only(
    docker: Docker, judged: Judged, alpine: str
) -> None:
    """A service is not taken down because Rote was started."""
    container = docker.run(alpine, "sleep", "1000")
    judged.rate()
    judged.rule()
    judged.start()
    (audit,) = judged.wait_for_audits(1)
    assert audit["container_id"] == container.id
    assert container.inspect()["State"]["Running"]
    assert judged.rote.json("blocked", "list") == []
    check = {"kind": "compliance", "name": "c", "checks": {"5.26": "block"}, "default": "ignore"}
    judged.rules.write_text(yaml.safe_dump({"version": 1, "rules": [check]}))
    judged.rote("rules", "reload")
    (failed,) = judged.rote.wait_for(
        lambda: judged.rote.audits("--type", "compliance_failed"), seconds=SECONDS, what="a check"
    )
    assert failed["extra"]["checks"] == "5.26"
    assert "it runs already" in failed["remarks"][0]


def test_feeds_are_fetched_by_the_sensor_and_their_age_is_told(
    judged: Judged, tmp_path: Path
) -> None:
    """What is configured, once it is due. A feed that is gone is an error in status."""
    feed = tmp_path / "secdb.json"
    feed.write_bytes(orjson.dumps(feeds.SECDB))
    config = tmp_path / "vulns.yaml"
    entry = {"name": "here", "kind": "secdb", "file": str(feed), "stale_after": "1s"}
    config.write_text(yaml.safe_dump({"version": 1, "feeds": [entry]}))
    judged.rule()
    rote = judged.rote
    rote.start("--rules", str(judged.rules), "--feeds", str(config), "--feeds-every", "1s")
    rote.wait_for(
        lambda: "here" in {feed["feed"] for feed in rote.json("vulns", "status")},
        seconds=SECONDS, what="the feed",
    )  # fmt: skip
    feed.unlink()
    audits = rote.wait_for(
        lambda: rote.audits("--type", "feed_stale"), seconds=SECONDS, what="word of its age"
    )
    assert audits[0]["extra"]["feed"] == "here"
    rote.wait_for(
        lambda: "here" in rote.status()["images"]["update_error"], seconds=SECONDS, what="the error"
    )
