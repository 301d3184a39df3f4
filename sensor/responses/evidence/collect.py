"""Taking evidence of a container: read ``collect`` first, it is the whole story.

Parts are independent. One that fails, takes too long or finds the disk full costs itself and no
other; the manifest says what is missing, and why.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import platform
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Protocol, TypeVar

import orjson

from sensor import __version__
from sensor.containers.container import Container
from sensor.containers.runtime import Control
from sensor.errors import RoteError, RuntimeUnavailableError, StateError
from sensor.responses.evidence.files import FileLimits
from sensor.responses.evidence.mounts import read_mounts
from sensor.responses.evidence.pack import (
    FAILED,
    MANIFEST,
    Member,
    OpenMember,
    PackFullError,
    Part,
    TarWriter,
    is_partial,
    manifest_bytes,
    missing,
    to_json,
)
from sensor.responses.evidence.recorder import FlightRecorder
from sensor.responses.evidence.secrets import Secrets
from sensor.responses.evidence.store import Draft, EvidenceStore, IndexEntry
from sensor.responses.evidence.worker import PARTS as WORKER_PARTS
from sensor.responses.evidence.worker import Request

_log = logging.getLogger("rote.evidence")
_T = TypeVar("_T")
_RUNTIME_SECONDS = 3.0  # for what a runtime that is well says within hundredths
_CHANGES_SECONDS = 30.0
_FINISH_SHARE = 0.1  # of the time, for the worker to come to an end by itself
_KILL_SECONDS = 2.0
_EXPORT_SECONDS = 600.0
_AT_ONCE = 2
# Of a pack, for what the daemon itself adds: inspections, model, audits. At least this share.
_OWN_SHARE = 8
_LINE_MAX = 8 << 20  # of what the worker says
_ALL = "everything"

INSPECTION, IMAGE, MODEL, RULE = "container inspection", "image inspection", "model", "rule"
AUDITS, RECORDER, EXPORT = "audits", "flight recorder", "whole file system"

Say = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Pack:
    """What was taken. ``id`` is empty when not even a pack could be made."""

    id: str
    sha256: str  # of the manifest, for the audit
    partial: bool
    missing: tuple[str, ...]
    size: int = 0  # bytes
    seconds: float = 0.0


@dataclass(frozen=True, slots=True)
class Sources:
    """Where the daemon's own parts come from. All return at once.

    Args:
        model: the container's model as an exported file, or None.
        audits: its audits, as JSON.
    """

    model: Callable[[Container], bytes | None] = lambda _: None
    audits: Callable[[Container], Sequence[dict[str, Any]]] = lambda _: ()


class Worker(Protocol):
    """Runs the worker; replaced in tests."""

    def __call__(self, fd: int) -> Awaitable[asyncio.subprocess.Process]:
        """Start it, with the pack's descriptor."""


@dataclass(slots=True)
class _Work:
    """One collection under way."""

    container: Container
    draft: Draft
    writer: TarWriter
    members: list[Member] = field(default_factory=list)
    parts: list[Part] = field(default_factory=list)
    secrets: Secrets = field(default_factory=Secrets)
    details: dict[str, Any] | None = None  # of the container
    image: dict[str, Any] | None = None
    say: Say = lambda _: None

    @contextlib.contextmanager
    def part(self, name: str) -> Iterator[Part]:
        """One part of the daemon's; whatever goes wrong in it is its own matter."""
        part = Part(name)
        self.parts.append(part)
        self.say(name)
        started = time.monotonic()
        try:
            yield part
        except TimeoutError:
            part.fail("out of time")
        except (PackFullError, RoteError) as error:
            part.fail(str(error))
        except OSError as error:
            part.fail(error.strerror or str(error))
        part.seconds = round(time.monotonic() - started, 4)

    async def add(self, name: str, content: bytes) -> None:
        """Write a member. Disks may be slow: not in the loop's thread."""
        self.members.append(await asyncio.to_thread(self.writer.add, name, content))


