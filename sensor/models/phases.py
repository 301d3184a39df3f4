"""Start-up and steady operation: what a service only does while it starts.

Tools of an entry point (``chown``, ``sed``, ``initdb``) are what somebody who breaks in would
like to find. An execution that was seen at start-up only is known at start-up only, as soon as
enough of the steady operation was watched to say so. The kernel tells the two apart
(``startup_begin()`` in bpf/exec.bpf.c): a start-up goes on for as long as no pause lies between
executions that are new.
"""

from __future__ import annotations

import enum
from collections.abc import Iterable

from sensor.models.keys import ExecKey, Key, Program

# A multiple of the pause that ends a start-up: by then what belongs to the steady operation, and
# happens more than once in a while, has happened.
SETTLED_SECONDS = 90.0


class Phase(enum.IntFlag):
    """When a key was seen."""

    STARTUP = 1
    STEADY = 2


ALWAYS = Phase.STARTUP | Phase.STEADY


def reachable(keys: Iterable[Key], mains: Iterable[Program]) -> frozenset[Program]:
    """Programs that the service runs by itself: what first processes run when all is started.

    Args:
        keys: of a model.
        mains: what the containers' first processes run after the start-up.

    Returns:
        These, and what they execute, and so on. What is executed by none of these belongs to the
        entry point.
    """
    executed: dict[Program, set[Program]] = {}
    for key in keys:
        if isinstance(key, ExecKey):
            executed.setdefault(key.parent, set()).add(key.program)
    found: set[Program] = set()
    waiting = list(mains)
    while waiting:
        program = waiting.pop()
        if program not in found:
            found.add(program)
            waiting.extend(executed.get(program, ()))
    return frozenset(found)
