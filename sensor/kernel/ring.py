"""The BPF ring buffer, read through its memory.

Layout (kernel/bpf/ringbuf.c): one page with the consumer's position, ours to write; one page with
the producer's; then the data, mapped twice in a row so that a record never wraps. Each record has
a header of two u32: its length with two flag bits, and a page offset.
"""

from __future__ import annotations

import ctypes
import mmap
import os
import struct
from collections.abc import Callable

_BUSY = 1 << 31
_DISCARD = 1 << 30
_HEADER = 8
# Native mode copies the whole word at once; standard mode ("<Q") reads byte by byte and would see
# half-written positions.
_POSITION = struct.Struct("@Q")
_LENGTH = struct.Struct("@I")


class Ring:
    """Consumer of one ring.

    Args:
        fd: descriptor of the map, owned from now on; it becomes readable when records wait.
        size: bytes of data, a power of two.
    """

    def __init__(self, fd: int, size: int) -> None:
        page = mmap.PAGESIZE
        self.fd = fd
        self._mask = size - 1
        self._consumer = mmap.mmap(fd, page, mmap.MAP_SHARED, mmap.PROT_READ | mmap.PROT_WRITE)
        self._producer = mmap.mmap(
            fd, page + 2 * size, mmap.MAP_SHARED, mmap.PROT_READ, offset=page
        )
        self._data = memoryview(self._producer)[page:]
        # One store: struct.pack_into clears the word first, and a kernel that reads it just then
        # takes the ring for full.
        self._consumed = ctypes.c_uint64.from_buffer(self._consumer)
        self._position = self._consumed.value

    def read(self, handle: Callable[[memoryview], None], limit: int) -> int:
        """Call ``handle`` with each record that waits, at most ``limit``; how many there were.

        The memory is given back after each batch; ``handle`` must copy what it keeps.
        """
        position = self._position
        count = 0
        while count < limit:
            end = _POSITION.unpack_from(self._producer, 0)[0]
            if position >= end:
                break
            while position < end and count < limit:
                at = position & self._mask
                length = _LENGTH.unpack_from(self._data, at)[0]
                if length & _BUSY:  # reserved, not yet written
                    end = position
                    limit = count
                    break
                size = length & ~(_BUSY | _DISCARD)
                if not length & _DISCARD:
                    handle(self._data[at + _HEADER : at + _HEADER + size])
                    count += 1
                position += (size + _HEADER + 7) & ~7
            self._consumed.value = position
        self._position = position
        return count

    def waiting(self) -> int:
        """Bytes that wait to be read."""
        end: int = _POSITION.unpack_from(self._producer, 0)[0]
        return end - self._position

    def close(self) -> None:
        """Unmap and close."""
        self._data.release()
        self._producer.close()
        del self._consumed
        self._consumer.close()
        os.close(self.fd)