class Collector:
    """Takes evidence.

    Args:
        store: where packs go.
        controls: the runtime of a container; None where it offers none.
        recorder: the flight recorder.
        sources: model and audits.
        seconds: how long taking evidence may take, the export of a whole file system not counted.
        limits: how much of the file system is kept.
        kept: ids of packs that pruning must leave, of containers that are still blocked say.
        start_worker: starts the worker.
    """

    def __init__(
        self,
        store: EvidenceStore,
        controls: Callable[[Container], Control | None],
        *,
        recorder: FlightRecorder | None = None,
        sources: Sources | None = None,
        seconds: float = 30.0,
        limits: FileLimits | None = None,
        kept: Callable[[], Collection[str]] = tuple,
        start_worker: Worker | None = None,
    ) -> None:
        self.store = store
        self.kept = kept
        self._controls = controls
        self._recorder = recorder
        self._sources = sources or Sources()
        self._seconds = seconds
        self._limits = limits or FileLimits()
        self._start_worker = start_worker or _start_worker
        self._turn = asyncio.Semaphore(_AT_ONCE)

    async def collect(
        self,
        container: Container,
        *,
        reason: str,
        audit_ids: Sequence[int] = (),
        rule: dict[str, Any] | None = None,
        filesystem: bool = False,
        seconds: float | None = None,
        export_seconds: float = _EXPORT_SECONDS,
        say: Say = lambda _: None,
    ) -> Pack:
        """Take evidence of a container, running, frozen or ended.

        Args:
            container: which.
            reason: why, for people.
            audit_ids: the audits that led here.
            rule: the rule that asks for it.
            filesystem: the whole file system as well.
            seconds: instead of the usual time.
            export_seconds: how long the export of a whole file system may take besides.
            say: told what is being done, a few words each.

        Returns:
            What was taken. Nothing that goes wrong is raised: the pack says what is missing.
        """
        started = time.monotonic()
        seconds = self._seconds if seconds is None else seconds
        try:
            draft = await asyncio.to_thread(self.store.create, self.kept())
        except RoteError as error:
            _log.error("evidence of %s: %s", container.short_id, error)
            return Pack("", "", partial=True, missing=(f"{_ALL}: {error}",))
        finished = False
        try:
            writer = TarWriter(draft.file, draft.limit)
            work = _Work(container, draft, writer, say=say)
            facts = self._facts(draft.id, container, reason, audit_ids, rule)
            await self._read(work, seconds)
            await self._add_own(work, rule, audit_ids)
            if filesystem:
                await self._export(work, export_seconds)
            facts["seconds"] = round(time.monotonic() - started, 3)
            entry = await asyncio.to_thread(self._finish, work, facts)
            finished = True
        except (RoteError, OSError) as error:
            _log.error("evidence of %s: %s", container.short_id, error)
            return Pack("", "", partial=True, missing=(f"{_ALL}: {error}",))
        finally:
            if not finished:
                await asyncio.to_thread(draft.discard)
        await asyncio.to_thread(self._prune, entry.id)
        _log.info("evidence %s of %s%s", entry.id, container.name, " (partial)" * entry.partial)
        return Pack(
            entry.id,
            entry.sha256,
            entry.partial,
            entry.missing,
            entry.size,
            round(time.monotonic() - started, 3),
        )

    def _facts(
        self,
        identity: str,
        container: Container,
        reason: str,
        audit_ids: Sequence[int],
        rule: dict[str, Any] | None,
    ) -> dict[str, Any]:
        return {
            "id": identity,
            "rote": __version__,
            "host": platform.node(),
            "kernel": platform.release(),
            "time": time.time(),
            "reason": reason,
            "rule": str((rule or {}).get("name", "")),
            "audits": list(audit_ids),
            "container": {
                "id": container.id,
                "name": container.name,
                "runtime": container.runtime,
                "image": container.image.reference,
                "image_id": container.image.id,
                "namespace": container.namespace,
                "pod": container.pod,
                "pod_container": container.pod_container,
                "cgroup": container.cgroup_path,
                "pid": container.pid,
            },
            "limits": {**asdict(self._limits), "pack": self.store.pack_max},
        }

    # ---- what has to be read ---------------------------------------------------------------

    async def _read(self, work: _Work, seconds: float) -> None:
        """Everything that the worker reads, and what the runtime says; at most ``seconds``."""
        deadline = time.monotonic() + seconds
        try:
            async with asyncio.timeout(seconds):
                await self._turn.acquire()
        except TimeoutError:
            work.parts += [Part(name, FAILED, ["too many at once"]) for name in WORKER_PARTS]
            return
        try:
            process = await self._start_worker(work.draft.file.fileno())
        except OSError as error:
            self._turn.release()
            why = f"the worker does not start: {error.strerror}"
            work.parts += [Part(name, FAILED, [why]) for name in WORKER_PARTS]
            await self._inspect(work)
            return
        try:
            # The worker gets ready while the runtime answers.
            changes = await self._inspect(work)
            await self._let_work(work, process, changes, deadline - time.monotonic())
        finally:
            await _end(process)
            self._turn.release()

    async def _inspect(self, work: _Work) -> list[tuple[str, str]] | None:
        """Both inspections; what changed, where that is not found on the disk."""
        control = self._controls(work.container)
        if control is None:
            for name in (INSPECTION, IMAGE):
                why = f"runtime {work.container.runtime} does not offer it"
                work.parts.append(Part(name, FAILED, [why]))
            return None
        changes = None
        with work.part(INSPECTION):
            details = await _within(_RUNTIME_SECONDS, control.details(work.container.id))
            if details is None:
                raise RuntimeUnavailableError("the runtime does not know this container any more")
            work.details = details
            work.secrets.learn(details)
        with work.part(IMAGE):
            if work.details is None:
                raise RuntimeUnavailableError("the runtime did not answer before")
            name = str(work.details.get("Image") or work.container.image.id)
            image = await _within(_RUNTIME_SECONDS, control.image_details(name))
            if image is None:
                raise RuntimeUnavailableError("the runtime does not have the image any more")
            work.secrets.learn(image)
            work.image = image
        if work.details and not _layers(work.details)[0]:
            with contextlib.suppress(RuntimeUnavailableError, TimeoutError):
                changes = await _within(_CHANGES_SECONDS, control.changes(work.container.id))
        return changes

    async def _let_work(
        self,
        work: _Work,
        process: asyncio.subprocess.Process,
        changes: list[tuple[str, str]] | None,
        seconds: float,
    ) -> None:
        """Give the worker its request, and take down what it says until it ends or has to."""
        upper, lower = _layers(work.details or {})
        container = work.container
        request = Request(
            limit=work.writer.limit - work.writer.limit // _OWN_SHARE,
            seconds=max(0.0, seconds * (1 - _FINISH_SHARE)),
            pids=[],
            cgroups=[str(path) for path in cgroup_directories(container.cgroup_path)],
            init=container.pid,
            upper=upper,
            lower=lower,
            changes=changes,
            host_mounts=container.host_mount_namespace,
            limits=self._limits,
        )
        why = ""
        try:
            async with asyncio.timeout(max(0.0, seconds)):
                await _send(process, request.encode())
                async for said in _said(process):
                    self._take_down(work, said)
                if code := await process.wait():
                    why = f"the worker ended with {code}"
        except TimeoutError:
            why = "out of time"
        done = {part.name for part in work.parts}
        for name in WORKER_PARTS:
            if name not in done:
                work.parts.append(Part(name, FAILED, [why or "the worker did not say"]))
        # What the worker had begun and not completed.
        work.writer.cut(work.members[-1].end if work.members else 0)

    @staticmethod
    def _take_down(work: _Work, said: dict[str, Any]) -> None:
        if "member" in said:
            work.members.append(Member(**said["member"]))
        elif "cut" in said:
            work.members = [member for member in work.members if member.end <= said["cut"]]
        else:
            work.parts.append(Part(**said["part"]))
            work.say(work.parts[-1].name)

    # ---- what the daemon has -----------------------------------------------------------------

    async def _add_own(
        self, work: _Work, rule: dict[str, Any] | None, audit_ids: Sequence[int]
    ) -> None:
        """Inspections, model, rule, audits and flight recorder."""
        for part_name, name, details in (
            (INSPECTION, "container.json", work.details),
            (IMAGE, "image.json", work.image),
        ):
            if details is not None:
                try:
                    await work.add(name, to_json(work.secrets.inspection(details)))
                except (PackFullError, OSError) as error:
                    _part(work.parts, part_name).fail(str(error))
        container = work.container
        with work.part(MODEL) as part:
            data = self._sources.model(container)
            if data is None:
                part.skip("there is none")
            else:
                await work.add("model.rote", data)
        with work.part(RULE) as part:
            if rule is None:
                part.skip("no rule asked for this")
            else:
                await work.add("rule.json", to_json(rule))
        with work.part(AUDITS) as part:
            audits = self._sources.audits(container)
            await work.add("audits.jsonl", _lines(audits))
            part.counts["audits"] = len(audits)
            lost = set(audit_ids) - {audit.get("id") for audit in audits}
            if lost:
                part.lacks(f"audits {', '.join(map(str, sorted(lost)))}: not found")
        with work.part(RECORDER) as part:
            if self._recorder is None:
                part.skip("it is off")
            else:
                entries = self._recorder.take(container.cgroup_id)
                await work.add("recorder.jsonl", _lines(entries))
                part.counts["entries"] = len(entries)

    async def _export(self, work: _Work, seconds: float) -> None:
        """The whole file system, as the runtime gives it."""
        with work.part(EXPORT) as part:
            control = self._controls(work.container)
            if control is None:
                raise RuntimeUnavailableError("its runtime does not offer it")
            member = OpenMember(work.writer, work.draft.file, "filesystem.tar")
            try:
                async with asyncio.timeout(seconds):
                    stream: AsyncIterator[bytes] = control.export(work.container.id)
                    async with contextlib.aclosing(stream) as pieces:  # type: ignore[type-var]
                        async for piece in pieces:
                            await asyncio.to_thread(member.write, piece)
            except (PackFullError, RoteError, TimeoutError) as error:
                part.lacks(f"cut off after {member.size} bytes: {str(error) or 'out of time'}")
            if member.size:
                work.members.append(member.close())
            else:
                work.writer.cut(work.writer.end)
                part.fail("nothing of it came")

    # ---- the end -----------------------------------------------------------------------------

    def _finish(self, work: _Work, facts: dict[str, Any]) -> IndexEntry:
        """Write the manifest and give the pack its name.

        Raises:
            StateError: not even the manifest can be written.
        """
        work.draft.give_back_reserve()
        work.writer.limit = 1 << 62  # whatever the pack's limit, its manifest is written
        manifest = self._add_manifest(work, facts)
        container = work.container
        entry = IndexEntry(
            id=work.draft.id,
            created=facts["time"],
            container_id=container.id,
            container=container.name or container.short_id,
            image=container.image.reference,
            reason=facts["reason"],
            rule=facts["rule"],
            audits=tuple(facts["audits"]),
            sha256=manifest.sha256,
            size=work.draft.path.stat().st_size,
            partial=is_partial(work.parts),
            missing=tuple(missing(work.parts)),
        )
        self.store.commit(work.draft, entry)
        return entry

    @staticmethod
    def _add_manifest(work: _Work, facts: dict[str, Any]) -> Member:
        while True:
            try:
                manifest = work.writer.add(
                    MANIFEST, manifest_bytes(facts, work.parts, work.members)
                )
                work.writer.finish()
            except PackFullError as error:
                # Somebody else took the space that was kept. The last members make room.
                if not work.members:
                    raise StateError(f"{work.draft.path}: {error}; no evidence taken") from error
                lost = work.members.pop()
                work.writer.cut(work.members[-1].end if work.members else 0)
                _part(work.parts, "space").fail(f"{lost.name}: {error}")
            else:
                return manifest

    def _prune(self, newest: str) -> None:
        try:
            for entry in self.store.prune({*self.kept(), newest}):
                _log.info("evidence %s removed: more than the quota", entry.id)
        except StateError as error:
            _log.error("%s", error)


