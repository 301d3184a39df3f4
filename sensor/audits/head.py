"""The head of the hash chain: what it looks like, and where it is kept besides the database.

A chain shows what was changed inside it; only a head that is kept elsewhere shows that its end was
cut off, or that all of it was made anew. So the head lies in a file beside the database, comes with
every audit that a channel delivers, and is logged from time to time.
"""

from __future__ import annotations

import contextlib
import logging
import os
import re
import time
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from sensor.errors import StateError, UsageError

if TYPE_CHECKING:
    from sensor.audits.store import AuditStore

_log = logging.getLogger("rote.audits")
_HEAD = re.compile(r"(\d{1,18}):([0-9a-f]{64})")
_LOG_SECONDS = 600.0


class Head(NamedTuple):
    """One entry of the chain, by which everything up to it can be recognised."""

    sequence: int
    hash: bytes

    def __str__(self) -> str:
        return f"{self.sequence}:{self.hash.hex()}"


def parse_head(text: str) -> Head:
    """Read "SEQUENCE:HASH".

    Raises:
        UsageError: it is not written like that.
    """
    match = _HEAD.fullmatch(text.strip())
    if match is None:
        raise UsageError(
            f"head {text!r}: expected SEQUENCE:HASH, a number and 64 hexadecimal digits, as "
            "`rote audits verify` prints it"
        )
    return Head(int(match.group(1)), bytes.fromhex(match.group(2)))


def head_path(database: Path) -> Path:
    """The file beside a database that holds its head."""
    return database.with_suffix(".head")


def read_head(database: Path) -> Head | None:
    """The head that was noted beside a database; none when there is no such file.

    Raises:
        StateError: it cannot be read, or holds no head.
    """
    path = head_path(database)
    try:
        return parse_head(path.read_text(encoding="ascii"))
    except FileNotFoundError:
        return None
    except OSError as error:
        raise StateError(f"{path}: {error.strerror}") from error
    except (UsageError, UnicodeDecodeError) as error:
        raise StateError(f"{path}: damaged; it holds no head of the audits' chain") from error


def write_head(database: Path, head: Head) -> None:
    """Note a head beside its database; the file is whole at every moment, also after a power cut.

    Raises:
        StateError: it cannot be written; an earlier one stays.
    """
    path = head_path(database)
    fresh = path.with_suffix(".head.new")
    try:
        with fresh.open("w", encoding="ascii") as file:
            os.fchmod(file.fileno(), 0o600)
            file.write(f"{head}\n")
            file.flush()
            os.fsync(file.fileno())
        fresh.replace(path)
    except OSError as error:
        with contextlib.suppress(OSError):
            fresh.unlink(missing_ok=True)
        raise StateError(f"{path}: {error.strerror}; an earlier head stays there") from error


class HeadKeeper:
    """Notes a store's head beside it, and logs it from time to time.

    Noting costs an fsync, so it is done by the daemon's tick and not with every batch. What is cut
    off within that second and together with a crash is not shown.

    Args:
        store: whose head.
        log_seconds: at most so often it is logged, and only when it moved.
    """

    def __init__(self, store: AuditStore, *, log_seconds: float = _LOG_SECONDS) -> None:
        self._store = store
        self._log_seconds = log_seconds
        self._next_log = 0.0
        self._logged: Head | None = None
        self._failing = False

    def tick(self, now: float | None = None) -> None:
        """Note the head if it moved; log it if that is due.

        Args:
            now: seconds of a steady clock.
        """
        try:
            self._store.note_head()
            self._failing = False
        except StateError as error:
            if not self._failing:  # once, not every second
                _log.error("%s", error)
            self._failing = True
        moment = time.monotonic() if now is None else now
        if moment >= self._next_log:
            self._next_log = moment + self._log_seconds
            self._tell()

    def close(self) -> None:
        """Note and log the last head."""
        self.tick()
        self._tell()

    def _tell(self) -> None:
        head = self._store.head
        if head != self._logged:
            self._logged = head
            _log.info("audits: head %s; check with: rote audits verify --head %s", head, head)
