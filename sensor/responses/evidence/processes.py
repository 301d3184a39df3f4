"""The processes of a container, as /proc shows them. Works on frozen ones; nothing is traced.

Source: proc(5). A process may end at any moment: what is missing then is said.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import stat
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from sensor.reading import READ, Deadline, Root
from sensor.responses.evidence.files import note_error
from sensor.responses.evidence.mounts import MountEntry, mount_of, read_mounts
from sensor.responses.evidence.pack import Member, PackFullError, Part, TarWriter
from sensor.responses.evidence.secrets import Secrets

PROC = Path("/proc")
_CAPABILITIES = (
    "chown", "dac_override", "dac_read_search", "fowner", "fsetid", "kill", "setgid", "setuid",
    "setpcap", "linux_immutable", "net_bind_service", "net_broadcast", "net_admin", "net_raw",
    "ipc_lock", "ipc_owner", "sys_module", "sys_rawio", "sys_chroot", "sys_ptrace", "sys_pacct",
    "sys_admin", "sys_boot", "sys_nice", "sys_resource", "sys_time", "sys_tty_config", "mknod",
    "lease", "audit_write", "audit_control", "setfcap", "mac_override", "mac_admin", "syslog",
    "wake_alarm", "block_suspend", "audit_read", "perfmon", "bpf", "checkpoint_restore",
)  # fmt: skip
_NAMESPACES = ("mnt", "pid", "net", "user", "uts", "ipc", "cgroup", "time")
_TICKS = os.sysconf("SC_CLK_TCK")
_DELETED = " (deleted)"
_PROCESSES_MAX = 4096
_DESCRIPTORS_MAX = 1024  # of one process
_MAPPINGS_MAX = 512  # of one process, of those that are shown
_TEXT_MAX = 1 << 20  # of argv, environ and the like
_PASSWD_MAX = 1 << 20
_HASH_MAX = 256 << 20
_CONTENT_EACH, _CONTENT_ALL = 16 << 20, 48 << 20  # of programs and files without a name
_CHUNK = 1 << 20
_MAPPING = re.compile(r"([0-9a-f]+-[0-9a-f]+) (\S{4}) [0-9a-f]+ ([0-9a-f]+:[0-9a-f]+) (\d+) *(.*)")


class Processes:
    """Reads processes.

    Args:
        secrets: takes secrets out, and learns them from environments.
        writer: of the pack, for contents that have no name in the file system any more.
        keep: told of each member.
        part: told of what is missing.
        deadline: when to stop.
        upper: the container's upper directory, where it is known.
        proc: where the process file system is.
    """

    def __init__(
        self,
        secrets: Secrets,
        writer: TarWriter,
        keep: Callable[[Member], None],
        part: Part,
        deadline: Deadline,
        *,
        upper: Root | None = None,
        proc: Path = PROC,
    ) -> None:
        self._secrets = secrets
        self._writer = writer
        self._keep = keep
        self._part = part
        self._deadline = deadline
        self._upper = upper
        self._proc = proc
        self._boot = _boot_time(proc)
        self._hashes: dict[tuple[int, int, int, int], str] = {}
        self._members: dict[str, str] = {}  # sha256 → member
        self._kept = 0
        self._users: dict[tuple[int, int], dict[int, str]] = {}

    def environments(self, pids: list[int]) -> list[dict[str, Any]]:
        """The environment of each, scrubbed. Read before all else, so that secrets are known."""
        found = []
        for pid in pids[:_PROCESSES_MAX]:
            if self._deadline.passed():
                self._part.lacks("out of time: not all environments were read")
                break
            try:
                entries = _strings(self._proc / str(pid) / "environ")
            except OSError as error:
                note_error(self._part, "environments not read", f"process {pid}", error)
                continue
            pairs = (entry.partition("=") for entry in entries)
            variables = {name: value for name, equals, value in pairs if equals}
            found.append({"pid": pid, "environment": self._secrets.environment(variables)})
        return found

    def read(self, pids: list[int]) -> list[dict[str, Any]]:
        """Everything else about each."""
        if len(pids) > _PROCESSES_MAX:
            self._part.limited(f"{len(pids) - _PROCESSES_MAX} of {len(pids)} processes")
        found = []
        gone = 0
        for number, pid in enumerate(pids[:_PROCESSES_MAX]):
            if self._deadline.passed():
                self._part.lacks(f"out of time: {len(pids) - number} processes")
                break
            try:
                found.append(self._process(pid))
            except (FileNotFoundError, ProcessLookupError):
                gone += 1
            except OSError as error:
                note_error(self._part, "processes not read", f"process {pid}", error)
        if gone:
            self._part.lacks(f"{gone} of {len(pids)} processes ended while they were read")
        self._part.counts["processes"] = len(found)
        return found

    def _process(self, pid: int) -> dict[str, Any]:
        directory = self._proc / str(pid)
        status = dict(_status(directory))
        uids, gids = ([int(number) for number in status[name].split()] for name in ("Uid", "Gid"))
        mounts = self._mounts(directory)
        found: dict[str, Any] = {
            "pid": pid,
            "parent": int(status["PPid"]),
            "pids": [int(number) for number in status.get("NSpid", str(pid)).split()],
            "name": status["Name"],
            "state": status["State"],
            "argv": self._secrets.argv(_strings(directory / "cmdline")),
            "program": self._program(directory, mounts),
            "cwd": _link(directory / "cwd"),
            "root": _link(directory / "root"),
            "uids": uids,
            "gids": gids,
            "groups": [int(number) for number in status.get("Groups", "").split()],
            "user": self._user(directory, uids[1]),
            "capabilities": {
                name: _capabilities(status.get(field, "0"))
                for name, field in (
                    ("effective", "CapEff"),
                    ("permitted", "CapPrm"),
                    ("bounding", "CapBnd"),
                )
            },
            "no_new_privileges": status.get("NoNewPrivs") == "1",
            "seccomp": int(status.get("Seccomp", "0")),
            "tracer": int(status.get("TracerPid", "0")),
            "threads": int(status.get("Threads", "1")),
            "started": self._started(directory),
            "namespaces": {
                name: _inode(directory / "ns" / name)
                for name in _NAMESPACES
                if _inode(directory / "ns" / name)
            },
        }
        found["files"] = list(self._descriptors(directory))
        found["mappings"] = list(self._mappings(directory, mounts))
        return found

    def _mounts(self, directory: Path) -> list[MountEntry]:
        with contextlib.suppress(OSError, ValueError):
            return read_mounts(directory)
        return []

    def _program(self, directory: Path, mounts: list[MountEntry]) -> dict[str, Any]:
        link = directory / "exe"
        path = _link(link)
        if not path:
            return {"path": ""}  # a kernel thread, or a zombie
        return {"path": path, **self._content(link, path, mounts, "programs")}

    def _content(
        self, link: Path, path: str, mounts: list[MountEntry], folder: str
    ) -> dict[str, Any]:
        """Size, hash and origin of what a link of /proc leads to; its content when it is nameless.

        Args:
            link: below /proc.
            path: what it says.
            mounts: of the process.
            folder: of the pack, for the content.
        """
        try:
            fd = os.open(link, READ & ~os.O_NOFOLLOW)
        except OSError as error:
            return {"error": error.strerror}
        try:
            found = os.fstat(fd)
            if not stat.S_ISREG(found.st_mode):
                return {}
            nameless = found.st_nlink == 0 or path.startswith("/memfd:")
            origin = "memory" if nameless else self._origin(path, mounts)
            answer: dict[str, Any] = {"size": found.st_size, "origin": origin}
            key = (found.st_dev, found.st_ino, found.st_mtime_ns, found.st_size)
            digest = self._hashes.get(key)
            if digest is None:
                digest = self._hashes[key] = self._hash(fd, path)
            if digest:
                answer["sha256"] = digest
            if nameless and digest:
                answer["member"] = self._keep_content(fd, found.st_size, digest, path, folder)
        except OSError as error:
            return {"error": error.strerror}
        else:
            return answer
        finally:
            os.close(fd)

    def _hash(self, fd: int, path: str) -> str:
        digest = hashlib.sha256()
        taken = 0
        while piece := os.read(fd, _CHUNK):
            taken += len(piece)
            if taken > _HASH_MAX or self._deadline.passed():
                self._part.limited(f"hash of {path}: too large")
                return ""
            digest.update(piece)
        return digest.hexdigest()

    def _keep_content(self, fd: int, size: int, digest: str, path: str, folder: str) -> str:
        if digest in self._members:
            return self._members[digest]
        if size > _CONTENT_EACH or self._kept + size > _CONTENT_ALL:
            self._part.limited(f"content of {path}: {size} bytes are more than the limit")
            return ""
        os.lseek(fd, 0, os.SEEK_SET)
        content = b""
        while len(content) < size and (piece := os.read(fd, size - len(content))):
            content += piece
        try:
            member = self._writer.add(f"{folder}/{digest}", content)
        except PackFullError as error:
            self._part.lacks(f"content of {path}: {error}")
            return ""
        if member.sha256 != digest:
            self._part.lacks(f"content of {path}: was changed while it was read")
        self._kept += size
        self._members[digest] = member.name
        self._keep(member)
        return member.name

    def _origin(self, path: str, mounts: list[MountEntry]) -> str:
        mount = mount_of(path, mounts)
        if mount is None:
            return "unknown"
        if mount.kind == "tmpfs":
            return "tmpfs"
        if mount.target != "/":
            return "mount"
        if self._upper is None:
            return "unknown"
        return "added" if self._upper.has(path) else "image"

    def _descriptors(self, directory: Path) -> Iterator[dict[str, Any]]:
        try:
            names = sorted((path.name for path in (directory / "fd").iterdir()), key=int)
        except OSError as error:
            note_error(self._part, "descriptors not read", str(directory.name), error)
            return
        if len(names) > _DESCRIPTORS_MAX:
            self._part.limited(
                f"process {directory.name}: {len(names) - _DESCRIPTORS_MAX} of {len(names)} "
                "descriptors"
            )
        for name in names[:_DESCRIPTORS_MAX]:
            target = _link(directory / "fd" / name)
            if not target:
                continue  # closed meanwhile
            found: dict[str, Any] = {"fd": int(name), "target": target}
            with contextlib.suppress(OSError, ValueError):
                info = dict(
                    line.split(":\t", 1)
                    for line in _text(directory / "fdinfo" / name).splitlines()
                    if ":\t" in line
                )
                found["position"] = int(info.get("pos", "0"))
                found["flags"] = _flags(int(info.get("flags", "0"), 8))
            if target.endswith(_DELETED) or target.startswith("/memfd:"):
                found |= self._content(directory / "fd" / name, target, [], "open-files")
            yield found

    def _mappings(self, directory: Path, mounts: list[MountEntry]) -> Iterator[dict[str, Any]]:
        """Executable memory that is not the image's: files by origin, and memory without a file."""
        try:
            text = _text(directory / "maps")
        except OSError as error:
            note_error(self._part, "mappings not read", str(directory.name), error)
            return
        seen: set[tuple[str, str]] = set()
        for line in text.splitlines():
            match = _MAPPING.match(line)
            if match is None or "x" not in match.group(2):
                continue
            place, access, device, inode, path = match.groups()
            if path.startswith("["):
                if path.startswith("[anon") or path in ("[heap]", "[stack]"):
                    inode = "0"
                else:
                    continue  # the kernel's own: vdso, vsyscall
            if inode == "0":
                yield {"at": place, "access": access, "path": path, "origin": "memory"}
                continue
            if (device, inode) in seen:
                continue
            seen.add((device, inode))
            nameless = path.endswith(_DELETED) or path.startswith("/memfd:")
            origin = "memory" if nameless else self._origin(path, mounts)
            if origin == "image":
                continue
            if len(seen) > _MAPPINGS_MAX:
                self._part.limited(f"process {directory.name}: mappings beyond {_MAPPINGS_MAX}")
                return
            name = "-".join(f"{int(end, 16):x}" for end in place.split("-"))  # without zeros
            found = self._content(directory / "map_files" / name, path, mounts, "programs")
            yield {"at": place, "access": access, "path": path, "origin": origin, **found}

    def _started(self, directory: Path) -> float:
        """Seconds since the epoch."""
        fields = _text(directory / "stat").rpartition(")")[2].split()
        return round(self._boot + int(fields[19]) / _TICKS, 2)

    def _user(self, directory: Path, uid: int) -> str:
        """What the container calls a user of the host's number; "" when it has no name for it."""
        try:
            root = Root(directory / "root")
        except OSError:
            return ""
        try:
            found = root.stat()
            key = (found.st_dev, found.st_ino)
            if key not in self._users:
                self._users[key] = _passwd(root)
        finally:
            root.close()
        return self._users[key].get(_inner_id(directory / "uid_map", uid), "")


