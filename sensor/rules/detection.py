"""What kind of deviation a novelty is, and how audits call it.

The kernel side makes the same choice before it refuses (``exec_detect()`` and ``object_detect()``
in bpf/verdict.bpf.c); where it could not, this one counts.
"""

from __future__ import annotations

from sensor.audits.audit import AuditType
from sensor.events import Actor, Detection, Event, EventFlag, EventKind, Operation, Origin, WalkEnd
from sensor.paths import is_protected

PROCESSES = (
    Detection.UNKNOWN_PROGRAM,
    Detection.UNKNOWN_PARENT,
    Detection.STARTUP_PROGRAM,
    Detection.UNKNOWN_ARGUMENTS,
    Detection.CHANGED_PROGRAM,
    Detection.MEMORY_PROGRAM,
    Detection.SETUID_PROGRAM,
    Detection.DENIED_PROGRAM,
)
FILESYSTEM = (Detection.UNKNOWN_WRITE, Detection.PROTECTED_WRITE, Detection.DENIED_PATH)
# A person named these: they hold whatever the model has learned so far.
DENIALS = frozenset({Detection.DENIED_PROGRAM, Detection.DENIED_PATH})
# What is found without asking the model, in every state of it.
HARD = frozenset({*DENIALS, Detection.CHANGED_PROGRAM, Detection.MEMORY_PROGRAM})

# What a wrong model takes for a deviation most often, and what harms least when it is let pass.
# Tools of the start-up are not among them: they are what somebody who breaks in looks for.
SOFT = frozenset({Detection.UNKNOWN_PARENT, Detection.UNKNOWN_ARGUMENTS, Detection.UNKNOWN_WRITE})
# What is told only, while one kind of a model's keys has not settled.
ALERT_ONLY = {
    "executions": frozenset(
        {Detection.UNKNOWN_PROGRAM, Detection.UNKNOWN_PARENT, Detection.UNKNOWN_ARGUMENTS}
    ),
    "writes": frozenset({Detection.UNKNOWN_WRITE}),
}

_IN_ITS_FILES = (WalkEnd.ROOT, WalkEnd.BY_NAME)


def detect(
    event: Event,
    *,
    known_program: bool,
    denied: bool = False,
    known_otherwise: Detection = Detection.NONE,
) -> Detection:
    """What kind of deviation a novel event is.

    Args:
        event: that the effective policy does not know.
        known_program: an execution whose program the model knows under another parent.
        denied: a rule names the program or the path.
        known_otherwise: an execution that the model knows at start-up only, or with other
            arguments: the detection that this is.
    """
    if event.kind is EventKind.EXEC:
        return _detect_program(event, known_program, denied, known_otherwise)
    if denied:
        return Detection.DENIED_PATH
    if is_protected(event.path) or (event.path2 and is_protected(event.path2)):
        return Detection.PROTECTED_WRITE
    return Detection.UNKNOWN_WRITE


def _detect_program(
    event: Event, known_program: bool, denied: bool, known_otherwise: Detection
) -> Detection:
    if denied:
        return Detection.DENIED_PROGRAM
    if event.origin is Origin.MEMORY:
        return Detection.MEMORY_PROGRAM
    if event.walk_end not in _IN_ITS_FILES:
        return Detection.UNKNOWN_PROGRAM
    if event.origin in (Origin.ADDED, Origin.TMPFS) and event.operation is not Operation.SCRIPT:
        return Detection.CHANGED_PROGRAM
    if event.actor is Actor.SESSION and not event.program:
        return Detection.EXEC_SESSION
    if event.flags & EventFlag.SETUID:
        return Detection.SETUID_PROGRAM
    if known_otherwise:
        return known_otherwise
    return Detection.UNKNOWN_PARENT if known_program else Detection.UNKNOWN_PROGRAM


def audit_type(event: Event, detection: Detection) -> AuditType:
    """How an audit calls a deviation: an object that lies elsewhere has a name of its own."""
    elsewhere = event.walk_end not in _IN_ITS_FILES
    if elsewhere and detection in (Detection.UNKNOWN_PROGRAM, Detection.UNKNOWN_WRITE):
        return AuditType.UNRESOLVED_OBJECT
    return AuditType(detection.name.lower())
