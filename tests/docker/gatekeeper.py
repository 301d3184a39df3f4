"""A gate's server in a process of its own, with a judge that does what labels of containers say.

    python -m tests.docker.gatekeeper RUN_DIR DOCKER_URL allow|deny SECONDS

Labels: ``judge=deny`` refuses (in the environment, too), ``judge=slow`` waits until RUN_DIR/go is
there; all else may go on.
"""

from __future__ import annotations

import asyncio
import json
import sys
from pathlib import Path

from sensor.config import Settings
from sensor.containers.docker import DockerRuntime
from sensor.containers.registry import ContainerChange, Registry
from sensor.images.admission.gates import Gates
from sensor.images.admission.start import Answer, Failure, Start

RULE = "strict images"


class Keeper:
    """The judge."""

    def __init__(self, run_dir: Path) -> None:
        self._run_dir = run_dir

    async def judge(self, start: Start) -> Answer:
        """Do what the container's label says; leave a note of what was known."""
        process = start.spec.get("process") or {}
        what = start.container.labels.get("judge", "")
        if "judge=deny" in process.get("env", ()):
            what = "deny"
        note = {
            "id": start.container.id,
            "name": start.container.name,
            "image": start.container.image.reference,
            "image_id": start.container.image.id,
            "model": start.container.model_id,
            "gate": start.gate,
            "pid": start.container.pid,
            "cgroup": start.container.cgroup_path,
            "root": [path.name for path in sorted(start.root.iterdir())] if start.root else [],
            "inspected": sorted(start.inspected),
            "process": process.get("args"),
        }
        (self._run_dir / f"start-{start.container.name}.json").write_text(json.dumps(note))
        # A file, because whoever lets it go is another process.
        while what == "slow" and not (self._run_dir / "go").exists():  # noqa: ASYNC110
            await asyncio.sleep(0.02)
        if what == "deny":
            return Answer(
                False,
                f"{start.container.image.reference} is refused by rule {RULE}: "
                "1 critical, 2 high vulnerabilities",
            )
        return Answer(True)


async def main() -> None:
    """Serve until killed."""
    run_dir, url, word, seconds = sys.argv[1:5]
    settings = Settings(run_dir=Path(run_dir), state_dir=Path(run_dir))
    runtime = DockerRuntime(url)
    failure = Failure(word == "allow", float(seconds), RULE)
    gates: list[Gates] = []

    def on_container(change: ContainerChange) -> None:
        gates[0].on_container(change)

    registry = Registry([runtime], [], on_container)
    keeper = Keeper(settings.run_dir)
    gates.append(Gates(settings, [runtime], registry, keeper.judge, lambda _: failure))
    await gates[0].start()
    sys.stdout.write("ready\n")
    sys.stdout.flush()
    await registry.run()


if __name__ == "__main__":
    asyncio.run(main())
