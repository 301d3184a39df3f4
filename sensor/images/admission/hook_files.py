"""Files that make other runtimes start our hook: hooks.d, and containerd's base specification.

Source: oci-hooks(5) of containers-common; containerd, docs/cri/config.md, "base_runtime_spec".
"""

from __future__ import annotations

import json
import shutil
import subprocess
import tomllib
from pathlib import Path
from typing import Any

from sensor.errors import BadInputError, HostError, StateError
from sensor.images.admission.docker_config import dump
from sensor.images.admission.installed import Installation, digest, keep, kept, replace_file
from sensor.images.admission.programs import HOOK_SECONDS

HOOKS_D = {
    "podman": Path("/etc/containers/oci/hooks.d/10-rote.json"),
    "cri-o": Path("/usr/share/containers/oci/hooks.d/10-rote.json"),
}
BASE_SPEC = Path("/etc/containerd/rote-base-spec.json")
CONTAINERD_CONFIG = Path("/etc/containerd/config.toml")
_CRI_RUNC = ("plugins", "io.containerd.grpc.v1.cri", "containerd", "runtimes", "runc")
_TABLE = '[plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]'
_KEY = "base_runtime_spec"


def hooks_d(installation: Installation) -> bytes:
    """The file for hooks.d: every container, before its first process is let go."""
    path = str(installation.programs.hook)
    return dump(
        {
            "version": "1.0.0",
            "hook": {"path": path, "args": [path, "--gate=hook"], "timeout": HOOK_SECONDS},
            "when": {"always": True},
            "stages": ["createRuntime"],
        }
    )


def install_hooks_d(installation: Installation, kind: str, path: Path) -> bool:
    """Write the file. Returns False when it was there, just so.

    Raises:
        BadInputError: a file of that name is there and is not ours.
        StateError: it cannot be written.
    """
    data = hooks_d(installation)
    old = _read(path)
    known = installation.entries().get(kind, {})
    if old is not None and old != data and digest(old) != known.get("digest"):
        raise BadInputError(f"{path}: is there and is not ours; nothing was changed")
    installation.put(kind, {"file": str(path), "digest": digest(data)})
    if old == data:
        return False
    _write(path, data)
    return True


def remove_file(installation: Installation, kind: str) -> str:
    """Remove what we wrote; one line that says so.

    Raises:
        BadInputError: somebody changed it since.
    """
    entry = installation.entries()[kind]
    path = Path(str(entry["file"]))
    data = _read(path)
    if data is None:
        return f"{path}: is not there any more"
    if digest(data) != entry.get("digest"):
        raise BadInputError(f"{path}: was changed since we wrote it; remove it by hand")
    path.unlink()
    return f"{path}: removed"


def base_spec(installation: Installation, ctr: str = "ctr") -> bytes:
    """Containerd's default specification with our hook in it.

    Raises:
        HostError: containerd's ``ctr``, which knows it, is not there or fails.
    """
    found = shutil.which(ctr)
    if found is None:
        raise HostError(f"{ctr}: not installed; it comes with containerd and knows its defaults")
    try:
        done = subprocess.run(
            [found, "oci", "spec"], capture_output=True, timeout=30, check=True, text=True
        )
        spec: dict[str, Any] = json.loads(done.stdout)
    except (OSError, subprocess.SubprocessError, json.JSONDecodeError) as error:
        raise HostError(f"{found} oci spec: {error}") from error
    path = str(installation.programs.hook)
    hook = {"path": path, "args": [path, "--gate=hook"], "timeout": HOOK_SECONDS}
    spec["hooks"] = {"createRuntime": [hook]}
    return dump(spec)


def snippet(base: Path) -> str:
    """What belongs into containerd's file."""
    return f"{_TABLE}\n  {_KEY} = {json.dumps(str(base))}\n"


