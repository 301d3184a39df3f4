"""RPM's three databases: SQLite, its own `ndb`, and Berkeley DB's hash.

Each gives the headers that are in it. Sources: RPM's lib/backend/{sqlite.c,ndb/rpmpkg.c};
Berkeley DB's dbinc/db_page.h.
"""

from __future__ import annotations

import sqlite3
import struct
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

from sensor.errors import ImageError
from sensor.images.content import Content
from sensor.images.streams import SCRATCH
from sensor.images.tree import Found, Kind, Tree

_DATABASE_MAX = 512 << 20  # of 5,000 packages it has some 300 MB
_HEADER_MAX = 64 << 20  # RPM itself allows 256 MB; the largest genuine ones have 5 MB
_PACKAGES_MAX = 200_000
_COPY = 1 << 20
# A hostile schema can make one question last for ever: it gets this many steps of SQLite's
# machine. Reading a row takes about ten.
_STEPS_MAX = 50_000_000
_STEPS_EACH = 100_000


def sqlite_headers(tree: Tree, found: Found) -> Iterator[bytes]:
    """The headers in rpmdb.sqlite.

    Raises:
        ImageError: it cannot be read.
    """
    with tempfile.TemporaryDirectory(dir=SCRATCH, prefix="rote-") as place:
        # SQLite opens files by name, and what was not put into the database yet lies beside it.
        path = Path(place, "rpmdb.sqlite")
        _copy(tree, found, path)
        directory = found.path.rpartition("/")[0]
        log = tree.file(f"{directory}/{found.name}-wal")
        if log is not None:
            _copy(tree, log, path.with_name("rpmdb.sqlite-wal"))
        try:
            yield from _rows(path)
        except sqlite3.Error as error:
            raise ImageError(f"damaged: {error}; packages may lack") from error
        except UnicodeDecodeError as error:  # what SQLite says quotes the database
            raise ImageError("damaged: its schema is no text; packages may lack") from error


def _rows(path: Path) -> Iterator[bytes]:
    database = sqlite3.connect(path)
    try:
        database.execute("PRAGMA trusted_schema=OFF")
        left = _STEPS_MAX // _STEPS_EACH

        def end_in_time() -> bool:
            nonlocal left
            left -= 1
            return left < 0

        database.set_progress_handler(end_in_time, _STEPS_EACH)
        kind = database.execute("SELECT type FROM sqlite_master WHERE name='Packages'").fetchone()
        if kind is None or kind[0] != "table":
            raise ImageError("has no table Packages; expected RPM's database")
        database.setlimit(sqlite3.SQLITE_LIMIT_LENGTH, _HEADER_MAX)
        for number, (blob,) in enumerate(database.execute("SELECT blob FROM Packages")):
            if number >= _PACKAGES_MAX:
                raise ImageError(f"more than {_PACKAGES_MAX} packages: the rest is not read")
            if isinstance(blob, bytes):
                yield blob
    finally:
        database.close()


def _copy(tree: Tree, found: Found, path: Path) -> None:
    if found.node.kind is not Kind.FILE or found.node.size > _DATABASE_MAX:
        raise ImageError(f"{found.node.size} bytes; at most {_DATABASE_MAX} are read")
    try:
        with tree.open(found) as content, path.open("wb") as target:
            for at in range(0, content.size, _COPY):
                target.write(content.read_at(at, _COPY))
    except OSError as error:
        raise ImageError(f"cannot be copied to {path.parent}: {error.strerror}") from error


_NDB_MAGIC, _NDB_SLOT, _NDB_BLOB = b"RpmP", b"Slot", b"BlbS"
_NDB_PAGE, _NDB_BLOCK = 4096, 16


