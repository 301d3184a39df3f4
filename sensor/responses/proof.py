"""Proof, not hope: forbidden things are tried, and what really happened is looked at.

In a cgroup of its own, under a small model of its own. Each attempt is a process: on some kernels
it does not live to tell.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import secrets
import shutil
import signal
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from sensor.containers.cgroups import find_hierarchy
from sensor.containers.container import Image
from sensor.errors import HostError
from sensor.events import Actor, OperationClass, Origin
from sensor.kernel.port import Attachment, ContainerFlag, Kernel, Mode
from sensor.models.keys import ExecKey, Program, WriteKey
from sensor.models.model import Evidence, Model
from sensor.responses.knowledge import Knowledge

_FLAGS = ContainerFlag.WATCHED | ContainerFlag.HOST_MOUNTS | ContainerFlag.NO_SESSIONS
_SECONDS = 30.0
_BEFORE = "before"
_FAILED = 100  # exit status: this plus errno

# Runs as: python -I -S -B -c _TRY attempt directory
_TRY = """
import ctypes, mmap, os, sys
what, directory = sys.argv[1:]
file = lambda name: os.path.join(directory, name)
try:
    if what.startswith("execute"):
        name = file("known" if what == "execute what is known" else "forbidden")
        if what == "execute from memory":
            memory = os.memfd_create("x")
            os.write(memory, open(name, "rb").read())
            name = memory
        os.execve(name, ["x"], {})
    elif what == "map code":
        place = open(sys.argv[2] + "/shared/code", "rb")
        mmap.mmap(place.fileno(), 4096, mmap.MAP_PRIVATE, mmap.PROT_READ | mmap.PROT_EXEC)
    elif what.startswith("write"):
        name = file("allowed" if what == "write what is known" else "kept")
        os.write(os.open(name, os.O_WRONLY), b"after!")
    elif what == "truncate a file":
        os.truncate(file("kept"), 0)
    elif what == "create a file":
        os.open(file("created"), os.O_WRONLY | os.O_CREAT, 0o600)
    elif what == "rename a file":
        os.rename(file("kept"), file("renamed"))
    elif what == "remove a file":
        os.unlink(file("kept"))
    elif what == "change a mode":
        os.chmod(file("kept"), 0o777)
except OSError as error:
    sys.exit(100 + error.errno)
