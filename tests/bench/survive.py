"""Kill the daemon again and again while something forbidden is tried without pause.

    scripts/bench survive --kills 200

A process in a cgroup under prevention tries to execute a forbidden program and to write a
forbidden file, and executes a known one, as fast as it can. Meanwhile the daemon is killed with
SIGKILL and started again; every tenth time with another ring size, which is an upgrade: other
programs are loaded, and the old ones go. Nothing forbidden may get through, and everything known
must go on.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from tests.live import cgroup_root

_START_SECONDS = 400.0  # under emulation the programs take two minutes to load
_ANSWER_SECONDS = 600  # an emulated machine, busy with being attacked
_RING_SIZES = ("1M", "2M")

# Runs inside. Tries in turn, and says once a second what became of it.
_ATTACKER = r"""
import json, os, sys, time
place = sys.argv[1]
totals = dict.fromkeys(
    ("tried", "refused", "through", "written", "known", "known_failed", "other"), 0)
def run(name):
    try:
        pid = os.posix_spawn(name, [name], {})
    except PermissionError:
        return "refused"
    _, status = os.waitpid(pid, 0)
    if os.WIFSIGNALED(status):
        return "refused" if os.WTERMSIG(status) == 9 else "other"
    return "through" if os.WEXITSTATUS(status) == 0 else "other"
told = time.monotonic()
while True:
    totals["tried"] += 1
    totals[run(place + "/forbidden")] += 1
    totals["tried"] += 1
    pid = os.fork()  # where writes are killed, the writer is
    if not pid:
        try:
            os.write(os.open(place + "/kept", os.O_WRONLY), b"after!")
        except PermissionError:
            os._exit(1)
        os._exit(0)
    totals["written" if os.waitpid(pid, 0)[1] == 0 else "refused"] += 1
    result = run(place + "/known")
    totals["known" if result == "through" else "known_failed"] += 1
    if time.monotonic() - told > 1:
        told = time.monotonic()
        print(json.dumps(totals), flush=True)
"""
_LEARN = r"""
import os, sys
for i in range(3):
    os.waitpid(os.posix_spawn(sys.argv[1] + "/known", ["known"], {}), 0)
