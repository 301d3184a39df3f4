"""`rote stop`: a daemon that has ended, and one that has not."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

from sensor.cli import stop as module
from sensor.cli.main import Context
from sensor.cli.stop import stop
from sensor.errors import StateError


class _Client:
    def __init__(self, pid: int) -> None:
        self.pid = pid

    def ask(self, verb: str) -> int:
        assert verb == "stop"
        return self.pid


class _Context(Context):
    def __init__(self, pid: int) -> None:
        super().__init__(Path(), Path(), debug=False)
        self._pid = pid

    @property
    def client(self) -> _Client:  # type: ignore[override]
        return _Client(self._pid)


def test_a_daemon_that_nobody_has_waited_for_has_ended() -> None:
    """Its parent may not look for it; the process table still has it."""
    daemon = subprocess.Popen([sys.executable, "-c", "pass"])
    os.waitid(os.P_PID, daemon.pid, os.WEXITED | os.WNOWAIT)
    result = CliRunner().invoke(stop, obj=_Context(daemon.pid))
    assert result.exit_code == 0, result.output
    assert "has ended" in result.output
    daemon.wait()


def test_a_daemon_that_does_not_end_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    """It says which and how long it waited."""
    monkeypatch.setattr(module, "_SECONDS", 0.2)
    result = CliRunner().invoke(stop, obj=_Context(os.getpid()))
    assert isinstance(result.exception, StateError)
    assert str(os.getpid()) in str(result.exception)
