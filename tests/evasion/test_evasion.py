"""Every technique, with and without prevention: without it works, with it has no effect."""

from __future__ import annotations

import os
import socket
import threading
from pathlib import Path

import pytest

from sensor.rules.policy import Policy
from tests.evasion.box import Answer, Box
from tests.evasion.cases import Attack, Deed, held_attacks
from tests.evasion.sensor import Result, Sensor, plant_in, state

_PROCESSES, _TIMES = 4, 10


@pytest.fixture(scope="session")
def opened(sensor: Sensor) -> Sensor:
    """With a box that is watched but not under prevention."""
    sensor.start("open")
    return sensor


@pytest.fixture(scope="session")
def guarded(opened: Sensor) -> Sensor:
    """With a box under prevention from its first instruction."""
    opened.start("guarded")
    return opened


def test_the_service_goes_on(guarded: Sensor, deed: Deed) -> None:
    """What was learned still works, and is no audit."""
    box = guarded.boxes["guarded"]
    for plant in deed.plants:
        plant_in(box, plant)
    before = len(guarded.recorded("guarded"))
    answer = box.command(deed.technique, *deed.args)
    new = guarded.recorded("guarded")[: len(guarded.recorded("guarded")) - before]
    told = [(audit.type, audit.operation, audit.program, audit.path, audit.origin) for audit in new]
    assert answer.outcomes == ["e0"], (answer, told)
    assert deed.says in "\n".join(answer.said)
    assert not told


def test_a_directory_that_moved_is_judged_anew(guarded: Sensor) -> None:
    """What was remembered of a directory ends when it, or one above it, is renamed."""
    box = guarded.boxes["guarded"]
    place, moved = box.root / "vol/place", box.root / "vol/moved"
    place.mkdir(exist_ok=True)
    for _ in range(3):
        assert box.command("w_create", "/vol/place/known").outcomes == ["e0"]
        place.rename(moved)
        assert box.command("w_create", "/vol/moved/known").outcomes[0] in ("e1", "s9")
        moved.rename(place)
    assert box.command("w_create", "/vol/place/known").outcomes == ["e0"]


def _try(box: Box, attack: Attack, *, again: bool = False) -> tuple[Answer, bool]:
    """Plant, attack, look: the answer, and whether it had an effect."""
    for plant in attack.plants:
        if not plant.path.startswith("/img/"):
            plant_in(box, plant)
    before = state(box, attack.watch)
    if again:
        answer = box.command(attack.technique, *attack.args, processes=_PROCESSES, times=_TIMES)
    else:
        answer = box.command(attack.technique, *attack.args)
    effect = answer.pwned or state(box, attack.watch) != before
    if not attack.watch and attack.technique.startswith("m_"):
        effect = effect or "e0" in answer.outcomes
    return answer, effect


def _judge(sensor: Sensor, attack: Attack, result: Result) -> None:
    """Fail when the outcome is not the one that this attachment guarantees."""
    if not result.worked_without:
        if not attack.impossible:
            pytest.fail(f"does not work without prevention either: {result.outcomes}")
        return
    if sensor.kernel.attachment.guarantee == "deny" or attack.tracepoint == "kill":
        assert not result.worked, result.outcomes
        assert result.audits, "refused, but nobody was told"
        if not attack.refused_inside:
            assert set(result.outcomes) <= {"e1", "s9"}, result.outcomes
    elif attack.tracepoint == "detect":
        assert result.seen, "not even seen"


def test_attack(guarded: Sensor, results: list[Result], attack: Attack) -> None:
    """Once, then ten times in a row from four processes at once."""
    result = Result(attack)
    results.append(result)
    answer, result.worked_without = _try(guarded.boxes["open"], attack)
    if not result.worked_without:
        result.outcomes = answer.outcomes
    if attack.group == "mounts":  # it may have hidden what later attacks need
        guarded.stop("open")
        guarded.start("open")
    box = guarded.boxes["guarded"]
    told, seen = guarded.refusals("guarded"), guarded.deviations("guarded")
    if result.worked_without:
        for again in (False, True):
            answer, worked = _try(box, attack, again=again)
            result.outcomes += answer.outcomes
            result.worked = result.worked or worked
        result.audits = guarded.refusals("guarded") - told
        result.seen = guarded.deviations("guarded") - seen
    _judge(guarded, attack, result)


