"""What the fanotify gate costs: others on its mount, starts, memory; how soon a hung one lets go.

    unshare --mount --propagation private python -m tests.bench.fanotify [--starts 30] [--no-engine]

Opens are measured on a tmpfs of this process's own mount namespace, starts on an Engine of its own.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import multiprocessing
import os
import select
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from sensor.images.admission.bundle import RuntimeHook
from sensor.images.admission.bundle_watch import TASKS
from sensor.images.admission.fanotify import FanotifyGate
from sensor.kernel.fanotify import PermissionGroup
from tests.bench.block import quantile
from tests.bench.vulns import say
from tests.docker.client import Docker
from tests.docker.engine import PrivateEngine
from tests.docker.images import import_busybox
from tests.waiting import until

_OPENS = 20_000
_ROUNDS = 20
_RELEASES = 15
_IDLE_SECONDS = 20.0
_HOOK = RuntimeHook("/bin/true")
_SPEC = '{"ociVersion":"1.0.2","process":{"env":["' + "x" * 20_000 + '"]}}'


def opens(path: Path, number: int = _OPENS) -> float:
    """Microseconds that one open and close of a file takes; the best of some rounds."""
    best = float("inf")
    for _ in range(_ROUNDS):
        before = time.perf_counter()
        for _ in range(number // _ROUNDS):
            os.close(os.open(path, os.O_RDONLY))
        best = min(best, (time.perf_counter() - before) / (number // _ROUNDS))
    return best * 1e6


@contextlib.contextmanager
def tmpfs() -> Iterator[Path]:
    """A tmpfs; in a mount namespace of this process's own only it and its children see it."""
    with tempfile.TemporaryDirectory() as folder:
        command = ["mount", "-t", "tmpfs", "-o", "mode=0711", "bench", folder]
        subprocess.run(command, check=True)
        try:
            yield Path(folder)
        finally:
            subprocess.run(["umount", folder], check=True)


def _answer_all(directory: str, ready: Callable[[], None]) -> None:
    """The other way: every open on the mount waits for a listener that lets it go on at once."""
    group = PermissionGroup()
    fd = os.open(directory, os.O_RDONLY)
    group.mark_mount(fd)
    ready()
    poll = select.poll()
    poll.register(group.fd, select.POLLIN)
    while True:
        poll.poll()
        for opening in group.read():
            group.answer(opening, allow=True)


async def others(home: Path) -> None:
    """Opens of files beside bundles, with and without gates."""
    state = home / "state"
    namespace = state / TASKS / "moby"
    namespace.mkdir(parents=True)
    file = home / "file"
    file.write_text("x")
    say(f"other file on the mount, no gate:              {opens(file):6.2f} us")
    gate = FanotifyGate(home, (state,), _HOOK)
    await gate.start()
    assert await gate.ready()
    say(f"the same, gate listens:                        {opens(file):6.2f} us")
    (namespace / "c").mkdir()
    inside = namespace / "c" / "log.json"
    inside.write_text("x")
    await asyncio.sleep(0.2)
    say(f"the same, a container is being made:           {opens(file):6.2f} us")
    own = await asyncio.to_thread(opens, inside, 2000)
    say(f"another file in the bundle that is being made: {own:6.2f} us")
    await footprint(gate)
    await gate.close()
    event = multiprocessing.Event()
    process = multiprocessing.Process(target=_answer_all, args=(str(home), event.set), daemon=True)
    process.start()
    event.wait(10)
    cost = opens(file, 2000)
    process.kill()
    process.join()
    say(f"for comparison, the whole mount marked:        {cost:6.2f} us")


