"""Recorded runs of services: where they are, and reading them whoever made them."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from sensor.containers.container import Image
from sensor.errors import BadInputError
from sensor.events import Event
from sensor.models.keys import Key
from sensor.models.model import Model
from sensor.testing import load_events
from tests.soak.convert import load_foreign

OWN = Path(__file__).with_name("traces")
_LEARN, _JUDGE = ".learn.events.gz", ".judge.events.gz"
_FOREIGN_LEARN, _FOREIGN_JUDGE = ".L.jsonl.gz", ".T.jsonl.gz"


@dataclass(frozen=True)
class Run:
    """What one container did."""

    events: list[Event]

    @cached_property
    def keys(self) -> list[tuple[Event, Key]]:
        """What that stands for when nothing is known; nothing of what must never be learned."""
        nothing = Model("", 0, Image(), "")
        return [
            (event, key)
            for event in self.events
            if (judgement := nothing.judge(event)).learnable
            for key in judgement.novel
        ]


@dataclass(frozen=True, slots=True)
class Trace:
    """One service: the run to learn from, and one in a fresh container."""

    name: str
    learn: Run
    judge: Run


def paths_of(folder: Path, service: str) -> tuple[Path, Path]:
    """Where the two runs of a recorded service lie."""
    return folder / f"{service}{_LEARN}", folder / f"{service}{_JUDGE}"


def find(places: Iterable[Path]) -> list[tuple[str, Path, Path]]:
    """The services in these folders, or of these files (of the learning run): name, both runs.

    Raises:
        BadInputError: a place has none, or the second run is missing.
    """
    found = []
    for place in places:
        files = sorted(place.iterdir()) if place.is_dir() else [place]
        pairs = [pair for file in files if (pair := _pair(file))]
        if not pairs:
            raise BadInputError(
                f"{place}: expected NAME{_LEARN} (scripts/soak record), NAME{_FOREIGN_LEARN} (a "
                "fanotify trace), or a folder of such"
            )
        found += pairs
    for name, _, judge in found:
        if not judge.exists():
            raise BadInputError(f"{judge}: not there; expected the second run of {name}")
    return found


def _pair(file: Path) -> tuple[str, Path, Path] | None:
    for learn, judge in ((_LEARN, _JUDGE), (_FOREIGN_LEARN, _FOREIGN_JUDGE)):
        if file.name.endswith(learn):
            name = file.name.removesuffix(learn)
            return name, file, file.with_name(name + judge)
    return None


def load(name: str, learn: Path, judge: Path) -> Trace:
    """Read both runs of a service.

    Raises:
        BadInputError: naming the file and the place.
    """
    read = load_foreign if learn.name.endswith(_FOREIGN_LEARN) else load_events
    return Trace(name, Run(read(learn)), Run(read(judge)))
