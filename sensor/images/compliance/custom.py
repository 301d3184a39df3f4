"""Checks that people write themselves: small programs in a directory, run without privileges.

Beside each program NAME lies NAME.yaml with what the check is about. The program gets the subject
as JSON on standard input. Exit status 0: passed; 1: failed; anything else: an error. The first line
it prints is the evidence.
"""

from __future__ import annotations

import contextlib
import os
import selectors
import signal
import stat
import subprocess
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO, Any, Literal, cast

import orjson
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from sensor.audits.scrub import scrub_text
from sensor.errors import BadInputError, YamlFileError
from sensor.images.compliance.check import Status, Verdict
from sensor.images.compliance.subject import Subject
from sensor.images.compliance.values import shorten
from sensor.rules.checks import CHECKS, CUSTOM_FROM, OWN_CHECKS, Check, is_custom
from sensor.yamlfiles import explain_validation, read_yaml

MEMORY_MAX = 512 << 20  # bytes of address space
OUTPUT_MAX = 64 << 10
SECONDS_MAX = 60.0
_JAIL = Path(__file__).with_name("jail.py")
_GRACE_SECONDS = 2.0  # for the jail to start and to end
_TIMED_OUT, _NOT_STARTED = 124, 125


class CustomModel(BaseModel):
    """What may stand beside a program."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    id: str = Field(description="A number from 9000 on, or a name")
    title: str = Field(min_length=1, max_length=80)
    severity: Literal["low", "medium", "high", "critical"]
    why: str = ""
    remedy: str = ""
    time_limit: float = Field(default=5.0, gt=0, le=SECONDS_MAX, description="Seconds")

    @field_validator("id", mode="before")
    @classmethod
    def _text(cls, value: Any) -> Any:
        return str(value) if isinstance(value, int) and not isinstance(value, bool) else value

    @field_validator("id")
    @classmethod
    def _known(cls, value: str) -> str:
        if value in CHECKS or not is_custom(value):
            raise ValueError(
                f"{value!r} is not for one's own checks; expected a number from {CUSTOM_FROM} on, "
                "or a name such as no-debug-shell"
            )
        return value


@dataclass(frozen=True, slots=True)
class CustomCheck:
    """A check that is a program.

    Attributes:
        check: what it is about.
        program: the file that is executed.
        seconds: how long it may take.
    """

    check: Check
    program: Path
    seconds: float = 5.0

    def run(self, subject: Subject) -> Verdict:
        """Ask it. Whatever becomes of the program, the answer is one line."""
        try:
            code, out, err = _run(self.program, subject_json(subject), self.seconds)
        except OSError as error:
            return _error(f"not run: {error.strerror}")
        line = _first_line(out)
        if code is None:
            return _error(err.decode())
        if code == 0:
            return Verdict(Status.PASS, line)
        if code == 1:
            # Interpreters end so when a script is broken, and say why elsewhere.
            return Verdict(Status.FAIL, line or _first_line(err))
        if code == _TIMED_OUT:
            return _error(f"ended after {self.seconds:g} s")
        said = _first_line(err) or line
        what = "" if code == _NOT_STARTED else _ending(code)
        return _error(": ".join(part for part in (what, said) if part))


def _ending(code: int) -> str:
    if code > 128:
        with contextlib.suppress(ValueError):
            return f"ended by {signal.Signals(code - 128).name}"
    return f"exit status {code}; expected 0 or 1"


def _error(text: str) -> Verdict:
    return Verdict(Status.UNKNOWN, f"error: {text}", error=True)


def _first_line(data: bytes) -> str:
    text = data.decode("utf-8", "replace").strip()
    return shorten(scrub_text(text.splitlines()[0].strip())) if text else ""


def subject_json(subject: Subject) -> bytes:
    """What a program is told: the fields of ``Subject`` that say what is, as one JSON object."""
    facts = asdict(subject.facts) if subject.facts is not None else None
    inventory = subject.inventory
    packages = None
    if inventory is not None:
        packages = [
            {"type": p.ecosystem, "name": p.name, "version": p.version} for p in inventory.packages
        ]
    return orjson.dumps(
        {
            "version": 1,
            "name": subject.name,
            "container_id": subject.container_id,
            "image_id": subject.image_id,
            "reference": subject.reference,
            "spec": subject.spec,
            "inspected": subject.inspected,
            "image": subject.image,
            "facts": facts,
            "packages": packages,
            "host": asdict(subject.host),
        },
        default=str,
        option=orjson.OPT_NON_STR_KEYS,
    )


def _run(program: Path, data: bytes, seconds: float) -> tuple[int | None, bytes, bytes]:
    """Exit status, output, errors; None and a line where it was ended for what it did."""
    jail = subprocess.Popen(
        [sys.executable, "-I", "-S", "-B", str(_JAIL), str(seconds), str(MEMORY_MAX), str(program)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        start_new_session=True,
        env={},
        cwd="/",
    )
    try:
        out, err, why = _exchange(jail, data, time.monotonic() + seconds + _GRACE_SECONDS)
        if why:
            return None, out, why.encode()
        left = _GRACE_SECONDS + seconds
        return jail.wait(left), out, err
    except subprocess.TimeoutExpired:
        return None, b"", f"ended after {seconds:g} s".encode()
    finally:
        # Also what it started and left behind, where there is no namespace that ends it.
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(jail.pid, signal.SIGKILL)
        jail.wait()
        for pipe in (jail.stdin, jail.stdout, jail.stderr):
            if pipe is not None:
                with contextlib.suppress(OSError):
                    pipe.close()


def _exchange(jail: subprocess.Popen[bytes], data: bytes, end: float) -> tuple[bytes, bytes, str]:
    """Hand over the subject and take what comes; and why that was cut short."""
    assert jail.stdin is not None
    assert jail.stdout is not None
    assert jail.stderr is not None
    taken: dict[IO[bytes], bytearray] = {jail.stdout: bytearray(), jail.stderr: bytearray()}
    rest, why = memoryview(data), ""
    with selectors.DefaultSelector() as selector:
        for pipe in (jail.stdin, *taken):
            os.set_blocking(pipe.fileno(), False)
        selector.register(jail.stdin, selectors.EVENT_WRITE)
        for pipe in taken:
            selector.register(pipe, selectors.EVENT_READ)
        while any(pipe in selector.get_map() for pipe in taken) and not why:
            left = end - time.monotonic()
            # A child that outlives the program may hold the pipes: that the program ended counts.
            ready = selector.select(min(0.1, max(0.0, left)))
            if not ready and (left <= 0 or jail.poll() is not None):
                break
            for key, _ in ready:
                if key.fileobj is jail.stdin:
                    rest = _feed(selector, jail.stdin, rest)
                elif not _take(selector, cast("IO[bytes]", key.fileobj), taken):
                    why = f"more than {OUTPUT_MAX >> 10} kB of output"
    return bytes(taken[jail.stdout]), bytes(taken[jail.stderr]), why


def _feed(selector: selectors.BaseSelector, pipe: IO[bytes], rest: memoryview) -> memoryview:
    try:
        rest = rest[os.write(pipe.fileno(), rest[: 64 << 10]) :]
    except BlockingIOError:
        return rest
    except BrokenPipeError:
        rest = rest[:0]  # it does not want to know
    if not rest:
        selector.unregister(pipe)
        pipe.close()
    return rest


def _take(
    selector: selectors.BaseSelector, pipe: IO[bytes], taken: dict[IO[bytes], bytearray]
) -> bool:
    try:
        piece = os.read(pipe.fileno(), 64 << 10)
    except BlockingIOError:
        return True
    if not piece:
        selector.unregister(pipe)
    taken[pipe] += piece
    return len(taken[pipe]) <= OUTPUT_MAX


def read_custom_checks(directory: Path = OWN_CHECKS) -> tuple[CustomCheck, ...]:
    """The checks of a directory, by their names.

    Args:
        directory: one that is not there has none.

    Raises:
        BadInputError: one cannot be used; one line with the file and what was expected.
    """
    try:
        names = sorted(entry.name for entry in directory.iterdir())
    except FileNotFoundError:
        return ()
    except OSError as error:
        raise BadInputError(
            f"{directory}: {error.strerror}; expected a directory of checks"
        ) from error
    names = [name for name in names if not name.startswith(".") and not name.endswith("~")]
    found: list[CustomCheck] = []
    for name in names:
        if name.endswith((".yaml", ".yml")):
            stem = name.rpartition(".")[0]
            if not any(other.rpartition(".")[0] == stem or other == stem
                       for other in names if other != name):  # fmt: skip
                raise BadInputError(f"{directory / name}: there is no program {stem} beside it")
            continue
        found.append(_read(directory / name))
    seen: dict[str, Path] = {}
    for custom in found:
        if custom.check.id in seen:
            raise BadInputError(
                f"{custom.program}: id {custom.check.id} is that of {seen[custom.check.id]}"
            )
        seen[custom.check.id] = custom.program
    return tuple(found)


def _read(program: Path) -> CustomCheck:
    facts = program.stat()
    if not stat.S_ISREG(facts.st_mode):
        raise BadInputError(f"{program}: is no ordinary file; expected a program")
    if not facts.st_mode & 0o111:
        raise BadInputError(f"{program}: is not executable; expected a program (chmod 755)")
    if facts.st_mode & 0o002:
        raise BadInputError(f"{program}: everybody may change it; expected chmod o-w")
    beside = next(
        (p for p in (Path(f"{program}.yaml"), program.with_suffix(".yaml")) if p.is_file()), None
    )
    if beside is None:
        raise BadInputError(
            f"{program}: there is no {program.name}.yaml beside it; expected one with id, title "
            "and severity"
        )
    document = read_yaml(beside)
    try:
        model = CustomModel.model_validate(document.value)
    except ValidationError as error:
        raise YamlFileError(explain_validation(document, error, CustomModel)) from error
    check = Check(model.id, "", model.severity, model.title, model.why, model.remedy)
    return CustomCheck(check, program.resolve(), model.time_limit)