def used(pid: int) -> float:
    """Seconds of the processor that a process has used."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def memory(pid: int) -> dict[str, float]:
    """Megabytes of a process, by the names of smaps_rollup."""
    lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()[1:]
    return {line.split()[0]: int(line.split()[1]) / 1024 for line in lines}


async def footprint(gate: FanotifyGate) -> None:
    """Memory, and time of the processor while nothing happens."""
    status = gate.status()
    pids = (status["worker"], status["listener"])
    before = [used(pid) for pid in pids]
    await asyncio.sleep(_IDLE_SECONDS)
    for name, pid, then in zip(("guard", "listener"), pids, before, strict=True):
        sizes = memory(pid)
        share = (used(pid) - then) / _IDLE_SECONDS
        say(f"{name}: RSS {sizes['Rss:']:.1f} MB, PSS {sizes['Pss:']:.1f} MB, idle {share:.3%} CPU")


async def releases(home: Path, number: signal.Signals) -> None:
    """How long an open is held by a listener that is killed, or hangs."""
    state = home / "state"
    taken = []
    for turn in range(_RELEASES):
        gate = FanotifyGate(home, (state,), _HOOK)
        await gate.start()
        assert await gate.ready()
        bundle = state / TASKS / "moby" / f"{number.name}-{turn}"
        bundle.mkdir()
        await asyncio.sleep(0.1)
        config = bundle / "config.json"
        await asyncio.to_thread(
            subprocess.run, ["sh", "-c", f"cat >{config}"], input=_SPEC.encode(), check=True
        )
        listener = gate.status()["listener"]
        os.kill(listener, signal.SIGSTOP)
        reader = await asyncio.create_subprocess_exec("cat", str(config), stdout=subprocess.DEVNULL)
        wchan = Path(f"/proc/{reader.pid}/wchan")
        await until(lambda wchan=wchan: "fanotify" in wchan.read_text())  # type: ignore[misc]
        before = time.perf_counter()
        if number is not signal.SIGSTOP:
            os.kill(listener, number)
        await reader.wait()
        taken.append((time.perf_counter() - before) * 1000)
        await gate.close()
    say(
        f"held by a listener after {number.name}: median {quantile(taken, 0.5):.1f} ms, "
        f"most {max(taken):.1f} ms"
    )


async def starts(number: int) -> None:
    """``docker run`` of a program that ends at once, in turns with and without the gate."""
    engine = PrivateEngine("fan")
    try:
        await asyncio.to_thread(engine.start)
        docker = Docker(engine.url)
        image = import_busybox(docker)

        def run() -> float:
            before = time.perf_counter()
            docker("run", "--rm", "--network", "none", image, "true")
            return (time.perf_counter() - before) * 1000

        run()
        without, held = [], []
        status: dict[str, object] = {}
        for _ in range(number):
            without.append(await asyncio.to_thread(run))
            gate = FanotifyGate(engine.home, (engine.home / "containerd-state",), _HOOK)
            await gate.start()
            assert await gate.ready()
            held.append(await asyncio.to_thread(run))
            await asyncio.sleep(0.3)  # its counts
            status = gate.status()
            assert status["injected"] == 1, status
            await gate.close()
            margins.append(float(str(status["margin_ms"])))
        for name, values in (("without the gate", without), ("with it", held)):
            say(
                f"docker run {name}: median {quantile(values, 0.5):.0f} ms, "
                f"90 % {quantile(values, 0.9):.0f} ms, least {min(values):.0f} ms"
            )
        say(
            f"from the bundle's mark to its first reader: median {quantile(margins, 0.5):.1f} ms, "
            f"least {min(margins):.1f} ms"
        )
    finally:
        await asyncio.to_thread(engine.stop)


margins: list[float] = []


async def measure(number: int, *, engine: bool) -> None:
    """Everything, one after another."""
    with tmpfs() as home:
        await others(home)
        for signal_number in (signal.SIGKILL, signal.SIGSTOP):
            await releases(home, signal_number)
    if engine:
        await starts(number)


def main() -> None:
    """Measure and say."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--starts", type=int, default=30)
    parser.add_argument("--no-engine", action="store_true")
    arguments = parser.parse_args()
    asyncio.run(measure(arguments.starts, engine=not arguments.no_engine))


if __name__ == "__main__":
    main()
