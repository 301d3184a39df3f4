"""The program that container runtimes start, made on this host; and its settings beside it.

In C where there is a compiler, else in Python; both speak the same protocol.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

from sensor.errors import BadInputError, HostError, StateError

FAIL = ("open", "closed")
_PROGRAM, _CONF = "rote-gate", "gate.conf"
_NAMES = ("rote-hook", "rote-runtime")
_COMPILERS = ("cc", "gcc", "clang")
_COMPILE_SECONDS = 60.0
_SOURCE = Path(__file__).with_name("gate.c")
_SCRIPT = Path(__file__).with_name("gate_script.py")
HOOK_SECONDS = 300  # the runtimes' limit; the hook's own ones are shorter, and chosen by rules


@dataclass(frozen=True, slots=True)
class Programs:
    """The gate's programs in their directory.

    Args:
        directory: absolute; root's, and nobody else can write to it.
    """

    directory: Path

    @property
    def hook(self) -> Path:
        """An OCI ``createRuntime`` hook."""
        return self.directory / _NAMES[0]

    @property
    def runtime(self) -> Path:
        """An OCI runtime: the real one, with the hook."""
        return self.directory / _NAMES[1]

    @property
    def conf(self) -> Path:
        """What they read when they start."""
        return self.directory / _CONF

    def kind(self) -> str:
        """``C``, ``Python``, or "" when they are not there."""
        if not all((self.directory / name).exists() for name in _NAMES):
            return ""
        try:
            with (self.directory / _PROGRAM).open("rb") as file:
                return "C" if file.read(4) == b"\x7fELF" else "Python"
        except OSError:
            return ""

    def settings(self) -> dict[str, str]:
        """``run_dir``, ``runtime``, ``fail`` as they are on disk; empty when there are none.

        Raises:
            StateError: they cannot be read.
        """
        try:
            text = self.conf.read_text(encoding="utf-8")
        except FileNotFoundError:
            return {}
        except (OSError, ValueError) as error:
            raise StateError(f"{self.conf}: {error}") from error
        return dict(line.split("=", 1) for line in text.splitlines() if "=" in line)

    def install(self, run_dir: Path, runtime: Path, fail: str, *, compiler: str = "auto") -> str:
        """Make what is missing, and the settings anew. Returns the kind.

        Args:
            run_dir: of the daemon.
            runtime: the real OCI runtime.
            fail: ``open`` or ``closed``: what happens where no daemon ever said anything.
            compiler: ``auto``, a compiler's path, or ``none`` for Python.

        Raises:
            BadInputError: a path holds a line break.
            HostError: it cannot be compiled, nor is there Python; or it cannot be executed there.
            StateError: the directory cannot be written.
        """
        for path in (run_dir, runtime, self.directory):
            if "\n" in str(path):
                raise BadInputError(f"{str(path)!r}: expected a path without a line break")
        try:
            self.directory.mkdir(mode=0o755, parents=True, exist_ok=True)
            fresh = self.directory / f".{_PROGRAM}"
            fresh.unlink(missing_ok=True)
            if not (compiler != "none" and _compile(fresh, compiler)):
                _copy_script(fresh)
            fresh.chmod(0o755)
            if not _runs(fresh):
                fresh.unlink()
                raise HostError(
                    f"{self.directory}: what lies there cannot be executed; expected a file system "
                    "that is not mounted noexec"
                )
            # Renamed, so that a start at this moment finds the old one or the new one, whole.
            fresh.replace(self.directory / _PROGRAM)
            for name in _NAMES:
                link = self.directory / f".{name}"
                link.unlink(missing_ok=True)
                link.symlink_to(_PROGRAM)
                link.replace(self.directory / name)
            conf = self.directory / f".{_CONF}"
            conf.write_text(f"run_dir={run_dir}\nruntime={runtime}\nfail={fail}\n", "utf-8")
            conf.chmod(0o644)
            conf.replace(self.conf)
        except OSError as error:
            raise StateError(f"{error.filename or self.directory}: {error.strerror}") from error
        return self.kind()

    def remove(self) -> None:
        """Take them away.

        Raises:
            StateError: they cannot be.
        """
        try:
            for name in (*_NAMES, _PROGRAM, _CONF):
                (self.directory / name).unlink(missing_ok=True)
            if self.directory.is_dir() and not any(self.directory.iterdir()):
                self.directory.rmdir()
        except OSError as error:
            raise StateError(f"{error.filename}: {error.strerror}") from error


def _compile(target: Path, compiler: str) -> bool:
    """Compile the C program, statically where that works: it starts faster."""
    names = _COMPILERS if compiler == "auto" else (compiler,)
    found = next((path for name in names if (path := shutil.which(name))), None)
    if found is None:
        if compiler != "auto":
            raise HostError(f"{compiler}: there is no such compiler")
        return False
    errors = ""
    for how in (["-static"], []):
        try:
            done = subprocess.run(
                [found, "-O2", *how, "-o", str(target), str(_SOURCE)],
                capture_output=True,
                text=True,
                timeout=_COMPILE_SECONDS,
                check=False,
            )
        except (OSError, subprocess.TimeoutExpired) as error:
            raise HostError(f"{found}: {error}") from error
        if done.returncode == 0 and _runs(target):
            return True
        errors = done.stderr.strip()
    if compiler != "auto":
        last = errors.splitlines()[-1] if errors else "what it made does not run"
        raise HostError(f"{found}: {_SOURCE}: {last}")
    return False


def _runs(program: Path) -> bool:
    """Whether it starts on this host: a directory may be mounted noexec."""
    try:
        return (
            subprocess.run(
                [str(program), "--version"], timeout=10, check=False, capture_output=True
            ).returncode
            == 0
        )
    except (OSError, subprocess.TimeoutExpired):
        return False


def _copy_script(target: Path) -> None:
    if not os.access("/usr/bin/python3", os.X_OK):
        raise HostError("no C compiler and no /usr/bin/python3: one of them is needed for the gate")
    target.write_bytes(_SCRIPT.read_bytes())
