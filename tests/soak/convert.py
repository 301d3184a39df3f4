"""Traces of a fanotify tracer as events, so that they go through the same code as recorded ones.

One JSON object a line: ``t`` seconds since the start, ``k`` what (``x`` execution, ``w`` a file
closed after writing, ``h`` a file found open for writing at a regular look), ``pid``, ``exe`` the
program acting (for ``x`` the one that called execve; ``/`` the runtime), ``path``, and for ``x``
``pp``, the caller's parent.

Such a tracer sees less than Rote: no removals, no renames (a new name appears only once somebody
holds the file or writes it again), no attributes; names as they were when the file was *closed*,
with " (deleted)" when it was gone by then; "?" for a program that had ended. It does not see
whether a file is the image's, which is guessed from the path.
"""

from __future__ import annotations

import gzip
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from sensor.errors import BadInputError
from sensor.events import Actor, Event, EventFlag, EventKind, Operation, Origin, WalkEnd

_CGROUP = 1
_NANOSECONDS = 1_000_000_000
# Debian's packages put files there and services write elsewhere, near enough.
_IMAGE_TREES = ("/etc/", "/usr/", "/bin/", "/sbin/", "/lib/", "/lib64/")
_STARTUP_PAUSE = 30.0  # as Rote's own default
_INTERPRETER = re.compile(r"/(?:(?:ba|da)?sh|perl|php|python|env)[\d.]*$")
_NEEDED = {"t", "k", "pid", "exe", "path"}
_DELETED = " (deleted)"
_GONE = "?"


def load_foreign(path: Path) -> list[Event]:
    """Read a fanotify trace.

    Raises:
        BadInputError: it cannot be read or is no such trace; names the file and the line.
    """
    rows = list(_rows(path))
    interpreted = _scripts(rows)
    programs: dict[int, str] = {}  # by process, for those that had ended
    written: set[str] = set()
    executed: set[tuple[str, str]] = set()
    starting_until = _STARTUP_PAUSE
    events: list[Event] = []
    for number, row in enumerate(rows):
        if row["k"] == "x":
            event = _execution(row, written, script=number in interpreted)
            events.append(event)
            if row["t"] < starting_until:
                event.flags |= EventFlag.STARTUP
                if (event.program, event.path) not in executed:
                    starting_until = row["t"] + _STARTUP_PAUSE
            executed.add((event.program, event.path))
            programs[row["pid"]] = row["path"]
        elif row["k"] in ("w", "h"):
            program = row["exe"] if row["exe"] != _GONE else programs.get(row["pid"], "")
            if program:
                events.append(_change(row, program, written))
                written.add(events[-1].path)
    return events


def _rows(path: Path) -> Iterator[dict[str, Any]]:
    try:
        with gzip.open(path, "rt", encoding="utf-8", errors="surrogateescape") as lines:
            for number, line in enumerate(lines, 1):
                try:
                    row = json.loads(line)
                except ValueError as error:
                    raise BadInputError(f"{path}: line {number}: {error}") from error
                if not isinstance(row, dict) or not row.keys() >= _NEEDED:
                    raise BadInputError(
                        f"{path}: line {number}: expected an object with t, k, pid, exe and path"
                    )
                yield row
    except (OSError, EOFError) as error:
        raise BadInputError(f"{path}: {error}; expected a gzip file of JSON lines") from error


def _scripts(rows: list[dict[str, Any]]) -> set[int]:
    """Which executions are of scripts: the next one is an interpreter, and has the same caller."""
    found: set[int] = set()
    last: dict[int, int] = {}  # process → row of its latest execution
    for number, row in enumerate(rows):
        if row["k"] != "x":
            continue
        before = last.get(row["pid"])
        if (
            before is not None
            and rows[before]["exe"] == row["exe"]
            and _INTERPRETER.search(row["path"])
            and not _INTERPRETER.search(rows[before]["path"])
        ):
            found.add(before)
        last[row["pid"]] = number
    return found


def _execution(row: dict[str, Any], written: set[str], *, script: bool) -> Event:
    return Event(
        EventKind.EXEC,
        int(row["t"] * _NANOSECONDS),
        _CGROUP,
        Operation.SCRIPT if script else Operation.EXEC,
        path=row["path"],
        pid=row["pid"],
        program="" if row["exe"] == "/" else row["exe"],
        parent_program=row.get("pp", ""),
        actor=Actor.SERVICE,
        origin=Origin.ADDED if row["path"] in written else Origin.IMAGE,
        walk_end=WalkEnd.ROOT,
    )


def _change(row: dict[str, Any], program: str, written: set[str]) -> Event:
    path = row["path"].removesuffix(_DELETED)
    of_image = path.startswith(_IMAGE_TREES) and path not in written
    return Event(
        EventKind.FILE,
        int(row["t"] * _NANOSECONDS),
        _CGROUP,
        Operation.OPEN_WRITE,
        path=path,
        pid=row["pid"],
        program=program,
        actor=Actor.SERVICE,
        origin=Origin.IMAGE if of_image else Origin.ADDED,
        walk_end=WalkEnd.ROOT,
    )
