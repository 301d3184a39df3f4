"""Starts that a gate holds and rules about images decide: what who types `docker run` reads."""

from __future__ import annotations

import signal
import subprocess
import time
from collections.abc import Iterator
from typing import Any

import pytest
import yaml

from tests.docker import images
from tests.docker.client import Docker
from tests.docker.gated import GatedEngine
from tests.docker.sensor import Rote
from tests.docker.test_admission import CVE, SECONDS, Judged, alpine_root

pytestmark = pytest.mark.docker

ALPINE = "rote-test/alpine:3.9"
BLOCKED = (
    f"blocked by rule 'no criticals': 1 vulnerability [critical:1]: {CVE} critical in musl "
    "1.1.20-r4, fixed in 1.1.20-r5"
)


class Gated:
    """An engine with the gate, and the sensor that answers it."""

    def __init__(self, docker: Docker, judged: Judged) -> None:
        self.docker = docker
        self.judged = judged
        self.rote = judged.rote

    def run(self, image: str, *options: str) -> subprocess.CompletedProcess[str]:
        """`docker run`, which may be refused."""
        return self.docker.complete(
            "run", "--rm", "--network", "none", *options, image, "echo", "it runs"
        )

    def refused(self, image: str, *options: str) -> str:
        """The one line that its user reads."""
        result = self.run(image, *options)
        assert result.returncode == 125, result
        assert "it runs" not in result.stdout
        (line,) = [line for line in result.stderr.splitlines() if "rote: " in line]
        return line.partition("rote: ")[2].rstrip(".").removesuffix(": unknown")  # containerd's

    def runs(self, image: str, *options: str) -> None:
        """It is not refused."""
        result = self.run(image, *options)
        assert result.stdout == "it runs\n", result.stderr

    def rules(self, *rules: dict[str, Any]) -> None:
        """Let these hold from now on."""
        self.judged.rules.write_text(yaml.safe_dump({"version": 1, "rules": list(rules)}))
        self.rote("rules", "reload")

    def audits(self, kind: str) -> list[dict[str, Any]]:
        """Of a type."""
        return self.rote.audits("--type", kind)


@pytest.fixture(scope="module")
def gated() -> Iterator[Gated]:
    """One for all tests: each puts its own rules in place."""
    engine = GatedEngine("judged")
    sensor = None
    try:
        docker = engine.start()
        images.import_busybox(docker)
        docker("import", "-", ALPINE, stdin=alpine_root())
        sensor = Rote("judged", ("--runtime", f"docker={engine.engine.url}"))
        engine.state, engine.run_dir = sensor.state, sensor.run_dir
        engine.gate_done("install")
        judged = Judged(sensor)
        judged.rate()
        judged.rule()
        judged.start()
        yield Gated(docker, judged)
        docker.clean()
    finally:
        if sensor is not None:
            sensor.remove()
        engine.stop()


NO_CRITICALS = {"kind": "vulnerability", "name": "no criticals", "block": "critical"}


def test_a_vulnerable_image_does_not_start_and_with_an_exception_it_does(gated: Gated) -> None:
    """The line says rule, count and what; the audit that it was refused."""
    gated.rules(NO_CRITICALS)
    assert gated.refused(ALPINE) == BLOCKED
    assert gated.audits("vulnerable_image")[0]["outcome"] == "denied"
    gated.runs(images.BUSYBOX)
    gated.rules({**NO_CRITICALS, "exceptions": [{"cve": CVE, "reason": "no x87 code"}]})
    gated.runs(ALPINE)
    gated.rules({**NO_CRITICALS, "message": "ask platform@shop.example"})
    container = gated.docker("create", "--network", "none", ALPINE, "sleep", "1000").strip()
    for _ in range(2):
        refused = gated.docker.complete("start", container)
        assert f"{BLOCKED} - ask platform@shop.example" in refused.stderr
    time.sleep(2)  # for what would judge it once more, as one that no gate held
    assert gated.rote.json("blocked", "list") == []
    gated.rules()
    gated.docker("start", container)
    gated.docker("rm", "--force", container)


