"""Taking evidence: parts that fail alone, workers that die, full disks, runtimes that hang.

The worker here is mostly a script that says and writes what a test wants; the real one is in
test_evidence_files.py, and with real containers in tests/docker/test_evidence.py.
"""

from __future__ import annotations

import asyncio
import os
import sys
import tarfile
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import orjson
import pytest

from sensor.containers.container import Container
from sensor.containers.runtime import RestartPolicy
from sensor.errors import RuntimeUnavailableError
from sensor.responses.evidence import collect as collect_module
from sensor.responses.evidence.collect import Collector, Pack, Sources, cgroup_directories
from sensor.responses.evidence.pack import read_manifest, verify
from sensor.responses.evidence.recorder import FlightRecorder
from sensor.responses.evidence.store import EvidenceStore
from tests.unit.builders import CGROUP, container, execution


class FakeControl:
    """A runtime that answers, refuses or hangs."""

    def __init__(self, *, hang: bool = False, refuse: bool = False, upper: str = "") -> None:
        self.hang = hang
        self.refuse = refuse
        self.asked: list[str] = []
        self.found: dict[str, Any] = {
            "Image": "sha256:1",
            "Config": {"Env": ["DB_PASSWORD=hunter2hunter2"]},
            "GraphDriver": {"Data": {"UpperDir": upper} if upper else None},
        }

    async def _answer(self, what: str) -> None:
        self.asked.append(what)
        if self.hang:
            await asyncio.sleep(1000)
        if self.refuse:
            raise RuntimeUnavailableError("the runtime refuses")

    async def details(self, container_id: str) -> dict[str, Any] | None:
        """See ``Control.details``."""
        await self._answer("details")
        return self.found if container_id else None

    async def image_details(self, image_id: str) -> dict[str, Any] | None:
        """See ``Control.image_details``."""
        await self._answer("image")
        return {"Id": image_id, "Config": {"Env": ["TOKEN=abc"]}}

    async def changes(self, container_id: str) -> list[tuple[str, str]]:
        """See ``Control.changes``."""
        await self._answer(f"changes {container_id[:3]}")
        return [("added", "/x"), ("deleted", "/y")]

    async def export(self, container_id: str) -> AsyncIterator[bytes]:
        """See ``Control.export``."""
        await self._answer(f"export {container_id[:3]}")
        for _ in range(20):
            yield b"t" * 100_000

    async def restart_policy(self, container_id: str) -> RestartPolicy:
        """See ``Control.restart_policy``."""
        raise NotImplementedError

    async def set_restart_policy(self, container_id: str, policy: RestartPolicy) -> None:
        """See ``Control.set_restart_policy``."""
        raise NotImplementedError

    async def stop(self, container_id: str, grace_seconds: float) -> bool:
        """See ``Control.stop``."""
        raise NotImplementedError

    async def start(self, container_id: str) -> None:
        """See ``Control.start``."""
        raise NotImplementedError


class ScriptedWorker:
    """A worker whose whole work is a Python script; ``fd`` is the pack, ``request`` what came."""

    _BEFORE = """
import io, os, sys, time, orjson
from sensor.responses.evidence.pack import TarWriter, Part
from dataclasses import asdict
request = orjson.loads(sys.stdin.buffer.read())
file = io.FileIO(int(sys.argv[1]), "r+")
writer = TarWriter(file, request["limit"])
def say(**what): print(orjson.dumps(what).decode(), flush=True)
def add(name, data): say(member=asdict(writer.add(name, data)))
def part(name): say(part=asdict(Part(name)))
"""

    def __init__(self, script: str) -> None:
        self._script = self._BEFORE + script
        self.pids: list[int] = []
        self.started = asyncio.Event()

    async def __call__(self, fd: int) -> asyncio.subprocess.Process:
        """Start it."""
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-c", self._script, str(fd)),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            pass_fds=(fd,),
        )
        self.pids.append(process.pid)
        self.started.set()
        return process


GOOD = """
for name in ("environment", "processes", "sockets", "mounts", "cgroup", "file system"):
    add(name + ".json", b"x" * 100)
    part(name)
"""
PARTS = {"environment", "processes", "sockets", "mounts", "cgroup", "file system"}


def collector(
    place: Path, worker: ScriptedWorker | None, control: FakeControl | None = None, **options: Any
) -> Collector:
    """A collector with that worker."""
    store = options.pop("store", None) or EvidenceStore(place / "evidence")
    options.setdefault("sources", Sources(lambda _: b"model", lambda _: [{"id": 7}]))
    return Collector(store, lambda _: control, start_worker=worker, **options)


async def taken(of: Collector, who: Container | None = None, **options: Any) -> Pack:
    """A pack, taken for a test."""
    options.setdefault("reason", "test")
    return await of.collect(who or container(cgroup_path=""), **options)


