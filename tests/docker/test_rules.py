"""Rules on Docker containers: what a person writes, and what then happens."""

from __future__ import annotations

import hashlib
import time
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.docker.client import Docker, Running
from tests.docker.sensor import Rote

# What it may do all the time, and what it tries while /attack is there.
_SERVICE = """
while :; do
	date >/var/tick
	sleep 0.2
	if [ -e /attack ]; then
		. /attack
	fi
done
"""


class Ruled:
    """A sensor with a directory of rules."""

    def __init__(self, rote: Rote) -> None:
        self.rote = rote
        self.directory = rote.home / "rules.d"
        self.directory.mkdir()

    def start(self, *rules: dict[str, Any]) -> None:
        """Start it with these rules."""
        self.write(*rules)
        self.rote.start("--rules", str(self.directory))

    def write(self, *rules: dict[str, Any]) -> None:
        """Put other rules in their place."""
        text = yaml.safe_dump({"version": 1, "rules": list(rules)})
        (self.directory / "10-test.yaml").write_text(text)

    def reload(self, *rules: dict[str, Any]) -> None:
        """Let other rules hold."""
        self.write(*rules)
        self.rote("rules", "reload")

    def learned(self, docker: Docker, image: str, *, name: str = "") -> Running:
        """A service whose model is active."""
        container = docker.run(
            image, "sh", "-c", _SERVICE, options=("--restart", "always"), name=name
        )
        self.rote.wait_for(
            lambda: self.rote.watches(container.id), seconds=20, what="the container"
        )
        self.rote.wait_for(
            lambda: len(self.tick(container)) > 1, seconds=20, what="the service to write"
        )
        time.sleep(1.5)  # `date` and `sleep` were executed by then
        if "active" not in {row["state"] for row in self.rote.models()}:
            self.rote("models", "activate", image)
        self.rote.wait_for(self._is_active, seconds=20, what="the model to be active")
        return container

    def _is_active(self) -> bool:
        return {row["model_state"] for row in self.rote.containers()} == {"active"}

    def tick(self, container: Running) -> str:
        """What the service wrote last."""
        path = Path(f"/proc/{container.pid}/root/var/tick")
        return path.read_text() if path.exists() else ""

    def attack(self, container: Running, script: str) -> None:
        """Let the service do something for the first time."""
        Path(f"/proc/{container.pid}/root/attack").write_text(script)

    def audits(self, kind: str) -> list[dict[str, Any]]:
        """Audits of a type."""
        return self.rote.audits("--type", kind)

    def wait_for_audit(self, kind: str) -> dict[str, Any]:
        """The first audit of a type."""
        found = self.rote.wait_for(lambda: self.audits(kind), seconds=30, what=kind)
        return found[0]


@pytest.fixture
def ruled(rote: Rote) -> Ruled:
    """A sensor with a directory of rules; not started yet."""
    return Ruled(rote)


def test_block_from_the_first_violation_to_unblocked(
    docker: Docker, ruled: Ruled, busybox_image: str
) -> None:
    """Learned, nc tried, blocked, restarted in vain, unblocked, running again."""
    rote = ruled.rote
    ruled.start(
        {"name": "not mine", "scope": {"images": "other/*"}},
        {
            "name": "shop",
            "scope": {"images": busybox_image},
            "processes": {"default": "block"},
            "message": "call the shop's people",
        },
    )
    container = ruled.learned(docker, busybox_image)
    ruled.attack(container, "nc -h 2>/var/pwned; echo on >>/var/went-on\n")
    audit = ruled.wait_for_audit("container_blocked")
    steps = {step["step"]: step["result"] for step in audit["steps"]}
    assert steps["freeze"] == steps["restart policy"] == steps["stop"] == "done", audit
    assert steps["evidence"] == "done", audit
    (cause,) = ruled.audits("unknown_program")
    assert (cause["rule"], cause["action"]) == ("shop", "block")
    assert cause["program"].endswith("#nc")
    assert cause["extra"]["message"] == "call the shop's people"
    state = container.inspect()
    assert not state["State"]["Running"]
    assert state["HostConfig"]["RestartPolicy"]["Name"] == "unless-stopped"

    docker.complete("start", container.id)
    rote.wait_for(
        lambda: not container.inspect()["State"]["Running"], seconds=30, what="it to be refused"
    )
    ruled.wait_for_audit("start_refused")

    assert rote.stop(number=9) == -9
    began = docker.complete("start", container.id)  # the kernel refuses without a daemon
    time.sleep(1)
    assert not container.inspect()["State"]["Running"], began
    assert not ruled.tick(container)
    rote.start("--rules", str(ruled.directory))

    ruled.reload()
    said = rote("unblock", container.name, "--start")
    assert "always" in said
    rote.wait_for(
        lambda: container.inspect()["State"]["Running"], seconds=30, what="it to run again"
    )
    time.sleep(1)
    assert container.inspect()["State"]["Running"]
    assert container.inspect()["HostConfig"]["RestartPolicy"]["Name"] == "always"


