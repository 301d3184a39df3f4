"""The file system of an image: layers, one upon the other, and the paths through them.

Every path is resolved here, component by component, and symbolic links with it, so that no link
can lead out of the image, whatever it says. A layer is asked only for the entries of a directory
and for the content of an ordinary file, by paths that have no link in them.
"""

from __future__ import annotations

import enum
from collections import OrderedDict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol

from sensor.errors import ImageError
from sensor.images.content import Content
from sensor.images.omissions import Omissions

LINKS_MAX = 40  # symbolic links in one path, as the kernel has it
DEPTH_MAX = 256  # directories; a path of Linux has at most 4096 bytes, real trees some 30 parts
PATH_MAX = 4096
ENTRIES_MAX = 1_000_000  # of an image; large ones have 500,000. Each takes some 250 bytes
DIRECTORY_MAX = 200_000  # entries of one directory
# Listings that are kept: looking up all of dpkg's lists needs a handful.
_CACHED_DIRECTORIES, _CACHED_ENTRIES = 64, 2 * DIRECTORY_MAX
# Mounted over while a container runs, whatever an image has there.
MOUNTED = frozenset({"proc", "sys", "dev"})


class Kind(enum.Enum):
    """What an entry of a directory is."""

    FILE = "file"
    DIRECTORY = "directory"
    SYMLINK = "symlink"
    WHITEOUT = "whiteout"  # says that the layers below have nothing here
    OTHER = "other"  # devices, sockets, pipes: never opened


class Node(NamedTuple):
    """One entry of a directory in one layer.

    Attributes:
        kind: what it is.
        mode: permission bits.
        size: of a file, in bytes.
        detail: the layer's own business.
        program: False when the layer has seen that it is no compiled program.
    """

    kind: Kind
    mode: int = 0
    size: int = 0
    detail: object = None
    program: bool | None = None


class Listing(NamedTuple):
    """What one layer has in one directory."""

    entries: Mapping[str, Node]
    opaque: bool = False  # what the layers below have in this directory does not count
    cut: bool = False  # there are more than DIRECTORY_MAX


class Layer(Protocol):
    """One layer of an image. Paths have no leading slash; the root is ""."""

    name: str  # diff id, or ""

    def list(self, path: str) -> Listing | None:
        """The entries of a directory; None where it is gone, though its parent had it.

        Raises:
            OSError: it cannot be read.
            ImageError: it is not read, and why.
        """

    def target(self, path: str, node: Node) -> str:
        """Where a symbolic link points.

        Raises:
            OSError: it cannot be read.
        """

    def open(self, path: str, node: Node) -> Content:
        """The content of an ordinary file.

        Raises:
            OSError: it cannot be read.
            ImageError: it is not there, and why.
        """

    def gone(self) -> bool:
        """Whether it was removed while it was read."""

    def close(self) -> None:
        """Let go of what is open."""


@dataclass(frozen=True, slots=True)
class Found:
    """Something in the merged tree.

    Attributes:
        path: without a leading slash and without links.
        node: the uppermost layer's entry.
        layers: indexes of the layers that make it up, uppermost first; one but for directories.
    """

    path: str
    node: Node
    layers: tuple[int, ...]

    @property
    def name(self) -> str:
        """The last component."""
        return self.path.rpartition("/")[2]


