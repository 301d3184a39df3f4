"""The file system of an image: whiteouts, links that would lead out, what is no file."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Protocol

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sensor.errors import ImageError
from sensor.images.archive import open_image
from sensor.images.directory import DirectoryLayer
from sensor.images.omissions import Omissions, printable
from sensor.images.tree import ENTRIES_MAX, Kind, Tree
from tests.unit.imagery import Content as Entry
from tests.unit.imagery import digest, docker_archive, layer, unpack_to


class MakeTree(Protocol):
    """Layers in an archive as one tree, the lowest first."""

    def __call__(self, *layers: dict[str, Entry]) -> Tree:
        """Make one."""


@pytest.fixture
def tar_tree(tmp_path: Path) -> Iterator[MakeTree]:
    """Makes trees, and closes them."""
    with ExitStack() as stack:

        def make(*layers: dict[str, Entry]) -> Tree:
            path = docker_archive(tmp_path / "image.tar", [layer(entries) for entries in layers])
            return stack.enter_context(open_image(path)).tree

        yield make


def directory_tree(stack: ExitStack, *roots: Path) -> Tree:
    """Directories as one tree, the uppermost first."""
    layers = [DirectoryLayer(root, overlay=len(roots) > 1) for root in roots]
    for opened in layers:
        stack.callback(opened.close)
    return Tree(layers)


@pytest.fixture
def stack() -> Iterator[ExitStack]:
    """What has to be closed."""
    with ExitStack() as stack:
        yield stack


def read(tree: Tree, path: str) -> bytes | None:
    """A file's content by its path, or nothing."""
    found = tree.file(path)
    return tree.read(found, 1000) if found else None


def files(tree: Tree) -> set[str]:
    """Every file that a walk meets."""
    return {
        found.path
        for _, entries in tree.walk()
        for found in entries.values()
        if found.node.kind is Kind.FILE
    }


def test_a_whiteout_hides_what_lies_below_it(tar_tree: MakeTree) -> None:
    """Of files and of whole directories, and what a later layer puts there again counts."""
    tree = tar_tree(
        {"etc/a": b"old", "etc/b": b"old", "opt/app/x": b"old", "srv/y": b"old"},
        {"etc/.wh.a": b"", "opt/.wh.app": b"", "srv/.wh.y": b""},
        {"srv/y": b"new"},
    )
    assert files(tree) == {"etc/b", "srv/y"}
    assert read(tree, "srv/y") == b"new"
    assert read(tree, "etc/a") is None
    assert tree.find("opt/app/x") is None


def test_an_opaque_directory_hides_what_the_layers_below_have_in_it(tar_tree: MakeTree) -> None:
    """But not what lies beside it."""
    tree = tar_tree(
        {"app/lib/old": b"", "app/other": b""},
        {"app/lib/.wh..wh..opq": b"", "app/lib/new": b""},
    )
    assert files(tree) == {"app/lib/new", "app/other"}


def test_a_directory_that_was_removed_and_made_anew_is_new(tar_tree: MakeTree) -> None:
    """A whiteout counts for the layers below only, whatever stands beside it."""
    tree = tar_tree(
        {"app/old": b"", "x": b"old"}, {".wh.app": b"", "app/new": b"", ".wh.x": b"", "x": b"new"}
    )
    assert files(tree) == {"app/new", "x"}
    assert read(tree, "x") == b"new"


def test_a_file_over_a_directory_hides_it_and_the_other_way_round(tar_tree: MakeTree) -> None:
    """As overlayfs has it."""
    tree = tar_tree(
        {"a/x": b"", "b": b"file"},
        {"a": b"now a file", "b/y": b""},
        {"a/z": b"now a directory again"},
    )
    assert files(tree) == {"a/z", "b/y"}


