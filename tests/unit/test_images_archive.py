"""Images as they are stored: what docker saves, OCI layouts, roots; whole and damaged."""

from __future__ import annotations

import gzip
import json
import os
import shutil
import tarfile
import tempfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sensor.errors import ImageError
from sensor.images.archive import open_image
from sensor.images.inventory import take_inventory
from tests.unit.imagery import (
    BASH,
    DATA,
    DEBIAN,
    Content,
    config,
    digest,
    docker_archive,
    go_program,
    inventory,
    layer,
    named,
    oci_layout,
    said,
    unpack_to,
)

LOWER: dict[str, Content] = {
    "etc/os-release": "../usr/lib/os-release",
    "usr/lib/os-release": DEBIAN,
    "var/lib/dpkg/status": BASH,
    "opt/old/a.egg-info": b"Name: old\nVersion: 1\n",
    "usr/bin/app": go_program("mod\tm\tv1\t\n"),
    "usr/bin/script": b"#!/bin/sh\n" + b"# long enough to be looked at\n" * 9,
}
UPPER: dict[str, Content] = {
    "opt/.wh.old": b"",
    "opt/new/b.egg-info": b"Name: new\nVersion: 2\n",
    "usr/bin/linked": "=opt/new/prog",
}
MODES = {"usr/bin/app": 0o755, "usr/bin/script": 0o755, "opt/new/prog": 0o755}
LAYERS = [
    layer(LOWER, MODES),
    layer({"opt/new/prog": go_program("mod\tn\tv2\t\n"), **UPPER}, MODES),
]
FOUND = {
    "deb:bash@5.2.15-2+b2", "pypi:new@2", "golang:stdlib@v1.21.3", "golang:m@v1", "golang:n@v2",
}  # fmt: skip


def test_what_docker_saves(tmp_path: Path) -> None:
    """Its id, its name, its layers; whiteouts apply."""
    found = inventory(docker_archive(tmp_path / "web.tar", LAYERS))
    assert named(found) == FOUND
    assert found.image_id == digest(config(LAYERS))
    assert found.reference == "web:1"
    assert found.source == "docker archive"
    assert found.layers == tuple(map(digest, LAYERS))
    layers = {package.name: package.layer for package in found.packages}
    assert layers["bash"] == found.layers[0]
    assert layers["new"] == found.layers[1]
    assert found.warnings == ()


def test_an_archive_that_is_packed_as_a_whole(tmp_path: Path) -> None:
    """`docker save | gzip`."""
    path = docker_archive(tmp_path / "web.tar", LAYERS)
    path.write_bytes(gzip.compress(path.read_bytes(), 1))
    assert named(inventory(path)) == FOUND


@pytest.mark.parametrize("pack", ["gzip", "zstd", ""])
def test_an_oci_layout(tmp_path: Path, pack: str) -> None:
    """In a directory and in a tar; however its layers are packed, the same is found."""
    place = oci_layout(tmp_path / "layout", LAYERS, pack)
    found = inventory(place)
    assert named(found) == FOUND
    assert found.image_id == digest(config(LAYERS))
    assert found.reference == "web:1"
    assert found.source == "OCI layout"
    assert found.warnings == ()
    with tarfile.open(tmp_path / "layout.tar", "w") as tar:
        tar.add(place, ".")
    assert inventory(tmp_path / "layout.tar") == found


def test_a_link_to_what_was_not_foreseen(tmp_path: Path) -> None:
    """The database lies elsewhere: the packed layer is gone through again for it, a few times."""
    entries: dict[str, Content] = {"etc/os-release": DEBIAN, "x/hidden": BASH}
    entries["var/lib/dpkg/status"] = "/x/hidden"
    found = inventory(oci_layout(tmp_path / "a", [layer(entries)]))
    assert named(found) == {"deb:bash@5.2.15-2+b2"}
    assert found.warnings == ()
    many: dict[str, Content] = {f"x/{i}": b"Name: a\nVersion: 1\n" for i in range(9)}
    many |= {f"{i}.egg-info": f"=x/{i}" for i in range(9)}
    found = inventory(oci_layout(tmp_path / "b", [layer(many)]))
    assert 1 <= len(found.packages) < 9
    assert "in a compressed layer, where nothing was expected: not read" in said(found)


