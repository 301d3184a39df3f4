"""The container of the demonstration: busybox and a guest book with a hole.

In Docker where it answers, otherwise in runc, on a bundle that is made here. Either way it reads
entries from its standard input and answers each with one line.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import shutil
import subprocess
import time
from pathlib import Path
from typing import Protocol

from sensor.demo.busybox import root_archive
from sensor.errors import HostError

ANSWER_SECONDS = 20.0
COMMAND_SECONDS = 60.0
SEARCH = f"{os.environ.get('PATH', '')}:/usr/local/sbin:/usr/sbin:/sbin"

GUESTBOOK = r"""#!/bin/sh
# A guest book. Every line on standard input is an entry.
mkdir -p /var/lib/guestbook
echo "the guest book is open"
while read -r entry; do
	# The hole: what a guest writes is evaluated.
	eval "line=\"$entry\"" 2>>/var/log/guestbook.err
	/bin/date "+%F %T $line" >>/var/log/guestbook.log
	/bin/tail -n 20 /var/log/guestbook.log >/var/lib/guestbook/page.new
	/bin/mv /var/lib/guestbook/page.new /var/lib/guestbook/page.html
	echo "thank you"
done
"""
FOLDERS = ("app", "dev", "etc", "proc", "root", "sys", "tmp", "var", "var/lib", "var/log")
FILES = {
    "app/guestbook": (0o755, GUESTBOOK),
    "etc/passwd": (0o644, "root:x:0:0:root:/root:/bin/sh\n"),
    "etc/group": (0o644, "root:x:0:\n"),
}


class Box(Protocol):
    """A running guest book."""

    runtime: str  # in words, for the story
    name: str  # of the container, as the sensor shows it
    # For ``rote run``. A plain cgroup is taken up with what runs in it, so it has to be there.
    sensor_options: tuple[str, ...]
    starts_first: bool

    def start(self) -> None:
        """Start it; returns when the guest book is open.

        Raises:
            HostError: the runtime refused; quotes it.
        """

    def ask(self, entry: str) -> str:
        """Write an entry and return the guest book's answer."""

    def remove(self) -> None:
        """End it and take away what was made for it. Safe to call at any time."""


class _Guestbook:
    """The process whose standard streams are the container's."""

    def __init__(self, command: list[str]) -> None:
        self._process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            # Ctrl-C ends the story, and the story ends this.
            start_new_session=True,
        )
        self._rest = b""

    def line(self) -> str:
        """The next line of output.

        Raises:
            HostError: none came in time, or the container ended.
        """
        assert self._process.stdout is not None
        deadline = time.monotonic() + ANSWER_SECONDS
        while b"\n" not in self._rest:
            waiting, _, _ = select.select([self._process.stdout], [], [], 0.2)
            data = os.read(self._process.stdout.fileno(), 65536) if waiting else b""
            self._rest += data
            if (waiting and not data) or time.monotonic() > deadline:
                raise HostError(f"the demonstration's container: {self._last_words()}")
        line, self._rest = self._rest.split(b"\n", 1)
        return line.decode(errors="replace")

    def say(self, line: str) -> None:
        """Send one line."""
        assert self._process.stdin is not None
        self._process.stdin.write(line.encode() + b"\n")
        self._process.stdin.flush()

    def end(self) -> None:
        """End the process; the container goes with its input or is removed by the runtime."""
        with contextlib.suppress(OSError):
            if self._process.stdin is not None:
                self._process.stdin.close()
        try:
            self._process.wait(5)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait(5)

    def _last_words(self) -> str:
        self.end()
        assert self._process.stderr is not None
        words = self._process.stderr.read().decode(errors="replace").strip().splitlines()
        return words[-1] if words else "it did not answer in time"


class DockerBox:
    """The guest book in Docker, as an image that is removed again."""

    runtime = "Docker"
    starts_first = False

    def __init__(self) -> None:
        self.name = f"guestbook-{os.getpid()}"
        self._image = "rote-demo/guestbook:1"
        self._book: _Guestbook | None = None
        # The Engine that the docker command talks to.
        host = os.environ.get("DOCKER_HOST", "")
        self.sensor_options: tuple[str, ...] = ("--runtime", f"docker={host}" if host else "docker")

    @staticmethod
    def answers() -> bool:
        """Whether there is a docker command and an Engine behind it."""
        if shutil.which("docker", path=SEARCH) is None:
            return False
        with contextlib.suppress(HostError):
            return bool(_run("docker", "version", "--format", "{{.Server.Version}}"))
        return False

    def start(self) -> None:
        """See ``Box``."""
        _run(
            "docker", "import", "--change", 'CMD ["/app/guestbook"]', "-", self._image, data=_root()
        )
        self._book = _Guestbook(
            [
                *("docker", "run", "--rm", "--interactive", "--network", "none"),
                *("--name", self.name, self._image),
            ]
        )
        self._book.line()

    def ask(self, entry: str) -> str:
        """See ``Box``."""
        assert self._book is not None
        self._book.say(entry)
        return self._book.line()

    def remove(self) -> None:
        """See ``Box``."""
        if self._book is not None:
            self._book.end()
            self._book = None
        for command in (("rm", "--force", self.name), ("rmi", "--force", self._image)):
            with contextlib.suppress(HostError):
                _run("docker", *command)


