"""Packs of evidence: what is in one, what is wrong with one, what quotas and a full disk do."""

from __future__ import annotations

import errno
import io
import subprocess
import tarfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from sensor.errors import BadInputError, UsageError
from sensor.responses.evidence.pack import (
    MANIFEST,
    Member,
    OpenMember,
    PackFullError,
    Part,
    TarWriter,
    footprint,
    manifest_bytes,
    member_name,
    missing,
    read_manifest,
    verify,
)
from sensor.responses.evidence.store import Draft, EvidenceStore, IndexEntry


def write_pack(path: Path, contents: dict[str, bytes]) -> str:
    """A pack with these members; the sum of its manifest."""
    with io.FileIO(path, "w+") as file:
        writer = TarWriter(file, 1 << 30)
        members = [writer.add(name, content) for name, content in contents.items()]
        facts = {"id": "x", "time": 0.0}
        manifest = writer.add(MANIFEST, manifest_bytes(facts, [Part("all")], members))
        writer.finish()
    return manifest.sha256


@pytest.fixture
def pack(tmp_path: Path) -> tuple[Path, str]:
    """A pack of three members, and the sum of its manifest."""
    path = tmp_path / "pack.tar"
    return path, write_pack(path, {"a": b"first", "files/b": b"second" * 1000, "c": b""})


def rewrite(path: Path, change: dict[str, bytes | None]) -> None:
    """Change, remove (None) or add members; the manifest stays unless it is named."""
    with tarfile.open(path) as archive:
        contents = {
            info.name: file.read() for info in archive if (file := archive.extractfile(info))
        }
    with tarfile.open(path, "w") as archive:
        for name, content in {**contents, **change}.items():
            if content is not None:
                info = tarfile.TarInfo(name)
                info.size = len(content)
                archive.addfile(info, io.BytesIO(content))


def test_an_untouched_pack_is_good_and_any_tar_reads_it(pack: tuple[Path, str]) -> None:
    """Our writer makes what the standard tools understand."""
    path, sha256 = pack
    found = verify(path, sha256)
    assert found.good
    assert found.vouched
    assert found.members == 3
    assert found.manifest_sha256 == sha256
    listed = subprocess.run(["tar", "-tvf", path], capture_output=True, text=True, check=True)
    assert [line.split()[-1] for line in listed.stdout.splitlines()] == [
        "a", "files/b", "c", MANIFEST,
    ]  # fmt: skip
    assert all(line.startswith("-rw-------") for line in listed.stdout.splitlines())


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({"a": b"firsT"}, "a: has changed"),
        ({"files/b": b"second"}, "files/b: has changed"),
        ({"c": None}, "c: is missing"),
        ({"d": b"new"}, "d: is not in the manifest"),
        ({"manifest.json": None}, ""),
    ],
    ids=["changed", "cut", "missing", "added", "no manifest"],
)
def test_what_was_tampered_with_is_named(
    pack: tuple[Path, str], change: dict[str, bytes | None], problem: str
) -> None:
    """Each kind of change is found, whatever else is right."""
    path, sha256 = pack
    rewrite(path, change)
    if not problem:
        with pytest.raises(BadInputError, match="no manifest"):
            verify(path)
        return
    found = verify(path, sha256)
    assert problem in found.problems


def test_a_changed_manifest_is_found_by_the_sum_that_lies_elsewhere(
    pack: tuple[Path, str],
) -> None:
    """Who changes a member and the manifest alike is betrayed by the audit's sum only."""
    path, sha256 = pack
    with path.open("rb") as file:
        old = file.read()
    other = write_pack(path, {"a": b"forged", "files/b": b"second" * 1000, "c": b""})
    assert path.read_bytes() != old
    assert other != sha256
    alone = verify(path)
    assert alone.good
    assert not alone.vouched  # and it says so
    found = verify(path, sha256)
    assert found.problems == (f"{MANIFEST}: sha256 {other}; expected {sha256}",)


