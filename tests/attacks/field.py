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

import yaml

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
_AT_ONCE = 3


@dataclass(frozen=True, slots=True)
class _Facts:
    """What is asked of a container again and again."""

    root: Path  # in /proc
    address: str


class Field:
    """Containers under a daemon of Rote.

    Prevention begins, by a rule, when the services answer: attacks are what is looked at here, and
    whether normal starts are refused is not. What would be is counted as false alarms.

    Args:
        docker: the Engine that the daemon follows.
        rote: the daemon; started here.
        mode: what it does with what it does not know.
        settle: seconds without a new execution after which a service's start-up is over.
    """

    def __init__(self, docker: Docker, rote: Rote, mode: Mode, settle: float) -> None:
        self._docker = docker
        self._rote = rote
        self._rules = rote.home / "rules.d"
        self._rules.mkdir()
        rote.start("--rules", str(self._rules))
        self._mode = mode
        self._settle = settle
        self._client: Running | None = None
        self._lock = threading.Lock()
        self._facts: dict[str, _Facts] = {}  # by containers' ids
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
        containers: list[Running] = []
        try:
            with ThreadPoolExecutor(max_workers=_AT_ONCE) as pool:
                containers.extend(
                    pool.map(lambda one: self._start(service, one.row.options), attacks)
                )
                ready = list(pool.map(lambda one: self._why_not_ready(service, one), containers))
            time.sleep(self._settle)
            if self._mode is Mode.PREVENT:
                self._prevent(containers)
            for attack, container, why_not in zip(attacks, containers, ready, strict=True):
                if why_not:
                    false = self._audits(container)
                    yield Result(attack, self._mode, why_not, before=false, started=False)
                else:
                    yield self._do(service, attack, container)
        finally:
            for container in containers:
                container.remove()

    def _why_not_ready(self, service: Service, container: Running) -> str:
        try:
            self._wait_until_watched(container)
            self._use_a_little(service, container)
        except (AssertionError, TimeoutError) as error:
            return f"the service did not start: {error}"
        return ""

    def _do(self, service: Service, attack: Attack, container: Running) -> Result:
        row = attack.row
        result = Result(attack, self._mode)
        for path, content in row.plants.items():
            _plant(self._root(container), path, content)
        result.before = self._audits(container)
        counts = {audit["id"]: audit["count"] for audit in result.before}

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
        result.effect = self._has_effect(result, container)
        result.answers = self._answers(service, container)
        return result

    def _is_over(self, result: Result, container: Running) -> bool:
        """Whether the attack had its effect, or will not have it."""
        if result.attack.row.attempt or (self._mode is Mode.PREVENT and result.audits):
            return True
        return self._has_effect(result, container)

    def _has_effect(self, result: Result, container: Running) -> bool:
        effect = result.attack.row.effect
        return has_effect(effect, result.said, container, self._root(container))

    def _enter(self, service: Service, attack: Attack, container: Running) -> str:
        row = attack.row
        if row.enters == SESSION:
            answer = container.try_exec("sh", "-c", row.command, timeout=_ATTACK_SECONDS)
            return answer.stdout + answer.stderr
        script = service.entries[row.enters]
        if not script:
            return _job(self._root(container), row.command)
        return self._from_client(script, container, attack=row.command, check=False)

    def _answers(self, service: Service, container: Running) -> bool:
        def answers() -> bool:
            if not self._root(container).exists():
                return False
            try:
                self._use_a_little(service, container, seconds=5)
            except (AssertionError, TimeoutError):
                return False
            return True

        return _until(answers, _ANSWER_SECONDS)

    def _start(self, service: Service, options: Sequence[str] = ()) -> Running:
        container = self._docker.run(
            service.recipe.reference, options=(*service.recipe.options, *options)
        )
        inspected = container.inspect()
        networks = inspected["NetworkSettings"]["Networks"].values()
        self._facts[container.id] = _Facts(
            Path(f"/proc/{inspected['State']['Pid']}/root"),
            next((str(network["IPAddress"]) for network in networks), ""),
        )
        return container

    def _root(self, container: Running) -> Path:
        return self._facts[container.id].root

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
                _job(self._root(container), service.load)
        else:
            self._from_client(f"set -e\n{service.load}", container)

    def _use_a_little(
        self, service: Service, container: Running, *, seconds: float = _READY_SECONDS
    ) -> None:
        """Wait until it answers."""
        if service is BOX:
            jobs = self._root(container) / "run/jobs"
            wait_for(jobs.is_fifo, seconds=seconds, what="the worker")
            _job(self._root(container), service.ready)
            return

        def answers() -> bool:
            assert self._root(container).exists(), container.logs()[-500:]
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
        told = ("--env", f"HOST={self._facts[container.id].address}", "--env", f"ATTACK={attack}")
        answer = self._docker.complete(
            *("exec", *told, self._client.id, "timeout", str(_LOAD_SECONDS), "bash", "-c", script),
            timeout=_LOAD_SECONDS + 20,
        )
        said = answer.stdout + answer.stderr
        assert not check or answer.returncode == 0, (
            f"{container.inspect()['Config']['Image']}: exit {answer.returncode} of\n{script}\n"
            f"{said[-2000:]}\nits log:\n{container.logs()[-2000:]}"
        )
        return said

    def _prevent(self, containers: Sequence[Running]) -> None:
        """Let these, and no others, be under prevention."""
        rule = {
            "name": "attacked",
            "scope": {"containers": [container.name for container in containers]},
            "processes": {"default": "prevent"},
            "filesystem": {"default": "prevent"},
            "sessions": {"exec_session": "prevent"},
        }
        text = yaml.safe_dump({"version": 1, "rules": [rule]})
        (self._rules / "attacked.yaml").write_text(text)
        self._rote("rules", "reload")
        ids = {container.id for container in containers if self._root(container).exists()}
        self._rote.wait_for(
            lambda: ids <= {key for key, row in self._watched().items() if row["prevented"]},
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


def _job(root: Path, job: str) -> str:
    """Tell the worker of busybox to do something; what that said."""
    done = root / "var/out/done"

    def count() -> str:
        return done.read_text() if done.exists() else ""

    before = count()
    with (root / "run/jobs").open("w") as jobs:
        jobs.write(f"{job}\n")
    wait_for(lambda: count() not in (before, ""), seconds=10, what=f"the worker to do {job!r}")
    return (root / "var/out/answer").read_text(errors="replace")
