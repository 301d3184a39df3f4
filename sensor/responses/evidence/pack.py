"""One pack: a plain tar whose last member, ``manifest.json``, vouches for the others.

Plain, because a pack is written while a container stands still and waits, and because a tar that
was cut off anywhere is whole up to its last complete member. Member names are relative and hold no
``..``, all members are ordinary files with mode 0600: a pack can be unpacked without danger,
whatever the container called its files.
"""

from __future__ import annotations

import errno
import hashlib
import io
import os
import tarfile
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

import orjson

from sensor.errors import BadInputError

MANIFEST = "manifest.json"
FORMAT, VERSION = "rote-evidence", 1
PACK_LIMIT = 8 << 30  # what the size field of a tar header holds
_BLOCK = 512
_END = bytes(2 * _BLOCK)
_CHUNK = 1 << 20
_MANIFEST_MAX = 64 << 20
_NAME_MAX, _PATH_MAX = 255, 2048
_JSON = orjson.OPT_NON_STR_KEYS

DONE, PARTIAL, FAILED, SKIPPED = "done", "partial", "failed", "skipped"


class PackFullError(Exception):
    """A member does not fit into the pack any more; it is as it was before."""


class DiskFullError(PackFullError):
    """The disk has no room for a member."""


@dataclass(frozen=True, slots=True)
class Member:
    """One file of a pack; ``end`` is where the next one begins in the tar."""

    name: str
    size: int  # bytes
    sha256: str
    end: int


@dataclass(slots=True)
class Part:
    """One kind of evidence, and what became of it."""

    name: str  # "processes", "file system", …
    result: str = DONE  # DONE, PARTIAL, FAILED, SKIPPED
    missing: list[str] = field(default_factory=list)  # one line each: what is not there, and why
    limits: list[str] = field(default_factory=list)  # what was left out on purpose: too much
    seconds: float = 0.0
    counts: dict[str, int] = field(default_factory=dict)

    def lacks(self, what: str) -> None:
        """Say that something is not there."""
        if self.result == DONE:
            self.result = PARTIAL
        if what not in self.missing:
            self.missing.append(what)

    def skip(self, why: str) -> None:
        """Say that there is nothing to be had, and nothing is missing."""
        self.result = SKIPPED
        self.missing.append(why)

    def limited(self, what: str) -> None:
        """Say that something was left out because a pack is bounded. Nothing is wrong."""
        if what not in self.limits:
            self.limits.append(what)

    def fail(self, why: str) -> None:
        """Say that nothing of it is there."""
        self.result = FAILED
        if why not in self.missing:
            self.missing.append(why)


class TarWriter:
    """Writes members, each whole or not at all.

    Args:
        file: of the pack; unbuffered, so that what was reported is in the file.
        limit: bytes the pack may have, its end included.
        start: where the next member begins.
    """

    def __init__(self, file: io.FileIO, limit: int, start: int = 0) -> None:
        self._file = file
        self.limit = limit
        self.end = start
        file.seek(start)

    def room(self) -> int:
        """Bytes that a member's content may still have."""
        return max(0, self.limit - self.end - 2 * _BLOCK - len(_END))

    def add(self, name: str, content: bytes) -> Member:
        """Write a member.

        Raises:
            PackFullError: the limit, or no space on the disk.
            OSError: any other error of the disk.
        """
        return self.add_stream(name, (content,), len(content))

    def add_stream(self, name: str, pieces: Iterable[bytes], size: int) -> Member:
        """Write a member whose content comes in pieces, ``size`` bytes in all."""
        header = _header(name, size)
        if self.end + len(header) + _padded(size) + len(_END) > self.limit:
            raise PackFullError(f"the pack would be larger than {self.limit} bytes")
        digest = hashlib.sha256()
        written = 0
        try:
            self._write(header)
            for piece in pieces:
                digest.update(piece)
                self._write(piece)
                written += len(piece)
            assert written == size, f"{name}: {written} bytes; expected {size}"
            self._write(bytes(_padded(size) - size))
        except BaseException:
            self.cut(self.end)
            raise
        self.end += len(header) + _padded(size)
        return Member(name, size, digest.hexdigest(), self.end)

    def cut(self, end: int) -> None:
        """Forget everything from an offset on."""
        self._file.truncate(end)
        self._file.seek(end)
        self.end = end

    def finish(self) -> None:
        """Write the end of the tar and bring all of it to the disk."""
        self._write(_END)
        os.fsync(self._file.fileno())

    def _write(self, data: bytes) -> None:
        view = memoryview(data)
        try:
            while view:
                view = view[self._file.write(view) :]
        except OSError as error:
            if error.errno in (errno.ENOSPC, errno.EDQUOT):
                raise DiskFullError("no space left on the disk") from error
            raise