def test_an_untrusted_image_does_not_start(gated: Gated) -> None:
    """By digest, whatever it is called."""
    busybox = gated.docker("image", "inspect", "--format", "{{.Id}}", images.BUSYBOX).strip()
    gated.rules(
        {
            "kind": "trust",
            "name": "ours only",
            "trusted": [{"name": "pinned", "digests": [busybox]}],
            "untrusted": "block",
        }
    )
    gated.runs(images.BUSYBOX)
    assert gated.refused(ALPINE) == (
        f"blocked by rule 'ours only': image {ALPINE} is of no trusted group (pinned)"
    )
    layers = gated.docker("image", "inspect", "--format", "{{json .RootFS.Layers}}", ALPINE)
    gated.rules(
        {
            "kind": "trust",
            "name": "our base",
            "trusted": [{"name": "base", "base_layers": [yaml.safe_load(layers)]}],
            "untrusted": "block",
            "on_error": "deny",
        }
    )
    gated.runs(ALPINE)
    assert "of no trusted group (base)" in gated.refused(images.BUSYBOX)


def test_a_privileged_container_does_not_start(gated: Gated) -> None:
    """By a template, with one check that leads to more."""
    gated.rules(
        {
            "kind": "compliance",
            "name": "cis",
            "template": "cis-docker",
            "checks": {"5.5": "block"},
        }
    )
    gated.runs(images.BUSYBOX)
    line = gated.refused(images.BUSYBOX, "--privileged")
    assert line.startswith("blocked by rule 'cis': 1 failed check [high: 1]: 5.5 ")
    (denied,) = [a for a in gated.audits("compliance_failed") if a["outcome"] == "denied"]
    assert "5.5" in denied["extra"]["checks"].split()
    told = [a for a in gated.audits("compliance_failed") if a["outcome"] == "observed"]
    assert "5.26" in told[0]["extra"]["checks"].split()  # new privileges are possible


def test_a_blocked_container_does_not_start_whoever_is_faster(gated: Gated) -> None:
    """The gate, or the block itself, which kills what the runtime makes; until it is unblocked."""
    gated.rules()
    container = gated.docker.run(images.BUSYBOX, "sleep", "1000")
    rote = gated.rote
    rote.wait_for(lambda: rote.watches(container.id), seconds=SECONDS, what="the container")
    rote("block", container.name, "--reason", "looked at")
    rote.wait_for(
        lambda: not container.inspect()["State"]["Running"], seconds=SECONDS, what="the block"
    )
    result = gated.docker.complete("start", container.name)
    assert result.returncode != 0
    assert not container.inspect()["State"]["Running"]
    rote("unblock", container.name)
    gated.docker("start", container.name)


def test_what_went_on_while_nobody_answered_is_judged_afterwards(gated: Gated) -> None:
    """The daemon hangs, the rule lets starts go on; once it answers again, it is blocked."""
    gated.rules({**NO_CRITICALS, "time_limit": "0.5s"})
    daemon = gated.rote.process
    assert daemon is not None
    daemon.send_signal(signal.SIGSTOP)
    try:
        container = gated.docker.run(ALPINE, "sleep", "1000")
    finally:
        daemon.send_signal(signal.SIGCONT)
    gated.rote.wait_for(
        lambda: not container.inspect()["State"]["Running"], seconds=SECONDS, what="the block"
    )


def test_a_rule_that_cannot_decide_fails_as_it_says(gated: Gated) -> None:
    """The image's layers are gone from the disk of the engine's, say."""
    strict = {**NO_CRITICALS, "on_error": "deny", "time_limit": "0.001s"}
    gated.docker("import", "-", "rote-test/unread:1", stdin=alpine_root("1"))
    gated.rules(strict)
    line = gated.refused("rote-test/unread:1")
    assert line.startswith("blocked by rule 'no criticals': its image cannot be judged: not judged")
    gated.rules({**strict, "on_error": "allow"})
    gated.docker("import", "-", "rote-test/unread:2", stdin=alpine_root("2"))
    gated.runs("rote-test/unread:2")
    failed = gated.audits("admission_failed")
    assert {audit["outcome"] for audit in failed} == {"denied", "observed"}
    gated.docker("rmi", "--force", "rote-test/unread:1", "rote-test/unread:2")