def test_the_uppermost_layer_is_named(tar_tree: MakeTree) -> None:
    """Whoever put a file there is who answers for it."""
    lower: dict[str, Entry] = {"a": b"1", "b": b"1"}
    upper: dict[str, Entry] = {"b": b"2"}
    tree = tar_tree(lower, upper)
    for path, name in (("a", digest(layer(lower))), ("b", digest(layer(upper)))):
        found = tree.find(path)
        assert found is not None
        assert tree.layer_of(found) == name


@pytest.mark.parametrize("target", ["/etc/passwd", "../../../../../../etc/passwd", "/proc/1/root"])
def test_no_link_leads_out_of_a_directory(tmp_path: Path, stack: ExitStack, target: str) -> None:
    """A link to the host's file means the image's own; where it has none there is nothing."""
    root = unpack_to(tmp_path / "root", {"link": target, "etc/shadow": b"inside"})
    tree = directory_tree(stack, root)
    assert read(tree, "link") is None
    (root / "etc/passwd").write_bytes(b"inside")
    tree = directory_tree(stack, root)
    assert read(tree, "link") == (None if "proc" in target else b"inside")


def test_a_linked_directory_is_followed_within_the_image(tar_tree: MakeTree) -> None:
    """As distributions do it: /lib is /usr/lib, and the layers below count there."""
    tree = tar_tree(
        {"usr/lib/x": b"content", "usr/lib/y": b"old"}, {"lib": "usr/lib"},
        {"usr/lib/y": b"new"},
    )  # fmt: skip
    assert read(tree, "lib/x") == b"content"
    assert read(tree, "/lib/../lib/y") == b"new"


def test_links_in_a_circle_end(tar_tree: MakeTree) -> None:
    """With a word about it."""
    tree = tar_tree({"a": "b", "b": "/a", "self": "self/x"})
    for path in ("a", "self", "a/x"):
        with pytest.raises(ImageError, match="symbolic links"):
            tree.find(path)
    assert tree.file("a") is None
    assert "symbolic links" in str(tree.omissions.all())


def test_what_is_no_file_is_never_opened(tmp_path: Path, stack: ExitStack) -> None:
    """A named pipe would make the reader wait for ever."""
    os.mkfifo(tmp_path / "status")
    tree = directory_tree(stack, tmp_path)
    assert tree.file("status") is None
    assert "no ordinary file" in str(tree.omissions.all()[0])


def test_what_became_a_link_meanwhile_is_not_followed(tmp_path: Path, stack: ExitStack) -> None:
    """A running container may change what was looked at."""
    root = unpack_to(tmp_path / "root", {"a": b"inside", "d/x": b"inside"})
    (tmp_path / "secret").write_bytes(b"outside")
    tree = directory_tree(stack, root)
    file, inner = tree.find("a"), tree.find("d/x")
    assert file is not None
    assert inner is not None
    (root / "a").unlink()
    (root / "a").symlink_to(tmp_path / "secret")
    (root / "d").rename(root / "e")
    (root / "d").symlink_to(tmp_path)
    (tmp_path / "x").write_bytes(b"outside")
    for found in (file, inner):
        with pytest.raises(ImageError, match="not read"):
            tree.open(found)


def test_overlay_layers_by_their_attributes(tmp_path: Path, stack: ExitStack) -> None:
    """Opaque directories, and those that were renamed from elsewhere, which is said."""
    lower = unpack_to(tmp_path / "lower", {"app/old": b"", "moved/x": b"", "etc/a": b""})
    upper = unpack_to(tmp_path / "upper", {"app/new": b"", "moved": None, "etc/b": b""})
    os.setxattr(upper / "app", "user.overlay.opaque", b"y")
    os.setxattr(upper / "moved", "user.overlay.redirect", b"/elsewhere")
    tree = directory_tree(stack, upper, lower)
    assert files(tree) == {"app/new", "moved/x", "etc/a", "etc/b"}
    assert "redirect" in str(tree.omissions.all()[0])


