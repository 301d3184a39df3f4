"""Cgroups as files: where the hierarchy is, ids, paths, processes, container ids in names.

The kernel's id of a cgroup is the inode number of its directory, on both versions (checked for
version 2 in a guest, see cgroup_id() in kernel/cgroup/cgroup-internal.h).
"""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from sensor.errors import KernelSupportError

_ID = re.compile(r"^(?:(?P<runtime>[a-z0-9-]+?)-)?(?P<id>[0-9a-f]{64})(?:\.scope)?$")
_V1_CONTROLLERS = ("pids", "memory", "devices", "cpu")


@dataclass(frozen=True, slots=True)
class Hierarchy:
    """The cgroup hierarchy that tells containers apart on this host.

    ``controller`` is empty for version 2, else the version 1 controller.
    """

    root: Path
    controller: str = ""

    def directory(self, path: str) -> Path:
        """The directory of a cgroup's path ("/docker/…")."""
        return self.root / path.lstrip("/")

    def id_of(self, path: str) -> int | None:
        """The kernel's id of a cgroup, or None when there is none at that path."""
        try:
            return self.directory(path).stat().st_ino
        except OSError:
            return None

    def path_of_pid(self, pid: int) -> str | None:
        """The cgroup a process is in, or None when it has ended."""
        try:
            lines = Path(f"/proc/{pid}/cgroup").read_text(encoding="utf-8").splitlines()
        except OSError:
            return None
        for line in lines:
            _, controllers, path = line.split(":", 2)
            if self.controller in controllers.split(","):
                return path
        return None

    def pids(self, path: str) -> list[int]:
        """Processes in a cgroup and below it."""
        found: list[int] = []
        for directory in (self.directory(path), *self._below(path)):
            with contextlib.suppress(OSError):
                text = (directory / "cgroup.procs").read_text(encoding="ascii")
                found.extend(int(pid) for pid in text.split())
        return found

    def children(self, path: str) -> list[int]:
        """Ids of the cgroups below one, at any depth."""
        found: list[int] = []
        for directory in self._below(path):
            with contextlib.suppress(OSError):
                found.append(directory.stat().st_ino)
        return found

    def _below(self, path: str) -> Iterator[Path]:
        for directory, names, _ in os.walk(self.directory(path)):
            for name in names:
                yield Path(directory) / name


def find_hierarchy() -> Hierarchy:
    """The hierarchy Rote uses: version 2 where it is mounted, else a version 1 controller's.

    Source: /proc/self/mountinfo (proc_pid_mountinfo(5)). The same choice as the kernel side's.

    Raises:
        KernelSupportError: no cgroup file system is mounted.
    """
    v1: dict[str, Path] = {}
    text = Path("/proc/self/mountinfo").read_text(encoding="utf-8", errors="replace")
    for line in text.splitlines():
        left, _, right = line.partition(" - ")
        kind, _, options = right.split(" ", 2)
        mount = Path(left.split()[4].encode().decode("unicode_escape"))
        if kind == "cgroup2":
            return Hierarchy(mount)
        if kind == "cgroup":
            v1.update(dict.fromkeys(options.split(","), mount))
    for controller in _V1_CONTROLLERS:
        if controller in v1:
            return Hierarchy(v1[controller], controller)
    raise KernelSupportError(
        "no cgroup file system is mounted; expected cgroup2: "
        "mount -t cgroup2 cgroup2 /sys/fs/cgroup"
    )


def container_id(path: str) -> str | None:
    """The container id in a cgroup's path, of the innermost container, or None.

    Podman's monitor (``libpod-conmon-…``) carries its container's id and is none itself.
    """
    for name in reversed(path.split("/")):
        match = _ID.match(name)
        if match and not (match.group("runtime") or "").endswith("conmon"):
            return match.group("id")
    return None


def shares_host_mounts(pid: int) -> bool:
    """Whether a process lives in this process's mount namespace."""
    try:
        return Path(f"/proc/{pid}/ns/mnt").stat().st_ino == Path("/proc/self/ns/mnt").stat().st_ino
    except OSError:
        return True


def share_mounts(pid: int, other: int) -> bool:
    """Whether two processes, both of which run, live in the same mount namespace."""
    try:
        return Path(f"/proc/{pid}/ns/mnt").stat().st_ino == (
            Path(f"/proc/{other}/ns/mnt").stat().st_ino
        )
    except OSError:
        return False
