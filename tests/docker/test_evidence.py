"""Evidence of real containers, as a person takes it."""

from __future__ import annotations

import hashlib
import io
import json
import shutil
import signal
import subprocess
import tarfile
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from sensor.containers.cgroups import find_hierarchy
from sensor.containers.docker import DockerRuntime
from sensor.responses.evidence.collect import Collector, Pack
from sensor.responses.evidence.pack import read_manifest, verify
from sensor.responses.evidence.store import EvidenceStore
from tests.docker import images
from tests.docker.client import Docker, Running
from tests.docker.engine import PrivateEngine, program
from tests.docker.sensor import Rote
from tests.waiting import wait_for

SECRET = "hunter2-" + "q7Zp2LxV9mKt4RwB8nYc"
# Nothing of the image's own does any of this.
INTRUDER = """
mkdir /opt
cp /bin/busybox /opt/busybox-drop
/opt/busybox-drop sleep 1000 &
cp /bin/busybox /var/busybox-ghost
/var/busybox-ghost sleep 1001 &
GHOST=$!
nc -l -p 4444 &
exec 7>/var/log/held
echo 12345 >&7
mkfifo /var/fifo
ln -s /etc/shadow /var/link
rm /etc/passwd
echo in memory >/dev/shm/note
while [ "$(readlink /proc/$GHOST/exe)" != /var/busybox-ghost ]; do :; done
rm /var/busybox-ghost
echo ready
sleep 1002
"""