def ndb_headers(tree: Tree, found: Found) -> Iterator[bytes]:
    """The headers in Packages.db.

    Raises:
        ImageError: it cannot be read.
    """
    with tree.open(found) as content:
        if content.size > _DATABASE_MAX:
            raise ImageError(f"{content.size} bytes; at most {_DATABASE_MAX} are read")
        start = content.read_at(0, 32)
        if len(start) < 32 or not start.startswith(_NDB_MAGIC):
            raise ImageError("is no ndb database of RPM")
        version, _, pages = struct.unpack_from("<III", start, 4)
        if version != 0:
            raise ImageError(f"ndb database of version {version}; expected 0")
        slots = content.read_at(32, min(pages * _NDB_PAGE, content.size) - 32)
        for magic, number, offset, blocks in struct.iter_unpack(
            "<4sIII", slots[: len(slots) // 16 * 16]
        ):
            if magic != _NDB_SLOT:
                raise ImageError("a damaged page of slots; packages may lack")
            if number:  # else the slot is free
                yield _ndb_blob(content, number, offset * _NDB_BLOCK, blocks * _NDB_BLOCK)


def _ndb_blob(content: Content, number: int, offset: int, room: int) -> bytes:
    head = content.read_at(offset, 16)
    if len(head) < 16 or not head.startswith(_NDB_BLOB):
        raise ImageError(f"package {number} is not where its slot says; packages may lack")
    of, _, length = struct.unpack_from("<III", head, 4)
    if of != number or length > min(room, _HEADER_MAX):
        raise ImageError(f"package {number} has a damaged head; packages may lack")
    return content.read_at(offset + 16, length)


_BDB_MAGIC = b"\x61\x15\x06\0"  # of a hash, in the order of the machine that wrote it
_BDB_HASH, _BDB_OVERFLOW = 8, 7
_BDB_HASH_PAGES = (2, 13)  # unsorted, of old; sorted
_BDB_OFF_PAGE = 3
_BDB_PAGE_HEAD = 26


def bdb_headers(tree: Tree, found: Found) -> Iterator[bytes]:
    """The headers in Packages, as Berkeley DB has it.

    Raises:
        ImageError: it cannot be read.
    """
    with tree.open(found) as content:
        if content.size > _DATABASE_MAX:
            raise ImageError(f"{content.size} bytes; at most {_DATABASE_MAX} are read")
        head = content.read_at(0, 64)
        magic = head[12:16]
        order = "<" if magic == _BDB_MAGIC else ">"
        if len(head) < 64 or magic not in (_BDB_MAGIC, _BDB_MAGIC[::-1]) or head[25] != _BDB_HASH:
            raise ImageError("is no hash database of Berkeley DB")
        size, last = (struct.unpack_from(f"{order}I", head, at)[0] for at in (20, 32))
        if size not in (512 << shift for shift in range(8)):
            raise ImageError(f"pages of {size} bytes; expected 512 to 65536")
        pages = min(last, content.size // size)
        for number in range(1, pages + 1):
            page = content.read_at(number * size, size)
            if len(page) < size:
                raise ImageError(f"ends in page {number}; packages may lack")
            if page[25] in _BDB_HASH_PAGES:
                yield from _bdb_values(content, page, order, size)
        if last > pages:
            raise ImageError(f"ends after {pages} of {last} pages; packages may lack")


def _bdb_values(content: Content, page: bytes, order: str, size: int) -> Iterator[bytes]:
    """The values of one page that lie on pages of their own: no header is small enough else."""
    entries = struct.unpack_from(f"{order}H", page, 20)[0]
    if _BDB_PAGE_HEAD + 2 * entries > size:
        raise ImageError("a damaged page; packages may lack")
    offsets = struct.unpack_from(f"{order}{entries}H", page, _BDB_PAGE_HEAD)
    for offset in offsets[1::2]:  # key, value, key, value
        if offset + 12 > size or page[offset] != _BDB_OFF_PAGE:
            continue
        first, length = struct.unpack_from(f"{order}II", page, offset + 4)
        yield _bdb_chain(content, first, length, order, size)


def _bdb_chain(content: Content, number: int, length: int, order: str, size: int) -> bytes:
    """A value that goes over several pages, each naming the next."""
    if length > _HEADER_MAX:
        raise ImageError(f"a package of {length} bytes; at most {_HEADER_MAX} are read")
    parts: list[bytes] = []
    got = 0
    # Each page but the last brings something, so a circle of pages ends as well.
    while number and got < length:
        page = content.read_at(number * size, size)
        if len(page) < size or page[25] != _BDB_OVERFLOW:
            raise ImageError(f"page {number} is not what it should be; packages may lack")
        used = struct.unpack_from(f"{order}H", page, 22)[0]
        if not 0 < used <= size - _BDB_PAGE_HEAD:
            raise ImageError(f"page {number} is damaged; packages may lack")
        parts.append(page[_BDB_PAGE_HEAD : _BDB_PAGE_HEAD + used])
        got += used
        number = struct.unpack_from(f"{order}I", page, 16)[0]
    return b"".join(parts)[:length]


FORMATS: tuple[tuple[str, Callable[[Tree, Found], Iterator[bytes]]], ...] = (
    ("rpmdb.sqlite", sqlite_headers),
    ("Packages.db", ndb_headers),
    ("Packages", bdb_headers),
)