def parts_of(of: Collector, pack: Pack) -> dict[str, dict[str, Any]]:
    """The parts of a pack, by name. The pack must be good, whatever it lacks."""
    path = of.store.path(pack.id)
    found = verify(path, pack.sha256)
    assert found.good, found.problems
    return {part["name"]: part for part in read_manifest(path)["parts"]}


def runs(pid: int) -> bool:
    """Whether there is such a process, a zombie included."""
    return Path(f"/proc/{pid}").exists()


def member(of: Collector, pack: Pack, name: str) -> bytes:
    """What a member of a pack holds."""
    with tarfile.open(of.store.path(pack.id)) as archive:
        file = archive.extractfile(name)
        assert file is not None
        return file.read()


async def test_a_whole_pack_has_everything_and_no_secret(tmp_path: Path) -> None:
    """All parts done, the cause named, the index and the answer agree."""
    recorder = FlightRecorder()
    recorder.note(execution("/bin/nc", argv=("nc", "--token", "hunter2hunter2")))
    of = collector(tmp_path, ScriptedWorker(GOOD), FakeControl(upper="/u"), recorder=recorder)
    steps: list[str] = []
    pack = await taken(
        of, rule={"name": "shop", "action": "block"}, audit_ids=[7], say=steps.append
    )
    assert not pack.partial
    assert pack.missing == ()
    parts = parts_of(of, pack)
    assert {part["result"] for part in parts.values()} == {"done"}
    assert set(parts) >= PARTS
    assert "file system" in steps
    manifest = read_manifest(of.store.path(pack.id))
    assert manifest["reason"] == "test"
    assert manifest["rule"] == "shop"
    assert manifest["audits"] == [7]
    assert manifest["container"]["name"] == "web"
    (entry,) = of.store.entries()
    assert (entry.id, entry.sha256, entry.size) == (pack.id, pack.sha256, pack.size)
    assert member(of, pack, "model.rote") == b"model"
    assert orjson.loads(member(of, pack, "audits.jsonl")) == {"id": 7}
    assert orjson.loads(member(of, pack, "recorder.jsonl"))["argv"] == ["nc", "--token", "***"]
    assert orjson.loads(member(of, pack, "container.json"))["Config"]["Env"] == ["DB_PASSWORD=***"]
    assert b"hunter2" not in of.store.path(pack.id).read_bytes()