class RuncBox:
    """The guest book in runc, on an overlay of a busybox root: as a container engine does it.

    Args:
        folder: an empty folder of ours, on a file system that can carry an overlay.
    """

    runtime = "runc"
    starts_first = True

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.name = "guestbook"
        self._id = f"rote-demo-{os.getpid()}"
        self.cgroup = f"/{self._id}/{self.name}"
        self.sensor_options: tuple[str, ...] = (
            *("--runtime", "none", "--no-discover"),
            *("--watch", f"cgroup:{self.cgroup}"),
        )
        self._book: _Guestbook | None = None
        self._mounted = False

    def start(self) -> None:
        """See ``Box``."""
        lower, upper, work, root = (
            self._folder / name for name in ("image", "written", "work", "root")
        )
        for folder in (lower, upper, work, root):
            folder.mkdir()
        _run("tar", "--extract", "--directory", str(lower), data=_root())
        layers = f"lowerdir={lower},upperdir={upper},workdir={work}"
        _run("mount", "-t", "overlay", "rote-demo", "-o", layers, str(root))
        self._mounted = True
        (self._folder / "config.json").write_text(json.dumps(self._specification(root)))
        self._book = _Guestbook([*self._runc(), "run", "--bundle", str(self._folder), self._id])
        self._book.line()

    def ask(self, entry: str) -> str:
        """See ``Box``."""
        assert self._book is not None
        self._book.say(entry)
        return self._book.line()

    def remove(self) -> None:
        """See ``Box``."""
        if self._book is not None:
            self._book.end()
            self._book = None
            with contextlib.suppress(HostError):
                _run(*self._runc(), "delete", "--force", self._id)
            # In every hierarchy: the root itself with version 2, its folders with version 1.
            for pattern in (self._id, f"*/{self._id}"):
                for folder in Path("/sys/fs/cgroup").glob(pattern):
                    with contextlib.suppress(OSError):
                        folder.rmdir()
        if self._mounted:
            _run("umount", "--lazy", str(self._folder / "root"))
            self._mounted = False

    def _runc(self) -> list[str]:
        return ["runc", "--root", str(self._folder / "state")]

    def _specification(self, root: Path) -> dict[str, object]:
        """An OCI runtime specification with namespaces and capabilities of its own."""
        capabilities = ["CAP_CHOWN", "CAP_DAC_OVERRIDE", "CAP_FOWNER", "CAP_KILL"]
        return {
            "ociVersion": "1.0.2",
            "hostname": "guestbook",
            "root": {"path": str(root)},
            "process": {
                "terminal": False,
                "user": {"uid": 0, "gid": 0},
                "args": ["/app/guestbook"],
                "env": ["PATH=/bin"],
                "cwd": "/",
                "noNewPrivileges": True,
                "capabilities": dict.fromkeys(("bounding", "effective", "permitted"), capabilities),
            },
            "mounts": [
                {"destination": "/proc", "type": "proc", "source": "proc"},
                {
                    "destination": "/dev",
                    "type": "tmpfs",
                    "source": "tmpfs",
                    "options": ["nosuid", "mode=755", "size=64k"],
                },
            ],
            "linux": {
                "cgroupsPath": self.cgroup,
                "namespaces": [
                    {"type": kind} for kind in ("pid", "mount", "ipc", "uts", "network")
                ],
            },
        }


def _root() -> bytes:
    return root_archive(FOLDERS, FILES)


def _run(name: str, *arguments: str, data: bytes | None = None) -> str:
    path = shutil.which(name, path=SEARCH)
    if path is None:
        raise HostError(f"{name}: not installed; expected it on PATH, scripts/setup installs it")
    try:
        result = subprocess.run(
            [path, *arguments],
            input=data,
            capture_output=True,
            check=False,
            timeout=COMMAND_SECONDS,
        )
    except subprocess.TimeoutExpired as error:
        raise HostError(f"{name} {arguments[0]}: no answer within {COMMAND_SECONDS:g} s") from error
    if result.returncode != 0:
        words = result.stderr.decode(errors="replace").strip().splitlines()
        raise HostError(f"{name} {arguments[0]}: {words[-1] if words else result.returncode}")
    return result.stdout.decode(errors="replace").strip()
