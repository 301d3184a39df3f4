"""Part of the attack set on a real container; ``scripts/attacks`` does all of it."""

from __future__ import annotations

import pytest

from tests.attacks.judge import Mode
from tests.attacks.run import attack_all, guarantee_of, line
from tests.attacks.services import BOX, import_images
from tests.attacks.table import read_attacks
from tests.docker.client import Docker

_CHOSEN = (
    "an applet that is not its own",
    "a copy of busybox",
    "a planted program",
    "a planted program with the name of a learned applet",
    "a job for cron by the shell alone",
    "the log emptied by the shell alone",
    "a file elsewhere",
    "a shell in the shell",
    "a session looks round",
    "another answer",
)


@pytest.mark.timeout(180)
def test_attacks_on_a_learned_worker_end_as_they_should(docker: Docker, docker_host: str) -> None:
    """Under prevention: what is to be prevented has no effect, and the worker goes on."""
    attacks = [
        attack
        for attack in read_attacks()
        if attack.service == BOX.name and attack.row.name in _CHOSEN
    ]
    assert len(attacks) == len(_CHOSEN)
    import_images(docker, (BOX,))
    results = list(attack_all(docker, docker_host, attacks, Mode.PREVENT, settle=0))
    assert len(results) == len(_CHOSEN)
    assert [line(result) for result in results if not result.is_good(guarantee_of(result))] == []
    assert [audit for result in results for audit in result.before] == []
    assert all(result.answers for result in results)
