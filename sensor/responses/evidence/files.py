"""What a container added, changed and deleted in its file system, with hashes and contents.

Read from the overlay's upper directory, which needs no runtime and no running process. A container
may have put anything there: nothing is followed out of it, and nothing but ordinary files is
opened. What matters most is hashed first (programs, then what is protected, then the newest), so
that a heap of rubbish cannot hide the rest from limits on time and size.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import stat
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from sensor.paths import is_protected
from sensor.reading import LOOK, READ, Deadline, Root
from sensor.responses.evidence.pack import (
    DiskFullError,
    Member,
    PackFullError,
    Part,
    TarWriter,
    member_name,
)

_DIRECTORY = READ | os.O_DIRECTORY
_CHUNK = 1 << 20
_OPAQUE = ("trusted.overlay.opaque", "user.overlay.opaque")
_METACOPY = ("trusted.overlay.metacopy", "user.overlay.metacopy")
_WHITEOUT = ("trusted.overlay.whiteout", "user.overlay.whiteout")
_CAPABILITY = "security.capability"
_ERRORS_SHOWN = 10  # in a part's remarks; all are counted


@dataclass(slots=True)
class Entry:
    """One thing that differs from the image. Times are nanoseconds since the epoch."""

    path: str  # in the container
    change: str  # "added", "changed", "deleted"
    kind: str  # "file", "directory", "symlink", "fifo", "socket", "device", "nothing"
    origin: str  # "layer" or "tmpfs"
    mode: int = 0
    uid: int = 0
    gid: int = 0
    size: int = 0
    mtime_ns: int = 0
    ctime_ns: int = 0
    links: int = 1
    target: str = ""  # of a symbolic link
    sha256: str = ""
    member: str = ""  # of the pack, with the content
    remark: str = ""

    def as_json(self) -> dict[str, Any]:
        """As the listing has it; what says nothing is left out."""
        found: dict[str, Any] = {
            "path": self.path,
            "change": self.change,
            "kind": self.kind,
            "origin": self.origin,
        }
        if self.change != "deleted":
            found |= {
                "mode": f"{self.mode:04o}",
                "uid": self.uid,
                "gid": self.gid,
                "size": self.size,
                "mtime_ns": self.mtime_ns,
                "ctime_ns": self.ctime_ns,
            }
        if self.links > 1 and self.kind == "file":
            found["links"] = self.links
        for name in ("target", "sha256", "member", "remark"):
            if value := getattr(self, name):
                found[name] = value
        return found


@dataclass(frozen=True, slots=True)
class FileLimits:
    """How much is read. Sizes in bytes."""

    entries: int = 500_000
    hash_each: int = 1 << 30  # beyond that only the beginning is hashed, and it is said
    content_each: int = 1 << 20
    program_each: int = 16 << 20  # a file with an execute bit
    content_all: int = 64 << 20
    contents: int = 4000


@dataclass(frozen=True, slots=True)
class Tree:
    """One directory to be listed.

    Args:
        root: of it.
        prefix: where it is in the container; "" for its root.
        origin: "layer" or "tmpfs".
        lower: layers below it, uppermost first; what is in none of them was added.
    """

    root: Root
    prefix: str
    origin: str
    lower: Sequence[Root] = ()


def walk(tree: Tree, part: Part, limit: int, deadline: Deadline) -> Iterator[Entry]:
    """Everything in a tree.

    Args:
        tree: which.
        part: told of what could not be looked at.
        limit: entries at most.
        deadline: when to stop.
    """
    pending: list[tuple[str, tuple[Root, ...]]] = [("", tuple(tree.lower))]
    number = 0
    while pending:
        path, lower = pending.pop()
        try:
            fd = tree.root.open(path, _DIRECTORY)
        except OSError as error:
            note_error(part, "directories not read", tree.prefix + path, error)
            continue
        below = _open_lower(path, lower)
        try:
            if _attribute(fd, _OPAQUE) in (b"y", b"x") and path:
                for _, lower_fd in below:
                    os.close(lower_fd)
                below = []
            with os.scandir(fd) as entries:
                for item in entries:
                    if number >= limit:
                        part.limited(f"more than {limit} changes: the rest is not listed")
                        return
                    if number & 1023 == 0 and deadline.passed():
                        part.lacks(f"out of time after {number} changes: the rest is not listed")
                        return
                    entry = _look(item, tree, path, fd, [lower_fd for _, lower_fd in below])
                    if entry is None:
                        continue  # went away since the directory was read
                    number += 1
                    yield entry
                    if entry.kind == "directory":
                        pending.append((f"{path}/{item.name}", tuple(r for r, _ in below)))
        except OSError as error:
            note_error(part, "directories not read", tree.prefix + path, error)
        finally:
            os.close(fd)
            for _, lower_fd in below:
                os.close(lower_fd)


def _open_lower(path: str, lower: Sequence[Root]) -> list[tuple[Root, int]]:
    found = []
    for root in lower:
        try:
            found.append((root, root.open(path, _DIRECTORY)))
        except OSError as error:
            if error.errno in (errno.ENOTDIR, errno.ELOOP):
                break  # what is no directory covers all that lies below it
    return found


def _look(
    item: os.DirEntry[str], tree: Tree, path: str, directory: int, lower: list[int]
) -> Entry | None:
    try:
        found = item.stat(follow_symlinks=False)
    except FileNotFoundError:
        return None
    mode = found.st_mode
    where = f"{tree.prefix}{path}/{item.name}"
    below = _in_lower(item.name, lower)
    if tree.origin == "layer" and (
        (stat.S_ISCHR(mode) and found.st_rdev == 0)
        or (stat.S_ISREG(mode) and not found.st_size and _is_whiteout(item.name, directory))
    ):
        return Entry(where, "deleted", "nothing", tree.origin)
    entry = _filled(where, "changed" if below else "added", tree.origin, found)
    if entry.kind == "symlink":
        with contextlib.suppress(OSError):
            entry.target = os.readlink(item.name, dir_fd=directory)
    return entry


def entry_of(root: Root, change: str, path: str) -> Entry:
    """What a runtime says has changed, as it is now."""
    if change == "deleted":
        return Entry(path, change, "nothing", "layer")
    try:
        fd = root.open(path, LOOK)
    except OSError as error:
        return Entry(path, change, "nothing", "layer", remark=f"not read: {error.strerror}")
    try:
        entry = _filled(path, change, "layer", os.fstat(fd))
        if entry.kind == "symlink":
            entry.target = os.readlink("", dir_fd=fd)
        return entry
    finally:
        os.close(fd)


def _filled(path: str, change: str, origin: str, found: os.stat_result) -> Entry:
    kind = _kind(found.st_mode)
    device = f"device {os.major(found.st_rdev)}:{os.minor(found.st_rdev)}"
    return Entry(
        path,
        change,
        kind,
        origin,
        stat.S_IMODE(found.st_mode),
        found.st_uid,
        found.st_gid,
        found.st_size,
        found.st_mtime_ns,
        found.st_ctime_ns,
        found.st_nlink,
        remark=device if kind == "device" else "",
    )


def _kind(mode: int) -> str:
    kinds = (
        (stat.S_ISREG, "file"),
        (stat.S_ISDIR, "directory"),
        (stat.S_ISLNK, "symlink"),
        (stat.S_ISFIFO, "fifo"),
        (stat.S_ISSOCK, "socket"),
    )
    return next((name for test, name in kinds if test(mode)), "device")


def _in_lower(name: str, lower: list[int]) -> bool:
    for fd in lower:
        try:
            found = os.stat(name, dir_fd=fd, follow_symlinks=False)
        except OSError:
            continue
        return not (stat.S_ISCHR(found.st_mode) and found.st_rdev == 0)
    return False


def _attribute(fd: int, names: Sequence[str]) -> bytes | None:
    for name in names:
        with contextlib.suppress(OSError):
            return os.getxattr(fd, name)
    return None


def _is_whiteout(name: str, directory: int) -> bool:
    """Whether an empty file stands for a deleted one (overlay on overlay, since 6.7)."""
    if _attribute(directory, _OPAQUE) != b"x":
        return False
    try:
        fd = os.open(name, READ, dir_fd=directory)
    except OSError:
        return False
    try:
        return _attribute(fd, _WHITEOUT) is not None
    finally:
        os.close(fd)


def urgency(entry: Entry) -> tuple[int, int]:
    """What is hashed and kept first: the smaller, the sooner."""
    if entry.mode & 0o6111:
        return 0, -entry.mtime_ns
    return (1 if is_protected(entry.path) else 2), -entry.mtime_ns


class Contents:
    """Hashes files, and keeps the contents of those that fit.

    Args:
        writer: of the pack.
        keep: told of each member.
        limits: how much.
        deadline: when to stop.
    """

    def __init__(
        self,
        writer: TarWriter,
        keep: Callable[[Member], None],
        limits: FileLimits,
        deadline: Deadline,
    ) -> None:
        self._writer = writer
        self._keep = keep
        self._limits = limits
        self._deadline = deadline
        self._kept = self._number = 0
        self._full: PackFullError | None = None  # why no contents are kept any more

    def take(self, trees: Sequence[Tree], entries: Sequence[Entry], part: Part) -> None:
        """Hash the files among the entries, the most urgent first."""
        files = sorted((entry for entry in entries if entry.kind == "file"), key=urgency)
        hashed = left_out = 0
        for entry in files:
            if self._deadline.passed():
                part.lacks(f"out of time: {len(files) - hashed} of {len(files)} files not hashed")
                break
            tree = next(tree for tree in reversed(trees) if _is_in(entry, tree))
            try:
                fd = tree.root.open(entry.path[len(tree.prefix) :])
            except OSError as error:
                entry.remark = f"not read: {error.strerror}"
                note_error(part, "files not read", entry.path, error)
                continue
            try:
                self._read(fd, entry, part)
            except OSError as error:
                entry.remark = f"not read: {error.strerror}"
                note_error(part, "files not read", entry.path, error)
            finally:
                os.close(fd)
            hashed += bool(entry.sha256)
            left_out += not entry.member and bool(entry.size)
        part.counts["files"] = len(files)
        part.counts["hashed"] = hashed
        part.counts["contents"] = self._number
        if left_out:
            tell = part.lacks if isinstance(self._full, DiskFullError) else part.limited
            tell(
                f"contents of {left_out} files: larger than the limit, or no room left"
                + (f" ({self._full})" if self._full else "")
            )

    def _read(self, fd: int, entry: Entry, part: Part) -> None:
        before = os.fstat(fd)
        if not stat.S_ISREG(before.st_mode):
            entry.remark = "not read: was replaced by something else"
            return
        names = os.listxattr(fd)
        if _CAPABILITY in names:
            entry.remark = f"capabilities {os.getxattr(fd, _CAPABILITY).hex()}"
        if any(name in names for name in _METACOPY):
            entry.remark = "only attributes changed; the content is the image's"
            return
        limit = self._limits.program_each if entry.mode & 0o111 else self._limits.content_each
        wanted = (
            0 < before.st_size <= limit
            and self._number < self._limits.contents
            and self._kept + before.st_size <= self._limits.content_all
            and not self._full
        )
        if wanted:
            content = _read_all(fd, before.st_size)
            entry.sha256 = hashlib.sha256(content).hexdigest()
            self._add(entry, content)
        else:
            entry.sha256, whole = self._hash(fd, before)
            if not whole:
                entry.remark = entry.sha256 or "too large to be hashed in time"
                entry.sha256 = ""
                part.limited("files too large to be hashed whole")
        after = os.fstat(fd)
        if (before.st_size, before.st_mtime_ns, before.st_ctime_ns) != (
            after.st_size,
            after.st_mtime_ns,
            after.st_ctime_ns,
        ):
            entry.remark = "was changed while it was read"
            part.lacks("files that were changed while they were read")

    def _add(self, entry: Entry, content: bytes) -> None:
        try:
            member = self._writer.add(member_name("files", entry.path), content)
        except PackFullError as error:
            self._full = error
            return
        entry.member = member.name
        self._kept += len(content)
        self._number += 1
        self._keep(member)

    def _hash(self, fd: int, found: os.stat_result) -> tuple[str, bool]:
        """The hash of a file, or a remark about its beginning, and whether it is of the whole."""
        digest = hashlib.sha256()
        taken = 0
        while taken < self._limits.hash_each and not self._deadline.passed():
            # No further than it was when it was opened: it may grow faster than it is read.
            piece = os.read(fd, min(_CHUNK, found.st_size - taken))
            if not piece:
                return digest.hexdigest(), True
            digest.update(piece)
            taken += len(piece)
        return f"sha256 of the first {taken} of {found.st_size} bytes: {digest.hexdigest()}", False


def _read_all(fd: int, size: int) -> bytes:
    content = bytearray()
    while len(content) <= size and (piece := os.read(fd, min(_CHUNK, size + 1 - len(content)))):
        content += piece
    return bytes(content[:size])


def _is_in(entry: Entry, tree: Tree) -> bool:
    return entry.origin == tree.origin and (
        not tree.prefix or entry.path.startswith(tree.prefix + "/")
    )


def note_error(part: Part, what: str, path: str, error: OSError) -> None:
    """Count something that could not be looked at; the first few are named."""
    number = part.counts[what] = part.counts.get(what, 0) + 1
    if number <= _ERRORS_SHOWN:
        part.lacks(f"{path}: {error.strerror}")
    elif number == _ERRORS_SHOWN + 1:
        part.lacks(f"{what}: more than {_ERRORS_SHOWN}")
