"""What is told in every state of a model, and never learned.

The line for protected places (programs, libraries, accounts, keys, cron, the loader's
configuration, code by its extension): what a *program of the image*, known as one that the service
executes, does there while the model learns is the service's own behaviour. An entrypoint that
adds a user or writes a configuration is learned by the exact names, and told. All others there are
intruders: sessions, programs that were dropped or lie on volumes, programs that nobody saw being
executed as part of the service, and whatever descends from one that was caught. Nobody but a person
makes the loader load something into every program.

What a rule denies is a person's wish and says nothing about who did it: it is never learned, but
casts no doubt on its process.
"""

from __future__ import annotations

import stat

from sensor.audits.audit import Severity
from sensor.events import Actor, Detection, Event, EventKind, Operation
from sensor.models.keys import Program, written_paths
from sensor.models.model import Model
from sensor.models.trust import known_as_service
from sensor.paths import is_protected
from sensor.rules.detection import DENIALS, HARD

_PRELOAD = "/etc/ld.so.preload"
_RAN_BEFORE = 1 << 63  # of execution numbers: the process ran before it was watched
_WORDS = {
    Detection.CHANGED_PROGRAM: "executed what was written at run time",
    Detection.MEMORY_PROGRAM: "executed a program without a file",
}


def why_hard(event: Event, detection: Detection, model: Model) -> str:
    """Why an event must never be learned, for a person; empty when it may be.

    Args:
        event: that the effective policy does not know.
        detection: what kind of deviation it is.
        model: it deviates from.
    """
    if detection in DENIALS:
        return ""
    if detection in HARD:
        return f"{_WORDS[detection]} ({event.path})"
    if event.kind is EventKind.EXEC:
        return ""
    if makes_setuid(event):
        return f"made a program that raises privileges ({event.path})"
    places = [path for path, _ in written_paths(event) if is_protected(path)]
    if not places:
        return ""
    if _PRELOAD in places:
        return f"changed {_PRELOAD}"
    if event.actor is Actor.SESSION:
        return f"changed {places[0]} in a session"
    if event.exec_id & _RAN_BEFORE or known_as_service(model, Program(event.program, event.applet)):
        return ""
    return f"changed {places[0]}, and is no program of the image that the service executes"


def makes_setuid(event: Event) -> bool:
    """Whether a file gets the set-user-ID bit.

    The set-group-ID bit is not looked at: on directories, which an event does not tell from files,
    it is ordinary.
    """
    return event.operation in (Operation.CHMOD, Operation.MKNOD) and bool(
        event.open_flags & stat.S_ISUID
    )


def service_note(event: Event) -> tuple[str, Severity | None]:
    """What a person is told of a protected place that the service itself changes; or nothing."""
    if event.kind is EventKind.EXEC:
        return "", None
    places = [path for path, _ in written_paths(event) if is_protected(path)]
    if not places:
        return "", None
    # That a name ends in .py, say, matters less than what lies among programs or accounts.
    only_code = not any(is_protected(path.rpartition("/")[0] + "/") for path in places)
    by_name = only_code and not any(path.startswith("/etc/") for path in places)
    return (
        "the service's own program changed a protected place; learned by its exact name",
        Severity.INFO if by_name else Severity.MEDIUM,
    )
