"""The docker command, typed and with time limits: all that the tests do with containers."""

from __future__ import annotations

import contextlib
import json
import subprocess
import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from tests.docker.engine import program
from tests.waiting import wait_for


class DockerError(AssertionError):
    """A docker command failed; holds the command and what it said."""


@dataclass(frozen=True, slots=True)
class Running:
    """A container that a test started."""

    docker: Docker
    id: str
    name: str

    def exec(self, *command: str, timeout: float = 60, check: bool = True) -> str:
        """Run a command in it, as a person does with ``docker exec``; its output."""
        return self.docker("exec", self.id, *command, timeout=timeout, check=check)

    def try_exec(self, *command: str, timeout: float = 60) -> subprocess.CompletedProcess[str]:
        """Run a command in it; also when it fails."""
        return self.docker.complete("exec", self.id, *command, timeout=timeout)

    def logs(self) -> str:
        """Both streams so far."""
        result = self.docker.complete("logs", self.id)
        return result.stdout + result.stderr

    def inspect(self) -> dict[str, Any]:
        """What the Engine knows of it."""
        inspected: dict[str, Any] = json.loads(self.docker("inspect", self.id))[0]
        return inspected

    @property
    def pid(self) -> int:
        """Of its first process, as the host counts; 0 when it does not run."""
        return int(self.inspect()["State"]["Pid"])

    def wait_until(self, ready: Callable[[], object], *, seconds: float, what: str) -> None:
        """Wait until ``ready``; show the container's log when that does not come true."""
        try:
            wait_for(ready, seconds=seconds, what=what, step=0.2)
        except TimeoutError as error:
            raise DockerError(f"{error}\nlog of {self.name}:\n{self.logs()[-4000:]}") from error

    def copy_out(self, path: str) -> bytes:
        """A file or directory of it, running or not, as a tar archive; empty when there is none."""
        result = subprocess.run(
            [*self.docker.command, "cp", f"{self.id}:{path}", "-"],
            capture_output=True,
            timeout=60,
            check=False,
        )
        return result.stdout if result.returncode == 0 else b""

    def stop(self, *, seconds: int = 10) -> None:
        """Stop it in good order."""
        self.docker("stop", "--time", str(seconds), self.id, timeout=seconds + 60)

    def remove(self) -> None:
        """Take it away, running or not."""
        with contextlib.suppress(DockerError):
            self.docker("rm", "--force", "--volumes", self.id, timeout=90)


class Docker:
    """``docker`` against one Engine. Containers that it started are removed by ``clean``."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.command = (program("docker"), "--host", url)
        self._started: list[Running] = []

    def complete(
        self, *arguments: str, timeout: float = 60, stdin: bytes | None = None
    ) -> subprocess.CompletedProcess[str]:
        """Run a docker command; also when it fails."""
        result = subprocess.run(
            [*self.command, *arguments],
            input=stdin,
            capture_output=True,
            timeout=timeout,
            check=False,
        )
        return subprocess.CompletedProcess(
            result.args,
            result.returncode,
            result.stdout.decode(errors="replace"),
            result.stderr.decode(errors="replace"),
        )

    def __call__(
        self, *arguments: str, timeout: float = 60, check: bool = True, stdin: bytes | None = None
    ) -> str:
        """Run a docker command; its output, stripped.

        Raises:
            DockerError: it failed and ``check`` is set.
        """
        result = self.complete(*arguments, timeout=timeout, stdin=stdin)
        if check and result.returncode != 0:
            raise DockerError(
                f"docker {' '.join(arguments)}: exit {result.returncode}: "
                f"{result.stderr.strip() or result.stdout.strip()}"
            )
        return result.stdout.strip()

    def run(
        self, image: str, *command: str, options: Sequence[str] = (), name: str = ""
    ) -> Running:
        """Start a container in the background; removed at the end of the test."""
        name = name or f"rote-test-{uuid.uuid4().hex[:8]}"
        container = self("run", "--detach", "--name", name, *options, image, *command, timeout=120)
        running = Running(self, container, name)
        self._started.append(running)
        return running

    def has_image(self, reference: str) -> bool:
        """Whether the Engine has this image."""
        return self.complete("image", "inspect", reference).returncode == 0

    def clean(self) -> None:
        """Remove every container that was started here."""
        while self._started:
            self._started.pop().remove()
