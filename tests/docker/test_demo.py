"""The demonstration: what a person sees who has never seen Rote, and that nothing stays behind."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Generator
from pathlib import Path

import pytest

from sensor.demo.story import ATTACKS
from tests.docker.client import Docker
from tests.waiting import wait_for

DEMO = (sys.executable, "-m", "sensor", "demo", "--runtime")
PLACES = (
    ("/sys/fs/bpf", "rote-demo-*"),
    ("/var/tmp", "rote-demo-*"),
    ("/sys/fs/cgroup", "rote-demo-*"),
    ("/sys/fs/cgroup", "*/rote-demo-*"),
)


def traces() -> set[str]:
    """What demonstrations left in the places they use."""
    found = {str(path) for place, pattern in PLACES for path in Path(place).glob(pattern)}
    mounts = Path("/proc/self/mountinfo").read_text(encoding="utf-8").splitlines()
    return found | {line.split()[4] for line in mounts if "/rote-demo-" in line}


@pytest.fixture(autouse=True)
def nothing_stays(docker: Docker) -> Generator[None]:
    """Whatever happens in a demonstration, its container, image, files, mounts and pins go."""
    before = traces()
    yield
    assert traces() <= before
    assert "guestbook" not in docker("ps", "--all", "--format", "{{.Names}}")
    assert "guestbook" not in docker("images", "--format", "{{.Repository}}")


@pytest.mark.timeout(180)
@pytest.mark.parametrize("runtime", ["docker", "runc"])
def test_the_demonstration_shows_an_audit_for_each_attack(docker_host: str, runtime: str) -> None:
    """All three attacks are found out within two minutes, and honest guests cause no audit."""
    started = time.monotonic()
    result = subprocess.run(
        [*DEMO, runtime],
        capture_output=True,
        text=True,
        timeout=170,
        check=False,
        env={**os.environ, "DOCKER_HOST": docker_host},
    )
    assert result.returncode == 0, result.stdout + result.stderr
    assert time.monotonic() - started < 120
    for attack in ATTACKS:
        assert attack.entry in result.stdout
    assert result.stdout.count("| Audit ") == len(ATTACKS)
    assert "No new audits, no events lost." in result.stdout


@pytest.mark.timeout(120)
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=lambda n: n.name)
def test_an_interrupted_demonstration_puts_everything_away(
    tmp_path: Path, number: signal.Signals
) -> None:
    """Ctrl-C in the middle of learning: exit code 130, no traceback, and no trace of it."""
    said = tmp_path / "said"
    with said.open("wb") as output:
        demo = subprocess.Popen(
            [*DEMO, "runc"],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            env={**os.environ, "PYTHONUNBUFFERED": "1"},
            start_new_session=True,
        )
    try:
        wait_for(
            lambda: "learning:" in said.read_text() or demo.poll() is not None,
            seconds=60,
            what="the demonstration to learn",
        )
        demo.send_signal(number)
        assert demo.wait(30) == 130, said.read_text()
    finally:
        if demo.poll() is None:
            demo.terminate()
            demo.wait(30)
    assert "Traceback" not in said.read_text()
