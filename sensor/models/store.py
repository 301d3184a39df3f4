"""Where models are kept: one SQLite file, a model a row."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from sensor.errors import ModelFileError, StateError
from sensor.models.files import pack_model, unpack_model
from sensor.models.model import Model

_SCHEMA = """
CREATE TABLE IF NOT EXISTS models (
    number INTEGER PRIMARY KEY AUTOINCREMENT,
    id TEXT NOT NULL UNIQUE,
    content BLOB NOT NULL
)
"""
_VERSION = 1


class ModelStore:
    """The models of one host.

    Args:
        path: the database file; made when absent, mode 0600.

    Raises:
        StateError: it cannot be opened, is damaged, or is of a later version.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        with self._errors("open"):
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
            self._db.execute(_SCHEMA)
            self._db.execute(f"PRAGMA user_version={_VERSION}")

    @contextmanager
    def _errors(self, what: str) -> Iterator[None]:
        try:
            yield
        except sqlite3.DatabaseError as error:
            raise StateError(
                f"{self.path}: cannot {what}: {error}; if it is damaged, move it away and import "
                "the exported models again"
            ) from error
        except OSError as error:
            raise StateError(f"{self.path}: cannot {what}: {error.strerror}") from error

    def load(self) -> list[Model]:
        """Every model.

        Raises:
            StateError: naming the row that cannot be read.
        """
        with self._errors("read"):
            rows = self._db.execute("SELECT number, content FROM models ORDER BY number").fetchall()
        try:
            return [
                unpack_model(content, number, f"{self.path}: model {number}")
                for number, content in rows
            ]
        except ModelFileError as error:
            raise StateError(
                f"{error}; remove that row of the table `models` with sqlite3 and import the "
                "model again"
            ) from error

    def add(self, model: Model) -> int:
        """Keep a new model; its number. Numbers are never given twice."""
        with self._errors("add a model"):
            cursor = self._db.execute(
                "INSERT INTO models (id, content) VALUES (?, ?)", (model.id, pack_model(model))
            )
        number = cursor.lastrowid
        assert number is not None
        return number

    def save(self, models: Iterable[Model]) -> None:
        """Write models in one transaction."""
        rows = [(pack_model(model), model.number) for model in models]
        with self._errors("write"):
            self._db.execute("BEGIN IMMEDIATE")
            try:
                self._db.executemany("UPDATE models SET content=? WHERE number=?", rows)
            except sqlite3.Error:
                self._db.execute("ROLLBACK")
                raise
            self._db.execute("COMMIT")

    def remove(self, model: Model) -> None:
        """Forget a model."""
        with self._errors("remove a model"):
            self._db.execute("DELETE FROM models WHERE number=?", (model.number,))

    def close(self) -> None:
        """Close the database."""
        self._db.close()
