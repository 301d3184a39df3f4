"""What the gate is for besides judging: the model is in the kernel before the entrypoint runs."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.docker import images
from tests.docker.client import Docker
from tests.docker.gated import GatedEngine
from tests.docker.sensor import Rote

STARTS = 20
# The very first thing it does, where /data/attack is there.
_SERVICE = """
[ -e /data/attack ] && /bin/touch /var/pwned
while :; do
	date >/var/tick
	sleep 0.2
done
"""


@pytest.fixture
def gated() -> Iterator[tuple[Docker, Rote]]:
    """An engine whose starts are held by a sensor of its own."""
    engine = GatedEngine("first")
    sensor = None
    try:
        docker = engine.start()
        images.import_busybox(docker)
        sensor = Rote("first", ("--runtime", f"docker={engine.engine.url}"))
        engine.state, engine.run_dir = sensor.state, sensor.run_dir
        engine.gate_done("install")
        yield docker, sensor
        docker.clean()
    finally:
        if sensor is not None:
            sensor.remove()
        engine.stop()


def _told(rote: Rote, container_id: str) -> list[dict[str, Any]]:
    """The audits of one container about an unknown program; waits for the first."""

    def found() -> list[dict[str, Any]]:
        audits = rote.audits("--type", "unknown_program")
        return [audit for audit in audits if audit["container_id"] == container_id]

    return rote.wait_for(found, seconds=20, what="the audit of a start")


def test_an_unknown_program_as_the_first_act_of_a_new_container(
    gated: tuple[Docker, Rote], tmp_path: Path
) -> None:
    """Refused or killed in each of 20 new containers; the gate was asked about every one."""
    docker, rote = gated
    rote.start("--prevent", images.BUSYBOX, "--canary", "0")
    options = ("--volume", f"{tmp_path}:/data", "--network", "none")
    teacher = docker.run(images.BUSYBOX, "sh", "-c", _SERVICE, options=options)
    rote.wait_for(lambda: rote.watches(teacher.id), seconds=20, what="the container")
    (row,) = rote.containers()
    assert row["complete"]
    tick = Path(f"/proc/{teacher.pid}/root/var/tick")
    seen: set[str] = set()

    def ticked() -> bool:
        seen.add(tick.read_text() if tick.exists() else "")
        return len(seen) > 3

    rote.wait_for(ticked, seconds=20, what="the service to write")
    rote("models", "activate", images.BUSYBOX)
    teacher.remove()
    (tmp_path / "attack").touch()
    for number in range(STARTS):
        container = docker.run(images.BUSYBOX, "sh", "-c", _SERVICE, options=options)
        told = _told(rote, container.id)
        assert {audit["outcome"] for audit in told} <= {"killed", "denied"}, (number, told)
        assert not Path(f"/proc/{container.pid}/root/var/pwned").exists(), number
        container.remove()
    gates = rote.status()["gates"]
    assert gates["allowed"] == STARTS + 1
    assert gates["undecided"] == 0
    assert [entry["gate"] for entry in gates["installed"]] == ["docker"]


def test_what_was_blocked_does_not_start(gated: tuple[Docker, Rote]) -> None:
    """Its user reads why; once a person lets it, it does."""
    docker, rote = gated
    rote.start()
    container = docker.run(images.BUSYBOX, "sleep", "600", options=("--network", "none"))
    rote.wait_for(lambda: rote.watches(container.id), seconds=20, what="the container")
    rote("block", container.name, "--reason", "test", "--no-evidence")
    refused = docker.complete("start", container.id)
    assert refused.returncode != 0
    short = container.id[:12]
    assert (
        f"rote: {short} was taken out of service: rote blocked show {short} says why, "
        f"rote unblock {short} lets it run" in refused.stderr
    )
    assert not container.pid
    rote("unblock", container.name, "--start")
    rote.wait_for(lambda: rote.watches(container.id), seconds=20, what="it to run again")
    assert container.pid
