"""A private kernel side, and a cgroup to act in. Nothing outside that cgroup is looked at."""

from __future__ import annotations

import itertools
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from sensor.events import Event
from sensor.kernel.live import LiveKernel
from sensor.kernel.port import ContainerFlag
from tests.live import cgroup_root

_serial = itertools.count()
_PLAIN = ContainerFlag.HOST_MOUNTS | ContainerFlag.NO_SESSIONS | ContainerFlag.WATCHED


@pytest.fixture
def kernel(shared_kernel: LiveKernel) -> LiveKernel:
    """The kernel side, knowing nothing and with an empty ring."""
    shared_kernel.clear_knowledge()
    while shared_kernel.read_events(100000):
        pass
    return shared_kernel


class Cgroup:
    """A cgroup of a test's own, and how to run things in it."""

    def __init__(self, kernel: LiveKernel, path: Path) -> None:
        self.kernel = kernel
        self.path = path
        path.mkdir()
        self.id = path.stat().st_ino

    def run(self, *argv: str | Path, check: bool = True, cwd: Path | None = None) -> str:
        """Run a program inside; its output."""
        result = subprocess.run(
            [str(part) for part in argv],
            preexec_fn=self.enter,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
            cwd=cwd,
        )
        if check:
            assert result.returncode == 0, result.stderr
        return result.stdout

    def python(self, code: str, *argv: str | Path) -> str:
        """Run Python code inside."""
        return self.run(sys.executable, "-S", "-c", code, *argv)

    def enter(self) -> None:
        """Move the calling process inside."""
        (self.path / "cgroup.procs").write_text(str(os.getpid()))

    def remove(self) -> None:
        """Remove it; what ran inside has ended by then."""
        deadline = time.monotonic() + 10
        while True:
            try:
                self.path.rmdir()
            except OSError:
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.02)
            else:
                return


@pytest.fixture
def make_cgroup(kernel: LiveKernel) -> Iterator[Callable[[str], Cgroup]]:
    """Make cgroups by name; they are removed and forgotten afterwards."""
    made: list[Cgroup] = []

    def make(name: str = "") -> Cgroup:
        path = cgroup_root() / (name or f"rote-test-{os.getpid()}-{next(_serial)}")
        cgroup = Cgroup(kernel, path)
        made.append(cgroup)
        return cgroup

    yield make
    for cgroup in reversed(made):
        kernel.unwatch(cgroup.id)
        if cgroup.path.exists():
            cgroup.remove()


@pytest.fixture
def cgroup(kernel: LiveKernel, make_cgroup: Callable[[str], Cgroup]) -> Cgroup:
    """A watched plain cgroup without a model."""
    made = make_cgroup("")
    kernel.watch(made.id, model=0, flags=_PLAIN)
    return made


@pytest.fixture
def events(kernel: LiveKernel) -> Callable[[], list[Event]]:
    """All events so far. What a process did before it ended is in the ring when it has."""

    def read() -> list[Event]:
        found: list[Event] = []
        while batch := kernel.read_events(100000):
            found.extend(batch)
        return found

    return read


def watch_with_model(kernel: LiveKernel, cgroup: Cgroup, model: int) -> None:
    """Let a cgroup be judged by a model."""
    kernel.watch(cgroup.id, model=model, flags=_PLAIN)
