"""What people decide about a model, on Docker containers: accept, remove, allow."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest

from tests.docker.client import Docker, Running
from tests.docker.sensor import Rote

# What it does all the time, and what it does besides while /attack is there.
_SERVICE = """
mkdir -p /src
while :; do
	date >/var/tick
	sleep 0.2
	if [ -e /attack ]; then
		. /attack
	fi
done
"""


class Service:
    """A learned service under prevention."""

    def __init__(self, rote: Rote, docker: Docker, image: str) -> None:
        self.rote = rote
        self.image = image
        self.container: Running = docker.run(image, "sh", "-c", _SERVICE)
        rote.wait_for(lambda: rote.watches(self.container.id), seconds=20, what="the container")
        rote.wait_for(lambda: len(self.read("var/tick")) > 1, seconds=20, what="it to write")
        time.sleep(1.5)  # all of its loop happened by then

    @property
    def root(self) -> Path:
        """Its file system."""
        return Path(f"/proc/{self.container.pid}/root")

    def read(self, path: str) -> str:
        """A file of it; empty while there is none."""
        file = self.root / path
        return file.read_text() if file.exists() else ""

    def attack(self, script: str) -> None:
        """Let it do something else, again and again."""
        (self.root / "attack").write_text(script)

    def audits(self, kind: str, path: str) -> list[dict[str, Any]]:
        """Audits of a type about a path."""
        return [a for a in self.rote.audits("--type", kind) if path in a["path"]]

    def wait_for(self, kind: str, path: str) -> dict[str, Any]:
        """The newest of them, once there is one."""
        return self.rote.wait_for(
            lambda: self.audits(kind, path), seconds=30, what=f"{kind} of {path}"
        )[0]


@pytest.fixture
def service(rote: Rote, docker: Docker, busybox_image: str) -> Service:
    """Learned, active, and whatever it does besides is refused."""
    rote.start("--prevent", busybox_image)
    learned = Service(rote, docker, busybox_image)
    rote("models", "activate", busybox_image)
    rote.wait_for(
        lambda: {row["model_state"] for row in rote.containers()} == {"active"},
        seconds=20,
        what="the model to be active",
    )
    return learned


def test_refused_accepted_and_at_once_it_works(service: Service) -> None:
    """No restart of anything; nothing else is let in; taken out again, it is refused again."""
    rote, image = service.rote, service.image
    service.attack("(nc -h 2>/dev/null; echo $? >/var/code)\n")
    program = service.wait_for("unknown_program", "busybox")
    assert program["outcome"] in ("denied", "killed")
    assert program["program"].endswith("#nc")
    assert program["keys"]
    write = service.wait_for("unknown_write", "/var/code")
    assert not service.read("var/code")

    said = rote("models", "accept", str(program["id"]), str(write["id"]))
    assert "#nc" in said
    assert "write /var/code" in said
    rote.wait_for(lambda: service.read("var/code"), seconds=20, what="nc to run")
    before = len(rote.audits())
    time.sleep(1.5)
    assert len(rote.audits()) == before
    rows = rote.json("models", "keys", image, "nc")
    (row,) = [r for r in rows if r["remark"] == "accepted" and r["key"].startswith("exec")]

    service.attack("(wget -h 2>/dev/null)\n")
    assert service.wait_for("unknown_program", "busybox")["program"].endswith(("#wget", "#nc"))
    rote("models", "remove-key", image, row["id"])
    removed = rote.json("models", "show", image)["trust"]["removed"]
    assert [entry["id"] for entry in removed] == [row["id"]]
    (service.root / "var/code").write_text("")
    service.attack("(nc -h 2>/dev/null && echo again >/var/code)\n")
    old = service.read("var/tick")
    rote.wait_for(lambda: service.read("var/tick") != old, seconds=20, what="it to go on")
    time.sleep(1)
    assert "again" not in service.read("var/code")


def test_a_build_is_told_suggested_and_allowed(
    rote: Rote, docker: Docker, busybox_image: str
) -> None:
    """What is made and executed is never learned by itself."""
    rote.start("--prevent", busybox_image)
    service = Service(rote, docker, busybox_image)
    service.attack("(cp /bin/busybox /src/sleep; /src/sleep 0; echo $? >/src/code)\n")
    audit = service.wait_for("changed_program", "/src/sleep")
    assert audit["model_state"] == "learning"
    refused = rote.complete("models", "accept", str(audit["id"]))
    assert refused.returncode == 2
    assert "allow-writes-and-executes" in refused.stderr

    found = rote.wait_for(
        lambda: rote.json("models", "suggest", busybox_image), seconds=20, what="a suggestion"
    )
    # Whether the shell copies by itself is how busybox was built.
    assert found[0]["directory"] == "/src/**"
    assert found[0]["by"] in ("/bin/busybox#cp", "/bin/busybox#sh")
    assert "/src/sleep" in found[0]["programs"]
    rote(
        "models", "allow-writes-and-executes", busybox_image,
        "--directory", found[0]["directory"], "--by", found[0]["by"], "--by", "/bin/busybox#sh",
    )  # fmt: skip
    rote("models", "activate", busybox_image)
    (service.root / "src/code").unlink(missing_ok=True)
    service.attack("(cp /bin/busybox /src/true; /src/true; echo $? >/src/code; echo x >/srv)\n")
    service.wait_for("unknown_write", "/srv")
    assert service.read("src/code") == "0\n"
    assert not service.audits("changed_program", "/src/true")
    assert not service.audits("unknown_program", "/src/true")
