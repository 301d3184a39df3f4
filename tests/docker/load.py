"""Clients of a service, in a container of their own beside it."""

from __future__ import annotations

from tests.docker.client import Docker, Running
from tests.services.common import LOAD

LOAD_SECONDS = 120


def put_under_load(docker: Docker, server: Running, script: str) -> None:
    """Run a load in the server's network; it waits for the server itself, and fails loudly."""
    result = docker.complete(
        *("run", "--rm", "--network", f"container:{server.id}", LOAD.reference),
        *("timeout", str(LOAD_SECONDS), "bash", "-ec", script),
        timeout=LOAD_SECONDS + 30,
    )
    assert result.returncode == 0, (
        f"load: exit {result.returncode}\n{result.stdout[-2000:]}\n{result.stderr[-2000:]}\n"
        f"log of the server:\n{server.logs()[-2000:]}"
    )