@pytest.fixture(scope="session")
def hidden(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A static program that runs itself out of a memfd."""
    path = tmp_path_factory.mktemp("hidden") / "hidden"
    source = Path(__file__).with_name("hidden.c")
    subprocess.run([program("cc"), "-O1", "-static", "-o", path, source], check=True, timeout=60)
    return path


def members(tar: Path) -> dict[str, bytes]:
    """What a pack holds."""
    with tarfile.open(tar) as archive:
        return {
            info.name: source.read() for info in archive if (source := archive.extractfile(info))
        }


def rows(data: bytes) -> list[dict[str, Any]]:
    """JSON lines."""
    return [json.loads(line) for line in data.splitlines()]


def sha256(data: bytes) -> str:
    """Of some bytes."""
    return hashlib.sha256(data).hexdigest()


def start_intruder(docker: Docker, image: str) -> Running:
    """A container in which everything has happened that evidence should show."""
    container = docker.run(
        image, "sh", "-c", INTRUDER, options=("--env", f"DB_PASSWORD={SECRET}", "--env", "MODE=x")
    )
    container.wait_until(lambda: "ready" in container.logs(), seconds=60, what="the intruder")
    return container


def test_what_an_intruder_left_is_found_and_no_secret(
    docker: Docker, rote: Rote, busybox_image: str, hidden: Path, tmp_path: Path
) -> None:
    """Programs on disk, deleted and in memory, sockets, descriptors, files; and it goes on."""
    rote.start()
    container = start_intruder(docker, busybox_image)
    docker("cp", str(hidden), f"{container.id}:/opt/hidden")
    docker("exec", "--detach", "--env", f"API_TOKEN={SECRET}", container.id, "/opt/hidden")
    rote.wait_for(lambda: rote.watches(container.id), seconds=30, what="the container")
    wait_for(lambda: "now" in docker("top", container.id), seconds=30, what="the program in memory")

    pack = rote.json("evidence", "collect", container.name, "--reason", "a test", "--filesystem")
    assert pack["missing"] == []
    assert container.inspect()["State"]["Running"]

    tar = tmp_path / "pack.tar"
    rote("evidence", "export", pack["id"], str(tar))
    assert "good" in rote("evidence", "verify", str(tar), "--sha256", pack["sha256"])
    assert tar.stat().st_mode & 0o777 == 0o600
    found = members(tar)

    # The secret is in the container's file system as little as anywhere else of the pack.
    assert SECRET.encode() not in tar.read_bytes()
    environments = [row["environment"] for row in rows(found["environment.jsonl"])]
    assert {"DB_PASSWORD": "***", "MODE": "x"}.items() <= environments[0].items()
    assert "DB_PASSWORD=***" in json.loads(found["container.json"])["Config"]["Env"]
    assert json.loads(found["image.json"])["Id"] == container.inspect()["Image"]

    busybox = sha256(images_busybox(container))
    processes = rows(found["processes.jsonl"])
    by_argument = {row["argv"][-1]: row for row in processes if row["argv"]}
    first = next(row for row in processes if row["pid"] == container.pid)
    assert first["pids"] == [container.pid, 1]
    assert {"fd": 7, "target": "/var/log/held"}.items() <= next(
        file for file in first["files"] if file["fd"] == 7
    ).items()
    assert next(file for file in first["files"] if file["fd"] == 7)["position"] == 6
    dropped, ghost, memory = by_argument["1000"], by_argument["1001"], by_argument["now"]
    assert dropped["program"]["origin"] == "added"
    assert dropped["parent"] == container.pid
    assert ghost["program"]["origin"] == "memory"
    assert sha256(found[ghost["program"]["member"]]) == busybox
    assert found[memory["program"]["member"]] == hidden.read_bytes()
    assert by_argument["1002"]["program"]["origin"] == "image"

    listening = [
        row
        for row in rows(found["sockets.jsonl"])
        if row.get("state") == "listen" and row["local"].endswith(":4444")
    ]
    assert len(listening) == 1
    assert listening[0]["holders"][0]["pid"] == by_argument["4444"]["pid"]

    changes = {row["path"]: row for row in rows(found["changes.jsonl"])}
    assert changes["/opt/busybox-drop"]["sha256"] == busybox
    assert changes["/opt/busybox-drop"]["change"] == "added"
    assert sha256(found[changes["/opt/busybox-drop"]["member"]]) == busybox
    assert changes["/etc/passwd"]["change"] == "deleted"
    assert changes["/etc"]["change"] == "changed"
    assert changes["/var/fifo"]["kind"] == "fifo"
    assert changes["/var/link"]["target"] == "/etc/shadow"
    assert found[changes["/dev/shm/note"]["member"]] == b"in memory\n"
    # Docker's own word for it; what it knows nothing of is what lies on a tmpfs.
    said = docker("diff", container.id).splitlines()
    letters = {"added": "A", "changed": "C", "deleted": "D"}
    own = {
        f"{letters[row['change']]} {path}"
        for path, row in changes.items()
        if row["origin"] == "layer"
    }
    assert own == set(said)

    assert rows(found["mounts.jsonl"])
    assert any("pids.max" in files for files in json.loads(found["cgroup.json"]).values())
    assert found["model.rote"]
    with tarfile.open(fileobj=io.BytesIO(found["filesystem.tar"])) as archive:
        assert "opt/busybox-drop" in archive.getnames()

    page = rote("evidence", "show", pack["id"])
    for text in ("/opt/busybox-drop", ":4444", "in memory only", "└─", "a test", "deleted"):
        assert text in page
    assert SECRET not in page
    (listed,) = rote.json("evidence", "list")
    assert listed["id"] == pack["id"]
    assert listed["container"] == container.name

    changed = tar.read_bytes().replace(b"in memory\n", b"on a disk\n")
    tar.write_bytes(changed)
    refused = rote.complete("evidence", "verify", str(tar))
    assert refused.returncode == 3
    assert "files/dev/shm/note: has changed" in refused.stdout

    assert rote.stop() == 0
    assert rote.json("evidence", "list")[0]["id"] == pack["id"]  # also without a daemon
    assert "good" in rote("evidence", "verify", "last")


def images_busybox(container: Running) -> bytes:
    """The image's program, as the container has it."""
    return Path(f"/proc/{container.pid}/root/bin/busybox").read_bytes()


async def taken(
    url: str, container: Running, place: Path, store: EvidenceStore | None = None
) -> tuple[Path, Pack]:
    """A pack, taken in this very process, of a container of the tests; its file and itself."""
    runtime = DockerRuntime(url)
    try:
        hierarchy = find_hierarchy()
        pid = container.pid
        path = hierarchy.path_of_pid(pid)
        assert path is not None
        known = await runtime.inspect(container.id)
        assert known is not None
        known = replace(known, cgroup_path=path)
        store = store or EvidenceStore(place / "evidence")
        pack = await Collector(store, lambda _: runtime).collect(known, reason="a test")
    finally:
        await runtime.close()
    return store.path(pack.id), pack


def test_a_blocked_container_leaves_evidence_that_its_audit_vouches_for(
    docker: Docker, rote: Rote, busybox_image: str
) -> None:
    """Taken while it stands still, before it is stopped; kept for as long as it is blocked."""
    rote.start()
    container = start_intruder(docker, busybox_image)
    rote.wait_for(lambda: rote.watches(container.id), seconds=30, what="the container")
    rote("block", container.name, "--reason", "a test")
    assert not container.inspect()["State"]["Running"]
    (pack,) = rote.json("evidence", "list")
    assert pack["missing"] == []
    assert pack["reason"] == "a test"
    (audit,) = rote.audits("--type", "container_blocked")
    step = next(step for step in audit["steps"] if step["step"] == "evidence")
    assert step["result"] == "done"
    assert step["detail"] == f"{pack['id']} sha256:{pack['sha256']}"
    assert audit["extra"]["evidence"] == pack["id"]
    page = rote("evidence", "show", pack["id"])
    assert "busybox-drop" in page
    assert "0 packs" in rote("evidence", "prune", "--keep", "0", "--yes")
    rote("unblock", container.name)
    assert "1 packs" in rote("evidence", "prune", "--keep", "0", "--yes")


async def test_a_frozen_container_is_read_like_any_other(
    docker: Docker, busybox_image: str, tmp_path: Path
) -> None:
    """It stands still when evidence is taken before a stop."""
    container = start_intruder(docker, busybox_image)
    docker("pause", container.id)
    try:
        tar, pack = await taken(docker.url, container, tmp_path)
        assert not pack.partial, pack.missing
        assert pack.seconds < 20
        arguments = {row["argv"][-1] for row in rows(members(tar)["processes.jsonl"])}
        assert {"1000", "1001", "1002", "4444"} <= arguments
    finally:
        docker("unpause", container.id)


async def test_a_container_that_is_gone_half_way_gives_a_partial_pack(
    docker: Docker, busybox_image: str, tmp_path: Path
) -> None:
    """What was read stays; the pack says what is missing, and is good."""
    script = "n=0; while [ $n -lt 3000 ]; do echo $n >/var/$n; n=$((n+1)); done; echo ready; "
    container = docker.run(busybox_image, "sh", "-c", script + "sleep 1000")
    container.wait_until(lambda: "ready" in container.logs(), seconds=90, what="its files")
    hierarchy = find_hierarchy()
    path = hierarchy.path_of_pid(container.pid)
    runtime = DockerRuntime(docker.url)
    try:
        known = await runtime.inspect(container.id)
        assert known is not None
        known = replace(known, cgroup_path=path or "")
        steps: list[str] = []
        gone = threading.Event()

        def say(step: str) -> None:
            steps.append(step)
            if step == "image inspection" and not gone.is_set():
                container.remove()  # in the loop's thread: the worker waits for its request
                gone.set()

        store = EvidenceStore(tmp_path / "evidence")
        pack = await Collector(store, lambda _: runtime).collect(known, reason="a test", say=say)
    finally:
        await runtime.close()
    assert gone.is_set()
    assert pack.partial
    tar = store.path(pack.id)
    assert verify(tar, pack.sha256).good
    assert json.loads(members(tar)["container.json"])["Id"] == container.id
    parts = {part["name"]: part for part in read_manifest(tar)["parts"]}
    assert parts["processes"]["result"] == "failed"
    assert "no processes" in parts["processes"]["missing"][0]
    assert parts["file system"]["result"] == "partial"
    assert any(line.startswith("file system: ") for line in pack.missing)


async def test_an_engine_that_hangs_costs_the_inspections_only(tmp_path: Path) -> None:
    """Its daemon is stopped where it stands; processes and files need nobody's answer."""
    engine = PrivateEngine("ev")
    try:
        engine.start()
        docker = Docker(engine.url)
        container = start_intruder(docker, images.import_busybox(docker))
        runtime = DockerRuntime(engine.url)
        known = await runtime.inspect(container.id)
        await runtime.close()
        pid = container.pid
        dockerd = engine._processes[-1]
        dockerd.send_signal(signal.SIGSTOP)
        try:
            store = EvidenceStore(tmp_path / "evidence")
            runtime = DockerRuntime(engine.url)
            path = find_hierarchy().path_of_pid(pid)
            assert known is not None
            known = replace(known, cgroup_path=path or "")
            pack = await Collector(store, lambda _: runtime).collect(known, reason="a test")
            await runtime.close()
        finally:
            dockerd.send_signal(signal.SIGCONT)
        assert sorted(line.partition(":")[0] for line in pack.missing) == [
            "container inspection", "image inspection",
        ]  # fmt: skip
        found = members(store.path(pack.id))
        changes = {row["path"]: row for row in rows(found["changes.jsonl"])}
        assert changes["/opt/busybox-drop"]["change"] == "added"
        assert changes["/etc/passwd"]["change"] == "deleted"
        assert changes["/etc"]["change"] == "changed"
        assert len(rows(found["processes.jsonl"])) == 5
        docker.clean()
    finally:
        engine.stop()


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of four megabytes."""
    place = tmp_path / "disk"
    place.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=4m", "rote-test", place], check=True)
    yield place
    subprocess.run(["umount", "--lazy", place], check=True)


async def test_a_disk_that_is_full_gives_a_partial_pack(
    docker: Docker, busybox_image: str, tmp_path: Path, small_disk: Path
) -> None:
    """What fits is there with its manifest; what does not is named; nothing is raised."""
    script = "for n in 1 2 3 4 5; do head -c 1000000 /dev/urandom >/var/$n; done; echo ready; "
    container = docker.run(busybox_image, "sh", "-c", script + "sleep 1000")
    container.wait_until(lambda: "ready" in container.logs(), seconds=60, what="its files")
    store = EvidenceStore(small_disk / "evidence")
    tar, pack = await taken(docker.url, container, tmp_path, store=store)
    assert pack.partial
    assert verify(tar, pack.sha256).good
    assert any("no space left" in line for line in pack.missing)
    changes = [row for row in rows(members(tar)["changes.jsonl"]) if row["kind"] == "file"]
    assert len(changes) == 5
    assert all(row["sha256"] for row in changes)
    shutil.rmtree(store.directory)

    # Not even the reserve fits: still an answer, and still no exception.
    (small_disk / "filler").write_bytes(bytes(shutil.disk_usage(small_disk).free - 8192))
    _, pack = await taken(docker.url, container, tmp_path, store=store)
    assert pack.partial
    assert any("no space left" in line.lower() for line in pack.missing)
