"""What an image's configuration says about what it will do, before it does it."""

from __future__ import annotations

import posixpath

from sensor.containers.container import Container
from sensor.events import Actor, Origin
from sensor.models.keys import ExecKey, Key, Program

_RUNTIME = Program("")


def static_keys(container: Container) -> list[Key]:
    """Execution keys of the entrypoint, the command and the health check.

    Only absolute paths are taken: a bare name is looked up on the image's PATH by the runtime and
    comes as an event with its resolved path. The path may be a symbolic link, in which case the
    key is never used; the event brings the right one.
    """
    keys: list[Key] = []
    for argv, actor in (
        ((*container.entrypoint, *container.command), Actor.SERVICE),
        (container.healthcheck, Actor.PROBE),
    ):
        if argv and posixpath.isabs(argv[0]):
            path = posixpath.normpath(argv[0])
            keys.append(ExecKey(_RUNTIME, Program(path), Origin.IMAGE, actor))
    return keys
