"""The directory of packs: an index, a quota, and how a pack comes into it.

Each pack is ``ID.tar`` with ``ID.json`` beside it: what `rote evidence list` shows, and the sum of
the pack's manifest. The sum is written before the pack gets its name, so that a pack without one
never is there.
"""

from __future__ import annotations

import contextlib
import io
import logging
import os
import secrets
import time
from collections.abc import Collection, Iterator
from dataclasses import asdict, dataclass, fields
from pathlib import Path

import orjson

from sensor.errors import BadInputError, StateError, UsageError
from sensor.responses.evidence.pack import (
    FAILED,
    MANIFEST,
    Member,
    Part,
    TarWriter,
    footprint,
    manifest_bytes,
    members_of,
    missing,
    to_json,
)

_log = logging.getLogger("rote.evidence")
# For the manifest of a pack that has filled the disk: its members are few thousand at most.
_RESERVE_BYTES = 2 << 20
_PACK_MIN = 1 << 20  # when so little is left of the quota, packs still say what is missing


@dataclass(frozen=True, slots=True)
class IndexEntry:
    """One pack, as the index knows it."""

    id: str
    created: float  # seconds since the epoch
    container_id: str
    container: str
    image: str
    reason: str
    rule: str
    audits: tuple[int, ...]
    sha256: str  # of the manifest
    size: int  # bytes of the tar
    partial: bool
    missing: tuple[str, ...] = ()


class Draft:
    """A pack that is being written.

    Args:
        id: of the pack.
        path: where it is meanwhile.
        limit: bytes it may have.

    Raises:
        OSError: it cannot be made.
    """

    def __init__(self, identity: str, path: Path, limit: int) -> None:
        self.id = identity
        self.path = path
        self.limit = limit
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        self.file = io.FileIO(fd, "r+")
        self._reserve = path.with_suffix(".reserve")
        self._take_reserve()

    def _take_reserve(self) -> None:
        """Take space now that the manifest will need, should the disk be full by then."""
        try:
            fd = os.open(self._reserve, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600)
            try:
                os.posix_fallocate(fd, 0, _RESERVE_BYTES)
            finally:
                os.close(fd)
        except OSError as error:
            _log.warning("evidence: no space kept for a manifest: %s", error.strerror)
            self._reserve.unlink(missing_ok=True)

    def give_back_reserve(self) -> None:
        """Let the manifest have its space."""
        self._reserve.unlink(missing_ok=True)

    def discard(self) -> None:
        """Forget it."""
        self.file.close()
        self._reserve.unlink(missing_ok=True)
        self.path.unlink(missing_ok=True)


