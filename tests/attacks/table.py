"""The attacks as data: ``attacks/SERVICE.yaml``, read and checked.

Each row says what is tried, on which way in, how to see that it happened, and what Rote should
make of it. ``{place}`` in a row stands for each entry of ``places``, ``{directory}`` and ``{base}``
for its two parts: one attack for each.
"""

from __future__ import annotations

import enum
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from sensor.audits.audit import AuditType
from sensor.errors import YamlFileError
from sensor.yamlfiles import Document, list_yaml, read_yaml
from tests.attacks.services import SERVICES, find

FOLDER = Path(__file__).parent / "attacks"
SESSION = "session"
PAYLOAD = "payload"  # as the content of a plant: the library that says that it was loaded
_TECHNIQUE = r"^T\d{4}(\.\d{3})?$"


class Kind(enum.StrEnum):
    """What an attack is made of, for the summary."""

    NEW_PROGRAM = "new program"
    CHANGED_PROGRAM = "changed or dropped program"
    PROTECTED_WRITE = "write to a protected place"
    WRITE_ELSEWHERE = "write elsewhere"
    TAMPERING = "tampering"
    LEARNED_TOOLS = "learned tools only"
    MIMICRY = "mimicry"


class Expected(enum.StrEnum):
    """What should become of an attack; of the last two the least is said."""

    PREVENTED = "prevented"  # told; under prevention it has no effect
    SEEN = "seen"  # told; tracepoints cannot keep it from happening, hooks can
    DOWN = "down"  # told; with tracepoints what attacks ends, and that is the service itself
    MISSED = "missed"  # nobody is told; ``miss`` says why


class Need(enum.StrEnum):
    """What has to be there before an attack is told; until then it is missed."""

    PHASE = "phase"  # start-up and steady phase
    ARGUMENTS = "arguments"  # shapes of interpreters' arguments

    @property
    def is_met(self) -> bool:
        """Whether this version of Rote has it: it then has the type of audit that says so."""
        return _DETECTED_AS[self] in {str(audit_type) for audit_type in AuditType}


_DETECTED_AS = {Need.PHASE: "startup_program", Need.ARGUMENTS: "unknown_arguments"}


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Effect(_Strict):
    """How to see that an attack worked: all that is given must hold."""

    says: str = ""  # the attack's output holds this
    exists: str = ""  # there is something at this path
    gone: str = ""  # there is nothing at this path
    contains: dict[str, str] = Field(default_factory=dict)  # path → text in the file
    lacks: dict[str, str] = Field(default_factory=dict)  # path → text that is not in the file
    empty: str = ""  # the file at this path has no content
    mode: dict[str, str] = Field(default_factory=dict)  # path → bits that are set, octal
    modified: dict[str, int] = Field(default_factory=dict)  # path → its time, epoch seconds

    @property
    def is_empty(self) -> bool:
        """Whether nothing is looked at."""
        return self == Effect()


class Row(_Strict):
    """One row of a file."""

    name: str = Field(pattern=r"^[^|\n]{3,80}$")
    kind: Kind
    technique: str = Field(pattern=_TECHNIQUE)
    enters: str
    command: str = Field(min_length=1)
    names: list[str] = Field(min_length=1)  # globs: the program or the path an audit must name
    types: list[AuditType] = Field(default_factory=list)  # the audit's type, where it matters
    effect: Effect = Effect()
    attempt: str = ""  # why it has no effect without Rote either
    expected: Expected
    needs: Need | None = None
    miss: str = ""  # why it is missed; beside another expectation: why it still is
    options: list[str] = Field(default_factory=list)  # for docker run
    plants: dict[str, str] = Field(default_factory=dict)  # path → content that lies there already
    places: list[str] = Field(default_factory=list)


class _File(_Strict):
    service: str
    attacks: list[Row] = Field(min_length=1)


@dataclass(frozen=True, slots=True)
class Attack:
    """One attack on one service."""

    service: str
    row: Row

    @property
    def name(self) -> str:
        """What tells it apart from all others."""
        return f"{self.service}: {self.row.name}"

    @property
    def expected(self) -> Expected:
        """What becomes of it with this version of Rote, as far as the table knows."""
        return Expected.MISSED if self.why_missed else self.row.expected

    @property
    def why_missed(self) -> str:
        """The explanation, or empty."""
        if self.row.needs is not None and not self.row.needs.is_met:
            return f"needs {self.row.needs}, which this version does not have"
        return self.row.miss


def read_attacks(folder: Path = FOLDER) -> list[Attack]:
    """All attacks, in the order of the files.

    Args:
        folder: of the files, one for each service.

    Raises:
        YamlFileError: a row is not what it must be; one line with file, line and field.
    """
    attacks: list[Attack] = []
    seen: set[str] = set()
    for path in list_yaml(folder):
        document = read_yaml(path)
        try:
            file = _File.model_validate(document.value)
        except ValidationError as error:
            first = error.errors()[0]
            raise document.error(first["loc"], first["msg"]) from error
        if file.service not in {service.name for service in SERVICES}:
            raise document.error(
                ("service",),
                f"{file.service!r}; expected one of "
                + ", ".join(service.name for service in SERVICES),
            )
        for index, row in enumerate(file.attacks):
            _check(document, file.service, index, row)
            for attack in _each(file.service, row):
                if attack.name in seen:
                    raise document.error(("attacks", index, "name"), "the name of another attack")
                seen.add(attack.name)
                attacks.append(attack)
    if not attacks:
        raise YamlFileError(f"{folder}: no attacks; expected *.yaml, one file for each service")
    return attacks


def _check(document: Document, service: str, index: int, row: Row) -> None:
    def complain(field: str, text: str) -> YamlFileError:
        return document.error(("attacks", index, field), text)

    entries = (*find(service).entries, SESSION)
    if row.enters not in entries:
        raise complain("enters", f"{row.enters!r}; expected one of {', '.join(entries)}")
    if row.enters == "job" and "\n" in row.command.strip():
        raise complain("command", "several lines; a job is one line")
    if row.effect.is_empty == (not row.attempt):
        raise complain("effect", "expected either an effect, or an attempt that says why not")
    if row.expected is Expected.MISSED and not row.miss:
        raise complain("miss", "expected an explanation of what is missed")
    if row.needs is not None and row.expected is Expected.MISSED:
        raise complain("needs", "missed all the same; expected needs only where they help")
    if bool(row.places) != ("{place}" in row.name):
        raise complain("places", "expected places and {place} in the name, or neither")
    if any(not re.fullmatch(r"[0-7]{3,5}", bits) for bits in row.effect.mode.values()):
        raise complain("effect", "expected modes as octal digits in quotes")


def _each(service: str, row: Row) -> list[Attack]:
    if not row.places:
        return [Attack(service, row)]
    return [Attack(service, _filled(row, place)) for place in row.places]


def _filled(row: Row, place: str) -> Row:
    directory, _, base = place.rpartition("/")
    words = {"{place}": place, "{directory}": directory, "{base}": base}

    def fill(value: Any) -> Any:
        if isinstance(value, str):
            for word, text in words.items():
                value = value.replace(word, text)
            return value
        if isinstance(value, list):
            return [fill(item) for item in value]
        if isinstance(value, dict):
            return {fill(key): fill(item) for key, item in value.items()}
        return value

    filled: dict[str, Any] = fill(row.model_dump())
    return Row.model_validate({**filled, "places": [], "name": row.name.replace("{place}", place)})
