"""Where an import builds up what a feed says, before any of it counts.

A file beside the store. It is written in steps, each with how far in the feed it goes, so that an
import that was interrupted goes on there. When all is read, the store takes it over at once; until
then what the feed said before holds.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from sensor.errors import StateError
from sensor.images.vulns import schema
from sensor.images.vulns.advisory import (
    Advisory,
    CveFacts,
    Exploited,
    Likelihood,
    Problem,
    Record,
)
from sensor.images.vulns.severity import base_score

READER = "1"  # changes when readers make something else of the same bytes
PROBLEMS_MAX = 1000
_SUMMARY_MAX = 200


class Stage:
    """What an import has so far.

    Args:
        path: the file; what an earlier import of the same bytes left there is gone on with.
        identity: of the bytes and their kind.

    Raises:
        StateError: it cannot be written.
    """

    def __init__(self, path: Path, identity: str) -> None:
        self.path = path
        identity = f"{READER} {schema.VERSION} {identity}"
        with self._errors():
            path.touch(mode=0o600, exist_ok=True)
            self._open()
            if self._meta("identity") != identity:
                self.discard()
                path.touch(mode=0o600)
                self._open()
                self._db.execute("INSERT INTO meta VALUES ('identity', ?)", (identity,))
            self.units = int(self._meta("units") or 0)  # of the feed that are in here
            self.records = int(self._meta("records") or 0)
            self.skipped = int(self._meta("skipped") or 0)
            self._advisory = self._db.execute("SELECT ifnull(max(id), 0) FROM advisory").fetchone()[
                0
            ]
            self._db.execute("BEGIN")

    @contextmanager
    def _errors(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.Error as error:
            raise StateError(
                f"{self.path}: cannot write: {error}; what the feed said before holds"
            ) from error
        except OSError as error:
            raise StateError(f"{self.path}: cannot write: {error.strerror}") from error

    def _open(self) -> None:
        self._db = sqlite3.connect(self.path, isolation_level=None)
        try:
            self._set_up()
        except sqlite3.DatabaseError:
            self.discard()  # a file that a crash left half written: begin anew
            self._db = sqlite3.connect(self.path, isolation_level=None)
            self._set_up()

    def _set_up(self) -> None:
        self._db.execute("PRAGMA journal_mode=TRUNCATE")
        self._db.execute("PRAGMA synchronous=OFF")
        self._db.executescript(schema.STAGE + schema.FACTS.format(schema="main"))

    def _meta(self, name: str) -> str:
        row = self._db.execute("SELECT value FROM meta WHERE name=?", (name,)).fetchone()
        return row[0] if row else ""

    def add(self, unit: Sequence[Record]) -> None:
        """Take over what one unit of the feed says."""
        with self._errors():
            for record in unit:
                self._add(record)
        self.units += 1

    def _add(self, record: Record) -> None:
        execute = self._db.execute
        match record:
            case Advisory():
                self._add_advisory(record)
            case CveFacts():
                summary = _one_line(record.summary)
                execute(
                    "INSERT OR REPLACE INTO cve VALUES (?,0,?,?,?,?,?,?)",
                    (record.cve, record.score, record.vector, record.scored_by, record.published,
                     record.modified, summary),
                )  # fmt: skip
            case Exploited():
                execute(
                    "INSERT OR REPLACE INTO exploited VALUES (?,0,?,?,?)",
                    (record.cve, record.added, record.due, record.ransomware),
                )
            case Likelihood():
                execute(
                    "INSERT OR REPLACE INTO likelihood VALUES (?,0,?,?)",
                    (record.cve, record.probability, record.percentile),
                )
            case Problem():
                self.skipped += 1
                if self.skipped <= PROBLEMS_MAX:
                    execute("INSERT INTO problem VALUES (0,?,?)", (record.place, record.text))
                return
        self.records += 1

    def _add_advisory(self, advisory: Advisory) -> None:
        score = None
        if advisory.vector:
            try:
                score = base_score(advisory.vector)
            except ValueError as error:
                self._add(Problem(advisory.name, f"severity: {error}"))
        self._advisory += 1
        self._db.execute(
            "INSERT INTO advisory VALUES (?,0,?,?,?,?,?,?,?,?)",
            (self._advisory, advisory.name, " ".join(advisory.cves), " ".join(advisory.aliases),
             advisory.published, score, advisory.vector if score is not None else "",
             _one_line(advisory.summary), advisory.is_errata),
        )  # fmt: skip
        names = {advisory.name, *advisory.cves, *advisory.aliases}
        self._db.executemany(
            "INSERT INTO advisory_name VALUES (?,?)", [(name, self._advisory) for name in names]
        )
        self._db.executemany(
            "INSERT INTO affected VALUES (?,?,?,?,?,?,?,?)",
            [
                (a.ecosystem, a.package, a.high, a.low, self._advisory, a.fixed, a.status,
                 a.severity)
                for a in advisory.affected
            ],
        )  # fmt: skip

    def save(self) -> None:
        """Make sure of what was added so far."""
        with self._errors():
            self._db.executemany(
                "INSERT OR REPLACE INTO meta VALUES (?,?)",
                [("units", self.units), ("records", self.records), ("skipped", self.skipped)],
            )
            self._db.execute("COMMIT")
            self._db.execute("BEGIN")

    def finish(self) -> None:
        """Close it, so that the store can take it over."""
        self.save()
        self.close()

    def close(self) -> None:
        """Close it as it is; what was not saved is gone."""
        if self._db.in_transaction:
            self._db.execute("ROLLBACK")
        self._db.close()

    def discard(self) -> None:
        """Remove it."""
        self._db.close()
        self.path.unlink(missing_ok=True)
        Path(f"{self.path}-journal").unlink(missing_ok=True)


def _one_line(text: str) -> str:
    line = " ".join(text.split())
    return line if len(line) <= _SUMMARY_MAX else line[: _SUMMARY_MAX - 1] + "…"
