"""SQLite files of ours: opened, checked, and their errors said in one line."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from sensor.errors import StateError


def open_database(
    path: Path,
    version: int,
    schema: str,
    *,
    synchronous: str = "NORMAL",
    busy_seconds: float = 5.0,
    any_thread: bool = False,
) -> sqlite3.Connection:
    """Open a database in autocommit mode. Use it inside ``database_errors``.

    Args:
        path: the file; made when absent, mode 0600.
        version: of the schema, kept as ``user_version``.
        schema: statements that make the tables, where they are not there.
        synchronous: FULL where a power failure must lose nothing, else NORMAL.
        busy_seconds: how long another process's lock is waited for.
        any_thread: whether the connection is used by other threads than the one that opened it.

    Raises:
        StateError: it is of a later version.
        sqlite3.Error, OSError: it cannot be opened.
    """
    path.touch(mode=0o600, exist_ok=True)
    database = sqlite3.connect(
        path, isolation_level=None, timeout=busy_seconds, check_same_thread=not any_thread
    )
    try:
        database.execute("PRAGMA journal_mode=WAL")
        database.execute(f"PRAGMA synchronous={synchronous}")
        _set_up(database, path, version, schema)
    except BaseException:
        database.close()
        raise
    return database


def _set_up(database: sqlite3.Connection, path: Path, version: int, schema: str) -> None:
    found = database.execute("PRAGMA user_version").fetchone()[0]
    if found not in (0, version):
        raise StateError(
            f"{path}: schema version {found}; expected {version}: it was written by a later Rote"
        )
    if not found:
        database.executescript(schema)
        database.execute(f"PRAGMA user_version={version}")


@contextmanager
def database_errors(path: Path, what: str, remedy: str) -> Iterator[None]:
    """Say whatever SQLite or the file system says as one line for a person.

    Args:
        path: of the database.
        what: was tried, after "cannot".
        remedy: what to do if the file is damaged.

    Raises:
        StateError: in place of their errors.
    """
    try:
        yield
    except sqlite3.Error as error:
        raise StateError(f"{path}: cannot {what}: {error}; if it is damaged, {remedy}") from error
    except OSError as error:
        raise StateError(f"{path}: cannot {what}: {error.strerror}") from error


@contextmanager
def transaction(database: sqlite3.Connection) -> Iterator[None]:
    """All or nothing; readers see what was before until it is done."""
    database.execute("BEGIN IMMEDIATE")
    try:
        yield
        database.execute("COMMIT")
    except BaseException:
        if database.in_transaction:
            database.execute("ROLLBACK")
        raise
