"""The process around the loop: lock, wiring, signals, stop."""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import gc
import logging
import os
import platform
import signal
import socket
import sys
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any, TextIO

import orjson

from sensor.audits.audit import Audit, Guarantee
from sensor.audits.formats import to_json
from sensor.audits.head import HeadKeeper
from sensor.audits.query import AuditQuery
from sensor.audits.store import AuditStore
from sensor.channels.channel import Channel, Channels
from sensor.channels.journal import JournalChannel
from sensor.channels.terminal import TerminalChannel
from sensor.config import Settings
from sensor.containers import cgroups
from sensor.containers.container import Container
from sensor.containers.docker import DockerRuntime
from sensor.containers.podman import podman_runtime
from sensor.containers.registry import ContainerChange, Registry
from sensor.containers.runtime import Control, Runtime
from sensor.control.blocking import block_handlers, finder
from sensor.control.evidence import evidence_handlers
from sensor.control.handlers import Handlers
from sensor.control.rule_handlers import rule_handlers
from sensor.control.server import ControlServer
from sensor.errors import AlreadyRunningError, HostError, NotRootError, StateError, UsageError
from sensor.kernel.live import LiveKernel
from sensor.kernel.port import Kernel
from sensor.models.files import export_bytes
from sensor.models.learning import LearningSettings
from sensor.models.registry import ModelRegistry
from sensor.models.store import ModelStore
from sensor.pipeline import Pipeline
from sensor.reload import Reloader
from sensor.responses.block import Blocker
from sensor.responses.blocked import BlockCause, BlockState
from sensor.responses.evidence.collect import Collector, Sources
from sensor.responses.evidence.recorder import FlightRecorder
from sensor.responses.evidence.store import EvidenceStore
from sensor.responses.freezer import Freezer
from sensor.responses.quarantine import Quarantine
from sensor.responses.records import RecordStore
from sensor.responses.sessions import Sessions
from sensor.rules.hits import Hits
from sensor.rules.keeper import RuleKeeper
from sensor.rules.policy import Policy
from sensor.rules.rule import Rule
from sensor.rules.scope import Where

_log = logging.getLogger("rote.daemon")
_TICK_SECONDS = 1.0
_DRAINS_IN_A_ROW = 8
_EXPORT_BEFORE_STOP_SECONDS = 60.0
_EVIDENCE_MARGIN_SECONDS = 60.0  # beyond what taking evidence is meant to take
_EVIDENCE_AUDITS = 1000  # of one container, the newest, in a pack

DOCKER_SOCKET = Path("/var/run/docker.sock")
PODMAN_SOCKET = Path("/run/podman/podman.sock")
CONTAINERD_SOCKET = Path("/run/containerd/containerd.sock")


def _open_live(settings: Settings) -> Kernel:
    return LiveKernel.open(settings)


