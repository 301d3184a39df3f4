"""From audits.db to the channels of the files: fed, gathered, delivered, tried again.

One task feeds, one a channel delivers; the queue is worked on in one thread, and what blocks in a
channel in a thread of its own. A channel that hangs holds up itself.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from sensor.audits.audit import Audit
from sensor.audits.formats import iso
from sensor.audits.store import AuditStore
from sensor.channels.files import ChannelConfig, missing_secrets, read_channels
from sensor.channels.message import Message, trial_message
from sensor.channels.queue import Delivery, Queue, State
from sensor.channels.sender import Sender, masked
from sensor.errors import DeliveryError, RoteError, SecretError, StateError, UsageError

T = TypeVar("T")
_log = logging.getLogger("rote.channels")
_FEED_MAX = 500
_REPEATS_MAX = 10_000
_POLL_SECONDS = 2.0
_COALESCE_SECONDS = 0.02
_PAUSE_MAX = 300.0
_GRACE_SECONDS = 1.0  # a channel's own time limits come first: they say more
_TEST_MAX = 20.0  # less than a command waits for the daemon


@dataclass(slots=True)
class _Line:
    """A channel, its code, and its task."""

    channel: ChannelConfig
    sender: Sender
    wake: asyncio.Event = field(default_factory=asyncio.Event)
    task: asyncio.Task[None] | None = None
    told: str = ""  # the error that was logged last


class Outbox:
    """Delivers what the channel files ask for, at least once.

    Args:
        queue: the queue's database.
        audits: the database of audits.
        directory: of channel files.
        make: a channel's code.
        clock: nanoseconds since the epoch.
        first_pause: seconds after the first failure; it doubles with each, up to five minutes.

    Raises:
        StateError: the queue cannot be opened.
    """

    def __init__(
        self,
        queue: Path,
        audits: Path,
        directory: Path,
        *,
        make: Callable[[ChannelConfig], Sender] | None = None,
        clock: Callable[[], int] = time.time_ns,
        first_pause: float = 1.0,
    ) -> None:
        self.directory = directory
        self.error = ""  # why the files that are there now are not those that are used
        self._make = make or make_sender
        self._queue = Queue(queue)
        self._audits_path = audits
        self._audits: AuditStore | None = None
        self._clock = clock
        self._first_pause = first_pause
        self._lines: dict[str, _Line] = {}
        self._configured: list[ChannelConfig] = []  # disabled ones as well
        self._repeats: dict[int, None] = {}
        self.repeats_dropped = 0
        self._wake = asyncio.Event()
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="rote-queue")
        self._feeder: asyncio.Task[None] | None = None
        self._reloading = asyncio.Lock()
        self._later: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Read the files and begin; needs a running loop.

        Files that are wrong do not keep the sensor from starting: that is logged and shown, nothing
        is delivered until they are right, and then everything is.
        """
        self._feeder = asyncio.create_task(self._feed_on(), name="channels")
        try:
            self._apply(read_channels(self.directory))
        except RoteError as error:
            self._complain(error)

    def notice(self, audit: Audit) -> None:
        """An audit was stored, or happened again. Never waits: it is read from the store later."""
        if audit.count > 1:
            self._repeats[audit.id] = None
            if len(self._repeats) > _REPEATS_MAX:
                self._repeats.pop(next(iter(self._repeats)))
                self.repeats_dropped += 1
        self._wake.set()

    async def reload(self) -> dict[str, list[str]]:
        """Let the files as they are now hold: all or nothing.

        Returns:
            Names: "added", "changed", "removed", "same".

        Raises:
            YamlFileError: a file is wrong; the channels stay as they are.
            StateError: the queue cannot be written; likewise.
        """
        async with self._reloading:
            try:
                return await self._change(await asyncio.to_thread(read_channels, self.directory))
            except RoteError as error:
                self._complain(error)
                raise

    def reload_soon(self) -> None:
        """The same for who cannot be answered: the log has what became of it. Needs the loop."""

        async def quietly() -> None:
            with contextlib.suppress(RoteError):  # it is logged, and shown
                await self.reload()
                _log.info("%d channels hold", len(self._lines))

        self._later = asyncio.create_task(quietly(), name="channels, reload")

    def _complain(self, error: RoteError) -> None:
        self.error = str(error)
        _log.error("%s; the channels stay as they are", error)

    async def _change(self, configured: list[ChannelConfig]) -> dict[str, list[str]]:
        old = {name: line.channel for name, line in self._lines.items()}
        new = {channel.name: channel for channel in configured if channel.enabled}
        # Nothing of a channel may be under way when its place in the queue goes.
        for name, channel in old.items():
            if new.get(name) != channel:
                await self._end(self._lines.pop(name))
        try:
            await self._in_thread(self._set_channels, list(new))
        except StateError:
            self._apply_lines(self._configured)
            raise
        self._apply_lines(configured)
        return {
            "added": sorted(new.keys() - old.keys()),
            "changed": sorted(n for n in new.keys() & old.keys() if new[n] != old[n]),
            "removed": sorted(old.keys() - new.keys()),
            "same": sorted(n for n in new.keys() & old.keys() if new[n] == old[n]),
        }

    def _apply(self, configured: list[ChannelConfig]) -> None:
        names = [channel.name for channel in configured if channel.enabled]
        self._thread.submit(self._set_channels, names).result()
        self._apply_lines(configured)

    def _set_channels(self, names: list[str]) -> None:
        gone = self._queue.set_channels(names, self._store().last_id())
        for name, left in gone.items():
            if left:
                _log.warning("channel %s is gone, and %d alerts that waited for it", name, left)

    def _apply_lines(self, configured: list[ChannelConfig]) -> None:
        wanted = {channel.name: channel for channel in configured if channel.enabled}
        for name, channel in wanted.items():
            if name in self._lines:
                continue  # the same as before
            for text in missing_secrets(channel):
                _log.warning("%s", text)
            line = self._lines[name] = _Line(channel, self._make(channel))
            line.task = asyncio.create_task(self._deliver_on(line), name=f"channel {name}")
        self._configured = configured
        self.error = ""
        self._wake.set()

    @staticmethod
    async def _end(line: _Line) -> None:
        if line.task is not None:
            line.task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await line.task
        await line.sender.close()

    async def _in_thread(self, function: Callable[..., T], *args: Any) -> T:
        """Work on the queue, where nobody else does at the same time.

        It is done also when the caller is cancelled: what was delivered is to be noted as such.
        """
        work = asyncio.get_running_loop().run_in_executor(self._thread, function, *args)
        work.add_done_callback(lambda done: done.cancelled() or done.exception())
        return await asyncio.shield(work)

    def _store(self) -> AuditStore:
        if self._audits is None:
            self._audits = AuditStore(self._audits_path, read_only=True)
        return self._audits

    async def _feed_on(self) -> None:
        failing = False
        while True:
            try:
                pause = await self._feed_all()
                failing = False
            except StateError as error:
                if not failing:
                    _log.error("channels: %s; trying again", error)
                failing, pause = True, _POLL_SECONDS
            # Not wait_for: until Python 3.12 it may swallow a cancellation.
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(pause):
                    await self._wake.wait()
                # A storm comes in many small batches; they are taken together.
                await asyncio.sleep(_COALESCE_SECONDS)
            self._wake.clear()

    async def _feed_all(self) -> float:
        """Hand everything to the channels that is there; seconds until something may be due."""
        while True:
            repeats, self._repeats = list(self._repeats), {}
            try:
                fed = await self._in_thread(self._feed_some, repeats)
            except StateError:
                self._repeats = dict.fromkeys(repeats) | self._repeats
                raise
            for line in self._lines.values():
                line.wake.set()
            if fed < _FEED_MAX:
                break
        due_ns = await self._in_thread(self._queue.next_flush_ns)
        if not due_ns:
            return _POLL_SECONDS
        return min(max((due_ns - self._clock()) / 1e9, 0.01), _POLL_SECONDS)

    def _feed_some(self, repeats: list[int]) -> int:
        channels = [line.channel for line in list(self._lines.values())]
        if not channels:
            return 0
        store, now_ns = self._store(), self._clock()
        audits = store.after(self._queue.fed(), _FEED_MAX)
        again = [audit for number in repeats if (audit := store.get(number))]
        if audits or again:
            self._queue.feed(channels, audits, again, now_ns)
        else:
            self._queue.flush(channels, now_ns)
        return len(audits)

    async def _deliver_on(self, line: _Line) -> None:
        name = line.channel.name
        while True:
            line.wake.clear()
            try:
                delivery, next_ns = await self._in_thread(self._queue.due, name, self._clock())
                if delivery is not None:
                    await self._deliver(line, delivery)
                    continue
            except StateError as error:
                self._tell(line, str(error))
                next_ns = self._clock() + int(_POLL_SECONDS * 1e9)
            wait = (next_ns - self._clock()) / 1e9 if next_ns else None
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(wait):
                    await line.wake.wait()
                if next_ns:  # something new does not shorten a pause
                    await asyncio.sleep(max((next_ns - self._clock()) / 1e9, 0))

    async def _deliver(self, line: _Line, delivery: Delivery) -> None:
        channel = line.channel
        problem = await attempt(line.sender, channel, delivery.message, channel.timeout)
        if isinstance(problem, str):
            note = masked(problem, channel)
            await self._in_thread(self._queue.done, channel.name, delivery, self._clock(), note)
            if line.told:
                _log.info("channel %s delivers again", channel.name)
            line.told = ""
            if note:
                _log.warning("channel %s: %s", channel.name, note)
            return
        text = masked(str(problem), channel)
        state = self._queue.states[channel.name]
        tries = delivery.attempts if problem.only_this else state.failures
        pause = max(self._pause(tries), problem.retry_after)
        dropped = await self._in_thread(
            lambda: self._queue.failed(
                channel.name,
                delivery,
                self._clock(),
                error=text,
                pause_ns=int(pause * 1e9),
                only_this=problem.only_this,
                give_up_ns=int(channel.give_up_after * 1e9),
            )
        )
        self._tell(line, text)
        if dropped:
            _log.error(
                "channel %s: %d messages given up after %.0f s; their audits are in the store",
                channel.name,
                dropped,
                channel.give_up_after,
            )

    def _pause(self, tries: int) -> float:
        """Doubled each time, and spread so that not everything comes back at once."""
        return min(self._first_pause * 2.0 ** min(tries, 20), _PAUSE_MAX) * random.uniform(0.5, 1.0)  # noqa: S311

    def _tell(self, line: _Line, text: str) -> None:
        """Once for each new reason, not for each attempt."""
        if text != line.told:
            line.told = text
            _log.warning("channel %s: %s; it is tried again", line.channel.name, text)

    async def test(self, name: str = "") -> list[dict[str, Any]]:
        """Send a test message past the queue.

        Args:
            name: of one channel; none: through each.

        Returns:
            For each channel: "name", "type", "target", "ok", "error", "seconds".

        Raises:
            UsageError: there is none of this name.
        """
        return await run_tests(
            [line.channel for line in self._lines.values()], name, make=self._make
        )

    def status(self) -> list[dict[str, Any]]:
        """What became of the alerts, a map a channel."""
        return [
            channel_status(channel, self._queue.states.get(channel.name))
            for channel in self._configured
        ]

    async def close(self, seconds: float = 1.0) -> None:
        """Deliver what waits, at most so many seconds, and stop. The rest is delivered later."""
        if self._later is not None:
            await self._later
        if self._feeder is not None:
            with contextlib.suppress(TimeoutError, StateError):
                async with asyncio.timeout(seconds):
                    await self._feed_all()
                    # Many things end it, and none of them more often than this asks.
                    while any(map(self._is_busy, self._lines.values())):  # noqa: ASYNC110
                        await asyncio.sleep(0.01)
            self._feeder.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._feeder
        await asyncio.gather(*(self._end(line) for line in self._lines.values()))
        left = sum(state.waiting + state.gathered for state in self._queue.states.values())
        if left:
            _log.info("channels: %d alerts wait for the next start", left)
        await self._in_thread(self._close_stores)
        self._thread.shutdown()

    def _is_busy(self, line: _Line) -> bool:
        state = self._queue.states.get(line.channel.name)
        return state is not None and state.waiting > 0 and state.failures == 0

    def _close_stores(self) -> None:
        self._queue.close()
        if self._audits is not None:
            self._audits.close()


