"""Compiled programs: where their sections and segments lie.

Source: the System V ABI (ELF header, section header, program header).
"""

from __future__ import annotations

import struct
from dataclasses import dataclass

from sensor.errors import ImageError
from sensor.images.content import Readable

_HEADERS_MAX = 4096  # linked programs have some forty sections
_NAMES_MAX = 1 << 20
_LOAD, _WRITABLE = 1, 2
_NO_BITS = 8


@dataclass(frozen=True, slots=True)
class Segment:
    """What of a file is mapped where."""

    flags: int
    offset: int
    address: int
    size: int


class Elf:
    """A compiled program or library.

    Args:
        content: of the file.
        head: its first 64 bytes.
        wanted: names of sections; where there is none of them, none is looked for.

    Raises:
        ImageError: its headers are damaged.
    """

    def __init__(self, content: Readable, head: bytes, wanted: tuple[bytes, ...]) -> None:
        self.content = content
        self.has_sections = False
        self._wanted = wanted
        wide = head[4] == 2
        self.order = ">" if head[5] == 2 else "<"
        self.sections: dict[bytes, tuple[int, int]] = {}
        try:
            if wide:
                phoff, shoff = struct.unpack_from(f"{self.order}QQ", head, 32)
                counts = struct.unpack_from(f"{self.order}5H", head, 54)
            else:
                phoff, shoff = struct.unpack_from(f"{self.order}II", head, 28)
                counts = struct.unpack_from(f"{self.order}5H", head, 42)
        except struct.error:
            raise ImageError("a program without a whole header") from None
        self._read_segments(wide, phoff, counts[0], counts[1])
        self._read_sections(wide, shoff, counts[2], counts[3], counts[4])

    @classmethod
    def open(cls, content: Readable, wanted: tuple[bytes, ...]) -> Elf | None:
        """A compiled program; None for any other file.

        Args:
            content: of the file.
            wanted: names of the sections that are asked for later.

        Raises:
            ImageError: it is one, with damaged headers.
            OSError: it cannot be read.
        """
        head = content.read_at(0, 64)
        if not head.startswith(b"\x7fELF") or len(head) < 52:
            return None
        return cls(content, head, wanted)

    def _read_segments(self, wide: bool, offset: int, size: int, count: int) -> None:
        self.segments: list[Segment] = []
        form = f"{self.order}IIQQQQ" if wide else f"{self.order}6I"
        need = struct.calcsize(form) if wide else 28
        if not count or size < need or count > _HEADERS_MAX:
            return
        table = self.content.read_at(offset, size * count)
        for at in range(0, len(table) - need + 1, size):
            if wide:
                kind, flags, start, address, _, length = struct.unpack_from(form, table, at)
            else:
                kind, start, address, _, length, _ = struct.unpack_from(form, table, at)
                flags = struct.unpack_from(f"{self.order}I", table, at + 24)[0]
            if kind == _LOAD:
                self.segments.append(Segment(flags, start, address, length))

    def _read_sections(self, wide: bool, offset: int, size: int, count: int, names: int) -> None:
        form = f"{self.order}IIQQQQ" if wide else f"{self.order}6I"
        need = struct.calcsize(form)
        if not offset or not count or size < need or count > _HEADERS_MAX or names >= count:
            return
        table = self.content.read_at(offset, size * count)
        if len(table) < size * count:
            raise ImageError("a program whose table of sections is cut off")
        found = []
        for at in range(0, len(table), size):
            name, kind, _, _, start, length = struct.unpack_from(form, table, at)
            found.append((name, kind, start, length))
        self.has_sections = True
        texts = self.content.read_at(found[names][2], min(found[names][3], _NAMES_MAX))
        if not any(wanted in texts for wanted in self._wanted):
            return
        for name, kind, start, length in found:
            if kind != _NO_BITS:
                self.sections[texts[name : texts.find(b"\0", name)]] = (start, length)

    def section(self, name: bytes, limit: int) -> bytes | None:
        """The content of a section; None when there is none.

        Raises:
            ImageError: it is larger than ``limit`` bytes, or is cut off.
        """
        place = self.sections.get(name)
        if place is None:
            return None
        start, size = place
        if size > limit:
            raise ImageError(f"a section {name.decode()} of {size} bytes; at most {limit} are read")
        data = self.content.read_at(start, size)
        if len(data) < size:
            raise ImageError(f"its section {name.decode()} is cut off")
        return data

    def at_address(self, address: int, length: int) -> bytes:
        """What the program has in memory at an address, by its file; b"" where nothing is."""
        for segment in self.segments:
            if segment.address <= address < segment.address + segment.size:
                inside = address - segment.address
                return self.content.read_at(
                    segment.offset + inside, min(length, segment.size - inside)
                )
        return b""

    def writable(self) -> Segment | None:
        """The first segment that the program may write."""
        return next((segment for segment in self.segments if segment.flags & _WRITABLE), None)
