"""Containers and events for tests, with only what matters said."""

from __future__ import annotations

import time
from typing import Any

from sensor.containers.container import Container, Image
from sensor.events import Actor, Event, EventKind, Operation, Origin, WalkEnd

IMAGE = Image("shop/web", "1.2", "", "sha256:" + "a" * 64)
CGROUP = 4711


def container(name: str = "web", **values: Any) -> Container:
    """A running container of IMAGE."""
    defaults: dict[str, Any] = {
        "id": f"{name}-" + "0" * 60,
        "runtime": "docker",
        "name": name,
        "image": IMAGE,
        "cgroup_id": CGROUP,
        "cgroup_path": f"/docker/{name}",
        "entrypoint": ("/bin/serve",),
        "pid": 100,
    }
    return Container(**{**defaults, **values})


def execution(path: str, caller: str = "/bin/serve", **values: Any) -> Event:
    """``caller`` executed ``path``."""
    defaults: dict[str, Any] = {
        "kind": EventKind.EXEC,
        "time_ns": time.time_ns(),
        "cgroup_id": CGROUP,
        "operation": Operation.EXEC,
        "path": path,
        "program": caller,
        "origin": Origin.IMAGE,
        "walk_end": WalkEnd.ROOT,
        "actor": Actor.SERVICE,
        "argv": (path,),
        "pid": 4_000_001,
    }
    return Event(**{**defaults, **values})


def change(path: str, program: str = "/bin/serve", **values: Any) -> Event:
    """``program`` opened ``path`` for writing."""
    defaults: dict[str, Any] = {
        "kind": EventKind.FILE,
        "time_ns": time.time_ns(),
        "cgroup_id": CGROUP,
        "operation": Operation.OPEN_WRITE,
        "path": path,
        "program": program,
        "origin": Origin.ADDED,
        "walk_end": WalkEnd.ROOT,
        "actor": Actor.SERVICE,
        "pid": 4_000_001,
    }
    return Event(**{**defaults, **values})
