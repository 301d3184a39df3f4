"""Headers of tar archives, one by one, from a file or a stream that need not be seekable.

The standard library's reader takes a header's word for how much memory its name needs; an image
may come from anywhere. Source: POSIX pax interchange format; GNU tar's `L`, `K` and `S`.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

from sensor.errors import ImageError

BLOCK = 512
_EXTENSION_MAX = 1 << 20  # of one pax header or long name; real ones have some hundred bytes
_FILES, _HARD, _SYMBOLIC, _DIRECTORY = (b"0", b"\0", b"7"), b"1", b"2", b"5"
_SPARSE = b"S"
_SPARSE_MORE, _SPARSE_MORE_STILL = 482, 504  # where GNU tar says that another block follows
_PAX, _PAX_GLOBAL, _LONG_NAME, _LONG_LINK = b"x", b"g", b"L", b"K"
_EXTENSIONS = (_PAX, _PAX_GLOBAL, _LONG_NAME, _LONG_LINK)


class Source(Protocol):
    """What an archive is read from, front to back."""

    def read(self, size: int) -> bytes:
        """The next bytes; fewer only at the end."""

    def skip(self, size: int) -> None:
        """Leave bytes out."""

    def tell(self) -> int:
        """How far it is."""


@dataclass(frozen=True, slots=True)
class Member:
    """One entry of an archive.

    Attributes:
        name: without leading and trailing slashes and "./".
        kind: "file", "hard link", "symlink", "directory", "sparse" or "other".
        mode: permission bits.
        size: of the content that follows, in bytes.
        link: what a link names, as written.
        start: where the content begins.
    """

    name: str
    kind: str
    mode: int
    size: int
    link: str
    start: int


_KINDS = {_HARD: "hard link", _SYMBOLIC: "symlink", _DIRECTORY: "directory", _SPARSE: "sparse"}


def members(source: Source) -> Iterator[Member]:
    """The members of an archive. What the caller does not read of a content is passed over.

    Raises:
        ImageError: it ends too early, or is no tar archive.
    """
    extended: dict[str, str] = {}
    following: dict[str, str] = {}
    number = 0
    while True:
        where = source.tell()
        header = source.read(BLOCK)
        if _is_end(header, where, number):
            return
        number += 1
        kind = header[156:157]
        size = _number(header[124:136], where)
        if kind in (_PAX, _PAX_GLOBAL, _LONG_NAME, _LONG_LINK):
            if size > _EXTENSION_MAX:
                raise ImageError(
                    f"a name of {size} bytes at byte {where}; at most {_EXTENSION_MAX}"
                )
            data = source.read(_padded(size))[:size]
            if len(data) < size:
                raise ImageError(f"the archive ends after {source.tell()} bytes, in a name")
            if kind == _PAX:
                following |= _records(data, where)
            elif kind == _PAX_GLOBAL:
                extended |= _records(data, where)
            else:
                key = "path" if kind == _LONG_NAME else "linkpath"
                following[key] = os.fsdecode(data.rstrip(b"\0"))
            continue
        if kind == _SPARSE and header[_SPARSE_MORE]:
            _pass_over_sparse_map(source)
        facts = {**extended, **following}
        following = {}
        if "size" in facts:
            size = _decimal(facts["size"], where)
        member = _member(header, facts, kind, size, source.tell())
        end = member.start + _padded(member.size)
        yield member
        source.skip(end - source.tell())


def _is_end(header: bytes, where: int, number: int) -> bool:
    """Whether an archive ends here.

    Raises:
        ImageError: what is here is neither an end nor a header.
    """
    if not header and number:
        return True  # without the two empty blocks at its end, as some tools leave them out
    if len(header) < BLOCK:
        raise ImageError(f"the archive ends after {where + len(header)} bytes, in a header")
    if not header.strip(b"\0"):
        return True
    if not _sum_is_right(header):
        raise ImageError(f"no tar header at byte {where}")
    return False


def _extension(source: Source, kind: bytes, size: int, where: int) -> dict[str, str]:
    """What a header says of the next one."""
    if size > _EXTENSION_MAX:
        raise ImageError(f"a name of {size} bytes at byte {where}; at most {_EXTENSION_MAX}")
    data = source.read(_padded(size))[:size]
    if len(data) < size:
        raise ImageError(f"the archive ends after {source.tell()} bytes, in a name")
    if kind in (_PAX, _PAX_GLOBAL):
        return _records(data, where)
    return {"path" if kind == _LONG_NAME else "linkpath": os.fsdecode(data.rstrip(b"\0"))}


def _member(header: bytes, facts: dict[str, str], kind: bytes, size: int, start: int) -> Member:
    name = facts.get("path") or _name(header)
    if any(fact.startswith("GNU.sparse.") for fact in facts):
        kind = _SPARSE
        name = facts.get("GNU.sparse.name", name)
    if kind in _FILES:
        # Old archives mark a directory by a slash only.
        text = "directory" if name.endswith("/") and kind != b"7" else "file"
    else:
        text = _KINDS.get(kind, "other")
    if text in ("hard link", "symlink", "directory"):
        size = 0
    return Member(
        clean(name),
        text,
        _number(header[100:108], start - BLOCK) & 0o7777,
        size,
        facts.get("linkpath") or os.fsdecode(header[157:257].partition(b"\0")[0]),
        start,
    )


def _pass_over_sparse_map(source: Source) -> None:
    while block := source.read(BLOCK):
        if len(block) < BLOCK or not block[_SPARSE_MORE_STILL]:
            return


def _name(header: bytes) -> str:
    name = header[:100].partition(b"\0")[0]
    if header[257:263] == b"ustar\0":
        prefix = header[345:500].partition(b"\0")[0]
        if prefix:
            name = prefix + b"/" + name
    return os.fsdecode(name)


def clean(name: str) -> str:
    """A member's name as a path below the root: "." and empty parts gone, ".." climbs no higher."""
    if "." not in name and "//" not in name:
        return name.strip("/")
    parts: list[str] = []
    for part in name.split("/"):
        if part == "..":
            del parts[-1:]
        elif part not in ("", "."):
            parts.append(part)
    return "/".join(parts)