@pytest.fixture(scope="session")
def early(guarded: Sensor) -> Sensor:
    """With a box that is not yet under prevention, though its model is active."""
    guarded.start("early")
    return guarded


_numbers: dict[str, int] = {}


@pytest.fixture(scope="session")
def holding(early: Sensor) -> Sensor:
    """All descriptors opened and proven to work, then prevention."""
    box = early.boxes["early"]
    for number, attack in enumerate(held_attacks()):
        path, flags = attack.held
        for plant in attack.plants:
            plant_in(box, plant)
        assert box.command("hold", str(number), path, flags).outcomes == ["e0"]
        _numbers[attack.name] = number
        before = state(box, attack.watch)
        answer = box.command(attack.technique, str(number), *attack.args)
        worked = state(box, attack.watch) != before
        assert worked, f"{attack.name} does not work without prevention either: {answer}"
    early.drain()
    early.pipeline.set_policy(Policy(prevent=("guarded", "early")))
    return early


def test_old_descriptor(holding: Sensor, results: list[Result], held_attack: Attack) -> None:
    """A descriptor that was opened before prevention began is of no use afterwards."""
    result = Result(held_attack, worked_without=True)
    results.append(result)
    box = holding.boxes["early"]
    told, seen = holding.refusals("early"), holding.deviations("early")
    number = str(_numbers[held_attack.name])
    before = state(box, held_attack.watch)
    for processes, times in ((1, 1), (_PROCESSES, _TIMES)):
        answer = box.command(
            held_attack.technique, number, *held_attack.args, processes=processes, times=times
        )
        result.outcomes += answer.outcomes
    result.worked = state(box, held_attack.watch) != before
    result.audits = holding.refusals("early") - told
    result.seen = holding.deviations("early") - seen
    _judge(holding, held_attack, result)


def test_the_write_probe_is_attached_only_while_it_is_needed(holding: Sensor) -> None:
    """Once the old descriptors are closed, no program is on the host's writes."""
    prevention = holding.pipeline.prevention
    assert prevention.probe_on
    for number in _numbers.values():
        holding.boxes["early"].command("hold_close", str(number))
    model = holding.model_of("early")
    prevention.look_again(lambda _: model, complete=True)
    assert prevention.holding == 0
    # Where nothing is denied, writes are seen at the end of their system call anyway.
    assert prevention.probe_on == (holding.kernel.attachment.guarantee_files != "deny")


def test_received_descriptor(
    guarded: Sensor, results: list[Result], received_attack: Attack
) -> None:
    """Somebody outside sends a writable descriptor into the container."""
    result = Result(received_attack)
    results.append(result)
    for name in ("open", "guarded"):
        box = guarded.boxes[name]
        told, seen = guarded.refusals(name), guarded.deviations(name)
        for plant in received_attack.plants:
            plant_in(box, plant)
        before = state(box, received_attack.watch)
        tries = 1 if name == "open" else 11
        with _Sender(box, received_attack, tries):
            outcomes = []
            for _ in range(tries):
                answer = box.command(received_attack.technique, *received_attack.args)
                outcomes += answer.outcomes
        worked = state(box, received_attack.watch) != before
        if name == "open":
            result.worked_without = worked
        else:
            result.worked, result.outcomes = worked, outcomes
            result.audits = guarded.refusals(name) - told
            result.seen = guarded.deviations(name) - seen
    _judge(guarded, received_attack, result)


class _Sender:
    """Sends a writable descriptor to whoever connects."""

    def __init__(self, box: Box, attack: Attack, times: int) -> None:
        self._path = box.root / attack.args[0].lstrip("/")
        self._file = box.root / attack.watch[0].lstrip("/")
        self._times = times
        self._thread = threading.Thread(target=self._serve, daemon=True)

    def __enter__(self) -> None:
        self._path.unlink(missing_ok=True)
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        # The name is too long for a socket's address.
        directory = os.open(self._path.parent, os.O_PATH)
        self._socket.bind(f"/proc/self/fd/{directory}/{self._path.name}")
        os.close(directory)
        self._socket.listen(64)
        self._socket.settimeout(60)
        self._thread.start()

    def _serve(self) -> None:
        for _ in range(self._times):
            connection, _ = self._socket.accept()
            with connection, Path(self._file).open("r+b") as file:
                socket.send_fds(connection, [b"x"], [file.fileno()])

    def __exit__(self, *_: object) -> None:
        self._thread.join(60)
        self._socket.close()
