"""Where audits are kept: one SQLite file, written before anybody is shown anything."""

from __future__ import annotations

import logging
import os
import sqlite3
import time
from collections import OrderedDict
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import quote

import msgpack

from sensor.audits.audit import Action, Audit, AuditType, Guarantee, Sensor, Severity, Step
from sensor.audits.chain import RECORDING, Anchor, ChainWriter, Kind, read_anchor, row_digest
from sensor.audits.head import Head, head_path, read_head, write_head
from sensor.audits.query import AuditQuery
from sensor.errors import StateError

_log = logging.getLogger("rote.audits")
VERSION = 2  # 2: the hash chain, and the rule as a column
_SCHEMA = (
    """
    CREATE TABLE audits (
        id INTEGER PRIMARY KEY AUTOINCREMENT,
        time_ns INTEGER NOT NULL,
        last_ns INTEGER NOT NULL,
        count INTEGER NOT NULL,
        container_id TEXT NOT NULL,
        container_name TEXT NOT NULL,
        image TEXT NOT NULL,
        type TEXT NOT NULL,
        action TEXT NOT NULL,
        severity INTEGER NOT NULL,
        path BLOB NOT NULL,
        path2 BLOB NOT NULL,
        content BLOB NOT NULL,
        rule TEXT NOT NULL DEFAULT '',
        sequence INTEGER NOT NULL DEFAULT 0,
        base INTEGER NOT NULL DEFAULT 0
    )
    """,
    "CREATE INDEX audits_last ON audits (last_ns)",
    "CREATE INDEX audits_container ON audits (container_id, id)",
)
_TO_VERSION_2 = (
    "ALTER TABLE audits ADD COLUMN rule TEXT NOT NULL DEFAULT ''",
    "ALTER TABLE audits ADD COLUMN sequence INTEGER NOT NULL DEFAULT 0",
    "ALTER TABLE audits ADD COLUMN base INTEGER NOT NULL DEFAULT 0",
)
# What of a row never changes, and so is covered by its digest.
FIXED_COLUMNS = (
    "time_ns, container_id, container_name, image, type, action, severity, path, path2, rule, "
    "content"
)
# An audit as it is read; the hash is that of its newest entry.
_READ = (
    "SELECT id, time_ns, last_ns, count, content, sequence, "
    "(SELECT hash FROM chain WHERE chain.sequence = audits.sequence) FROM audits"
)
_ENTRIES_PER_AUDIT = 2  # of the audits that are kept; beyond that the chain is shortened
_CARRY_MAX = 20_000  # in one pruning, so that it takes a fraction of a second
_STEP = 1000
_OPEN_MAX = 65536  # audits whose repeats are still counted
_PENDING_MAX = 100_000
_ENUMS = {
    "sensor": Sensor, "type": AuditType, "severity": Severity, "action": Action,
    "guarantee": Guarantee,
}  # fmt: skip
_TUPLES = ("parents", "argv", "technique", "remarks")


