"""From the store of audits to channels that fail in every way: at least once, nobody held up."""

from __future__ import annotations

import asyncio
import os
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import orjson
import pytest

from sensor.audits.audit import Audit, Severity
from sensor.audits.store import AuditStore
from sensor.channels.channel import Channels
from sensor.channels.files import ChannelConfig
from sensor.channels.message import Message
from sensor.channels.outbox import Outbox, make_sender
from sensor.channels.queue import FULL, Queue
from sensor.errors import DeliveryError, StateError, UsageError, YamlFileError
from tests.unit.builders import execution
from tests.unit.sinks import Listener, http_sink
from tests.unit.test_audits import make

S = 10**9


class Recorder:
    """A channel in memory that does as it is told."""

    def __init__(self) -> None:
        self.messages: list[Message] = []
        self.failures: list[Exception] = []  # raised first, one an attempt
        self.attempts = 0
        self.gate = asyncio.Event()  # closed: it hangs
        self.gate.set()
        self.closed = 0

    async def send(self, message: Message) -> str:
        """See ``Sender.send``."""
        self.attempts += 1
        await self.gate.wait()
        if self.failures:
            raise self.failures.pop(0)
        self.messages.append(message)
        return ""

    async def close(self) -> None:
        """See ``Sender.close``."""
        self.closed += 1

    def ids(self) -> list[str]:
        """What came, as people say it."""
        return [message.ids() for message in self.messages]