class Daemon:
    """One running sensor.

    Args:
        settings: what to do.
        kernel: how to get at the kernel; replaced in tests.
        output: where alerts are shown.
    """

    def __init__(
        self,
        settings: Settings,
        *,
        kernel: Callable[[Settings], Kernel] = _open_live,
        output: TextIO = sys.stdout,
    ) -> None:
        self.settings = settings
        self._open_kernel = kernel
        self._output = output
        self._stopping = asyncio.Event()
        self.started = asyncio.Event()
        self.pipeline: Pipeline | None = None  # once it runs
        self._reloader: Reloader | None = None

    async def run(self) -> None:
        """Run until told to stop.

        Raises:
            RoteError: it cannot start; one clear line.
        """
        settings = self.settings
        with _lock(settings), contextlib.ExitStack() as stack:
            models = ModelRegistry(
                ModelStore(settings.models_db),
                LearningSettings(settings.learn_seconds, settings.dry_run_seconds),
            )
            audits = AuditStore(settings.audits_db, window_seconds=settings.audit_window_seconds)
            stack.callback(audits.close)
            heads = HeadKeeper(audits)
            keeper = RuleKeeper(settings.rules, _base_policy(settings))
            keeper.reload()  # a daemon does not start with rules that nobody meant
            kernel = self._open_kernel(settings)
            stack.callback(kernel.close)
            channels = Channels(self._channels())
            pipeline = Pipeline(
                kernel,
                models,
                audits,
                channels,
                policy=keeper.policy,
                write_probe=settings.write_probe,
                keep_audits=settings.audit_keep,
            )
            found = runtimes(settings)
            blocker, quarantine = _responses(settings, kernel, pipeline, found, stack)

            def on_change(change: ContainerChange) -> None:
                pipeline.on_container(change)
                # Changed: the first process of a container that was added while it was being
                # started, say.
                if change.kind in ("added", "unresolved", "changed"):
                    blocker.started(change.container)
                    quarantine.started(change.container)

            registry = Registry(found, settings.watches, on_change)
            pipeline.registry = registry
            pipeline.on_cgroup = blocker.cgroup_created
            pipeline.hits = Hits(settings.state_dir / "rule-hits.json")
            pipeline.sessions = Sessions(time.time, settings.state_dir / "sessions.json")
            reloader = self._reloader = Reloader(keeper, pipeline)
            self.pipeline = pipeline
            handlers = Handlers(pipeline, _shown(settings), self.stop)
            find = finder(registry.containers, registry.inspect)
            verbs = {
                **handlers.table(),
                **rule_handlers(pipeline, keeper, reloader.reload),
                **block_handlers(blocker, quarantine, find),
                **evidence_handlers(_evidence(settings, pipeline, found, blocker), find),
            }
            server = ControlServer(settings.socket, verbs)
            await server.start()
            await blocker.resume()
            channels.start()
            self._banner(pipeline)
            try:
                await self._loop(pipeline, registry, heads)
            finally:
                await server.stop()
                await blocker.close()
                await quarantine.close()
                await registry.close()
                pipeline.drain()
                pipeline.flush()
                heads.close()
                await channels.close()
                _notify("STOPPING=1")

    def reload(self) -> None:
        """Read rules and channels again; what is bad is said, and what held before holds on."""
        if self._reloader is not None:
            self._reloader.reload_quietly()

    def stop(self) -> None:
        """Let ``run`` end."""
        self._stopping.set()

    async def _loop(self, pipeline: Pipeline, registry: Registry, heads: HeadKeeper) -> None:
        loop = asyncio.get_running_loop()
        fd = pipeline.kernel.fileno()
        if fd >= 0:
            loop.add_reader(fd, self._on_readable, pipeline)
        follower = asyncio.create_task(registry.run(), name="registry")
        canary = asyncio.create_task(self._canary(pipeline), name="canary")
        # What was imported stays: collecting it again and again costs time and shared pages.
        gc.collect()
        gc.freeze()
        self.started.set()
        _notify("READY=1")
        try:
            while not self._stopping.is_set():
                self._on_readable(pipeline)
                pipeline.tick()
                if self._reloader is not None:
                    self._reloader.tick()
                heads.tick()
                if follower.done():
                    follower.result()  # a mistake of ours, not of a runtime: say so and end
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(self._stopping.wait(), _TICK_SECONDS)
        finally:
            if fd >= 0:
                loop.remove_reader(fd)
            for task in (canary, follower):
                task.cancel()
                with contextlib.suppress(asyncio.CancelledError):
                    await task

    async def _canary(self, pipeline: Pipeline) -> None:
        """Try from time to time whether the kernel still refuses."""
        failures = 0
        while self.settings.canary_seconds:
            if pipeline.preventing:
                try:
                    await pipeline.prove(self.settings.state_dir)
                    failures = 0
                except HostError as error:
                    failures += 1
                    if failures == 1:
                        _log.warning("cannot try whether the kernel refuses: %s", error)
            await asyncio.sleep(self.settings.canary_seconds)

    @staticmethod
    def _on_readable(pipeline: Pipeline) -> None:
        """Drain, but let others of the loop have their turn as well."""
        for _ in range(_DRAINS_IN_A_ROW):
            if not pipeline.drain():
                return

    def _channels(self) -> list[Channel]:
        found: list[Channel] = []
        if not self.settings.quiet:
            found.append(TerminalChannel(self._output, as_json=self.settings.log_format == "json"))
        if JournalChannel.available():
            found.append(JournalChannel())
        return found

    def _banner(self, pipeline: Pipeline) -> None:
        attachment = pipeline.kernel.attachment
        _log.info(
            "rote watches through %s (guarantee: %s), %s in %.1f s; state in %s; look with: "
            "rote status",
            attachment.mode,
            attachment.guarantee,
            "taken over" if attachment.reused else "loaded",
            attachment.load_seconds,
            self.settings.state_dir,
        )
        for note in attachment.notes:
            _log.info("not used: %s", note)
        for hook, reason in attachment.missing:
            _log.warning("hook %s is missing: %s", hook, reason)


def serve(settings: Settings, **seams: object) -> None:
    """Run a daemon in this process until SIGTERM or SIGINT.

    Raises:
        RoteError: it cannot start; one clear line.
    """
    if os.geteuid() != 0:
        raise NotRootError("rote run: loads BPF programs and needs root: sudo rote run")
    set_up_logging(settings)

    async def main() -> None:
        daemon = Daemon(settings, **seams)  # type: ignore[arg-type]
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, daemon.stop)
        loop.add_signal_handler(signal.SIGHUP, daemon.reload)
        await daemon.run()

    asyncio.run(main())


