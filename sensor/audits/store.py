"""Where audits are kept: one SQLite file, written before anybody is shown anything."""

from __future__ import annotations

import logging
import os
import sqlite3
from collections import OrderedDict
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

import msgpack

from sensor.audits.audit import Action, Audit, AuditType, Guarantee, Sensor, Severity, Step
from sensor.audits.query import AuditQuery
from sensor.errors import StateError

_log = logging.getLogger("rote.audits")
_VERSION = 1
_SCHEMA = """
CREATE TABLE IF NOT EXISTS audits (
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
    content BLOB NOT NULL
);
CREATE INDEX IF NOT EXISTS audits_last ON audits (last_ns);
CREATE INDEX IF NOT EXISTS audits_container ON audits (container_id, id);
"""
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
        self._window_ns = int(window_seconds * 1e9)
        self._open: OrderedDict[tuple[object, ...], Audit] = OrderedDict()
        self._pending: list[Audit] = []
        self.dropped = 0  # could not be kept while the store could not be written
        with self._errors("open"):
            if read_only:
                self._db = sqlite3.connect(f"file:{path}?mode=ro", uri=True)
            else:
                path.touch(mode=0o600, exist_ok=True)
                self._db = sqlite3.connect(path, isolation_level=None)
                self._db.execute("PRAGMA journal_mode=WAL")
                self._db.execute("PRAGMA synchronous=FULL")
            version = self._db.execute("PRAGMA user_version").fetchone()[0]
            if version not in (0, _VERSION):
                raise StateError(
                    f"{path}: schema version {version}; expected {_VERSION}: it was written by a "
                    "later Rote"
                )
            if not read_only:
                self._db.executescript(_SCHEMA)
                self._db.execute(f"PRAGMA user_version={_VERSION}")
                self._reopen()

    @contextmanager
    def _errors(self, what: str) -> Iterator[None]:
        try:
            yield
        except sqlite3.DatabaseError as error:
            raise StateError(
                f"{self.path}: cannot {what}: {error}; if it is damaged, move it away and start "
                "again"
            ) from error
        except OSError as error:
            raise StateError(f"{self.path}: cannot {what}: {error.strerror}") from error

    def _reopen(self) -> None:
        """Repeats of what an earlier daemon recorded are counted on."""
        newest = self._db.execute("SELECT max(last_ns) FROM audits").fetchone()[0]
        if newest is None:
            return
        rows = self._db.execute(
            "SELECT id, time_ns, last_ns, count, content FROM audits WHERE last_ns >= ? "
            "ORDER BY last_ns DESC LIMIT 1000",
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
        self._db.execute("BEGIN IMMEDIATE")
        try:
            for audit, is_new in touched:
                if is_new:
                    cursor = self._db.execute(
                        "INSERT INTO audits (time_ns, last_ns, count, container_id, "
                        "container_name, image, type, action, severity, path, path2, content) "
                        "VALUES (?,?,?,?,?,?,?,?,?,?,?,?)",
                        _row(audit),
                    )
                    audit.id = cursor.lastrowid or 0
                else:
                    self._db.execute(
                        "UPDATE audits SET count=?, last_ns=? WHERE id=?",
                        (audit.count, audit.last_ns, audit.id),
                    )
            self._db.execute("COMMIT")
        except sqlite3.Error:
            if self._db.in_transaction:
                self._db.execute("ROLLBACK")
            raise

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
                f"SELECT id, time_ns, last_ns, count, content FROM audits WHERE {where} "  # noqa: S608
                f"ORDER BY id DESC {limit}",
                [*values, *([query.limit] if query.limit else [])],
            ).fetchall()
        return [_audit(row) for row in reversed(rows)]

    def get(self, number: int) -> Audit | None:
        """The audit with this id."""
        with self._errors("read"):
            row = self._db.execute(
                "SELECT id, time_ns, last_ns, count, content FROM audits WHERE id=?", (number,)
            ).fetchone()
        return _audit(row) if row else None

    def after(self, number: int, limit: int) -> list[Audit]:
        """The audits that follow one, oldest first.

        Args:
            number: the id of the one before; 0: from the first on.
            limit: at most so many.
        """
        with self._errors("read"):
            rows = self._db.execute(
                "SELECT id, time_ns, last_ns, count, content FROM audits WHERE id > ? "
                "ORDER BY id LIMIT ?",
                (number, limit),
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
        """Remove the oldest audits beyond a number or an age; how many went."""
        removed = 0
        with self._errors("prune"):
            if older_than_ns:
                removed += self._db.execute(
                    "DELETE FROM audits WHERE last_ns < ?", (older_than_ns,)
                ).rowcount
            if keep_rows:
                removed += self._db.execute(
                    "DELETE FROM audits WHERE id <= (SELECT max(id) FROM audits) - ?", (keep_rows,)
                ).rowcount
        return removed

    def close(self) -> None:
        """Close the database."""
        self._db.close()


def _row(audit: Audit) -> tuple[object, ...]:
    return (
        audit.time_ns, audit.last_ns, audit.count, audit.container_id, audit.container_name,
        audit.image, str(audit.type), str(audit.action), int(audit.severity),
        os.fsencode(audit.path), os.fsencode(audit.path2), pack_audit(audit),
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
    values["steps"] = tuple(Step(*step) for step in values.get("steps", ()))
    return Audit(**values)


def _audit(row: tuple[int, int, int, int, bytes]) -> Audit:
    number, time_ns, last_ns, count, content = row
    audit = unpack_audit(content)
    audit.id, audit.time_ns, audit.last_ns, audit.count = number, time_ns, last_ns, count
    return audit