def test_a_pack_that_was_cut_off_is_not_good(pack: tuple[Path, str]) -> None:
    """Wherever it was cut."""
    path, sha256 = pack
    whole = path.read_bytes()
    for end in range(0, len(whole) - 1024, 512):
        path.write_bytes(whole[:end])
        try:
            good = verify(path, sha256).good
        except BadInputError:
            good = False
        assert not good, f"cut at {end}"


def test_something_else_is_not_a_pack(tmp_path: Path) -> None:
    """One clear line for what is no tar, no pack, or not there."""
    path = tmp_path / "x"
    for content in (b"", b"hello", b"\0" * 4096):
        path.write_bytes(content)
        with pytest.raises(BadInputError, match=r"x: "):
            verify(path)
    with pytest.raises(BadInputError, match="No such file"):
        verify(tmp_path / "y")
    rewritten = tmp_path / "z"
    with tarfile.open(rewritten, "w") as archive:
        info = tarfile.TarInfo(MANIFEST)
        info.size = 2
        archive.addfile(info, io.BytesIO(b"{}"))
    with pytest.raises(BadInputError, match="format"):
        verify(rewritten)
    with pytest.raises(BadInputError, match="format"):
        read_manifest(rewritten)


@pytest.mark.parametrize(
    "path",
    [
        "/etc/pass wd",
        "/a\nb",
        "/esc\x1b[2J",
        "/\udcff\udc80",
        "/\\xff",
        "/" + "n" * 255,
        "/" + "\udcff" * 200,
        "/d/" * 1500 + "x",
        "/ünï/çødé",
    ],
)
def test_any_name_can_be_a_member(tmp_path: Path, path: str) -> None:
    """Names are printable, relative and unpackable by any tar."""
    name = member_name("files", path)
    assert name.isprintable()
    pack = tmp_path / "p.tar"
    write_pack(pack, {name: b"content"})
    assert verify(pack).good
    out = tmp_path / "out"
    out.mkdir()
    subprocess.run(["tar", "-C", out, "-xf", pack], check=True)
    assert (out / name).read_bytes() == b"content"


def test_no_two_paths_have_the_same_member() -> None:
    """A container cannot make one file hide another."""
    paths = ["/\udcff", "/\\xff", "/\\\\xff", "/a\n", "/a\\x0a", "/long/1", "/\\long/1"]
    assert len({member_name("files", path) for path in paths}) == len(paths)


def test_a_member_that_does_not_fit_leaves_the_pack_as_it_was(tmp_path: Path) -> None:
    """The limit holds to the byte, and what is in stays whole."""
    path = tmp_path / "p.tar"
    limit = footprint("a", 1000) + footprint("b", 512) + 1024
    with io.FileIO(path, "w+") as file:
        writer = TarWriter(file, limit)
        writer.add("a", bytes(1000))
        with pytest.raises(PackFullError, match="larger than"):
            writer.add("b", bytes(513))
        writer.add("b", bytes(512))
        with pytest.raises(PackFullError, match="larger than"):
            writer.add("c", b"")
        writer.finish()
    assert path.stat().st_size == limit
    with tarfile.open(path) as archive:
        assert archive.getnames() == ["a", "b"]


def test_a_member_of_unknown_size_is_kept_as_far_as_it_came(tmp_path: Path) -> None:
    """An export that is cut off by the limit is a whole member nevertheless."""
    path = tmp_path / "p.tar"
    with io.FileIO(path, "w+") as file:
        writer = TarWriter(file, 20_000)
        writer.add("a", b"x")
        member = OpenMember(writer, file, "export.tar")
        member.write(b"1" * 8000)
        member.write(b"2" * 8000)
        with pytest.raises(PackFullError):
            member.write(b"3" * 8000)
        closed = member.close()
        writer.add("b", b"y")
        writer.finish()
    assert closed.size == 16_000
    with tarfile.open(path) as archive:
        assert archive.getnames() == ["a", "export.tar", "b"]
        file2 = archive.extractfile("export.tar")
        assert file2 is not None
        assert file2.read() == b"1" * 8000 + b"2" * 8000


