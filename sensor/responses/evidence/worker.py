"""The process that reads /proc and file systems for a pack, and writes what it finds into it.

A process of its own, at low priority: reading may take long, take memory, or hang in a file system
that does not answer, and none of that may touch the daemon. It says on standard output what it has
written as soon as it is written, one JSON object a line, so that it can be ended at any time:

    {"member": {…}}    a member is complete
    {"cut": 4096}      what lies behind is there no more
    {"part": {…}}      a part is complete

The request comes as one JSON document on standard input, the pack as an inherited descriptor.
"""

from __future__ import annotations

import contextlib
import os
import resource
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import orjson

from sensor.reading import Deadline, Root
from sensor.responses.evidence.files import (
    Contents,
    Entry,
    FileLimits,
    Tree,
    entry_of,
    note_error,
    walk,
)
from sensor.responses.evidence.mounts import MountEntry, lower_directories, read_mounts
from sensor.responses.evidence.pack import (
    Member,
    PackFullError,
    Part,
    TarWriter,
    to_json,
)
from sensor.responses.evidence.processes import PROC, Processes, pids_of
from sensor.responses.evidence.secrets import Secrets
from sensor.responses.evidence.sockets import read_sockets

PROCESSES, ENVIRONMENT, SOCKETS = "processes", "environment", "sockets"
MOUNTS, CGROUP, FILES = "mounts", "cgroup", "file system"
PARTS = (ENVIRONMENT, PROCESSES, SOCKETS, MOUNTS, CGROUP, FILES)
_NICENESS = 5  # a container may be standing still until this is done
_DESCRIPTORS = 4096
_FILE_MAX = 64 << 10  # of one file of a cgroup
_ENTRY_BYTES = 420  # of one line of the list of changes, besides its path
_CHANGES_SHARE = 0.9  # of the time that is left, for hashing; the rest writes the listing
# Mounted by runtimes for their own purposes, device nodes and little else.
_RUNTIME_TMPFS = ("/proc", "/sys", "/dev")


@dataclass(slots=True)
class Request:
    """What the worker is to do."""

    limit: int  # bytes of the pack
    seconds: float
    pids: list[int]  # besides those of the cgroups
    cgroups: list[str]  # directories
    init: int = 0  # the container's first process; 0: unknown
    upper: str = ""  # as the runtime says it
    lower: list[str] = field(default_factory=list)
    changes: list[tuple[str, str]] | None = None  # as the runtime says it, without an upper
    host_mounts: bool = False  # shares the host's file systems
    limits: FileLimits = field(default_factory=FileLimits)

    def encode(self) -> bytes:
        """As it travels."""
        return orjson.dumps(asdict(self))

    @classmethod
    def decode(cls, data: bytes) -> Request:
        """Read it again."""
        found = orjson.loads(data)
        return cls(**{**found, "limits": FileLimits(**found["limits"])})


