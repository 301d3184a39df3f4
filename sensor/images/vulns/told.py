"""What was told of images and containers: each finding is told once, not with every scan."""

from __future__ import annotations

import datetime as dt
from collections.abc import Collection, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import replace
from pathlib import Path

from sensor.audits.audit import Action
from sensor.database import database_errors, open_database, transaction
from sensor.images.vulns.finding import Finding
from sensor.images.vulns.judge import Judgement

_VERSION = 1
_SCHEMA = """
CREATE TABLE IF NOT EXISTS told (
    image TEXT NOT NULL,
    id TEXT NOT NULL,
    ecosystem TEXT NOT NULL,
    package TEXT NOT NULL,
    first_seen TEXT NOT NULL,
    last_seen TEXT NOT NULL,
    action INTEGER NOT NULL DEFAULT 0,
    severity INTEGER NOT NULL DEFAULT 0,
    exploited INTEGER NOT NULL DEFAULT 0,
    PRIMARY KEY (image, id, ecosystem, package)
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS noted (
    subject TEXT NOT NULL,
    what TEXT NOT NULL,
    last_seen TEXT NOT NULL,
    PRIMARY KEY (subject, what)
) WITHOUT ROWID
"""
_RANK = {Action.IGNORE: 0, Action.ALERT: 1, Action.BLOCK: 2}
FORGET_DAYS = 90
_REMEDY = "move it away: every vulnerability is then told once more"


class ToldStore:
    """The store; a file of its own, because the advisories may be thrown away and this may not.

    Args:
        path: the database file; made when absent, mode 0600.

    Raises:
        StateError: it cannot be opened, is damaged, or is of a later version.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        with self._errors("open"):
            path.parent.mkdir(parents=True, exist_ok=True)
            # What a power cut takes away is told once more.
            self._db = open_database(path, _VERSION, _SCHEMA)

    def _errors(self, what: str) -> AbstractContextManager[None]:
        return database_errors(self.path, what, _REMEDY)

    @contextmanager
    def _transaction(self) -> Iterator[None]:
        with self._errors("write"), transaction(self._db):
            yield

    def seen(self, image: str, findings: Sequence[Finding], today: dt.date) -> list[Finding]:
        """Note what a scan found.

        Args:
            image: its id.
            findings: all of them, before they are judged.
            today: the day of the scan.

        Returns:
            The same, with the day on which each was first found in this image.
        """
        day = today.isoformat()
        with self._errors("read"):
            known = {
                tuple(key): (first_seen, last_seen)
                for *key, first_seen, last_seen in self._db.execute(
                    "SELECT id, ecosystem, package, first_seen, last_seen FROM told WHERE image=?",
                    (image,),
                )
            }
        # A start asks this too, and usually nothing is new on the same day.
        changed = {f.key for f in findings if known.get(f.key, ("", ""))[1] < day}
        if changed:
            with self._transaction():
                self._db.executemany(
                    "INSERT INTO told (image, id, ecosystem, package, first_seen, last_seen) "
                    "VALUES (?,?,?,?,?,?) ON CONFLICT DO UPDATE SET last_seen=excluded.last_seen",
                    [(image, *key, day, day) for key in sorted(changed)],
                )
        return [
            replace(finding, first_seen=known.get(finding.key, (day, day))[0])
            for finding in findings
        ]

    def news(self, image: str, judgements: Iterable[Judgement]) -> list[Judgement]:
        """What nobody was told of yet, and what became worse since.

        Worse is a harder action, a higher severity, or that it is now known to be exploited.
        """
        with self._errors("read"):
            told = {
                tuple(key): tuple(state)
                for *key, action, severity, exploited in self._db.execute(
                    "SELECT id, ecosystem, package, action, severity, exploited FROM told "
                    "WHERE image=?",
                    (image,),
                )
                for state in [(action, severity, exploited)]
            }
        return [
            judgement
            for judgement in judgements
            if judgement.action is not Action.IGNORE
            and _is_worse(_state(judgement), told.get(judgement.finding.key, (0, 0, 0)))
        ]

    def mark(self, image: str, judgements: Iterable[Judgement], today: dt.date) -> None:
        """Note that people were told. Called when the audit is kept: twice is better than never."""
        day = today.isoformat()
        with self._transaction():
            self._db.executemany(
                "INSERT INTO told VALUES (?,?,?,?,?,?,?,?,?) ON CONFLICT DO UPDATE SET "
                "action=excluded.action, severity=excluded.severity, exploited=excluded.exploited",
                [(image, *j.finding.key, day, day, *_state(j)) for j in judgements],
            )

    def unnoted(self, subject: str, whats: Collection[str]) -> list[str]:
        """What of other findings, such as failed checks, nobody was told of yet.

        Args:
            subject: what they are found of.
            whats: names of them.
        """
        with self._errors("read"):
            rows = self._db.execute("SELECT what FROM noted WHERE subject=?", (subject,))
            known = {row[0] for row in rows}
        return [what for what in whats if what not in known]

    def note(self, subject: str, whats: Collection[str], today: dt.date) -> None:
        """Note that people were told of other findings, and that they were found today."""
        day = today.isoformat()
        with self._transaction():
            self._db.executemany(
                "INSERT INTO noted VALUES (?,?,?) ON CONFLICT DO UPDATE SET "
                "last_seen=excluded.last_seen WHERE last_seen < excluded.last_seen",
                [(subject, what, day) for what in whats],
            )

    def forget(self, images: Collection[str], today: dt.date) -> int:
        """Forget images that are gone, and what was not found for long.

        Args:
            images: that are still there.
            today: what was last found more than ``FORGET_DAYS`` before is forgotten.

        Returns:
            How many vulnerabilities were forgotten.
        """
        oldest = (today - dt.timedelta(days=FORGET_DAYS)).isoformat()
        with self._transaction():
            known = [row[0] for row in self._db.execute("SELECT DISTINCT image FROM told")]
            gone = [(image,) for image in known if image not in images]
            before = self._db.total_changes
            self._db.executemany("DELETE FROM told WHERE image=?", gone)
            self._db.execute("DELETE FROM told WHERE last_seen < ?", (oldest,))
            self._db.execute("DELETE FROM noted WHERE last_seen < ?", (oldest,))
            return self._db.total_changes - before

    def close(self) -> None:
        """Close the database."""
        self._db.close()


def _state(judgement: Judgement) -> tuple[int, int, int]:
    return (
        _RANK[judgement.action],
        int(judgement.severity),
        int(bool(judgement.finding.exploited)),
    )


def _is_worse(now: tuple[int, ...], told: tuple[int, ...]) -> bool:
    return any(new > old for new, old in zip(now, told, strict=True))
