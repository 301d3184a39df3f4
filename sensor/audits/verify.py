"""Whether the audits in a database are what was recorded: the hash chain, followed to its head.

It reads one state of the database, while a daemon may be writing, and holds one entry at a time.
"""

from __future__ import annotations

import sqlite3
import struct
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import quote

from sensor.audits.chain import (
    RECORDING,
    Anchor,
    Entry,
    Kind,
    read_anchor,
    row_digest,
)
from sensor.audits.head import Head, read_head
from sensor.audits.store import FIXED_COLUMNS, VERSION
from sensor.audits.text import when
from sensor.errors import StateError

_SHOWN = 50  # problems that are spelled out; all are counted
_PROGRESS = 50_000  # entries; a second or less
_ABOUT_AUDITS = (*RECORDING, Kind.COUNTED)


@dataclass
class Verification:
    """What was found."""

    audits: int = 0
    entries: int = 0
    first: int = 1  # sequence number of the oldest entry that is kept
    head: Head = field(default_factory=lambda: Head(0, b""))
    pruned: int = 0  # audits that were removed for their age or number
    pruned_ns: int = 0  # when last; 0: never
    taken_over: int = 0  # audits that are older than the chain
    problems: list[str] = field(default_factory=list)  # the first of them
    wrong: int = 0  # how many there are

    @property
    def good(self) -> bool:
        """Whether everything is as it was recorded."""
        return self.wrong == 0

    def note(self, problem: str) -> None:
        """Add one problem."""
        self.wrong += 1
        if len(self.problems) < _SHOWN:
            self.problems.append(problem)


def verify(
    database: Path,
    heads: Iterable[Head] = (),
    *,
    remembered: Head | None = None,
    progress: Callable[[int], None] | None = None,
) -> Verification:
    """Follow the chain from its beginning to its head.

    Args:
        database: the store's file. The head noted beside it is checked as well.
        heads: heads that were noted elsewhere.
        remembered: the head that a running daemon has in its memory.
        progress: is told now and then how many entries were checked.

    Raises:
        StateError: it cannot be read at all, or is of another version.
    """
    try:
        db = sqlite3.connect(f"file:{quote(str(database))}?mode=ro", uri=True, isolation_level=None)
        try:
            # The head before the state: what is recorded in between is then in both.
            noted = _noted(database)
            version = db.execute("PRAGMA user_version").fetchone()[0]
            if version != VERSION:
                raise StateError(f"{database}: schema version {version}; expected {VERSION}")
            db.execute("BEGIN")  # one state from here on
            found = _Check(db, progress).run()
            for head in noted:
                if isinstance(head, str):
                    found.note(head)
                else:
                    _compare(db, found, head, "the file beside the database says")
            if remembered is not None:
                _compare(db, found, remembered, "the running daemon remembers")
            for head in heads:
                _compare(db, found, head, "was noted elsewhere")
            return found
        finally:
            db.close()
    except sqlite3.DatabaseError as error:
        raise StateError(f"{database}: cannot read: {error}") from error


def _noted(database: Path) -> list[Head | str]:
    try:
        head = read_head(database)
    except StateError as error:
        return [str(error)]
    return [head] if head else ["there is no head beside the database: its file was removed"]


def _compare(db: sqlite3.Connection, found: Verification, head: Head, source: str) -> None:
    """Hold a head against the chain; it was followed already, so its stored hashes count."""
    anchor = read_anchor(db)
    row = db.execute("SELECT hash FROM chain WHERE sequence=?", (head.sequence,)).fetchone()
    stored = row[0] if row else None
    if anchor is not None and head.sequence == anchor.sequence:
        stored = anchor.hash
    if stored == head.hash:
        return
    if head.sequence > found.head.sequence:
        found.note(
            f"sequence {found.head.sequence + 1} to {head.sequence}: missing; {head} {source}, but "
            f"the database ends at {found.head.sequence}"
        )
    elif stored is not None:
        found.note(
            f"sequence {head.sequence}: its hash is not that of {head}, which {source}: this entry "
            "or what lies before it was replaced"
        )
    elif head.sequence < found.first:
        found.note(
            f"sequence {head.sequence}: pruned, so that {head}, which {source}, cannot be checked"
        )
    # else: a gap, told already