class OpenMember:
    """A member whose size is known only when all of it has come; ``close`` makes it one.

    Args:
        writer: nothing else may write to it meanwhile.
        file: the writer's.
        name: of the member.
    """

    def __init__(self, writer: TarWriter, file: io.FileIO, name: str) -> None:
        self._writer = writer
        self._file = file
        self._name = name
        self._start = writer.end
        self._header = len(_header(name, 0))
        self._digest = hashlib.sha256()
        self.size = 0
        file.seek(self._start + self._header)

    def write(self, piece: bytes) -> None:
        """Add to its content.

        Raises:
            PackFullError: the limit, or no space on the disk; what came before stays.
        """
        end = self._start + self._header + _padded(self.size + len(piece)) + len(_END)
        if end > self._writer.limit:
            raise PackFullError(f"the pack would be larger than {self._writer.limit} bytes")
        try:
            self._writer._write(piece)  # noqa: SLF001 - one file, one way of writing to it
        except PackFullError:
            self._file.seek(self._start + self._header + self.size)
            raise
        self._digest.update(piece)
        self.size += len(piece)

    def close(self) -> Member:
        """Complete the member with what came so far."""
        end = self._start + self._header + _padded(self.size)
        self._file.truncate(end)
        os.pwrite(self._file.fileno(), _header(self._name, self.size), self._start)
        self._file.seek(end)
        self._writer.end = end
        return Member(self._name, self.size, self._digest.hexdigest(), end)


def manifest_bytes(
    facts: dict[str, Any], parts: Iterable[Part], members: Iterable[Member]
) -> bytes:
    """The manifest of a pack.

    Args:
        facts: of container, host, cause and time.
        parts: what became of each.
        members: all others of the pack.
    """
    parts = list(parts)
    return to_json(
        {
            "format": FORMAT,
            "version": VERSION,
            **facts,
            "partial": is_partial(parts),
            "missing": missing(parts),
            "limits_hit": [f"{part.name}: {what}" for part in parts for what in part.limits],
            "parts": [asdict(part) for part in parts],
            "members": {
                member.name: {"size": member.size, "sha256": member.sha256} for member in members
            },
        }
    )


def is_partial(parts: Iterable[Part]) -> bool:
    """Whether something should be there and is not."""
    return any(part.result in (PARTIAL, FAILED) for part in parts)


def missing(parts: Iterable[Part]) -> list[str]:
    """What is not there, a line each, for people."""
    return [
        f"{part.name}: {what}"
        for part in parts
        if part.result in (PARTIAL, FAILED)
        for what in part.missing
    ]


def member_name(folder: str, path: str) -> str:
    """The name of the member that holds a container's file. No two paths have the same.

    Whatever is not printable, and the backslash, is written as ``\\xNN``.
    """
    name = "".join(
        char if char.isprintable() and char != "\\" else _escaped(char) for char in path.strip("/")
    )
    if any(len(part.encode()) > _NAME_MAX for part in name.split("/")) or len(name) > _PATH_MAX:
        digest = hashlib.sha256(os.fsencode(path)).hexdigest()
        return f"{folder}/\\long/{digest}"  # no other name has a lone backslash
    return f"{folder}/{name}"


def _escaped(char: str) -> str:
    return "".join(f"\\x{byte:02x}" for byte in os.fsencode(char))


def clean(text: str) -> str:
    """Text that JSON can hold: bytes that are no UTF-8 (surrogateescape) as ``\\xNN``."""
    return os.fsencode(text).decode("utf-8", "backslashreplace")


def to_json(value: Any) -> bytes:
    """JSON, also of names that are no UTF-8: their odd bytes are written as ``\\xNN``."""
    try:
        return orjson.dumps(value, option=_JSON)
    except TypeError:  # orjson's word for a lone surrogate
        return orjson.dumps(_cleaned(value), option=_JSON)


def _cleaned(value: Any) -> Any:
    if isinstance(value, str):
        return clean(value)
    if isinstance(value, dict):
        return {_cleaned(name): _cleaned(inner) for name, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_cleaned(inner) for inner in value]
    return value


def members_of(file: BinaryIO) -> Iterator[tuple[str, int, str, bytes]]:
    """All members of a tar: name, size, sha256, and for the manifest its content.

    Raises:
        BadInputError: it is no tar, or is cut off.
    """
    try:
        with tarfile.open(fileobj=file, mode="r|", errors="surrogateescape") as archive:
            for info in archive:
                digest = hashlib.sha256()
                content = b""
                taken = 0
                source = archive.extractfile(info)
                while source is not None and (piece := source.read(_CHUNK)):
                    digest.update(piece)
                    taken += len(piece)
                    if info.name == MANIFEST and taken <= _MANIFEST_MAX:
                        content += piece
                if taken != info.size or not info.isreg():
                    raise BadInputError(f"member {clean(info.name)}: is not whole")
                yield info.name, info.size, digest.hexdigest(), content
    except (tarfile.TarError, EOFError, OSError, ValueError) as error:
        raise BadInputError(f"not a whole tar: {error}; expected a pack of evidence") from error


def read_manifest(path: Path) -> dict[str, Any]:
    """The manifest of a pack, unchecked.

    Raises:
        BadInputError: there is none, or it is none.
    """
    content, _ = _read_manifest(path)
    return content


