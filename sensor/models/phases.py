"""Start-up and steady operation: what a service only does while it starts.

Tools of an entry point (``chown``, ``sed``, ``initdb``) are what somebody who breaks in would
like to find. An execution that was seen only before the container's first process became what it
stays is known at start-up only, as soon as enough of the steady operation was watched to say so.
The kernel tells whether a service starts up (``startup_begin()`` in bpf/exec.bpf.c): for as long
as no pause lies between executions that are new. What comes in that time but after the first
process has executed its last program is the service's own, and known for good: under load it may
come again at any time.
"""

from __future__ import annotations

import enum

# Twice the pause that ends a start-up: by then what belongs to the steady operation, and
# happens more than once in a while, has happened.
SETTLED_SECONDS = 60.0


class Phase(enum.IntFlag):
    """When a key was seen."""

    STARTUP = 1
    STEADY = 2


ALWAYS = Phase.STARTUP | Phase.STEADY
