"""Where containerd keeps its bundles, told by its processes."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import CliRunner

from sensor.cli.main import rote
from sensor.errors import UsageError
from sensor.images.admission import states
from sensor.images.admission.states import find_states, is_roots, parse_states

Process = Callable[..., None]


@pytest.fixture(autouse=True)
def _owner(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever runs the tests counts as root."""
    monkeypatch.setattr(states, "_OWNERS", frozenset({0, os.geteuid()}))


@pytest.fixture
def proc(tmp_path: Path) -> Path:
    """A /proc without processes."""
    (tmp_path / "proc" / "self" / "ns").mkdir(parents=True)
    (tmp_path / "proc" / "self" / "ns" / "mnt").touch()
    return tmp_path / "proc"


@pytest.fixture
def process(proc: Path, tmp_path: Path) -> Process:
    """Adds a process."""

    def add(pid: int, *arguments: str, comm: str = "containerd", namespace: str = "") -> None:
        folder = proc / str(pid)
        (folder / "ns").mkdir(parents=True)
        (folder / "comm").write_text(comm + "\n")
        (folder / "cmdline").write_text("".join(f"{word}\0" for word in arguments))
        (folder / "cwd").symlink_to(tmp_path)
        if namespace:
            (folder / "ns" / "mnt").touch()
        else:
            (folder / "ns" / "mnt").hardlink_to(proc / "self" / "ns" / "mnt")

    return add


def test_by_argument_and_by_configuration(proc: Path, process: Process, tmp_path: Path) -> None:
    """Both spellings, also relative; each directory once."""
    for name in ("one", "two", "three"):
        (tmp_path / name).mkdir(mode=0o711)
    (tmp_path / "containerd.toml").write_text(f'version = 2\nstate = "{tmp_path}/three"\n')
    process(1, "containerd", "--state", f"{tmp_path}/one")
    process(2, "containerd", f"--state={tmp_path}/two", "--log-level", "error")
    process(3, "containerd", "--config", f"{tmp_path}/containerd.toml")
    process(4, "containerd", "-c", "containerd.toml", "-a", "x")
    expected = [tmp_path / "one", tmp_path / "three", tmp_path / "two"]
    assert find_states(proc) == expected


def test_what_does_not_count(proc: Path, process: Process, tmp_path: Path) -> None:
    """Another program, another mount namespace, a directory that others may change, none."""
    for name, mode in (("other", 0o711), ("inside", 0o711), ("open", 0o777)):
        (tmp_path / name).mkdir()
        (tmp_path / name).chmod(mode)
    process(1, "x", "--state", f"{tmp_path}/other", comm="containerd-shim")
    process(2, "containerd", "--state", f"{tmp_path}/inside", namespace="other")
    process(3, "containerd", "--state", f"{tmp_path}/open")
    process(4, "containerd", "--state", f"{tmp_path}/missing")
    assert find_states(proc) == []


def test_what_the_option_says(tmp_path: Path) -> None:
    """auto, off, or a directory of root's."""
    assert parse_states("auto") is None
    assert parse_states("off") == ()
    assert parse_states("/run/not-there-yet") == (Path("/run/not-there-yet").resolve(),)
    with pytest.raises(UsageError, match="expected auto, off, or the state directory"):
        parse_states("containerd")
    tmp_path.chmod(0o777)
    with pytest.raises(UsageError, match="only root can change"):
        parse_states(str(tmp_path))


def test_all_the_way_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Who may rename a directory above may put another one there."""
    inner = tmp_path / "a" / "b"
    inner.mkdir(parents=True)
    assert is_roots(inner)
    (tmp_path / "a").chmod(0o777)
    assert not is_roots(inner)
    (tmp_path / "a").chmod(0o1777)  # as /tmp
    assert is_roots(inner)
    monkeypatch.setattr(states, "_OWNERS", frozenset({4_000_000}))
    assert not is_roots(inner)
    assert not is_roots(tmp_path / "missing")


def test_the_option_of_run_is_checked_before_anything_starts(tmp_path: Path) -> None:
    """One line, exit 2."""
    result = CliRunner().invoke(
        rote, ["--state-dir", str(tmp_path), "run", "--gate-fanotify", "containerd"]
    )
    assert isinstance(result.exception, UsageError)
    assert "expected auto, off, or the state directory" in str(result.exception)