def test_each_detection_its_own_action_and_reload_by_itself(
    docker: Docker, ruled: Ruled, busybox_image: str
) -> None:
    """A bad file changes nothing; a good one holds within seconds, without a command."""
    rote = ruled.rote
    ruled.start()
    container = ruled.learned(docker, busybox_image)
    assert rote.containers()[0]["rule"] == "default"
    bad = rote.home / "rules.d/20-bad.yaml"
    bad.write_text("version: 1\nrules:\n- name: x\n  procceses: {}\n")
    refused = rote.complete("rules", "reload")
    assert refused.returncode == 3
    assert f"{bad}:4: " in refused.stderr
    assert "did you mean 'processes'?" in refused.stderr
    bad.unlink()

    ruled.write(
        {
            "name": "mine",
            "processes": {"deny": ["nc"]},
            "filesystem": {"deny": ["/etc/**"], "allow": ["/var/free/**"]},
        }
    )
    rote.wait_for(lambda: rote.containers()[0]["rule"] == "mine", seconds=20, what="the new rules")
    ruled.attack(
        container,
        "(nc -h); mkdir -p /var/free; echo x >/var/free/x; (echo evil >/etc/passwd)\n",
    )
    program, path = ruled.wait_for_audit("denied_program"), ruled.wait_for_audit("denied_path")
    assert program["outcome"] in ("denied", "killed")
    assert path["outcome"] in ("denied", "killed")
    assert path["path"] == "/etc/passwd"
    root = Path(f"/proc/{container.pid}/root")
    assert "evil" not in (root / "etc/passwd").read_text()
    assert not [a for a in rote.audits() if a["path"] == "/var/free/x"]
    old = ruled.tick(container)
    rote.wait_for(
        lambda: ruled.tick(container) not in ("", old), seconds=20, what="the service to go on"
    )
    rows = {row["name"]: row for row in rote.json("rules", "list")}
    assert rows["mine"]["hits"] >= 2
    explained = rote.json(
        "rules", "explain", container.name, "/etc/passwd", "--by", "/bin/busybox#sh"
    )
    assert explained["answers"][-1]["verdict"] == "denied"
    tried = rote.json("rules", "test", str(rote.home / "rules.d"))
    assert tried["audits"] >= 2


def test_arguments_and_digests_are_killed(docker: Docker, ruled: Ruled, busybox_image: str) -> None:
    """What only a running program shows."""
    ruled.start()
    container = ruled.learned(docker, busybox_image)
    root = Path(f"/proc/{container.pid}/root")
    digest = hashlib.sha256(b"#!/bin/sh\nexec sleep 50\n").hexdigest()
    ruled.reload(
        {
            "name": "mine",
            "processes": {
                "deny": [{"name": "sleep", "args": "3*"}, {"sha256": digest}],
                "unknown_program": "ignore",
            },
        }
    )
    assert len(digest) == 64
    ruled.attack(container, "sleep 31; sleep 0.1\n")
    audit = ruled.wait_for_audit("denied_program")
    assert (audit["outcome"], audit["argv"]) == ("killed", ["sleep", "31"])
    old = ruled.tick(container)
    ruled.rote.wait_for(
        lambda: ruled.tick(container) not in ("", old), seconds=20, what="the service to go on"
    )
    assert (root / "attack").exists()


def test_sessions(docker: Docker, ruled: Ruled, busybox_image: str) -> None:
    """Refused by the rule, allowed for a while, ended on time."""
    rote = ruled.rote
    ruled.start({"name": "closed", "sessions": {"exec_session": "prevent"}})
    container = ruled.learned(docker, busybox_image)
    assert container.try_exec("ls", "/").returncode != 0
    ruled.wait_for_audit("exec_session")
    rote("session", "allow", container.name, "--for", "4s", "--reason", "ticket 7")
    assert "bin" in container.exec("ls", "/")
    began = time.monotonic()
    assert container.try_exec("sleep", "60", timeout=40).returncode != 0
    assert time.monotonic() - began < 30
    ended = ruled.wait_for_audit("session_ended")
    assert ended["extra"]["reason"] == "ticket 7"
    assert container.try_exec("ls", "/").returncode != 0
    allowed = [a for a in ruled.audits("exec_session") if "ticket 7" in " ".join(a["remarks"])]
    assert allowed
    assert container.inspect()["State"]["Running"]


def test_a_protected_container_is_never_blocked(
    docker: Docker, ruled: Ruled, busybox_image: str
) -> None:
    """Its violations are audited and refused; it stays in service."""
    ruled.start(
        {
            "name": "precious",
            "scope": {"images": busybox_image, "protected": True},
            "processes": {"default": "block"},
        }
    )
    container = ruled.learned(docker, busybox_image)
    ruled.attack(container, "(nc -h)\n")
    ruled.wait_for_audit("unknown_program")
    time.sleep(1)
    assert container.inspect()["State"]["Running"]
    refused = ruled.rote.complete("block", container.name, "--reason", "x")
    assert refused.returncode == 2
    assert "precious" in refused.stderr
