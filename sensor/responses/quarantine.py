"""Quarantine: a container is cut off from the network. It keeps running, and can be released."""

from __future__ import annotations

import asyncio
import contextlib
import enum
import logging
import os
import platform
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import orjson

from sensor.audits.audit import (
    Action,
    Audit,
    AuditType,
    Guarantee,
    Sensor,
    Severity,
    Step,
    audit_about,
)
from sensor.containers.container import Container
from sensor.errors import HostError, RoteError, StateError, UsageError
from sensor.responses.blocked import container_from_values, container_values
from sensor.responses.freezer import Freezer
from sensor.responses.records import RecordStore

_log = logging.getLogger("rote.quarantine")
_TABLE = "quarantined"
_SECONDS = 20.0
_LINE_MAX = 1 << 20
MODES = ("links", "drop")
_SEVERITIES = {
    AuditType.CONTAINER_QUARANTINED: Severity.HIGH,
    AuditType.CONTAINER_RELEASED: Severity.INFO,
}


class QuarantineState(enum.StrEnum):
    """What has become of a quarantine."""

    BEGUN = "begun"  # perhaps not all links are cut off yet
    QUARANTINED = "quarantined"
    RELEASED = "released"


@dataclass(slots=True)
class Quarantined:
    """One container in quarantine. Times are seconds since the epoch."""

    container: Container
    reason: str
    rule: str
    asked: str  # mode
    mode: str  # that was possible
    since: float
    links: list[dict[str, Any]]  # as sensor.responses.network describes them
    netns: int  # inode of the network namespace; such numbers are given out again
    born: int  # when its first process started, as the kernel counts
    state: QuarantineState = QuarantineState.BEGUN
    notes: tuple[str, ...] = ()
    released_at: float = 0.0

    def describe(self) -> str:
        """Its links, for a person."""
        return ", ".join(
            f"{link['name']} ({link['end']['name']} on the host)" if link["end"] else link["name"]
            for link in self.links
        )

    def to_values(self) -> dict[str, Any]:
        """As plain values, to be stored or shown."""
        values = {name: getattr(self, name) for name in self.__slots__}
        values["container"] = container_values(self.container)
        values["state"] = str(self.state)
        values["notes"] = list(self.notes)
        return values

    @classmethod
    def from_values(cls, values: dict[str, Any]) -> Quarantined:
        """From what ``to_values`` made."""
        rest = dict(values)
        return cls(
            container=container_from_values(rest.pop("container")),
            state=QuarantineState(rest.pop("state")),
            notes=tuple(rest.pop("notes")),
            **rest,
        )