class Worker:
    """Reads one container.

    Args:
        request: what to do.
        writer: of the pack.
        say: takes what was written or finished.
        proc: where the process file system is.
    """

    def __init__(
        self,
        request: Request,
        writer: TarWriter,
        say: Callable[[dict[str, Any]], None],
        proc: Path = PROC,
    ) -> None:
        self._request = request
        self._writer = writer
        self._say = say
        self._proc = proc
        self._secrets = Secrets()
        self._deadline = Deadline(request.seconds)
        self._pids = sorted(
            {*request.pids, *pids_of([Path(directory) for directory in request.cgroups])}
        )
        self._sockets_of: dict[int, list[tuple[int, int]]] = {}  # inode → process, descriptor
        self._networks: dict[int, int] = {}  # network namespace → one of its processes
        self._remark = ""
        self._kept = 0  # members of the part that is being read
        self._trees = self._find_trees()

    def run(self) -> None:
        """All parts, in the order of how soon they may be gone."""
        with self._part(ENVIRONMENT) as part:
            reader = self._processes(part)
            self._add_lines("environment.jsonl", reader.environments(self._pids))
        with self._part(PROCESSES) as part:
            found = self._processes(part).read(self._pids)
            if not self._pids:
                part.fail("the container has no processes")
            self._note_sockets(found)
            self._add_lines("processes.jsonl", found)
        with self._part(SOCKETS) as part:
            self._add_lines("sockets.jsonl", self._sockets(part))
        with self._part(MOUNTS) as part:
            self._add_lines("mounts.jsonl", self._mounts(part))
        with self._part(CGROUP) as part:
            self._add("cgroup.json", self._cgroups(part))
        with self._part(FILES) as part:
            self._files(part)

    @contextlib.contextmanager
    def _part(self, name: str) -> Iterator[Part]:
        """One part; whatever goes wrong in it is its own matter."""
        part = Part(name)
        started = time.monotonic()
        self._kept = 0
        try:
            if self._deadline.passed():
                part.fail("out of time")
            else:
                yield part
        except PackFullError as error:
            (part.lacks if self._kept else part.fail)(str(error))
        except OSError as error:
            part.fail(str(error))
        part.seconds = round(time.monotonic() - started, 4)
        self._say({"part": asdict(part)})

    def _keep(self, member: Member) -> None:
        self._kept += 1
        self._say({"member": asdict(member)})

    def _add(self, name: str, value: Any) -> None:
        self._keep(self._writer.add(name, to_json(value)))

    def _add_lines(self, name: str, values: list[dict[str, Any]]) -> None:
        self._keep(self._writer.add(name, b"".join(to_json(value) + b"\n" for value in values)))

    def _processes(self, part: Part) -> Processes:
        return Processes(
            self._secrets,
            self._writer,
            self._keep,
            part,
            self._deadline,
            upper=self._trees[0].root if self._trees and not self._trees[0].prefix else None,
            proc=self._proc,
        )

    def _note_sockets(self, processes: list[dict[str, Any]]) -> None:
        for process in processes:
            network = process["namespaces"].get("net", 0)
            self._networks.setdefault(network, process["pid"])
            for file in process["files"]:
                if file["target"].startswith("socket:["):
                    inode = int(file["target"][8:-1])
                    self._sockets_of.setdefault(inode, []).append((process["pid"], file["fd"]))

    def _sockets(self, part: Part) -> list[dict[str, Any]]:
        own = _inode(self._proc / "self/ns/net")
        listed: list[dict[str, Any]] = []
        for network, pid in self._networks.items():
            found, problems = read_sockets(self._proc / str(pid) / "net")
            for problem in problems:
                part.lacks(problem)
            for socket in found:
                holders = self._sockets_of.get(socket["inode"], [])
                if not holders and network == own:
                    continue  # the host's own sockets are no business of the container's
                socket["network"] = network
                socket["holders"] = [{"pid": pid, "fd": fd} for pid, fd in holders]
                listed.append(socket)
        if not self._networks:
            part.fail("no process is left whose network could be looked at")
        part.counts["sockets"] = len(listed)
        return listed

    def _mounts(self, part: Part) -> list[dict[str, Any]]:
        listed: list[dict[str, Any]] = []
        seen: set[int] = set()
        for pid in self._pids:
            namespace = _inode(self._proc / str(pid) / "ns/mnt")
            if not namespace or namespace in seen:
                continue
            try:
                mounts = read_mounts(self._proc / str(pid))
            except OSError as error:
                note_error(part, "mounts not read", f"process {pid}", error)
                continue
            seen.add(namespace)
            for mount in mounts:
                row = mount.as_json()
                row["super_options"] = [self._secrets.text(text) for text in mount.super_options]
                row["source"] = self._secrets.text(mount.source)
                listed.append({"namespace": namespace, **row})
        if not seen:
            part.fail("no process is left whose mounts could be looked at")
        return listed

    def _cgroups(self, part: Part) -> dict[str, dict[str, str]]:
        found: dict[str, dict[str, str]] = {}
        for directory in map(Path, self._request.cgroups):
            try:
                names = sorted(path.name for path in directory.iterdir() if path.is_file())
            except OSError as error:
                note_error(part, "cgroups not read", str(directory), error)
                continue
            found[str(directory)] = {}
            for name in names:
                # Many files of a cgroup can only be written, or are there for the root only.
                with contextlib.suppress(OSError), (directory / name).open("rb") as file:
                    text = file.read(_FILE_MAX).decode(errors="replace").strip()
                    found[str(directory)][name] = text
        if not found:
            part.fail("the container's cgroup is gone")
        return found

    def _find_trees(self) -> list[Tree]:
        """The upper directory, then what of its tmpfs mounts a container can write to."""
        trees: list[Tree] = []
        mounts = self._read_init_mounts()
        root = next((mount for mount in reversed(mounts) if mount.target == "/"), None)
        upper = self._request.upper
        if not upper and root is not None and root.kind == "overlay":
            upper = root.option("upperdir")
            if upper and not self._is_upper(upper):
                # Mounted by somebody in another mount namespace, where names mean other things.
                self._remark = f"{upper}: is not the upper directory of this container here"
                upper = ""
        if upper and not self._request.host_mounts:
            try:
                lower = self._request.lower or (lower_directories(root, upper) if root else [])
                trees.append(Tree(Root(upper), "", "layer", _roots(lower)))
            except OSError as error:
                self._remark = f"{upper}: {error.strerror}"
        if self._request.host_mounts:
            return trees
        for mount in {mount.target: mount for mount in mounts}.values():  # the uppermost of each
            if mount.kind == "tmpfs" and mount.writable and _is_for_files(mount.target):
                with contextlib.suppress(OSError):  # covered by a later mount, or gone
                    place = f"{self._proc}/{self._request.init}/root{mount.target}"
                    trees.append(Tree(Root(place), mount.target.rstrip("/"), "tmpfs"))
        return trees

    def _read_init_mounts(self) -> list[MountEntry]:
        for pid in (self._request.init, *self._pids):
            if pid:
                with contextlib.suppress(OSError, ValueError):
                    mounts = read_mounts(self._proc / str(pid))
                    self._request.init = pid
                    return mounts
        return []

    def _is_upper(self, upper: str) -> bool:
        """Whether a directory is the upper one of the container's root: both have one inode."""
        seen = _inode(Path(f"{self._proc}/{self._request.init}/root/"))
        return bool(seen) and seen == _inode(Path(upper))

    def _files(self, part: Part) -> None:
        if self._request.host_mounts:
            part.fail("it shares the host's file systems: there is nothing that is its own")
            return
        entries: list[Entry] = []
        layered = bool(self._trees) and self._trees[0].origin == "layer"
        for tree in self._trees:
            entries += walk(tree, part, self._request.limits.entries - len(entries), self._deadline)
        if not layered:
            entries += self._from_changes(part)
        # The list of what changed is worth more than any content: its room is kept for it.
        room = sum(_ENTRY_BYTES + len(entry.path) for entry in entries)
        self._writer.limit -= room
        start = self._writer.end
        contents = Contents(
            self._writer,
            self._keep,
            self._request.limits,
            Deadline(self._deadline.left() * _CHANGES_SHARE),
        )
        contents.take(self._trees, entries, part)
        self._writer.limit += room
        entries.sort(key=lambda entry: entry.path)
        for change in ("added", "changed", "deleted"):
            part.counts[change] = sum(entry.change == change for entry in entries)
        try:
            self._add_lines("changes.jsonl", [entry.as_json() for entry in entries])
        except PackFullError as error:
            self._writer.cut(start)
            self._say({"cut": start})
            for entry in entries:
                entry.member = ""
            part.lacks(f"contents of all files, in favour of their list: {error}")
            self._add_lines("changes.jsonl", [entry.as_json() for entry in entries])

    def _from_changes(self, part: Part) -> list[Entry]:
        """The runtime's word for what changed, looked at through the container's own root."""
        if self._request.changes is None:
            part.lacks(self._remark or "neither an upper directory nor a runtime that knows")
            return []
        if not self._request.init:
            part.lacks("no process is left through whose root files could be read")
            return [
                Entry(path, change, "nothing", "layer") for change, path in self._request.changes
            ]
        self._trees.append(Tree(Root(f"{self._proc}/{self._request.init}/root"), "", "layer"))
        root = self._trees[-1].root
        return [entry_of(root, change, path) for change, path in self._request.changes]


def _is_for_files(target: str) -> bool:
    return target == "/dev/shm" or not any(  # noqa: S108 - a place to look into, not to write to
        target == place or target.startswith(place + "/") for place in _RUNTIME_TMPFS
    )


def _roots(paths: list[str]) -> list[Root]:
    found = []
    for path in paths:
        with contextlib.suppress(OSError):
            found.append(Root(path))
    return found


def _inode(path: Path) -> int:
    try:
        return path.stat().st_ino
    except OSError:
        return 0


def main() -> None:
    """Read a request, do it."""
    request = Request.decode(sys.stdin.buffer.read())
    os.nice(_NICENESS)
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = _DESCRIPTORS if hard == resource.RLIM_INFINITY else min(_DESCRIPTORS, hard)
    resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
    output = sys.stdout.buffer

    def say(what: dict[str, Any]) -> None:
        output.write(to_json(what) + b"\n")
        output.flush()

    with open(int(sys.argv[1]), "r+b", buffering=0) as file:  # noqa: PTH123 - a descriptor
        Worker(request, TarWriter(file, request.limit), say).run()


if __name__ == "__main__":
    main()