async def test_a_runtime_that_hangs_costs_its_own_parts_only(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also one that refuses, and one that offers nothing at all."""
    monkeypatch.setattr(collect_module, "_RUNTIME_SECONDS", 0.2)
    for control, why in (
        (FakeControl(hang=True), "out of time"),
        (FakeControl(refuse=True), "the runtime refuses"),
        (None, "does not offer it"),
    ):
        of = collector(tmp_path, ScriptedWorker(GOOD), control)
        started = time.monotonic()
        pack = await taken(of)
        assert time.monotonic() - started < 15
        assert pack.partial
        parts = parts_of(of, pack)
        assert why in parts["container inspection"]["missing"][0]
        assert parts["image inspection"]["result"] == "failed"
        assert {parts[name]["result"] for name in PARTS} == {"done"}
        assert any(why in line for line in pack.missing)


@pytest.mark.parametrize(
    ("end", "why"),
    [
        ("os.kill(os.getpid(), 9)", "the worker ended with -9"),
        ("sys.exit(3)", "the worker ended with 3"),
        ("time.sleep(1000)", "out of time"),
        ("print('{\"half', flush=True); os.kill(os.getpid(), 9)", "the worker"),
    ],
    ids=["killed", "exit", "hangs", "half a word"],
)
async def test_what_a_worker_wrote_before_its_end_is_kept(
    tmp_path: Path, end: str, why: str
) -> None:
    """Whole members up to there; of what it had begun nothing; the rest is said to be missing."""
    script = (
        "add('processes.jsonl', b'p' * 1000)\npart('processes')\nadd('more', b'm')\n"
        f"file.write(b'half a member' * 1000)\n{end}\n"
    )
    worker = ScriptedWorker(script)
    of = collector(tmp_path, worker, FakeControl(upper="/u"))
    pack = await taken(of, seconds=3)
    assert pack.partial
    parts = parts_of(of, pack)
    assert parts["processes"]["result"] == "done"
    assert parts["file system"]["result"] == "failed"
    assert why in parts["file system"]["missing"][0]
    assert member(of, pack, "processes.jsonl") == b"p" * 1000
    assert member(of, pack, "more") == b"m"
    assert member(of, pack, "model.rote") == b"model"
    for pid in worker.pids:
        assert not runs(pid)  # hanging or not


async def test_a_worker_that_does_not_start_costs_its_parts(tmp_path: Path) -> None:
    """The daemon's own parts are there."""

    class Refused(ScriptedWorker):
        async def __call__(self, fd: int) -> asyncio.subprocess.Process:
            """Not start it."""
            raise OSError(11, f"Resource temporarily unavailable ({fd > 0})")

    of = collector(tmp_path, Refused(""), FakeControl(upper="/u"))
    pack = await taken(of)
    parts = parts_of(of, pack)
    assert {parts[name]["result"] for name in PARTS} == {"failed"}
    assert parts["container inspection"]["result"] == "done"
    assert member(of, pack, "container.json")


async def test_members_that_a_worker_takes_back_are_not_in_the_manifest(tmp_path: Path) -> None:
    """It drops contents in favour of the list of changes when the disk is full."""
    script = (
        "add('one', b'1')\nstart = writer.end\nadd('two', b'2')\nwriter.cut(start)\n"
        "say(cut=start)\nadd('three', b'3')\n"
    )
    of = collector(tmp_path, ScriptedWorker(script))
    pack = await taken(of)
    parts_of(of, pack)
    names = set(read_manifest(of.store.path(pack.id))["members"])
    assert {"one", "three"} <= names
    assert "two" not in names


async def test_the_runtime_is_asked_for_changes_only_without_an_upper_directory(
    tmp_path: Path,
) -> None:
    """Comparing whole file systems costs it much."""
    script = "add('request.json', orjson.dumps(request))\n"
    for upper, changes in (("/u", None), ("", [["added", "/x"], ["deleted", "/y"]])):
        control = FakeControl(upper=upper)
        of = collector(tmp_path, ScriptedWorker(script), control)
        pack = await taken(of)
        request = orjson.loads(member(of, pack, "request.json"))
        assert request["upper"] == upper
        assert request["changes"] == changes
        assert ("changes web" in control.asked) == (not upper)


async def test_a_whole_file_system_is_cut_off_by_the_limit_of_a_pack(tmp_path: Path) -> None:
    """What came before is kept, and it is said where it ends."""
    pack = Pack("", "", partial=False, missing=())
    for limit, size, result in ((64 << 20, 2_000_000, "done"), (1 << 20, 1_000_000, "partial")):
        store = EvidenceStore(tmp_path / str(limit), pack_max=limit)
        of = collector(tmp_path, ScriptedWorker(GOOD), FakeControl(upper="/u"), store=store)
        pack = await taken(of, filesystem=True)
        parts = parts_of(of, pack)
        assert parts["whole file system"]["result"] == result
        assert member(of, pack, "filesystem.tar") == b"t" * size
        assert pack.size <= limit + 16_384  # its manifest is written in any case
    assert any("cut off after 1000000 bytes" in line for line in pack.missing)


async def test_an_audit_that_is_not_found_is_missing(tmp_path: Path) -> None:
    """The audits that led here are named even when they are gone from the store."""
    of = collector(tmp_path, ScriptedWorker(GOOD), FakeControl(upper="/u"))
    pack = await taken(of, audit_ids=[7, 8])
    assert pack.missing == ("audits: audits 8: not found",)


async def test_no_model_and_no_rule_are_nothing_missing(tmp_path: Path) -> None:
    """Not everything has them."""
    of = collector(
        tmp_path, ScriptedWorker(GOOD), FakeControl(upper="/u"), sources=Sources(lambda _: None)
    )
    pack = await taken(of)
    assert not pack.partial
    assert parts_of(of, pack)["model"]["result"] == "skipped"


async def test_a_store_that_cannot_be_written_is_no_exception(tmp_path: Path) -> None:
    """The caller has a container to stop."""
    (tmp_path / "evidence").write_text("a file where the directory should be")
    of = collector(tmp_path, ScriptedWorker(GOOD))
    pack = await taken(of)
    assert pack.id == ""
    assert pack.partial
    assert "no evidence taken" in pack.missing[0]


async def test_one_that_is_cancelled_leaves_nothing(tmp_path: Path) -> None:
    """Neither a worker nor a draft."""
    worker = ScriptedWorker("time.sleep(1000)")
    of = collector(tmp_path, worker)
    task = asyncio.create_task(taken(of))
    await worker.started.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert not runs(worker.pids[0])
    assert list(of.store.directory.iterdir()) == []


async def test_few_are_taken_at_once_and_waiting_ends(tmp_path: Path) -> None:
    """Whoever does not get a turn in time has the daemon's own parts at least."""
    worker = ScriptedWorker("time.sleep(1.5)\n" + GOOD)
    of = collector(tmp_path, worker, FakeControl(upper="/u"))
    first = asyncio.gather(taken(of, seconds=20), taken(of, seconds=20))
    await worker.started.wait()
    await asyncio.sleep(0.2)
    late = await taken(of, seconds=0.3)
    assert [pack.partial for pack in await first] == [False, False]
    assert late.partial
    assert "too many at once" in late.missing[0]
    assert len(worker.pids) == 2


async def test_the_loop_goes_on_meanwhile(tmp_path: Path) -> None:
    """Nothing that takes long is done in the loop's thread."""
    worker = ScriptedWorker("for n in range(40): add(f'm{n}', os.urandom(1 << 20))\n" + GOOD)
    of = collector(tmp_path, worker, FakeControl(upper="/u"))
    longest = 0.0
    task = asyncio.create_task(taken(of, filesystem=True))
    while not task.done():
        before = time.monotonic()
        await asyncio.sleep(0.005)
        longest = max(longest, time.monotonic() - before)
    assert not task.result().partial
    assert longest < 1  # a machine may be busy with others; a fork alone takes hundredths


async def test_pruning_after_each_leaves_the_newest_and_what_must_stay(tmp_path: Path) -> None:
    """The quota holds whatever it is."""
    script = "add('big', bytes(900_000))\n" + GOOD
    store = EvidenceStore(tmp_path / "evidence", quota=2_500_000, pack_max=1 << 20)
    kept: set[str] = set()
    of = collector(tmp_path, ScriptedWorker(script), store=store, kept=lambda: kept)
    first = await taken(of)
    kept.add(first.id)
    newest = first
    for _ in range(3):
        newest = await taken(of)
        assert sum(entry.size for entry in store.entries()) <= 2_500_000
    assert {entry.id for entry in store.entries()} == {first.id, newest.id}


def test_the_hosts_own_cgroup_is_never_taken_for_a_containers() -> None:
    """An empty path would be the root of the hierarchy."""
    assert cgroup_directories("") == []
    assert cgroup_directories("/") == []
    assert cgroup_directories("/there-is-no-such-cgroup") == []


# ---- the flight recorder -------------------------------------------------------------------------


def test_the_recorder_remembers_in_order_and_within_bounds() -> None:
    """The oldest go first, by number and by bytes, and it is said how many went."""
    recorder = FlightRecorder(entry_limit=10, byte_limit=1 << 20)
    for number in range(25):
        recorder.note(execution(f"/bin/{number}"))
    found = recorder.take(CGROUP)
    assert found[0] == {"what": "15 earlier entries did not fit"}
    assert [entry["path"] for entry in found[1:]] == [f"/bin/{n}" for n in range(15, 25)]
    assert found[1]["operation"] == "exec"

    recorder = FlightRecorder(byte_limit=10_000)
    for number in range(100):
        recorder.note(execution("/" + "x" * 5000 + str(number)))
    assert recorder.bytes_held <= 10_000
    assert recorder.take(CGROUP)


def test_a_storm_of_one_thing_does_not_wash_away_what_led_to_it() -> None:
    """It is counted instead."""
    recorder = FlightRecorder(entry_limit=10)
    recorder.note(execution("/bin/first"))
    for _ in range(1000):
        recorder.note(execution("/bin/storm", pid=5))
    recorder.state(CGROUP, "model active")
    found = recorder.take(CGROUP)
    assert [entry.get("path") for entry in found] == ["/bin/first", "/bin/storm", None, None]
    assert found[2]["what"] == "the same 999 times more"
    assert found[3]["what"] == "model active"


def test_containers_are_apart_few_and_forgotten_after_a_while() -> None:
    """Of too many the one that was silent longest goes; one that is gone stays for minutes."""
    now = 1000.0
    recorder = FlightRecorder(container_limit=3, gone_seconds=60, clock=lambda: now)
    for cgroup in (1, 2, 3):
        recorder.note(execution("/bin/a", cgroup_id=cgroup))
    recorder.note(execution("/bin/b", cgroup_id=1))
    recorder.note(execution("/bin/a", cgroup_id=4))
    assert recorder.take(2) == []
    assert len(recorder.take(1)) == 2
    recorder.gone(1)
    assert recorder.take(1)
    now += 61
    recorder.gone(3)
    assert recorder.take(1) == []
    assert len(recorder) == 2


def test_names_of_any_bytes_and_secrets_in_arguments() -> None:
    """What is remembered is shown without secrets."""
    recorder = FlightRecorder()
    recorder.note(execution(os.fsdecode(b"/\xff"), argv=("x", "--password=hunter2")))
    (entry,) = recorder.take(CGROUP)
    assert entry["path"] == os.fsdecode(b"/\xff")
    assert entry["argv"] == ["x", "--password=***"]


def test_noting_costs_little() -> None:
    """Every novelty passes here; what the loop does with one takes several times as long."""
    recorder = FlightRecorder()
    events = [execution(f"/bin/{n % 100}", argv=("a", "b", "c")) for n in range(5000)]
    started = time.perf_counter()
    for event in events:
        recorder.note(event)
    assert (time.perf_counter() - started) / len(events) < 200e-6
