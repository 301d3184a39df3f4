"""From a violation to a container that is out of service, and what the offender does in between.

    scripts/bench block [--blocks 50]

Real containers in a Docker Engine of this run's own: an active model, a rule that blocks, and a
service that executes ``nc`` for the first time and then appends lines to a file as fast as it can.
Times are the kernel's of the violation, and the runtime's of the end (FinishedAt).
"""

from __future__ import annotations

import argparse
import io
import statistics
import subprocess
import sys
import tarfile
import time
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import yaml

from tests.docker import images
from tests.docker.client import Docker
from tests.docker.engine import PrivateEngine
from tests.docker.sensor import Rote

_SERVICE = """
: >/var/after
while :; do
	date >/var/tick
	sleep 0.1
	if [ -e /attack ]; then
		nc -h 2>/dev/null
		while :; do echo x >>/var/after; done
	fi
done
"""


@dataclass(frozen=True, slots=True)
class Block:
    """One block: seconds from the violation on, and what was done meanwhile."""

    begun: float  # until the first step began
    frozen: float
    stopped: float
    lines: int
    evidence: float  # of the time, taking evidence


def _seconds(text: str) -> float:
    # Docker writes nanoseconds, which datetime does not read.
    head, _, rest = text.partition(".")
    digits = rest.rstrip("Z")
    whole = datetime.fromisoformat(f"{head}+00:00").timestamp()
    return whole + float(f"0.{digits or 0}")


def measure(docker: Docker, rote: Rote, number: int) -> Block:
    """Block one container."""
    container = docker.run(images.BUSYBOX, "sh", "-c", _SERVICE, options=("--restart", "always"))
    try:
        rote.wait_for(lambda: rote.watches(container.id), seconds=30, what="the container")
        root = Path(f"/proc/{container.pid}/root")
        rote.wait_for((root / "var/tick").exists, seconds=30, what="the service")
        time.sleep(0.5)
        (root / "attack").touch()

        def blocked() -> list[dict[str, Any]]:
            found = rote.audits("--type", "container_blocked")
            return [audit for audit in found if audit["container_id"] == container.id]

        (audit,) = rote.wait_for(blocked, seconds=60, what=f"block {number}")
        (cause,) = [
            audit
            for audit in rote.audits("--type", "unknown_program")
            if audit["container_id"] == container.id
        ]
        took = {step["step"]: step["seconds"] for step in audit["steps"]}
        violation = _seconds(cause["time"])
        ended = _seconds(audit["time"])
        began = ended - sum(took.values())
        finished = _seconds(container.inspect()["State"]["FinishedAt"])
        return Block(
            begun=began - violation,
            frozen=began + took["freeze"] - violation,
            stopped=finished - violation,
            lines=_lines(docker, container.id),
            evidence=took["evidence"],
        )
    finally:
        container.remove()


def _lines(docker: Docker, container: str) -> int:
    result = subprocess.run(
        ["docker", "--host", docker.url, "cp", f"{container}:/var/after", "-"],
        capture_output=True,
        timeout=60,
        check=True,
    )
    with tarfile.open(fileobj=io.BytesIO(result.stdout)) as archive:
        file = archive.extractfile(archive.getmembers()[0])
        assert file is not None
        return file.read().count(b"\n")


def quantile(values: list[float], part: float) -> float:
    """The value that so many parts of all are not above."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(part * len(ordered)))]


def main() -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--blocks", type=int, default=50)
    options = parser.parse_args()
    engine = PrivateEngine(tag="bench")
    try:
        engine.start()
        docker = Docker(engine.url)
        images.import_busybox(docker)
        rote = Rote("bench", ("--runtime", f"docker={engine.url}"))
        try:
            found = _run(docker, rote, options.blocks)
        finally:
            rote.remove()
            docker.clean()
    finally:
        engine.stop()
    rows: dict[str, list[float]] = {
        "violation to freeze begun (s)": [block.begun for block in found],
        "violation to frozen (s)": [block.frozen for block in found],
        "violation to stopped (s)": [block.stopped for block in found],
        "of this, taking evidence (s)": [block.evidence for block in found],
        "lines written in between": [float(block.lines) for block in found],
    }
    sys.stdout.write(f"{len(found)} blocks\n")
    for name, values in rows.items():
        sys.stdout.write(
            f"{name:32} p50 {statistics.median(values):9.4f}  p99 {quantile(values, 0.99):9.4f}"
            f"  max {max(values):9.4f}\n"
        )
    return 0


def _run(docker: Docker, rote: Rote, blocks: int) -> list[Block]:
    rules = rote.home / "rules.d"
    rules.mkdir()
    rule = {"name": "block", "processes": {"default": "block"}}
    (rules / "10.yaml").write_text(yaml.safe_dump({"version": 1, "rules": [rule]}))
    rote.start("--rules", str(rules), "--quiet")
    teacher = docker.run(images.BUSYBOX, "sh", "-c", _SERVICE, options=("--restart", "always"))
    rote.wait_for(lambda: rote.watches(teacher.id), seconds=30, what="the container")
    time.sleep(3)
    rote("models", "activate", images.BUSYBOX)
    teacher.remove()
    found = []
    for number in range(blocks):
        found.append(measure(docker, rote, number))
        sys.stderr.write(f"{number} {found[-1]}\n")
    return found


if __name__ == "__main__":
    sys.exit(main())