class FullDisk(io.FileIO):
    """A file on a disk that has room for so many bytes."""

    room = 1 << 62

    def write(self, data: object) -> int:
        """As a full disk does it: a part, then nothing."""
        assert isinstance(data, memoryview)
        fits = min(len(data), self.room - self.tell())
        if fits <= 0:
            raise OSError(errno.ENOSPC, "No space left on device")
        return super().write(data[:fits])


def test_a_full_disk_leaves_what_was_written(tmp_path: Path) -> None:
    """Wherever in a member the disk becomes full."""
    whole = footprint("a", 700)
    for room in (whole, whole + 1, whole + 512, whole + 5000):
        path = tmp_path / f"{room}.tar"
        with FullDisk(path, "w+") as file:
            writer = TarWriter(file, 1 << 30)
            writer.add("a", bytes(700))
            file.room = room
            with pytest.raises(PackFullError, match="no space left"):
                writer.add("b", bytes(10_000))
            assert writer.end == whole
            file.room = 1 << 30
            writer.finish()
        with tarfile.open(path) as archive:
            assert archive.getnames() == ["a"]


def test_missing_lines_name_the_part() -> None:
    """What was left out on purpose, or was not to be had at all, is not missing."""
    part, skipped, limited = Part("files"), Part("rule"), Part("contents")
    part.lacks("x")
    part.lacks("x")
    part.fail("y")
    skipped.skip("nothing asked")
    limited.limited("too much")
    assert missing([part, skipped, limited]) == ["files: x", "files: y"]


# ---- the store ---------------------------------------------------------------------------------


def store_pack(store: EvidenceStore, *, size: int = 4000, created: float = 0.0) -> IndexEntry:
    """A committed pack of about a size."""
    draft = store.create()
    writer = TarWriter(draft.file, draft.limit)
    member = writer.add("a", bytes(size))
    facts = {"id": draft.id, "time": created}
    manifest = writer.add(MANIFEST, manifest_bytes(facts, [Part("all")], [member]))
    draft.give_back_reserve()
    writer.finish()
    entry = IndexEntry(
        draft.id, created, "c" * 64, "web", "shop/web", "test", "", (), manifest.sha256,
        draft.path.stat().st_size, partial=False,
    )  # fmt: skip
    store.commit(draft, entry)
    return entry


@pytest.fixture
def store(tmp_path: Path) -> EvidenceStore:
    """An empty store."""
    return EvidenceStore(tmp_path / "evidence", quota=10 << 20, pack_max=4 << 20)


def test_a_pack_is_listed_private_and_leaves_nothing_else(store: EvidenceStore) -> None:
    """Root only, no draft and no reserve beside it."""
    entry = store_pack(store)
    assert store.entries() == [entry]
    assert store.get(entry.id[:12]) == entry
    assert store.get("last") == entry
    assert verify(store.path(entry.id), entry.sha256).good
    assert store.path(entry.id).stat().st_mode & 0o777 == 0o600
    assert store.directory.stat().st_mode & 0o777 == 0o700
    assert sorted(path.suffix for path in store.directory.iterdir()) == [".json", ".tar"]
    with pytest.raises(UsageError, match="there is none"):
        store.get("nothing")


def test_the_oldest_go_first_and_what_is_kept_stays(store: EvidenceStore) -> None:
    """By quota, by number, by age; never what must stay."""
    entries = [store_pack(store, size=1 << 20, created=float(n)) for n in range(5)]
    assert store.prune() == []
    kept = entries[0].id
    total = sum(entry.size for entry in entries)
    assert store.prune({kept}, quota=total - 1) == [entries[1]]
    assert store.prune({kept}, newest=2) == [entries[2]]
    assert store.prune({kept}, before=3.5) == [entries[3]]
    assert [entry.id for entry in store.entries()] == [kept, entries[4].id]
    assert store.prune((), newest=0) == [entries[0], entries[4]]
    assert list(store.directory.iterdir()) == []