"""


@dataclass
class Host:
    """Where one daemon lives: nothing of it is shared with another."""

    place: Path
    bpf_dir: Path
    cgroup: Path
    attach: str

    def rote(self, *args: str) -> list[str]:
        """A command line for this daemon."""
        return [
            sys.executable, "-m", "sensor", "--run-dir", str(self.place / "run"), "--state-dir",
            str(self.place / "state"), *args,
        ]  # fmt: skip

    def ask(self, *args: str) -> Any:
        """The JSON answer of a command, or None while no daemon answers."""
        result = subprocess.run(
            self.rote(*args, "--output", "json"),
            capture_output=True,
            timeout=_ANSWER_SECONDS,
            check=False,
        )
        return json.loads(result.stdout) if result.returncode == 0 else None

    def start(self, ring_size: str) -> subprocess.Popen[bytes]:
        """Start the daemon; returns when it answers."""
        log = (self.place / "daemon.log").open("ab")
        with log:
            daemon = subprocess.Popen(
                self.rote(
                    "run", "--runtime", "none", "--no-discover", "--watch",
                    f"cgroup:/{self.cgroup.name}", "--prevent", "*", "--canary", "0",
                    "--bpf-dir", str(self.bpf_dir), "--ring-size", ring_size, "--quiet",
                    "--attach", self.attach,
                ),
                stdout=log,
                stderr=log,
            )  # fmt: skip
        socket = self.place / "run/control.sock"
        deadline = time.monotonic() + _START_SECONDS
        while daemon.poll() is None and time.monotonic() < deadline:
            if socket.exists() and self.ask("status") is not None:
                return daemon
            time.sleep(0.05)
        daemon.kill()
        daemon.wait()
        raise SystemExit(f"the daemon does not start:\n{(self.place / 'daemon.log').read_text()}")

    def enter(self) -> None:
        """Move the calling process into the cgroup."""
        (self.cgroup / "cgroup.procs").write_text(str(os.getpid()))

    def inside(self, code: str, stdout: int | IO[bytes] | None = None) -> subprocess.Popen[bytes]:
        """Run Python code inside."""
        return subprocess.Popen(
            [str(Path(sys.executable).resolve()), "-I", "-S", "-B", "-c", code, str(self.place)],
            preexec_fn=self.enter,  # noqa: PLW1509 - no threads here
            stdin=subprocess.DEVNULL,
            stdout=stdout,
        )


@contextmanager
def _host(attach: str) -> Iterator[Host]:
    cgroup = cgroup_root() / f"rote-survive-{os.getpid()}"
    bpf_dir = Path(f"/sys/fs/bpf/rote-survive-{os.getpid()}")
    source = shutil.which("true", path="/usr/bin:/bin")
    assert source is not None
    with tempfile.TemporaryDirectory(prefix="rote-survive-", dir="/var/tmp") as name:
        place = Path(name)
        for program in ("known", "forbidden"):
            shutil.copy(source, place / program)
        (place / "kept").write_text("before")
        cgroup.mkdir()
        host = Host(place, bpf_dir, cgroup, attach)
        try:
            yield host
        finally:
            (cgroup / "cgroup.procs").read_text()
            for pid in (cgroup / "cgroup.procs").read_text().split():
                os.kill(int(pid), signal.SIGKILL)
            time.sleep(0.2)
            subprocess.run(
                host.rote("unload", "--bpf-dir", str(bpf_dir)),
                check=False,
                capture_output=True,
                timeout=60,
            )
            cgroup.rmdir()


def survive(kills: int, attach: str, *, upgrades: bool) -> dict[str, Any]:
    """The run; what was tried and what became of it."""
    with _host(attach) as host:
        daemon = host.start(_RING_SIZES[0])
        try:
            _wait(lambda: (host.ask("containers") or [None])[0], "the cgroup is not watched")
            host.inside(_LEARN).wait(60)
            time.sleep(2)
            subprocess.run(
                host.rote("models", "activate", "#1"),
                check=True,
                capture_output=True,
                timeout=_ANSWER_SECONDS,
            )
            status = _wait(
                lambda: (s := host.ask("status")) and s["prevention"]["containers"] and s,
                "prevention does not begin",
            )
            attacker = host.inside(_ATTACKER, subprocess.PIPE)
            said: list[bytes] = []
            assert attacker.stdout is not None
            reader = threading.Thread(target=said.extend, args=(attacker.stdout,), daemon=True)
            reader.start()
            time.sleep(2)
            started = time.monotonic()
            for number in range(kills):
                time.sleep(random.uniform(0, 0.3))
                daemon.kill()
                daemon.wait()
                step = number // 10 + (number % 10 == 9) if upgrades else 0
                daemon = host.start(_RING_SIZES[step % 2])
            time.sleep(3)
            if attacker.poll() is not None:
                raise SystemExit(f"the attacker is gone: {host.ask('audits', 'list')}")
            attacker.kill()
            attacker.wait()
            reader.join(10)
            attacker.stdout.close()
            totals: dict[str, Any] = json.loads(said[-1])
            totals["kills"] = kills
            totals["seconds"] = round(time.monotonic() - started, 1)
            totals["attachment"] = status["attachment"]["mode"]
            totals["content"] = (host.place / "kept").read_text()
            return totals
        finally:
            daemon.kill()
            daemon.wait()


def _wait(question: Any, problem: str) -> Any:
    deadline = time.monotonic() + _ANSWER_SECONDS
    while time.monotonic() < deadline:
        if answer := question():
            return answer
        time.sleep(0.2)
    raise SystemExit(problem)


def main() -> int:
    """Run, print, judge."""
    parser = argparse.ArgumentParser("scripts/bench survive")
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--attach", default="auto")
    parser.add_argument("--no-upgrades", action="store_true", help="restart with the same programs")
    options = parser.parse_args()
    totals = survive(options.kills, options.attach, upgrades=not options.no_upgrades)
    sys.stdout.write(json.dumps(totals, indent=1) + "\n")
    ok = totals["through"] == 0 == totals["written"] and totals["content"] == "before"
    ok = ok and totals["known"] > 0 == totals["known_failed"] and totals["refused"] > 0
    return 0 if ok else 1


if __name__ == "__main__":
    sys.exit(main())