class Quarantine:
    """Cuts containers off and lets them go again.

    Args:
        store: where it is written down.
        freezer: knows the processes of a container.
        record: takes an audit; returns at once.
        refusal: why a container must be left alone; "" when it need not.
        guarantee: what this host can do, as audits say it.
        seconds: how long the kernel may take.
        clock: seconds since the epoch.

    Raises:
        StateError: the store cannot be read.
    """

    def __init__(
        self,
        store: RecordStore,
        freezer: Freezer,
        record: Callable[[Audit], None],
        *,
        refusal: Callable[[Container], str] = lambda _: "",
        guarantee: Guarantee = Guarantee.DETECT,
        seconds: float = _SECONDS,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._store = store
        self._freezer = freezer
        self._record = record
        self._refusal = refusal
        self._guarantee = guarantee
        self._seconds = seconds
        self._clock = clock
        self._host = platform.node()
        self._locks: dict[str, asyncio.Lock] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._asked: set[str] = set()  # by rules, and not done yet
        found = [Quarantined.from_values(values) for values in store.all(_TABLE)]
        self._records = {entry.container.id: entry for entry in found}

    def records(self) -> list[Quarantined]:
        """Every quarantine that has not ended, oldest first."""
        return sorted(self._records.values(), key=lambda entry: entry.since)

    def is_quarantined(self, container_id: str) -> bool:
        """Whether a container is cut off."""
        return container_id in self._records

    async def quarantine(
        self, container: Container, mode: str, reason: str, rule: str = ""
    ) -> Quarantined:
        """Cut a running container off from the network.

        Args:
            container: which.
            mode: "links" (they go down) or "drop" (what comes and goes is dropped silently).
            reason: why, one line.
            rule: of the rule that asked for it; empty: a person did.

        Raises:
            UsageError: it must not be, is already, does not run, or has the host's network.
            HostError: the kernel refused or did not answer in time.
            StateError: it could not be written down; nothing was done.
        """
        if mode not in MODES:
            raise UsageError(f"mode {mode!r}: expected one of {', '.join(MODES)}")
        async with self._locks.setdefault(container.id, asyncio.Lock()):
            if container.id in self._records:
                raise UsageError(f"{_name(container)}: in quarantine already; see: rote release")
            if why := self._refusal(container):
                raise UsageError(f"{_name(container)}: left alone: {why}")
            entry = Quarantined(container, reason, rule, mode, mode, self._clock(), [], 0, 0)
            await self._cut(entry)
        return entry

    def violation(self, container: Container, audit: Audit, rule: str) -> None:
        """A rule asks for quarantine instead of a block. Returns at once; once for a container."""
        if container.id in self._records or container.id in self._asked:
            return
        self._asked.add(container.id)
        kind = str(audit.type).replace("_", " ")
        what = audit.program if audit.sensor is Sensor.PROCESS else audit.path
        reason = f"{kind}: {what}"
        task = asyncio.create_task(self._by_rule(container, reason, rule), name="quarantine")
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _by_rule(self, container: Container, reason: str, rule: str) -> None:
        try:
            await self.quarantine(container, "links", reason, rule)
        except RoteError as error:
            _log.error("%s", error)
            entry = Quarantined(container, reason, rule, "links", "links", self._clock(), [], 0, 0)
            step = Step("links down", "failed", str(error))
            self._tell(entry, AuditType.CONTAINER_QUARANTINED, "failed", step)
        finally:
            self._asked.discard(container.id)

    async def _cut(self, entry: Quarantined) -> None:
        container, began = entry.container, time.monotonic()
        with self._namespace(container) as descriptor:
            async with _Helper(descriptor, self._seconds) as helper:
                seen = await helper.ask({"do": "look", "netns": descriptor})
                entry.links, entry.netns = seen["links"], seen["netns"]
                entry.born = _born(container.pid)
                if not entry.links:
                    raise UsageError(f"{_name(container)}: has no link that is up")
                # Before anything is cut: what is not written down cannot be released.
                self._store.put(_TABLE, container.id, entry.to_values())
                self._records[container.id] = entry
                try:
                    done = await helper.ask({"do": "cut", "mode": entry.asked})
                except RoteError as error:
                    await self._undo(entry, descriptor)
                    raise HostError(f"{_name(container)}: not in quarantine: {error}") from error
        entry.mode, entry.notes = done["mode"], tuple(done["notes"])
        entry.state = QuarantineState.QUARANTINED
        self._save(entry)
        step = Step(
            "links down" if entry.mode == "links" else "drop",
            "done",
            entry.describe(),
            round(time.monotonic() - began, 6),
        )
        self._tell(entry, AuditType.CONTAINER_QUARANTINED, "quarantined", step)

    async def _undo(self, entry: Quarantined, descriptor: int) -> None:
        """Half of a quarantine is none: let go of what was cut off already."""
        failed = ""
        for mode in MODES:
            try:
                await self._restore(entry, descriptor, mode)
            except RoteError as error:
                failed = str(error)
        if failed:
            _log.error("%s: %s; try: rote release", _name(entry.container), failed)
        else:
            self._forget(entry)

    async def _restore(self, entry: Quarantined, descriptor: int, mode: str) -> list[str]:
        """Undo one mode; remarks about what is gone."""
        if mode == "drop" and any(link["end"] is None for link in entry.links):
            return []  # it cannot have been used
        async with _Helper(descriptor, self._seconds) as helper:
            done = await helper.ask(
                {"do": "restore", "netns": descriptor, "mode": mode, "links": entry.links}
            )
        notes: list[str] = done["notes"]
        return notes

    async def release(self, container_id: str) -> tuple[Quarantined, tuple[str, ...]]:
        """Give a container its network back.

        Returns:
            The record, and remarks about what could not be restored.

        Raises:
            UsageError: it is not in quarantine.
            HostError: the kernel refused or did not answer in time; it stays in quarantine.
        """
        async with self._locks.setdefault(container_id, asyncio.Lock()):
            entry = self._records.get(container_id)
            if entry is None:
                raise UsageError(f"{container_id[:12]}: not in quarantine; see: rote quarantined")
            began = time.monotonic()
            with self._namespace(entry.container, missing_ok=True) as descriptor:
                same = _is_same(entry, entry.container, descriptor)
                # Of a quarantine that was interrupted nobody knows how far it came.
                modes = (entry.mode,) if entry.state is QuarantineState.QUARANTINED else MODES
                notes: list[str] = []
                for mode in modes:
                    notes += await self._restore(entry, descriptor if same else -1, mode)
            entry.state = QuarantineState.RELEASED
            entry.released_at = self._clock()
            self._forget(entry)
        remarks = tuple(dict.fromkeys(notes))
        step = Step("release", "done", entry.describe(), round(time.monotonic() - began, 6))
        self._tell(entry, AuditType.CONTAINER_RELEASED, "released", step, remarks=remarks)
        return entry, remarks

    def started(self, container: Container) -> bool:
        """A container runs; whether it is in quarantine. Returns at once.

        A restart gives it a new network, which is cut off in turn.
        """
        entry = self._records.get(container.id)
        if entry is None:
            return False
        if not container.pid:
            return True  # it is being started; we are told again when it runs
        task = asyncio.create_task(self._again(entry, container), name="quarantine again")
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return True

    async def _again(self, entry: Quarantined, container: Container) -> None:
        async with self._locks.setdefault(container.id, asyncio.Lock()):
            if self._records.get(container.id) is not entry:
                return  # released meanwhile
            try:
                with self._namespace(container) as descriptor:
                    same = _is_same(entry, container, descriptor)
                    if same and entry.state is QuarantineState.QUARANTINED:
                        return  # it ran all the time; the daemon did not
                    # Interrupted, or a new network: what was done to the old one goes first.
                    for mode in MODES:
                        await self._restore(entry, descriptor if same else -1, mode)
                entry.container = container
                await self._cut(entry)
            except RoteError as error:
                _log.error("%s: in quarantine no more: %s", _name(container), error)
                step = Step("links down", "failed", str(error))
                self._tell(entry, AuditType.CONTAINER_QUARANTINED, "failed", step)

    async def close(self) -> None:
        """Let what is under way end, for as long as the kernel may take."""
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=self._seconds)

    def _save(self, entry: Quarantined) -> None:
        try:
            self._store.put(_TABLE, entry.container.id, entry.to_values())
        except StateError as error:
            _log.error("%s", error)

    def _forget(self, entry: Quarantined) -> None:
        self._records.pop(entry.container.id, None)
        try:
            self._store.remove(_TABLE, entry.container.id)
        except StateError as error:
            _log.error("%s", error)

    @contextlib.contextmanager
    def _namespace(self, container: Container, *, missing_ok: bool = False):  # type: ignore[no-untyped-def]
        """A descriptor of a container's network namespace; -1 when it may be missing and is."""
        descriptor = -1
        with contextlib.suppress(OSError):
            descriptor = os.open(f"/proc/{container.pid}/ns/net", os.O_RDONLY | os.O_CLOEXEC)
        try:
            # Only now: while it is in the container's cgroup, the number is nobody else's.
            if descriptor >= 0 and container.pid not in self._freezer.pids(container):
                os.close(descriptor)
                descriptor = -1
            if descriptor < 0 and not missing_ok:
                raise UsageError(f"{_name(container)}: does not run")
            yield descriptor
        finally:
            if descriptor >= 0:
                os.close(descriptor)

    def _tell(
        self,
        entry: Quarantined,
        kind: AuditType,
        outcome: str,
        step: Step,
        *,
        remarks: tuple[str, ...] = (),
    ) -> None:
        container = entry.container
        now_ns = int(self._clock() * 1e9)
        _log.warning("%s: %s: %s", _name(container), outcome, entry.reason)
        self._record(
            audit_about(
                container,
                kind,
                _SEVERITIES[kind],
                now_ns,
                self._guarantee,
                action=Action.BLOCK,
                host=self._host,
                rule=entry.rule or "by hand",
                outcome=outcome,
                remarks=(*entry.notes, *remarks),
                extra={"reason": entry.reason, "mode": entry.mode},
                steps=(step,),
            )
        )


