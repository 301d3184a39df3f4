"""A container of runc's whose first process does what the suite tells it (evade.c)."""

from __future__ import annotations

import json
import os
import secrets
import shutil
import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sensor.demo.busybox import root_archive
from tests.live import cgroup_root

_BUILT = Path(__file__).with_name(".build")
_FOLDERS = (
    "app", "added", "dev", "etc", "img", "opt", "proc", "root", "sys", "tmp", "usr", "usr/bin",
    "usr/sbin", "var", "var/log", "vol", "lib", "lib64",
)  # fmt: skip
_FILES = {
    "etc/passwd": (0o644, "root:x:0:0:root:/root:/bin/sh\n"),
    "opt/known.sh": (0o755, "#!/bin/sh\necho OK\n"),
    "opt/evil.sh": (0o755, "#!/bin/sh\necho PWNED\n"),
    "opt/evil-interpreter.sh": (0o755, "#!/opt/payload\n"),
}
_PROGRAMS = {
    "usr/sbin/service": "service",
    "usr/sbin/dynamic": "dynamic",
    "usr/bin/tool": "tool",
    "usr/bin/changed": "tool",
    "opt/payload": "payload",
    "opt/payload-dynamic": "payload-dynamic",
    "opt/evil.so": "evil.so",
    "opt/good.so": "good.so",
    "opt/code": "code",
}
# What Docker grants; the full set is for kernels of the suite's own.
_DOCKER_CAPABILITIES = (
    "CHOWN", "DAC_OVERRIDE", "FSETID", "FOWNER", "MKNOD", "NET_RAW", "SETGID", "SETUID", "SETFCAP",
    "SETPCAP", "NET_BIND_SERVICE", "SYS_CHROOT", "KILL", "AUDIT_WRITE",
)  # fmt: skip
# By number: capability.h.
_CAPABILITIES = (
    "CHOWN", "DAC_OVERRIDE", "DAC_READ_SEARCH", "FOWNER", "FSETID", "KILL", "SETGID", "SETUID",
    "SETPCAP", "LINUX_IMMUTABLE", "NET_BIND_SERVICE", "NET_BROADCAST", "NET_ADMIN", "NET_RAW",
    "IPC_LOCK", "IPC_OWNER", "SYS_MODULE", "SYS_RAWIO", "SYS_CHROOT", "SYS_PTRACE", "SYS_PACCT",
    "SYS_ADMIN", "SYS_BOOT", "SYS_NICE", "SYS_RESOURCE", "SYS_TIME", "SYS_TTY_CONFIG", "MKNOD",
    "LEASE", "AUDIT_WRITE", "AUDIT_CONTROL", "SETFCAP", "MAC_OVERRIDE", "MAC_ADMIN", "SYSLOG",
    "WAKE_ALARM", "BLOCK_SUSPEND", "AUDIT_READ", "PERFMON", "BPF", "CHECKPOINT_RESTORE",
)  # fmt: skip
_START_SECONDS = 60.0
_ANSWER_SECONDS = 240.0


def program(name: str) -> Path:
    """One of the suite's programs."""
    return _BUILT / name


def make_image(directory: Path) -> Path:
    """The root that all boxes share as their lower layer."""
    subprocess.run([Path(__file__).with_name("build")], check=True, timeout=120)
    directory.mkdir(parents=True)
    archive = root_archive(_FOLDERS, _FILES)
    subprocess.run(["tar", "-x", "-C", directory], input=archive, check=True, timeout=60)
    shutil.copytree(_BUILT / "root", directory, dirs_exist_ok=True)
    for target, name in _PROGRAMS.items():
        shutil.copy(_BUILT / name, directory / target)
        (directory / target).chmod(0o755)
    return directory


@dataclass
class Answer:
    """What came of one command."""

    outcomes: list[str] = field(default_factory=list)  # "e0", "e1", "s9", one a try
    said: list[str] = field(default_factory=list)  # by programs that ran

    @property
    def pwned(self) -> bool:
        """Whether something forbidden ran."""
        return any("PWNED" in line for line in self.said)


