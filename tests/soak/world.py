"""What a run needs around it: an Engine with the services' images, and daemons of its own."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from types import FrameType

from tests.docker import images
from tests.docker.client import Docker, Running
from tests.docker.engine import PrivateEngine, running_engine
from tests.docker.load import put_under_load
from tests.docker.sensor import Rote
from tests.services.common import LOAD, SERVICES, SOAK_ROOT
from tests.services.recipe import Service

# What ends one service and not the others; DockerError and RoteError are assertions that failed.
FAILURES = (TimeoutError, subprocess.TimeoutExpired, AssertionError)


def say(text: str) -> None:
    """A line about what is going on."""
    sys.stderr.write(f"soak: {text}\n")
    sys.stderr.flush()


def chosen(names: str) -> list[Service]:
    """The services of a comma-separated list; all when it is empty.

    Raises:
        SystemExit: a name is none.
    """
    by_name = {service.name: service for service in SERVICES}
    wanted = [name for name in names.split(",") if name] or list(by_name)
    for name in wanted:
        if name not in by_name:
            raise SystemExit(f"soak: {name}: no service; expected some of: {', '.join(by_name)}")
    return [by_name[name] for name in wanted]


@contextmanager
def engine(services: Iterable[Service]) -> Iterator[Docker]:
    """A Docker Engine with the images; nothing of it is left at the end, however that comes."""
    signal.signal(signal.SIGTERM, _end)
    signal.signal(signal.SIGALRM, _too_late)
    own = None if running_engine() else PrivateEngine("soak")
    try:
        if own is not None:
            own.start()
        docker = Docker(own.url if own is not None else running_engine() or "")
        try:
            say("images")
            images.import_services(
                docker, SOAK_ROOT, (*(service.recipe for service in services), LOAD)
            )
            yield docker
        finally:
            docker.clean()
            images.remove_all(docker)
    finally:
        if own is not None:
            own.stop()


class _Ending:
    told = False


def _end(_number: int, _frame: FrameType | None) -> None:
    _Ending.told = True
    raise SystemExit("soak: told to end")


def go_on_after(error: BaseException) -> None:
    """Let one service's failure be no other's: raise it only when all of it is to end.

    Cleaning up may fail as well, and then hides that somebody told us to end.
    """
    if _Ending.told:
        raise SystemExit("soak: told to end") from error


def _too_late(_number: int, _frame: FrameType | None) -> None:
    raise TimeoutError("it took longer than it may")


@contextmanager
def time_limit(seconds: float) -> Iterator[None]:
    """Raise TimeoutError, wherever the main thread is, when the body takes longer."""
    signal.alarm(int(seconds))
    try:
        yield
    finally:
        signal.alarm(0)


def start(docker: Docker, rote: Rote, service: Service, options: tuple[str, ...]) -> Running:
    """A new container of a service, under watch."""
    container = docker.run(service.recipe.reference, options=(*service.recipe.options, *options))
    rote.wait_for(
        lambda: rote.watches(container.id), seconds=20, what=f"{service.name} to be watched"
    )
    return container


def end(rote: Rote, container: Running) -> None:
    """Stop a container and wait until the daemon has taken in its end."""
    container.stop()
    rote.wait_for(lambda: not rote.watches(container.id), seconds=30, what="its end")
    container.remove()


def work(docker: Docker, container: Running, script: str, seconds: float) -> int:
    """Put a service under load, round after round, for so long; how many rounds it was."""
    until = time.monotonic() + seconds
    rounds = 0
    while rounds == 0 or time.monotonic() < until:
        put_under_load(docker, container, script)
        rounds += 1
    return rounds
