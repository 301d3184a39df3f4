"""The bpf() system call, as far as Rote's daemon needs it.

The daemon talks to pinned objects only; it neither loads nor compiles, and so needs no library
beyond this. Source of the numbers: include/uapi/linux/bpf.h, a stable interface.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import platform
import struct
from collections.abc import Iterator
from pathlib import Path

_NUMBERS = {"x86_64": 321, "aarch64": 280}
_MAP_LOOKUP, _MAP_UPDATE, _MAP_DELETE, _MAP_NEXT = 1, 2, 3, 4
PROG_LOAD, _OBJ_PIN, _OBJ_GET, _OBJ_INFO, _RAW_TRACEPOINT_OPEN = 5, 6, 7, 15, 17
_INFO_SIZE = 256
_INFO_ID = 4  # offset in struct bpf_map_info and struct bpf_prog_info
_INFO_KEY_SIZE = 8  # in struct bpf_map_info; the value's follows
_INFO_VERIFIED = 216  # offset of verified_insns in struct bpf_prog_info, since 5.16
ATTR_SIZE = 128

_libc = ctypes.CDLL(None, use_errno=True)


def call(command: int, attr: ctypes.Array[ctypes.c_char]) -> int:
    """One bpf() call; its result.

    Raises:
        OSError: with the kernel's errno.
    """
    number = _NUMBERS[platform.machine()]
    result: int = _libc.syscall(number, command, attr, ATTR_SIZE)
    if result < 0:
        errno = ctypes.get_errno()
        raise OSError(errno, os.strerror(errno))
    return result


def _attr(fmt: str, *values: int) -> ctypes.Array[ctypes.c_char]:
    attr = ctypes.create_string_buffer(ATTR_SIZE)
    struct.pack_into(fmt, attr, 0, *values)
    return attr


def pin(fd: int, path: Path) -> None:
    """Give a BPF object a name in the BPF file system.

    Raises:
        OSError: the name exists, or the place is no BPF file system.
    """
    name = ctypes.create_string_buffer(os.fsencode(path))
    call(_OBJ_PIN, _attr("=QII", ctypes.addressof(name), fd, 0))


def get(path: Path) -> int:
    """A descriptor of a pinned object.

    Raises:
        OSError: nothing is pinned there.
    """
    name = ctypes.create_string_buffer(os.fsencode(path))
    return call(_OBJ_GET, _attr("=QII", ctypes.addressof(name), 0, 0))


def _info(fd: int) -> bytes:
    info = ctypes.create_string_buffer(_INFO_SIZE)
    call(_OBJ_INFO, _attr("=IIQ", fd, _INFO_SIZE, ctypes.addressof(info)))
    return info.raw


@contextlib.contextmanager
def owned(fd: int) -> Iterator[int]:
    """Close a descriptor at the end."""
    try:
        yield fd
    finally:
        os.close(fd)


def object_id(fd: int) -> int:
    """The kernel's number of a map or program."""
    return int(struct.unpack_from("=I", _info(fd), _INFO_ID)[0])


def verified_instructions(fd: int) -> int:
    """How many instructions the verifier looked at; 0 before kernel 5.16."""
    return int(struct.unpack_from("=I", _info(fd), _INFO_VERIFIED)[0])


def attach(program_fd: int, tracepoint: str | None = None) -> int:
    """Attach a raw tracepoint program by name, or an LSM or fmod_ret program to its own function.

    Returns:
        The descriptor of the link. Closing it detaches, unless it is pinned.

    Raises:
        OSError: EPERM where the kernel refuses trampolines; ENOENT for an unknown tracepoint.
    """
    name = ctypes.create_string_buffer(tracepoint.encode()) if tracepoint else None
    address = ctypes.addressof(name) if name else 0
    return call(_RAW_TRACEPOINT_OPEN, _attr("=QI", address, program_fd))


class Map:
    """A BPF map by its descriptor; keys and values are bytes.

    Args:
        fd: descriptor, owned from now on.
        key_size: bytes.
        value_size: bytes.
    """

    def __init__(self, fd: int, key_size: int, value_size: int) -> None:
        self.fd = fd
        self.key_size = key_size
        self.value_size = value_size
        self._key = ctypes.create_string_buffer(key_size)
        self._value = ctypes.create_string_buffer(value_size)
        self._next = ctypes.create_string_buffer(key_size)
        # The attribute names our buffers once and for all: an update is two copies and a call.
        self._attr = _attr(
            "=IIQQQ", fd, 0, ctypes.addressof(self._key), ctypes.addressof(self._value), 0
        )
        # What a command does not use must be zero.
        self._key_attr = _attr("=IIQQQ", fd, 0, ctypes.addressof(self._key), 0, 0)
        self._next_attr = _attr(
            "=IIQQQ", fd, 0, ctypes.addressof(self._key), ctypes.addressof(self._next), 0
        )
        self._first_attr = _attr("=IIQQQ", fd, 0, 0, ctypes.addressof(self._next), 0)

    def update(self, key: bytes, value: bytes) -> None:
        """Set a value.

        Raises:
            OSError: E2BIG when the map is full, ENOMEM.
        """
        self._key.raw = key
        self._value.raw = value
        call(_MAP_UPDATE, self._attr)

    def lookup(self, key: bytes) -> bytes | None:
        """The value, or None."""
        self._key.raw = key
        try:
            call(_MAP_LOOKUP, self._attr)
        except FileNotFoundError:
            return None
        return self._value.raw

    def delete(self, key: bytes) -> bool:
        """Remove a key; whether it was there."""
        self._key.raw = key
        try:
            call(_MAP_DELETE, self._key_attr)
        except FileNotFoundError:
            return False
        return True

    def keys(self) -> Iterator[bytes]:
        """Every key. Keys that come or go meanwhile may be missed or seen twice."""
        attr = self._first_attr
        while True:
            try:
                call(_MAP_NEXT, attr)
            except FileNotFoundError:
                return
            key = self._next.raw
            yield key
            self._key.raw = key
            attr = self._next_attr

    def items(self) -> Iterator[tuple[bytes, bytes]]:
        """Every key with its value."""
        for key in list(self.keys()):
            value = self.lookup(key)
            if value is not None:
                yield key, value

    def clear(self) -> None:
        """Remove every key."""
        for key in list(self.keys()):
            self.delete(key)

    def fits(self) -> bool:
        """Whether the kernel's sizes of key and value are the ones given here."""
        return struct.unpack_from("=II", _info(self.fd), _INFO_KEY_SIZE) == (
            self.key_size,
            self.value_size,
        )

    def close(self) -> None:
        """Close the descriptor."""
        os.close(self.fd)