class _Helper:
    """The process that does it (``sensor.responses.network``)."""

    def __init__(self, descriptor: int, seconds: float) -> None:
        self._descriptor = descriptor
        self._seconds = seconds
        self._process: asyncio.subprocess.Process | None = None

    async def __aenter__(self) -> Self:
        self._process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            "sensor.responses.network",
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            pass_fds=(self._descriptor,) if self._descriptor >= 0 else (),
            limit=_LINE_MAX,
        )
        return self

    async def __aexit__(self, *_: object) -> None:
        process = self._process
        assert process is not None
        assert process.stdin is not None
        process.stdin.close()
        try:
            async with asyncio.timeout(self._seconds):
                await process.wait()
        except TimeoutError:
            process.kill()
            await process.wait()

    async def ask(self, request: dict[str, Any]) -> dict[str, Any]:
        """The answer to a request.

        Raises:
            HostError: it cannot be done, or took too long.
        """
        process = self._process
        assert process is not None
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            async with asyncio.timeout(self._seconds):
                process.stdin.write(orjson.dumps(request) + b"\n")
                await process.stdin.drain()
                line = await process.stdout.readline()
        except TimeoutError as error:
            process.kill()
            raise HostError(f"the kernel did not answer within {self._seconds:g} s") from error
        except ConnectionError as error:
            raise HostError(await self._last_words()) from error
        if not line:
            raise HostError(await self._last_words())
        answer: dict[str, Any] = orjson.loads(line)
        if "error" in answer:
            raise HostError(answer["error"])
        return answer

    async def _last_words(self) -> str:
        process = self._process
        assert process is not None
        assert process.stderr is not None
        text = ""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(self._seconds):
                text = (await process.stderr.read()).decode(errors="replace").strip()
        return f"the helper ended: {text.splitlines()[-1] if text else 'without a word'}"


def _is_same(entry: Quarantined, container: Container, descriptor: int) -> bool:
    """Whether a network namespace is the one that was cut off."""
    return (
        descriptor >= 0
        and os.fstat(descriptor).st_ino == entry.netns
        and _born(container.pid) == entry.born
    )


def _born(pid: int) -> int:
    """When a process started, in clock ticks since boot; 0 when there is none. Source: proc(5)."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return 0
    return int(text.rpartition(")")[2].split()[19])


def _name(container: Container) -> str:
    return container.name or container.short_id