def test_several_images_in_one_archive(tmp_path: Path) -> None:
    """A person says which, by name or id."""
    first, second = LAYERS[:1], LAYERS
    entries: dict[str, Content] = {}
    manifest = []
    for name, layers in (("first:1", first), ("second:latest", second)):
        facts = config(layers)
        entries[f"{digest(facts)[7:]}.json"] = facts
        names = [f"{digest(data)[7:]}/layer.tar" for data in layers]
        entries |= dict(zip(names, layers, strict=True))
        manifest.append(
            {"Config": f"{digest(facts)[7:]}.json", "RepoTags": [name], "Layers": names}
        )
    entries["manifest.json"] = json.dumps(manifest).encode()
    path = tmp_path / "both.tar"
    path.write_bytes(layer(entries))
    assert inventory(path, "second").reference == "second:latest"
    assert inventory(path, digest(config(first))[:20]).reference == "first:1"
    with pytest.raises(ImageError, match="2 images; --image chooses one of: first:1, second"):
        open_image(path)
    with pytest.raises(ImageError, match="no image 'third'"):
        open_image(path, "third")


def test_the_architecture_is_this_hosts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of several; of one other only, that one, which is said. Attestations are no images."""
    place = oci_layout(tmp_path, LAYERS)
    index = json.loads((place / "index.json").read_text())
    (entry,) = index["manifests"]
    attestation = {**entry, "digest": digest(b"x"), "platform": {"os": "unknown"}}
    arm = {**entry, "digest": digest(b"y"), "platform": {"os": "linux", "architecture": "arm64"}}
    entry["platform"] = {"os": "linux", "architecture": "amd64"}
    (place / "index.json").write_text(json.dumps({"manifests": [attestation, arm, entry]}))
    monkeypatch.setattr("platform.machine", lambda: "x86_64")
    assert said(inventory(place)) == ""
    (place / "index.json").write_text(json.dumps({"manifests": [attestation, entry]}))
    monkeypatch.setattr("platform.machine", lambda: "aarch64")
    assert "no image for arm64: that for amd64 was read" in said(inventory(place))


def test_a_root(tmp_path: Path) -> None:
    """As a directory, and as a tar of one."""
    root = unpack_to(tmp_path / "root", {"etc/os-release": DEBIAN, "var/lib/dpkg/status": BASH})
    found = inventory(root)
    assert (found.source, found.image_id, found.layers) == ("root", "", ())
    with tarfile.open(tmp_path / "root.tar", "w") as tar:
        tar.add(root, ".")
    packed = inventory(tmp_path / "root.tar")
    assert packed.source == "tar of a root"
    assert named(found) == named(packed) == {"deb:bash@5.2.15-2+b2"}


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "ends after 0 bytes"),
        (b"no archive at all" * 100, "no tar header at byte 0"),
        (layer({"readme": b"x"}), "neither an image nor a root"),
        (b"\xfd7zXZ\0" + bytes(600), "compressed with xz; expected none, gzip or zstd"),
        (gzip.compress(b"no tar" * 1000), "no tar header"),
        (gzip.compress(bytes(100))[:20], "gzip"),
        (layer({"manifest.json": b"{"}), "manifest.json: no JSON"),
        (layer({"manifest.json": b"[]"}), "names no image"),
        (layer({"manifest.json": b'[{"Config": "c", "Layers": ["l"]}]'}), "c is missing"),
        (layer({"index.json": b'{"manifests": [{"digest": "../../x"}]}'}), "expected sha256:"),
    ],
)
def test_what_is_no_image_is_refused_in_one_line(
    tmp_path: Path, content: bytes, reason: str
) -> None:
    """With the file's name and what was expected."""
    path = tmp_path / "file"
    path.write_bytes(content)
    with pytest.raises(ImageError) as caught:
        open_image(path)
    assert reason in str(caught.value)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    """Says what is expected."""
    with pytest.raises(ImageError, match="No such file or directory; expected an archive"):
        open_image(tmp_path / "nothing")


