"""What `rote gate install` did on this host, and what it takes to undo that."""

from __future__ import annotations

import base64
import hashlib
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import orjson

from sensor.errors import StateError
from sensor.images.admission.programs import Programs

KINDS = ("docker", "podman", "cri-o", "containerd")


class Installation:
    """The directory of the gate's programs, with a record of what refers to them.

    Args:
        directory: of the programs.
    """

    def __init__(self, directory: Path) -> None:
        self.programs = Programs(directory)
        self._path = directory / "installed.json"

    def entries(self) -> dict[str, dict[str, Any]]:
        """Kind → what was written where.

        Raises:
            StateError: the record cannot be read.
        """
        try:
            found = orjson.loads(self._path.read_bytes())
        except FileNotFoundError:
            return {}
        except (OSError, orjson.JSONDecodeError) as error:
            raise StateError(
                f"{self._path}: {getattr(error, 'strerror', None) or error}; expected the record "
                "of rote gate install"
            ) from error
        if not isinstance(found, dict) or not all(isinstance(v, dict) for v in found.values()):
            raise StateError(f"{self._path}: expected an object for each kind of gate")
        return found

    def put(self, kind: str, entry: Mapping[str, Any]) -> None:
        """Remember one kind.

        Raises:
            StateError: it cannot be written.
        """
        self._write({**self.entries(), kind: dict(entry)})

    def drop(self, kind: str) -> bool:
        """Forget one kind. Returns whether it was the last.

        Raises:
            StateError: it cannot be written.
        """
        left = self.entries()
        left.pop(kind, None)
        if left:
            self._write(left)
        else:
            self._path.unlink(missing_ok=True)
        return not left

    def summary(self) -> list[dict[str, str]]:
        """Kind and the file that makes it one, for `rote status`."""
        programs = self.programs.kind()
        return [
            {
                "gate": kind,
                "file": str(entry.get("file", "")),
                "program": programs or f"MISSING: {self.programs.directory}",
            }
            for kind, entry in self.entries().items()
        ]

    def _write(self, entries: Mapping[str, Any]) -> None:
        try:
            self._path.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
            replace_file(self._path, orjson.dumps(entries, option=orjson.OPT_INDENT_2), 0o600)
        except OSError as error:
            raise StateError(f"{self._path}: {error.strerror}") from error


def replace_file(path: Path, data: bytes, mode: int = 0o644) -> None:
    """A file with other bytes, whole at any moment; owner and mode of an old one stay.

    Raises:
        OSError: it cannot be written.
    """
    target = path.resolve()  # a link in /etc stays one
    fresh = target.with_name(f".{target.name}.rote")
    try:
        old: os.stat_result | None = target.stat()
    except FileNotFoundError:
        old = None
    fd = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    with os.fdopen(fd, "wb") as file:
        file.write(data)
        file.flush()
        os.fchmod(fd, (old.st_mode & 0o7777) if old else mode)
        if old:
            os.fchown(fd, old.st_uid, old.st_gid)
        os.fsync(fd)
    fresh.replace(target)


def keep(data: bytes | None) -> str | None:
    """Bytes as the record holds them; None: there was no file."""
    return None if data is None else base64.b64encode(data).decode()


def kept(text: str | None) -> bytes | None:
    """The bytes again."""
    return None if text is None else base64.b64decode(text)


def digest(data: bytes) -> str:
    """What tells whether a file is still as we left it."""
    return hashlib.sha256(data).hexdigest()
