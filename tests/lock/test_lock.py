"""`rote run --lock`: what root can do to the daemon and its pins without `rote`."""

from __future__ import annotations

import ctypes
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from sensor.kernel import bpf

_START_SECONDS = 800.0
_BPF_DIR = Path("/sys/fs/bpf/rote-lock")
_PTRACE_ATTACH, _PTRACE_DETACH = 16, 17
_PIDFD_GETFD = 438


@dataclass
class Locked:
    """A locked daemon, started as a person starts it."""

    place: Path
    script: str
    daemon: subprocess.Popen[bytes]

    def rote(self, *args: str) -> subprocess.CompletedProcess[str]:
        """A command of `rote`."""
        return subprocess.run(
            [self.script, *_directories(self.place), *args],
            capture_output=True,
            text=True,
            timeout=300,
            check=False,
        )

    def start(self) -> None:
        """Start the daemon (again); returns when it answers."""
        with (self.place / "log").open("ab") as log:
            self.daemon = subprocess.Popen(
                [
                    self.script, *_directories(self.place), "run", "--lock", "--runtime", "none",
                    "--no-discover", "--ring-size", "1M", "--quiet", "--bpf-dir", str(_BPF_DIR),
                ],
                stdout=log,
                stderr=log,
            )  # fmt: skip
        deadline = time.monotonic() + _START_SECONDS
        while self.rote("status").returncode:
            assert self.daemon.poll() is None, (self.place / "log").read_text()
            assert time.monotonic() < deadline
            time.sleep(0.5)


def _directories(place: Path) -> tuple[str, ...]:
    return ("--run-dir", str(place / "run"), "--state-dir", str(place / "state"))


@pytest.fixture(scope="module")
def locked(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Locked]:
    """A locked daemon; at the end `rote` takes everything away."""
    script = shutil.which("rote")
    assert script, "the `rote` script is not installed"
    found = Locked(tmp_path_factory.mktemp("lock"), script, None)  # type: ignore[arg-type]
    found.start()
    yield found
    stopped = found.rote("stop")
    assert stopped.returncode == 0, stopped.stderr
    found.daemon.wait(60)
    unloaded = found.rote("unload", "--bpf-dir", str(_BPF_DIR))
    assert unloaded.returncode == 0, unloaded.stderr
    assert not _BPF_DIR.exists()


def _pins() -> Path:
    (pins,) = _BPF_DIR.iterdir()
    return pins


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGSTOP])
def test_signals_are_refused(locked: Locked, number: int) -> None:
    """Root cannot end or stop the daemon."""
    with pytest.raises(PermissionError):
        os.kill(locked.daemon.pid, number)
    pidfd = os.pidfd_open(locked.daemon.pid)
    with pytest.raises(PermissionError):
        signal.pidfd_send_signal(pidfd, number)
    os.close(pidfd)
    os.kill(locked.daemon.pid, 0)  # asking is allowed


def test_tracing_is_refused(locked: Locked) -> None:
    """Nor trace it, nor write its memory, nor take its descriptors."""
    libc = ctypes.CDLL(None, use_errno=True)
    assert libc.ptrace(_PTRACE_ATTACH, locked.daemon.pid, 0, 0) == -1
    assert ctypes.get_errno() == 1
    with pytest.raises(PermissionError):
        os.open(f"/proc/{locked.daemon.pid}/mem", os.O_RDWR)
    pidfd = os.pidfd_open(locked.daemon.pid)
    assert libc.syscall(_PIDFD_GETFD, pidfd, 3, 0) == -1
    assert ctypes.get_errno() == 1
    os.close(pidfd)


@pytest.mark.usefixtures("locked")
def test_unpinning_is_refused() -> None:
    """Pins stay, and stay where they are."""
    pins = _pins()
    link = next((pins / "links").iterdir())
    with pytest.raises(PermissionError):
        link.unlink()
    with pytest.raises(PermissionError):
        link.rename(pins / "gone")
    with pytest.raises(PermissionError):
        _BPF_DIR.rename(_BPF_DIR.with_name("gone"))
    for command in (
        ("umount", "/sys/fs/bpf"), ("umount", "-l", "/sys/fs/bpf"),
        ("mount", "-t", "tmpfs", "none", str(_BPF_DIR)),
    ):  # fmt: skip
        assert subprocess.run(command, check=False, capture_output=True).returncode
    assert link.exists()


@pytest.mark.usefixtures("locked")
def test_bpf_on_its_objects_is_refused() -> None:
    """Neither by name nor by number; others' objects stay free."""
    maps = _pins() / "maps"
    with pytest.raises(PermissionError):
        bpf.get(maps / "containers")
    shown = subprocess.run(
        ["bpftool", "map", "show", "pinned", str(maps / "settings")],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert "not permitted" in (shown.stderr + shown.stdout)
    other = Path("/sys/fs/bpf/other-map")
    subprocess.run(
        ["bpftool", "map", "create", other, "type", "array", "key", "4", "value", "4",
         "entries", "1", "name", "other"],
        check=True,
    )  # fmt: skip
    os.close(bpf.get(other))
    other.unlink()


def test_rote_itself_is_let_through(locked: Locked) -> None:
    """Its status answers, and the daemon is the one that started."""
    assert f"pid {locked.daemon.pid}" in locked.rote("status").stdout


@pytest.mark.parametrize(
    "command",
    [
        [sys.executable, "-m", "sensor"],
        ["sh", "-c", 'exec -a rote "$@"', "sh", sys.executable, "-m", "sensor"],
    ],
)
def test_what_is_only_called_rote_is_not(locked: Locked, command: list[str]) -> None:
    """The same code started another way is refused."""
    result = subprocess.run(
        [*command, *_directories(locked.place), "unload", "--force", "--bpf-dir", str(_BPF_DIR)],
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    assert result.returncode != 0
    assert any((_pins() / "links").iterdir())


def test_an_exec_that_failed_makes_no_keeper(locked: Locked) -> None:
    """The script is begun with more arguments than fit, then another program is executed."""
    code = (
        "import os, sys\n"
        "try:\n"
        "    os.execv(sys.argv[1], ['x' * 131000] * 17)\n"
        "except OSError:\n"
        "    pass\n"
        "try:\n"
        "    os.execv('/bin/sh', ['sh', '-c', 'kill -9 ' + sys.argv[2]])\n"
        "except OSError:\n"
        "    pass\n"
    )
    subprocess.run(
        [sys.executable, "-c", code, locked.script, str(locked.daemon.pid)],
        check=False,
        timeout=120,
        capture_output=True,
    )
    assert locked.daemon.poll() is None


def test_stopped_and_started_again_it_is_taken_over(locked: Locked) -> None:
    """`rote stop` is the way to end it; the lock holds meanwhile; a new `rote` takes it over."""
    assert locked.rote("stop").returncode == 0
    locked.daemon.wait(60)
    link = next((_pins() / "links").iterdir())
    with pytest.raises(PermissionError):
        link.unlink()
    locked.start()
    with pytest.raises(PermissionError):
        os.kill(locked.daemon.pid, signal.SIGKILL)
    assert "taken over" in locked.rote("status").stdout