"""

_ALLOWED = ("execute what is known", "write what is known")
# The first ones are what the small proof tries.
_FORBIDDEN = (
    "execute a program", "write a file", "execute from memory", "map code", "truncate a file",
    "create a file", "rename a file", "remove a file", "change a mode",
)  # fmt: skip
_EXECUTIONS = ("execute a program", "execute from memory", "map code")
_SMALL = ("execute what is known", *_FORBIDDEN[:2])


@dataclass(frozen=True, slots=True)
class Attempt:
    """One thing that was tried, and what became of it."""

    name: str
    allowed: bool  # the model knows it
    outcome: str  # "done", "denied", "killed", or what else the process ended with
    changed: bool  # it had an effect
    errno: int = 0  # what the process saw
    promised: bool = True  # whether this attachment promises to refuse it

    @property
    def held(self) -> bool:
        """Whether it came out as promised."""
        if self.allowed:
            return self.outcome == "done"
        return not self.promised or (self.outcome in ("denied", "killed") and not self.changed)

    @property
    def text(self) -> str:
        """For a person."""
        told = {
            "done": "done",
            "denied": f"refused ({errno.errorcode.get(self.errno, str(self.errno))})",
            "killed": "killed" + (", but it had happened" if self.changed else ""),
        }.get(self.outcome, self.outcome)
        if self.allowed or self.outcome != "done":
            return told
        return (
            "it happened; this attachment only reports it" if not self.promised else "it happened"
        )


async def prove(
    kernel: Kernel,
    knowledge: Knowledge,
    directory: Path,
    *,
    small: bool = False,
    on_cgroup: Callable[[int], None] = lambda _: None,
) -> list[Attempt]:
    """Try what must be refused and what must not.

    Args:
        kernel: that is to refuse.
        knowledge: of this kernel.
        directory: where files for it may be made; programs must be executable there.
        small: only a few, for often.
        on_cgroup: told which cgroup it happens in.

    Raises:
        HostError: no cgroup or no file can be made.
    """
    names = _SMALL if small else (*_ALLOWED, *_FORBIDDEN)
    with _place(directory) as place, _cgroup() as cgroup:
        model = _model(place)
        knowledge.load(model)
        on_cgroup(cgroup.stat().st_ino)
        try:
            kernel.watch(
                cgroup.stat().st_ino,
                model=knowledge.number(model),
                flags=_FLAGS,
                mode=Mode.refusing(),
            )
            try:
                return [await _attempt(name, place, cgroup, kernel.attachment) for name in names]
            finally:
                kernel.unwatch(cgroup.stat().st_ino)
        finally:
            knowledge.forget(model)


def promises(attachment: Attachment, name: str) -> bool:
    """Whether an attachment promises that something forbidden has no effect."""
    if name in _EXECUTIONS:
        return attachment.guarantee != "detect"
    if name == "write a file":
        return attachment.guarantee_files != "detect"
    return attachment.guarantee_files == "deny"


async def _attempt(name: str, place: Path, cgroup: Path, attachment: Attachment) -> Attempt:
    before = _reset(place)
    process = await asyncio.create_subprocess_exec(
        _python(),
        *("-I", "-S", "-B", "-c", _TRY, name, str(place)),
        preexec_fn=lambda: _enter(cgroup),
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.DEVNULL,
    )
    try:
        status = await asyncio.wait_for(process.wait(), _SECONDS)
    except TimeoutError:
        process.kill()
        await process.wait()
        status = -signal.SIGALRM
    outcome, number = _outcome(status)
    return Attempt(
        name,
        allowed=name in _ALLOWED,
        outcome=outcome,
        errno=number,
        changed=outcome == "done" if name in _EXECUTIONS else _state(place) != before,
        promised=promises(attachment, name),
    )


def _outcome(status: int) -> tuple[str, int]:
    if status == 0:
        return "done", 0
    if status == -signal.SIGKILL:
        return "killed", 0
    if status > _FAILED:
        number = status - _FAILED
        return ("denied", number) if number == errno.EPERM else (os.strerror(number), number)
    return f"ended with {status}", 0


def _enter(cgroup: Path) -> None:
    (cgroup / "cgroup.procs").write_text(str(os.getpid()))


def _python() -> str:
    return str(Path(sys.executable).resolve())


def _model(place: Path) -> Model:
    python = Program(_python())
    model = Model(f"rote-proof-{place.name}", 0, Image("rote-proof"), "proof")
    # What lies on tmpfs has that origin; elsewhere a plain cgroup's files have none.
    for origin in (Origin.UNKNOWN, Origin.TMPFS):
        for parent, program in (
            (Program(""), python),
            (python, Program(str(place / "known"))),
        ):
            model.add(ExecKey(parent, program, origin, Actor.SERVICE), Evidence(0, 0))
    model.add(WriteKey(python, str(place / "allowed"), OperationClass.WRITE), Evidence(0, 0))
    return model


@contextlib.contextmanager
def _place(directory: Path) -> Iterator[Path]:
    source = shutil.which("true", path="/usr/bin:/bin")
    if source is None:
        raise HostError("true: not found in /usr/bin or /bin; expected a program to execute")
    try:
        with (
            tempfile.TemporaryDirectory(prefix="proof-", dir=directory.resolve()) as name,
            tempfile.TemporaryDirectory(prefix="rote-proof-", dir="/dev/shm") as shared,
        ):
            place = Path(name)
            for program in ("known", "forbidden"):
                shutil.copy(source, place / program)
            (Path(shared) / "code").write_bytes(bytes(4096))
            (place / "shared").symlink_to(shared)
            yield place
    except OSError as error:
        raise HostError(f"{directory}: {error.strerror}; expected a place for files") from error


@contextlib.contextmanager
def _cgroup() -> Iterator[Path]:
    path = find_hierarchy().root / f"rote-proof-{secrets.token_hex(6)}"
    try:
        path.mkdir()
    except OSError as error:
        raise HostError(f"{path}: {error.strerror}; expected to make a cgroup there") from error
    try:
        yield path
    finally:
        with contextlib.suppress(OSError):
            path.rmdir()


def _reset(place: Path) -> list[tuple[object, ...]]:
    for name in ("created", "renamed"):
        (place / name).unlink(missing_ok=True)
    for name in ("kept", "allowed"):
        (place / name).write_text(_BEFORE)
        (place / name).chmod(0o600)
    return _state(place)


def _state(place: Path) -> list[tuple[object, ...]]:
    found: list[tuple[object, ...]] = []
    for name in ("kept", "allowed", "created", "renamed"):
        path = place / name
        found.append((path.exists() and (path.stat().st_mode, path.read_text()),))
    return found