def _padded(size: int) -> int:
    return (size + BLOCK - 1) // BLOCK * BLOCK


def _sum_is_right(header: bytes) -> bool:
    try:
        said = int(header[148:156].strip(b"\0 ") or b"0", 8)
    except ValueError:
        return False
    return said == sum(header) - sum(header[148:156]) + 8 * 0x20


def _number(field: bytes, where: int) -> int:
    """A number in octal, or in base 256 where the first bit is set."""
    if field[0] & 0x80:
        value = int.from_bytes(field, "big") & ((1 << (8 * len(field) - 1)) - 1)
        if field[0] & 0x40 or value >= 1 << 62:
            raise ImageError(f"an impossible number in the header at byte {where}")
        return value
    try:
        return int(field.strip(b"\0 ") or b"0", 8)
    except ValueError:
        raise ImageError(f"a number in the header at byte {where} is not octal") from None


def _decimal(text: str, where: int) -> int:
    if not text.isascii() or not text.isdigit() or len(text) > 18:
        raise ImageError(f"size {text[:20]!r} in the header before byte {where}: not a number")
    return int(text)


def _records(data: bytes, where: int) -> dict[str, str]:
    """The records of a pax header: "LENGTH KEY=VALUE\\n"."""
    found: dict[str, str] = {}
    at = 0
    while at < len(data):
        length, space, _ = data[at : at + 20].partition(b" ")
        if not space or not length.isdigit() or int(length) <= len(length) + 1:
            raise ImageError(f"a damaged pax header at byte {where}")
        key, equals, value = data[at + len(length) + 1 : at + int(length) - 1].partition(b"=")
        if not equals:
            raise ImageError(f"a damaged pax header at byte {where}")
        found[os.fsdecode(key)] = os.fsdecode(value)
        at += int(length)
    return found
