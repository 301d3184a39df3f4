"""What the machine that runs the VMs must have: programs, root, one cache with a lock."""

from __future__ import annotations

import fcntl
import os
import shutil
import subprocess
import sys
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
    "setpriv": "util-linux",
}


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
        done = subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            env={**os.environ, "LC_ALL": "C.UTF-8", **(env or {})},
            text=True,
            errors="replace",
            check=False,
        )
    except OSError as error:
        raise VmError(f"{what}: {command[0]} does not start: {error.strerror}") from error
    if done.returncode:
        lines = [line for line in (done.stderr or done.stdout).splitlines() if line.strip()]
        reason = next((line for line in lines if line.startswith("E:")), lines[-1] if lines else "")
        raise VmError(f"{what}: {command[0]} ended with {done.returncode}: {reason}")
    return done.stdout


def cache_dir() -> Path:
    """The directory that keeps kernels, the root image and logs: outside the repository."""
    base = Path(os.environ.get("XDG_CACHE_HOME") or "/var/cache")
    directory = base / "rote-vm"
    try:
        directory.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise VmError(f"{directory}: cannot be made: {error.strerror}; run as root") from error
    return directory


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
    install = ["apt-get", "install", "-q", "-y", "--no-install-recommends", *packages]
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
        yield


def host_python() -> Path:
    """An interpreter with pip: the repository's virtual environment, made when it is missing."""
    python = REPOSITORY / ".venv/bin/python"
    if not python.exists():
        say("scripts/setup --test")
        call([REPOSITORY / "scripts/setup", "--test"], what="setting up .venv")
    return python
