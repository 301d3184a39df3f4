"""Results that outlive a run: a file for each service and mode, below .cache/attacks."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tests.attacks.judge import Mode, Result
from tests.attacks.table import Attack

FOLDER = Path(__file__).parents[2] / ".cache/attacks"
_SAID_MAX = 2000


def keep(results: Sequence[Result], folder: Path = FOLDER) -> None:
    """Write results, in place of earlier ones of the same attacks in the same mode."""
    folder.mkdir(parents=True, exist_ok=True)
    by_file: dict[Path, dict[str, Any]] = {}
    for result in results:
        path = _file(folder, result.attack.service, result.mode)
        if path not in by_file:
            by_file[path] = {row["name"]: row for row in _rows(path)}
        by_file[path][result.attack.name] = _plain(result)
    for path, rows in by_file.items():
        path.write_text(json.dumps(list(rows.values()), indent=1))


def kept(attacks: Sequence[Attack], folder: Path = FOLDER) -> list[Result]:
    """What was kept of some attacks; attacks that were not done since are left out.

    Args:
        attacks: as the table has them now.
        folder: where results were kept.
    """
    by_name = {attack.name: attack for attack in attacks}
    found: list[Result] = []
    for service in dict.fromkeys(attack.service for attack in attacks):
        for mode in Mode:
            rows = {row["name"]: row for row in _rows(_file(folder, service, mode))}
            found += [
                Result(attack, mode, **rows[attack.name]["result"])
                for attack in by_name.values()
                if attack.service == service and attack.name in rows
            ]
    return found


def _file(folder: Path, service: str, mode: Mode) -> Path:
    return folder / f"{service}-{mode}.json"


def _rows(path: Path) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = json.loads(path.read_text()) if path.exists() else []
    return rows


def _plain(result: Result) -> dict[str, Any]:
    return {
        "name": result.attack.name,
        "verdict": str(result.verdict),  # for people; computed anew when it is read
        "result": {
            "said": result.said[-_SAID_MAX:],
            "effect": result.effect,
            "answers": result.answers,
            "audits": result.audits,
            "before": result.before,
            "started": result.started,
        },
    }
