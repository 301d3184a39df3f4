"""Docker's ``daemon.json`` with our runtime as the default, and without it again.

Source: dockerd(8), "runtimes" and "default-runtime": both are read again on SIGHUP. What a file
does not name keeps its value then, so leaving takes two steps: naming runc, then the old file.
"""

from __future__ import annotations

import difflib
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sensor.errors import BadInputError, StateError
from sensor.images.admission.installed import Installation, digest, keep, kept, replace_file

NAME = "rote"
STOCK = "runc"
Reload = Callable[[str], None]
"""Have dockerd read its file again, and wait until that is its default runtime."""


@dataclass(frozen=True, slots=True)
class DockerConfig:
    """One ``daemon.json``.

    Args:
        path: of it; need not be there.
        installation: that remembers the old one.
    """

    path: Path
    installation: Installation

    def read(self) -> tuple[bytes | None, dict[str, Any]]:
        """The file as it is, and what it says.

        Raises:
            BadInputError: it is no JSON object; names the line.
            StateError: it cannot be read.
        """
        try:
            data = self.path.read_bytes()
        except FileNotFoundError:
            return None, {}
        except OSError as error:
            raise StateError(f"{self.path}: {error.strerror}") from error
        return data, parse(self.path, data)

    def real_runtime(self) -> str:
        """The runtime that was the default before: its name in the file, or ``runc``.

        Raises:
            BadInputError: it is one that is no program.
        """
        _, found = self.read()
        name = str(found.get("default-runtime") or STOCK)
        if name == NAME:
            entry = self.installation.entries().get("docker", {})
            old = kept(entry.get("original"))
            found = parse(self.path, old) if old else {}
            name = str(found.get("default-runtime") or STOCK)
        if name == STOCK:
            return STOCK
        runtime = (found.get("runtimes") or {}).get(name) or {}
        if runtime.get("runtimeArgs") or not runtime.get("path"):
            raise BadInputError(
                f'{self.path}: default-runtime "{name}": expected a runtime with a path and no '
                "arguments, which ours could stand before"
            )
        return str(runtime["path"])

    def install(self, reload: Reload) -> bool:
        """Make ours the default runtime. Returns False when it was already.

        Raises:
            BadInputError: the file is not what it should be; nothing was changed.
            RoteError: Docker did not take it; the file is as it was.
        """
        data, found = self.read()
        ours = {"path": str(self.installation.programs.runtime)}
        runtimes = found.get("runtimes") or {}
        if runtimes.get(NAME) == ours and found.get("default-runtime") == NAME:
            reload(NAME)
            return False
        entry = self.installation.entries().get("docker", {})
        if NAME in runtimes and runtimes[NAME] != ours and not entry:
            raise BadInputError(
                f'{self.path}: runtimes: "{NAME}" is there and is not this one '
                f"({runtimes[NAME]}); nothing was changed"
            )
        new = {**found, "runtimes": {**runtimes, NAME: ours}, "default-runtime": NAME}
        text = dump(new)
        original = data
        if data is not None and NAME in runtimes:
            # Ours is in it already, from before: what goes back is the file without it.
            untouched = digest(data) == entry.get("digest")
            original = kept(entry.get("original")) if untouched else dump(self._without(found))
        self._remember(original, text)
        self._write(text)
        try:
            reload(NAME)
        except BaseException:
            self._restore(data)
            if entry:
                self.installation.put("docker", entry)
            else:
                self.installation.drop("docker")
            raise
        return True

    def remove(self, reload: Reload, *, keep_name: bool = False) -> str:
        """The old file again, byte for byte; of one that was changed since, only our entries go.

        Args:
            reload: tells dockerd.
            keep_name: containers that were made meanwhile name our runtime: let that name mean
                the real runtime from now on.

        Returns:
            What was done, in one line.
        """
        entry = self.installation.entries().get("docker", {})
        data, found = self.read()
        original = kept(entry.get("original"))
        untouched = data is not None and digest(data) == entry.get("digest")
        runtimes = {k: v for k, v in (found.get("runtimes") or {}).items() if k != NAME}
        before = parse(self.path, original) if original else {}
        default = str(before.get("default-runtime") or STOCK)
        if found.get("default-runtime") != NAME:
            default = str(found.get("default-runtime") or STOCK)
        stand_in = {NAME: {"path": self._real_path()}} if keep_name else {}
        interim = {**found, "runtimes": {**runtimes, **stand_in}, "default-runtime": default}
        if data is not None and (NAME in (found.get("runtimes") or {}) or keep_name):
            self._write(dump(interim))
            reload(default)
        if keep_name:
            self._remember(original if untouched else dump(self._without(found)), dump(interim))
            return (
                f'{self.path}: the name "{NAME}" means the real runtime now; once no container '
                "needs it: rote gate remove"
            )
        if untouched:
            self._restore(original)
            reload("")
            return f"{self.path}: as it was before, byte for byte" + (
                "" if original is not None else " (there was none)"
            )
        if data is None:
            return f"{self.path}: is not there any more"
        self._write(dump(self._without(found)))
        reload("")
        return f"{self.path}: our entries are gone, the rest stays as it was changed"

    def changed_since(self) -> str:
        """How the file differs from what we left, as a diff; "" when it does not."""
        entry = self.installation.entries().get("docker", {})
        data, _ = self.read()
        if data is None or digest(data) == entry.get("digest"):
            return ""
        original = kept(entry.get("original"))
        base = parse(self.path, original) if original else {}
        runtimes = {**(base.get("runtimes") or {}), NAME: {"path": str(self._wrapper())}}
        ours = dump({**base, "runtimes": runtimes, "default-runtime": NAME})
        lines = difflib.unified_diff(
            ours.decode().splitlines(), data.decode().splitlines(), "as we left it", "now", n=1
        )
        return "\n".join(line.rstrip() for line in lines)

    def _without(self, found: dict[str, Any]) -> dict[str, Any]:
        """A file that was changed since, without our entries."""
        original = kept(self.installation.entries().get("docker", {}).get("original"))
        before = parse(self.path, original) if original else {}
        left = dict(found)
        runtimes = {k: v for k, v in (found.get("runtimes") or {}).items() if k != NAME}
        left.pop("runtimes", None)
        if runtimes or "runtimes" in before:
            left["runtimes"] = runtimes
        if left.get("default-runtime") == NAME:
            del left["default-runtime"]
            if "default-runtime" in before:
                left["default-runtime"] = before["default-runtime"]
        return left

    def _remember(self, original: bytes | None, ours: bytes) -> None:
        self.installation.put(
            "docker",
            {"file": str(self.path), "original": keep(original), "digest": digest(ours)},
        )

    def _wrapper(self) -> Path:
        return self.installation.programs.runtime

    def _real_path(self) -> str:
        return self.installation.programs.settings().get("runtime") or STOCK

    def _write(self, data: bytes) -> None:
        try:
            self.path.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
            replace_file(self.path, data)
        except OSError as error:
            raise StateError(f"{self.path}: {error.strerror}") from error

    def _restore(self, data: bytes | None) -> None:
        if data is not None:
            self._write(data)
        else:
            self.path.unlink(missing_ok=True)


def dump(value: Any) -> bytes:
    """JSON as people write it."""
    return json.dumps(value, indent=2).encode() + b"\n"


def parse(path: Path, data: bytes) -> dict[str, Any]:
    """A JSON object of a file.

    Raises:
        BadInputError: it is none; names file and line.
    """
    try:
        found = json.loads(data) if data.strip() else {}
    except UnicodeDecodeError as error:
        raise BadInputError(f"{path}: expected JSON in UTF-8; nothing was changed") from error
    except json.JSONDecodeError as error:
        raise BadInputError(
            f"{path}:{error.lineno}:{error.colno}: {error.msg}; expected JSON; nothing was changed"
        ) from error
    if not isinstance(found, dict):
        raise BadInputError(f"{path}:1: expected a JSON object; nothing was changed")
    for name, kind in (("runtimes", dict), ("default-runtime", str)):
        if name in found and not isinstance(found[name], kind):
            what = "an object" if kind is dict else "a name"
            line = next(
                (n for n, text in enumerate(data.decode().split("\n"), 1) if f'"{name}"' in text), 1
            )
            raise BadInputError(f"{path}:{line}: {name}: expected {what}; nothing was changed")
    return found