class EvidenceStore:
    """All packs of this host.

    Args:
        directory: where they are.
        quota: bytes of all.
        pack_max: bytes of one.
    """

    def __init__(self, directory: Path, *, quota: int = 2 << 30, pack_max: int = 256 << 20) -> None:
        self.directory = directory
        self.quota = quota
        self.pack_max = pack_max

    def create(self, keep: Collection[str] = ()) -> Draft:
        """Begin a pack.

        Args:
            keep: ids of packs that must stay; what they take is not there for this one.

        Raises:
            StateError: it cannot be made.
        """
        held = sum(entry.size for entry in self.entries() if entry.id in keep)
        limit = max(_PACK_MIN, min(self.pack_max, self.quota - held))
        identity = f"{time.strftime('%Y%m%d-%H%M%S', time.gmtime())}-{secrets.token_hex(2)}"
        try:
            self.directory.mkdir(mode=0o700, parents=True, exist_ok=True)
            return Draft(identity, self.directory / f"{identity}.part", limit)
        except OSError as error:
            raise StateError(f"{self.directory}: {error.strerror}; no evidence taken") from error

    def commit(self, draft: Draft, entry: IndexEntry) -> None:
        """Give a pack that is complete its name. Its file must be on the disk.

        Raises:
            StateError: that failed; the pack stays a draft.
        """
        index = self.directory / f"{draft.id}.json"
        try:
            _write(index, to_json(asdict(entry)))
            draft.path.rename(self._tar(draft.id))
            _sync(self.directory)
        except OSError as error:
            index.unlink(missing_ok=True)
            raise StateError(f"{draft.path}: {error.strerror}; the pack is not kept") from error
        draft.file.close()

    def entries(self) -> list[IndexEntry]:
        """All packs, oldest first."""
        return sorted(self._found(), key=lambda entry: (entry.created, entry.id))

    def _found(self) -> Iterator[IndexEntry]:
        for path in self.directory.glob("*.tar"):
            try:
                yield self._entry(path.stem)
            except StateError as error:
                _log.warning("%s", error)
                # A pack that nobody vouches for still takes room, and may still be looked at.
                with contextlib.suppress(OSError):
                    found = path.stat()
                    yield IndexEntry(
                        path.stem, found.st_mtime, "", "?", "?", "no index of it", "", (), "",
                        found.st_size, partial=True, missing=("its entry in the index",),
                    )  # fmt: skip

    def _entry(self, identity: str) -> IndexEntry:
        path = self.directory / f"{identity}.json"
        try:
            found = orjson.loads(path.read_bytes())
            values = {field.name: found[field.name] for field in fields(IndexEntry)}
            values["audits"] = tuple(values["audits"])
            values["missing"] = tuple(values["missing"])
            return IndexEntry(**values)
        except OSError as error:
            raise StateError(f"{path}: {error.strerror}; expected the index of a pack") from error
        except (orjson.JSONDecodeError, KeyError, TypeError) as error:
            raise StateError(f"{path}: not the index of a pack: {error}") from error

    def get(self, name: str) -> IndexEntry:
        """A pack by its id, the beginning of it, or "last".

        Raises:
            UsageError: there is none, or more than one.
        """
        entries = self.entries()
        if name == "last" and entries:
            return entries[-1]
        found = [entry for entry in entries if name and entry.id.startswith(name)]
        exact = [entry for entry in found if entry.id == name]
        if len(exact or found) != 1:
            what = "there is none" if not found else f"{len(found)} begin like that"
            raise UsageError(f"evidence {name!r}: {what}; see: rote evidence list")
        return (exact or found)[0]

    def path(self, identity: str) -> Path:
        """Where a pack is."""
        return self._tar(identity)

    def prune(
        self,
        keep: Collection[str] = (),
        *,
        quota: int | None = None,
        newest: int | None = None,
        before: float | None = None,
    ) -> list[IndexEntry]:
        """Remove packs, oldest first; which ones.

        Args:
            keep: ids of packs that stay whatever happens.
            quota: bytes that all may have; None: as set.
            newest: how many stay; None: any number.
            before: packs made earlier than this go, in seconds since the epoch.

        Raises:
            StateError: one cannot be removed.
        """
        entries = self.entries()
        quota = self.quota if quota is None else quota
        total = sum(entry.size for entry in entries)
        removed = []
        for number, entry in enumerate(entries):
            surplus = newest is not None and len(entries) - number > newest
            old = before is not None and entry.created < before
            if entry.id in keep or not (total > quota or surplus or old):
                continue
            self._remove(entry.id)
            total -= entry.size
            removed.append(entry)
        return removed

    def _remove(self, identity: str) -> None:
        try:
            self._tar(identity).unlink(missing_ok=True)
            (self.directory / f"{identity}.json").unlink(missing_ok=True)
        except OSError as error:
            raise StateError(f"{self._tar(identity)}: {error.strerror}; not removed") from error

    def recover(self) -> list[str]:
        """Complete what a daemon left that ended while it was writing; ids of the packs."""
        found = []
        for path in sorted(self.directory.glob("*.part")):
            path.with_suffix(".reserve").unlink(missing_ok=True)
            try:
                if self._complete(path):
                    found.append(path.stem)
                else:
                    path.unlink(missing_ok=True)
            except (OSError, StateError) as error:
                _log.warning("evidence %s: cannot be completed: %s", path.stem, error)
        for path in self.directory.glob("*.json"):
            if not path.with_suffix(".tar").exists():
                path.unlink(missing_ok=True)
        return found

    def _complete(self, path: Path) -> bool:
        members: list[Member] = []
        end = 0
        with path.open("rb") as source, contextlib.suppress(BadInputError):
            # The end of each member is where the next header begins; the last one may be cut off.
            for name, size, digest, _ in members_of(source):
                end += footprint(name, size)
                members.append(Member(name, size, digest, end))
        members = [member for member in members if member.name != MANIFEST]
        if not members:
            return False
        part = Part("the rest", FAILED, ["the daemon ended while it was collected"])
        created = path.stat().st_mtime
        with path.open("r+b", buffering=0) as file:
            writer = TarWriter(file, 1 << 62, members[-1].end)
            writer.cut(members[-1].end)
            facts = {"id": path.stem, "time": created, "reason": "interrupted", "container": {}}
            manifest = writer.add(MANIFEST, manifest_bytes(facts, [part], members))
            writer.finish()
        entry = IndexEntry(
            path.stem, created, "", "?", "?", "interrupted", "", (), manifest.sha256,
            path.stat().st_size, partial=True, missing=tuple(missing([part])),
        )  # fmt: skip
        _write(self.directory / f"{path.stem}.json", to_json(asdict(entry)))
        path.rename(self._tar(path.stem))
        return True

    def _tar(self, identity: str) -> Path:
        return self.directory / f"{identity}.tar"


def _write(path: Path, data: bytes) -> None:
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    with open(fd, "wb") as file:  # noqa: PTH123 - made with its mode above
        file.write(data)
        file.flush()
        os.fsync(fd)


def _sync(directory: Path) -> None:
    fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
