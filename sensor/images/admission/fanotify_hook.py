"""The hook that the fanotify gate injects: the gate's program, in a directory of its own.

`rote gate install` and `remove` have another one: removing theirs must not take away a program that
starts of containers need.
"""

from __future__ import annotations

import asyncio
import logging
from pathlib import Path

from sensor.config import Settings
from sensor.errors import RoteError
from sensor.images.admission.bundle import RuntimeHook
from sensor.images.admission.programs import HOOK_SECONDS, Programs

_log = logging.getLogger("rote.gate")
_ARGUMENTS = ("--gate=fanotify",)
_RUNTIME = Path("runc")  # stands in the program's settings; a hook does not use it


def fanotify_programs(settings: Settings) -> Programs:
    """Where its programs are."""
    return Programs((settings.state_dir / "gate-fanotify").absolute())


async def make_hook(settings: Settings) -> RuntimeHook | None:
    """The hook, made where it is not there yet; None: it cannot be, and starts are refused without.

    What happens where nobody answers is in the files that the daemon writes. Without these the
    start goes on.
    """
    programs = fanotify_programs(settings)
    run_dir = settings.run_dir.absolute()
    try:
        if not programs.kind() or programs.settings().get("run_dir") != str(run_dir):
            await asyncio.to_thread(programs.install, run_dir, _RUNTIME, "open")
    except RoteError as error:
        _log.warning(
            "gate: %s; without a hook, who starts a container that is refused reads "
            '"operation not permitted" only',
            error,
        )
        return None
    return RuntimeHook(str(programs.hook), _ARGUMENTS, HOOK_SECONDS)
