"""Where attacks are done: an Engine, a daemon of Rote that learned the services, a client.

A service is learned by two starts, with normal use before and after its start-up is over. Then
each attack has a container of its own, started beforehand, so that verdicts do not depend on one
another and start-up is over when it comes.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sensor.audits.formats import to_json
from sensor.audits.store import unpack_audit
from sensor.control.client import Client
from sensor.demo.busybox import static_busybox
from tests.attacks.judge import Mode, Result, has_effect
from tests.attacks.services import BOX, CLIENT, Service, find, payload
from tests.attacks.table import PAYLOAD, SESSION, Attack
from tests.docker.client import Docker, Running
from tests.docker.sensor import Rote
from tests.waiting import wait_for

TOLD_SECONDS = 2.0  # an audit that comes later is a miss
_EFFECT_SECONDS = 5.0  # what is done in the background may take so long
_READY_SECONDS = 60
_LOAD_SECONDS = 180
_ATTACK_SECONDS = 40
_ANSWER_SECONDS = 15.0
_STARTS = 4  # of a service that is refused something while it starts
_AT_ONCE = 3


@dataclass(frozen=True, slots=True)
class _Started:
    """A container for one attack."""

    container: Running
    false: list[dict[str, Any]]  # audits of starts before, which failed
    why_not: str  # it does not answer, or empty


class Field:
    """Containers under a daemon of Rote.

    Args:
        docker: the Engine that the daemon follows.
        rote: the daemon; running.
        mode: what it does with what it does not know.
        settle: seconds without a new execution after which a service's start-up is over.
    """

    def __init__(self, docker: Docker, rote: Rote, mode: Mode, settle: float) -> None:
        self._docker = docker
        self._rote = rote
        self._mode = mode
        self._settle = settle
        self._client: Running | None = None
        self._lock = threading.Lock()
        self._control = Client(rote.run_dir / "control.sock")

    def learn(self, services: Sequence[Service]) -> None:
        """Two starts of each with normal use, then the models are active.

        Raises:
            AssertionError: a service does not do what it should.
        """
        for _ in range(2):
            containers = [(service, self._start(service)) for service in services]
            for _, container in containers:
                self._wait_until_watched(container)
            self._each(containers, self._use)
            time.sleep(self._settle)
            self._each(containers, self._use)
            self._each(containers, lambda _, container: container.stop())
            for _, container in containers:
                self._wait_for_end(container)
                container.remove()
        for service in services:
            self._rote("models", "activate", service.recipe.reference)

    def _wait_for_end(self, container: Running) -> None:
        self._rote.wait_for(lambda: container.id not in self._watched(), seconds=30, what="its end")

    def attack(self, attacks: Sequence[Attack]) -> Iterable[Result]:
        """Do some attacks on one service, each in a container of its own."""
        service = find(attacks[0].service)
        started: list[_Started] = []
        try:
            with ThreadPoolExecutor(max_workers=_AT_ONCE) as pool:
                started.extend(
                    pool.map(lambda one: self._start_ready(service, one.row.options), attacks)
                )
            time.sleep(self._settle)
            for attack, one in zip(attacks, started, strict=True):
                if one.why_not:
                    yield Result(attack, self._mode, one.why_not, before=one.false, started=False)
                else:
                    yield self._do(service, attack, one)
        finally:
            for one in started:
                one.container.remove()

    def _start_ready(self, service: Service, options: Sequence[str]) -> _Started:
        """A container whose service answers.

        Normal starts that were refused are false alarms; then another one is tried.
        """
        false: list[dict[str, Any]] = []
        for left in reversed(range(_STARTS)):
            container = self._start(service, options)
            why_not = self._why_not_ready(service, container)
            if not why_not or not left:
                return _Started(container, false, why_not)
            false += self._audits(container)
            container.remove()
        raise AssertionError("unreachable: the last start is given back whatever became of it")

    def _why_not_ready(self, service: Service, container: Running) -> str:
        try:
            self._wait_until_watched(container)
            self._use_a_little(service, container)
            if self._mode is Mode.PREVENT:
                self._wait_for_prevention(container)
        except (AssertionError, TimeoutError) as error:
            return f"the service did not start: {error}"
        return ""

    def _do(self, service: Service, attack: Attack, one: _Started) -> Result:
        row, container = attack.row, one.container
        result = Result(attack, self._mode)
        for path, content in row.plants.items():
            _plant(Path(f"/proc/{container.pid}/root"), path, content)
        earlier = self._audits(container)
        result.before = [*one.false, *earlier]
        counts = {audit["id"]: audit["count"] for audit in earlier}

        def look() -> bool:
            result.audits = [
                audit
                for audit in self._audits(container)
                if audit["count"] != counts.get(audit["id"], 0)
            ]
            return bool(result.naming)

        result.said = self._enter(service, attack, container)
        told = _until(lambda: look() and self._is_over(result, container), TOLD_SECONDS)
        if not told and not self._is_over(result, container):
            # Done in the background, and later than the answer: the two seconds begin with it.
            _until(lambda: self._is_over(result, container), _EFFECT_SECONDS)
            _until(look, TOLD_SECONDS)
        result.effect = _effect(result, container)
        result.answers = self._answers(service, container)
        return result

    def _is_over(self, result: Result, container: Running) -> bool:
        """Whether the attack had its effect, or will not have it."""
        if result.attack.row.attempt or (self._mode is Mode.PREVENT and result.audits):
            return True
        return _effect(result, container)

    def _enter(self, service: Service, attack: Attack, container: Running) -> str:
        row = attack.row
        if row.enters == SESSION:
            answer = container.try_exec("sh", "-c", row.command, timeout=_ATTACK_SECONDS)
            return answer.stdout + answer.stderr
        script = service.entries[row.enters]
        if not script:
            return _job(container, row.command)
        return self._from_client(script, container, attack=row.command, check=False)

    def _answers(self, service: Service, container: Running) -> bool:
        def answers() -> bool:
            if not container.inspect()["State"]["Running"]:
                return False
            try:
                self._use_a_little(service, container, seconds=5)
            except (AssertionError, TimeoutError):
                return False
            return True

        return _until(answers, _ANSWER_SECONDS)

    def _start(self, service: Service, options: Sequence[str] = ()) -> Running:
        return self._docker.run(
            service.recipe.reference, options=(*service.recipe.options, *options)
        )

    def _wait_until_watched(self, container: Running) -> None:
        self._rote.wait_for(
            lambda: container.id in self._watched(), seconds=30, what=container.name
        )

    def _each(
        self,
        containers: Sequence[tuple[Service, Running]],
        what: Callable[[Service, Running], None],
    ) -> None:
        with ThreadPoolExecutor(max_workers=4) as pool:
            for done in [pool.submit(what, *pair) for pair in containers]:
                done.result()

    def _use(self, service: Service, container: Running) -> None:
        """Normal use, all of it."""
        self._use_a_little(service, container)
        if service is BOX:
            for _ in range(3):
                _job(container, service.load)
        else:
            self._from_client(f"set -e\n{service.load}", container)

    def _use_a_little(
        self, service: Service, container: Running, *, seconds: float = _READY_SECONDS
    ) -> None:
        """Wait until it answers."""
        if service is BOX:
            jobs = Path(f"/proc/{container.pid}/root/run/jobs")
            wait_for(jobs.is_fifo, seconds=seconds, what="the worker")
            _job(container, service.ready)
            return

        def answers() -> bool:
            assert container.inspect()["State"]["Running"], container.logs()[-500:]
            return self._try_from_client(f"exec >/dev/null 2>&1; {service.ready}", container)

        wait_for(answers, seconds=seconds, what=f"{service.name} to answer")

    def _try_from_client(self, script: str, container: Running) -> bool:
        try:
            self._from_client(script, container)
        except AssertionError:
            return False
        return True

    def _from_client(
        self, script: str, container: Running, *, attack: str = "", check: bool = True
    ) -> str:
        """Run a script in the client's container; what it said."""
        with self._lock:
            if self._client is None:
                self._client = self._docker.run(CLIENT.reference)
        answer = self._docker.complete(
            *("exec", "--env", f"HOST={_address(container)}", "--env", f"ATTACK={attack}"),
            *(self._client.id, "timeout", str(_LOAD_SECONDS), "bash", "-c", script),
            timeout=_LOAD_SECONDS + 20,
        )
        said = answer.stdout + answer.stderr
        assert not check or answer.returncode == 0, (
            f"{container.inspect()['Config']['Image']}: exit {answer.returncode} of\n{script}\n"
            f"{said[-2000:]}\nits log:\n{container.logs()[-2000:]}"
        )
        return said

    def _wait_for_prevention(self, container: Running) -> None:
        self._rote.wait_for(
            lambda: self._watched().get(container.id, {}).get("prevented"),
            seconds=30,
            what="prevention",
        )

    def _watched(self) -> dict[str, dict[str, Any]]:
        """The containers that the daemon watches, by their ids."""
        return {row["id"]: row for row in self._control.ask("containers")}

    def _audits(self, container: Running) -> list[dict[str, Any]]:
        rows = self._control.ask("audits.list", container=container.id, limit=0)
        return [to_json(unpack_audit(row)) for row in rows]


