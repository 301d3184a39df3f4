"""A Docker container's inspection without asking the Engine, from the files that it keeps.

While a start is held, the Engine answers no inspection of that container until the start is over
(it holds the container's lock). Its files were written when the container was created.

Source: moby, container/container.go (``config.v2.json``, ``hostconfig.json``).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import orjson

from sensor.errors import RuntimeUnavailableError

_ID = re.compile(r"[0-9a-f]{64}")
_FILE_MAX = 8 << 20
_AS_THEY_ARE = (
    "Created", "Path", "Args", "Image", "Name", "RestartCount", "Driver", "MountLabel",
    "ProcessLabel", "AppArmorProfile", "ResolvConfPath", "HostnamePath", "HostsPath", "LogPath",
)  # fmt: skip


def inspection(data_root: Path, container_id: str) -> dict[str, Any] | None:
    """What ``GET /containers/ID/json`` would say, less what only a running container has.

    Returns:
        None: this Engine has no such container.

    Raises:
        RuntimeUnavailableError: a file is there and cannot be read.
    """
    directory = data_root / "containers" / container_id
    if not _ID.fullmatch(container_id) or not directory.is_dir():
        return None
    config = _read(directory / "config.v2.json")
    host = _read(directory / "hostconfig.json")
    found: dict[str, Any] = {name: config[name] for name in _AS_THEY_ARE if name in config}
    found["Id"] = container_id
    found["Platform"] = config.get("OS", "linux")
    found["Config"] = config.get("Config") or {}
    found["HostConfig"] = host
    found["State"] = {**(config.get("State") or {}), "Pid": 0}
    found["Mounts"] = [_mount(point) for point in (config.get("MountPoints") or {}).values()]
    return found


def _read(path: Path) -> dict[str, Any]:
    try:
        if path.stat().st_size > _FILE_MAX:
            raise RuntimeUnavailableError(f"{path}: more than {_FILE_MAX} bytes")
        found = orjson.loads(path.read_bytes())
    except (OSError, orjson.JSONDecodeError) as error:
        raise RuntimeUnavailableError(
            f"{path}: {getattr(error, 'strerror', None) or error}"
        ) from error
    if not isinstance(found, dict):
        raise RuntimeUnavailableError(f"{path}: expected an object")
    return found


def _mount(point: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "Type": point.get("Type") or "",
        "Name": point.get("Name") or "",
        "Source": point.get("Source") or "",
        "Destination": point.get("Destination") or "",
        "Driver": point.get("Driver") or "",
        "Mode": point.get("Relabel") or "",
        "RW": bool(point.get("RW")),
        "Propagation": point.get("Propagation") or "",
    }