def _read_manifest(path: Path) -> tuple[dict[str, Any], str]:
    try:
        with tarfile.open(path, "r:", errors="surrogateescape") as archive:
            source = archive.extractfile(MANIFEST)
            data = source.read(_MANIFEST_MAX) if source is not None else b""
    except (KeyError, tarfile.TarError, EOFError) as error:
        raise BadInputError(f"{path}: no {MANIFEST}; expected a pack of evidence") from error
    except OSError as error:
        raise BadInputError(f"{path}: {error.strerror or error}; expected a pack") from error
    return parse_manifest(data, str(path)), hashlib.sha256(data).hexdigest()


def read_members(path: Path) -> Callable[[str], bytes]:
    """A function that gives the content of a member by name; empty when there is none."""

    def read(name: str) -> bytes:
        try:
            with tarfile.open(path, "r:", errors="surrogateescape") as archive:
                source = archive.extractfile(name)
                return source.read() if source is not None else b""
        except KeyError:
            return b""
        except (tarfile.TarError, OSError) as error:
            raise BadInputError(f"{path}: {error}; expected a pack of evidence") from error

    return read


def parse_manifest(data: bytes, where: str) -> dict[str, Any]:
    """The manifest in some bytes.

    Raises:
        BadInputError: it is none.
    """
    try:
        found = orjson.loads(data)
    except orjson.JSONDecodeError as error:
        raise BadInputError(f"{where}: {MANIFEST}: {error}; expected JSON") from error
    if not isinstance(found, dict) or found.get("format") != FORMAT:
        raise BadInputError(f"{where}: {MANIFEST}: format: expected {FORMAT!r}")
    if found.get("version") != VERSION:
        raise BadInputError(
            f"{where}: {MANIFEST}: version: {found.get('version')!r}; expected {VERSION}"
        )
    if not isinstance(found.get("members"), dict) or not isinstance(found.get("parts"), list):
        raise BadInputError(f"{where}: {MANIFEST}: expected members and parts")
    return found


@dataclass(frozen=True, slots=True)
class Verification:
    """What a check of a pack found."""

    members: int
    problems: tuple[str, ...]
    manifest_sha256: str
    vouched: bool  # the manifest itself was compared with a sum kept elsewhere
    partial: bool = False

    @property
    def good(self) -> bool:
        """Whether nothing is wrong."""
        return not self.problems


def verify(path: Path, sha256: str = "") -> Verification:
    """Check every member of a pack, and the manifest itself where its sum is known.

    Args:
        path: of the pack.
        sha256: what the manifest's must be, as the audit or the index has it; "": not known.

    Raises:
        BadInputError: it cannot be read, or is no pack at all.
    """
    problems: list[str] = []
    found: dict[str, tuple[int, str]] = {}
    manifest: dict[str, Any] | None = None
    manifest_sha256 = ""
    try:
        with path.open("rb") as file:
            for name, size, digest, content in members_of(file):
                if manifest is not None:
                    problems.append(f"{clean(name)}: comes after the manifest")
                if name == MANIFEST:
                    manifest, manifest_sha256 = parse_manifest(content, str(path)), digest
                elif clean(name) in found:
                    problems.append(f"{clean(name)}: is there twice")
                else:
                    found[clean(name)] = size, digest
    except OSError as error:
        raise BadInputError(f"{path}: {error.strerror}; expected a pack of evidence") from error
    except BadInputError as error:
        if manifest is None:
            raise BadInputError(f"{path}: {error}") from error
        problems.append(str(error))
    if manifest is None:
        raise BadInputError(f"{path}: no {MANIFEST}; expected a pack of evidence")
    if sha256 and sha256.lower() != manifest_sha256:
        problems.append(f"{MANIFEST}: sha256 {manifest_sha256}; expected {sha256.lower()}")
    members = len(found)
    problems.extend(_compare(manifest["members"], found))
    return Verification(
        members, tuple(problems), manifest_sha256, bool(sha256), bool(manifest.get("partial"))
    )


def _compare(expected: dict[str, Any], found: dict[str, tuple[int, str]]) -> Iterator[str]:
    for name, entry in expected.items():
        size, digest = found.pop(name, (-1, ""))
        if size < 0:
            yield f"{name}: is missing"
        elif not isinstance(entry, dict) or entry.get("sha256") != digest:
            yield f"{name}: has changed"
        elif entry.get("size") != size:
            yield f"{name}: {size} bytes; expected {entry.get('size')}"
    for name in found:
        yield f"{name}: is not in the manifest"


def _header(name: str, size: int) -> bytes:
    info = tarfile.TarInfo(name)
    info.size = size
    info.mode = 0o600
    return info.tobuf(tarfile.PAX_FORMAT, "utf-8", "surrogateescape")


def footprint(name: str, size: int) -> int:
    """Bytes that a member takes in a pack."""
    return len(_header(name, size)) + _padded(size)


def _padded(size: int) -> int:
    return -(-size // _BLOCK) * _BLOCK