def test_what_must_stay_leaves_less_room_for_the_next(store: EvidenceStore) -> None:
    """Packs that must not go count against the quota beforehand."""
    entry = store_pack(store, size=3 << 20)
    small = EvidenceStore(store.directory, quota=4 << 20, pack_max=4 << 20)
    for keep, limit in ((set[str](), 4 << 20), ({entry.id}, 1 << 20)):
        draft = small.create(keep)
        assert draft.limit == max(limit, (4 << 20) - (entry.size if keep else 0))
        draft.discard()
    assert sorted(path.suffix for path in store.directory.iterdir()) == [".json", ".tar"]


def test_a_damaged_index_hides_no_pack(store: EvidenceStore) -> None:
    """It is listed, says that nobody vouches for it, and takes part in the quota."""
    entry = store_pack(store)
    for damage in (b"{", b"[]", b'{"id": "x"}'):
        (store.directory / f"{entry.id}.json").write_bytes(damage)
        (found,) = store.entries()
        assert found.id == entry.id
        assert found.size == entry.size
        assert found.sha256 == ""
        assert found.partial
    (store.directory / f"{entry.id}.json").unlink()
    assert store.prune(newest=0)[0].id == entry.id
    assert store.entries() == []


@pytest.mark.parametrize("cut", [0, 1, 700])
def test_what_a_daemon_left_half_way_becomes_a_partial_pack(store: EvidenceStore, cut: int) -> None:
    """Up to its last whole member; the rest is said to be missing."""
    draft = store.create()
    writer = TarWriter(draft.file, draft.limit)
    writer.add("a", b"whole")
    end = writer.end
    writer.add("b", bytes(2000))
    draft.file.truncate(writer.end - cut)
    draft.file.close()
    assert store.recover() == [draft.id]
    (entry,) = store.entries()
    assert entry.partial
    assert "the daemon ended" in entry.missing[0]
    found = verify(store.path(entry.id), entry.sha256)
    assert found.good, found.problems
    assert found.members == (1 if cut > 48 else 2)  # 48 bytes only fill the block
    assert end < store.path(entry.id).stat().st_size
    assert not list(store.directory.glob("*.part"))
    assert not list(store.directory.glob("*.reserve"))
    assert store.recover() == []


def test_an_empty_draft_and_a_lone_index_are_put_away(store: EvidenceStore) -> None:
    """Neither is a pack."""
    draft = store.create()
    draft.file.close()
    (store.directory / "lone.json").write_text("{}")
    assert store.recover() == []
    assert list(store.directory.iterdir()) == []


def test_a_reserve_is_real_space(tmp_path: Path) -> None:
    """What a manifest will need is taken from the disk at the start."""
    draft = Draft("x", tmp_path / "x.part", 1 << 20)
    reserve = tmp_path / "x.reserve"
    assert reserve.stat().st_blocks * 512 >= 2 << 20
    draft.give_back_reserve()
    assert not reserve.exists()
    draft.discard()
    assert list(tmp_path.iterdir()) == []


def members(path: Path) -> Iterator[Member]:
    """The members of a pack by its manifest."""
    for name, entry in read_manifest(path)["members"].items():
        yield Member(name, entry["size"], entry["sha256"], 0)


def test_verification_is_quick_enough_to_be_done(tmp_path: Path) -> None:
    """A pack of thousands of members is checked within seconds, in memory that does not grow."""
    path = tmp_path / "p.tar"
    write_pack(path, {f"files/{n}": b"%d" % n for n in range(4000)})
    started = time.monotonic()
    assert verify(path).good
    assert time.monotonic() - started < 20
    assert sum(1 for _ in members(path)) == 4000
