"""The bytes of one file of an image, wherever they lie: read at a place, never as a whole."""

from __future__ import annotations

import os
from types import TracebackType
from typing import Protocol, Self

from sensor.errors import ImageError


class Readable(Protocol):
    """What can be read at a place."""

    @property
    def size(self) -> int:
        """In bytes."""

    def read_at(self, offset: int, length: int) -> bytes:
        """Bytes from a place on; fewer than asked for where the content ends.

        Raises:
            OSError: it cannot be read.
        """


class Memory:
    """Content that is in memory already.

    Args:
        data: it.
    """

    __slots__ = ("_data", "size")

    def __init__(self, data: bytes) -> None:
        self._data = data
        self.size = len(data)

    def read_at(self, offset: int, length: int) -> bytes:
        """See ``Readable.read_at``."""
        return self._data[offset : offset + length] if offset >= 0 < length else b""


class Content:
    """A part of an open file: a file of a directory, or a member of an archive.

    Args:
        fd: of the file that holds it.
        start: where in it the content begins.
        size: in bytes; what lies behind is not read.
        owned: whether closing this closes ``fd``.
    """

    __slots__ = ("_owned", "fd", "size", "start")

    def __init__(self, fd: int, start: int, size: int, *, owned: bool) -> None:
        self.fd = fd
        self.start = start
        self.size = size
        self._owned = owned

    def read_at(self, offset: int, length: int) -> bytes:
        """Bytes from a place on; fewer than asked for where the content ends.

        Raises:
            OSError: it cannot be read.
        """
        length = min(length, self.size - offset)
        if offset < 0 or length <= 0:
            return b""
        data = os.pread(self.fd, length, self.start + offset)
        if len(data) == length or not data:
            return data
        parts = [data]  # the kernel gives at most 2 GiB at once, and less when interrupted
        got = len(data)
        while got < length:
            data = os.pread(self.fd, length - got, self.start + offset + got)
            if not data:
                break
            parts.append(data)
            got += len(data)
        return b"".join(parts)

    def read(self, limit: int) -> bytes:
        """All of it.

        Raises:
            ImageError: it is larger than ``limit`` bytes, or shorter than it should be.
            OSError: it cannot be read.
        """
        if self.size > limit:
            raise ImageError(f"{self.size} bytes; at most {limit} are read")
        data = self.read_at(0, self.size)
        if len(data) < self.size:
            raise ImageError(f"ends after {len(data)} bytes; expected {self.size}")
        return data

    def close(self) -> None:
        """Let go of it."""
        if self._owned and self.fd >= 0:
            os.close(self.fd)
            self.fd = -1

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()
