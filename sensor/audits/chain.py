"""The hash chain over all audits: what an entry is, and how entries are added.

Theory. An audit is a row that never changes but for its count and the time of its last occurrence.
Each time one is recorded or counted, one entry is appended to the table ``chain`` in the same
transaction:

    hash = SHA-256(hash of the entry before, sequence, kind, audit, times, last_ns, content)

``content`` is a digest of the row for what records it, and nothing for what counts it. Sequence
numbers have no gaps. So no row and no entry can be changed, removed, put in or moved without a hash
that does not fit, up to the head; about the head see ``head``.

Pruning takes entries and rows from the old end. The one row of ``anchor`` says where the chain
begins since then, and an entry of its own says the same: a beginning that no entry speaks of was
not made by pruning. An audit that is kept although its first entry goes is carried: recorded again,
with the digest it had, at the new end.

The chain has no key. Whoever may write the database could read the key as well.
"""

from __future__ import annotations

import enum
import hashlib
import logging
import os
import sqlite3
import struct
import time
from collections.abc import Sequence
from typing import Any, NamedTuple

import msgpack

from sensor.audits.head import Head

_log = logging.getLogger("rote.audits")

SCHEMA = (
    """
    CREATE TABLE chain (
        sequence INTEGER PRIMARY KEY,
        kind INTEGER NOT NULL,
        audit INTEGER NOT NULL,
        times INTEGER NOT NULL,
        last_ns INTEGER NOT NULL,
        content BLOB NOT NULL,
        hash BLOB NOT NULL
    )
    """,
    """
    CREATE TABLE anchor (
        only INTEGER PRIMARY KEY CHECK (only = 1),
        sequence INTEGER NOT NULL,
        hash BLOB NOT NULL,
        through INTEGER NOT NULL,
        removed INTEGER NOT NULL,
        time_ns INTEGER NOT NULL
    )
    """,
)
_FIXED = struct.Struct(">qqqqq")
_ANCHOR = struct.Struct(">q32s")


class Kind(enum.IntEnum):
    """What an entry says. The numbers are hashed: never change them."""

    ADDED = 1  # an audit was recorded
    COUNTED = 2  # it happened again: its count and last time from here on
    TAKEN_OVER = 3  # an audit from before there was a chain; unchanged from here on
    CARRIED = 4  # recorded again, because its first entry is pruned
    PRUNED = 5  # the old end was taken off
    BROKEN = 6  # the daemon found that the chain was not as it left it


RECORDING = (Kind.ADDED, Kind.TAKEN_OVER, Kind.CARRIED)


class Entry(NamedTuple):
    """One entry. For PRUNED and BROKEN ``audit`` and ``times`` are not about one audit."""

    sequence: int
    kind: int
    audit: int  # PRUNED: the last audit that is gone
    times: int  # how often it happened; PRUNED: how many audits are gone in all
    last_ns: int  # PRUNED, BROKEN: when
    content: bytes  # digest of the row; PRUNED: the anchor; BROKEN: what was found, UTF-8

    def hashed(self, before: bytes) -> bytes:
        """This entry's hash, 32 bytes.

        Args:
            before: hash of the entry before.

        Raises:
            struct.error: a value is no 64-bit integer (the database was written by others).
            TypeError: content is no bytes (likewise).
        """
        return hashlib.sha256(before + _FIXED.pack(*self[:5]) + self.content).digest()


class Anchor(NamedTuple):
    """Where the chain begins."""

    sequence: int  # of the last entry that is gone; 0 at first
    hash: bytes  # its hash; random at first, so that no two databases share entries
    through: int  # the last audit that was pruned; 0: none
    removed: int  # audits pruned so far
    time_ns: int  # when it was set

    @property
    def packed(self) -> bytes:
        """As the PRUNED entry about it holds it."""
        return _ANCHOR.pack(self.sequence, self.hash)


def row_digest(columns: Sequence[Any]) -> bytes:
    """Digest of everything in an audit's row that never changes, in the order of the table."""
    return hashlib.sha256(msgpack.packb(list(columns))).digest()


def read_anchor(db: sqlite3.Connection) -> Anchor | None:
    """The anchor; none when somebody removed it."""
    row = db.execute("SELECT sequence, hash, through, removed, time_ns FROM anchor").fetchone()
    return Anchor(*row) if row else None


class ChainWriter:
    """Appends entries inside the transactions of a store.

    Use: ``begin`` once in a transaction, ``append`` as often as needed, ``write`` before the
    commit, ``committed`` after it.

    Args:
        db: the store's connection.
    """

    def __init__(self, db: sqlite3.Connection) -> None:
        self._db = db
        self.head: Head | None = None  # as of the last commit; none: not known
        self._next: Head = Head(0, b"")
        self._rows: list[tuple[Any, ...]] = []

    @classmethod
    def create(cls, db: sqlite3.Connection) -> None:
        """Make the tables, inside a transaction."""
        for statement in SCHEMA:
            db.execute(statement)
        db.execute("INSERT INTO anchor VALUES (1, 0, ?, 0, 0, ?)", (os.urandom(32), time.time_ns()))

    def stored_head(self) -> Head:
        """The newest entry in the database, or the anchor where there is none."""
        row = self._db.execute(
            "SELECT sequence, hash FROM chain ORDER BY sequence DESC LIMIT 1"
        ).fetchone()
        if row is None:
            anchor = read_anchor(self._db)
            row = (anchor.sequence, anchor.hash) if anchor else (0, bytes(32))
        return Head(*row)

    def hash_at(self, sequence: int) -> bytes | None:
        """The hash of one entry, also of the last one that was pruned."""
        anchor = read_anchor(self._db)
        if anchor is not None and anchor.sequence == sequence:
            return anchor.hash
        row = self._db.execute("SELECT hash FROM chain WHERE sequence=?", (sequence,)).fetchone()
        return row[0] if row else None

    def begin(self) -> None:
        """Start from the newest entry there is, and say so if it is not the one we left."""
        self._rows = []
        self._next = self.stored_head()
        if self.head is not None and self.head != self._next:
            self.broken(
                f"the daemon's last entry was {self.head}, but the database's is {self._next}: it "
                "was changed by somebody else"
            )

    @property
    def next_sequence(self) -> int:
        """The number of the entry that ``append`` makes next."""
        return self._next.sequence + 1

    def append(self, kind: Kind, audit: int, times: int, last_ns: int, content: bytes) -> Head:
        """Add one entry; the head it makes."""
        entry = Entry(self._next.sequence + 1, kind, audit, times, last_ns, content)
        self._next = Head(entry.sequence, entry.hashed(self._next.hash))
        self._rows.append((*entry, self._next.hash))
        return self._next

    def broken(self, what: str) -> None:
        """Record for good that the chain is not as it was left; `rote audits verify` shows it."""
        _log.error("audits: %s; see: rote audits verify", what)
        self.append(Kind.BROKEN, 0, 0, time.time_ns(), what.encode())

    def write(self) -> None:
        """Hand the appended entries to the database."""
        self._db.executemany("INSERT INTO chain VALUES (?,?,?,?,?,?,?)", self._rows)
        self._rows = []

    def committed(self) -> None:
        """The transaction is durable: this is the head now."""
        self.head = self._next