def _until(question: Callable[[], bool], seconds: float) -> bool:
    """Ask until it is so, or until the time is over; what the last answer was."""
    deadline = time.monotonic() + seconds
    while not question():
        if time.monotonic() >= deadline:
            return False
        time.sleep(0.1)
    return True


def _effect(result: Result, container: Running) -> bool:
    return has_effect(result.attack.row.effect, result.said, container)


def _address(container: Running) -> str:
    networks = container.inspect()["NetworkSettings"]["Networks"]
    return next((str(network["IPAddress"]) for network in networks.values()), "")


def _plant(root: Path, path: str, content: str) -> None:
    """Put a file into a container from outside: what lay there before the attack."""
    file = root / path.lstrip("/")
    for folder in reversed(file.parents):
        if folder.is_relative_to(root) and not folder.exists():
            folder.mkdir()
            folder.chmod(0o777)
    if content == PAYLOAD:
        data = payload()
    elif content == "busybox":
        data = static_busybox().read_bytes()
    else:
        data = content.encode()
    file.unlink(missing_ok=True)
    file.write_bytes(data)
    file.chmod(0o777)


def _job(container: Running, job: str) -> str:
    """Tell the worker of busybox to do something; what that said."""
    root = Path(f"/proc/{container.pid}/root")
    done = root / "var/out/done"

    def count() -> str:
        return done.read_text() if done.exists() else ""

    before = count()
    with (root / "run/jobs").open("w") as jobs:
        jobs.write(f"{job}\n")
    wait_for(lambda: count() not in (before, ""), seconds=10, what=f"the worker to do {job!r}")
    return (root / "var/out/answer").read_text(errors="replace")
