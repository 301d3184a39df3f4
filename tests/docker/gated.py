"""A Docker Engine of a test's own, whose starts are held by the gate."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from tests.docker.client import Docker
from tests.docker.engine import PrivateEngine
from tests.waiting import wait_for


class GatedEngine:
    """The engine, its configuration file, and the commands of rote for it."""

    def __init__(self, tag: str = "gate") -> None:
        self.engine = PrivateEngine(tag)
        self.home = self.engine.home
        self.config = self.home / "daemon.json"
        self.state = self.home / "rote-state"
        self.run_dir = self.home / "rote-run"

    @property
    def directory(self) -> Path:
        """Of the gate's programs."""
        return self.state / "gate"

    def start(self, config: str = "{}\n") -> Docker:
        """Start it; the client."""
        self.engine.start()
        self.config.write_text(config)
        return Docker(self.engine.url)

    def rote(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """A command of rote with this engine's directories."""
        return subprocess.run(
            [
                *(sys.executable, "-m", "sensor"),
                *("--state-dir", str(self.state), "--run-dir", str(self.run_dir)),
                *arguments,
            ],
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )

    def gate(self, verb: str, *arguments: str) -> subprocess.CompletedProcess[str]:
        """`rote gate VERB` for this engine."""
        return self.rote(
            "gate",
            verb,
            *("--docker-config", str(self.config)),
            *("--docker-socket", str(self.home / "docker.sock")),
            *("--docker-pidfile", str(self.home / "docker.pid")),
            *arguments,
        )

    def gate_done(self, verb: str, *arguments: str) -> str:
        """`rote gate VERB`, which must do it; what it said."""
        done = self.gate(verb, *arguments)
        assert done.returncode == 0, done.stderr
        return done.stdout

    def stop(self) -> None:
        """End it and remove everything."""
        self.engine.stop()


class Keeper:
    """``tests.docker.gatekeeper`` in a process."""

    def __init__(self, gated: GatedEngine, word: str = "allow", seconds: float = 10.0) -> None:
        self._gated = gated
        gated.run_dir.mkdir(mode=0o700, exist_ok=True)
        with tempfile.TemporaryFile() as log:
            self.process = subprocess.Popen(
                [
                    *(sys.executable, "-m", "tests.docker.gatekeeper"),
                    *(str(gated.run_dir), gated.engine.url, word, str(seconds)),
                ],
                stdout=subprocess.PIPE,
                stderr=log,
            )
            assert self.process.stdout is not None
            line = self.process.stdout.readline()
            log.seek(0)
            assert line == b"ready\n", log.read().decode()

    def start_of(self, name: str) -> dict[str, Any]:
        """What the judge knew of a start; waits until it was asked."""
        path = self._gated.run_dir / f"start-{name}.json"
        wait_for(path.exists, seconds=20, what=f"the judge to be asked about {name}", step=0.02)
        found: dict[str, Any] = json.loads(path.read_text())
        return found

    def signal(self, number: int) -> None:
        """Kill or stop it."""
        os.kill(self.process.pid, number)
        if number == signal.SIGKILL:
            self.process.wait(10)

    def let_go(self) -> None:
        """What is held goes on."""
        (self._gated.run_dir / "go").touch()

    def end(self) -> None:
        """End it, whatever state it is in."""
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait(10)
        assert self.process.stdout is not None
        self.process.stdout.close()
        (self._gated.run_dir / "go").unlink(missing_ok=True)
        for note in self._gated.run_dir.glob("start-*.json"):
            Path(note).unlink()
