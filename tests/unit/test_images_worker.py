"""Images read in a process of their own: an inventory or one line, and nothing that lasts."""

from __future__ import annotations

import asyncio
import signal
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from sensor.errors import ImageError
from sensor.images import worker
from sensor.images.worker import Request, read_apart
from tests.unit.imagery import BASH, DEBIAN, docker_archive, inventory, layer, unpack_to

LAYER = layer({"etc/os-release": DEBIAN, "var/lib/dpkg/status": BASH})


async def test_it_finds_what_is_found_here(tmp_path: Path) -> None:
    """In an archive, a root, and layers."""
    archive = docker_archive(tmp_path / "a.tar", [LAYER])
    assert await read_apart(Request(archive=str(archive))) == inventory(archive)
    root = unpack_to(tmp_path / "root", {"etc/os-release": DEBIAN, "var/lib/dpkg/status": BASH})
    found = await read_apart(Request(root=str(root), image_id="sha256:1", reference="web:1"))
    assert (found.image_id, found.reference) == ("sha256:1", "web:1")
    details = {"Id": "sha256:2", "GraphDriver": {"Data": {"UpperDir": str(root)}}}
    layered = await read_apart(Request(details=details))
    assert layered.packages == found.packages
    assert layered.image_id == "sha256:2"


@pytest.mark.parametrize(
    ("request_", "reason"),
    [
        (Request(archive="/nonexistent.tar"), "/nonexistent.tar: No such file"),
        (Request(root="/nonexistent"), "/nonexistent: No such file"),
        (Request(reference="web:1"), "web:1: its layers are no directories of overlay2"),
    ],
)
async def test_an_error_comes_back_as_one_line(request_: Request, reason: str) -> None:
    """As if it had happened here."""
    with pytest.raises(ImageError, match=reason):
        await read_apart(request_)


async def test_a_worker_that_dies_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    """Killed for want of memory, say."""
    monkeypatch.setattr("sys.executable", "/bin/false")
    with pytest.raises(ImageError, match="web:1: not read: the worker ended with 1"):
        await read_apart(Request(reference="web:1"))


async def test_a_worker_that_hangs_is_ended(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In a file system that does not answer, say. It is gone when the error comes."""
    hang = tmp_path / "hang"
    hang.write_text("#!/bin/sh\nexec sleep 1000\n")
    hang.chmod(0o755)
    started: list[asyncio.subprocess.Process] = []
    original = asyncio.create_subprocess_exec

    async def start(*arguments: str, **options: Any) -> asyncio.subprocess.Process:
        started.append(await original(*arguments, **options))
        return started[-1]

    monkeypatch.setattr("asyncio.create_subprocess_exec", start)
    monkeypatch.setattr("sys.executable", str(hang))
    monkeypatch.setattr(worker, "_GRACE_SECONDS", 0.1)
    with pytest.raises(ImageError, match="web:1: not read within 0 s"):
        await read_apart(Request(reference="web:1", seconds=0))
    assert started[0].returncode == -signal.SIGKILL


async def test_memory_has_an_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A row of half a gigabyte in a database of packages is no reason to swap."""
    place = tmp_path / "var/lib/rpm"
    place.mkdir(parents=True)
    with closing(sqlite3.connect(place / "rpmdb.sqlite")) as db:
        db.execute("CREATE TABLE Packages (hnum INTEGER PRIMARY KEY, blob BLOB)")
        db.execute("INSERT INTO Packages VALUES (1, zeroblob(200000000))")
        db.commit()
    found = await read_apart(Request(root=str(tmp_path)))
    assert any("rpmdb.sqlite" in warning.location for warning in found.warnings)

    def too_much(*_: object) -> None:
        raise MemoryError

    monkeypatch.setattr(worker, "take_inventory", too_much)
    answer = worker._answer(b'{"root": "%s"}' % str(tmp_path).encode())
    assert answer.startswith(b"-")
    assert b"more than 1024 MB of memory" in answer
