"""A layer that is a directory: one of overlay2's, an unpacked image, or a container's root."""

from __future__ import annotations

import contextlib
import errno
import os
import stat
from pathlib import Path

from sensor.errors import ImageError
from sensor.images.content import Content
from sensor.images.tree import DIRECTORY_MAX, PATH_MAX, Kind, Listing, Node
from sensor.reading import LOOK, NOATIME, READ, Root

_DIRECTORY = READ | os.O_DIRECTORY
_OPAQUE = ("trusted.overlay.opaque", "user.overlay.opaque")
_WHITEOUT = ("trusted.overlay.whiteout", "user.overlay.whiteout")
_REDIRECT = ("trusted.overlay.redirect", "user.overlay.redirect")
_METACOPY = ("trusted.overlay.metacopy", "user.overlay.metacopy")


class DirectoryLayer:
    """A directory and what is below it on the same file system.

    What is mounted below it is not the image's and is not read: a container's volumes, say.

    Args:
        path: of it; the last component may be a link of /proc, as /proc/PID/root.
        name: diff id, or "".
        overlay: whether it is one of several layers of an overlay, with whiteouts in it.

    Raises:
        ImageError: it cannot be opened.
    """

    def __init__(self, path: Path, name: str = "", *, overlay: bool = False) -> None:
        self.name = name
        self._overlay = overlay
        try:
            self._root = Root(path)
        except OSError as error:
            raise ImageError(f"{path}: {error.strerror}; expected a directory") from error

    def close(self) -> None:
        """See ``Layer.close``."""
        self._root.close()

    def gone(self) -> bool:
        """See ``Layer.gone``."""
        return self._root.stat().st_nlink == 0

    def _open(self, path: str, flags: int) -> int:
        if len(path) >= PATH_MAX:
            raise ImageError(f"a path of more than {PATH_MAX} bytes: not read")
        try:
            return self._root.open(path, flags)
        except PermissionError:
            # Only an owner may ask not to be noticed.
            return self._root.open(path, flags & ~NOATIME)
        except OSError as error:
            if error.errno == errno.EXDEV:
                raise ImageError("something is mounted here, not of the image: not read") from None
            raise

    def list(self, path: str) -> Listing | None:
        """See ``Layer.list``."""
        try:
            fd = self._open(path, _DIRECTORY)
        except OSError as error:
            # Gone since, or replaced by a link or a file.
            if error.errno in (errno.ENOENT, errno.ENOTDIR, errno.ELOOP):
                return None
            raise
        entries: dict[str, Node] = {}
        try:
            opaque = _attribute(fd, _OPAQUE) if self._overlay else None
            if self._overlay and _attribute(fd, _REDIRECT):
                raise ImageError("was renamed from elsewhere (overlay redirect): not read")
            with os.scandir(fd) as found:
                for item in found:
                    if len(entries) >= DIRECTORY_MAX:
                        return Listing(entries, opaque == b"y", cut=True)
                    node = _node(item)
                    if node is None:
                        continue
                    if opaque == b"x" and _is_whiteout(fd, item.name, node):
                        node = Node(Kind.WHITEOUT)
                    entries[item.name] = node
        finally:
            os.close(fd)
        return Listing(entries, opaque == b"y")

    def target(self, path: str, node: Node) -> str:
        """See ``Layer.target``."""
        del node
        fd = self._open(path, LOOK)
        try:
            return os.readlink("", dir_fd=fd)
        finally:
            os.close(fd)

    def open(self, path: str, node: Node) -> Content:
        """See ``Layer.open``."""
        del node
        fd = self._open(path, READ)
        found = os.fstat(fd)
        why = ""
        if not stat.S_ISREG(found.st_mode):
            why = "is no ordinary file any more: not read"
        elif self._overlay and _attribute(fd, _METACOPY) is not None:
            why = "has its content in another layer (overlay metacopy): not read"
        if why:
            os.close(fd)
            raise ImageError(why)
        return Content(fd, 0, found.st_size, owned=True)


def _node(item: os.DirEntry[str]) -> Node | None:
    """What an entry is; None when it went away since."""
    if item.is_dir(follow_symlinks=False):
        return Node(Kind.DIRECTORY)
    if item.is_symlink():
        return Node(Kind.SYMLINK)
    try:
        found = item.stat(follow_symlinks=False)
    except FileNotFoundError:
        return None
    if stat.S_ISREG(found.st_mode):
        return Node(Kind.FILE, stat.S_IMODE(found.st_mode), found.st_size)
    if stat.S_ISCHR(found.st_mode) and found.st_rdev == 0:
        return Node(Kind.WHITEOUT)
    return Node(Kind.OTHER)


def _is_whiteout(directory: int, name: str, node: Node) -> bool:
    """Whether an empty file says that there is none: in a directory marked "x".

    Source: the kernel's Documentation/filesystems/overlayfs.rst.
    """
    place = f"/proc/self/fd/{directory}/{name}"
    return node.size == 0 and any(_has_attribute(place, attribute) for attribute in _WHITEOUT)


def _attribute(fd: int, names: tuple[str, ...]) -> bytes | None:
    """The first of some extended attributes that is there."""
    for name in names:
        with contextlib.suppress(OSError):
            return os.getxattr(fd, name)
    return None


def _has_attribute(place: str, name: str) -> bool:
    try:
        os.getxattr(place, name, follow_symlinks=False)
    except OSError:
        return False
    return True
