"""What the machine that runs the VMs must have: programs, root, one cache with a lock."""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[2]

# Program → the distribution's package that brings it.
_PROGRAMS: Mapping[str, str] = {
    "qemu-system-x86_64": "qemu-system-x86",
    "mmdebstrap": "mmdebstrap",
    "mke2fs": "e2fsprogs",
    "depmod": "kmod",
    "dpkg-deb": "dpkg",
    "git": "git",
    "setpriv": "util-linux",
}
_SCRATCH = ".building-"


class VmError(Exception):
    """The VMs cannot be had; the message is one line that says what is missing and where."""


def say(line: str) -> None:
    """Write one line for the person who waits; stdout belongs to the guest's command."""
    sys.stderr.write(f"vm: {line}\n")
    sys.stderr.flush()


def call(command: Sequence[str | Path], *, what: str, env: Mapping[str, str] | None = None) -> str:
    """Run a program to its end and return its stdout.

    Args:
        command: the program and its arguments.
        what: what it was for; begins the error.
        env: variables to add to the environment.

    Raises:
        VmError: it failed, or is not there; ends with the last line that it wrote.
    """
    try:
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env={**os.environ, "LC_ALL": "C.UTF-8", **(env or {})},
            text=True,
            errors="replace",
        )
    except OSError as error:
        raise VmError(f"{what}: {command[0]} does not start: {error.strerror}") from error
    try:
        stdout, stderr = process.communicate()
    except BaseException:
        end(process)
        raise
    if process.returncode:
        lines = [line for line in (stderr or stdout).splitlines() if line.strip()]
        reason = next((line for line in lines if line.startswith("E:")), lines[-1] if lines else "")
        raise VmError(f"{what}: {command[0]} ended with {process.returncode}: {reason}")
    return stdout


def end(process: subprocess.Popen[str] | subprocess.Popen[bytes]) -> None:
    """Ask a child to end, give it time to clean up after itself, then kill it."""
    process.terminate()
    try:
        process.wait(20)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def cache_dir() -> Path:
    """The directory that keeps the kernels and the root image: outside the repository."""
    base = Path(os.environ.get("XDG_CACHE_HOME") or Path("~/.cache").expanduser())
    directory = base / "rote/vm"
    try:
        directory.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise VmError(f"{directory}: cannot be made: {error.strerror}") from error
    return directory


def key_of(*recipe: object) -> str:
    """A short name for what is made by a recipe: another recipe, another name."""
    return hashlib.sha256(json.dumps(recipe).encode()).hexdigest()[:12]


def prepare_host() -> None:
    """Make sure that every program is there; install packages when run as root.

    Raises:
        VmError: something is missing and cannot be installed.
    """
    os.environ["PATH"] = os.environ.get("PATH", "/usr/bin:/bin") + ":/usr/sbin:/sbin"
    if os.geteuid() != 0:
        raise VmError("building the guest's root file system needs root; try: sudo scripts/vm …")
    packages = sorted({package for name, package in _PROGRAMS.items() if not shutil.which(name)})
    if not packages:
        return
    say(f"apt-get install {' '.join(packages)}")
    install = [
        "apt-get", "install", "-q", "-y", "--no-install-recommends",
        "-oDPkg::Lock::Timeout=300", *packages,
    ]  # fmt: skip
    quiet = {"DEBIAN_FRONTEND": "noninteractive"}
    try:
        call(install, what=f"installing {' '.join(packages)}", env=quiet)
    except VmError:
        # The package lists may be older than what the mirror still has.
        call(["apt-get", "update", "-q"], what="apt-get update")
        call(install, what=f"installing {' '.join(packages)}", env=quiet)
    missing = sorted(name for name in _PROGRAMS if not shutil.which(name))
    if missing:
        raise VmError(f"{', '.join(missing)}: still missing after installing {' '.join(packages)}")


@contextmanager
def building() -> Iterator[None]:
    """Hold the cache's lock: one process at a time builds, others wait for what it makes."""
    with (cache_dir() / "lock").open("a") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            say("waiting: another scripts/vm is building the cache")
            fcntl.flock(lock, fcntl.LOCK_EX)
        # A build that was killed could not clean up after itself.
        for left_over in cache_dir().glob(f"{_SCRATCH}*"):
            shutil.rmtree(left_over)
        yield


@contextmanager
def scratch_dir() -> Iterator[Path]:
    """A directory to build in, in the cache: what is finished is renamed into its place."""
    with tempfile.TemporaryDirectory(prefix=_SCRATCH, dir=cache_dir()) as scratch:
        yield Path(scratch)


def host_python() -> Path:
    """An interpreter with pip: the repository's virtual environment, made when it is missing."""
    python = REPOSITORY / ".venv/bin/python"
    if not python.exists():
        say("scripts/setup")
        call([REPOSITORY / "scripts/setup"], what="setting up .venv")
    return python
