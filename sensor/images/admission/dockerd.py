"""The dockerd that answers on a socket: which process it is, and how it reads its file again."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import struct
import time
from pathlib import Path
from typing import Any

import orjson

from sensor.containers.docker import DockerRuntime
from sensor.errors import BadInputError, HostError, RuntimeUnavailableError
from sensor.images.admission.docker_config import NAME

PIDFILE = Path("/var/run/docker.pid")
_RELOAD_SECONDS = 15.0
_STEP_SECONDS = 0.1
_LISTENS = 0x10000  # __SO_ACCEPTCON, in /proc/net/unix
_FLAGS = ("--add-runtime", "--default-runtime")


class Dockerd:
    """One Docker Engine.

    Args:
        address: its socket.
        pidfile: where its process id is when the socket was made by others, as systemd does.
    """

    def __init__(self, address: Path, pidfile: Path = PIDFILE) -> None:
        self._address = address
        self._pidfile = pidfile

    def information(self) -> dict[str, Any] | None:
        """What it says of itself; None when it does not answer."""

        async def ask() -> dict[str, Any]:
            runtime = DockerRuntime(f"unix://{self._address}")
            try:
                return await runtime.information()
            finally:
                await runtime.close()

        try:
            return asyncio.run(ask())
        except RuntimeUnavailableError:
            return None

    def pid(self) -> int:
        """Its process: the one that listens on the socket, never one of a certain name.

        Raises:
            HostError: it cannot be told.
        """
        inodes = _listening(self._address)
        for pid in (self._peer(), self._from_pidfile()):
            if pid > 1 and _holds(pid, inodes):
                return pid
        raise HostError(
            f"{self._address}: which process listens there cannot be told; expected it to be the "
            f"socket's peer, or the process in {self._pidfile}"
        )

    def check_flags(self, config: Path) -> None:
        """Options on its command line that are in the way of its file.

        Raises:
            BadInputError: there are some, with which dockerd would not start again; or it reads
                another file.
        """
        text = Path(f"/proc/{self.pid()}/cmdline").read_bytes().decode(errors="replace")
        words = text.split("\0")
        for word, after in zip(words, [*words[1:], ""], strict=True):
            name, equals, value = word.partition("=")
            file = Path(value if equals else after)
            if name == "--config-file" and file.resolve() != config.resolve():
                raise BadInputError(
                    f"{config}: dockerd reads {file}: --docker-config {file}. Nothing was changed"
                )
        found = [word for word in words if word.split("=")[0] in _FLAGS]
        if found:
            raise BadInputError(
                f"dockerd runs with {found[0]}, and does not start with the same in its file; "
                "move that into the file first. Nothing was changed"
            )

    def reload(self, expected: str) -> None:
        """Have it read its file again; one that does not run reads it when it starts.

        Args:
            expected: its default runtime then; "" to not wait for it.

        Raises:
            HostError: it did not take the file.
        """
        if self.information() is None:
            return
        pid = self.pid()
        handle = os.pidfd_open(pid)
        try:
            if self.pid() != pid:
                raise HostError(f"dockerd (pid {pid}) ended just now; try again")
            signal.pidfd_send_signal(handle, signal.SIGHUP)
        finally:
            os.close(handle)
        until = time.monotonic() + _RELOAD_SECONDS
        while expected:
            found = (self.information() or {}).get("DefaultRuntime")
            if found == expected:
                return
            if time.monotonic() > until:
                raise HostError(
                    f"dockerd (pid {pid}) was told to read its file again, and its default runtime "
                    f"is {found!r}, not {expected!r}; its log says why"
                )
            time.sleep(_STEP_SECONDS)

    def made_with_ours(self) -> list[str]:
        """Names of containers that name our runtime: it must be there for them to start again."""
        found = self.information()
        if found is None:
            return []
        names: list[str] = []
        for path in Path(str(found.get("DockerRootDir", "/"))).glob("containers/*/hostconfig.json"):
            try:
                if orjson.loads(path.read_bytes()).get("Runtime") != NAME:
                    continue
                config = orjson.loads(path.with_name("config.v2.json").read_bytes())
                names.append(str(config.get("Name", "")).lstrip("/") or path.parent.name[:12])
            except (OSError, orjson.JSONDecodeError):
                continue  # it was removed just now
        return sorted(names)

    def _peer(self) -> int:
        with socket.socket(socket.AF_UNIX) as connection:
            connection.settimeout(5)
            try:
                connection.connect(str(self._address))
            except OSError:
                return 0
            peer = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12)
        return int(struct.unpack("3i", peer)[0])

    def _from_pidfile(self) -> int:
        try:
            return int(self._pidfile.read_text(encoding="ascii"))
        except (OSError, ValueError):
            return 0


def _listening(path: Path) -> set[str]:
    """Inodes of the sockets that listen at a path. Source: proc(5), /proc/net/unix."""
    found: set[str] = set()
    for line in Path("/proc/net/unix").read_text(encoding="utf-8", errors="replace").splitlines():
        words = line.split(maxsplit=7)
        if (
            len(words) == 8
            and words[7].startswith("/")
            and int(words[3], 16) & _LISTENS
            and os.path.realpath(words[7]) == os.path.realpath(path)
        ):
            found.add(words[6])
    return found


def _holds(pid: int, inodes: set[str]) -> bool:
    targets = {f"socket:[{inode}]" for inode in inodes}
    try:
        entries = Path(f"/proc/{pid}/fd").iterdir()
        return any(str(entry.readlink()) in targets for entry in entries)
    except OSError:
        return False
