"""Freezing and killing a cgroup that the test made, with each version that this host has."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from sensor.containers.container import Container
from sensor.errors import HostError
from sensor.responses.freezer import V1, V2, Freezer, Mounts
from tests.waiting import wait_for

HOST = Mounts.find()
VERSIONS = [version for version, mount in ((V2, HOST.v2), (V1, HOST.v1)) if mount is not None]
# A writer that also forks all the time: what a freezer is there to stop.
COUNTER = 'while :; do i=$((i+1)); echo $i >"$1"; (:); done'


@dataclass
class Box:
    """A cgroup in each hierarchy of the host, and what runs in it."""

    path: str
    directories: list[Path]
    container: Container
    processes: list[subprocess.Popen[bytes]] = field(default_factory=list)

    def run(self, *command: str) -> int:
        """Start a command in it; its pid."""
        enter = "".join(f"echo $$ >{d}/cgroup.procs; " for d in self.directories)
        self.processes.append(subprocess.Popen(["sh", "-c", f'{enter} exec "$@"', "sh", *command]))
        pid = self.processes[-1].pid
        wait_for(
            lambda: pid in (int(p) for p in _procs(self.directories[-1])),
            seconds=10,
            what="the process to enter",
        )
        return pid


def _procs(directory: Path) -> list[str]:
    return (directory / "cgroup.procs").read_text().split()


@pytest.fixture
def box() -> Iterator[Box]:
    """An empty cgroup. What runs in it ends with the test."""
    path = f"/rote-test-freezer-{os.getpid()}"
    directories = [mount / path[1:] for mount in (HOST.v2, HOST.v1) if mount is not None]
    for directory in directories:
        directory.mkdir()
    box = Box(path, directories, Container(f"cgroup:{path}", "cgroup", "box", cgroup_path=path))
    try:
        yield box
    finally:
        for directory in directories:
            for name, value in (("cgroup.freeze", "0"), ("freezer.state", "THAWED")):
                if (directory / name).exists():
                    (directory / name).write_text(value)
        for directory in directories:
            wait_for(lambda d=directory: _removed(d), seconds=10, what="the cgroup to empty")  # type: ignore[misc]
        for process in box.processes:
            process.wait(10)


def _removed(directory: Path) -> bool:
    # Again each time: what forks all the time has other processes by now.
    for pid in _procs(directory):
        with suppress(ProcessLookupError):
            os.kill(int(pid), signal.SIGKILL)
    try:
        directory.rmdir()
    except OSError:
        return False
    return True


def _only(version: int) -> Freezer:
    return Freezer(Mounts(HOST.v2 if version == V2 else None, HOST.v1 if version == V1 else None))


@pytest.mark.parametrize("version", VERSIONS)
async def test_frozen_means_that_nothing_is_written_any_more(
    box: Box, version: int, tmp_path: Path
) -> None:
    """Until it is thawed; then it goes on where it stood."""
    freezer, counter = _only(version), tmp_path / "counter"
    box.run("sh", "-c", COUNTER, "sh", str(counter))
    wait_for(counter.exists, seconds=10, what="the first write")

    assert f"cgroup v{version}" in await freezer.freeze(box.container)
    assert freezer.is_frozen(box.container)
    before = counter.read_bytes()
    await asyncio.sleep(0.3)
    assert counter.read_bytes() == before

    await freezer.thaw(box.container)
    wait_for(lambda: counter.read_bytes() not in (before, b""), seconds=10, what="a write")


@pytest.mark.parametrize("version", VERSIONS)
async def test_frozen_it_is_killed_without_another_write(
    box: Box, version: int, tmp_path: Path
) -> None:
    """SIGKILL reaches every process before it runs again."""
    freezer, counter = _only(version), tmp_path / "counter"
    box.run("sh", "-c", COUNTER, "sh", str(counter))
    box.run("sh", "-c", COUNTER, "sh", str(counter))
    wait_for(counter.exists, seconds=10, what="the first write")
    await freezer.freeze(box.container)
    before = (counter.read_bytes(), counter.stat().st_mtime_ns)

    assert freezer.condemn(box.container) is (version == V1)
    assert "process" in await freezer.kill(box.container)
    assert freezer.pids(box.container) == []
    assert [process.wait(10) for process in box.processes] == [-signal.SIGKILL] * 2
    assert (counter.read_bytes(), counter.stat().st_mtime_ns) == before
    assert not freezer.is_frozen(box.container)  # a service may use its cgroup again


@pytest.mark.parametrize("version", VERSIONS)
async def test_what_forks_all_the_time_is_killed_also_when_it_is_not_frozen(
    box: Box, version: int
) -> None:
    """And where the kernel has no cgroup.kill, which 5.10 has not."""
    freezer = _only(version)
    box.run("sh", "-c", "while :; do (sleep 1)& (sleep 1)& sleep 0.01; done")
    await freezer.kill(box.container)
    assert freezer.pids(box.container) == []
    assert await freezer.kill(box.container) == ""


async def test_a_process_that_left_the_cgroup_is_stopped_and_killed(box: Box) -> None:
    """Whoever can write to the host's cgroups can; the kernel side still knows whose it is."""
    box.run("sleep", "100")
    stray = _sleeper()
    freezer = Freezer(strays=lambda _: [stray.pid])
    try:
        assert "1 outside its cgroup stopped" in await freezer.freeze(box.container)
        wait_for(lambda: _state(stray.pid) == "T", seconds=5, what="the stop")
        await freezer.thaw(box.container)
        wait_for(lambda: _state(stray.pid) == "S", seconds=5, what="it to go on")
        await freezer.kill(box.container)
        assert stray.wait(10) == -signal.SIGKILL
    finally:
        stray.kill()
        stray.wait(10)


