"""The fanotify gate on an Engine of its own: real containerd, real runc, nothing configured.

Never on an Engine that runs already: only directories of this one are marked.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
from collections.abc import AsyncGenerator, Awaitable, Callable, Generator
from pathlib import Path

import pytest

from sensor.images.admission.bundle import RuntimeHook
from sensor.images.admission.bundle_watch import TASKS
from sensor.images.admission.fanotify import Ask, FanotifyGate
from sensor.images.admission.start import Answer
from sensor.images.admission.states import find_states
from tests.docker.client import Docker
from tests.docker.engine import EngineError, PrivateEngine, program
from tests.docker.images import busybox_root, import_busybox
from tests.waiting import until

# Stands in for the hook that asks the daemon: refuses when there is a file with a reason.
_HOOK = """#!/bin/sh
cat >"$1/states/$$"
if [ -e "$1/reason" ]; then
	cat "$1/reason" >&2
	exit 1
fi
"""


class Place:
    """An Engine, and where the hook keeps its things."""

    def __init__(self, engine: PrivateEngine) -> None:
        self.engine = engine
        self.docker = Docker(engine.url)
        self.image = import_busybox(self.docker)
        self.hook = engine.home / "hook.sh"
        self.hook.write_text(_HOOK)
        self.hook.chmod(0o755)
        self.state = engine.home / "containerd-state"
        self.states = engine.home / "states"
        self.states.mkdir()

    def hooked(self) -> list[str]:
        """Identities of the containers that the hook was called for, in this order."""
        files = sorted(self.states.iterdir(), key=lambda file: file.stat().st_mtime_ns)
        return [json.loads(file.read_text())["id"] for file in files]

    def refuse(self, reason: str) -> None:
        """Let the hook refuse from now on; "": no longer."""
        file = self.engine.home / "reason"
        file.write_text(reason)
        if not reason:
            file.unlink()

    async def run(self, *words: str) -> subprocess.CompletedProcess[str]:
        """``docker run`` to its end."""
        return await asyncio.to_thread(
            self.docker.complete, "run", "--rm", "--network", "none", self.image, *words
        )


@pytest.fixture(scope="module")
def place() -> Generator[Place]:
    """An Engine that lives as long as these tests."""
    engine = PrivateEngine("fan")
    try:
        try:
            engine.start()
        except EngineError as error:
            pytest.fail(f"no Docker Engine for the tests: {error}", pytrace=False)
        found = Place(engine)
        yield found
        found.docker.clean()
    finally:
        engine.stop()


OpenGate = Callable[..., Awaitable[FanotifyGate]]


@pytest.fixture
async def open_gate(place: Place) -> AsyncGenerator[OpenGate]:
    """Opens a gate on the Engine's bundles."""
    gates: list[FanotifyGate] = []

    async def open_one(*, ask: Ask | None = None) -> FanotifyGate:
        hook = None if ask else RuntimeHook(str(place.hook), (str(place.engine.home),))
        gate = FanotifyGate(place.engine.home, (place.state,), hook, ask=ask)
        gates.append(gate)
        await gate.start()
        assert await gate.ready(20), gate.status()
        return gate

    yield open_one
    for gate in gates:
        await gate.close()


async def test_the_hook_is_called_and_its_words_are_seen(place: Place, open_gate: OpenGate) -> None:
    """Allowed, refused, allowed again; restarted; many at once; none when the gate is closed."""
    assert (await place.run("true")).returncode == 0
    assert place.hooked() == []
    gate = await open_gate()
    assert (await place.run("echo", "it runs")).stdout == "it runs\n"
    assert len(place.hooked()) == 1

    place.refuse("[rote] container blocked: rule no-critical: 1 critical vulnerability\n")
    refused = await place.run("echo", "it runs")
    assert refused.returncode != 0
    assert "it runs" not in refused.stdout
    assert "[rote] container blocked: rule no-critical: 1 critical vuln" in refused.stderr
    place.refuse("")

    container = await asyncio.to_thread(place.docker.run, place.image, "sleep", "1000")
    assert place.hooked().count(container.id) == 1
    assert await asyncio.to_thread(container.exec, "echo", "inside") == "inside"
    await asyncio.to_thread(place.docker, "restart", "--time", "0", container.id)
    assert place.hooked().count(container.id) == 2
    await asyncio.to_thread(container.remove)

    before = len(place.hooked())
    results = await asyncio.gather(*(place.run("true") for _ in range(6)))
    assert [result.returncode for result in results] == [0] * 6
    assert len(place.hooked()) == before + 6
    status = gate.status()
    assert status["injected"] == before + 6
    assert (status["missed"], status["late"], status["denied"]) == (0, 0, 0)

    await gate.close()
    assert (await place.run("true")).returncode == 0
    assert len(place.hooked()) == before + 6


async def test_other_namespaces_of_containerd(place: Place, open_gate: OpenGate) -> None:
    """As Kubernetes and nerdctl have them; the namespace is new."""
    await open_gate()
    root = place.engine.home / "root"
    root.mkdir()
    unpack = ["tar", "--extract", "--directory", str(root)]
    await asyncio.to_thread(subprocess.run, unpack, input=busybox_root(), check=True, timeout=60)
    done = await asyncio.to_thread(
        subprocess.run,
        [
            program("ctr"),
            *("--address", str(place.engine.home / "containerd.sock"), "--namespace", "k8s.io"),
            *("run", "--rm", "--rootfs", str(root), "rote-test-fan", "/bin/echo", "it runs"),
        ],
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert (done.returncode, done.stdout) == (0, "it runs\n"), done.stderr
    assert place.hooked()[-1] == "rote-test-fan"


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSTOP])
async def test_starts_go_on_without_the_listener(
    place: Place, open_gate: OpenGate, number: signal.Signals
) -> None:
    """Killed or stopped: nobody waits for long, and the next listener holds starts again."""
    gate = await open_gate()
    listener = gate.status()["listener"]
    running = asyncio.create_task(place.run("echo", "it runs"))
    os.kill(listener, number)
    assert (await running).stdout == "it runs\n"
    await until(lambda: gate.status()["restarts"] == 1 and gate.status()["state"] == "on")
    before = len(place.hooked())
    assert (await place.run("true")).returncode == 0
    assert len(place.hooked()) == before + 1


async def test_refused_without_a_hook(place: Place, open_gate: OpenGate) -> None:
    """The daemon says no, and the shim cannot read config.json."""
    asked: list[Path] = []
    answers = iter([True, False])

    async def ask(bundle: Path) -> Answer:
        asked.append(bundle)
        assert json.loads((bundle / "config.json").read_bytes())["process"]["args"]
        return Answer(allow=next(answers))

    gate = await open_gate(ask=ask)
    assert (await place.run("echo", "it runs")).stdout == "it runs\n"
    refused = await place.run("echo", "it runs")
    assert refused.returncode != 0
    assert not refused.stdout
    assert "config.json: operation not permitted" in refused.stderr
    assert len(asked) == 2
    assert {bundle.parent for bundle in asked} == {place.state / TASKS / "moby"}
    await until(lambda: gate.status()["denied"])


async def test_the_engine_is_found_by_its_process(place: Place) -> None:
    """What `auto` marks."""
    found = await asyncio.to_thread(find_states)
    assert place.state in found
