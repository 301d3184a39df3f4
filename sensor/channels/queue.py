"""The durable queue of the channels: one SQLite file.

Audits are durable already, in audits.db, with growing ids. So the queue holds for each channel up
to which id it was fed, what it gathers, and what is not delivered yet; feeding and the position
move in one transaction. Whatever a crash takes away is fed again: at least once, never less.
For the same reason ``synchronous=NORMAL`` is enough: a power cut may take the last transactions,
and with them the positions.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path

from sensor.audits.audit import Audit
from sensor.audits.store import pack_audit, unpack_audit
from sensor.channels.files import ChannelConfig
from sensor.channels.message import SAMPLES_MAX, Group, Message
from sensor.database import database_errors, open_database, transaction

FULL = 1000  # waiting messages of a channel, from which on even immediate ones are gathered
_FULL_SECONDS = 60
# Later than these only after the clock was set back.
_WINDOW_NS = 2 * 86400 * 10**9
_PAUSE_NS = 2 * 3600 * 10**9
_NOTED_MAX = 65536
_VERSION = 1
_SCHEMA = """
CREATE TABLE IF NOT EXISTS channel (
    name TEXT PRIMARY KEY,
    fed INTEGER NOT NULL,
    window_ns INTEGER NOT NULL DEFAULT 0,
    failures INTEGER NOT NULL DEFAULT 0,
    pause_ns INTEGER NOT NULL DEFAULT 0,
    sent INTEGER NOT NULL DEFAULT 0,
    failed INTEGER NOT NULL DEFAULT 0,
    dropped INTEGER NOT NULL DEFAULT 0,
    sent_ns INTEGER NOT NULL DEFAULT 0,
    error TEXT NOT NULL DEFAULT '',
    error_ns INTEGER NOT NULL DEFAULT 0
);
CREATE TABLE IF NOT EXISTS delivery (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    channel TEXT NOT NULL,
    created_ns INTEGER NOT NULL,
    next_ns INTEGER NOT NULL DEFAULT 0,
    attempts INTEGER NOT NULL DEFAULT 0,
    content BLOB NOT NULL
);
CREATE INDEX IF NOT EXISTS delivery_channel ON delivery (channel, id);
CREATE TABLE IF NOT EXISTS gathered (
    channel TEXT NOT NULL,
    rule TEXT NOT NULL,
    image TEXT NOT NULL,
    type TEXT NOT NULL,
    severity INTEGER NOT NULL,
    audits INTEGER NOT NULL,
    times INTEGER NOT NULL,
    first_ns INTEGER NOT NULL,
    last_ns INTEGER NOT NULL,
    sample BLOB NOT NULL,
    PRIMARY KEY (channel, rule, image, type)
);
CREATE TABLE IF NOT EXISTS gathered_ids (
    channel TEXT NOT NULL,
    first INTEGER NOT NULL,
    last INTEGER NOT NULL,
    PRIMARY KEY (channel, first)
);
"""
_GATHER = """
INSERT INTO gathered VALUES (?,?,?,?,?,?,?,?,?,?)
ON CONFLICT DO UPDATE SET
    sample = CASE WHEN excluded.severity > severity THEN excluded.sample ELSE sample END,
    severity = max(severity, excluded.severity),
    audits = audits + excluded.audits,
    times = times + excluded.times,
    last_ns = max(last_ns, excluded.last_ns)
