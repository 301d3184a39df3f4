"""Files and compressed streams, read front to back."""

from __future__ import annotations

import os
import tempfile
import zlib
from collections.abc import Iterator
from typing import IO, cast

import zstandard

from sensor.errors import ImageError
from sensor.images.content import Content
from sensor.images.omissions import Omissions

_CHUNK = 1 << 18
# What has more than this, unpacked, is no image that a container of this host could run, but a
# few kilobytes of zeros, packed: a thousandfold is what gzip can do.
UNPACKED_MAX = 64 << 30
_ZSTD_WINDOW_MAX = 1 << 27  # 128 MiB of memory, what `zstd -d` allows by itself
SCRATCH = os.environ.get("TMPDIR", "/var/tmp")  # noqa: S108 - /tmp is often memory
_GZIP, _ZSTD, _XZ, _BZIP2 = b"\x1f\x8b", b"\x28\xb5\x2f\xfd", b"\xfd7zXZ\0", b"BZh"


class ContentSource:
    """Content that is not compressed, as the source of an archive."""

    def __init__(self, content: Content) -> None:
        self._content = content
        self._at = 0

    def read(self, size: int) -> bytes:
        """See ``tar.Source.read``."""
        data = self._content.read_at(self._at, size)
        self._at += len(data)
        return data

    def skip(self, size: int) -> None:
        """See ``tar.Source.skip``."""
        if self._at + size > self._content.size:
            raise ImageError(f"the archive ends after {self._content.size} bytes, in a file")
        self._at += size

    def tell(self) -> int:
        """See ``tar.Source.tell``."""
        return self._at


class UnpackedSource:
    """A compressed stream, as the source of an archive.

    Args:
        content: what is compressed.
        how: ``gzip`` or ``zstd``.
        scratch: of the image, which says how much may still be unpacked.
    """

    def __init__(self, content: Content, how: str, scratch: Scratch) -> None:
        self._pieces = _gunzip(content) if how == "gzip" else _unzstd(content)
        self._how = how
        self._scratch = scratch
        self._buffer = b""
        self._used = 0  # of the buffer
        self._at = 0

    def tell(self) -> int:
        """See ``tar.Source.tell``."""
        return self._at

    def pieces(self, size: int) -> Iterator[bytes]:
        """The next bytes, as they come; fewer only at the end.

        Raises:
            ImageError: the stream is damaged, or larger than any layer.
        """
        while size > 0:
            if self._used >= len(self._buffer):
                try:
                    self._buffer = next(self._pieces)
                except StopIteration:
                    return
                except (zlib.error, zstandard.ZstdError) as error:
                    raise ImageError(
                        f"damaged {self._how} stream after {self._at} unpacked bytes: {error}"
                    ) from error
                self._used = 0
            data = self._buffer[self._used : self._used + size]
            self._used += len(data)
            self._at += len(data)
            size -= len(data)
            self._scratch.left -= len(data)
            if self._scratch.left < 0:
                raise ImageError(f"the image unpacks to more than {UNPACKED_MAX} bytes")
            yield data

    def read(self, size: int) -> bytes:
        """See ``tar.Source.read``."""
        return b"".join(self.pieces(size))

    def skip(self, size: int) -> None:
        """See ``tar.Source.skip``."""
        for data in self.pieces(size):
            size -= len(data)
        if size > 0:
            raise ImageError(f"the archive ends after {self._at} bytes, in a file")


def _gunzip(content: Content) -> Iterator[bytes]:
    at = 0
    unpacker = zlib.decompressobj(wbits=31)
    began = False
    pending = b""
    while True:
        if not pending:
            pending = content.read_at(at, _CHUNK)
            at += len(pending)
        if not pending:
            if began and not unpacker.eof:
                raise ImageError(f"the gzip stream ends after {content.size} bytes, too early")
            return
        if unpacker.eof:
            if not pending.startswith(_GZIP[: len(pending)]):
                return  # padding behind the last member
            unpacker = zlib.decompressobj(wbits=31)
        began = True
        data = unpacker.decompress(pending, _CHUNK)
        pending = unpacker.unconsumed_tail or unpacker.unused_data
        if data:
            yield data


def _unzstd(content: Content) -> Iterator[bytes]:
    reader = zstandard.ZstdDecompressor(max_window_size=_ZSTD_WINDOW_MAX).stream_reader(
        cast(IO[bytes], _Reader(content)), read_size=_CHUNK, read_across_frames=True
    )
    while data := reader.read(_CHUNK):
        yield data


class _Reader:
    """Content as a file that can only be read on."""

    def __init__(self, content: Content) -> None:
        self._content = content
        self._at = 0

    def read(self, size: int = -1) -> bytes:
        data = self._content.read_at(self._at, _CHUNK if size < 0 else size)
        self._at += len(data)
        return data


def compression(content: Content) -> str:
    """How content is compressed: "" (not), ``gzip`` or ``zstd``.

    Raises:
        ImageError: in a way that is not read.
    """
    start = content.read_at(0, 6)
    if start.startswith(_GZIP):
        return "gzip"
    if start.startswith(_ZSTD):
        return "zstd"
    for magic, name in ((_XZ, "xz"), (_BZIP2, "bzip2")):
        if start.startswith(magic):
            raise ImageError(f"compressed with {name}; expected none, gzip or zstd")
    return ""


class Scratch:
    """What opening an image may use: a file without a name for what is unpacked, and limits.

    Attributes:
        end: how large the file is.
        left: how many bytes may still be unpacked.
        entries: of all archives so far.
    """

    def __init__(self) -> None:
        self._file = tempfile.TemporaryFile(  # noqa: SIM115 - it is open for as long as this
            dir=SCRATCH, buffering=0
        )
        self.end = 0
        self.left = UNPACKED_MAX
        self.entries = 0

    def put(self, source: UnpackedSource, size: int) -> int:
        """Take the next bytes of a stream; where they begin.

        Raises:
            ImageError: there is no space, or the stream is damaged or ends too early.
        """
        start = self.end
        got = 0
        for data in source.pieces(size):
            self.append(data)
            got += len(data)
        if got < size:
            raise ImageError(f"the archive ends after {source.tell()} bytes, in a file")
        return start

    def append(self, data: bytes) -> None:
        """Write at the end.

        Raises:
            ImageError: there is no space.
        """
        try:
            os.pwrite(self._file.fileno(), data, self.end)
        except OSError as error:
            raise ImageError(
                f"cannot be unpacked to {SCRATCH}: {error.strerror}; TMPDIR chooses another place"
            ) from error
        self.end += len(data)

    def content(self, start: int, size: int) -> Content:
        """A part of it, to be read while it is open."""
        return Content(self._file.fileno(), start, size, owned=False)

    def put_rest(self, source: UnpackedSource, omissions: Omissions, place: str) -> Content:
        """Take a whole stream; where it is damaged, what came before.

        Raises:
            ImageError: there is no space.
        """
        start = self.end
        try:
            while piece := source.read(_CHUNK):
                self.append(piece)
        except ImageError as error:
            if self.end == start:
                raise
            omissions.add(place, error)
        return self.content(start, self.end - start)

    def fileno(self) -> int:
        """Its descriptor."""
        return self._file.fileno()

    def close(self) -> None:
        """Give the space back."""
        self._file.close()
