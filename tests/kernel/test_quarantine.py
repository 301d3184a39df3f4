"""Quarantine of network namespaces that the test made, with links of several kinds."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest

from sensor.audits.audit import Audit, AuditType
from sensor.containers.container import Container
from sensor.errors import HostError, UsageError
from sensor.responses.freezer import Freezer
from sensor.responses.quarantine import Quarantine, QuarantineState
from sensor.responses.records import RecordStore
from tests.waiting import wait_for

IP = shutil.which("ip", path="/usr/sbin:/sbin:/usr/bin:/bin") or "ip"
ENTER = shutil.which("nsenter", path="/usr/sbin:/sbin:/usr/bin:/bin") or "nsenter"


class Box:
    """A process in a network namespace of its own."""

    def __init__(self) -> None:
        self.process = subprocess.Popen(["unshare", "--net", "sleep", "300"])
        here = Path("/proc/self/ns/net").stat().st_ino
        theirs = Path(f"/proc/{self.process.pid}/ns/net")
        wait_for(lambda: theirs.stat().st_ino != here, seconds=10, what="the namespace")

    @property
    def pid(self) -> int:
        """Of the process."""
        return self.process.pid

    def ip(self, *arguments: str) -> Any:
        """``ip -json`` inside; what it prints."""
        out = subprocess.run(
            [ENTER, "--target", str(self.pid), "--net", IP, "-json", *arguments],
            check=True,
            capture_output=True,
            timeout=20,
        ).stdout
        return json.loads(out) if out.strip() else None

    def state(self) -> tuple[Any, ...]:
        """Everything that a release must bring back."""
        addresses = {
            link["ifname"]: sorted(
                (a["local"], a["prefixlen"]) for a in link["addr_info"] if a["scope"] == "global"
            )
            for link in self.ip("address", "show")
        }
        routes = [
            sorted((r["dst"], r.get("gateway", ""), r["dev"], r.get("metric", 0)) for r in found)
            for found in (self.ip("-4", "route"), self.ip("-6", "route"))
        ]
        up = sorted(link["ifname"] for link in self.ip("link", "show") if "UP" in link["flags"])
        return addresses, routes, up

    def end(self) -> None:
        """End the process; the namespace and its links go with it."""
        self.process.kill()
        self.process.wait(10)


class _NoCgroup(Freezer):
    """The test's processes are in no cgroup of their own: all named ones are the container's."""

    def __init__(self, pids: list[int]) -> None:
        self.own = pids

    def pids(self, container: Container) -> list[int]:
        """See ``Freezer``."""
        del container
        return self.own


@pytest.fixture
def boxes() -> Iterator[list[Box]]:
    """Two namespaces, joined by a link: neither of its ends is the host's."""
    found: list[Box] = []
    try:
        found += [Box(), Box()]
        one, two = found
        one.ip(
            "link", "add", "data0", "type", "veth", "peer", "name", "data0", "netns", str(two.pid)
        )
        for box, last in ((one, 1), (two, 2)):
            box.ip("address", "add", f"10.99.0.{last}/24", "dev", "data0")
            box.ip("-6", "address", "add", f"fd99::{last}/64", "dev", "data0", "nodad")
            box.ip("link", "set", "data0", "up")
            box.ip("link", "set", "lo", "up")
        one.ip("route", "add", "default", "via", "10.99.0.2", "metric", "7")
        one.ip("route", "add", "10.98.0.0/16", "via", "10.99.0.2")
        one.ip("-6", "route", "add", "default", "via", "fd99::2", "metric", "9")
        wait_for(lambda: _settled(one), seconds=10, what="the links")
        yield found
    finally:
        for box in found:
            box.end()


def _settled(box: Box) -> bool:
    link = box.ip("link", "show", "data0")[0]
    return bool(link["operstate"] == "UP")


class Bench:
    """A Quarantine, and what it recorded."""

    def __init__(self, directory: Path, pids: list[int]) -> None:
        self.path = directory / "blocked.db"
        self.audits: list[Audit] = []
        self.freezer = _NoCgroup(pids)
        self.quarantine = self.open()

    def open(self) -> Quarantine:
        """One that knows what is on the disk, as after a start of the daemon."""
        return Quarantine(RecordStore(self.path), self.freezer, self.audits.append)


