"""The files of a bundle: whether they are what we may change, and how they are changed.

Directories are given by descriptors: nothing here follows a path that somebody may change.
"""

from __future__ import annotations

import contextlib
import os
import stat
import time

from sensor.kernel.fanotify import reserve

CONFIG = "config.json"
PID_FILES = ("init.pid", ".init.pid")  # written when the runtime has made the container
_TEMPORARY = ".rote-config.json"
_YOUNG_SECONDS = 10.0
_MODE_BAD = stat.S_IWGRP | stat.S_IWOTH


def is_trusted(fd: int) -> bool:
    """Whether only root can put something into a directory."""
    found = os.fstat(fd)
    return not found.st_uid and not found.st_mode & _MODE_BAD


def is_made(fd: int) -> bool:
    """Whether a bundle's container is made, and its ``config.json`` no longer read."""
    names = os.listdir(fd)
    return any(name in PID_FILES for name in names)


def is_young(fd: int) -> bool:
    """Whether a bundle is so new that its container may still be in the making."""
    try:
        found = os.stat(CONFIG, dir_fd=fd, follow_symlinks=False)
    except FileNotFoundError:
        found = os.fstat(fd)
    return time.time() - found.st_mtime < _YOUNG_SECONDS


def size_of(directory: int) -> int:
    """Of ``config.json`` in a directory; 0 when there is none."""
    try:
        return os.stat(CONFIG, dir_fd=directory, follow_symlinks=False).st_size
    except FileNotFoundError:
        return 0


def _write(fd: int, data: bytes) -> None:
    at = 0
    while at < len(data):
        at += os.pwrite(fd, data[at:], at)


def overwrite(fd: int, new: bytes, size: int) -> None:
    """Write a longer content over a file's; on any error it is what it was.

    Raises:
        OSError: it could not be written.
    """
    old = os.pread(fd, size, 0)
    reserve(fd, len(new))  # so that writing takes microseconds, and nothing can stop it
    try:
        _write(fd, new)
    except OSError:
        # No room for more: what was there has its room.
        _write(fd, old)
        os.ftruncate(fd, len(old))
        raise


def replace(directory: int, old: int, found: os.stat_result, new: bytes) -> None:
    """Let another file take the place of ``config.json``.

    Raises:
        OSError: it could not be written; the old one is in its place.
    """
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    fd = os.open(_TEMPORARY, flags, 0o600, dir_fd=directory)
    try:
        try:
            _write(fd, new)
            os.fchown(fd, found.st_uid, found.st_gid)
            os.fchmod(fd, stat.S_IMODE(found.st_mode))
            for name in os.listxattr(old):
                with contextlib.suppress(OSError):  # what cannot be set is the file system's
                    os.setxattr(fd, name, os.getxattr(old, name))
        finally:
            os.close(fd)
        os.rename(_TEMPORARY, CONFIG, src_dir_fd=directory, dst_dir_fd=directory)
    except OSError:
        with contextlib.suppress(OSError):
            os.unlink(_TEMPORARY, dir_fd=directory)
        raise