"""
_REMEDY = "move it away and start again: audits are not lost by that"


@dataclass(slots=True)
class State:
    """Where a channel is; times in nanoseconds since the epoch."""

    name: str
    fed: int  # the last audit it was fed
    window_ns: int = 0  # when what is gathered is due
    failures: int = 0  # attempts in a row
    pause_ns: int = 0  # not before
    sent: int = 0
    failed: int = 0  # attempts
    dropped: int = 0  # messages given up
    sent_ns: int = 0
    error: str = ""
    error_ns: int = 0
    waiting: int = 0  # messages
    gathered: int = 0  # audits


_FIELDS = (
    "fed", "window_ns", "failures", "pause_ns", "sent", "failed", "dropped", "sent_ns", "error",
    "error_ns",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Delivery:
    """A message on its way."""

    id: int
    created_ns: int
    attempts: int
    message: Message


class Queue:
    """The queue. Not for several threads at once; only ``states`` may be read from others.

    Args:
        path: the database file; made when absent, mode 0600.

    Raises:
        StateError: it cannot be opened, is damaged, or is of a later version.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.states: dict[str, State] = {}
        self._noted: dict[int, int] = {}  # audit → how often it had happened when it was fed
        with self._errors("open"):
            self._db = open_database(path, _VERSION, _SCHEMA, any_thread=True)
            self._load()

    def _errors(self, what: str) -> AbstractContextManager[None]:
        return database_errors(self.path, what, _REMEDY)

    @contextmanager
    def _change(self) -> Iterator[None]:
        """All or nothing; what is in memory follows what is on disk."""
        with self._errors("write"):
            try:
                with transaction(self._db):
                    yield
            except BaseException:
                self._load()
                raise

    def _load(self) -> None:
        rows = self._db.execute(f"SELECT name, {', '.join(_FIELDS)} FROM channel")  # noqa: S608
        states = {}
        for name, *values in rows.fetchall():
            states[name] = State(name, **dict(zip(_FIELDS, values, strict=True)))
        for name, count in self._db.execute(
            "SELECT channel, count(*) FROM delivery GROUP BY channel"
        ):
            states[name].waiting = count
        for name, count in self._db.execute(
            "SELECT channel, sum(audits) FROM gathered GROUP BY channel"
        ):
            states[name].gathered = count
        self.states = states

    def _save(self, state: State) -> None:
        sets = ", ".join(f"{name}=?" for name in _FIELDS)
        self._db.execute(
            f"UPDATE channel SET {sets} WHERE name=?",  # noqa: S608 - names of ours
            [*(getattr(state, name) for name in _FIELDS), state.name],
        )

    def set_channels(self, names: Iterable[str], last_id: int) -> dict[str, int]:
        """Let these be the channels.

        Args:
            names: a new one is fed from now on, not from the past.
            last_id: of the newest audit. A channel that is beyond it belongs to audits that are
                gone, and begins anew.

        Returns:
            For each channel that is gone, how many messages and gathered audits went with it.
        """
        wanted = set(names)
        gone = {
            name: state.waiting + state.gathered
            for name, state in self.states.items()
            if name not in wanted
        }
        with self._change():
            for name in gone:
                for table, column in (
                    ("channel", "name"), ("delivery", "channel"), ("gathered", "channel"),
                    ("gathered_ids", "channel"),
                ):  # fmt: skip
                    self._db.execute(f"DELETE FROM {table} WHERE {column}=?", (name,))  # noqa: S608
            for name in wanted - set(self.states):
                self._db.execute("INSERT INTO channel (name, fed) VALUES (?, ?)", (name, last_id))
            self._db.execute("UPDATE channel SET fed=0 WHERE fed > ?", (last_id,))
        self._load()
        return gone

    def fed(self) -> int:
        """The id up to which every channel was fed; the highest there is when there is none."""
        return min((state.fed for state in self.states.values()), default=(1 << 63) - 1)

    def feed(
        self,
        channels: Sequence[ChannelConfig],
        audits: Sequence[Audit],
        repeats: Sequence[Audit],
        now_ns: int,
    ) -> None:
        """Hand audits to the channels that want them, and move their positions.

        Args:
            channels: all that are set.
            audits: that follow ``fed()``, oldest first.
            repeats: audits that were fed before and happened again.
            now_ns: nanoseconds since the epoch.
        """
        with self._change():
            for channel in channels:
                state = self.states[channel.name]
                self._flush(state, channel.period, now_ns)
                for audit in audits:
                    if audit.id > state.fed and channel.wants(audit):
                        self._take(state, channel.period, audit, now_ns, times=audit.count)
                for audit in repeats:
                    times = audit.count - self._noted.get(audit.id, audit.count - 1)
                    if audit.id <= state.fed and times > 0 and channel.wants(audit):
                        self._take(state, channel.period, audit, now_ns, times=times, again=True)
                if audits:
                    state.fed = max(state.fed, audits[-1].id)
                self._save(state)
        for audit in (*audits, *repeats):
            self._noted.pop(audit.id, None)
            self._noted[audit.id] = audit.count
        while len(self._noted) > _NOTED_MAX:
            self._noted.pop(next(iter(self._noted)))

    def _take(
        self,
        state: State,
        period: int,
        audit: Audit,
        now_ns: int,
        *,
        times: int,
        again: bool = False,
    ) -> None:
        full = state.waiting >= FULL
        if not full and (period == 0 or now_ns >= state.window_ns):
            self._put(state, Message("audit", (audit,)), now_ns)
            state.window_ns = now_ns + period * 10**9 if period else state.window_ns
            return
        if now_ns >= state.window_ns:
            state.window_ns = now_ns + max(period, _FULL_SECONDS) * 10**9
        self._db.execute(
            _GATHER,
            (
                state.name, _text(audit.rule), _text(audit.image), str(audit.type),
                int(audit.severity), 0 if again else 1, times,
                audit.time_ns if not again else audit.last_ns, audit.last_ns, pack_audit(audit),
            ),
        )  # fmt: skip
        state.gathered += 0 if again else 1
        grown = self._db.execute(
            "UPDATE gathered_ids SET last=max(last, ?1) WHERE channel=?2 "
            "AND first <= ?1 AND last >= ?1 - 1",
            (audit.id, state.name),
        )
        if not grown.rowcount:
            self._db.execute(
                "INSERT INTO gathered_ids VALUES (?,?,?)", (state.name, audit.id, audit.id)
            )

    def _put(self, state: State, message: Message, now_ns: int) -> None:
        self._db.execute(
            "INSERT INTO delivery (channel, created_ns, content) VALUES (?,?,?)",
            (state.name, now_ns, message.pack()),
        )
        state.waiting += 1

    def flush(self, channels: Sequence[ChannelConfig], now_ns: int) -> None:
        """Make messages of what was gathered and is due."""
        due = [channel for channel in channels if self._is_due(self.states[channel.name], now_ns)]
        if not due:
            return
        with self._change():
            for channel in due:
                state = self.states[channel.name]
                self._flush(state, channel.period, now_ns)
                self._save(state)

    def _has_gathered(self, name: str) -> bool:
        return bool(
            self._db.execute("SELECT 1 FROM gathered WHERE channel=? LIMIT 1", (name,)).fetchone()
        )

    def _is_due(self, state: State, now_ns: int) -> bool:
        return (
            bool(state.window_ns)
            and not 0 < state.window_ns - now_ns < _WINDOW_NS
            and state.waiting < FULL
        )

    def next_flush_ns(self) -> int:
        """When something gathered will be due; 0: nothing will."""
        windows = [
            state.window_ns
            for state in self.states.values()
            if state.window_ns and state.waiting < FULL and self._has_gathered(state.name)
        ]
        return min(windows, default=0)

    def _flush(self, state: State, period: int, now_ns: int) -> None:
        if not self._is_due(state, now_ns):
            return
        rows = self._db.execute(
            "SELECT rule, image, type, severity, audits, times, first_ns, last_ns, sample "
            "FROM gathered WHERE channel=? ORDER BY severity DESC, first_ns",
            (state.name,),
        ).fetchall()
        if not rows:
            state.window_ns = 0  # a quiet period: the next one goes at once
            return
        ranges = self._db.execute(
            "SELECT first, last FROM gathered_ids WHERE channel=? ORDER BY first", (state.name,)
        ).fetchall()
        message = Message(
            "gathered",
            tuple(unpack_audit(row[-1]) for row in rows[:SAMPLES_MAX]),
            tuple(Group(*row[:-1]) for row in rows),
            tuple(ranges),
        )
        self._put(state, message, now_ns)
        self._db.execute("DELETE FROM gathered WHERE channel=?", (state.name,))
        self._db.execute("DELETE FROM gathered_ids WHERE channel=?", (state.name,))
        state.gathered = 0
        state.window_ns = now_ns + period * 10**9 if period else 0

    def due(self, name: str, now_ns: int) -> tuple[Delivery | None, int]:
        """The next message of a channel, or when to ask again (0: when it was fed)."""
        state = self.states[name]
        if state.waiting == 0:
            return None, 0
        if 0 < state.pause_ns - now_ns < _PAUSE_NS:
            return None, state.pause_ns
        with self._errors("read"):
            row = self._db.execute(
                "SELECT id, created_ns, attempts, content FROM delivery "
                "WHERE channel=? AND next_ns <= ? ORDER BY id LIMIT 1",
                (name, now_ns),
            ).fetchone()
            if row is None:
                return None, self._db.execute(
                    "SELECT min(next_ns) FROM delivery WHERE channel=?", (name,)
                ).fetchone()[0] or 0
        number, created_ns, attempts, content = row
        return Delivery(number, created_ns, attempts, Message.unpack(content)), 0

    def done(self, name: str, delivery: Delivery, now_ns: int, note: str = "") -> None:
        """A message was taken.

        Args:
            name: by which channel.
            delivery: which.
            now_ns: when.
            note: what was wrong all the same.
        """
        state = self.states[name]
        with self._change():
            self._db.execute("DELETE FROM delivery WHERE id=?", (delivery.id,))
            state.waiting -= 1
            state.sent += 1
            state.failures = state.pause_ns = 0
            state.sent_ns = now_ns
            if note:
                state.error, state.error_ns = note, now_ns
            self._save(state)

    def failed(
        self,
        name: str,
        delivery: Delivery,
        now_ns: int,
        *,
        error: str,
        pause_ns: int,
        only_this: bool,
        give_up_ns: int,
    ) -> int:
        """A message was not taken.

        Args:
            name: by which channel.
            delivery: which.
            now_ns: when.
            error: why; no secrets.
            pause_ns: how long to wait.
            only_this: others may be tried meanwhile.
            give_up_ns: how old a message may become.

        Returns:
            How many messages were given up because they are older than that.
        """
        state = self.states[name]
        with self._change():
            state.failed += 1
            state.error, state.error_ns = error, now_ns
            if only_this:
                state.failures = state.pause_ns = 0
            else:
                state.failures += 1
                state.pause_ns = now_ns + pause_ns
            self._db.execute(
                "UPDATE delivery SET attempts=attempts+1, next_ns=? WHERE id=?",
                (now_ns + pause_ns if only_this else 0, delivery.id),
            )
            old = self._db.execute(
                "DELETE FROM delivery WHERE channel=?1 AND created_ns < ?2 AND (?3 = 0 OR id = ?3)",
                (name, now_ns - give_up_ns, delivery.id if only_this else 0),
            ).rowcount
            state.waiting -= old
            state.dropped += old
            self._save(state)
        return old

    def close(self) -> None:
        """Close the database."""
        self._db.close()


def _text(text: str) -> str:
    """As UTF-8 that SQLite takes; odd bytes are escaped."""
    return text.encode(errors="backslashreplace").decode()
