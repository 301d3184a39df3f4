"""The daemon's end of the fanotify gate, without a kernel."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

import pytest

from sensor.config import Settings
from sensor.errors import UsageError
from sensor.images.admission import fanotify
from sensor.images.admission.bundle import RuntimeHook
from sensor.images.admission.fanotify import FanotifyGate
from sensor.images.admission.fanotify_hook import make_hook
from sensor.images.admission.start import Failure
from tests.waiting import until

HOOK = RuntimeHook("/usr/lib/rote/gate")


def test_the_settings_decide_whether_there_is_one(tmp_path: Path) -> None:
    """Off, a directory, or one that is none."""
    assert FanotifyGate.of(Settings(), HOOK) is None
    gate = FanotifyGate.of(Settings(gate_fanotify=str(tmp_path / "not-yet")), HOOK)
    assert gate is not None
    assert gate.status()["directories"] == [str(tmp_path / "not-yet")]
    with pytest.raises(UsageError):
        FanotifyGate.of(Settings(gate_fanotify="here"), HOOK)


@pytest.mark.parametrize(
    ("failure", "outlives"), [(None, False), (Failure(), False), (Failure(allow=False), True)]
)
def test_it_outlives_the_daemon_to_fail_closed(failure: Failure | None, outlives: bool) -> None:
    """Without a daemon the hook refuses; with neither nothing does."""
    gate = FanotifyGate.of(Settings(gate_fanotify="auto"), HOOK, failure=failure)
    assert gate is not None
    assert gate._orders()["failure"]["outlive"] is outlives


async def test_a_worker_that_fails_is_tried_again_and_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """With growing pauses; one line in the log as long as it is the same problem."""
    monkeypatch.setattr(fanotify, "_PAUSE_FIRST", 0.01)
    program = tmp_path / "worker"
    program.write_text("#!/bin/sh\nexit 3\n")
    program.chmod(0o755)
    with monkeypatch.context() as patched:
        patched.setattr(sys, "executable", str(program))
        gate = FanotifyGate(tmp_path, (tmp_path,), HOOK)
        await gate.start()
        await until(lambda: gate.status()["restarts"] >= 3)
    status = gate.status()
    assert (status["state"], status["worker"]) == ("off", 0)
    await gate.close()
    lines = [record for record in caplog.records if "fanotify gate" in record.message]
    assert len(lines) == 1
    assert "the worker ended with 3" in lines[0].message


async def test_a_worker_that_says_what_is_wrong(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its own words are shown, not its exit code."""
    program = tmp_path / "worker"
    program.write_text('#!/bin/sh\nread orders\necho \'{"error": "no permission events"}\'\nexit 1')
    program.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(program))
    gate = FanotifyGate(tmp_path, (tmp_path,), HOOK)
    await gate.start()
    await until(lambda: gate.status()["problem"] == "no permission events")
    assert not await gate.ready(0.05)
    await gate.close()


async def test_the_hook_is_made_once(tmp_path: Path) -> None:
    """And again for another run directory: it stands in the program's settings."""
    settings = Settings(state_dir=tmp_path / "state", run_dir=tmp_path / "run")
    hook = await make_hook(settings)
    assert hook is not None
    program = Path(hook.path)
    assert program.is_relative_to(tmp_path / "state")
    assert hook.arguments == ("--gate=fanotify",)
    made = _inode(program)
    assert await make_hook(settings) == hook
    assert _inode(program) == made
    await make_hook(replace(settings, run_dir=tmp_path / "other"))
    assert f"run_dir={tmp_path / 'other'}" in (program.parent / "gate.conf").read_text()


async def test_no_hook_where_none_can_be_made(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """It is said what that means."""
    (tmp_path / "gate-fanotify").write_text("no directory")
    assert await make_hook(Settings(state_dir=tmp_path, run_dir=tmp_path)) is None
    assert "operation not permitted" in caplog.text


def _inode(path: Path) -> int:
    return path.stat().st_ino
