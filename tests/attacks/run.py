"""Attack learned services and say what Rote made of it.

    scripts/attacks [--services web,app] [--only TEXT] [--mode alert|prevent|both] [--write]

Results are kept below .cache/attacks, so that services can be attacked one after another and
``--write`` makes one page of all.
Ends with 1 when an attack was missed, or not prevented, though the table does not say so.
"""

from __future__ import annotations

import argparse
import itertools
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from sensor.audits.audit import AuditType
from tests.attacks.field import Field
from tests.attacks.judge import Mode, Result, Verdict
from tests.attacks.kept import keep, kept
from tests.attacks.page import page
from tests.attacks.services import SERVICES, find, import_images
from tests.attacks.table import Attack, read_attacks
from tests.docker.client import Docker
from tests.docker.engine import PrivateEngine
from tests.docker.sensor import Rote

PAGE = Path(__file__).parents[2] / "docs/attacks.md"
_BATCH = 24  # containers at a time


def attack_all(
    docker: Docker, url: str, attacks: Sequence[Attack], mode: Mode, settle: float
) -> Iterator[Result]:
    """Learn the services of some attacks, then do all of these.

    Args:
        docker: an Engine that has the images.
        url: of the Engine, for the daemon.
        attacks: sorted by service.
        mode: alert or prevent.
        settle: seconds after which a service's start-up is over.
    """
    services = [find(name) for name in dict.fromkeys(attack.service for attack in attacks)]
    rote = Rote(f"attacks-{mode}", ("--runtime", f"docker={url}"))
    try:
        field = Field(docker, rote, mode, settle)
        _say(f"{mode}: learning {', '.join(service.name for service in services)}")
        field.learn(services)
        for name, group in itertools.groupby(attacks, key=lambda attack: attack.service):
            _say(f"{mode}: attacking {name}")
            of_service = list(group)
            for first in range(0, len(of_service), _BATCH):
                yield from field.attack(of_service[first : first + _BATCH])
    finally:
        docker.clean()
        rote.remove()


def guarantee_of(result: Result) -> str:
    """What the host could do, as the result's audits say it; "" without audits."""
    return next((str(audit["guarantee"]) for audit in result.audits), "")


def main() -> int:
    """Do it; 0 when everything is as the table says."""
    parser = argparse.ArgumentParser(prog="scripts/attacks", description=__doc__)
    names = [service.name for service in SERVICES]
    parser.add_argument("--services", default=",".join(names), help="some of: %(default)s")
    parser.add_argument("--only", default="", help="attacks whose name has this in it")
    parser.add_argument("--mode", choices=["alert", "prevent", "both"], default="both")
    parser.add_argument("--settle", type=float, default=default_settle(), metavar="SECONDS")
    parser.add_argument("--missing", action="store_true", help="only what was not done yet")
    parser.add_argument("--kept", action="store_true", help="no attacks: what was kept of earlier")
    parser.add_argument("--write", action="store_true", help="write docs/attacks.md")
    given = parser.parse_args()
    wanted = given.services.split(",")
    if unknown := set(wanted) - set(names):
        parser.error(f"--services: {', '.join(sorted(unknown))}: expected {', '.join(names)}")
    table = sorted(read_attacks(), key=lambda attack: names.index(attack.service))
    attacks = [
        attack for attack in table if attack.service in wanted and given.only in attack.row.name
    ]
    if not attacks:
        parser.error(f"--only {given.only!r}: no attack has this in its name")
    modes = list(Mode) if given.mode == "both" else [Mode(given.mode)]
    if given.kept:
        results = [result for result in kept(attacks) if result.mode in modes]
    else:
        todo = dict.fromkeys(modes, attacks)
        if given.missing:
            done = {(result.attack.name, result.mode) for result in kept(table)}
            todo = {mode: [a for a in attacks if (a.name, mode) not in done] for mode in modes}
        results = _run({mode: some for mode, some in todo.items() if some}, given.settle)
    if given.write:
        PAGE.write_text(_whole_page(table))
        _say(f"{PAGE} is written")
    return summary(results)


def _run(attacks: Mapping[Mode, Sequence[Attack]], settle: float) -> list[Result]:
    """Do the attacks in an Engine of this run's own."""
    results: list[Result] = []
    services = dict.fromkeys(attack.service for some in attacks.values() for attack in some)
    engine = PrivateEngine("atk")
    try:
        engine.start()
        docker = Docker(engine.url)
        import_images(docker, tuple(find(name) for name in services))
        for mode, some in attacks.items():
            for result in attack_all(docker, engine.url, some, mode, settle):
                results.append(result)
                _say(line(result))
                keep([result])
    finally:
        engine.stop()
    return results


def _whole_page(table: Sequence[Attack]) -> str:
    """The page over all that was kept.

    Raises:
        SystemExit: some attacks were never done in one of the modes; names the first.
    """
    results = kept(table)
    done = {(result.attack.name, result.mode) for result in results}
    for attack, mode in itertools.product(table, Mode):
        if (attack.name, mode) not in done:
            raise SystemExit(
                f"attacks: {attack.name}: not done in mode {mode}; expected results of all: "
                "scripts/attacks --missing"
            )
    return page(results)


def default_settle() -> float:
    """Long enough to learn in two starts what belongs to the start-up, where Rote knows phases."""
    return 65.0 if "startup_program" in {str(kind) for kind in AuditType} else 0.0


def line(result: Result) -> str:
    """One result for the terminal."""
    told = "; ".join(dict.fromkeys(_in_short(audit) for audit in result.naming or result.audits))
    mark = "  " if result.is_good(guarantee_of(result)) else "! "
    return f"{mark}{result.verdict:8} {result.attack.name}  [{told[:160]}]"


def _in_short(audit: dict[str, Any]) -> str:
    return f"{audit['type']} {audit['program']} {audit['path']} {audit['path2']}".strip()


def summary(results: Sequence[Result]) -> int:
    """Say what is not as the table says; the exit code."""
    bad = [result for result in results if not result.is_good(guarantee_of(result))]
    for result in bad:
        wanted = result.attack.expected
        _say(
            f"NOT AS EXPECTED ({result.mode}, {wanted}): {line(result)}\n    {result.said[:300]!r}"
        )
    for result in results:
        if result.is_better:
            _say(f"better than the table says ({result.mode}): {line(result)}")
    false = [audit for result in results for audit in result.before]
    for text in sorted({_in_short(audit) for audit in false}):
        _say(f"false alarm in normal use: {text}")
    missed = sum(result.verdict is Verdict.MISSED for result in results)
    _say(
        f"{len(results)} attacks done, {missed} missed, {len(bad)} not as the table says, "
        f"{len(false)} false alarms"
    )
    return 1 if bad else 0


def _say(text: str) -> None:
    sys.stdout.write(f"{time.strftime('%T')} {text}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
