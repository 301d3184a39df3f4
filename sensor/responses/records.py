"""What must outlive the daemon: who is blocked or in quarantine, and how it was before.

One SQLite file with a row for each container. Every write is on the disk when it returns: a record
is written before the first step it speaks of is taken, so that a daemon that was killed in between
finds at its next start what it has to finish.
"""

from __future__ import annotations

from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import msgpack

from sensor.database import database_errors, open_database
from sensor.errors import StateError

_VERSION = 1
_TABLES = ("blocked", "quarantined")
_SCHEMA = "".join(
    f"CREATE TABLE IF NOT EXISTS {table} "
    "(container_id TEXT PRIMARY KEY, content BLOB NOT NULL) WITHOUT ROWID;\n"
    for table in _TABLES
)
_REMEDY = (
    "move it away and start again: containers that are blocked stay down, but are no "
    "longer known as blocked"
)


class RecordStore:
    """Records of one host, by table and container id.

    Args:
        path: the database file; made when absent, mode 0600.

    Raises:
        StateError: it cannot be opened, is damaged, or is of a later version.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        with self._errors("open"):
            self._db = open_database(path, _VERSION, _SCHEMA, synchronous="FULL")

    def _errors(self, what: str) -> AbstractContextManager[None]:
        return database_errors(self.path, what, _REMEDY)

    def put(self, table: str, container_id: str, values: dict[str, Any]) -> None:
        """Write a record, in place of an earlier one.

        Raises:
            StateError: it is not written.
        """
        content = msgpack.packb(values, unicode_errors="surrogateescape")
        with self._errors("write"):
            self._db.execute(
                f"INSERT OR REPLACE INTO {_known(table)} VALUES (?, ?)",  # noqa: S608 - ours
                (container_id, content),
            )

    def all(self, table: str) -> list[dict[str, Any]]:
        """Every record of a table.

        Raises:
            StateError: it cannot be read.
        """
        with self._errors("read"):
            rows = self._db.execute(
                f"SELECT content FROM {_known(table)}"  # noqa: S608 - ours
            ).fetchall()
        try:
            return [msgpack.unpackb(row[0], unicode_errors="surrogateescape") for row in rows]
        except ValueError as error:
            raise StateError(f"{self.path}: a record in {table} is damaged: {error}") from error

    def remove(self, table: str, container_id: str) -> None:
        """Forget a record.

        Raises:
            StateError: it is not forgotten.
        """
        with self._errors("write"):
            self._db.execute(
                f"DELETE FROM {_known(table)} WHERE container_id=?",  # noqa: S608 - ours
                (container_id,),
            )

    def close(self) -> None:
        """Close the database."""
        self._db.close()


def _known(table: str) -> str:
    assert table in _TABLES, table
    return table