async def attempt(
    sender: Sender, channel: ChannelConfig, message: Message, seconds: float
) -> str | DeliveryError:
    """What was wrong all the same, or why it was not taken."""
    try:
        async with asyncio.timeout(seconds + _GRACE_SECONDS):
            return await sender.send(message)
    except DeliveryError as error:
        return error
    except SecretError as error:
        return DeliveryError(str(error))
    except TimeoutError:
        return DeliveryError(f"no answer within {seconds:g} s")
    except Exception as error:  # noqa: BLE001 - said, and tried again
        # A mistake in one channel must not end the others; the log has the whole of it,
        # without what the error says: it may have a secret in it.
        _log.error("channel %s: unexpected %s", channel.name, _where(error))
        return DeliveryError(f"unexpected {_where(error)}")


def _where(error: Exception) -> str:
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    place = f" at {Path(trace.tb_frame.f_code.co_filename).name}:{trace.tb_lineno}" if trace else ""
    return f"{type(error).__name__}{place}"


def make_sender(channel: ChannelConfig) -> Sender:
    """The code of a channel's type; loaded when it is needed."""
    if channel.type == "email":
        from sensor.channels.mail import MailSender

        return MailSender(channel)
    if channel.type == "syslog":
        from sensor.channels.syslog import SyslogSender

        return SyslogSender(channel)
    if channel.type == "journald":
        from sensor.channels.journald import JournaldSender

        return JournaldSender(channel)
    if channel.type == "apprise":
        from sensor.channels.others import AppriseSender

        return AppriseSender(channel)
    from sensor.channels import web

    if channel.type == "slack":
        return web.SlackSender(channel)
    if channel.type == "alertmanager":
        return web.AlertmanagerSender(channel)
    if channel.type == "pagerduty":
        return web.PagerDutySender(channel)
    return web.WebhookSender(channel)


