"""What a person writes into flags."""

from __future__ import annotations

from pathlib import Path

import pytest
from click.testing import CliRunner

from sensor.cli.main import rote
from sensor.config import Settings, parse_duration, parse_size, parse_watch
from sensor.daemon import learning_settings
from sensor.errors import UsageError


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("0", 0.0),
        ("90s", 90.0),
        ("15m", 900.0),
        ("1h30m", 5400.0),
        ("24h", 86400.0),
        ("7d", 604800.0),
        ("2w", 1209600.0),
        ("250ms", 0.25),
        ("1.5h", 5400.0),
        (" 1H ", 3600.0),
    ],
)
def test_durations(text: str, seconds: float) -> None:
    """Number and unit, as often as one likes."""
    assert parse_duration(text) == seconds


@pytest.mark.parametrize("text", ["", " ", "1", "h", "-1h", "1h 30m x", "1y", "1h30", "∞", "nan"])
def test_durations_that_are_none(text: str) -> None:
    """The message repeats what was given and shows what is accepted."""
    with pytest.raises(UsageError, match="expected for example 90s, 15m, 1h30m") as caught:
        parse_duration(text)
    assert repr(text) in str(caught.value)


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("8M", 8 << 20),
        ("512K", 512 << 10),
        ("1g", 1 << 30),
        ("1048576", 1 << 20),
        ("1MiB", 1 << 20),
    ],
)
def test_sizes(text: str, size: int) -> None:
    """Powers of 1024, with or without the B."""
    assert parse_size(text) == size


@pytest.mark.parametrize("text", ["", "M", "8 M", "-8M", "8.5M", "8T", "0x10"])
def test_sizes_that_are_none(text: str) -> None:
    """The message repeats what was given and shows what is accepted."""
    with pytest.raises(UsageError, match="expected for example 512K, 8M, 1G") as caught:
        parse_size(text)
    assert repr(text) in str(caught.value)


@pytest.mark.parametrize("size", [0, 1, 3 << 20, (8 << 20) + 1, 32 << 10, 2 << 30, -(8 << 20)])
def test_the_ring_is_a_power_of_two(size: int) -> None:
    """The kernel takes nothing else."""
    with pytest.raises(UsageError, match="power of two from 64K to 1G"):
        Settings(ring_size=size)


def test_choices_are_checked() -> None:
    """A word that is no choice is refused with the choices."""
    with pytest.raises(UsageError, match="auto, lsm, fmod-ret, tracepoint"):
        Settings(attach="kprobe")
    with pytest.raises(UsageError, match="auto, always, never"):
        Settings(write_probe="sometimes")


def test_defaults_and_paths() -> None:
    """As design.md has them."""
    settings = Settings(state_dir=Path("/s"), run_dir=Path("/r"))
    assert (settings.learn_min_seconds, settings.learn_max_seconds) == (600.0, 86400.0)
    assert settings.audit_window_seconds == 60.0
    assert settings.socket == Path("/r/control.sock")
    assert (settings.models_db, settings.audits_db) == (Path("/s/models.db"), Path("/s/audits.db"))
    assert Settings().bpf_dir == Path("/sys/fs/bpf/rote")


@pytest.mark.parametrize(
    ("text", "path"),
    [
        ("cgroup:/system.slice/x.service", "/system.slice/x.service"),
        ("cgroup:x/", "/x"),
    ],
)
def test_watches(text: str, path: str) -> None:
    """The path as /proc/PID/cgroup writes it."""
    assert parse_watch(text) == path


@pytest.mark.parametrize("text", ["", "cgroup", "cgroup:", "cgroup:/", "unit:x", "/x"])
def test_watches_that_are_none(text: str) -> None:
    """The message shows how it is written."""
    with pytest.raises(UsageError, match="expected cgroup:PATH"):
        parse_watch(text)


@pytest.mark.parametrize(
    ("arguments", "learn", "dry_run"),
    [
        ([], (600, 86400), (3600, 259200)),
        (["--learn", "1h", "--dry-run", "24h"], (3600, 3600), (86400, 86400)),
        (["--learn-max", "5m"], (300, 300), (3600, 259200)),
        (["--learn-min", "48h", "--dry-run-min", "2h"], (172800, 172800), (7200, 259200)),
        (["--learn-min", "1m", "--learn-max", "2m"], (60, 120), (3600, 259200)),
    ],
)
def test_times_of_learning_on_the_command_line(
    monkeypatch: pytest.MonkeyPatch,
    arguments: list[str],
    learn: tuple[float, float],
    dry_run: tuple[float, float],
) -> None:
    """One time is both limits; one limit moves the default of the other where it must."""
    given: list[Settings] = []
    monkeypatch.setattr("sensor.daemon.serve", given.append)
    result = CliRunner().invoke(rote, ["run", *arguments])
    assert result.exit_code == 0, result.output
    (settings,) = given
    assert (settings.learn_min_seconds, settings.learn_max_seconds) == learn
    assert (settings.dry_run_min_seconds, settings.dry_run_max_seconds) == dry_run
    kept = learning_settings(settings)
    assert kept.learns_by_time == (learn[0] == learn[1])
    assert (kept.learn_seconds, kept.dry_run_seconds) == (learn[1], dry_run[1])


def test_times_that_contradict_one_another_are_refused() -> None:
    """By the line that names both."""
    result = CliRunner().invoke(rote, ["run", "--learn", "1h", "--learn-max", "2h"])
    assert "--learn sets both limits; expected it alone" in str(result.exception)
    result = CliRunner().invoke(rote, ["run", "--dry-run-min", "2h", "--dry-run-max", "1h"])
    assert "expected no more than dry-run-max, 3600 s" in str(result.exception)
    with pytest.raises(UsageError, match="expected more than 0"):
        Settings(max_false_alarms_per_day=0)