class Tree:
    """An image's file system.

    Args:
        layers: uppermost first.
        omissions: where it is noted what cannot be read; its own by default.
    """

    def __init__(self, layers: Sequence[Layer], omissions: Omissions | None = None) -> None:
        self.layers = tuple(layers)
        self.omissions = Omissions() if omissions is None else omissions
        self.entries = 0  # that walks have seen
        self.partial = False  # some of its entries were not listed
        self._root = Found("", Node(Kind.DIRECTORY), tuple(range(len(self.layers))))
        self._listings: OrderedDict[str, dict[str, Found]] = OrderedDict()
        self._held = 0  # entries in them

    def layer_of(self, found: Found) -> str:
        """Diff id of the layer that something comes from, or ""."""
        return self.layers[found.layers[0]].name if found.layers else ""

    def list(self, directory: Found) -> dict[str, Found]:
        """The entries of a directory, with whiteouts and opaque directories applied.

        What cannot be read is among ``omissions``.
        """
        known = self._listings.get(directory.path)
        if known is not None:
            self._listings.move_to_end(directory.path)
            return known
        merged: dict[str, Found] = {}
        hidden: set[str] = set()
        prefix = f"{directory.path}/" if directory.path else ""
        for index in directory.layers:
            try:
                listing = self.layers[index].list(directory.path)
            except (OSError, ImageError) as error:
                self._leave_out(directory, error)
                continue
            if listing is None:
                self._leave_out(directory, "went away while it was read", final=False)
                continue
            if listing.cut:
                self._leave_out(
                    directory, f"more than {DIRECTORY_MAX} entries: the rest is not read"
                )
            if merged or hidden or len(directory.layers) > 1:
                _lay_over(merged, hidden, listing, prefix, index)
            else:
                only = (index,)
                for name, node in listing.entries.items():
                    if node.kind is not Kind.WHITEOUT:
                        merged[name] = Found(prefix + name, node, only)
            if listing.opaque:
                break
        self._keep(directory.path, merged)
        return merged

    def _leave_out(self, directory: Found, reason: str | Exception, *, final: bool = True) -> None:
        self.partial = True
        self.omissions.add("/" + directory.path, reason, final=final)

    def _keep(self, path: str, merged: dict[str, Found]) -> None:
        self._listings[path] = merged
        self._held += len(merged)
        while len(self._listings) > 1 and (
            len(self._listings) > _CACHED_DIRECTORIES or self._held > _CACHED_ENTRIES
        ):
            _, old = self._listings.popitem(last=False)
            self._held -= len(old)

    def find(self, path: str) -> Found | None:
        """What a path leads to, links followed within the image; None where nothing is.

        Raises:
            ImageError: links lead in a circle, or a link cannot be read.
        """
        pending = [part for part in reversed(path.split("/")) if part not in ("", ".")]
        trail = [self._root]
        links = 0
        while pending:
            name = pending.pop()
            if name == "..":
                if len(trail) > 1:
                    trail.pop()
                continue
            if trail[-1].node.kind is not Kind.DIRECTORY:
                return None
            found = self.list(trail[-1]).get(name)
            if found is None:
                return None
            if found.node.kind is not Kind.SYMLINK:
                trail.append(found)
                continue
            links += 1
            if links > LINKS_MAX:
                raise ImageError(f"more than {LINKS_MAX} symbolic links in one path")
            try:
                target = self.layers[found.layers[0]].target(found.path, found.node)
            except OSError as error:
                raise ImageError(f"symbolic link not read: {error.strerror}") from error
            if target.startswith("/"):
                del trail[1:]
            pending.extend(part for part in reversed(target.split("/")) if part not in ("", "."))
        return trail[-1]

    def file(self, path: str) -> Found | None:
        """An ordinary file by its path, links followed; what is none is among ``omissions``."""
        try:
            found = self.find(path)
        except ImageError as error:
            self.omissions.add("/" + path, error)
            return None
        if found is None or found.node.kind is Kind.DIRECTORY:
            return None
        if found.node.kind is not Kind.FILE:
            self.omissions.add("/" + path, "is no ordinary file; not read")
            return None
        return found

    def directory(self, path: str) -> dict[str, Found]:
        """The entries of a directory by its path, links followed; empty where there is none."""
        try:
            found = self.find(path)
        except ImageError as error:
            self.omissions.add("/" + path, error)
            return {}
        return self.list(found) if found and found.node.kind is Kind.DIRECTORY else {}

    def open(self, found: Found) -> Content:
        """The content of an ordinary file.

        Raises:
            ImageError: it cannot be read, and why.
        """
        try:
            return self.layers[found.layers[0]].open(found.path, found.node)
        except OSError as error:
            raise ImageError(f"not read: {error.strerror}") from error

    def read(self, found: Found, limit: int) -> bytes:
        """All of an ordinary file.

        Raises:
            ImageError: it cannot be read or is larger than ``limit`` bytes.
        """
        with self.open(found) as content:
            try:
                return content.read(limit)
            except OSError as error:
                raise ImageError(f"not read: {error.strerror}") from error

    def walk(self) -> Iterator[tuple[Found, dict[str, Found]]]:
        """Every directory with its entries, but what is mounted over in every container."""
        pending = [self._root]
        while pending:
            directory = pending.pop()
            entries = self.list(directory)
            self.entries += len(entries)
            if self.entries > ENTRIES_MAX:
                self.partial = True
                self.omissions.add(
                    "", f"more than {ENTRIES_MAX} files: those from /{directory.path} on not read"
                )
                return
            yield directory, entries
            below = [found for found in entries.values() if found.node.kind is Kind.DIRECTORY]
            if not directory.path:
                below = [found for found in below if found.path not in MOUNTED]
            elif below and directory.path.count("/") >= DEPTH_MAX:
                self._leave_out(directory, f"more than {DEPTH_MAX} directories deep: not read")
                continue
            pending.extend(reversed(below))

    def close(self) -> None:
        """Let go of what is open."""
        for layer in self.layers:
            layer.close()


def _lay_over(
    merged: dict[str, Found], hidden: set[str], listing: Listing, prefix: str, index: int
) -> None:
    """Put a lower layer's entries below what is there.

    Args:
        merged: what is there; changed.
        hidden: names below which nothing counts any more; changed.
        listing: of the lower layer.
        prefix: of paths in this directory.
        index: of the layer.
    """
    for name, node in listing.entries.items():
        if name in hidden:
            continue
        have = merged.get(name)
        if node.kind is not Kind.DIRECTORY:
            hidden.add(name)  # a whiteout, or what covers all that lies below it
            if have is None and node.kind is not Kind.WHITEOUT:
                merged[name] = Found(prefix + name, node, (index,))
        elif have is None:
            merged[name] = Found(prefix + name, node, (index,))
        else:
            merged[name] = Found(have.path, have.node, (*have.layers, index))