async def run_tests(
    channels: Sequence[ChannelConfig],
    name: str = "",
    *,
    make: Callable[[ChannelConfig], Sender] = make_sender,
) -> list[dict[str, Any]]:
    """Send a test message through channels, all at the same time; see ``Outbox.test``."""
    chosen = [channel for channel in channels if not name or channel.name == name]
    if name and not chosen:
        known = ", ".join(channel.name for channel in channels) or "none: no file has any"
        raise UsageError(f"channel {name!r}: there is none; expected one of {known}")
    message = trial_message()

    async def one(channel: ChannelConfig) -> dict[str, Any]:
        sender, began = make(channel), time.monotonic()
        try:
            found = await attempt(sender, channel, message, min(channel.timeout, _TEST_MAX))
        finally:
            await sender.close()
        return {
            "name": channel.name,
            "type": channel.type,
            "target": channel.target(),
            "ok": isinstance(found, str),
            "error": masked(str(found), channel),
            "seconds": round(time.monotonic() - began, 3),
        }

    return list(await asyncio.gather(*(one(channel) for channel in chosen)))


def channel_status(channel: ChannelConfig, state: State | None) -> dict[str, Any]:
    """Where a channel is, as plain values; times are RFC 3339, empty for never."""
    state = state or State(channel.name, 0)
    return {
        "name": channel.name,
        "type": channel.type,
        "target": channel.target(),
        "enabled": channel.enabled,
        "severity": channel.severity,
        "gather": channel.gather,
        "sent": state.sent,
        "failed": state.failed,
        "dropped": state.dropped,
        "waiting": state.waiting,
        "gathered": state.gathered,
        "failures": state.failures,
        "last_sent": iso(state.sent_ns) if state.sent_ns else "",
        "last_error": state.error,
        "last_error_time": iso(state.error_ns) if state.error_ns else "",
        "next_try": iso(state.pause_ns) if state.pause_ns else "",
    }
