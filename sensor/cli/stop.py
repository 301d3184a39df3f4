"""`rote stop`: end the daemon."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import click

from sensor.errors import StateError

_SECONDS = 60.0


@click.command()
@click.pass_obj
def stop(context: Any, /) -> None:
    """Let the daemon end; what it attached goes on refusing. The way to stop a locked one.

    \b
    Example:
      rote stop && rote unload
    """
    pid = context.client.ask("stop")
    deadline = time.monotonic() + _SECONDS
    while _runs(pid):
        if time.monotonic() > deadline:
            raise StateError(f"the daemon (pid {pid}) has not ended within {_SECONDS:.0f} s")
        time.sleep(0.05)
    click.echo(f"the daemon (pid {pid}) has ended")


def _runs(pid: int) -> bool:
    """Whether a process has not ended; one that nobody has waited for has. Source: proc(5)."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return False
    return text.rpartition(")")[2].split()[0] not in ("Z", "X")
