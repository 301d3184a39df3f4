"""What the distribution's own tools cost: auditd, fapolicyd, AppArmor; see tests.bench.cost.

Each is set up as its documentation says, for the one program that is measured, and taken away
again. Figures of a tool that did not really work would be too good: each proves that it does.
"""

from __future__ import annotations

import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

_AUDIT_KEY = "rote-bench"
_FAPOLICYD = Path("/etc/fapolicyd")
_PROFILE = """\
abi <abi/3.0>,
profile rote-bench {programs}/operations {{
  {programs}/** rmix,
  {tmpfs}/** rwkl,
  {ext4}/** rwkl,
  /dev/null rw,
  /etc/ld.so.cache r,
  /{{usr/,}}lib/** rm,
  /{{usr/,}}lib64/** rm,
}}
"""


def _run(*command: str | Path) -> str:
    result = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    if result.returncode:
        raise SystemExit(f"{command[0]}: status {result.returncode}: {result.stderr.strip()}")
    return result.stdout


def _wait(question: Callable[[], object], problem: str) -> None:
    deadline = time.monotonic() + 120
    while not question():
        if time.monotonic() > deadline:
            raise SystemExit(problem)
        time.sleep(0.1)


@contextmanager
def auditd() -> Iterator[None]:
    """The audit daemon with a rule on execve, as compliance guides ask for."""
    log = Path("/var/log/audit/audit.log")
    log.parent.mkdir(parents=True, exist_ok=True)
    _run("auditd")
    _wait(lambda: "pid 0" not in _run("auditctl", "-s"), "auditd does not start")
    _run("auditctl", "-a", "always,exit", "-F", "arch=b64", "-S", "execve", "-k", _AUDIT_KEY)
    try:
        yield
        _wait(lambda: _AUDIT_KEY in log.read_text(), f"{log}: no execution was recorded")
    finally:
        _run("auditctl", "-D")
        _run("auditctl", "-e", "0")
        pid = int(Path("/run/auditd.pid").read_text())
        _run("kill", str(pid))
        _wait(lambda: not Path(f"/proc/{pid}").exists(), "auditd does not end")


@contextmanager
def fapolicyd(forbidden: Path) -> Iterator[None]:
    """The file access policy daemon: everything is allowed, but for one program.

    Args:
        forbidden: that one; it shows that the daemon decides.
    """
    _FAPOLICYD.mkdir(exist_ok=True)
    rules = f"deny perm=execute all : path={forbidden}\nallow perm=any all : all\n"
    (_FAPOLICYD / "fapolicyd.rules").write_text(rules)
    shutil.rmtree(_FAPOLICYD / "rules.d", ignore_errors=True)
    config = _FAPOLICYD / "fapolicyd.conf"
    text = config.read_text() if config.exists() else ""
    kept = [line for line in text.splitlines() if not line.startswith(("trust =", "integrity ="))]
    config.write_text("\n".join([*kept, "trust = file", "integrity = none", ""]))
    (_FAPOLICYD / "fapolicyd.trust").touch()
    Path("/run/fapolicyd").mkdir(exist_ok=True)
    log = Path("/run/fapolicyd.log")
    with log.open("wb") as file:
        daemon = subprocess.Popen(["fapolicyd", "--debug"], stdout=file, stderr=file)

    def is_refused() -> bool:
        if daemon.poll() is not None:
            said = log.read_text(errors="replace")[-2000:]
            raise SystemExit(f"fapolicyd ended with {daemon.returncode}: {said}")
        try:
            return subprocess.run([forbidden], timeout=60, check=False).returncode == 126
        except PermissionError:
            return True

    try:
        _wait(is_refused, "fapolicyd refuses nothing")
        yield
    finally:
        daemon.terminate()
        daemon.wait(60)


@contextmanager
def apparmor(programs: Path, tmpfs: Path, ext4: Path) -> Iterator[None]:
    """A profile in enforce mode around the program that is measured."""
    profile = Path("/etc/apparmor.d/rote-bench")
    profile.write_text(_PROFILE.format(programs=programs, tmpfs=tmpfs, ext4=ext4))
    _run("apparmor_parser", "--replace", "--skip-cache", profile)
    try:
        loaded = Path("/sys/kernel/security/apparmor/profiles").read_text()
        if "rote-bench (enforce)" not in loaded:
            raise SystemExit(f"the profile is not enforced: {loaded}")
        other = Path("/srv/other")
        other.mkdir(exist_ok=True)
        (other / "data").touch()
        refused = subprocess.run(
            [programs / "operations", programs, other, other, "1"],
            capture_output=True,
            text=True,
            check=False,
            timeout=60,
        )
        if "Permission denied" not in refused.stderr:
            raise SystemExit(f"AppArmor refuses nothing: {refused.stderr}")
        yield
    finally:
        _run("apparmor_parser", "--remove", profile)
        profile.unlink()