@contextlib.contextmanager
def _lock(settings: Settings):  # type: ignore[no-untyped-def]
    """Hold the directories of one daemon against a second one."""
    for directory in (settings.state_dir, settings.run_dir):
        try:
            directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        except OSError as error:
            raise StateError(
                f"{directory}: {error.strerror}; expected a directory that can be written"
            ) from error
    path = settings.state_dir / "lock"
    try:
        file = path.open("a+", encoding="ascii")
    except OSError as error:
        raise StateError(f"{path}: {error.strerror}") from error
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            file.seek(0)
            raise AlreadyRunningError(
                f"{settings.state_dir}: a daemon runs already (pid {file.read().strip() or '?'}); "
                "stop it first, or give another --state-dir, --run-dir and --bpf-dir"
            ) from error
        file.truncate(0)
        file.write(str(os.getpid()))
        file.flush()
        yield


def _base_policy(settings: Settings) -> Policy:
    """What the command line says; the files' rules come behind it."""
    return Policy(
        settings.prevent,
        allow_on_error=settings.on_error == "allow",
        where=Where(platform.node(), settings.cluster),
    )


def _responses(
    settings: Settings,
    kernel: Kernel,
    pipeline: Pipeline,
    found: list[Runtime],
    stack: contextlib.ExitStack,
) -> tuple[Blocker, Quarantine]:
    """What takes containers out of service."""
    controls = {runtime.name: runtime for runtime in found if isinstance(runtime, Control)}

    def strays(container: Container) -> list[int]:
        if not container.cgroup_id or cgroups.shares_host_mounts(container.pid):
            return []
        # The stamp alone would do, were it not that a wrong one kills somebody else's process.
        return [
            process.pid
            for process in kernel.processes()
            if process.cgroup_id == container.cgroup_id
            and cgroups.share_mounts(process.pid, container.pid)
        ]

    store = RecordStore(settings.blocked_db)
    stack.callback(store.close)
    freezer = Freezer(strays=strays)
    guarantee = Guarantee(kernel.attachment.guarantee)
    blocker = Blocker(
        store,
        freezer,
        lambda container: controls.get(container.runtime),
        pipeline.record,
        guarantee=guarantee,
        grace_seconds=settings.block_grace_seconds,
        evidence_seconds=settings.evidence_seconds
        + _EXPORT_BEFORE_STOP_SECONDS
        + _EVIDENCE_MARGIN_SECONDS,
    )
    quarantine = Quarantine(
        store, freezer, pipeline.record, refusal=blocker.refusal, guarantee=guarantee
    )
    _connect(pipeline, blocker, quarantine)
    return blocker, quarantine


def _connect(pipeline: Pipeline, blocker: Blocker, quarantine: Quarantine) -> None:
    """Let violations lead to responses, and the kernel know of what they did."""

    def protected(container: Container) -> str:
        rule = pipeline.policy.rule(container)
        return f"rule {rule.name} protects it" if rule.protected else ""

    def on_block(container: Container, rule: Rule, audit: Audit) -> None:
        if rule.quarantine:
            quarantine.violation(container, audit, rule.name)
        else:
            blocker.violation(container, audit, rule.name, grace_seconds=rule.grace_seconds)

    def on_change(container_id: str, _held: bool) -> None:
        pipeline.apply_to(container_id)
        for blocked in blocker.records():
            if blocked.id == container_id:
                pipeline.expect_again(blocked.container)

    blocker.protected = protected
    blocker.on_change = on_change
    pipeline.is_blocked = blocker.is_blocked
    pipeline.on_block = on_block
    for blocked in blocker.records():
        if blocker.is_blocked(blocked.id):
            pipeline.expect_again(blocked.container)


def runtimes(settings: Settings) -> list[Runtime]:
    """The runtimes that the settings name, or that are found.

    Raises:
        UsageError: a runtime is named in no known way.
    """
    found: list[Runtime] = []
    for text in settings.runtimes:
        kind, _, address = text.partition("=")
        if kind == "none":
            return []
        if kind == "auto":
            found.extend(_found_runtimes())
        elif kind == "docker":
            found.append(DockerRuntime(_unix(address or f"unix://{DOCKER_SOCKET}", text)))
        elif kind == "podman":
            found.append(podman_runtime(_unix(address or f"unix://{PODMAN_SOCKET}", text)))
        elif kind == "containerd":
            from sensor.containers.containerd import ContainerdRuntime

            found.append(ContainerdRuntime(address or str(CONTAINERD_SOCKET)))
        else:
            raise UsageError(
                f"runtime {text!r}: expected auto, none, docker[=unix:///PATH], "
                "podman[=unix:///PATH] or containerd[=PATH]"
            )
    return found


