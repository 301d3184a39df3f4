"""A daemon that keeps what the kernel reports, and to which no write is ever known.

    python -m tests.soak.recorder STATE RUN FILE RUNTIME --bpf-dir PINS

The real daemon on the real kernel side, but writes that it learns do not go back into the kernel,
so all come again. Executions do, because a start-up is over when no new ones come. The first of
each is kept: kind, operation, acting program, object, origin, actor, and whether in the start-up.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

from sensor.config import Settings
from sensor.daemon import serve
from sensor.errors import RoteError
from sensor.events import Event, EventFlag, EventKind
from sensor.kernel.live import KernelSettings, LiveKernel
from sensor.kernel.port import NameEntry, WriteEntry
from sensor.testing import save_events

_RECORDED: dict[tuple[object, ...], Event] = {}
_MANY = 200_000


class RecordingKernel(LiveKernel):
    """The live kernel side, whose tables of known writes stay empty."""

    def put_write(self, entries: Iterable[WriteEntry]) -> None:
        """Nothing becomes known."""

    def put_names(self, entries: Iterable[NameEntry]) -> None:
        """Nothing becomes known."""

    def read_events(self, limit: int = 4096) -> list[Event]:
        """As ever; the first of each is kept."""
        events = super().read_events(limit)
        for event in events:
            if event.kind in (EventKind.EXEC, EventKind.FILE) and len(_RECORDED) < _MANY:
                _RECORDED.setdefault(_what(event), replace(event))
        return events


def _what(event: Event) -> tuple[object, ...]:
    return (
        event.cgroup_id, event.kind, event.operation, event.program, event.applet,
        event.program_applet, event.path, event.path2, event.origin, event.actor, event.walk_end,
        event.flags & EventFlag.STARTUP,
    )  # fmt: skip


def _open(settings: KernelSettings) -> LiveKernel:
    return RecordingKernel.open(settings)


def main() -> int:
    """Run until SIGTERM, then write the file."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--bpf-dir", type=Path, required=True)
    for place in ("state", "run", "file"):
        parser.add_argument(place, type=Path)
    parser.add_argument("runtime")
    options = parser.parse_args()
    settings = Settings(
        state_dir=options.state,
        run_dir=options.run,
        bpf_dir=options.bpf_dir,
        runtimes=(options.runtime,),
        ring_size=64 << 20,
        quiet=True,
    )
    try:
        serve(settings, kernel=_open)
    except RoteError as error:
        sys.stderr.write(f"recorder: {error}\n")
        return 1
    save_events(options.file, _RECORDED.values())
    return 0


if __name__ == "__main__":
    sys.exit(main())
