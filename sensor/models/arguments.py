"""How interpreters, shells and downloaders are called: the shape of their arguments, not the text.

``sh -c`` out of a web server is another thing than ``sh /usr/lib/cron/job``, although both execute
a known shell. A shape is the options in front of the first operand, and that operand; behind an
option that brings code along (``-c``, ``-e``, ``-r``, ``-m``) nothing counts. ``shape_node()`` in
bpf/exec.bpf.c is the same function.
"""

from __future__ import annotations

import os
import posixpath
import re
from collections.abc import Sequence

from sensor.events import Actor, Event, EventFlag, EventKind, Operation
from sensor.models.keys import ANY_ARGUMENTS, ExecKey, Program
from sensor.paths import MARK_RANDOM, canonical

_DOWNLOADERS = r"curl|wget|nc|ncat|netcat|nc\.openbsd|nc\.traditional|socat[0-9]*"
_DOWNLOADER = re.compile(_DOWNLOADERS)
_SHAPED = re.compile(
    r"sh|bash|dash|ash|zsh|ksh|python[0-9.]*|perl[0-9.]*|ruby[0-9.]*|php[0-9.]*|node|nodejs"
    rf"|lua[0-9.]*|{_DOWNLOADERS}"
)
MANY_SHAPES = 8  # called in that many ways, an interpreter is known whatever its arguments are
_ARGUMENTS = 4
_ANY_OPERAND = chr(MARK_RANDOM)
_SHORT_OPTION, _LONG_OPTION, _OPERAND = 4, 8, 159  # bytes that count
_LONG_NUMBER = re.compile(r"[0-9]{4}")  # a version is shorter
_BRINGS_CODE = frozenset(byte & 31 for byte in b"cemr")


def is_shaped(program: Program) -> bool:
    """Whether what a program does depends on its arguments more than on itself."""
    return _SHAPED.fullmatch(program.applet or posixpath.basename(program.path)) is not None


def shapes(program: Program, argv: Sequence[str]) -> tuple[str, ...]:
    """The shapes by which a call may be known: as it is, and with any operand.

    Args:
        program: what runs.
        argv: its arguments, its name first.

    Returns:
        ANY_ARGUMENTS for programs whose arguments do not matter.
    """
    if not is_shaped(program) or not argv:
        return (ANY_ARGUMENTS,)
    first = 1
    multicall = posixpath.basename(program.path)
    if program.applet and posixpath.basename(argv[0]).lstrip("-") == multicall != program.applet:
        first = 2  # `busybox sh …`
    out = bytearray()
    for text in argv[first : first + _ARGUMENTS]:
        argument = os.fsencode(text)
        if not argument.startswith(b"-") or len(argument) == 1:
            exact = os.fsdecode(bytes(out + argument[:_OPERAND]))
            return exact, os.fsdecode(bytes(out)) + _ANY_OPERAND
        is_long = argument.startswith(b"--")
        out += argument[: _LONG_OPTION if is_long else _SHORT_OPTION] + b" "
        letters = (byte & 31 for byte in argument[1:_SHORT_OPTION] if byte & 64)
        if not is_long and not _BRINGS_CODE.isdisjoint(letters):
            break
    return (os.fsdecode(bytes(out)),)


def shape(program: Program, argv: Sequence[str]) -> str:
    """The shape by which a call is remembered.

    With any operand where that is a made-up name, or what a downloader is to fetch.
    """
    exact, *wider = shapes(program, argv)
    if not wider:
        return exact
    if _DOWNLOADER.fullmatch(program.applet or posixpath.basename(program.path)):
        return wider[0]
    operand = exact.removeprefix(wider[0].removesuffix(_ANY_OPERAND))
    form = canonical(os.fsencode(operand)) or b""
    made_up = MARK_RANDOM in form or _LONG_NUMBER.search(operand) is not None
    return wider[0] if made_up else exact


def shape_text(label: str) -> str:
    """A shape for people."""
    return label.replace(_ANY_OPERAND, "<any>").strip() or "no arguments"


def exec_key(event: Event) -> ExecKey:
    """The execution key an EXEC event (or an executable mapping) stands for."""
    if event.kind is not EventKind.EXEC:
        raise ValueError(f"not an execution: {event.kind!r}")
    parent, program = (
        Program(event.program, event.program_applet),
        Program(event.path, event.applet),
    )
    # Who comes in, and what the runtime starts, is judged by other means.
    by_service = event.actor is Actor.SERVICE and bool(parent.path)
    complete = event.operation is Operation.EXEC and not event.flags & EventFlag.BEFORE
    return ExecKey(
        parent=parent,
        program=program,
        origin=event.origin,
        actor=event.actor,
        script=event.operation is Operation.SCRIPT,
        shape=shape(program, event.argv) if by_service and complete else ANY_ARGUMENTS,
    )
