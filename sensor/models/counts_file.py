"""The counts of a model as plain values and back: units, keys in them, hold-outs, open runs.

Models that were written before there were counts have none of these fields: they begin to count.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

from sensor.errors import ModelFileError
from sensor.models.incidence import GRIDS, Counts, Incidence, Trial
from sensor.models.keys import Key
from sensor.models.model import Model

_OPEN_RUNS_MAX = 256  # of containers that may have ended while no daemon looked

T = TypeVar("T")


class Reader:
    """A map whose fields are taken with their type checked."""

    def __init__(self, values: Any, where: str, prefix: str = "") -> None:
        if not isinstance(values, dict):
            raise ModelFileError(f"{where}: expected a map, found {type(values).__name__}")
        self._values = values
        self._prefix = prefix
        self.where = where

    def get(self, name: str, kind: Any) -> Any:
        """A field.

        Raises:
            ModelFileError: it is missing or of another type.
        """
        value = self._values.get(name)
        if not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
            expected = kind.__name__ if isinstance(kind, type) else "number"
            found = "nothing" if name not in self._values else type(value).__name__
            raise ModelFileError(
                f"{self.where}: {self._prefix}{name}: expected {expected}, found {found}"
            )
        return value

    def optional(self, name: str, kind: Any, default: Any) -> Any:
        """A field that an earlier Rote did not write."""
        return self.get(name, kind) if self.has(name) else default

    def has(self, name: str) -> bool:
        """Whether there is such a field: later versions have some that earlier ones lack."""
        return name in self._values

    def convert(self, name: str, kind: Callable[[str], T]) -> T:
        """A field that is text with a meaning.

        Raises:
            ModelFileError: it is missing, or means nothing.
        """
        value = self.get(name, str)
        try:
            return kind(value)
        except ValueError as error:
            raise ModelFileError(f"{self.where}: {self._prefix}{name}: {error}") from error


def pack_counts(model: Model) -> dict[str, Any]:
    """The fields about counts. Keys are named by their place among the model's keys."""
    place = {key: i for i, key in enumerate(model.keys)}
    incidence = model.incidence
    return {
        "incidence": {
            "starts": incidence.starts,
            "units": list(incidence.units),
            "keys": [
                [place[key], counts.first, counts.starts, *counts.steady]
                for key, counts in incidence.keys.items()
                if key in place
            ],
            "curve": [list(point) for point in incidence.curve],
        },
        "trial": _pack_trial(model.trial),
        "in_active": _pack_trial(model.in_active),
        "promise": model.promise,
        "unsettled": sorted(model.unsettled),
        "dry_run_total": model.dry_run_total,
        "lost_starts": model.lost_starts,
        "last_used_ns": model.last_used_ns,
        "open_runs": [
            [name, complete, since]
            for name, (complete, since) in list(model.open_runs.items())[-_OPEN_RUNS_MAX:]
        ],
    }


def unpack_counts(reader: Reader, model: Model) -> None:
    """Read what ``pack_counts`` wrote into a model whose keys are there.

    Raises:
        ModelFileError: naming the place and what was expected.
    """
    if not reader.has("incidence"):
        model.last_used_ns = model.updated_ns
        return
    keys = list(model.keys)
    inner = Reader(reader.get("incidence", dict), reader.where, "incidence.")
    counted = _rows(inner, "keys", lambda row: _counts(row, keys))
    model.incidence = Incidence(
        starts=inner.get("starts", int),
        units=_rows(inner, "units", int, length=len(GRIDS)),
        keys=dict(counted),
        curve=_rows(inner, "curve", lambda row: (int(row[0]), int(row[1]))),
    )
    model.trial = _trial(reader, "trial")
    model.in_active = _trial(reader, "in_active")
    model.promise = float(reader.get("promise", (int, float)))
    model.unsettled = frozenset(_rows(reader, "unsettled", str))
    model.dry_run_total = float(reader.get("dry_run_total", (int, float)))
    model.lost_starts = reader.get("lost_starts", int)
    model.last_used_ns = reader.get("last_used_ns", int)
    model.open_runs = dict(
        _rows(reader, "open_runs", lambda row: (str(row[0]), (bool(row[1]), float(row[2]))))
    )


def _pack_trial(trial: Trial) -> list[float]:
    return [trial.units, trial.weight, trial.novel, trial.novel_weight, trial.runs, trial.attempt]


def _trial(reader: Reader, field: str) -> Trial:
    units, weight, novel, novel_weight, runs, attempt = _rows(reader, field, float, length=6)
    return Trial(int(units), weight, int(novel), novel_weight, int(runs), max(1, int(attempt)))


def _counts(row: Any, keys: list[Key]) -> tuple[Key, Counts]:
    place, first, starts, *steady = (int(number) for number in row)
    if not 0 <= place < len(keys) or len(steady) != len(GRIDS):
        raise ValueError(f"{row!r}: expected the place of a key and {len(GRIDS) + 2} counts")
    return keys[place], Counts(first, starts, steady)


def _rows(
    reader: Reader, field: str, convert: Callable[[Any], T], *, length: int | None = None
) -> list[T]:
    rows = reader.get(field, list)
    if length is not None and len(rows) != length:
        raise ModelFileError(f"{reader.where}: {field}: expected {length} numbers")
    found = []
    for i, row in enumerate(rows):
        try:
            found.append(convert(row))
        except (ValueError, TypeError, IndexError, OverflowError) as error:
            raise ModelFileError(f"{reader.where}: {field}[{i}]: {error}") from error
    return found
