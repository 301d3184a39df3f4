"""A private daemon of Rote for one test: its own state, socket and pins, unloaded at the end."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

from tests.waiting import wait_for

START_SECONDS = 90.0
STOP_SECONDS = 30.0
COMMAND_SECONDS = 60.0
Answer = TypeVar("Answer")


class RoteError(AssertionError):
    """A command of rote failed; holds the command and what it said."""


class Rote:
    """``rote`` with directories of its own.

    Args:
        name: tells several apart.
        options: for ``rote run``; of the runtimes only those that are named here are asked.
    """

    def __init__(self, name: str, options: Sequence[str]) -> None:
        self.home = Path(tempfile.mkdtemp(prefix=f"rote-{name}-"))
        self.state = self.home / "state"
        self.run_dir = self.home / "run"
        self.pins = Path(f"/sys/fs/bpf/rote-test-{os.getpid()}-{name}")
        self.log = self.home / "daemon.log"
        self.options = tuple(options)
        self.process: subprocess.Popen[bytes] | None = None

    def start(self, *options: str) -> None:
        """Start the daemon and wait until it answers; more options for this time only.

        Raises:
            RoteError: it ended or did not answer; quotes its log.
        """
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                [*self._daemon(), "--bpf-dir", str(self.pins), *self.options, *options],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        process = self.process

        def answers() -> bool:
            if process.poll() is not None:
                raise RoteError(f"rote run ended with {process.returncode}:\n{self.log_text()}")
            return self.complete("status", "--output", "json").returncode == 0

        try:
            wait_for(answers, seconds=START_SECONDS, what="rote run to answer", step=0.2)
        except TimeoutError as error:
            raise RoteError(f"{error}\n{self.log_text()}") from error

    def stop(self, *, number: int = signal.SIGTERM) -> int:
        """End the daemon with a signal; its exit code. What it pinned stays."""
        assert self.process is not None
        self.process.send_signal(number)
        code = self.process.wait(STOP_SECONDS)
        self.process = None
        return code

    def remove(self) -> None:
        """End the daemon, take everything out of the kernel, forget the state."""
        try:
            if self.process is not None and self.process.poll() is None:
                self.stop()
        finally:
            if self.pins.exists():
                self("unload", "--bpf-dir", str(self.pins), "--force")
            shutil.rmtree(self.home, ignore_errors=True)

    def complete(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Run a command of rote; also when it fails."""
        return subprocess.run(
            [*self._rote(), *arguments],
            capture_output=True,
            text=True,
            timeout=COMMAND_SECONDS,
            check=False,
        )

    def spawn(self, *arguments: str) -> subprocess.Popen[bytes]:
        """Start a command of rote without waiting for its end; whoever does so ends it."""
        return subprocess.Popen(
            [*self._rote(), *arguments],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )

    def __call__(self, *arguments: str) -> str:
        """Run a command of rote; its output.

        Raises:
            RoteError: it failed.
        """
        result = self.complete(*arguments)
        if result.returncode != 0:
            raise RoteError(
                f"rote {' '.join(arguments)}: exit {result.returncode}: {result.stderr.strip()}"
            )
        return result.stdout

    def json(self, *arguments: str) -> Any:
        """Run a listing with ``--output json``; what it lists."""
        return json.loads(self(*arguments, "--output", "json"))

    def status(self) -> dict[str, Any]:
        """``rote status``."""
        status: dict[str, Any] = self.json("status")
        return status

    def containers(self) -> list[dict[str, Any]]:
        """``rote containers``."""
        containers: list[dict[str, Any]] = self.json("containers")
        return containers

    def models(self) -> list[dict[str, Any]]:
        """``rote models list``."""
        models: list[dict[str, Any]] = self.json("models", "list")
        return models

    def audits(self, *filters: str) -> list[dict[str, Any]]:
        """``rote audits list``, all that fit."""
        audits: list[dict[str, Any]] = self.json("audits", "list", "--limit", "0", *filters)
        return audits

    def wait_for(self, question: Callable[[], Answer], *, seconds: float, what: str) -> Answer:
        """Wait until the answer is true; show the daemon's log when that does not come.

        Raises:
            RoteError: it stayed false.
        """
        try:
            return wait_for(question, seconds=seconds, what=what, step=0.2)
        except TimeoutError as error:
            raise RoteError(f"{error}\n{self.log_text()[-4000:]}") from error

    def watches(self, container_id: str) -> bool:
        """Whether this container is under watch, with its identity."""
        return any(row["id"] == container_id for row in self.containers())

    def log_text(self) -> str:
        """What the daemon said so far."""
        return self.log.read_text(errors="replace")

    def _daemon(self) -> list[str]:
        return [*self._rote(), "run"]

    def _rote(self) -> list[str]:
        return [
            *(sys.executable, "-m", "sensor"),
            *("--state-dir", str(self.state), "--run-dir", str(self.run_dir)),
        ]