def _part(parts: list[Part], name: str) -> Part:
    found = next((part for part in parts if part.name == name), None)
    if found is None:
        found = Part(name)
        parts.append(found)
    return found


def _lines(values: Sequence[dict[str, Any]]) -> bytes:
    return b"".join(to_json(value) + b"\n" for value in values)


def _layers(details: dict[str, Any]) -> tuple[str, list[str]]:
    """The upper directory and the lower ones that a runtime names, or nothing."""
    data = (details.get("GraphDriver") or {}).get("Data") or {}
    upper = str(data.get("UpperDir") or "")
    lower = [place for place in str(data.get("LowerDir") or "").split(":") if place]
    return upper, lower


def cgroup_directories(path: str) -> list[Path]:
    """The directories of a cgroup, one a hierarchy.

    Args:
        path: below each hierarchy's root; "" or "/": none, for that would be the whole host.
    """
    if not path.strip("/"):
        return []
    mounts = read_mounts(Path("/proc/self"))
    places = dict.fromkeys(
        Path(mount.target, path.lstrip("/"))
        for mount in mounts
        if mount.kind in ("cgroup", "cgroup2") and mount.root == "/"
    )
    return [place for place in places if (place / "cgroup.procs").exists()]


async def _within(seconds: float, answer: Awaitable[_T]) -> _T:
    async with asyncio.timeout(seconds):
        return await answer


