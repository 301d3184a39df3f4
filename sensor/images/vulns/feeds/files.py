"""Files of feeds: opened whatever they are packed in, within limits, never as a whole in memory.

Whoever writes a feed is not trusted with our memory: a pack that expands beyond all reason, a text
that never ends, or a record larger than any real one is refused with one line that says so.
"""

from __future__ import annotations

import bz2
import hashlib
import io
import lzma
import os
import struct
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Protocol

import ijson

from sensor.errors import FeedError

RECORD_MAX = 32 << 20  # bytes of one record; the largest genuine ones have some 2 MB
WHOLE_MAX = 128 << 20  # of files that are read as a whole: reports, KEV, single records
_EXPANDED_MAX = 16 << 30
_RATIO_MAX = 200  # genuine feeds shrink to a fifth or a thirtieth
_RATIO_FREE = 64 << 20  # below this, any ratio will do
_XZ_MEMORY_MAX = 128 << 20
_CHUNK = 1 << 16
HEAD = 1 << 16  # bytes by which a kind is recognised


class _Decompressor(Protocol):
    @property
    def eof(self) -> bool: ...
    @property
    def unused_data(self) -> bytes: ...
    def decompress(self, data: bytes, max_length: int, /) -> bytes: ...


def _decompressor(head: bytes) -> _Decompressor | None:
    if head[:2] == b"\x1f\x8b":
        return zlib.decompressobj(31)
    if head[:1] == b"\x78" and len(head) > 1 and int.from_bytes(head[:2]) % 31 == 0:
        return zlib.decompressobj(15)
    if head[:6] == b"\xfd7zXZ\0":
        return lzma.LZMADecompressor(memlimit=_XZ_MEMORY_MAX)
    return bz2.BZ2Decompressor() if head[:3] == b"BZh" else None


