"""What holding a start costs: starts with the gate and without it, in turns.

    scripts/bench gate [--starts 30] [--compiler auto|none] [--without-daemon]

Real containers in a Docker Engine of this run's own. One of each pair is made with runc, the other
with our runtime, and a sensor that admits everything at once answers: what is left is the way
there and back, and the container's model put into the kernel. A pair's difference is what counts:
times of starts differ more from minute to minute than by the gate. The hook is also timed alone.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from tests.bench.block import quantile
from tests.docker import images
from tests.docker.client import Docker
from tests.docker.engine import program
from tests.docker.gated import GatedEngine, Keeper
from tests.docker.sensor import Rote

_WARM = 3


def start_seconds(docker: Docker, runtime: str) -> float:
    """How long the start of a new container takes; creating it is not counted."""
    identity = docker(
        "create", "--runtime", runtime, "--network", "none", images.BUSYBOX, "sleep", "60"
    )
    try:
        began = time.monotonic()
        docker("start", identity)
        return time.monotonic() - began
    finally:
        docker("rm", "--force", identity)


def hook_seconds(hook: Path, bundle: Path) -> float:
    """How long the hook takes, from its execution to its end, for a container nobody knows."""
    (bundle / "config.json").write_text("{}")
    state = json.dumps({"id": "x", "pid": 0, "bundle": str(bundle)}).encode()
    began = time.monotonic()
    subprocess.run([hook], input=state, check=True, timeout=60)
    return time.monotonic() - began


class Bundle:
    """A container without an engine, to time the runtime alone.

    Args:
        directory: to make it in.
        cgroup: to put it below.
    """

    def __init__(self, directory: Path, cgroup: str) -> None:
        self._directory = directory
        self._state = directory / "state"
        self._cgroup = cgroup
        root = directory / "rootfs"
        root.mkdir(parents=True)
        subprocess.run(["tar", "-x", "-C", root], input=images.busybox_root(), check=True)
        subprocess.run([program("runc"), "spec", "--bundle", directory], check=True, timeout=60)
        self._spec = json.loads((directory / "config.json").read_text())

    def create_seconds(self, runtime: str, number: int) -> float:
        """How long `create` takes; its process waits to be started then, and is ended."""
        identity = f"{number:064x}"
        self._spec["process"] |= {"terminal": False, "args": ["sleep", "60"]}
        self._spec["linux"]["cgroupsPath"] = f"{self._cgroup}/{identity}"
        (self._directory / "config.json").write_text(json.dumps(self._spec))
        call = [runtime, "--root", str(self._state)]
        began = time.monotonic()
        _quietly(*call, "create", "--bundle", str(self._directory), identity)
        took = time.monotonic() - began
        _quietly(*call, "delete", "--force", identity)
        return took


def _quietly(*command: str) -> None:
    # No pipes: the container's process would keep them open.
    nowhere = subprocess.DEVNULL
    subprocess.run(command, stdin=nowhere, stdout=nowhere, check=True, timeout=60)


def line(name: str, values: Sequence[float]) -> str:
    """Milliseconds of one kind."""
    ms = [value * 1000 for value in values]
    return (
        f"{name:30} median {statistics.median(ms):8.1f}  p10 {quantile(ms, 0.1):8.1f}  "
        f"p90 {quantile(ms, 0.9):8.1f}  max {max(ms):8.1f} ms\n"
    )


def main() -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--starts", type=int, default=30)
    parser.add_argument("--compiler", default="auto", help="none: the program in Python")
    parser.add_argument(
        "--without-daemon", action="store_true", help="only the gate's server, and no BPF"
    )
    options = parser.parse_args()
    gated = GatedEngine("bench")
    rote: Rote | None = None
    keeper: Keeper | None = None
    try:
        docker = gated.start()
        images.import_busybox(docker)
        if options.without_daemon:
            keeper = Keeper(gated)
        else:
            rote = Rote("bench", ("--runtime", f"docker={gated.engine.url}", "--quiet"))
            gated.state, gated.run_dir = rote.state, rote.run_dir
            rote.start()
        sys.stdout.write(gated.gate_done("install", "--compiler", options.compiler))
        without: list[float] = []
        held: list[float] = []
        for number in range(options.starts + _WARM):
            pair = ["runc", "rote"] if number % 2 else ["rote", "runc"]
            took = {runtime: start_seconds(docker, runtime) for runtime in pair}
            if number >= _WARM:
                without.append(took["runc"])
                held.append(took["rote"])
        bundle = gated.home / "bundle"
        bundle.mkdir()
        hook = gated.directory / "rote-hook"
        counts = rote.status()["gates"] if rote is not None else {}
        alone = [hook_seconds(hook, bundle) for _ in range(options.starts)]
        direct = Bundle(gated.home / "direct", gated.engine.cgroup)
        runtimes = {"runc": program("runc"), "rote": str(gated.directory / "rote-runtime")}
        created: dict[str, list[float]] = {"runc": [], "rote": []}
        for number in range(2 * options.starts):
            name = list(created)[(number + number // 2) % 2]
            created[name].append(direct.create_seconds(runtimes[name], number))
        empty = [_empty_seconds() for _ in range(options.starts)]
    finally:
        if rote is not None:
            rote.remove()
        if keeper is not None:
            keeper.end()
        gated.stop()
    differences = [a - b for a, b in zip(held, without, strict=True)]
    ratios = [a / b for a, b in zip(held, without, strict=True)]
    sys.stdout.write(f"{options.starts} starts of each\n")
    sys.stdout.write(line("start without the gate", without))
    sys.stdout.write(line("start with the gate", held))
    sys.stdout.write(line("difference of a pair", differences))
    sys.stdout.write(line("the hook alone, no container", alone))
    sys.stdout.write(line("an empty program (/bin/true)", empty))
    sys.stdout.write(line("runc create", created["runc"]))
    sys.stdout.write(line("rote-runtime create", created["rote"]))
    if counts:
        mean = counts["all_seconds"] / counts["asked"] * 1000
        most = counts["slowest_seconds"] * 1000
        sys.stdout.write(f"{'held by the daemon':30} mean   {mean:8.1f}  max {most:8.1f} ms\n")
    sys.stdout.write(
        f"ratio of a pair                median {statistics.median(ratios):8.3f}  "
        f"p10 {quantile(ratios, 0.1):8.3f}  p90 {quantile(ratios, 0.9):8.3f}\n"
    )
    return 0


def _empty_seconds() -> float:
    began = time.monotonic()
    subprocess.run(["/bin/true"], input=b"", check=True, timeout=60)
    return time.monotonic() - began


if __name__ == "__main__":
    sys.exit(main())
