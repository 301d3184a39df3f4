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
from typing import TextIO

import orjson

from sensor.admission import Admission
from sensor.ancestry import parent_of
from sensor.audits.head import HeadKeeper
from sensor.audits.store import AuditStore
from sensor.channels.channel import Channel, Channels
from sensor.channels.journal import JournalChannel
from sensor.channels.outbox import Outbox
from sensor.channels.terminal import TerminalChannel
from sensor.config import Settings
from sensor.containers.docker import DockerRuntime
from sensor.containers.podman import podman_runtime
from sensor.containers.registry import Registry
from sensor.containers.runtime import Runtime
from sensor.control.blocking import finder
from sensor.control.channels import channel_handlers
from sensor.control.handlers import Handlers
from sensor.control.rule_handlers import rule_handlers
from sensor.control.server import ControlServer
from sensor.control.trust_handlers import TrustHandlers
from sensor.errors import AlreadyRunningError, HostError, NotRootError, StateError, UsageError
from sensor.images.admission.gates import FailureOf, Gates
from sensor.images.admission.start import Judge
from sensor.kernel.live import LiveKernel
from sensor.kernel.port import Kernel
from sensor.models.learning import LearningSettings
from sensor.models.registry import ModelRegistry
from sensor.models.store import ModelStore
from sensor.pipeline import Pipeline
from sensor.reload import Reloader
from sensor.responders import Responders
from sensor.responses.sessions import Sessions
from sensor.rules.hits import Hits
from sensor.rules.keeper import RuleKeeper
from sensor.rules.policy import Policy
from sensor.rules.scope import Where
from sensor.rules.teaching import Teaching

_log = logging.getLogger("rote.daemon")
_TICK_SECONDS = 1.0
_DRAINS_IN_A_ROW = 8

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
        judge: decides about starts that gates hold; None: the rules about images do.
        failure: what becomes of those that it does not decide; of None for unknown ones.
    """

    def __init__(
        self,
        settings: Settings,
        *,
        kernel: Callable[[Settings], Kernel] = _open_live,
        output: TextIO = sys.stdout,
        judge: Judge | None = None,
        failure: FailureOf | None = None,
    ) -> None:
        self.settings = settings
        self._open_kernel = kernel
        self._output = output
        self._judge, self._failure = judge, failure
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
                learning_settings(settings),
            )
            audits = AuditStore(settings.audits_db, window_seconds=settings.audit_window_seconds)
            stack.callback(audits.close)
            heads = HeadKeeper(audits)
            keeper = RuleKeeper(settings.rules, _base_policy(settings))
            keeper.reload()  # a daemon does not start with rules that nobody meant
            kernel = self._open_kernel(settings)
            stack.callback(kernel.close)
            outbox = Outbox(settings.channels_db, settings.audits_db, settings.channels_dir)
            channels = Channels(self._channels(), outbox)
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
            responders = Responders(settings, pipeline, found, stack)
            registry = Registry(found, settings.watches, responders.on_container)
            admission = Admission(
                settings, pipeline, found, keeper, responders.blocker, stack=stack
            )
            gates = self._gates(found, registry, admission, responders)
            pipeline.registry = registry
            pipeline.hits = Hits(settings.state_dir / "rule-hits.json")
            pipeline.teaching = Teaching(parent_of, settings.state_dir / "suspects.json")
            pipeline.sessions = Sessions(time.time, settings.state_dir / "sessions.json")
            reloader = self._reloader = Reloader(keeper, pipeline, channels)
            reloader.also += [
                admission.reload, lambda: gates.rules_changed(registry.containers()),
            ]  # fmt: skip
            self.pipeline = pipeline

            def more() -> dict[str, object]:
                return {
                    "rules": keeper.status(),
                    "responses": responders.status(),
                    "images": admission.status(),
                    "gates": gates.status(),
                }

            handlers = Handlers(pipeline, _shown(settings), self.stop, more)
            verbs = {
                **handlers.table(),
                **TrustHandlers(pipeline).table(),
                **rule_handlers(pipeline, keeper, reloader.reload, admission.preview),
                **responders.verbs(finder(registry.containers, registry.inspect)),
                **channel_handlers(channels),
            }
            server = ControlServer(settings.socket, verbs)
            await server.start()
            await responders.blocker.resume()
            await gates.start()
            responders.tell_held(gates.blocked)
            channels.start()
            self._banner(pipeline)
            try:
                await self._loop(pipeline, registry, heads, admission)
            finally:
                await server.stop()
                await gates.close()
                await admission.close()
                await responders.close()
                await registry.close()
                pipeline.drain()
                pipeline.flush()
                heads.close()
                await channels.close()
                _notify("STOPPING=1")

    def _gates(
        self,
        found: list[Runtime],
        registry: Registry,
        admission: Admission,
        responders: Responders,
    ) -> Gates:
        gates = Gates(
            self.settings,
            found,
            registry,
            self._judge or admission.judge,
            self._failure or admission.failure,
        )
        admission.gates_ask = bool(gates.status()["installed"])
        responders.watchers += [gates.on_container, admission.on_container]
        return gates

    def reload(self) -> None:
        """Read rules and channels again; what is bad is said, and what held before holds on."""
        if self._reloader is not None:
            self._reloader.reload_soon()

    def stop(self) -> None:
        """Let ``run`` end."""
        self._stopping.set()

    async def _loop(
        self, pipeline: Pipeline, registry: Registry, heads: HeadKeeper, admission: Admission
    ) -> None:
        loop = asyncio.get_running_loop()
        fd = pipeline.kernel.fileno()
        if fd >= 0:
            loop.add_reader(fd, self._on_readable, pipeline)
        follower = asyncio.create_task(registry.run(), name="registry")
        canary = asyncio.create_task(self._canary(pipeline), name="canary")
        scans = asyncio.create_task(admission.run(), name="scans")
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
                for task in (follower, scans):
                    if task.done():
                        task.result()  # a mistake of ours, not of a runtime: say so and end
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(self._stopping.wait(), _TICK_SECONDS)
        finally:
            if fd >= 0:
                loop.remove_reader(fd)
            for task in (canary, scans, follower):
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


def learning_settings(settings: Settings) -> LearningSettings:
    """What the settings say of learning."""
    return LearningSettings(
        settings.learn_max_seconds,
        settings.dry_run_max_seconds,
        settings.startup_pause,
        learn_min_seconds=settings.learn_min_seconds,
        dry_run_min_seconds=settings.dry_run_min_seconds,
        max_false_alarms_per_day=settings.max_false_alarms_per_day,
        archive_after_seconds=settings.archive_after_seconds,
    )


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
