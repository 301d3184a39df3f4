"""Images that a runtime has: by their layers' directories, or as it saves them."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, cast

import pytest

from sensor.containers.docker import DockerRuntime
from sensor.errors import ImageError, RuntimeUnavailableError
from sensor.images.inventory import take_inventory
from sensor.images.sources import image_details, open_details, open_layers, open_root
from tests.unit.imagery import BASH, DEBIAN, digest, docker_archive, layer, named, said, unpack_to

LAYER = layer({"etc/os-release": DEBIAN, "var/lib/dpkg/status": BASH})


class Engine:
    """A runtime with one image, in whatever form."""

    name = "docker"

    def __init__(self, details: dict[str, Any], archive: bytes = b"") -> None:
        self._details = details
        self._archive = archive
        self.asked: list[str] = []

    async def image_details(self, image_id: str) -> dict[str, Any] | None:
        """See ``DockerRuntime``."""
        self.asked.append(image_id)
        return self._details if image_id in ("web:1", self._details["Id"]) else None

    async def image_archive(self, image_id: str) -> AsyncIterator[bytes]:
        """See ``DockerRuntime``."""
        if not self._archive:
            raise RuntimeUnavailableError(f"{image_id}: the connection broke")
        for at in range(0, len(self._archive), 1000):
            yield self._archive[at : at + 1000]


def engine(details: dict[str, Any], archive: bytes = b"") -> DockerRuntime:
    """As the code under test sees it."""
    return cast(DockerRuntime, Engine(details, archive))


def overlay(tmp_path: Path) -> dict[str, Any]:
    """Docker's inspection of an image in two of overlay2's directories."""
    lower = unpack_to(
        tmp_path / "l", {"etc/os-release": DEBIAN, "var/lib/dpkg/status": BASH, "opt/a/old": b""}
    )
    upper = unpack_to(tmp_path / "u", {"opt/a/b.egg-info": b"Name: b\nVersion: 1\n"})
    os.setxattr(upper / "opt/a", "user.overlay.opaque", b"y")
    return {
        "Id": "sha256:web",
        "RootFS": {"Layers": ["sha256:low", "sha256:up"]},
        "GraphDriver": {"Data": {"UpperDir": str(upper), "LowerDir": str(lower)}},
    }


async def test_an_image_in_directories_is_not_exported(tmp_path: Path) -> None:
    """Each package names the layer that its place comes from."""
    runtime = engine(overlay(tmp_path))
    details = await image_details(runtime, "web:1")
    with await open_details(runtime, details, "web:1") as files:
        found = take_inventory(files)
    assert named(found) == {"deb:bash@5.2.15-2+b2", "pypi:b@1"}
    assert [package.layer for package in found.packages] == ["sha256:low", "sha256:up"]
    assert (found.image_id, found.reference, found.source) == ("sha256:web", "web:1", "overlay")
    assert found.warnings == ()


async def test_another_storage_driver_has_it_saved(tmp_path: Path) -> None:
    """The image keeps the id that the runtime gives it."""
    archive = docker_archive(tmp_path / "a.tar", [LAYER]).read_bytes()
    runtime = engine({"Id": "sha256:other", "GraphDriver": {"Name": "vfs", "Data": None}}, archive)
    with await open_details(runtime, await image_details(runtime, "web:1"), "web:1") as files:
        found = take_inventory(files)
    assert named(found) == {"deb:bash@5.2.15-2+b2"}
    assert (found.image_id, found.reference) == ("sha256:other", "web:1")
    assert found.source == "saved by docker"
    assert found.layers == (digest(LAYER),)


async def test_a_runtime_that_breaks_off_is_an_error_of_ours() -> None:
    """And nothing stays open."""
    runtime = engine({"Id": "sha256:other"})
    before = len(os.listdir("/proc/self/fd"))  # noqa: PTH208 - a path would be one more
    with pytest.raises(RuntimeUnavailableError, match="broke"):
        await open_details(runtime, {"Id": "sha256:other"}, "web:1")
    assert len(os.listdir("/proc/self/fd")) == before  # noqa: PTH208


@pytest.mark.parametrize("name", ["none:1", "../../containers/json", "web:1?x=y", "", "-x"])
async def test_only_names_of_images_are_asked_for(tmp_path: Path, name: str) -> None:
    """Anything else would be another path of the runtime's interface."""
    fake = Engine(overlay(tmp_path))
    with pytest.raises(ImageError, match="neither a file nor an image of docker"):
        await image_details(cast(DockerRuntime, fake), name)
    assert fake.asked == ([name] if name == "none:1" else [])


def test_an_image_that_was_removed_meanwhile(tmp_path: Path) -> None:
    """Its directories are gone: one line, and nothing stays open."""
    details = overlay(tmp_path)
    details["GraphDriver"]["Data"]["LowerDir"] += f":{tmp_path}/gone"
    before = len(os.listdir("/proc/self/fd"))  # noqa: PTH208
    with pytest.raises(ImageError, match="gone: No such file or directory"):
        open_layers(details)
    assert len(os.listdir("/proc/self/fd")) == before  # noqa: PTH208


def test_a_container_by_its_layers_and_by_its_root(tmp_path: Path) -> None:
    """What a container may have added is not kept as its image's."""
    details = overlay(tmp_path)
    details |= {"Id": "container", "Image": "sha256:web"}
    for status, expected in (("created", "sha256:web"), ("running", ""), ("exited", "")):
        files = open_layers(details | {"State": {"Status": status}})
        assert files is not None
        with files:
            assert take_inventory(files).image_id == expected
    root = unpack_to(tmp_path / "root", {"etc/os-release": DEBIAN, "var/lib/dpkg/status": BASH})
    with open_root(root, "sha256:web", "web:1") as files:
        found = take_inventory(files)
    assert (found.image_id, found.reference, found.source) == ("sha256:web", "web:1", "root")
    assert named(found) == {"deb:bash@5.2.15-2+b2"}
    assert said(found) == ""
