"""Record what a service does, for scripts/soak compare.

    scripts/soak record SERVICE [FOLDER] [--seconds 60]

Two containers, one after the other: the first under the mix to learn from, the second under the
other. Each gives a file of the form of ``sensor.testing.load_events``; nothing in it names this
host.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

from sensor.containers.cgroups import find_hierarchy
from sensor.events import Event
from sensor.testing import load_events, save_events
from tests.docker.client import Docker, Running
from tests.docker.sensor import Rote
from tests.services.recipe import Service
from tests.soak import traces
from tests.soak.world import (
    FAILURES,
    chosen,
    end,
    engine,
    go_on_after,
    say,
    start,
    time_limit,
    work,
)

_SPARE_SECONDS = 300.0


class Recorder(Rote):
    """The recording daemon, with directories of its own."""

    def __init__(self, docker: Docker) -> None:
        super().__init__("record", ())
        self.file = self.home / "recorded.events"
        self._runtime = f"docker={docker.url}"

    def _daemon(self) -> list[str]:
        places = (self.state, self.run_dir, self.file)
        return [sys.executable, "-m", "tests.soak.recorder", *map(str, places), self._runtime]


def record(docker: Docker, service: Service, seconds: float) -> tuple[list[Event], list[Event]]:
    """Both runs of a service."""
    recorder = Recorder(docker)
    cgroups: list[int] = []
    try:
        recorder.start()
        for script, options in (
            (service.learn, service.learn_options),
            (service.judge, service.judge_options),
        ):
            # A variable more is another launch signature, thus another model that knows nothing.
            again = ("--env", "SOAK_AGAIN=1") if cgroups else ()
            container = start(docker, recorder, service, (*options, *again))
            cgroups.append(_cgroup(container))
            work(docker, container, script, seconds)
            end(recorder, container)
        recorder.stop()
        events = load_events(recorder.file)
    finally:
        docker.clean()
        recorder.remove()
    first, second = (strip(e for e in events if e.cgroup_id == cgroup) for cgroup in cgroups)
    return first, second


def _cgroup(container: Running) -> int:
    hierarchy = find_hierarchy()
    path = hierarchy.path_of_pid(container.pid)
    number = hierarchy.id_of(path) if path else None
    assert number is not None, f"{container.name}: has no cgroup"
    return number


def strip(events: Iterable[Event]) -> list[Event]:
    """Events without what differs from host to host: times from 0, processes by order."""
    ordered = list(events)
    began = ordered[0].time_ns if ordered else 0
    numbers: dict[int, int] = {0: 0}
    executions: dict[int, int] = {0: 0}
    stripped = []
    for event in ordered:
        for pid in (event.parent_pid, event.pid, event.tid):
            numbers.setdefault(pid, len(numbers))
        for execution in (event.caller_exec_id, event.exec_id):
            executions.setdefault(execution, len(executions))
        stripped.append(
            replace(
                event,
                time_ns=event.time_ns - began,
                cgroup_id=1,
                pid=numbers[event.pid],
                tid=numbers[event.tid],
                parent_pid=numbers[event.parent_pid],
                exec_id=executions[event.exec_id],
                caller_exec_id=executions[event.caller_exec_id],
                program_node=0,
                model=0,
                base=(0, 0),
                base2=(0, 0),
            )
        )
    return stripped


def main(arguments: list[str]) -> int:
    """Record and say where it lies."""
    parser = argparse.ArgumentParser(
        "scripts/soak record", description=(__doc__ or "").split("\n")[0]
    )
    parser.add_argument("services", metavar="SERVICE", help="one, or several by commas")
    parser.add_argument("folder", type=Path, nargs="?", default=traces.OWN)
    parser.add_argument("--seconds", type=float, default=60.0, help="of each run")
    options = parser.parse_args(arguments)
    services = chosen(options.services)
    options.folder.mkdir(parents=True, exist_ok=True)
    failed = False
    with engine(services) as docker:
        for service in services:
            try:
                with time_limit(2 * options.seconds + _SPARE_SECONDS):
                    runs = record(docker, service, options.seconds)
            except FAILURES as error:
                go_on_after(error)
                say(f"{service.name}: not recorded: {error}")
                failed = True
                continue
            for events, path in zip(
                runs, traces.paths_of(options.folder, service.name), strict=True
            ):
                save_events(path, events)
                say(f"{path}: {len(events)} events, {path.stat().st_size:,} bytes")
    return int(failed)
