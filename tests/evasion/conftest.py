"""One sensor, one learned model, three boxes: open to attack, guarded, and guarded too late."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import orjson
import pytest

from sensor.kernel.live import LiveKernel
from sensor.kernel.probe import trampolines_refused
from tests.evasion.cases import Attack, attacks, deeds, held_attacks, received_attacks
from tests.evasion.sensor import Result, Sensor

# Where hooks can refuse, the kernel is a virtual machine's own: everything may be tried.
NATIVE = trampolines_refused() is not None


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """One test for each row of the tables."""
    rows: dict[str, list[Attack]] = {
        "attack": attacks(privileged=not NATIVE),
        "held_attack": held_attacks(),
        "received_attack": received_attacks(),
    }
    for name, table in rows.items():
        if name in metafunc.fixturenames:
            mine = _share(table)
            metafunc.parametrize(name, mine, ids=[row.name for row in mine])
    if "deed" in metafunc.fixturenames:
        metafunc.parametrize("deed", deeds(), ids=[row.name for row in deeds()])


def _share(table: list[Attack]) -> list[Attack]:
    """The rows that this machine tries: of ``ROTE_TEST_SHARE=1/2`` every second, from the first on.

    Emulated machines that run at the same time divide the attacks between them (scripts/vm
    --share); what a service must be able to do is tried on each.
    """
    number, _, of = os.environ.get("ROTE_TEST_SHARE", "1/1").partition("/")
    # A machine without a row would have a test that is skipped, and nothing may be.
    return table[int(number) - 1 :: int(of)] if len(table) >= int(of) else table


@pytest.fixture(scope="session")
def sensor(shared_kernel: LiveKernel, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sensor]:
    """The sensor, and the model learned."""
    shared_kernel.clear_knowledge()
    made = Sensor(shared_kernel, tmp_path_factory.mktemp("evasion"), privileged=not NATIVE)
    try:
        made.start("learner")
        made.learn("learner")
        made.activate("learner")
        made.stop("learner")
        yield made
    finally:
        made.close()
        # What later tests expect of the kernel side that all share.
        shared_kernel.set_write_probe(on=True)


@pytest.fixture(scope="session")
def results(sensor: Sensor) -> Iterator[list[Result]]:
    """What became of all attacks; written down at the end for the table."""
    found: list[Result] = []
    yield found
    directory = Path(os.environ.get("ROTE_TEST_RESULTS", sensor.directory))
    directory.mkdir(parents=True, exist_ok=True)
    rows = [
        {
            "name": result.attack.name,
            "group": result.attack.group,
            "source": result.attack.source,
            "technique": result.attack.technique,
            "impossible": result.attack.impossible,
            "verdict": result.verdict,
            "outcomes": sorted(set(result.outcomes)),
            "tries": len(result.outcomes),
            "audits": result.audits,
        }
        for result in found
    ]
    table = {
        "kernel": os.uname().release,
        "attachment": sensor.kernel.attachment.mode,
        "rows": rows,
    }
    (directory / "evasion.json").write_bytes(orjson.dumps(table, option=orjson.OPT_INDENT_2))
