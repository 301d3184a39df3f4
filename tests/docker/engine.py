"""A Docker Engine for the tests: the one that answers, or one of our own for this run only.

Our own keeps to itself: its data, sockets, bridge and cgroups have names of their own, it changes
no packet filter and no sysctl, and nothing of it is left when ``stop`` returns.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import tempfile
from pathlib import Path

from tests.waiting import wait_for

RUNNING_URLS = ("unix:///run/docker.sock", "unix:///run/podman/podman.sock")
START_SECONDS = 90.0
STOP_SECONDS = 30.0
_SEARCH = f"{os.environ.get('PATH', '')}:/usr/local/sbin:/usr/sbin:/sbin"


class EngineError(Exception):
    """The tests cannot have a Docker Engine; says what is missing."""


def program(name: str) -> str:
    """Where ``name`` is.

    Raises:
        EngineError: it is not installed.
    """
    found = shutil.which(name, path=_SEARCH)
    if found is None:
        raise EngineError(f"{name}: not installed; scripts/setup --test installs it")
    return found


def answers(url: str) -> bool:
    """Whether a Docker Engine answers at ``url``."""
    docker = shutil.which("docker", path=_SEARCH)
    if docker is None:
        return False
    with contextlib.suppress(subprocess.TimeoutExpired):
        result = subprocess.run(
            [docker, "--host", url, "version", "--format", "{{.Server.Version}}"],
            capture_output=True,
            timeout=20,
            check=False,
        )
        return result.returncode == 0
    return False


def running_engine() -> str | None:
    """The URL of a Docker Engine that runs already, or None."""
    candidates = [os.environ.get("DOCKER_HOST", ""), *RUNNING_URLS]
    return next((url for url in candidates if url.startswith("unix://") and answers(url)), None)


class PrivateEngine:
    """containerd and dockerd in a temporary directory, in sessions of their own.

    Args:
        tag: tells several of one process apart; at most five letters.
    """

    def __init__(self, tag: str = "") -> None:
        # Not /tmp, which may be a tmpfs: images need room, and overlayfs a real upper directory.
        self.home = Path(tempfile.mkdtemp(prefix="rote-docker-", dir="/var/tmp"))
        self.url = f"unix://{self.home}/docker.sock"
        self.name = f"{tag or 'rote'}{os.getpid()}"  # of the bridge: 15 characters at most
        self.cgroup = f"/rote-test-{os.getpid()}{tag and '-'}{tag}"
        self._number = os.getpid() * 2 + bool(tag)  # of the bridge's network
        self._processes: list[subprocess.Popen[bytes]] = []

    def start(self) -> None:
        """Start both and wait until they answer.

        Raises:
            EngineError: one of them is missing or ended; quotes its log.
        """
        containerd_socket = self.home / "containerd.sock"
        config = self.home / "containerd.toml"
        # CRI is of no use here and takes a while to start.
        config.write_text('version = 2\ndisabled_plugins = ["io.containerd.grpc.v1.cri"]\n')
        (self.home / "daemon.json").write_text("{}\n")  # not the machine's own
        self._add_bridge()
        self._spawn(
            "containerd",
            "--config", str(config),
            "--root", str(self.home / "containerd-root"),
            "--state", str(self.home / "containerd-state"),
            "--address", str(containerd_socket),
        )  # fmt: skip
        self._wait("containerd", containerd_socket.is_socket)
        self.start_dockerd()

    def restart(self) -> None:
        """End dockerd and start it again, as a machine does that boots: no live restore.

        Raises:
            EngineError: it did not come up again.
        """
        _end(self._processes.pop())
        self.start_dockerd()

    def kill_dockerd(self) -> None:
        """Kill dockerd; containerd and the containers go on."""
        process = self._processes.pop()
        process.kill()
        process.wait(STOP_SECONDS)
        (self.home / "docker.pid").unlink(missing_ok=True)

    def start_dockerd(self) -> None:
        """Start dockerd beside a containerd that runs, and wait until it answers.

        Raises:
            EngineError: it is missing or ended; quotes its log.
        """
        containerd_socket = self.home / "containerd.sock"
        self._spawn(
            "dockerd",
            "--config-file", str(self.home / "daemon.json"),
            "--containerd", str(containerd_socket),
            "--data-root", str(self.home / "data"),
            "--exec-root", str(self.home / "exec"),
            "--pidfile", str(self.home / "docker.pid"),
            "--host", self.url,
            "--bridge", self.name,
            "--iptables=false", "--ip6tables=false", "--ip-forward=false", "--ip-masq=false",
            "--exec-opt", "native.cgroupdriver=cgroupfs",
            "--cgroup-parent", self.cgroup,
            "--shutdown-timeout", "5",
        )  # fmt: skip
        self._wait("dockerd", lambda: answers(self.url))

    def stop(self, *, keep_logs: bool = False) -> None:
        """End both and take away all that they made. Safe to call at any time."""
        for process in reversed(self._processes):
            _end(process)
        self._processes.clear()
        for point in _mounts_below(self.home):
            subprocess.run(["umount", "--lazy", point], check=False, timeout=30)
        if Path("/sys/class/net", self.name).exists():
            subprocess.run([program("ip"), "link", "delete", self.name], check=False, timeout=30)
        _remove_cgroups(self.cgroup)
        if keep_logs:
            for log in self.home.glob("*.log"):
                shutil.copy(log, Path(tempfile.gettempdir(), f"rote-test-{log.name}"))
        shutil.rmtree(self.home, ignore_errors=True)

    def _add_bridge(self) -> None:
        address = f"10.{200 + self._number % 50}.{self._number // 50 % 250}.1/24"
        for arguments in (
            ("link", "add", self.name, "type", "bridge"),
            ("address", "add", address, "dev", self.name),
            ("link", "set", self.name, "up"),
        ):
            result = subprocess.run(
                [program("ip"), *arguments], capture_output=True, text=True, check=False, timeout=30
            )
            if result.returncode != 0:
                raise EngineError(f"ip {' '.join(arguments)}: {result.stderr.strip()}")

    def _spawn(self, name: str, *arguments: str) -> None:
        environment = {
            key: value
            for key, value in os.environ.items()
            if key != "DOCKER_HOST" and not key.startswith(("OTEL_", "NOTIFY_"))
        }
        environment["PATH"] = _SEARCH
        with (self.home / f"{name}.log").open("ab") as log:
            self._processes.append(
                subprocess.Popen(
                    [program(name), *arguments],
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=log,
                    start_new_session=True,
                    env=environment,
                )
            )

    def _wait(self, name: str, ready: object) -> None:
        process = self._processes[-1]

        def ended_or_ready() -> bool:
            return process.poll() is not None or bool(callable(ready) and ready())

        with contextlib.suppress(TimeoutError):
            wait_for(ended_or_ready, seconds=START_SECONDS, what=name)
            if process.poll() is None:
                return
        log = (self.home / f"{name}.log").read_text(errors="replace").strip().splitlines()
        raise EngineError(f"{name} did not come up; its last words: {' | '.join(log[-5:])}")


def _end(process: subprocess.Popen[bytes]) -> None:
    process.terminate()
    try:
        process.wait(STOP_SECONDS)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait(STOP_SECONDS)
    # What is left of the session: shims whose containers would not stop.
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL)


def _mounts_below(folder: Path) -> list[str]:
    lines = Path("/proc/self/mountinfo").read_text().splitlines()
    points = [line.split()[4] for line in lines]
    return sorted((point for point in points if point.startswith(f"{folder}/")), reverse=True)


def _remove_cgroups(name: str) -> None:
    lines = Path("/proc/self/mountinfo").read_text().splitlines()
    for line in lines:
        if " - cgroup" not in line:
            continue
        top = Path(line.split()[4] + name)
        for folder, _, _ in os.walk(top, topdown=False):
            with contextlib.suppress(OSError):
                Path(folder).rmdir()
