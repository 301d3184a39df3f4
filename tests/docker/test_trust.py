"""What people decide about a model, on Docker containers: accept, remove, allow."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest

from sensor.demo.busybox import root_archive
from sensor.models.files import export_bytes, import_model
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
    time.sleep(1)  # what was refused in that very moment is told, too
    before = [(a["id"], a["count"]) for a in rote.audits()]
    time.sleep(1.5)
    assert [(a["id"], a["count"]) for a in rote.audits()] == before
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


_SCRIPTS = """
while :; do
	for script in /opt/*.sh; do $script; done
	date >/var/tick
	sleep 0.2
done
"""


def test_a_new_image_starts_from_the_earlier_one(rote: Rote, docker: Docker) -> None:
    """What it does again is confirmed without a word; what it does not hold is dropped."""
    script = (0o755, "#!/bin/sh\necho x >/var/$(basename $0 .sh)\n")
    folders = ("dev", "etc", "opt", "proc", "sys", "tmp", "var")
    for tag, names in (("1", ("kept", "old")), ("2", ("kept", "new"))):
        files = {f"opt/{name}.sh": script for name in names}
        image = f"rote-test/upgrade:{tag}"
        docker("import", "--change", 'CMD ["sh"]', "-", image, stdin=root_archive(folders, files))
    rote.start()
    first = docker.run("rote-test/upgrade:1", "sh", "-c", _SCRIPTS)
    rote.wait_for(lambda: _written(first, "var/old"), seconds=20, what="the first image")
    time.sleep(1.5)
    file = rote.home / "old.model"
    rote("models", "export", "rote-test/upgrade:1", str(file))
    model = import_model(file.read_bytes(), str(file))
    for evidence in model.keys.values():
        evidence.containers = 2  # as if a replica had done the same
    file.write_bytes(export_bytes(model))
    rote("models", "import", "--replace", str(file))

    second = docker.run("rote-test/upgrade:2", "sh", "-c", _SCRIPTS)
    rote.wait_for(lambda: _written(second, "var/new"), seconds=20, what="the second image")
    time.sleep(1.5)
    lines = rote.json("models", "diff", "rote-test/upgrade:2")["lines"]
    # Who would have written it is still there.
    waiting = [line for line in lines if line.startswith("?")]
    assert "? write /bin/busybox#sh: write /var/old" in waiting
    assert all("old" in line for line in waiting), waiting
    assert any(line.startswith("- ") and "/opt/old.sh" in line for line in lines), lines
    assert any(line.startswith("+ ") and "/opt/new.sh" in line for line in lines), lines
    assert not [line for line in lines if "/opt/kept.sh" in line], lines
    remarks = {
        row["key"]: row["remark"] for row in rote.json("models", "keys", "rote-test/upgrade:2")
    }
    (kept,) = [key for key in remarks if "→ /opt/kept.sh" in key]
    assert remarks[kept] == "inherited"
    assert not rote.audits()
    state = {row["image"]: row for row in rote.models()}["rote-test/upgrade:2"]
    assert (state["state"], state["unconfirmed"]) == ("learning", len(waiting))


def _written(container: Running, path: str) -> bool:
    return Path(f"/proc/{container.pid}/root/{path}").exists()