def test_a_hard_link_is_another_name_of_its_file(tar_tree: MakeTree) -> None:
    """Also in a layer that has to be unpacked, where only what counts was set aside."""
    tree = tar_tree({"a": b"content", "b": "=a", "c": "=nowhere"})
    assert read(tree, "b") == b"content"
    assert tree.find("c") is None
    assert "/c: a link to a file" in str(tree.omissions.all()[0])


def test_a_walk_ends(tar_tree: MakeTree, monkeypatch: pytest.MonkeyPatch) -> None:
    """However many files there are, and however deep."""
    monkeypatch.setattr("sensor.images.tree.ENTRIES_MAX", 50)
    tree = tar_tree({f"d{i}/{j}": b"" for i in range(10) for j in range(10)})
    assert 40 <= len(files(tree)) < 60
    assert "more than 50 files" in str(tree.omissions.all())
    assert ENTRIES_MAX >= 1_000_000
    deep = tar_tree({"/".join(["x"] * 300) + "/file": b"", "file": b""})
    assert "file" in files(deep)
    assert "deep: not read" in str(deep.omissions.all())


def test_what_is_mounted_over_is_not_walked(tmp_path: Path, stack: ExitStack) -> None:
    """/proc of a running container is the host's kernel speaking, not the image."""
    root = unpack_to(tmp_path, {"proc/x": b"", "sys/x": b"", "dev/x": b"", "opt/proc/x": b""})
    assert files(directory_tree(stack, root)) == {"opt/proc/x"}


def test_omissions_are_listed_once_and_not_without_end() -> None:
    """A thousand broken files are a number."""
    omissions = Omissions()
    for number in range(1000):
        omissions.add(f"/{number}", "broken")
        omissions.add("/same", "broken")
    listed = omissions.all()
    assert len(listed) < 300
    assert "more were not read" in listed[-1].reason
    assert sum(entry.location == "/same" for entry in listed) == 1


@given(st.binary(max_size=40))
def test_names_can_be_shown(raw: bytes) -> None:
    """Whatever bytes a name has, it is text without control characters."""
    text = printable(os.fsdecode(raw))
    assert text.encode().decode() == text
    assert text.isprintable()


NAMES = st.sampled_from(["a", "b", "c"])
PATHS = st.lists(NAMES, min_size=1, max_size=3).map("/".join)
TARGETS = st.one_of(PATHS, PATHS.map(lambda p: "/" + p), PATHS.map(lambda p: "../" + p))
ENTRIES = st.dictionaries(PATHS, st.one_of(st.binary(max_size=3), st.none(), TARGETS), max_size=6)


@settings(max_examples=60, deadline=None)
@given(st.lists(ENTRIES, min_size=1, max_size=3), st.lists(PATHS, max_size=4))
def test_any_layers_give_a_tree(layers: list[dict[str, Entry]], asked: list[str]) -> None:
    """Links, files and directories in each other's place: everything that is found is inside."""
    with tempfile.TemporaryDirectory() as place:
        path = docker_archive(Path(place, "image.tar"), [layer(entries) for entries in layers])
        with open_image(path) as image:
            tree = image.tree
            met = files(tree)
            for name in [*asked, *met]:
                try:
                    found = tree.find(name)
                except ImageError:
                    continue
                if found is not None and found.node.kind is Kind.FILE:
                    assert found.path in met
                    tree.read(found, 1000)


def test_a_directory_of_many_entries_is_read_in_part(
    tmp_path: Path, stack: ExitStack, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A million files in one place would take the memory of the host."""
    monkeypatch.setattr("sensor.images.directory.DIRECTORY_MAX", 5)
    root = unpack_to(tmp_path / "root", {f"many/{i}": b"" for i in range(9)} | {"one/x": b""})
    tree = directory_tree(stack, root)
    met = files(tree)
    assert len(met) == 6
    assert "one/x" in met
    assert "/many: more than" in str(tree.omissions.all()[0])