class Box:
    """One container.

    Args:
        directory: for its layers and its bundle.
        image: the lower layer.
        name: what the sensor calls it.
        drain: takes in the sensor's events while the box works.
        all_capabilities: everything root can have, instead of what Docker grants.
    """

    def __init__(
        self,
        directory: Path,
        image: Path,
        name: str,
        drain: Callable[[], object],
        *,
        all_capabilities: bool,
    ) -> None:
        self.name = name
        self.id = secrets.token_hex(32)
        self.cgroup = cgroup_root() / "rote-evasion" / self.id
        self.directory = directory / name
        self.pid = 0
        self._image = image
        self._drain = drain
        self._all = all_capabilities
        self._process: subprocess.Popen[bytes] | None = None
        self._rest = b""
        for part in ("upper", "work", "root", "volume", "state"):
            (self.directory / part).mkdir(parents=True)

    @property
    def root(self) -> Path:
        """The container's root as the host sees it, its volumes and tmpfs included."""
        return Path(f"/proc/{self.pid}/root")

    @property
    def layer(self) -> Path:
        """The overlay as the host sees it, before and while the container runs."""
        return self.directory / "root"

    def prepare(self) -> None:
        """Mount its overlay; what is planted now came in before the container began."""
        layers = (
            f"lowerdir={self._image},upperdir={self.directory}/upper,workdir={self.directory}/work"
        )
        subprocess.run(
            ["mount", "-t", "overlay", "overlay", "-o", layers, self.layer], check=True, timeout=30
        )

    def start(self) -> None:
        """Start it; its first process waits for commands."""
        (self.directory / "config.json").write_text(json.dumps(self._config()))
        pid_file = self.directory / "pid"
        self._process = subprocess.Popen(
            [
                *self._runc(), "run", "--bundle", str(self.directory), "--pid-file", str(pid_file),
                self.id,
            ],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            start_new_session=True,
        )  # fmt: skip
        deadline = time.monotonic() + _START_SECONDS
        while not (pid_file.exists() and pid_file.read_text()):
            if self._process.poll() is not None or time.monotonic() > deadline:
                raise AssertionError(f"{self.name}: runc did not start it")
            self._drain()
            time.sleep(0.02)
        self.pid = int(pid_file.read_text())
        self.command("r_pipe")  # once it answers, it runs

    def command(self, technique: str, *args: str, processes: int = 1, times: int = 1) -> Answer:
        """Let the first process do something; see evade.c."""
        assert self._process is not None
        assert self._process.stdin is not None
        line = "\t".join([str(processes), str(times), technique, *args])
        self._process.stdin.write(line.encode() + b"\n")
        self._process.stdin.flush()
        answer = Answer()
        deadline = time.monotonic() + _ANSWER_SECONDS
        while (text := self._line(deadline)) != "END":
            if text[:1] in "es" and text[1:].isdigit():
                answer.outcomes.append(text)
            else:
                answer.said.append(text)
        self._drain()
        return answer

    def _line(self, deadline: float) -> str:
        assert self._process is not None
        assert self._process.stdout is not None
        stream = self._process.stdout.fileno()
        os.set_blocking(stream, False)
        while b"\n" not in self._rest:
            self._drain()  # a kill that comes late must come while it matters
            try:
                data = os.read(stream, 65536)
            except BlockingIOError:
                data = b""
                time.sleep(0.001)
            else:
                if not data:
                    raise AssertionError(f"{self.name}: the first process is gone")
            self._rest += data
            if time.monotonic() > deadline:
                raise AssertionError(f"{self.name}: no answer in time")
        line, self._rest = self._rest.split(b"\n", 1)
        return line.decode(errors="replace")

    def remove(self) -> None:
        """End it and take everything away."""
        if self._process is not None:
            subprocess.run(
                [*self._runc(), "delete", "--force", self.id],
                check=False,
                capture_output=True,
                timeout=60,
            )
            assert self._process.stdin is not None
            self._process.stdin.close()
            try:
                self._process.wait(10)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait(10)
            assert self._process.stdout is not None
            self._process.stdout.close()
        subprocess.run(["umount", "-l", self.layer], check=False, capture_output=True, timeout=30)

    def _runc(self) -> list[str]:
        return ["runc", "--root", str(self.directory / "state")]

    def _config(self) -> dict[str, Any]:
        names = _capability_names() if self._all else [f"CAP_{n}" for n in _DOCKER_CAPABILITIES]
        capabilities = dict.fromkeys(("bounding", "effective", "permitted"), names)
        tmpfs = {"type": "tmpfs", "source": "tmpfs"}
        return {
            "ociVersion": "1.0.2",
            "process": {
                "terminal": False,
                "user": {"uid": 0, "gid": 0},
                "args": ["/usr/sbin/service"],
                "env": ["PATH=/bin:/usr/bin:/usr/sbin"],
                "cwd": "/",
                "capabilities": capabilities,
                "rlimits": [{"type": "RLIMIT_CORE", "hard": 1 << 30, "soft": 0}],
            },
            "root": {"path": str(self.layer), "readonly": False},
            "hostname": self.name,
            "mounts": [
                {"destination": "/proc", "type": "proc", "source": "proc"},
                {"destination": "/dev", **tmpfs, "options": ["mode=755", "size=64k"]},
                {"destination": "/dev/shm", **tmpfs, "options": ["mode=1777"]},
                {"destination": "/tmp", **tmpfs, "options": ["mode=1777"]},
                {"destination": "/sys", "type": "sysfs", "source": "sysfs", "options": ["ro"]},
                {
                    "destination": "/vol", "type": "bind", "source": str(self.directory / "volume"),
                    "options": ["bind", "rw"],
                },
            ],
            "linux": {
                "cgroupsPath": f"/rote-evasion/{self.id}",
                "namespaces": [
                    {"type": kind} for kind in ("pid", "mount", "ipc", "uts", "network")
                ],
                "resources": {"devices": [{"allow": True, "access": "rwm"}]},
            },
        }  # fmt: skip


def _capability_names() -> list[str]:
    """All capabilities that this process may hand on. Source: proc_pid_status(5)."""
    status = Path("/proc/self/status").read_text(encoding="ascii")
    bounding = int(status.partition("CapBnd:")[2].split()[0], 16)
    return [f"CAP_{name}" for i, name in enumerate(_CAPABILITIES) if bounding >> i & 1]