def _evidence(
    settings: Settings, pipeline: Pipeline, found: list[Runtime], blocker: Blocker
) -> Collector:
    """Takes evidence of the pipeline's containers, and before one is stopped."""
    store = EvidenceStore(
        settings.evidence_dir, quota=settings.evidence_quota, pack_max=settings.evidence_pack_max
    )
    for identity in store.recover():
        _log.warning("evidence %s is partial: the daemon ended while it was taken", identity)
    controls = {runtime.name: runtime for runtime in found if isinstance(runtime, Control)}
    pipeline.recorder = recorder = FlightRecorder()

    def model(container: Container) -> bytes | None:
        known = pipeline.models.model_of(container.id) or pipeline.models.of_container(container)
        return export_bytes(known) if known is not None else None

    def audits(container: Container) -> list[dict[str, Any]]:
        query = AuditQuery(container=container.id, limit=_EVIDENCE_AUDITS)
        return [to_json(audit) for audit in pipeline.audits.query(query)]

    def kept() -> set[str]:
        return {
            record.evidence
            for record in blocker.records()
            if record.evidence and record.state is not BlockState.UNBLOCKED
        }

    collector = Collector(
        store,
        lambda container: controls.get(container.runtime),
        recorder=recorder,
        sources=Sources(model, audits),
        seconds=settings.evidence_seconds,
        kept=kept,
    )

    async def before_a_stop(container: Container, cause: BlockCause) -> str:
        rule = pipeline.policy.rule(container)
        pack = await collector.collect(
            container,
            reason=cause.reason,
            audit_ids=[audit.id for audit in cause.audits if audit.id],
            rule=_values_of(rule) if cause.rule else None,
            filesystem=rule.evidence_filesystem,
            export_seconds=_EXPORT_BEFORE_STOP_SECONDS,
        )
        if not pack.id:
            raise StateError("; ".join(pack.missing))
        lacking = f", partial: {len(pack.missing)} missing" if pack.partial else ""
        return f"{pack.id} sha256:{pack.sha256}{lacking}"

    blocker.evidence = before_a_stop
    return collector


def _values_of(rule: Rule) -> dict[str, Any]:
    """A rule as a pack of evidence has it."""
    return {
        "name": rule.name,
        "source": rule.source,
        "actions": {str(kind): str(action) for kind, action in rule.actions.items()},
        "lists": str(rule.lists),
        "quarantine": rule.quarantine,
        "message": rule.message,
    }


def _unix(address: str, text: str) -> str:
    if not address.startswith("unix:///"):
        raise UsageError(f"runtime {text!r}: expected an address like unix:///var/run/docker.sock")
    return address


def _found_runtimes() -> list[Runtime]:
    found: list[Runtime] = []
    if DOCKER_SOCKET.is_socket():
        found.append(DockerRuntime(f"unix://{DOCKER_SOCKET}"))
    if PODMAN_SOCKET.is_socket():
        found.append(podman_runtime(f"unix://{PODMAN_SOCKET}"))
    if CONTAINERD_SOCKET.is_socket():
        # grpc costs memory that only hosts with containerd should pay.
        from sensor.containers.containerd import ContainerdRuntime

        found.append(
            ContainerdRuntime(str(CONTAINERD_SOCKET), without_docker=DOCKER_SOCKET.is_socket())
        )
    if not found:
        _log.warning(
            "no container runtime found (looked for %s, %s, %s); containers are recognised by "
            "their cgroups only",
            DOCKER_SOCKET,
            PODMAN_SOCKET,
            CONTAINERD_SOCKET,
        )
    return found


def _shown(settings: Settings) -> dict[str, object]:
    return {
        name: str(value) if isinstance(value, Path) else value
        for name, value in asdict(settings).items()
    }


class _JsonFormatter(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        return orjson.dumps(
            {
                "time": self.formatTime(record, "%Y-%m-%dT%H:%M:%S%z"),
                "level": record.levelname.lower(),
                "logger": record.name,
                "message": record.getMessage(),
                **({"trace": self.formatException(record.exc_info)} if record.exc_info else {}),
            }
        ).decode()


def set_up_logging(settings: Settings) -> None:
    """Log to standard error, as text or as JSON lines."""
    handler = logging.StreamHandler(sys.stderr)
    if settings.log_format == "json":
        handler.setFormatter(_JsonFormatter())
    else:
        handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)-7s %(message)s"))
    root = logging.getLogger("rote")
    root.handlers[:] = [handler]
    root.setLevel(settings.log_level.upper())
    root.propagate = False


def _notify(state: str) -> None:
    """Tell systemd, where it asked to be told (sd_notify(3))."""
    address = os.environ.get("NOTIFY_SOCKET")
    if not address:
        return
    with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as notifier:
        notifier.connect("\0" + address[1:] if address.startswith("@") else address)
        notifier.sendall(state.encode())
