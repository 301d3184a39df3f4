"""Members of zip archives, by their central directory.

The standard library reads the whole directory and makes an object of each entry, whatever its
number; an application in Java has some hundred archives of a thousand entries, of which three
count, and a hostile one has millions. Source: APPNOTE.TXT 6.3 of PKWARE.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass

from sensor.errors import ImageError
from sensor.images.content import Readable

_END, _END64, _ENTRY, _LOCAL = b"PK\5\6", b"PK\6\6", b"PK\1\2", b"PK\3\4"
_END_SIZE, _END64_LOCATOR, _ENTRY_SIZE, _LOCAL_SIZE = 22, 20, 46, 30
_COMMENT_MAX = 65535
_DIRECTORY_MAX = 64 << 20  # some 700,000 entries; large genuine archives have 50,000
_STORED, _DEFLATED = 0, 8
_ENCRYPTED = 1
_ABSENT = 0xFFFFFFFF


@dataclass(frozen=True, slots=True)
class ZipMember:
    """One entry of the directory.

    Attributes:
        name: as written, which may be anything.
        method: how it is compressed.
        flags: of the archive's format.
        packed: size in the archive, in bytes.
        size: what it says it unpacks to, in bytes.
        start: where its local header is.
    """

    name: str
    method: int
    flags: int
    packed: int
    size: int
    start: int


def zip_members(content: Readable) -> Iterator[ZipMember]:
    """The entries of an archive.

    Raises:
        ImageError: it is damaged, or no zip archive.
        OSError: it cannot be read.
    """
    tail_at = max(0, content.size - _END_SIZE - _COMMENT_MAX)
    tail = content.read_at(tail_at, content.size - tail_at)
    at = tail.rfind(_END)
    if at < 0 or len(tail) - at < _END_SIZE:
        raise ImageError("is no zip archive, or is cut off")
    size, start = struct.unpack_from("<II", tail, at + 12)
    end = tail_at + at
    if _ABSENT in (size, start):
        end, size, start = _large(content, tail, at)
    if size > min(_DIRECTORY_MAX, end):
        raise ImageError(f"a zip archive whose directory has {size} bytes: damaged, or too large")
    # What stands before an archive, such as a shell script that starts it, moves everything.
    moved = end - size - start
    if moved < 0:
        raise ImageError("a zip archive whose directory is not where it says")
    directory = content.read_at(end - size, size)
    at = 0
    while at + _ENTRY_SIZE <= len(directory):
        if directory[at : at + 4] != _ENTRY:
            raise ImageError("a zip archive with a damaged directory: the rest is left out")
        flags, method = struct.unpack_from("<HH", directory, at + 8)
        packed, full, name, extra, comment = struct.unpack_from("<IIHHH", directory, at + 20)
        where = struct.unpack_from("<I", directory, at + 42)[0]
        after = at + _ENTRY_SIZE + name
        if _ABSENT in (packed, full, where):
            packed, full, where = _large_sizes(
                directory[after : after + extra], packed, full, where
            )
        yield ZipMember(
            directory[at + _ENTRY_SIZE : after].decode("utf-8", "replace"),
            method, flags, packed, full, where + moved,
        )  # fmt: skip
        at = after + extra + comment


def _large(content: Readable, tail: bytes, at: int) -> tuple[int, int, int]:
    """Where the directory of a zip64 archive ends, its size and its start."""
    locator = tail[at - _END64_LOCATOR : at] if at >= _END64_LOCATOR else b""
    if locator.startswith(b"PK\6\7"):
        place = struct.unpack_from("<Q", locator, 8)[0]
        record = content.read_at(place, 56)
        if record.startswith(_END64) and len(record) == 56:
            size, start = struct.unpack_from("<QQ", record, 40)
            return place, size, start
    raise ImageError("a zip archive with a damaged end (zip64)")


def _large_sizes(extra: bytes, *values: int) -> tuple[int, ...]:
    """Sizes that did not fit into the entry, by its extra field 1."""
    at = 0
    while at + 4 <= len(extra):
        kind, length = struct.unpack_from("<HH", extra, at)
        if kind == 1:
            numbers = iter(
                struct.unpack_from(f"<{min(length, len(extra) - at - 4) // 8}Q", extra, at + 4)
            )
            return tuple(next(numbers, _ABSENT) if value == _ABSENT else value for value in values)
        at += 4 + length
    return values


def read_member(content: Readable, member: ZipMember, limit: int) -> bytes:
    """The content of a member, unpacked.

    Raises:
        ImageError: it is damaged, encrypted, or larger than ``limit`` bytes.
        OSError: it cannot be read.
    """
    if member.flags & _ENCRYPTED:
        raise ImageError("encrypted: not read")
    if max(member.size, member.packed) > limit:
        raise ImageError(f"{member.size} bytes; at most {limit} are read")
    head = content.read_at(member.start, _LOCAL_SIZE)
    if len(head) < _LOCAL_SIZE or not head.startswith(_LOCAL):
        raise ImageError("is not where the archive's directory says")
    name, extra = struct.unpack_from("<HH", head, 26)
    data = content.read_at(member.start + _LOCAL_SIZE + name + extra, member.packed)
    if len(data) < member.packed:
        raise ImageError("is cut off")
    if member.method == _STORED:
        return data
    if member.method != _DEFLATED:
        raise ImageError(f"compressed by method {member.method}; expected 0 or 8")
    unpacker = zlib.decompressobj(wbits=-15)
    try:
        data = unpacker.decompress(data, limit + 1)
    except zlib.error as error:
        raise ImageError(f"damaged: {error}") from error
    if len(data) > limit:
        raise ImageError(f"unpacks to more than {limit} bytes; not read")
    return data