def merged(config: Path, data: bytes, base: Path) -> bytes | None:
    """Containerd's file with our line, and nothing else changed; None: it has the line.

    Raises:
        BadInputError: it is no TOML, is of a version that we do not know, has another
            specification already, or is written in a way in which a line cannot be put in.
    """
    before = _toml(config, data)
    runc = _runc(before)
    if runc.get(_KEY) == str(base):
        return None
    if runc.get(_KEY):
        raise BadInputError(
            f"{config}: runtimes.runc has {_KEY} = {runc[_KEY]!r} already; put our hook into that "
            "file. Nothing was changed"
        )
    if before.get("version") != 2:
        raise BadInputError(f"{config}: version {before.get('version', 1)}: expected version = 2")
    line = f"{_KEY} = {json.dumps(str(base))}"
    text = data.decode()
    lines = text.split("\n")
    at = next((n for n, entry in enumerate(lines) if entry.strip() == _TABLE), None)
    if at is None:
        new = text + ("" if not text or text.endswith("\n") else "\n") + f"{_TABLE}\n  {line}\n"
    else:
        new = "\n".join([*lines[: at + 1], f"  {line}", *lines[at + 1 :]])
    try:
        after = tomllib.loads(new)
    except tomllib.TOMLDecodeError:
        after = {}
    found = _runc(after)
    if found.pop(_KEY, None) != str(base) or found != runc:
        raise BadInputError(
            f"{config}: our line cannot be put in without touching yours; put it in by hand:\n"
            + snippet(base)
        )
    return new.encode()


def install_containerd(
    installation: Installation, base: Path, config: Path, *, merge: bool
) -> list[str]:
    """Write the specification, and with ``merge`` the line that names it.

    Returns:
        What was done and what is left to do, a line each.
    """
    spec = base_spec(installation)
    data = _read(config)
    new = merged(config, data or b"version = 2\n", base) if merge else None
    old = installation.entries().get("containerd", {})
    entry: dict[str, Any] = {**old, "file": str(base), "digest": digest(spec)}
    if new is not None:
        entry |= {"config": str(config), "original": keep(data), "config_digest": digest(new)}
    installation.put("containerd", entry)
    _write(base, spec)
    said = [f"{base}: written"]
    if new is not None:
        _write(config, new)
        said.append(f"{config}: names it now; restart containerd for that: yours to do")
    elif not merge:
        said += [f"put this into {config} (or give --merge) and restart containerd:", snippet(base)]
    return said


def remove_containerd(installation: Installation, *, merge: bool) -> list[str]:
    """Take the line and the specification away again.

    Raises:
        BadInputError: the file was changed since, and ``merge`` is not set.
    """
    entry = installation.entries()["containerd"]
    said: list[str] = []
    config = Path(str(entry.get("config") or CONTAINERD_CONFIG))
    data = _read(config)
    if data is not None and "config" in entry:
        original = kept(entry.get("original"))
        if digest(data) == entry["config_digest"]:
            if original is None:
                config.unlink()
            else:
                _write(config, original)
            said.append(f"{config}: as it was before, byte for byte; restart containerd")
        elif merge:
            line = f"{_KEY} = {json.dumps(str(entry['file']))}"
            lines = data.decode().split("\n")
            _write(config, "\n".join(x for x in lines if x.strip() != line).encode())
            said.append(f"{config}: our line is gone; restart containerd")
        else:
            raise BadInputError(
                f"{config}: was changed since; --merge removes only our line from it"
            )
    elif data is not None and _runc(_toml(config, data)).get(_KEY) == entry["file"]:
        raise BadInputError(
            f"{config}: names {entry['file']} still, and containers would not start without it: "
            f"remove the line {_KEY} first"
        )
    said.append(remove_file(installation, "containerd"))
    return said


def _toml(path: Path, data: bytes) -> dict[str, Any]:
    try:
        return tomllib.loads(data.decode())
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise BadInputError(f"{path}: {error}; expected TOML; nothing was changed") from error


def _runc(found: dict[str, Any]) -> dict[str, Any]:
    for name in _CRI_RUNC:
        inner = found.get(name)
        found = inner if isinstance(inner, dict) else {}
    return dict(found)


def _read(path: Path) -> bytes | None:
    try:
        return path.read_bytes()
    except FileNotFoundError:
        return None
    except OSError as error:
        raise StateError(f"{path}: {error.strerror}") from error


def _write(path: Path, data: bytes) -> None:
    try:
        path.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
        replace_file(path, data)
    except OSError as error:
        raise StateError(f"{path}: {error.strerror}") from error
