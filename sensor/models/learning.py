"""When learning ends, and what learning makes of many siblings."""

from __future__ import annotations

import posixpath
import re
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass

from sensor.events import Event, Operation, OperationClass, Origin
from sensor.models.keys import Key, Program, WriteKey
from sensor.models.model import Model, ModelState
from sensor.paths import Label, Match, Pattern, is_protected

_SIBLINGS = 8


@dataclass(frozen=True, slots=True)
class LearningSettings:
    """How long models learn. Seconds, cumulative over an image's containers; 0 means at once."""

    learn_seconds: float = 3600.0
    dry_run_seconds: float = 86400.0
    startup_pause: float = 30.0  # without anything new: a start-up is over


def next_state(model: Model, settings: LearningSettings) -> tuple[ModelState, str] | None:
    """The state that time moves a model to, with the cause, or None while it stays."""
    if model.manual:
        return None
    if model.state is ModelState.LEARNING:
        # Loss while learning starts the clock again: what was lost may have been anything.
        clean = model.observed_seconds - model.lost_seconds
        if model.runs and clean >= settings.learn_seconds:
            return (
                ModelState.DRY_RUN,
                f"learned {len(model.keys)} keys for {_minutes(clean)} without loss "
                + f"in {model.runs} runs",
            )
    elif model.state is ModelState.DRY_RUN and model.dry_run_seconds >= settings.dry_run_seconds:
        return ModelState.ACTIVE, f"nothing new for {_minutes(model.dry_run_seconds)} of dry run"
    return None


def _minutes(seconds: float) -> str:
    return f"{seconds / 60:.0f} min" if seconds >= 120 else f"{seconds:.0f} s"


_MKSTEMP = re.compile(r"(?P<prefix>.*?)[A-Za-z0-9]{6}")
_TEMPORARY_OPERATIONS = (OperationClass.WRITE, OperationClass.REMOVE, OperationClass.ATTRIBUTES)


def temporary_keys(event: Event) -> list[WriteKey]:
    """What a program may do to its temporary files, learned from one that it renamed into place.

    ``mkstemp`` ends a name in six random letters and digits, of which one in seven happens to look
    like a word that no lexical class covers (``sedabcdef``). A name of that form which its program
    gives up for another in the same directory is temporary: any name there may be. The final name
    stays exact.
    """
    if event.operation is not Operation.RENAME or event.origin is Origin.IMAGE:
        return []
    directory, name = posixpath.split(event.path)
    program = Program(event.program, event.applet)
    match = _MKSTEMP.fullmatch(name)
    own = program.applet or posixpath.basename(program.path)
    if (
        match is None
        or (match["prefix"] != own and not match["prefix"].endswith((".", "_", "-")))
        or posixpath.dirname(event.path2) != directory
        or is_protected(f"{directory}/")
        or is_protected(event.path)
    ):
        return []
    pattern = Pattern((*Pattern.exact(directory).labels, Label(Match.ANY))).text
    return [WriteKey(program, pattern, operation) for operation in _TEMPORARY_OPERATIONS]


class Siblings:
    """Turns many siblings into one pattern.

    Names that no lexical class covers (``mkstemp`` with unlucky letters) are endless. When one
    program has made eight of them in one directory in one way, with the same extension or none,
    ``DIRECTORY/*`` is learned. Never in a protected place, and never for files of the image,
    whose names are fixed: those keys do not come here.
    """

    def __init__(self, keys: Iterable[Key] = ()) -> None:
        self._names: dict[tuple[Program, tuple[Label, ...], int, str], set[bytes]] = defaultdict(
            set
        )
        for key in keys:
            if isinstance(key, WriteKey):
                self.add(key)

    def add(self, key: WriteKey) -> WriteKey | None:
        """Count one learned key; the wider key that follows from it, if any."""
        pattern = Pattern.parse(key.pattern)
        if not pattern.labels:
            return None
        last = pattern.labels[-1]
        if last.match is not Match.EXACT or len(pattern.labels) < 2:
            return None
        extension = posixpath.splitext(last.name.decode(errors="replace"))[1]
        group = (key.program, pattern.labels[:-1], int(key.operation), extension)
        names = self._names[group]
        names.add(last.name)
        if len(names) < _SIBLINGS:
            return None
        directory = Pattern(pattern.labels[:-1])
        if is_protected(directory.text) or is_protected(key.pattern):
            return None
        return WriteKey(
            key.program,
            Pattern((*pattern.labels[:-1], Label(Match.ANY))).text,
            key.operation,
        )