class AuditStore:
    """The audits of one host.

    Args:
        path: the database file; made when absent, mode 0600.
        window_seconds: a repeat within this time of the last one is counted, not added.
        read_only: only to look, while a daemon may be writing.

    Raises:
        StateError: it cannot be opened, is damaged, or is of a later version.
    """

    def __init__(
        self, path: Path, *, window_seconds: float = 60.0, read_only: bool = False
    ) -> None:
        self.path = path
        self._read_only = read_only
        self._window_ns = int(window_seconds * 1e9)
        self._open: OrderedDict[tuple[object, ...], Audit] = OrderedDict()
        self._pending: list[Audit] = []
        self.dropped = 0  # could not be kept while the store could not be written
        with self._errors("open"):
            if read_only:
                self._db = sqlite3.connect(
                    f"file:{quote(str(path))}?mode=ro", uri=True, isolation_level=None
                )
            else:
                path.touch(mode=0o600, exist_ok=True)
                self._db = sqlite3.connect(path, isolation_level=None)
                self._db.execute("PRAGMA journal_mode=WAL")
                self._db.execute("PRAGMA synchronous=FULL")
            self._chain = ChainWriter(self._db)
            self._noted: Head | None = None
            version = self._db.execute("PRAGMA user_version").fetchone()[0]
            if version > VERSION:
                raise StateError(
                    f"{path}: schema version {version}; expected {VERSION}: it was written by a "
                    "later Rote"
                )
            if read_only:
                if version < VERSION:
                    raise StateError(
                        f"{path}: schema version {version}; expected {VERSION}: it is taken over "
                        "when the daemon starts"
                    )
            else:
                self._set_up(version)
                self._reopen()

    def _set_up(self, version: int) -> None:
        """Make or take over the tables, and hold them against the head that was noted."""
        with self._transaction():
            if version == 0:
                for statement in _SCHEMA:
                    self._db.execute(statement)
                ChainWriter.create(self._db)
            if version == 1:
                self._take_over()
            else:
                self._chain.begin()
                self._compare_with_noted(is_new=version == 0)
            self._db.execute(f"PRAGMA user_version={VERSION}")
        self.note_head()

    def _take_over(self) -> None:
        """Chain the audits of version 1, as they are now."""
        for statement in _TO_VERSION_2:
            self._db.execute(statement)
        ChainWriter.create(self._db)
        self._chain.begin()
        last = 0
        while rows := self._db.execute(
            f"SELECT id, count, last_ns, {FIXED_COLUMNS} FROM audits WHERE id > ? "  # noqa: S608
            "ORDER BY id LIMIT ?",
            (last, _STEP),
        ).fetchall():
            updates = []
            for number, count, last_ns, *columns in rows:
                rule = unpack_audit(columns[-1]).rule
                columns[-2] = rule
                head = self._chain.append(
                    Kind.TAKEN_OVER, number, count, last_ns, row_digest(columns)
                )
                updates.append((rule, head.sequence, head.sequence, number))
            self._db.executemany("UPDATE audits SET rule=?, sequence=?, base=? WHERE id=?", updates)
            self._chain.write()
            last = rows[-1][0]
        if last:
            _log.info("%s: its audits are in a hash chain from now on", self.path)

    def _compare_with_noted(self, *, is_new: bool) -> None:
        """Record it if the database is not the one whose head was noted."""
        head = self._chain.stored_head()
        try:
            noted = read_head(self.path)
        except StateError as error:
            self._chain.broken(str(error))
            return
        if noted is None:
            if not is_new:
                self._chain.broken(f"{head_path(self.path)} is missing")
        elif noted.sequence > head.sequence:
            self._chain.broken(
                f"the database ended at sequence {head.sequence} when the daemon started, but "
                f"{noted} had been noted: what was recorded since is missing"
            )
        elif self._chain.hash_at(noted.sequence) not in (noted.hash, None):
            self._chain.broken(
                f"sequence {noted.sequence} was not what had been noted ({noted}) when the daemon "
                "started: what lies before it was replaced"
            )

    @contextmanager
    def _transaction(self) -> Iterator[None]:
        """All or nothing, with the chain's entries; nothing is left open after an error."""
        self._db.execute("BEGIN IMMEDIATE")
        try:
            yield
            self._chain.write()
            self._db.execute("COMMIT")
        except BaseException as error:
            if self._db.in_transaction:
                self._db.execute("ROLLBACK")
            if isinstance(error, sqlite3.Error):
                # A commit that failed may still have been done: look again next time.
                self._chain.head = None
            raise
        self._chain.committed()

    @contextmanager
    def _errors(self, what: str) -> Iterator[None]:
        try:
            yield
        except sqlite3.DatabaseError as error:
            raise StateError(
                f"{self.path}: cannot {what}: {error}; if it is damaged, move it and "
                f"{head_path(self.path).name} away and start again"
            ) from error
        except OSError as error:
            raise StateError(f"{self.path}: cannot {what}: {error.strerror}") from error

    def _reopen(self) -> None:
        """Repeats of what an earlier daemon recorded are counted on."""
        newest = self._db.execute("SELECT max(last_ns) FROM audits").fetchone()[0]
        if newest is None:
            return
        rows = self._db.execute(
            f"{_READ} WHERE last_ns >= ? ORDER BY last_ns DESC LIMIT 1000",
            (newest - self._window_ns,),
        )
        for row in reversed(rows.fetchall()):
            audit = _audit(row)
            self._open[audit.identity()] = audit

    @property
    def pending(self) -> int:
        """Audits that wait because the store could not be written."""
        return len(self._pending)

    def add_many(self, audits: Iterable[Audit]) -> list[Audit]:
        """Record audits, durably, in one transaction.

        Returns:
            The audits as stored, with ids: new ones, and earlier ones whose count grew, each once.

        Raises:
            StateError: the store cannot be written. The audits are kept in memory and written
                with the next call that succeeds.
        """
        batch = [*self._pending, *audits]
        if not batch:
            return []
        self._pending = []
        touched: OrderedDict[int, tuple[Audit, bool]] = OrderedDict()
        undo: list[tuple[Audit, int, int]] = []
        added: list[Audit] = []
        for audit in batch:
            earlier = self._open.get(audit.identity())
            if earlier is not None and audit.time_ns - earlier.last_ns <= self._window_ns:
                undo.append((earlier, earlier.count, earlier.last_ns))
                earlier.count += audit.count
                earlier.last_ns = max(earlier.last_ns, audit.last_ns or audit.time_ns)
                touched.setdefault(id(earlier), (earlier, False))
            else:
                audit.last_ns = audit.last_ns or audit.time_ns
                self._open[audit.identity()] = audit
                added.append(audit)
                touched[id(audit)] = (audit, True)
        try:
            with self._errors("write"):
                self._write(list(touched.values()))
        except StateError:
            for audit in added:
                audit.id = 0
                self._open.pop(audit.identity(), None)
            for audit, count, last_ns in reversed(undo):
                audit.count, audit.last_ns = count, last_ns
            self._keep(batch)
            raise
        while len(self._open) > _OPEN_MAX:
            self._open.popitem(last=False)
        return [audit for audit, _ in touched.values()]

    def _write(self, touched: list[tuple[Audit, bool]]) -> None:
        heads = []
        with self._transaction():
            self._chain.begin()
            # The sequence number is known before the row is, so that each is written once.
            for audit, is_new in touched:
                if is_new:
                    columns = _columns(audit)
                    sequence = self._chain.next_sequence
                    cursor = self._db.execute(
                        _INSERT, (*columns, audit.last_ns, audit.count, sequence, sequence)
                    )
                    audit.id = cursor.lastrowid or 0
                    kind, content = Kind.ADDED, row_digest(columns)
                else:
                    kind, content = Kind.COUNTED, b""
                    self._db.execute(
                        "UPDATE audits SET count=?, last_ns=?, sequence=? WHERE id=?",
                        (audit.count, audit.last_ns, self._chain.next_sequence, audit.id),
                    )
                heads.append(
                    self._chain.append(kind, audit.id, audit.count, audit.last_ns, content)
                )
        for (audit, _), head in zip(touched, heads, strict=True):
            audit.sequence, audit.hash = head.sequence, head.hash.hex()

    @property
    def head(self) -> Head:
        """The newest entry of the chain, as this store wrote it."""
        if self._chain.head is None:
            with self._errors("read"):
                return self._chain.stored_head()
        return self._chain.head

    def note_head(self) -> None:
        """Write the head to its file beside the database, if it moved.

        Raises:
            StateError: it cannot be written.
        """
        head = self.head
        if head != self._noted:
            write_head(self.path, head)
            self._noted = head

    def _keep(self, batch: list[Audit]) -> None:
        room = _PENDING_MAX - len(self._pending)
        self._pending.extend(batch[:room])
        self.dropped += len(batch[room:])
        if batch[room:]:
            _log.error("%s: %d audits dropped, no room to keep them", self.path, len(batch[room:]))

    def query(self, query: AuditQuery) -> list[Audit]:
        """Audits that fit, oldest first; of too many the newest."""
        where, values = query.where()
        limit = "LIMIT ?" if query.limit else ""
        with self._errors("read"):
            rows = self._db.execute(
                # where and limit are fixed texts of ours; what a person typed is bound
                f"{_READ} WHERE {where} ORDER BY id DESC {limit}",
                [*values, *([query.limit] if query.limit else [])],
            ).fetchall()
        return [_audit(row) for row in reversed(rows)]

    def stream(self, query: AuditQuery) -> Iterator[Audit]:
        """All audits that fit, oldest first, without holding them all; ``limit`` does not count.

        It reads the state of the moment it began, whatever is written meanwhile. Meant for long
        readings through a store of its own, opened with ``read_only``.
        """
        where, values = query.where()
        with self._errors("read"):
            cursor = self._db.execute(f"{_READ} WHERE {where} ORDER BY id", values)
            for row in cursor:
                yield _audit(row)

    def get(self, number: int) -> Audit | None:
        """The audit with this id."""
        with self._errors("read"):
            row = self._db.execute(f"{_READ} WHERE id=?", (number,)).fetchone()
        return _audit(row) if row else None

    def after(self, number: int, limit: int) -> list[Audit]:
        """The audits that follow one, oldest first.

        Args:
            number: the id of the one before; 0: from the first on.
            limit: at most so many.
        """
        with self._errors("read"):
            rows = self._db.execute(
                f"{_READ} WHERE id > ? ORDER BY id LIMIT ?", (number, limit)
            ).fetchall()
        return [_audit(row) for row in rows]

    def last_id(self) -> int:
        """The id of the newest audit; 0 when there is none."""
        with self._errors("read"):
            newest: int | None = self._db.execute("SELECT max(id) FROM audits").fetchone()[0]
        return newest or 0

    def count(self) -> int:
        """How many audits there are."""
        with self._errors("read"):
            number: int = self._db.execute("SELECT count(*) FROM audits").fetchone()[0]
        return number

    def prune(self, *, keep_rows: int = 0, older_than_ns: int = 0) -> int:
        """Remove the oldest audits beyond a number or an age; how many went.

        Audits go from the old end only: by age up to the first one that is still young, even when
        old ones come after it. The chain is shortened to match, and says so.

        Args:
            keep_rows: so many stay, and about twice as many entries of the chain; 0: no limit.
            older_than_ns: those whose last occurrence is before this go; 0: no limit.

        Raises:
            StateError: the store cannot be written; nothing was removed.
        """
        try:
            # First, so that what is noted is never older than where the chain begins.
            self.note_head()
        except StateError as error:
            _log.warning("%s; pruning all the same", error)  # it may be what makes room
        with self._errors("prune"), self._transaction():
            self._chain.begin()
            through = self._last_to_go(keep_rows, older_than_ns)
            removed = self._db.execute("DELETE FROM audits WHERE id <= ?", (through,)).rowcount
            anchor = read_anchor(self._db)
            if anchor is not None:
                self._shorten(anchor, through, removed, keep_rows)
        if removed:
            # A repeat of what is gone is an audit of its own.
            for identity in [key for key, audit in self._open.items() if audit.id <= through]:
                del self._open[identity]
        return removed

    def _last_to_go(self, keep_rows: int, older_than_ns: int) -> int:
        """The audit up to which all go."""
        newest: int = self._db.execute("SELECT coalesce(max(id), 0) FROM audits").fetchone()[0]
        through = newest - keep_rows if keep_rows else 0
        if older_than_ns:
            young = self._db.execute(
                "SELECT min(id) FROM audits WHERE last_ns >= ?", (older_than_ns,)
            ).fetchone()[0]
            through = max(through, newest if young is None else young - 1)
        return through

    def _shorten(self, anchor: Anchor, through: int, removed: int, keep_rows: int) -> None:
        """Take entries off the old end that no kept audit rests on.

        Audits that repeat without end would still let the chain grow, so beyond twice the number of
        audits the old end goes too, and what is kept of it is carried to the new one.
        """
        rests = self._db.execute(
            f"SELECT chain.sequence {_RESTING} ORDER BY chain.sequence LIMIT 1"
        ).fetchone()
        head = self._chain.stored_head()
        cut = rests[0] - 1 if rests else head.sequence
        excess = head.sequence - anchor.sequence - keep_rows * _ENTRIES_PER_AUDIT
        carried = 0
        if keep_rows and excess > 0:
            carried, cut = self._carry(cut, anchor.sequence + excess)
        cut_hash = self._chain.hash_at(cut)
        if not (removed or carried) or cut_hash is None:  # nothing to do, or a gap: verify tells
            return
        moved = Anchor(
            cut,
            cut_hash,
            max(anchor.through, through if removed else 0),
            anchor.removed + removed,
            time.time_ns(),
        )
        self._db.execute("DELETE FROM chain WHERE sequence <= ?", (cut,))
        self._db.execute(
            "UPDATE anchor SET sequence=?, hash=?, through=?, removed=?, time_ns=?", moved
        )
        self._chain.append(Kind.PRUNED, moved.through, moved.removed, moved.time_ns, moved.packed)

    def _carry(self, cut: int, target: int) -> tuple[int, int]:
        """Record again what rests on entries up to ``target``; how many, and up to where.

        Digests and counts come from the chain and not from the rows, so that a row that was changed
        does not become right by this.
        """
        rows = self._db.execute(
            "SELECT chain.sequence, chain.kind, chain.audit, chain.content, newest.times, "
            f"newest.last_ns {_RESTING} AND chain.sequence BETWEEN ? AND ? "
            "ORDER BY chain.sequence LIMIT ?",
            (cut + 1, target, _CARRY_MAX),
        ).fetchall()
        updates = []
        for _, kind, number, content, count, last_ns in rows:
            again = Kind.TAKEN_OVER if kind == Kind.TAKEN_OVER else Kind.CARRIED
            head = self._chain.append(again, number, count, last_ns, content)
            updates.append((head.sequence, head.sequence, number))
        self._db.executemany("UPDATE audits SET sequence=?, base=? WHERE id=?", updates)
        return len(rows), rows[-1][0] if len(rows) == _CARRY_MAX else max(cut, target)

    def close(self) -> None:
        """Note the head and close the database."""
        if not self._read_only:
            try:
                self.note_head()
            except StateError as error:
                _log.error("%s", error)
        self._db.close()


