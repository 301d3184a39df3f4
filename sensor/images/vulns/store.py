"""The advisory store: one SQLite file, which feeds are imported into and images matched against."""

from __future__ import annotations

import fcntl
import os
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from sensor.database import database_errors, open_database, transaction
from sensor.errors import StateError, UsageError
from sensor.images.vulns import schema

STALE_SECONDS = 3 * 86400.0
_REMEDY = "remove it and run `rote vulns update` again: everything in it comes from feeds"


@dataclass(frozen=True, slots=True)
class Feed:
    """What is known of a feed; times in nanoseconds since the epoch, 0: never.

    ``checked_ns`` is when its source last said, or was found to have, what is in the store.
    """

    id: int
    name: str
    kind: str
    source: str
    digest: str
    etag: str
    last_modified: str
    checked_ns: int
    imported_ns: int
    records: int
    skipped: int
    error: str
    stale_seconds: float

    def age(self, now_ns: int) -> float:
        """Seconds since it was last known to be current."""
        return max(0.0, (now_ns - self.checked_ns) / 1e9)

    def is_stale(self, now_ns: int) -> bool:
        """Whether it is older than it may be."""
        return self.age(now_ns) > (self.stale_seconds or STALE_SECONDS)


_SCHEMA = schema.FACTS.format(schema="main") + schema.STORE
_BUSY_SECONDS = 60.0
_FEED = ", ".join(field.name for field in fields(Feed))


class VulnStore:
    """The store.

    Args:
        path: the database file; made when absent, mode 0600.

    Raises:
        StateError: it cannot be opened, is damaged, or is of a later version.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        with self.errors("open"):
            path.parent.mkdir(parents=True, exist_ok=True)
            self.db = open_database(path, schema.VERSION, _SCHEMA, busy_seconds=_BUSY_SECONDS)
            self.db.execute("PRAGMA cache_size=-16000")

    def errors(self, what: str) -> AbstractContextManager[None]:
        """Whatever SQLite says, as one line for a person."""
        return database_errors(self.path, what, _REMEDY)

    @contextmanager
    def transaction(self, what: str) -> Iterator[None]:
        """All or nothing; readers see what was before until it is done."""
        with self.errors(what), transaction(self.db):
            yield

    @contextmanager
    def importing(self) -> Iterator[None]:
        """Hold the right to import; of one process at a time.

        Raises:
            StateError: another process imports.
        """
        path = self.path.with_name(self.path.name + ".lock")
        with self.errors("lock"):
            fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            try:
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError as error:
                raise StateError(
                    f"{path}: another process imports feeds now; expected to be the only one"
                ) from error
            yield
        finally:
            os.close(fd)

    @property
    def generation(self) -> int:
        """Grows when feeds say something else: who judged by a lower one judges again."""
        with self.errors("read"):
            found: int = self.db.execute("SELECT number FROM generation").fetchone()[0]
        return found

    def feeds(self) -> list[Feed]:
        """All feeds, by name."""
        with self.errors("read"):
            rows = self.db.execute(f"SELECT {_FEED} FROM feed ORDER BY name").fetchall()  # noqa: S608
        return [Feed(*row) for row in rows]

    def feed(self, name: str) -> Feed | None:
        """One feed."""
        with self.errors("read"):
            row = self.db.execute(f"SELECT {_FEED} FROM feed WHERE name=?", (name,)).fetchone()  # noqa: S608
        return Feed(*row) if row else None

    def add_feed(self, name: str, kind: str, source: str) -> Feed:
        """The feed of a name; a new one has nothing in it."""
        with self.transaction("write"):
            self.db.execute(
                "INSERT INTO feed (name, kind, source) VALUES (?,?,?) ON CONFLICT (name) DO "
                "UPDATE SET kind=excluded.kind, source=excluded.source",
                (name, kind, source),
            )
        found = self.feed(name)
        assert found is not None
        return found

    def update_feed(self, name: str, **changed: Any) -> None:
        """Change what is known of a feed; fields of ``Feed``."""
        sets = ", ".join(f"{field}=:{field}" for field in changed)
        with self.transaction("write"):
            self.db.execute(
                f"UPDATE feed SET {sets} WHERE name=:_name",  # noqa: S608 - names of ours
                {**changed, "_name": name},
            )

    def merge(self, feed: Feed, stage: Path, *, digest: str, records: int, skipped: int) -> None:
        """Put what an import built up in the place of what the feed had said before."""
        now = time.time_ns()
        with self.errors("import into"):
            self.db.execute("ATTACH ? AS stage", (str(stage),))
        try:
            with self.transaction("import into"):
                shift = self.db.execute("SELECT ifnull(max(id), 0) FROM advisory").fetchone()[0]
                for statement in schema.MERGE:
                    self.db.execute(statement, {"feed": feed.id, "shift": shift})
                self.db.execute(
                    "UPDATE feed SET digest=?, checked_ns=?, imported_ns=?, records=?, skipped=?, "
                    "error='' WHERE id=?",
                    (digest, now, now, records, skipped, feed.id),
                )
        finally:
            with self.errors("import into"):
                self.db.execute("DETACH stage")

    def remove_feed(self, name: str) -> None:
        """Forget a feed and all it said.

        Raises:
            UsageError: there is none of that name.
        """
        feed = self.feed(name)
        if feed is None:
            names = ", ".join(other.name for other in self.feeds()) or "none"
            raise UsageError(f"feed {name!r}: there is none; expected one of: {names}")
        with self.transaction("write"):
            for statement in schema.REMOVE:
                self.db.execute(statement, {"feed": feed.id})
            self.db.execute("DELETE FROM feed WHERE id=?", (feed.id,))
            self.db.execute("UPDATE generation SET number = number + 1")

    def problems(self, name: str) -> list[tuple[str, str]]:
        """Place and text of what could not be used of a feed; the first thousand."""
        with self.errors("read"):
            return self.db.execute(
                "SELECT place, text FROM problem WHERE feed = (SELECT id FROM feed WHERE name=?)",
                (name,),
            ).fetchall()

    def close(self) -> None:
        """Close the database."""
        self.db.close()


def stale_feeds(store: VulnStore, now_ns: int) -> list[Feed]:
    """The feeds that are older than they may be: what an audit of the daemon tells of.

    Args:
        store: the advisory store.
        now_ns: nanoseconds since the epoch.
    """
    return [feed for feed in store.feeds() if feed.is_stale(now_ns)]
