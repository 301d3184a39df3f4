"""fanotify(7) and inotify(7), as far as the gate on bundles needs them.

Source of the numbers: include/uapi/linux/{fanotify,inotify}.h, stable interfaces. Few imports: what
uses this holds opens of others, and has to be small and quick.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import os
import struct
from collections.abc import Iterator
from typing import NamedTuple

from sensor.errors import KernelSupportError

_CLOEXEC, _NONBLOCK, _CLASS_PRE_CONTENT = 0x01, 0x02, 0x08
_UNLIMITED_QUEUE, _UNLIMITED_MARKS = 0x10, 0x20
_MARK_ADD, _MARK_REMOVE, _MARK_ONLYDIR, _MARK_MOUNT = 0x01, 0x02, 0x08, 0x10
_OPEN_PERM, _EVENT_ON_CHILD = 0x10000, 0x08000000
_ALLOW, _DENY = 1, 2
_METADATA = struct.Struct("=IBBHQii")  # struct fanotify_event_metadata
_METADATA_VERSION = 3
_RESPONSE = struct.Struct("=iI")  # struct fanotify_response
_READ_SIZE = 4096

_IN_CREATE, _IN_DELETE, _IN_MOVED_FROM, _IN_MOVED_TO = 0x100, 0x200, 0x40, 0x80
_IN_DELETE_SELF, _IN_MOVE_SELF = 0x400, 0x800
_IN_ONLYDIR = 0x01000000
_IN_Q_OVERFLOW, _IN_IGNORED, _IN_ISDIR = 0x4000, 0x8000, 0x40000000
_INOTIFY = struct.Struct("=iIII")  # struct inotify_event, before the name

_libc = ctypes.CDLL(None, use_errno=True)
_libc.fanotify_mark.argtypes = (
    ctypes.c_int, ctypes.c_uint, ctypes.c_uint64, ctypes.c_int, ctypes.c_char_p,
)  # fmt: skip


_libc.fallocate.argtypes = (ctypes.c_int, ctypes.c_int, ctypes.c_longlong, ctypes.c_longlong)
_FALLOC_KEEP_SIZE = 0x01


def _checked(result: int) -> int:
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
    return result


def reserve(fd: int, size: int) -> None:
    """Have room for so many bytes in a file, without making it longer.

    Raises:
        OSError: there is no room. Not where the file system cannot say.
    """
    try:
        _checked(_libc.fallocate(fd, _FALLOC_KEEP_SIZE, 0, size))
    except OSError as error:
        if error.errno not in (errno.EOPNOTSUPP, errno.ENOSYS):
            raise


class Opening(NamedTuple):
    """One open(2) that waits for an answer.

    Attributes:
        fd: the file, open for reading and writing; through it no new event comes. Whoever answers
            closes it.
        pid: of the process that opens it.
    """

    fd: int
    pid: int


class PermissionGroup:
    """Opens of files in marked directories wait here until they are answered.

    When the last descriptor of it is closed, also because its process was killed, the kernel lets
    all that wait go on.

    Raises:
        KernelSupportError: the kernel has no permission events, or the process may not use them.
    """

    def __init__(self) -> None:
        flags = _CLOEXEC | _NONBLOCK | _CLASS_PRE_CONTENT | _UNLIMITED_QUEUE | _UNLIMITED_MARKS
        # Not O_NOATIME, O_SYNC, …: what cannot be opened so for us is denied to who opens it.
        event_flags = os.O_RDWR | os.O_CLOEXEC | getattr(os, "O_LARGEFILE", 0)
        try:
            self.fd = _checked(_libc.fanotify_init(flags, event_flags))
        except OSError as error:
            raise KernelSupportError(
                f"fanotify_init: {error.strerror}; expected root and a kernel with "
                "CONFIG_FANOTIFY_ACCESS_PERMISSIONS"
            ) from error

    def mark(self, directory: int) -> None:
        """Let opens of the files in a directory wait; not of those further below.

        Args:
            directory: a descriptor of it, not of O_PATH.

        Raises:
            OSError: it cannot be marked, or the kernel has no permission events.
        """
        self._change(_MARK_ADD | _MARK_ONLYDIR, directory)

    def unmark(self, directory: int) -> None:
        """Let no further opens of it wait; those that do wait still want an answer."""
        with contextlib.suppress(FileNotFoundError):  # removed, and its mark with it
            self._change(_MARK_REMOVE | _MARK_ONLYDIR, directory)

    def mark_mount(self, directory: int) -> None:
        """Let every open on the mount of a directory wait. The gate does not: it is costly."""
        _checked(_libc.fanotify_mark(self.fd, _MARK_ADD | _MARK_MOUNT, _OPEN_PERM, directory, None))

    def _change(self, flags: int, directory: int) -> None:
        mask = _OPEN_PERM | _EVENT_ON_CHILD
        _checked(_libc.fanotify_mark(self.fd, flags, mask, directory, None))

    def read(self) -> list[Opening]:
        """What waits, some of it; empty when nothing does.

        Raises:
            OSError: an event could not be had; the kernel has refused that open.
        """
        try:
            data = os.read(self.fd, _READ_SIZE)
        except BlockingIOError:
            return []
        found = []
        at = 0
        while at + _METADATA.size <= len(data):
            length, version, _, _, _, fd, pid = _METADATA.unpack_from(data, at)
            if version != _METADATA_VERSION:
                raise OSError(errno.EPROTO, f"events of version {version}")
            if fd >= 0:
                found.append(Opening(fd, pid))
            at += length
        return found

    def answer(self, opening: Opening, *, allow: bool) -> None:
        """Let one open go on, or fail with EPERM; closes its descriptor."""
        try:
            os.write(self.fd, _RESPONSE.pack(opening.fd, _ALLOW if allow else _DENY))
        except FileNotFoundError:
            pass  # who waited was killed
        finally:
            os.close(opening.fd)

    def close(self) -> None:
        """Let go of everything."""
        os.close(self.fd)


class Change(NamedTuple):
    """Something happened to a directory that is watched.

    Attributes:
        watch: which, as ``add`` said; -1: events were lost.
        name: of the directory in it that came or went; "": the watched one itself is gone.
        came: it came; else it went.
    """

    watch: int
    name: str
    came: bool


class DirectoryWatch:
    """Tells of directories that are made or removed in others."""

    def __init__(self) -> None:
        self.fd = _checked(_libc.inotify_init1(os.O_CLOEXEC | os.O_NONBLOCK))

    def add(self, directory: int) -> int:
        """Watch a directory, given by a descriptor; the number of the watch.

        Raises:
            OSError: it is gone, or there are too many watches.
        """
        mask = _IN_CREATE | _IN_DELETE | _IN_MOVED_FROM | _IN_MOVED_TO
        mask |= _IN_DELETE_SELF | _IN_MOVE_SELF
        name = b"/proc/self/fd/%d" % directory
        return _checked(_libc.inotify_add_watch(self.fd, name, mask | _IN_ONLYDIR))

    def remove(self, watch: int) -> None:
        """Watch a directory no longer; ``read`` says so, too."""
        _libc.inotify_rm_watch(self.fd, watch)

    def read(self) -> Iterator[Change]:
        """What happened since; nothing when nothing did."""
        try:
            data = os.read(self.fd, _READ_SIZE)
        except BlockingIOError:
            return
        at = 0
        while at < len(data):
            watch, mask, _, length = _INOTIFY.unpack_from(data, at)
            at += _INOTIFY.size
            name = os.fsdecode(data[at : at + length].rstrip(b"\0"))
            at += length
            if mask & _IN_Q_OVERFLOW:
                yield Change(-1, "", came=False)
            elif mask & (_IN_DELETE_SELF | _IN_MOVE_SELF | _IN_IGNORED):
                yield Change(watch, "", came=False)
            elif mask & _IN_ISDIR:
                yield Change(watch, name, came=bool(mask & (_IN_CREATE | _IN_MOVED_TO)))

    def close(self) -> None:
        """Watch nothing any more."""
        os.close(self.fd)
