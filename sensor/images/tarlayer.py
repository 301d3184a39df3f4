"""A layer that is a tar archive: an index of it, and the contents that are wanted."""

from __future__ import annotations

from sensor.errors import ImageError
from sensor.images.content import Content
from sensor.images.omissions import Omissions
from sensor.images.select import KEY_MAX, Tells, may_hold_key, tells
from sensor.images.streams import ContentSource, Scratch, UnpackedSource, compression
from sensor.images.tar import Member, clean, members
from sensor.images.tree import DEPTH_MAX, ENTRIES_MAX, PATH_MAX, Kind, Listing, Node

_WHITEOUT, _OPAQUE = ".wh.", ".wh..wh..opq"  # source: the OCI image layer specification
_ELF = b"\x7fELF"
# A compressed layer is gone through again for a file that nobody foresaw: behind a link, say.
_AGAIN_MAX = 4
# Of a compressed layer, what is set aside: the largest genuine programs in Go have 200 MB.
KEPT_MAX = 512 << 20


class TarLayer:
    """A layer in an archive.

    What is not compressed is read where it lies. Of a compressed one the files that tell of
    packages are set aside in one pass.

    Args:
        content: the archive.
        name: diff id, or "".
        scratch: where unpacked files go.
        omissions: told when the archive is damaged; what was read until then counts.
        place: how to call the archive there.
    """

    def __init__(
        self, content: Content, name: str, scratch: Scratch, omissions: Omissions, place: str
    ) -> None:
        self.name = name
        self._content = content
        self._scratch = scratch
        self._omissions = omissions
        self._place = place
        self._how = compression(content)
        self._directories: dict[str, dict[str, Node]] = {"": {}}
        self._whiteouts: dict[str, set[str]] = {}
        self._opaque: set[str] = set()
        self._passes = 0
        self._go_through(None)

    def list(self, path: str) -> Listing | None:
        """See ``Layer.list``."""
        entries = self._directories.get(path)
        gone = self._whiteouts.get(path)
        if entries is None:
            return None
        if gone:
            entries = dict.fromkeys(gone, Node(Kind.WHITEOUT)) | entries
        return Listing(entries, path in self._opaque or self._is_new(path))

    def _is_new(self, path: str) -> bool:
        """Whether a directory was removed and made anew in this layer."""
        parent, _, name = path.rpartition("/")
        return name in self._whiteouts.get(parent, ())

    def target(self, path: str, node: Node) -> str:
        """See ``Layer.target``."""
        del path
        return str(node.detail)

    def open(self, path: str, node: Node) -> Content:
        """See ``Layer.open``."""
        start = node.detail
        if not isinstance(start, int):
            start = self._fetch(path if start is None else str(start), node.size)
        if self._how:
            return self._scratch.content(start, node.size)
        return Content(self._content.fd, self._content.start + start, node.size, owned=False)

    def gone(self) -> bool:
        """See ``Layer.gone``: what is open stays readable."""
        return False

    def close(self) -> None:
        """See ``Layer.close``. The archive belongs to whoever opened it."""

    # ---- the pass over the archive -----------------------------------------------------------

    def _go_through(self, only: str | None) -> int | None:
        """Index the archive; or set one file of a compressed one aside, and say where."""
        self._passes += 1
        source = (
            UnpackedSource(self._content, self._how, self._scratch)
            if self._how
            else ContentSource(self._content)
        )
        try:
            for member in members(source):
                if only is None:
                    self._add(member, source)
                    if self._scratch.entries > ENTRIES_MAX:
                        self._omissions.add(
                            self._place, f"more than {ENTRIES_MAX} files: the rest is not read"
                        )
                        break
                elif member.name == only and member.kind == "file":
                    assert isinstance(source, UnpackedSource)
                    return self._scratch.put(source, member.size)
        except (ImageError, OSError) as error:
            self._omissions.add(self._place, error)
        return None

    def _fetch(self, path: str, size: int) -> int:
        if size > KEPT_MAX:
            raise ImageError(f"{size} bytes; at most {KEPT_MAX} are unpacked")
        if self._passes > _AGAIN_MAX:
            raise ImageError("in a compressed layer, where nothing was expected: not read")
        start = self._go_through(path)
        if start is None:
            raise ImageError("in the damaged part of a layer: not read")
        return start

    def _add(self, member: Member, source: ContentSource | UnpackedSource) -> None:
        path = member.name
        if not path:
            return
        if len(path) >= PATH_MAX or path.count("/") > DEPTH_MAX:
            self._omissions.add(
                self._place, f"a path of {len(path)} bytes, {path.count('/')} deep: not read"
            )
            return
        self._scratch.entries += 1
        parent, _, name = path.rpartition("/")
        if name.startswith(_WHITEOUT):
            if name == _OPAQUE:
                self._directory(parent, path)
                self._opaque.add(parent)
            elif not name.startswith(_WHITEOUT * 2):
                self._directory(parent, path)
                self._whiteouts.setdefault(parent, set()).add(name[len(_WHITEOUT) :])
            return
        entries = self._directory(parent, path)
        if entries is None:
            return
        if member.kind == "directory":
            self._directory(path, path)
            return
        node = self._node(member, source)
        if node is not None:
            old = entries.get(name)
            if old is not None and old.kind is Kind.DIRECTORY:
                self._forget(path)
            entries[name] = node

    def _directory(self, path: str, member: str) -> dict[str, Node] | None:
        """The entries of a directory, which is made with all above it; None behind a link."""
        known = self._directories.get(path)
        if known is not None:
            return known
        parent, _, name = path.rpartition("/")
        above = self._directory(parent, member)
        if above is None:
            return None
        if (there := above.get(name)) is not None and there.kind is Kind.SYMLINK and member != path:
            self._omissions.add(
                "/" + member, "lies behind a symbolic link of the same layer: not read"
            )
            return None
        above[name] = Node(Kind.DIRECTORY)
        self._directories[path] = {}
        return self._directories[path]

    def _forget(self, path: str) -> None:
        """A directory that a later member replaced."""
        below = path + "/"
        for known in [d for d in self._directories if d == path or d.startswith(below)]:
            del self._directories[known]

    def _node(self, member: Member, source: ContentSource | UnpackedSource) -> Node | None:
        if member.kind == "file":
            return self._file(member, source)
        if member.kind == "symlink":
            return Node(Kind.SYMLINK, 0, 0, member.link)
        if member.kind == "hard link":
            return self._linked(member)
        if member.kind == "sparse":
            if tells(member.name, member.mode) is not Tells.NOTHING:
                self._omissions.add("/" + member.name, "a sparse file: not read")
            return Node(Kind.OTHER, member.mode, member.size)
        return Node(Kind.OTHER, member.mode)

    def _linked(self, member: Member) -> Node | None:
        """What a hard link is another name of: an earlier member."""
        first = clean(member.link)
        parent, _, name = first.rpartition("/")
        linked = self._directories.get(parent, {}).get(name)
        if linked is None:
            self._omissions.add("/" + member.name, "a link to a file that is not in its layer")
        elif linked.kind is Kind.FILE and linked.detail is None:
            return linked._replace(detail=first)  # where to fetch it, should it be wanted
        return linked

    def _file(self, member: Member, source: ContentSource | UnpackedSource) -> Node:
        mode, size = member.mode, member.size
        if not isinstance(source, UnpackedSource):
            return Node(Kind.FILE, mode, size, member.start)
        what = tells(member.name, mode)
        key = size <= KEY_MAX and may_hold_key(member.name)
        if (what is Tells.NOTHING and not key) or size > KEPT_MAX:
            return Node(Kind.FILE, mode, size, None)
        start = self._scratch.end
        if what is Tells.BINARY and not key:
            head = source.read(min(size, len(_ELF)))
            if head != _ELF:
                return Node(Kind.FILE, mode, size, None, program=False)
            self._scratch.append(head)
            size -= len(head)
        self._scratch.put(source, size)
        return Node(Kind.FILE, mode, member.size, start)
