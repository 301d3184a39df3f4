"""Sessions that a person allowed: for a while, for a reason, and everything in them recorded."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import orjson

from sensor.errors import StateError, UsageError

_log = logging.getLogger("rote.sessions")
SECONDS_MAX = 24 * 3600.0


@dataclass(frozen=True, slots=True)
class Session:
    """That people may work by hand in one container, until when and why."""

    container_id: str
    name: str
    reason: str
    since: float  # seconds since the epoch
    until: float


class Sessions:
    """The sessions that are allowed now; they outlive the daemon, and so does their end.

    Args:
        clock: seconds since the epoch.
        path: where they are kept; None: in memory only.

    Raises:
        StateError: what is kept is damaged.
    """

    def __init__(self, clock: Callable[[], float], path: Path | None = None) -> None:
        self._clock = clock
        self._path = path
        self._sessions: dict[str, Session] = {}
        if path is not None and path.exists():
            try:
                rows = orjson.loads(path.read_bytes())
                self._sessions = {row["container_id"]: Session(**row) for row in rows}
            except (OSError, ValueError, TypeError, KeyError) as error:
                raise StateError(
                    f"{path}: cannot be read ({error}); expected what an earlier daemon wrote: "
                    "move it away to go on without allowed sessions"
                ) from error

    def allow(self, container_id: str, name: str, *, seconds: float, reason: str) -> Session:
        """Allow sessions in a container from now on; again: instead of before.

        Raises:
            UsageError: no reason, or no time that makes sense.
            StateError: it cannot be written.
        """
        if not reason.strip():
            raise UsageError("session: expected a reason; it stands in every audit of the session")
        if not 0 < seconds <= SECONDS_MAX:
            raise UsageError("session: expected a time of more than 0 and at most 24h")
        now = self._clock()
        session = Session(container_id, name, reason.strip(), now, now + seconds)
        self._sessions[container_id] = session
        self._write()
        return session

    def end(self, container_id: str) -> Session | None:
        """End the sessions of a container; what was ended."""
        session = self._sessions.pop(container_id, None)
        if session is not None:
            self._write()
        return session

    def reason(self, container_id: str) -> str:
        """Why sessions are allowed in a container now; empty when they are not."""
        session = self._sessions.get(container_id)
        return session.reason if session is not None and self._clock() < session.until else ""

    def over(self) -> list[Session]:
        """Sessions whose time is over, and which nobody has ended yet."""
        now = self._clock()
        return [session for session in self._sessions.values() if now >= session.until]

    def all(self) -> list[Session]:
        """Every session, the one that ends first at the top."""
        return sorted(self._sessions.values(), key=lambda session: session.until)

    def _write(self) -> None:
        if self._path is None:
            return
        temporary = self._path.with_suffix(".new")
        try:
            temporary.write_bytes(orjson.dumps([asdict(s) for s in self._sessions.values()]))
            temporary.chmod(0o600)
            temporary.replace(self._path)
        except OSError as error:
            raise StateError(f"{self._path}: {error.strerror}; the session was not kept") from error