# Entries that record an audit which is there, and the newest entry about it. What was changed by
# hand does not fit, is not carried, and so is missed by `rote audits verify`.
_RESTING = (
    "FROM chain JOIN audits ON audits.id = chain.audit AND audits.base = chain.sequence "
    "JOIN chain AS newest ON newest.sequence = audits.sequence AND newest.audit = audits.id "
    f"WHERE chain.kind IN ({', '.join(str(int(kind)) for kind in RECORDING)})"
)
_INSERT = (
    f"INSERT INTO audits ({FIXED_COLUMNS}, last_ns, count, sequence, base) "  # noqa: S608
    "VALUES (?,?,?,?,?,?,?,?,?,?,?,?,?,?,?)"
)


def _columns(audit: Audit) -> tuple[object, ...]:
    """FIXED_COLUMNS of an audit."""
    return (
        audit.time_ns, audit.container_id, audit.container_name, audit.image, str(audit.type),
        str(audit.action), int(audit.severity), os.fsencode(audit.path), os.fsencode(audit.path2),
        audit.rule, pack_audit(audit),
    )  # fmt: skip


def pack_audit(audit: Audit) -> bytes:
    """An audit as msgpack."""
    values = {name: getattr(audit, name) for name in Audit.__slots__}
    for name in _ENUMS:
        values[name] = values[name].value
    values["steps"] = [[s.name, s.result, s.detail, s.seconds] for s in audit.steps]
    packed: bytes = msgpack.packb(values, unicode_errors="surrogateescape")
    return packed


def unpack_audit(content: bytes) -> Audit:
    """Read what ``pack_audit`` wrote."""
    values = msgpack.unpackb(content, unicode_errors="surrogateescape")
    for name, kind in _ENUMS.items():
        values[name] = kind(values[name])
    for name in _TUPLES:
        values[name] = tuple(values[name])
    values["keys"] = tuple(values.get("keys", ()))
    values["steps"] = tuple(Step(*step) for step in values.get("steps", ()))
    return Audit(**values)


def _audit(row: tuple[int, int, int, int, bytes, int, bytes | None]) -> Audit:
    number, time_ns, last_ns, count, content, sequence, chained = row
    audit = unpack_audit(content)
    audit.id, audit.time_ns, audit.last_ns, audit.count = number, time_ns, last_ns, count
    audit.sequence, audit.hash = sequence, chained.hex() if chained else ""
    return audit