def pids_of(directories: list[Path]) -> list[int]:
    """The processes of a cgroup and of those below it, lowest first.

    Args:
        directories: of the container's cgroup.
    """
    found: set[int] = set()
    for directory in directories:
        for folder, _, _ in os.walk(directory):
            with contextlib.suppress(OSError):
                found.update(map(int, _text(Path(folder) / "cgroup.procs").split()))
    return sorted(found)


def _boot_time(proc: Path) -> int:
    for line in _text(proc / "stat").splitlines():
        if line.startswith("btime "):
            return int(line.split()[1])
    return 0


def _text(path: Path) -> str:
    with path.open("rb") as file:
        return file.read(16 * _TEXT_MAX).decode("utf-8", "surrogateescape")


def _strings(path: Path) -> list[str]:
    """Strings that end with NUL, as /proc has arguments and environments."""
    with path.open("rb") as file:
        data = file.read(_TEXT_MAX)
    if not data:
        return []  # a kernel thread, a zombie, or one that has ended
    return [part.decode("utf-8", "surrogateescape") for part in data.rstrip(b"\0").split(b"\0")]


def _status(directory: Path) -> Iterator[tuple[str, str]]:
    for line in _text(directory / "status").splitlines():
        name, _, value = line.partition(":")
        yield name, value.strip()