class FeedStream(io.RawIOBase):
    """What a file holds, unpacked while it is read.

    Args:
        path: a file; plain, or packed by gzip, zlib, bzip2 or xz.

    Raises:
        FeedError: it cannot be read, is damaged, ends in the middle, or is beyond a limit.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self.expanded = 0  # bytes handed out
        self._marked = 0
        self._packed = 0
        self._pending = b""
        with _errors(path):
            self._file: IO[bytes] = path.open("rb")
            head = self._file.read(6)
            self._file.seek(0)
        self._unpack = _decompressor(head)

    def mark(self) -> None:
        """A record was read to its end; the next one begins."""
        self._marked = self.expanded

    def readable(self) -> bool:
        """It is."""
        return True

    def close(self) -> None:
        """Close the file."""
        if hasattr(self, "_file"):
            self._file.close()
        super().close()

    def readinto(self, buffer: object) -> int:
        """See ``io.RawIOBase.readinto``."""
        view = memoryview(buffer).cast("B")  # type: ignore[arg-type]
        data = self._next(min(len(view), _CHUNK))
        view[: len(data)] = data
        self.expanded += len(data)
        if self.expanded - self._marked > RECORD_MAX:
            raise FeedError(
                f"{self._path}: byte {self._marked}: a record of more than {RECORD_MAX >> 20} MiB; "
                "expected records as feeds have them"
            )
        if self.expanded > _EXPANDED_MAX or (
            self.expanded > _RATIO_FREE and self.expanded > _RATIO_MAX * max(self._packed, 1)
        ):
            raise FeedError(
                f"{self._path}: expands to more than {self.expanded >> 20} MiB, "
                f"{self.expanded // max(self._packed, 1)} times its size; expected a genuine feed"
            )
        return len(data)

    def _next(self, size: int) -> bytes:
        with _errors(self._path):
            if self._unpack is None:
                data = self._file.read(size)
                self._packed += len(data)
                return data
            while True:
                if self._unpack.eof:
                    rest = self._unpack.unused_data + self._pending
                    rest = rest or self._file.read(_CHUNK)
                    following = _decompressor(rest) if rest.strip(b"\0") else None
                    if following is None:
                        return b""
                    self._unpack, self._pending = following, rest
                if not self._pending and self._needs_input():
                    self._pending = self._file.read(_CHUNK)
                    self._packed += len(self._pending)
                    if not self._pending:
                        # What is left inside may still come out, and be the end.
                        data = self._unpack.decompress(b"", size)
                        if not data and not self._unpack.eof:
                            raise FeedError(
                                f"{self._path}: ends in the middle, after {self.expanded} bytes; "
                                "expected the whole file"
                            )
                        if data:
                            return data
                        continue
                data = self._unpack.decompress(self._pending, size)
                self._pending = getattr(self._unpack, "unconsumed_tail", b"")
                if data:
                    return data

    def _needs_input(self) -> bool:
        # zlib hands back what it did not take, the others keep it and say so.
        return bool(getattr(self._unpack, "needs_input", True))


@contextmanager
def _errors(path: Path) -> Iterator[None]:
    """What goes wrong while a file is read, as one line."""
    try:
        yield
    except (zlib.error, lzma.LZMAError, EOFError) as error:
        raise FeedError(f"{path}: damaged: {error}; expected a file as it was packed") from error
    except OSError as error:
        reason = error.strerror or f"damaged: {error}"
        raise FeedError(f"{path}: {reason}; expected a readable file") from error


@contextmanager
def json_errors(path: Path, expected: str) -> Iterator[None]:
    """What the reader of JSON streams says, as one line."""
    try:
        yield
    except (ijson.JSONError, UnicodeDecodeError) as error:
        said = str(error).splitlines()[0]
        raise FeedError(f"{path}: not JSON, or not to its end: {said}; {expected}") from error


def open_feed(path: Path) -> tuple[FeedStream, io.BufferedReader]:
    """A file of a feed, and the same with a buffer to read from.

    Raises:
        FeedError: it cannot be read.
    """
    stream = FeedStream(path)
    return stream, io.BufferedReader(stream, _CHUNK)


def read_whole(path: Path) -> bytes:
    """What a file holds that is read as a whole.

    Raises:
        FeedError: it cannot be read, or is larger than any such file.
    """
    stream, reader = open_feed(path)
    parts = []
    with reader:
        while data := reader.read(1 << 20):
            parts.append(data)
            stream.mark()
            if stream.expanded > WHOLE_MAX:
                raise FeedError(
                    f"{path}: more than {WHOLE_MAX >> 20} MiB; expected at most that in one record"
                )
    return b"".join(parts)


def head_of(path: Path) -> bytes:
    """The first bytes of a file, unpacked.

    Raises:
        FeedError: it cannot be read.
    """
    _, reader = open_feed(path)
    with reader:
        return reader.read(HEAD)


def digest_of(path: Path) -> str:
    """What tells the content of a file from another: SHA-256.

    Of a directory it is that of the names, sizes and times of its files.

    Raises:
        FeedError: it cannot be read.
    """
    digest = hashlib.sha256()
    with _errors(path):
        if path.is_dir():
            for file in files_below(path):
                status = file.stat()
                line = f"{file.relative_to(path)}\0{status.st_size}\0{status.st_mtime_ns}\n"
                digest.update(line.encode("utf-8", "surrogateescape"))
        else:
            with path.open("rb") as content:
                while data := content.read(1 << 20):
                    digest.update(data)
    return digest.hexdigest()


def files_below(path: Path) -> list[Path]:
    """The records of a directory, in an order that stays; hidden ones and links left out."""
    found = []
    for root, directories, names in os.walk(path):
        directories[:] = sorted(name for name in directories if not name.startswith("."))
        found += [
            Path(root, name)
            for name in sorted(names)
            if name.endswith((".json", ".yaml", ".yml")) and not name.startswith(".")
        ]
    return [file for file in found if not file.is_symlink()]


_END = struct.Struct("<4s4H2LH")
_END64_LOCATOR = struct.Struct("<4sLQL")
_END64 = struct.Struct("<4sQ2H2L4Q")
_ENTRY = struct.Struct("<4s6H3L5H2L")
_LOCAL = struct.Struct("<4s5H3L2H")


def zip_members(path: Path, skip: int) -> Iterator[tuple[str, bytes | str]]:
    """The members of a zip file, one after the other.

    The library reads the list of all members first; of an archive with half a million that takes
    some 300 MB. This walks through the list where it is.

    Args:
        path: the file.
        skip: so many members are passed over.

    Yields:
        Name, and content, or as text why there is none.

    Raises:
        FeedError: it is no zip file, or damaged.
    """
    with _errors(path), path.open("rb") as file:
        size = file.seek(0, os.SEEK_END)
        where, count = _zip_directory(path, file, size)
        total = 0
        for i in range(count):
            file.seek(where)
            data = file.read(_ENTRY.size)
            if len(data) < _ENTRY.size or data[:4] != b"PK\x01\x02":
                raise FeedError(
                    f"{path}: entry {i}: damaged list of contents; expected {count} entries"
                )
            entry = _ENTRY.unpack(data)
            names, extras, comments = entry[10:13]
            name = file.read(names).decode("utf-8", "replace")
            extra = file.read(extras)
            where += _ENTRY.size + names + extras + comments
            if i < skip or name.endswith("/"):
                continue
            content = _zip_content(file, entry, extra)
            total += len(content) if isinstance(content, bytes) else 0
            if total > _EXPANDED_MAX or (total > _RATIO_FREE and total > _RATIO_MAX * size):
                raise FeedError(
                    f"{path}: entry {i} ({name}): expands to more than {total >> 20} MiB from "
                    f"{size >> 10} KiB; expected a genuine feed"
                )
            yield name, content


def _zip_directory(path: Path, file: IO[bytes], size: int) -> tuple[int, int]:
    """Where the list of contents begins, and how many entries it has."""
    file.seek(max(0, size - (1 << 16) - _END.size))
    tail = file.read()
    at = tail.rfind(b"PK\x05\x06")
    if at < 0 or len(tail) - at < _END.size:
        raise FeedError(f"{path}: no list of contents at the end; expected a whole zip file")
    _, _, _, _, count, _, where, _ = _END.unpack_from(tail, at)
    if where == 0xFFFFFFFF or count == 0xFFFF:
        locator = at - _END64_LOCATOR.size
        if locator >= 0 and tail[locator : locator + 4] == b"PK\x06\x07":
            file.seek(_END64_LOCATOR.unpack_from(tail, locator)[2])
            data = file.read(_END64.size)
            if len(data) == _END64.size and data[:4] == b"PK\x06\x06":
                found = _END64.unpack(data)
                return found[9], found[7]
    return where, count


def _zip_content(file: IO[bytes], entry: tuple[int, ...], extra: bytes) -> bytes | str:
    flags, method, crc, packed, size = entry[3], entry[4], entry[7], entry[8], entry[9]
    where = entry[16]
    if 0xFFFFFFFF in (packed, size, where):
        wide = _zip64(extra)
        size = wide.pop(0) if size == 0xFFFFFFFF and wide else size
        packed = wide.pop(0) if packed == 0xFFFFFFFF and wide else packed
        where = wide.pop(0) if where == 0xFFFFFFFF and wide else where
    if flags & 1:
        return "encrypted; expected plain contents"
    if size > RECORD_MAX or packed > RECORD_MAX:
        return f"{size} bytes; expected at most {RECORD_MAX >> 20} MiB"
    file.seek(where)
    local = file.read(_LOCAL.size)
    if len(local) < _LOCAL.size or local[:4] != b"PK\x03\x04":
        return "not where the list of contents says; expected a whole zip file"
    names, extras = _LOCAL.unpack(local)[9:]
    file.seek(names + extras, os.SEEK_CUR)
    data = file.read(packed)
    if method == 8:
        try:
            data = zlib.decompressobj(-15).decompress(data, size + 1)
        except zlib.error as error:
            return f"damaged: {error}"
    elif method != 0:
        return f"packed by method {method}; expected none or deflate"
    if len(data) != size or zlib.crc32(data) != crc:
        return "damaged: its checksum is another; expected a whole zip file"
    return data


def _zip64(extra: bytes) -> list[int]:
    """The wide numbers of an entry."""
    at = 0
    while at + 4 <= len(extra):
        kind, length = struct.unpack_from("<HH", extra, at)
        if kind == 1:
            body = extra[at + 4 : at + 4 + length]
            return [int.from_bytes(body[i : i + 8], "little") for i in range(0, len(body) - 7, 8)]
        at += 4 + length
    return []
