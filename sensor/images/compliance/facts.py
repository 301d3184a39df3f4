"""What the file system of an image has that compliance checks ask for, found while it is walked.

Files with other people's rights, private keys, programs of packages that are not what was
delivered, and programs whose hash is on a list of malware.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from sensor.errors import BadInputError, ImageError
from sensor.images.archive import ImageFiles
from sensor.images.compliance.delivered import Delivered, read_delivered
from sensor.images.found import may_run
from sensor.images.inventory import take_inventory
from sensor.images.omissions import Omissions, printable
from sensor.images.package import Inventory, Omission
from sensor.images.select import KEY_MAX, may_hold_key
from sensor.images.tree import Found, Tree
from sensor.reading import Deadline

READER = 1  # goes up when more is found, so that images are looked at again
HASHED_MAX = 256 << 20  # bytes of one program; larger ones are left out, and that is said
HASHED_ALL_MAX = 8 << 30  # bytes of all programs of one image
LISTED_MAX = 1000  # of each kind; beyond that there is one entry that says how many more
SECONDS = 120.0
_PIECE = 1 << 20
_SETUID, _SETGID, _EXECUTE = 0o4000, 0o2000, 0o111
_KEY = re.compile(
    rb"-----BEGIN (?:[A-Z0-9]+ ){0,3}PRIVATE KEY-----\s*(?:[\w-]+:[^\n]*\n\s*)*[A-Za-z0-9+/]{16}"
    rb"|PuTTY-User-Key-File-\d:"
)
_HASH = re.compile(r"[0-9a-f]{32}(?:[0-9a-f]{32})?")
_HASH_LIST_MAX = 256 << 20


@dataclass(frozen=True, slots=True)
class HashList:
    """Hashes of programs that must not be.

    Attributes:
        id: of its content; "" when it is empty.
        names: what each is, by SHA-256 or MD5 in lower case.
    """

    id: str = ""
    names: Mapping[str, str] = field(default_factory=dict)

    @property
    def algorithms(self) -> tuple[str, ...]:
        """Those that it needs."""
        lengths = {len(digest) for digest in self.names}
        return tuple(name for name, length in (("sha256", 64), ("md5", 32)) if length in lengths)


@dataclass(frozen=True, slots=True)
class ImageFacts:
    """What was found in an image's files.

    Attributes:
        image_id: ``sha256:…``; "" for a plain directory.
        set_ids: setuid and setgid files, as ``PATH (setuid)``.
        keys: paths of private keys.
        altered: programs that are not what their package brought, as ``PATH (PACKAGE)``.
        malware: programs on the hash list, as ``PATH (NAME)``.
        expected: programs of which packages say what they should be.
        compared: of those, how many were.
        hash_list: ``HashList.id`` of the list they were held against.
        warnings: what was not looked at.
        complete: nothing was left out that checks ask for.
        final: another look would find the same.
        reader: version of what looked (``READER``).
    """

    image_id: str = ""
    set_ids: tuple[str, ...] = ()
    keys: tuple[str, ...] = ()
    altered: tuple[str, ...] = ()
    malware: tuple[str, ...] = ()
    expected: int = 0
    compared: int = 0
    hash_list: str = ""
    warnings: tuple[Omission, ...] = ()
    complete: bool = True
    final: bool = True
    reader: int = READER


def read_hash_list(path: Path) -> HashList:
    """Read a list of hashes: one a line, SHA-256 or MD5, then perhaps what it is; ``#`` comments.

    Raises:
        BadInputError: a line is something else, or the file cannot be read.
    """
    try:
        if path.stat().st_size > _HASH_LIST_MAX:
            raise BadInputError(f"{path}: more than {_HASH_LIST_MAX >> 20} MB; expected hashes")
        data = path.read_text(encoding="utf-8")
    except OSError as error:
        raise BadInputError(f"{path}: {error.strerror}; expected a list of hashes") from error
    except UnicodeDecodeError as error:
        raise BadInputError(f"{path}: no UTF-8; expected a list of hashes") from error
    names = {}
    for number, line in enumerate(data.splitlines(), 1):
        digest, _, name = line.partition("#")[0].strip().partition(" ")
        if not digest:
            continue
        if not _HASH.fullmatch(digest.lower()):
            raise BadInputError(
                f"{path}:{number}: {printable(digest[:40])!r}; expected a SHA-256 or MD5 in "
                "hexadecimal digits, then perhaps a name"
            )
        names[digest.lower()] = printable(name.strip().lstrip("*")) or "on the list"
    return hash_list(names)


def hash_list(names: Mapping[str, str]) -> HashList:
    """A list of hashes, with the id of its content."""
    if not names:
        return HashList()
    digest = hashlib.sha256("\n".join(f"{k} {v}" for k, v in sorted(names.items())).encode())
    return HashList(digest.hexdigest()[:16], dict(names))


class FactsTaker:
    """Looks at every file of an image that it is shown.

    Args:
        tree: of the image.
        hashes: of malware.
        seconds: when this time is over no further content is read.
    """

    def __init__(
        self,
        tree: Tree,
        hashes: HashList = HashList(),
        seconds: float = SECONDS,
    ) -> None:
        self._tree = tree
        self._hashes = hashes
        self._deadline = Deadline(seconds)
        self._omissions = Omissions()
        self._delivered = read_delivered(tree)
        self._set_ids: list[str] = []
        self._keys: list[str] = []
        self._altered: list[str] = []
        self._malware: list[str] = []
        self._compared = self._hashed = self._packed = 0

    def see(self, found: Found) -> None:
        """Look at an ordinary file."""
        mode, path = found.node.mode, "/" + found.path
        if mode & (_SETUID | _SETGID):
            bits = [name for bit, name in ((_SETUID, "setuid"), (_SETGID, "setgid")) if mode & bit]
            self._set_ids.append(f"{printable(path)} ({', '.join(bits)})")
        delivered = self._delivered.get(path)
        listed = bool(self._hashes.names) and (bool(mode & _EXECUTE) or may_run(path))
        key = found.node.size <= KEY_MAX and may_hold_key(found.path)
        if not (delivered or listed or key):
            return
        if found.node.program is False and found.node.detail is None and not key:
            self._packed += 1  # a script in a compressed layer, which was not set aside
            return
        if self._deadline.passed():
            self._omissions.add("", "out of time: not all files were read", final=False)
            return
        try:
            if key:
                self._look_for_key(found, path)
            if delivered or listed:
                self._hash(found, path, delivered, listed=listed)
        except (ImageError, OSError) as error:
            self._omissions.add(path, error)

    def _look_for_key(self, found: Found, path: str) -> None:
        with self._tree.open(found) as content:
            if _KEY.search(content.read(KEY_MAX)):
                self._keys.append(printable(path))

    def _hash(self, found: Found, path: str, delivered: Delivered | None, *, listed: bool) -> None:
        size = found.node.size
        if size > HASHED_MAX or self._hashed + size > HASHED_ALL_MAX:
            raise ImageError(f"{size} bytes: not hashed")
        self._hashed += size
        names = {delivered.algorithm} if delivered else set()
        names |= set(self._hashes.algorithms) if listed else set()
        digests = {name: hashlib.new(name, usedforsecurity=False) for name in names}
        with self._tree.open(found) as content:
            for offset in range(0, content.size, _PIECE):
                if offset and self._deadline.passed():
                    self._omissions.add("", "out of time: not all files were read", final=False)
                    return
                piece = content.read_at(offset, _PIECE)
                for digest in digests.values():
                    digest.update(piece)
        if delivered:
            self._compared += 1
            if digests[delivered.algorithm].hexdigest() != delivered.digest:
                self._altered.append(f"{printable(path)} ({printable(delivered.package)})")
        for name in self._hashes.algorithms if listed else ():
            if what := self._hashes.names.get(digests[name].hexdigest()):
                self._malware.append(f"{printable(path)} ({what})")
                break

    def facts(self, image_id: str) -> ImageFacts:
        """What was found, when every file has been seen."""
        if self._packed:
            self._omissions.add(
                "", f"{self._packed} scripts in compressed layers were not compared"
            )
        others = [w for w in self._tree.omissions.all() if w.location and w.location[0] != "/"]
        warnings = (*others, *self._omissions.all())
        return ImageFacts(
            image_id,
            _first(self._set_ids),
            _first(self._keys),
            _first(self._altered),
            _first(self._malware),
            len(self._delivered),
            self._compared,
            self._hashes.id,
            warnings,
            not warnings and not self._tree.partial,
            self._omissions.final and self._tree.omissions.final,
        )


def _first(found: list[str]) -> tuple[str, ...]:
    found.sort()
    if len(found) <= LISTED_MAX:
        return tuple(found)
    return (*found[:LISTED_MAX], f"{len(found) - LISTED_MAX} more")


def take_image_facts(
    files: ImageFiles,
    hashes: HashList = HashList(),
    seconds: float = SECONDS,
) -> ImageFacts:
    """Look at an image's files. What cannot be read is among the warnings."""
    return take_both(files, hashes, seconds)[1]


def take_both(
    files: ImageFiles,
    hashes: HashList = HashList(),
    seconds: float = 600.0,
) -> tuple[Inventory, ImageFacts]:
    """The inventory and the facts of an image, in one walk through its files.

    Args:
        files: it, opened.
        hashes: of malware.
        seconds: when this time is over the rest is left out, and both say so.
    """
    taker = FactsTaker(files.tree, hashes, min(seconds, SECONDS))
    inventory = take_inventory(files, seconds, see=taker.see)
    return inventory, taker.facts(files.image_id)
