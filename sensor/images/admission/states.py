"""Where the containerd's of this host keep their bundles.

Found from the processes that run, Docker's own containerd included: their arguments, else their
configuration file, say which directory it is.
"""

from __future__ import annotations

import os
import stat
import tomllib
from collections.abc import Iterator, Sequence
from pathlib import Path

from sensor.errors import UsageError

DEFAULT_STATE = Path("/run/containerd")
_DEFAULT_CONFIG = "/etc/containerd/config.toml"
_OWNERS = frozenset({0})
_CONFIG_MAX = 1 << 20  # bytes
_CONFIG_FLAGS, _STATE_FLAGS = ("--config", "-config", "-c"), ("--state", "-state")


def find_states(proc: Path = Path("/proc")) -> list[Path]:
    """The state directories of all containerd's of this mount namespace that root runs.

    One in another mount namespace (in a container, as with kind; of a snap) does not count: the
    hook's path means something else to it.
    """
    found = {state.resolve() for state in _states(proc) if is_roots(state) and state.is_dir()}
    return sorted(found)


def parse_states(text: str) -> tuple[Path, ...] | None:
    """What `--gate-fanotify` says: None for `auto`, nothing for `off`, else one directory.

    Raises:
        UsageError: it is no absolute path, or others than root may write to it.
    """
    if text == "auto":
        return None
    if text == "off":
        return ()
    path = Path(text)
    if not path.is_absolute():
        raise UsageError(
            f"gate-fanotify {text!r}: expected auto, off, or the state directory of containerd, "
            f"for example {DEFAULT_STATE}"
        )
    if path.exists() and not is_roots(path):
        raise UsageError(
            f"gate-fanotify {text!r}: expected a directory that only root can change, all the way"
        )
    return (path.resolve(),)


def is_roots(path: Path) -> bool:
    """Whether only root can change what a path leads to."""
    try:
        resolved = path.resolve(strict=True)
        for place in (resolved, *resolved.parents):
            found = place.stat()
            shared = stat.S_IWGRP | stat.S_IWOTH
            if found.st_uid not in _OWNERS or (
                found.st_mode & shared and not found.st_mode & stat.S_ISVTX
            ):
                return False
    except OSError:
        return False
    return True


def _states(proc: Path) -> Iterator[Path]:
    try:
        own = (proc / "self" / "ns" / "mnt").stat().st_ino
    except OSError:
        return
    for process in proc.iterdir():
        if not process.name.isdecimal():
            continue
        try:
            if (process / "comm").read_text().strip() != "containerd":
                continue
            if (
                process.stat().st_uid not in _OWNERS
                or (process / "ns" / "mnt").stat().st_ino != own
            ):
                continue
            arguments = os.fsdecode((process / "cmdline").read_bytes()).split("\0")
            directory = (process / "cwd").readlink()
        except OSError:
            continue  # it ended
        yield directory / _state(arguments, directory)


def _state(arguments: Sequence[str], directory: Path) -> Path:
    given = _option(arguments, _STATE_FLAGS)
    if given is not None:
        return Path(given)
    config = directory / (_option(arguments, _CONFIG_FLAGS) or _DEFAULT_CONFIG)
    try:
        if config.stat().st_size > _CONFIG_MAX:
            return DEFAULT_STATE
        state = tomllib.loads(config.read_text(encoding="utf-8")).get("state")
    except (OSError, ValueError):
        return DEFAULT_STATE  # as containerd does without one
    return Path(state) if isinstance(state, str) and state else DEFAULT_STATE


def _option(arguments: Sequence[str], names: Sequence[str]) -> str | None:
    for at, argument in enumerate(arguments):
        name, equals, value = argument.partition("=")
        if name in names:
            if equals:
                return value
            if at + 1 < len(arguments):
                return arguments[at + 1]
    return None