class Host:
    """A store, channel files, and an outbox whose time a test may set."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.files = directory / "channels.d"
        self.files.mkdir(exist_ok=True)
        self.store = AuditStore(directory / "audits.db", window_seconds=60)
        self.sinks: dict[str, Recorder] = {}
        self.now: int | None = None
        self.outbox: Outbox | None = None
        self._number = 0

    def write(self, channels: str, name: str = "a.yaml") -> None:
        """A channel file."""
        (self.files / name).write_text(f"version: 1\nchannels:\n{channels}\n")

    def open(self, **options: Any) -> Channels:
        """An outbox on these files, not started."""
        self.outbox = Outbox(
            self.directory / "channels.db",
            self.store.path,
            self.files,
            clock=lambda: self.now or time.time_ns(),
            **{"first_pause": 0.02, "make": self._make, **options},
        )
        return Channels([], self.outbox)

    def _make(self, channel: ChannelConfig) -> Recorder:
        return self.sinks.setdefault(channel.name, Recorder())

    def audits(self, channels: Channels | None, count: int = 1, **values: Any) -> list[Audit]:
        """So many different deviations are recorded, and told."""
        made = []
        for _ in range(count):
            self._number += 1
            audit = make(execution(f"/bin/x{self._number}-{time.time_ns()}"))
            for name, value in values.items():
                setattr(audit, name, value)
            made.append(audit)
        stored = self.store.add_many(made)
        for audit in stored if channels else []:
            assert channels is not None
            channels.send(audit)
        return stored

    def pass_time(self, seconds: int) -> None:
        """Time passes, and the outbox looks at the clock."""
        assert self.now is not None
        assert self.outbox is not None
        self.now += seconds * S
        self.outbox._wake.set()

    def state(self, name: str) -> dict[str, Any]:
        """What `rote channels status` says of a channel."""
        assert self.outbox is not None
        return next(row for row in self.outbox.status() if row["name"] == name)


@pytest.fixture
def host(tmp_path: Path) -> Host:
    """A host with one immediate channel."""
    made = Host(tmp_path)
    made.write("- {name: ops, type: journald}")
    return made


@asynccontextmanager
async def running(host: Host, **options: Any) -> AsyncIterator[Channels]:
    """An outbox that runs for a while."""
    channels = host.open(**options)
    channels.start()
    try:
        yield channels
    finally:
        await channels.close(0.2)


async def until(question: Callable[[], Any], what: str, seconds: float = 10) -> None:
    """Wait until it is so."""
    deadline = time.monotonic() + seconds
    while not question():
        assert time.monotonic() < deadline, f"{what}: not within {seconds:g} s"
        await asyncio.sleep(0.005)


async def test_each_audit_comes_once_and_in_order(host: Host) -> None:
    """An immediate channel gets one message an audit, and none from before it was there."""
    host.audits(None, 3)
    async with running(host) as channels:
        told = host.audits(channels, 20)
        await until(lambda: len(host.sinks["ops"].messages) == 20, "20 messages")
        assert host.sinks["ops"].ids() == [str(audit.id) for audit in told]
        assert host.sinks["ops"].messages[0].worst == told[0]
        await until(lambda: host.state("ops")["waiting"] == 0, "an empty queue")
        assert host.state("ops")["sent"] == 20
        assert host.state("ops")["last_sent"]


async def test_audits_of_the_time_between_are_delivered(host: Host) -> None:
    """What was recorded while no daemon ran, or was not delivered by the last one, comes now."""
    async with running(host) as channels:
        host.sinks["ops"].gate.clear()
        host.audits(channels, 2)
        await until(lambda: host.sinks["ops"].attempts, "an attempt")
    host.audits(None, 2)
    host.sinks.clear()
    async with running(host):
        await until(lambda: len(host.sinks["ops"].messages) == 4, "all four")
        assert host.sinks["ops"].ids() == ["1", "2", "3", "4"]


async def test_repeats_are_told_with_their_count(host: Host) -> None:
    """An audit whose count grew comes again under its id."""
    async with running(host) as channels:
        event = execution("/bin/nc", time_ns=time.time_ns())
        (first,) = host.store.add_many([make(event)])
        channels.send(first)
        await until(lambda: len(host.sinks["ops"].messages) == 1, "the first")
        (again,) = host.store.add_many([make(execution("/bin/nc", time_ns=event.time_ns + S))])
        channels.send(again)
        await until(lambda: len(host.sinks["ops"].messages) == 2, "the repeat")
        one, two = host.sinks["ops"].messages
        assert (one.worst.id, two.worst.id, one.count, two.count) == (1, 1, 1, 2)
        assert one.uid != two.uid


async def test_a_channel_that_fails_is_tried_again(
    host: Host, caplog: pytest.LogCaptureFixture
) -> None:
    """With longer and longer pauses, in order, said once, and shown."""
    async with running(host) as channels:
        sink = host.sinks["ops"]
        sink.failures = [DeliveryError("HTTP 500") for _ in range(4)]
        host.audits(channels, 3)
        await until(lambda: len(sink.messages) == 3, "all three")
        assert sink.ids() == ["1", "2", "3"]
        assert sink.attempts == 7
        state = host.state("ops")
        assert (state["failed"], state["dropped"], state["last_error"]) == (4, 0, "HTTP 500")
    told = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
    assert told == ["channel ops: HTTP 500; it is tried again"]


def test_pauses_double_up_to_five_minutes(host: Host) -> None:
    """And are spread."""
    host.open(first_pause=1.0)
    assert host.outbox is not None
    for tries in range(30):
        pauses = {host.outbox._pause(tries) for _ in range(20)}
        full = min(2.0**tries, 300)
        assert full / 2 <= min(pauses) < max(pauses) <= full


async def test_what_the_other_side_asks_to_wait_is_kept_to(host: Host) -> None:
    """Nothing is sent before, not even what is new; also after a restart."""
    host.now = 10**18
    async with running(host) as channels:
        sink = host.sinks["ops"]
        sink.failures = [DeliveryError("HTTP 429", retry_after=120)]
        host.audits(channels)
        await until(lambda: host.state("ops")["next_try"], "a pause")
        assert host.state("ops")["next_try"] == "2001-09-09T01:48:40.000000Z"
        host.audits(channels)
        await until(lambda: host.state("ops")["waiting"] == 2, "both waiting")
    host.now += 119 * S
    async with running(host) as channels:
        await asyncio.sleep(0.1)
        assert sink.attempts == 1
    host.now += 2 * S
    async with running(host) as channels:
        await until(lambda: sink.ids() == ["1", "2"], "both")


async def test_a_message_that_is_refused_does_not_stop_others(host: Host) -> None:
    """What only this message is at fault for holds up only this message."""
    async with running(host, first_pause=0.5) as channels:
        sink = host.sinks["ops"]
        sink.failures = [DeliveryError("HTTP 400", only_this=True)]
        host.audits(channels, 3)
        await until(lambda: len(sink.messages) == 3, "all three")
        assert sink.ids() == ["2", "3", "1"]


async def test_too_old_is_given_up_and_counted(
    host: Host, caplog: pytest.LogCaptureFixture
) -> None:
    """After the time the file gives, never before a try, never silently."""
    host.write("- {name: ops, type: journald, give_up_after: 1h}")
    host.now = 10**18
    async with running(host) as channels:
        sink = host.sinks["ops"]
        sink.failures = [DeliveryError("dead") for _ in range(2)]
        host.audits(channels, 2)
        await until(lambda: host.state("ops")["failed"] == 1, "a failure")
    host.now += 3601 * S
    async with running(host) as channels:
        host.audits(channels)
        await until(lambda: host.state("ops")["dropped"] == 2, "two given up")
        host.now += 3601 * S  # over the pause
    async with running(host):
        await until(lambda: sink.ids() == ["3"], "the young one")
    assert "2 messages given up after 3600 s" in caplog.text
    assert host.store.count() == 3


async def test_one_that_hangs_holds_up_nobody(host: Host) -> None:
    """Not the others, not the sender, not the loop, and not the end of the daemon."""
    host.write("- {name: ops, type: journald, timeout: 60s}\n- {name: quick, type: journald}")
    async with running(host) as channels:
        host.sinks["ops"].gate.clear()
        host.audits(channels, 50)
        await until(lambda: len(host.sinks["quick"].messages) == 50, "the quick one")
        assert (host.sinks["ops"].attempts, host.sinks["ops"].messages) == (1, [])
    assert host.sinks["ops"].closed == 1


async def test_one_that_hangs_is_cut_off(host: Host) -> None:
    """At its own limit; then it is tried again."""
    host.write("- {name: ops, type: journald, timeout: 1s}")
    async with running(host) as channels:
        sink = host.sinks["ops"]
        sink.gate.clear()
        host.audits(channels)
        await until(lambda: host.state("ops")["failed"] == 1, "cut off")
        assert host.state("ops")["last_error"] == "no answer within 1 s"
        sink.gate.set()
        await until(lambda: sink.ids() == ["1"], "delivery")


async def test_a_mistake_in_a_channel_is_a_failure_of_that_channel(
    host: Host, caplog: pytest.LogCaptureFixture
) -> None:
    """An exception that nobody thought of is tried again; what it says is not repeated."""
    async with running(host) as channels:
        host.sinks["ops"].failures = [KeyError("hunter2")]
        host.audits(channels)
        await until(lambda: len(host.sinks["ops"].messages) == 1, "delivery")
        assert host.state("ops")["last_error"].startswith("unexpected KeyError at test_channels_")
    assert "hunter2" not in caplog.text


async def test_gathering(host: Host) -> None:
    """The first at once, the rest at the end of the period, counted, with ids; then again."""
    host.write("- {name: ops, type: journald, gather: minute}")
    host.now = 10**18
    async with running(host) as channels:
        sink = host.sinks["ops"]
        host.audits(channels)
        await until(lambda: sink.ids() == ["1"], "the first")
        host.pass_time(30)
        host.audits(channels, 3)
        host.audits(channels, 2, image="other:1", severity=Severity.CRITICAL)
        await until(lambda: host.state("ops")["gathered"] == 5, "five gathered")
        assert len(sink.messages) == 1
        host.pass_time(31)
        await until(lambda: len(sink.messages) == 2, "the rest")
        message = sink.messages[1]
        assert (message.kind, message.count, message.ids()) == ("gathered", 5, "2-6")
        assert [(group.image, group.audits) for group in message.groups] == [
            ("other:1", 2), ("shop/web:1.2", 3),
        ]  # fmt: skip
        assert message.severity is Severity.CRITICAL
        # Within the next period: gathered. After a quiet one: at once.
        host.audits(channels)
        await until(lambda: host.state("ops")["gathered"] == 1, "one gathered")
        host.pass_time(61)
        await until(lambda: len(sink.messages) == 3, "the next")
        host.pass_time(61)
        host.audits(channels)
        await until(lambda: len(sink.messages) == 4, "after a quiet period")
        assert sink.messages[3].kind == "audit"


async def test_gathering_goes_on_over_a_restart(host: Host) -> None:
    """What was gathered is on disk, and due when it was due."""
    host.write("- {name: ops, type: journald, gather: hour}")
    host.now = 10**18
    async with running(host) as channels:
        host.audits(channels, 3)
        await until(lambda: host.state("ops")["gathered"] == 2, "two gathered")
        await until(lambda: host.sinks["ops"].ids() == ["1"], "the first")
    host.now += 3601 * S
    async with running(host):
        await until(lambda: host.sinks["ops"].ids() == ["1", "2-3"], "the rest")


async def test_gathered_repeats_are_counted(host: Host) -> None:
    """Beside how many audits, how often they happened."""
    host.write("- {name: ops, type: journald, gather: minute}")
    host.now = 10**18
    async with running(host) as channels:
        host.audits(channels)
        event = execution("/bin/nc", time_ns=time.time_ns())
        for i in range(4):
            again = make(execution("/bin/nc", time_ns=event.time_ns + i * S))
            (stored,) = host.store.add_many([again])
            channels.send(stored)
            await until(lambda: host.outbox and not host.outbox._repeats, "the repeat to be taken")
        await until(lambda: host.state("ops")["gathered"] == 1, "one gathered")
        assert host.outbox is not None
        await host.outbox._feed_all()
        host.pass_time(61)
        await until(lambda: len(host.sinks["ops"].messages) == 2, "both")
        (group,) = host.sinks["ops"].messages[1].groups
        assert (group.audits, group.times) == (1, 4)


async def test_a_storm_on_a_dead_channel_is_gathered_not_dropped(host: Host) -> None:
    """The queue stays small, and every audit is in some message."""
    host.now = 10**18
    async with running(host, first_pause=1000.0) as channels:
        sink = host.sinks["ops"]
        sink.failures = [DeliveryError("dead")]
        host.audits(channels, FULL + 500)
        await until(lambda: host.state("ops")["gathered"] == 500, "500 gathered", 20)
        assert host.state("ops")["waiting"] == FULL
    host.now += 1001 * S
    async with running(host):
        await until(lambda: len(sink.messages) == FULL + 1, "everything", 20)
        last = sink.messages[-1]
        assert (last.kind, last.count, last.ids()) == (
            "gathered", 500, f"{FULL + 1}-{FULL + 500}",
        )  # fmt: skip


async def test_filters_decide_what_is_queued(host: Host) -> None:
    """What a channel does not want does not wait for it."""
    host.write("- {name: ops, type: journald, severity: critical}")
    async with running(host) as channels:
        host.audits(channels, 2)
        host.audits(channels, 1, severity=Severity.CRITICAL)
        await until(lambda: host.sinks["ops"].ids() == ["3"], "the critical one")


async def test_reload_is_all_or_nothing(host: Host, caplog: pytest.LogCaptureFixture) -> None:
    """A wrong file changes nothing; right ones change only what differs."""
    host.write("- {name: same, type: journald}\n- {name: old, type: journald}", "b.yaml")
    async with running(host) as channels:
        same = host.sinks["same"]
        host.write("- {name: new, type: journald}\n- {name: ops, type: nonsense}")
        with pytest.raises(YamlFileError, match=r"a\.yaml:4: channels\[1\]\.type: 'nonsense'"):
            await channels.reload()
        assert host.outbox is not None
        assert "a.yaml:4" in host.outbox.error
        assert [row["name"] for row in channels.status()] == ["ops", "same", "old"]
        host.audits(channels)
        await until(lambda: all(sink.ids() == ["1"] for sink in host.sinks.values()), "all three")
        # The old one goes with what waits for it; that is said.
        host.sinks["old"].failures = [DeliveryError("dead", retry_after=99)]
        host.audits(channels)
        await until(lambda: host.state("old")["waiting"] == 1, "one waiting")
        host.write("- {name: new, type: journald}\n- {name: ops, type: journald, severity: low}")
        host.write(
            "- {name: same, type: journald}\n- {name: old, type: journald, enabled: no}", "b.yaml"
        )
        assert await channels.reload() == {
            "added": ["new"], "changed": ["ops"], "removed": ["old"], "same": ["same"],
        }  # fmt: skip
        assert host.outbox.error == ""
        assert "channel old is gone, and 1 alerts that waited for it" in caplog.text
        assert (same.closed, host.sinks["ops"].closed, host.sinks["old"].closed) == (0, 1, 1)
        host.audits(channels)
        await until(lambda: host.sinks["new"].ids() == ["3"], "the new one")
        await until(lambda: host.state("ops")["waiting"] == 0, "the changed one")
        assert host.sinks["ops"].ids() == ["1", "2", "3"]


async def test_a_reload_that_nobody_waits_for(host: Host, caplog: pytest.LogCaptureFixture) -> None:
    """For a signal: right files hold, wrong ones are said; neither ends the daemon."""
    async with running(host) as channels:
        host.write("- {name: ops, type: nonsense}")
        assert channels.outbox is not None
        channels.outbox.reload_soon()
        await until(lambda: host.outbox and host.outbox.error, "the complaint")
        host.write("- {name: new, type: journald}")
        assert channels.outbox is not None
        channels.outbox.reload_soon()
        await until(lambda: "new" in host.sinks, "the new one")
        assert host.outbox is not None
        assert host.outbox.error == ""
    assert "type: 'nonsense'" in caplog.text


async def test_wrong_files_at_the_start_lose_nothing(host: Host) -> None:
    """The sensor starts, says it, and delivers everything once the files are right."""
    async with running(host) as channels:
        host.audits(channels)
        await until(lambda: host.sinks["ops"].ids() == ["1"], "the first")
    host.write("- {name: ops, type: journald, sverity: low}")
    async with running(host) as channels:
        assert host.outbox is not None
        assert "did you mean 'severity'?" in host.outbox.error
        assert channels.status() == []
        host.audits(channels, 2)
        await asyncio.sleep(0.1)
        host.write("- {name: ops, type: journald, severity: low}")
        await channels.reload()
        await until(lambda: host.sinks["ops"].ids() == ["1", "2", "3"], "all")


async def test_other_audits_under_the_same_queue(host: Host) -> None:
    """A store that was moved away and begun anew is delivered from its beginning."""
    async with running(host) as channels:
        host.audits(channels, 5)
        await until(lambda: len(host.sinks["ops"].messages) == 5, "five")
    host.store.close()
    for file in host.directory.glob("audits.db*"):
        file.unlink()
    host.store = AuditStore(host.directory / "audits.db")
    host.audits(None, 2)
    async with running(host):
        await until(lambda: host.sinks["ops"].ids()[5:] == ["1", "2"], "the new ones")


async def test_a_queue_that_cannot_be_written(host: Host) -> None:
    """It is tried again; the sender notices nothing, and nothing is lost."""
    async with running(host) as channels:
        lock = sqlite3.connect(host.directory / "channels.db", isolation_level=None)
        assert host.outbox is not None
        host.outbox._queue._db.execute("PRAGMA busy_timeout=10")
        lock.execute("BEGIN EXCLUSIVE")
        host.audits(channels, 3)
        await asyncio.sleep(0.2)
        assert host.sinks["ops"].messages == []
        lock.execute("ROLLBACK")
        lock.close()
        host.audits(channels)
        await until(lambda: len(host.sinks["ops"].messages) == 4, "all")


def test_a_queue_of_a_later_version_or_none(tmp_path: Path) -> None:
    """It is refused, and the reason names the file."""
    path = tmp_path / "channels.db"
    Queue(path).close()
    assert path.stat().st_mode & 0o777 == 0o600
    with sqlite3.connect(path) as database:
        database.execute("PRAGMA user_version=99")
    database.close()
    with pytest.raises(StateError, match="schema version 99; expected 1"):
        Queue(path)
    path.write_bytes(b"nonsense" * 1000)
    with pytest.raises(StateError, match="if it is damaged, move it away"):
        Queue(path)


async def test_trying_a_channel(host: Host) -> None:
    """A marked message past the queue, for each channel what came of it."""
    host.write("- {name: ops, type: journald}\n- {name: bad, type: journald}")
    async with running(host) as channels:
        host.sinks["bad"].failures = [DeliveryError("HTTP 500")]
        found = await channels.test()
        assert [(row["name"], row["ok"], row["error"]) for row in found] == [
            ("ops", True, ""), ("bad", False, "HTTP 500"),
        ]  # fmt: skip
        assert host.sinks["ops"].messages[0].kind == "test"
        assert [row["name"] for row in await channels.test("ops")] == ["ops"]
        with pytest.raises(UsageError, match="expected one of ops, bad"):
            await channels.test("opps")
        assert host.state("ops")["sent"] == 0


@pytest.mark.parametrize(
    ("status", "headers"), [(500, {}), (429, {"Retry-After": "0"}), (503, {"Retry-After": "1"})]
)
async def test_a_real_webhook_that_fails_twice(
    host: Host, status: int, headers: dict[str, str]
) -> None:
    """The same message comes until it is taken; a wait that is asked for is kept to."""
    with http_sink(lambda n: (status, headers, b"") if n < 2 else (200, {}, b"")) as sink:
        host.write(f"- {{name: hook, type: webhook, url: '{sink.url}'}}")
        async with running(host, make=make_sender) as channels:
            began = time.monotonic()
            host.audits(channels)
            await until(lambda: host.state("hook")["sent"] == 1, "delivery")
            assert time.monotonic() - began >= 2 * float(headers.get("Retry-After", "0"))
        assert [orjson.loads(body)["id"] for _, _, _, body in sink.requests] == [1, 1, 1]
        assert len({headers["X-Rote-Id"] for _, _, headers, _ in sink.requests}) == 1


async def test_real_servers_that_hang_hold_up_nobody(host: Host) -> None:
    """A mail server and a webhook that never answer, beside one that does."""
    silent = Listener(silent=True)
    with http_sink() as good, http_sink(lambda _: (0, {}, b"")) as mute:
        host.write(
            f"- {{name: mail, type: email, host: 127.0.0.1, port: {silent.port}, tls: none, "
            "from: a@b, to: [a@b], timeout: 1s}\n"
            f"- {{name: mute, type: webhook, url: '{mute.url}', timeout: 1s}}\n"
            f"- {{name: good, type: webhook, url: '{good.url}'}}"
        )
        async with running(host, make=make_sender) as channels:
            host.audits(channels, 20)
            await until(lambda: len(good.requests) == 20, "the good one")
            assert host.state("mail")["sent"] == host.state("mute")["sent"] == 0
            await until(lambda: host.state("mail")["failed"], "the mail to be given up")
            await until(lambda: host.state("mute")["failed"], "the webhook to be given up")
            assert "time" in host.state("mail")["last_error"]
            assert "no answer" in host.state("mute")["last_error"]
            began = time.monotonic()
        assert time.monotonic() - began < 5  # stopping does not wait for them
    silent.close()


KILLED = """
import asyncio, os, sys
from pathlib import Path
from sensor.audits.store import AuditStore
from sensor.channels.outbox import Outbox
from tests.unit.builders import execution
from tests.unit.test_audits import make