async def _start_worker(fd: int) -> asyncio.subprocess.Process:
    return await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "sensor.responses.evidence.worker", str(fd)),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        pass_fds=(fd,),
        limit=_LINE_MAX,
        start_new_session=True,  # Ctrl-C is for the daemon to deal with
        env={**os.environ, "PYTHONDONTWRITEBYTECODE": "1"},
    )


async def _send(process: asyncio.subprocess.Process, request: bytes) -> None:
    assert process.stdin is not None
    with contextlib.suppress(ConnectionError):  # it has ended; how, is seen from its exit
        process.stdin.write(request)
        await process.stdin.drain()
        process.stdin.close()


async def _said(process: asyncio.subprocess.Process) -> AsyncIterator[dict[str, Any]]:
    assert process.stdout is not None
    async for line in process.stdout:
        try:
            yield orjson.loads(line)
        except orjson.JSONDecodeError:
            return  # it was ended in the middle of a word


async def _end(process: asyncio.subprocess.Process) -> None:
    """End the worker, if it has not ended by itself."""
    if process.returncode is not None:
        return
    with contextlib.suppress(ProcessLookupError):
        process.kill()
    try:
        await _within(_KILL_SECONDS, process.wait())
    except TimeoutError:
        # It hangs in the kernel, in a file system that does not answer; it goes when that does.
        _log.warning("evidence: the worker %d hangs in the kernel", process.pid)
