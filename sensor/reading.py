"""Reading what a container may have prepared: no path leads out, and work ends in time."""

from __future__ import annotations

import ctypes
import errno
import os
import stat
import time
from pathlib import Path

_SYS_OPENAT2 = 437  # the same number on every architecture
_RESOLVE_NO_XDEV, _RESOLVE_NO_MAGICLINKS, _RESOLVE_NO_SYMLINKS = 0x01, 0x02, 0x04
_RESOLVE_BENEATH, _RESOLVE_IN_ROOT = 0x08, 0x10
NOATIME = getattr(os, "O_NOATIME", 0)
# Not blocking: a container may hold a lease on a file, and opening it would wait for its answer.
READ = os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC | os.O_NOFOLLOW | NOATIME
LOOK = os.O_PATH | os.O_CLOEXEC | os.O_NOFOLLOW


class _OpenHow(ctypes.Structure):
    _fields_ = (
        ("flags", ctypes.c_uint64),
        ("mode", ctypes.c_uint64),
        ("resolve", ctypes.c_uint64),
    )


_libc = ctypes.CDLL(None, use_errno=True)


def _openat2(directory: int, path: bytes, flags: int, resolve: int) -> int:
    how = _OpenHow(flags, 0, resolve)
    fd: int = _libc.syscall(_SYS_OPENAT2, directory, path, ctypes.byref(how), ctypes.sizeof(how))
    if fd < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), os.fsdecode(path))
    return fd


class Root:
    """A directory that no path leads out of.

    Args:
        path: of it; the last component may be a link of /proc.

    Raises:
        OSError: it cannot be opened.
    """

    def __init__(self, path: str | Path) -> None:
        self._fd = os.open(path, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)

    def open(self, path: str, flags: int = READ) -> int:
        """Open what is below, through no symbolic link and no mount.

        Raises:
            OSError: it is not there, or lies behind a link or a mount.
        """
        resolve = (
            _RESOLVE_BENEATH | _RESOLVE_NO_XDEV | _RESOLVE_NO_SYMLINKS | _RESOLVE_NO_MAGICLINKS
        )
        return _openat2(self._fd, os.fsencode(path.strip("/") or "."), flags, resolve)

    def open_as_inside(self, path: str, flags: int = READ & ~os.O_NOFOLLOW) -> int:
        """Open a path as a process would whose root this is: links are followed within it."""
        return _openat2(
            self._fd, os.fsencode(path), flags, _RESOLVE_IN_ROOT | _RESOLVE_NO_MAGICLINKS
        )

    def has(self, path: str) -> bool:
        """Whether there is something at a path."""
        try:
            os.close(self.open(path, LOOK))
        except OSError:
            return False
        return True

    def read_small(self, path: str, limit: int) -> bytes:
        """The beginning of an ordinary file, as a process inside would read it.

        Raises:
            OSError: it cannot be read, or is no ordinary file.
        """
        fd = self.open_as_inside(path)
        with open(fd, "rb", buffering=0) as file:  # noqa: PTH123 - a descriptor has no path
            if not stat.S_ISREG(os.fstat(fd).st_mode):
                raise OSError(errno.EINVAL, "is no ordinary file", path)
            return file.read(limit) or b""

    def stat(self) -> os.stat_result:
        """Of the directory itself."""
        return os.fstat(self._fd)

    def close(self) -> None:
        """Let go of it."""
        os.close(self._fd)


class Deadline:
    """A point in time that work stops at.

    Args:
        seconds: from now.
    """

    def __init__(self, seconds: float) -> None:
        self._at = time.monotonic() + seconds

    def passed(self) -> bool:
        """Whether it is over."""
        return time.monotonic() >= self._at

    def left(self) -> float:
        """Seconds until then."""
        return max(0.0, self._at - time.monotonic())