async def main(directory):
    store = AuditStore(directory / "audits.db")
    queue, files = directory / "channels.db", directory / "channels.d"
    outbox = Outbox(queue, store.path, files, first_pause=0.01)
    outbox.start()
    number = 0
    while True:
        names = [f"/bin/{os.getpid()}-{number + i}" for i in range(3)]
        for audit in store.add_many([make(execution(name)) for name in names]):
            outbox.notice(audit)
        number += 3
        print(number, flush=True)
        await asyncio.sleep(0.02)

asyncio.run(main(Path(sys.argv[1])))
"""


async def test_killed_at_any_moment_nothing_is_lost(host: Host) -> None:
    """Kill -9 in the middle of it, twice; in the end every audit was received."""
    root = Path(__file__).parents[2]
    received: set[int] = set()
    duplicates = 0
    with http_sink(lambda n: (500 if n % 7 == 3 else 200, {}, b"")) as sink:
        host.write(f"- {{name: hook, type: webhook, url: '{sink.url}'}}")
        Outbox(  # a channel begins with what comes after it
            host.directory / "channels.db", host.store.path, host.files
        )._queue.set_channels(["hook"], 0)
        for _ in range(2):
            with subprocess.Popen(  # noqa: ASYNC220 - it starts at once
                [sys.executable, "-c", KILLED, host.directory],
                cwd=root, stdout=subprocess.PIPE, env={**os.environ, "PYTHONPATH": str(root)},
            ) as process:  # fmt: skip
                assert process.stdout is not None
                wanted = len(sink.requests) + 20
                await asyncio.to_thread(process.stdout.readline)
                while len(sink.requests) < wanted:  # noqa: ASYNC110 - of another process
                    await asyncio.sleep(0.005)
                process.send_signal(signal.SIGKILL)
        async with running(host, make=make_sender):
            newest = host.store.last_id()
            await until(lambda: host.outbox and host.outbox._queue.fed() == newest, "all fed", 30)
            await until(lambda: host.state("hook")["waiting"] == 0, "an empty queue", 30)
            assert host.state("hook")["gathered"] == 0
        for number, (_, _, _, body) in enumerate(sink.requests):
            if number % 7 == 3:
                continue  # answered with 500: not taken
            said = orjson.loads(body)
            for first, last in said.get("ids", [[said.get("id", 0)] * 2]):
                duplicates += len(received & set(range(first, last + 1)))
                received |= set(range(first, last + 1))
    assert received == set(range(1, newest + 1))
    assert duplicates <= 3  # at most the one that was on its way at each kill


def test_telling_costs_next_to_nothing(host: Host) -> None:
    """What the loop pays for an audit is setting a flag: no disk, no wait."""
    channels = host.open()
    (audit,) = host.audits(None)
    began = time.perf_counter()
    for _ in range(10_000):
        channels.send(audit)
    assert (time.perf_counter() - began) / 10_000 < 50e-6  # seconds; it is near one microsecond