class _Check:
    """One walk along the chain.

    Args:
        db: a connection in a transaction.
        progress: see ``verify``.
    """

    def __init__(self, db: sqlite3.Connection, progress: Callable[[int], None] | None) -> None:
        self._db = db
        self._progress = progress
        self._found = Verification()
        self._pruning: Entry | None = None  # the newest entry about it
        self._anchor = Anchor(0, b"", 0, 0, 0)

    def run(self) -> Verification:
        """Check everything there is."""
        found = self._found
        anchor = read_anchor(self._db)
        if anchor is None:
            found.note("the anchor, where the chain begins, was removed")
        else:
            self._anchor = anchor
        found.first = self._anchor.sequence + 1
        found.head = Head(self._anchor.sequence, self._anchor.hash)
        found.audits = self._db.execute("SELECT count(*) FROM audits").fetchone()[0]
        for entry, stored, audit in self._walk():
            self._link(entry, stored, known=anchor is not None or found.entries > 0)
            found.entries += 1
            if self._progress is not None and found.entries % _PROGRESS == 0:
                self._progress(found.entries)
            found.head = Head(entry.sequence, stored)
            if entry.kind in _ABOUT_AUDITS:
                self._about_audit(entry, audit)
            elif entry.kind == Kind.PRUNED:
                self._pruning = entry
            else:
                self._told(entry)
        self._beginning()
        self._unrecorded()
        return found

    def _walk(self) -> Iterator[tuple[Entry, Any, tuple[Any, ...] | None]]:
        """Each entry with its stored hash, and the audit it is about, where that is there."""
        columns = ", ".join(f"audits.{name}" for name in FIXED_COLUMNS.split(", "))
        cursor = self._db.execute(
            # all of it is fixed text of ours
            "SELECT chain.sequence, kind, audit, times, chain.last_ns, chain.content, hash, "  # noqa: S608
            f"audits.id, audits.sequence, base, audits.count, audits.last_ns, {columns} "
            "FROM chain LEFT JOIN audits ON audits.id = chain.audit ORDER BY chain.sequence"
        )
        for row in cursor:
            yield Entry(*row[:6]), row[6], None if row[7] is None else row[8:]

    def _link(self, entry: Entry, stored: Any, *, known: bool) -> None:
        """The entry follows from the one before."""
        sequence, before = self._found.head
        if entry.sequence != sequence + 1:
            gap = f"{sequence + 1} to {entry.sequence - 1}"
            self._found.note(f"sequence {gap}: missing ({entry.sequence - sequence - 1} entries)")
            return  # what it follows from is not there, so only what follows it can be checked
        if not known:
            return
        try:
            right = entry.hashed(before)
        except (TypeError, struct.error):  # values that we never write
            right = b""
        if right != stored:
            self._found.note(
                f"sequence {entry.sequence}: its hash does not fit ({_meaning(entry)}): the entry "
                "was changed, moved or put in, or the one before it was"
            )

    def _about_audit(self, entry: Entry, audit: tuple[Any, ...] | None) -> None:
        """The audit that an entry records or counts is there, and is what was recorded."""
        note, at = self._found.note, f"sequence {entry.sequence}: audit {entry.audit}"
        if audit is None:
            if entry.audit > self._anchor.through and entry.kind in RECORDING:
                note(f"{at} is missing")
            return
        sequence, base, count, last_ns, *columns = audit
        if entry.kind in RECORDING:
            if row_digest(columns) != entry.content:
                note(f"{at} was changed: it is not what was recorded")
            if base == entry.sequence and entry.kind == Kind.TAKEN_OVER:
                self._found.taken_over += 1
        if sequence < entry.sequence:
            note(f"{at} was put back to an earlier state: its entry is {sequence}")
        elif sequence == entry.sequence and (count, last_ns) != (entry.times, entry.last_ns):
            note(
                f"{at} says {count} times, the last {_moment(last_ns)}; recorded were "
                f"{entry.times}, the last {_moment(entry.last_ns)}"
            )

    def _told(self, entry: Entry) -> None:
        """The daemon itself found something, or somebody wrote an entry of no kind of ours."""
        if entry.kind == Kind.BROKEN:
            what = bytes(entry.content).decode(errors="replace")
            self._found.note(
                f"sequence {entry.sequence}: on {_moment(entry.last_ns)} the daemon found: {what}"
            )
        else:
            self._found.note(f"sequence {entry.sequence}: kind {entry.kind!r} is none of ours")

    def _beginning(self) -> None:
        """The chain begins where the newest pruning says, or at 1 when there was none."""
        anchor, pruning = self._anchor, self._pruning
        self._found.pruned = anchor.removed
        self._found.pruned_ns = anchor.time_ns if pruning else 0
        if pruning is None:
            if anchor.sequence or anchor.through or anchor.removed:
                self._found.note(
                    f"sequence 1 to {anchor.sequence}: missing; no entry says that they were pruned"
                )
        elif (anchor.through, anchor.removed, anchor.time_ns, anchor.packed) != (
            pruning.audit, pruning.times, pruning.last_ns, pruning.content,
        ):  # fmt: skip
            self._found.note(
                f"sequence {pruning.sequence}: the chain does not begin where this pruning left it"
            )

    def _unrecorded(self) -> None:
        """Audits that no entry speaks of, or that were pruned and are there again."""
        rows = self._db.execute(
            "SELECT audits.id, audits.id <= ? FROM audits "  # noqa: S608 - fixed text of ours
            "LEFT JOIN chain AS newest ON newest.sequence = audits.sequence "
            "LEFT JOIN chain AS base ON base.sequence = audits.base "
            "WHERE newest.audit IS NOT audits.id OR base.audit IS NOT audits.id "
            f"OR base.kind NOT IN ({', '.join(str(int(kind)) for kind in RECORDING)}) "
            "OR audits.id <= ? ORDER BY audits.id",
            (self._anchor.through, self._anchor.through),
        )
        for number, pruned in rows:
            self._found.note(
                f"audit {number}: it was pruned, and is there again"
                if pruned
                else f"audit {number}: no entry of the chain records it as it is"
            )


def _meaning(entry: Entry) -> str:
    if entry.kind in RECORDING:
        return f"it records audit {entry.audit}"
    if entry.kind == Kind.COUNTED:
        return f"it counts audit {entry.audit}"
    return "it is about the chain itself"


def _moment(time_ns: Any) -> str:
    return when(time_ns) if isinstance(time_ns, int) and 0 <= time_ns < 1 << 62 else repr(time_ns)