def test_an_archive_that_ends_in_the_middle(tmp_path: Path) -> None:
    """What came before is read, and the rest is said to be missing."""
    for pack in ("", "gzip", "zstd"):
        place = oci_layout(tmp_path / f"layout{pack}", LAYERS, pack)
        largest = max((place / "blobs/sha256").iterdir(), key=lambda blob: blob.stat().st_size)
        largest.write_bytes(largest.read_bytes()[: largest.stat().st_size // 3])
        found = inventory(place)
        assert found.warnings
        assert "blobs/sha256/" in said(found) or "cut off" in said(found)
    path = docker_archive(tmp_path / "image.tar", LAYERS)
    data = path.read_bytes()
    path.write_bytes(data[: len(data) - 1024])
    assert named(inventory(path)) == FOUND


def test_a_layer_that_is_missing_is_said(tmp_path: Path) -> None:
    """The others are read; without any there is no image."""
    place = oci_layout(tmp_path, LAYERS, "")
    blobs = {digest(data)[7:]: place / "blobs/sha256" / digest(data)[7:] for data in LAYERS}
    lower, upper = blobs.values()
    upper.unlink()
    found = inventory(place)
    assert "deb:bash@5.2.15-2+b2" in named(found)
    assert f"{upper.name} is missing" in said(found)
    lower.unlink()
    with pytest.raises(ImageError, match="none of the 2 layers can be read"):
        open_image(place)


def test_a_bomb_is_not_unpacked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A layer of zeros without end."""
    monkeypatch.setattr("sensor.images.tarlayer.KEPT_MAX", 1 << 20)
    monkeypatch.setattr("sensor.images.streams.UNPACKED_MAX", 4 << 20)
    bomb: dict[str, Content] = {"etc/os-release": DEBIAN, "a.jar": bytes(2 << 20)}
    bomb |= {"zeros": bytes(8 << 20), "b.egg-info": b"Name: b\nVersion: 1\n"}
    found = inventory(oci_layout(tmp_path, [layer(bomb)]))
    assert found.distribution is not None
    assert "unpacks to more than 4194304 bytes" in said(found)
    assert "/a.jar: 2097152 bytes; at most 1048576 are unpacked" in said(found)
    assert named(found) == set()


def test_names_that_climb_stay_inside(tmp_path: Path) -> None:
    """A member called ../../etc/os-release is the image's own."""
    entries: dict[str, Content] = {"../../etc/os-release": DEBIAN, "/abs/a.egg-info": b""}
    entries["./x/../../y/b.egg-info"] = b"Name: b\nVersion: 1\n"
    found = inventory(docker_archive(tmp_path / "a.tar", [layer(entries)]))
    assert found.distribution is not None
    assert {package.location for package in found.packages} == {"/y/b.egg-info"}
    assert "/abs/a.egg-info" in said(found)


def test_time_runs_out(tmp_path: Path) -> None:
    """What was read until then counts, and what was not is said."""
    with open_image(docker_archive(tmp_path / "a.tar", LAYERS)) as files:
        found = take_inventory(files, seconds=0)
    assert named(found) == {"deb:bash@5.2.15-2+b2"}
    assert "out of time after 0 s" in said(found)
    assert not found.final


def test_an_image_that_is_removed_while_it_is_read(tmp_path: Path) -> None:
    """Is not taken for an image without packages."""
    root = unpack_to(tmp_path / "root", {"etc/os-release": DEBIAN, "opt/a.egg-info": b"x"})
    with open_image(root) as files:
        shutil.rmtree(root)
        found = take_inventory(files)
    assert "was removed while it was read" in said(found)
    assert not found.final
    assert inventory(docker_archive(tmp_path / "a.tar", LAYERS)).final


def test_what_is_no_file_is_refused(tmp_path: Path) -> None:
    """Without waiting for somebody to write into a pipe."""
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path / "pipe", Path("/dev/zero")):
        with pytest.raises(ImageError, match="is no ordinary file"):
            open_image(path)


def test_progress_is_told(tmp_path: Path) -> None:
    """How many files were looked at."""
    told: list[int] = []
    with open_image(docker_archive(tmp_path / "a.tar", LAYERS)) as files:
        take_inventory(files, progress=told.append)
    assert told


GENUINE = layer(
    {"etc/os-release": DEBIAN, "var/lib/dpkg/status": (DATA / "dpkg-status").read_bytes(),
     "x" * 200: b"long name", "link": "etc", "hard": "=etc/os-release"}
)  # fmt: skip


@settings(max_examples=120, deadline=None)
@given(st.sampled_from(["", "gzip", "zstd", "docker"]), st.data())
def test_any_archive_gives_an_inventory_or_one_line(pack: str, data: st.DataObject) -> None:
    """With some bytes changed anywhere, cut anywhere: never a traceback."""
    with tempfile.TemporaryDirectory() as place:
        if pack == "docker":
            path = image = docker_archive(Path(place, "image.tar"), [GENUINE])
        else:
            image = oci_layout(Path(place, "layout"), [GENUINE], pack)
            blobs = sorted((image / "blobs/sha256").iterdir())
            path = data.draw(st.sampled_from([image / "index.json", *blobs]))
        content = bytearray(path.read_bytes())
        for _ in range(data.draw(st.integers(0, 4))):
            at = data.draw(st.integers(0, len(content) - 1))
            content[at : at + 3] = data.draw(st.binary(min_size=1, max_size=3))
        path.write_bytes(content[: data.draw(st.integers(0, 2 * len(content)))])
        try:
            found = inventory(image)
        except ImageError as error:
            text = str(error)
        else:
            text = "".join(map(str, found.warnings))
        assert "\n" not in text
