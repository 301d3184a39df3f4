"""Mounts as a process has them, and the directories that an overlay is made of.

Source: proc_pid_mountinfo(5), Documentation/filesystems/overlayfs.rst.
"""

from __future__ import annotations

import re
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

_OCTAL = re.compile(r"\\([0-7]{3})")
_COLON = re.compile(r"(?<!\\):")
_SEPARATOR = re.compile(r"(?<!\\),")


@dataclass(frozen=True, slots=True)
class MountEntry:
    """One line of mountinfo."""

    id: int
    parent: int
    device: str  # "0:52"
    root: str  # what of the file system is mounted
    target: str
    options: tuple[str, ...]
    kind: str
    source: str
    super_options: tuple[str, ...] = field(default=())

    def as_json(self) -> dict[str, Any]:
        """As plain values."""
        return asdict(self)

    def option(self, name: str) -> str:
        """The value of ``name=value`` among the file system's own options, or ""."""
        for option in self.super_options:
            key, _, value = option.partition("=")
            if key == name:
                return value
        return ""

    @property
    def writable(self) -> bool:
        """Whether neither the mount nor the file system is read-only."""
        return "rw" in self.options and "rw" in self.super_options


def read_mounts(process: Path) -> list[MountEntry]:
    """The mounts below a process's root, in their order.

    Raises:
        OSError: it has ended.
    """
    text = (process / "mountinfo").read_bytes().decode("utf-8", "surrogateescape")
    return [_parse(line) for line in text.splitlines() if " - " in line]


def _parse(line: str) -> MountEntry:
    left, _, right = line.partition(" - ")
    number, parent, device, root, target, options, *_ = left.split(" ")
    kind, source, *rest = right.split(" ", 2)
    return MountEntry(
        int(number),
        int(parent),
        device,
        _plain(root),
        _plain(target),
        tuple(options.split(",")),
        kind,
        _plain(source),
        tuple(_plain(option) for option in _SEPARATOR.split(rest[0] if rest else "")),
    )


def _plain(text: str) -> str:
    def byte(match: re.Match[str]) -> str:
        return chr(int(match.group(1), 8))

    return _OCTAL.sub(byte, text)


def mount_of(path: str, mounts: list[MountEntry]) -> MountEntry | None:
    """The mount that a path lies on."""
    found = None
    for mount in mounts:  # later ones cover earlier ones
        target = mount.target.rstrip("/")
        if (path == target or path.startswith(target + "/")) and (
            found is None or len(target) >= len(found.target.rstrip("/"))
        ):
            found = mount
    return found


def lower_directories(root: MountEntry, upper: str) -> list[str]:
    """The layers of an overlay, uppermost first, as far as they can be found.

    Runtimes mount with relative names, to stay below a page of options; they are relative to the
    folder that holds the layers, one or two levels above the upper directory.
    """
    names: list[str] = []
    for option in root.super_options:
        key, _, value = option.partition("=")
        if key == "lowerdir":
            names += [name.replace("\\:", ":") for name in _COLON.split(value) if name]
        elif key == "lowerdir+":  # one each, since 6.8
            names.append(value)
    found = []
    for name in names:
        parents = [Path("/")] if name.startswith("/") else list(Path(upper).parents)[:4]
        places = (parent / name for parent in parents)
        found += [str(place) for place in places if place.is_dir()][:1]
    return found