@pytest.fixture
async def bench(boxes: list[Box], tmp_path: Path) -> AsyncIterator[Bench]:
    """A Quarantine that takes the boxes for containers."""
    bench = Bench(tmp_path, [box.pid for box in boxes])
    yield bench
    await bench.quarantine.close()


def _container(pid: int) -> Container:
    return Container("a" * 64, "docker", "box", pid=pid)


async def test_links_inside_come_back_with_addresses_and_routes(
    boxes: list[Box], bench: Bench
) -> None:
    """IPv6 addresses and every route go away with a link; a release knows them, after a restart."""
    one = boxes[0]
    before = one.state()
    assert ("default", "10.99.0.2", "data0", 7) in before[1][0]
    entry = await bench.quarantine.quarantine(_container(one.pid), "links", "a test")
    assert entry.state == "quarantined"
    addresses, routes, up = one.state()
    assert up == ["lo"]
    assert not any(route[2] == "data0" for found in routes for route in found)
    assert addresses != before[0]

    other = bench.open()
    assert other.is_quarantined(entry.container.id)
    _, remarks = await other.release(entry.container.id)
    assert remarks == ()
    assert one.state() == before
    assert not bench.open().is_quarantined(entry.container.id)
    assert [audit.type for audit in bench.audits] == [
        AuditType.CONTAINER_QUARANTINED, AuditType.CONTAINER_RELEASED,
    ]  # fmt: skip
    assert bench.audits[0].steps[0].detail == "data0"


async def test_where_there_is_no_end_to_drop_at_links_go_down(
    boxes: list[Box], bench: Bench
) -> None:
    """And it is said."""
    entry = await bench.quarantine.quarantine(_container(boxes[0].pid), "drop", "a test")
    assert entry.mode == "links"
    assert "no end on the host" in entry.notes[0]
    assert boxes[0].state()[2] == ["lo"]


async def test_a_quarantine_that_was_interrupted_begins_anew(
    boxes: list[Box], bench: Bench
) -> None:
    """Written down, half done, and then the daemon was killed: nothing is forgotten."""
    one = boxes[0]
    before = one.state()
    entry = await bench.quarantine.quarantine(_container(one.pid), "links", "a test")
    entry.state = QuarantineState.BEGUN
    RecordStore(bench.path).put("quarantined", entry.container.id, entry.to_values())

    other = bench.open()
    assert other.started(entry.container)
    await other.close()
    assert other.records()[0].state is QuarantineState.QUARANTINED
    assert one.state()[2] == ["lo"]
    await other.release(entry.container.id)
    assert one.state() == before


async def test_a_container_that_is_gone_can_be_released(boxes: list[Box], bench: Bench) -> None:
    """There is nothing to restore, and that is said."""
    entry = await bench.quarantine.quarantine(_container(boxes[0].pid), "links", "a test")
    boxes[0].end()
    _, remarks = await bench.quarantine.release(entry.container.id)
    assert remarks == ("data0: its network is gone",)
    with pytest.raises(UsageError, match="not in quarantine"):
        await bench.quarantine.release(entry.container.id)


async def test_the_hosts_network_and_dead_processes_are_refused(
    boxes: list[Box], bench: Bench
) -> None:
    """Nothing is written down of what was not done."""
    bench.freezer.own.append(os.getpid())
    with pytest.raises(HostError, match="--network host"):
        await bench.quarantine.quarantine(_container(os.getpid()), "links", "a test")
    bench.freezer.own.clear()
    with pytest.raises(UsageError, match="does not run"):
        await bench.quarantine.quarantine(_container(boxes[0].pid), "links", "a test")
    with pytest.raises(UsageError, match="expected one of links, drop"):
        await bench.quarantine.quarantine(_container(boxes[0].pid), "unplug", "a test")
    assert bench.open().records() == []
    assert bench.audits == []


async def test_a_kernel_that_does_not_answer_is_given_up(
    boxes: list[Box], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The helper is killed, and the daemon goes on."""
    slow = tmp_path / "slow"
    slow.write_text("#!/bin/sh\nexec sleep 100\n")
    slow.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(slow))
    audits: list[Audit] = []
    quarantine = Quarantine(
        RecordStore(tmp_path / "q.db"), _NoCgroup([boxes[0].pid]), audits.append, seconds=0.5
    )
    async with asyncio.timeout(10):
        with pytest.raises(HostError, match="did not answer within"):
            await quarantine.quarantine(_container(boxes[0].pid), "links", "a test")
    assert quarantine.records() == []
