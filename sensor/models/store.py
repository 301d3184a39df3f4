"""Where models are kept: one SQLite file, a model a row."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import AbstractContextManager
from pathlib import Path

from sensor.database import database_errors, open_database, transaction
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
_REMEDY = "move it away and import the exported models again"


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
            self._db = open_database(path, _VERSION, _SCHEMA, synchronous="FULL")

    def _errors(self, what: str) -> AbstractContextManager[None]:
        return database_errors(self.path, what, _REMEDY)

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
        with self._errors("write"), transaction(self._db):
            self._db.executemany("UPDATE models SET content=? WHERE number=?", rows)

    def remove(self, model: Model) -> None:
        """Forget a model."""
        with self._errors("remove a model"):
            self._db.execute("DELETE FROM models WHERE number=?", (model.number,))

    def close(self) -> None:
        """Close the database."""
        self._db.close()
