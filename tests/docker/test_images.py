"""Inventories of images that an Engine has, and of containers that run."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from sensor.images.inventory import take_inventory
from sensor.images.sources import open_layers, open_root
from tests.docker.client import Docker
from tests.docker.images import busybox_root
from tests.unit.imagery import BASH, DEBIAN, named, said
from tests.waiting import wait_for

pytestmark = pytest.mark.docker

IMAGE = "rote-test/inventory:1"
FIRST = (
    "mkdir -p /var/lib/dpkg /opt/old /opt/kept && "
    f"printf '{DEBIAN.decode()}' > /etc/os-release && printf '{BASH.decode()}' > "
    "/var/lib/dpkg/status && printf 'Name: old\\nVersion: 1\\n' > /opt/old/a.egg-info && "
    "printf 'Name: kept\\nVersion: 1\\n' > /opt/kept/a.egg-info"
)
SECOND = (
    "rm -r /opt/old && rm /opt/kept/a.egg-info && mkdir /opt/old && "
    "printf 'Name: new\\nVersion: 2\\n' > /opt/old/b.egg-info"
)
FOUND = {"deb:bash@5.2.15-2+b2", "pypi:new@2"}


@pytest.fixture
def image(docker: Docker) -> Iterator[str]:
    """An image of three layers, with whiteouts and an opaque directory."""
    docker("import", "-", "rote-test/inventory:0", stdin=busybox_root())
    for number, script in enumerate((FIRST, SECOND)):
        container = docker("create", f"rote-test/inventory:{number}", "sh", "-c", script)
        docker("start", "--attach", container)
        docker("commit", container, f"rote-test/inventory:{number + 1}")
        docker("rm", container)
    docker("tag", "rote-test/inventory:2", IMAGE)
    yield IMAGE
    docker("rmi", "--force", IMAGE, "rote-test/inventory:2", "rote-test/inventory:0")


def rote(state: Path, host: str, *arguments: str) -> Any:
    """A command of `rote images`, as JSON."""
    done = subprocess.run(
        [sys.executable, "-m", "sensor", "--state-dir", str(state), "images", *arguments,
         "--engine", host, "-o", "json"],
        capture_output=True, check=False, timeout=60,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr.decode()
    return json.loads(done.stdout)


def test_an_image_is_read_from_its_layers(
    docker_host: str, docker: Docker, image: str, tmp_path: Path
) -> None:
    """By its name, without exporting it; the archive of it tells the same."""
    found = rote(tmp_path / "state", docker_host, "show", image)
    assert {f"{p['ecosystem']}:{p['name']}@{p['version']}" for p in found["packages"]} == FOUND
    assert found["source"] == "overlay"
    assert found["warnings"] == []
    inspected = json.loads(docker("image", "inspect", image))[0]
    assert found["id"] == inspected["Id"]
    assert found["layers"] == inspected["RootFS"]["Layers"]
    layers = {package["name"]: package["layer"] for package in found["packages"]}
    assert [layers["bash"], layers["new"]] == found["layers"][1:]
    docker("save", "--output", str(tmp_path / "image.tar"), image)
    saved = rote(tmp_path / "other", docker_host, "show", str(tmp_path / "image.tar"))
    assert saved["packages"] == found["packages"]
    assert saved["id"] == found["id"]


def test_images_that_were_not_read_are_listed(docker_host: str, image: str, tmp_path: Path) -> None:
    """And those that were, once."""
    rows = {row["image"]: row for row in rote(tmp_path, docker_host, "list")}
    assert rows[image]["read"] is None
    rote(tmp_path, docker_host, "scan", image)
    rows = {row["image"]: row for row in rote(tmp_path, docker_host, "list")}
    assert rows[image]["packages"] == len(FOUND)


def test_a_container_is_read_as_it_is(docker: Docker, image: str) -> None:
    """Before it runs by its layers, then by its root: with what it added, without its volumes."""
    script = (
        "printf 'Name: added\\nVersion: 3\\n' > /opt/c.egg-info; "
        "printf 'Name: volume\\nVersion: 4\\n' > /data/d.egg-info; echo ready; exec sleep 60"
    )
    container = docker("create", "--volume", "/data", image, "sh", "-c", script)
    details = json.loads(docker("inspect", container))[0]
    files = open_layers(details)
    assert files is not None
    with files:
        before = take_inventory(files)
    assert named(before) == FOUND
    assert before.image_id == details["Image"]
    try:
        docker("start", container)
        wait_for(lambda: "ready" in docker("logs", container), seconds=30, what="it is ready")
        pid = json.loads(docker("inspect", container))[0]["State"]["Pid"]
        with open_root(Path(f"/proc/{pid}/root"), details["Image"]) as files:
            running = take_inventory(files)
    finally:
        docker("rm", "--force", "--volumes", container)
    assert named(running) == FOUND | {"pypi:added@3"}
    assert "/data: something is mounted here, not of the image" in said(running)