def _sleeper() -> subprocess.Popen[bytes]:
    return subprocess.Popen(["sleep", "100"])


def _state(pid: int) -> str:
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]


async def test_given_a_while_it_may_end_by_itself(box: Box) -> None:
    """SIGTERM goes to its first process, and is acted upon once it is thawed."""
    pid = box.run("sleep", "100")
    freezer = Freezer()
    container = Container(box.container.id, "cgroup", cgroup_path=box.path, pid=pid)
    await freezer.freeze(container)
    assert await freezer.terminate(container, 10.0)
    assert box.processes[0].wait(10) == -signal.SIGTERM


async def test_its_own_cgroup_and_the_root_are_refused() -> None:
    """The sensor freezing itself would be the last thing it does."""
    freezer = Freezer()
    for path in ("/", ""):
        container = Container("cgroup:/", "cgroup", "root", cgroup_path=path, pid=os.getpid())
        assert await freezer.freeze(container) == ""
        assert await freezer.kill(container) == ""


async def test_a_cgroup_that_holds_the_sensor_is_refused(box: Box) -> None:
    """Also when only one process of many in it is the sensor's."""
    mine = str(os.getpid())
    homes = {d: d.parent / _home(d) for d in box.directories}
    try:
        for directory in box.directories:
            (directory / "cgroup.procs").write_text(mine)
        with pytest.raises(HostError, match="this sensor runs in its cgroup"):
            await Freezer().freeze(box.container)
        with pytest.raises(HostError, match="this sensor runs in its cgroup"):
            await Freezer().kill(box.container)
    finally:
        for home in homes.values():
            (home / "cgroup.procs").write_text(mine)


def _home(directory: Path) -> str:
    """Where this process is in the hierarchy of a directory, below its root."""
    controller = "" if (directory / "cgroup.freeze").exists() else "freezer"
    for line in Path("/proc/self/cgroup").read_text().splitlines():
        _, controllers, path = line.split(":", 2)
        if controller in controllers.split(","):
            return path.lstrip("/")
    raise AssertionError(f"{directory}: this process is in no such hierarchy")