def _link(path: Path) -> str:
    try:
        return os.readlink(path)  # noqa: PTH115 - what it says is often no path
    except OSError:
        return ""


def _inode(path: Path) -> int:
    try:
        return path.stat().st_ino
    except OSError:
        return 0


def _capabilities(text: str) -> list[str]:
    mask = int(text, 16)
    return [name for bit, name in enumerate(_CAPABILITIES) if mask >> bit & 1]


def _flags(flags: int) -> list[str]:
    names = [("read", "write", "read-write", "none")[flags & os.O_ACCMODE]]
    for name in ("O_APPEND", "O_NONBLOCK", "O_CLOEXEC", "O_PATH", "O_TMPFILE", "O_DIRECTORY"):
        bits = getattr(os, name)
        if flags & bits == bits:
            names.append(name[2:].lower())
    return names


def _passwd(root: Root) -> dict[int, str]:
    try:
        text = root.read_small("/etc/passwd", _PASSWD_MAX).decode("utf-8", "surrogateescape")
    except OSError:
        return {}  # many images have none
    found: dict[int, str] = {}
    for line in text.splitlines():
        fields = line.split(":")
        if len(fields) > 2 and fields[2].isdigit():
            found.setdefault(int(fields[2]), fields[0])
    return found


def _inner_id(path: Path, number: int) -> int:
    """A host's user number as the process's own user namespace has it."""
    with contextlib.suppress(OSError, ValueError):
        for line in _text(path).splitlines():
            inner, outer, length = map(int, line.split())
            if outer <= number < outer + length:
                return inner + number - outer
    return number
