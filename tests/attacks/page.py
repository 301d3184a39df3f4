"""docs/attacks.md out of results."""

from __future__ import annotations

import posixpath
from collections import Counter
from collections.abc import Sequence

from tests.attacks.judge import Mode, Result, Verdict
from tests.attacks.table import Kind

_HEAD = """\
# Attacks on learned services

Whether a learned model tells an attack from the service. Each attack is a row of
[tests/attacks/attacks](../tests/attacks/attacks): what is tried, by which way in, how to see that
it worked, which program or path an audit must name. `scripts/attacks` learns six services by two
starts with normal use (Apache with PHP, a Python web application, PostgreSQL, Redis, nginx with a
worker, a busybox worker), then does each attack in a container of its own, once with a daemon that
alerts and once with one that prevents as soon as the service answers. Attacks come from the service
itself, through a hole that nobody used while Rote learned, unless they enter as a session.
`scripts/attacks --write` makes this page.

* **caught**: an audit named the container and the program or path within two seconds.
* **refused**: no effect, EPERM. **killed**: no effect, who tried it was ended. In both cases the
  service still answers.
* **down**: no effect, but the service ended with it. **missed**: nobody was told.
"""
_ORDER = (
    Verdict.REFUSED, Verdict.KILLED, Verdict.CAUGHT, Verdict.DOWN, Verdict.MISSED, Verdict.BROKEN,
)  # fmt: skip


def page(results: Sequence[Result]) -> str:
    """The page, in Markdown.

    Args:
        results: of one or both modes.
    """
    modes = [mode for mode in Mode if any(result.mode is mode for result in results)]
    false = sum(len(result.before) for result in results)
    guarantees = sorted(
        {str(audit["guarantee"]) for result in results for audit in result.audits} - {""}
    )
    parts = [
        _HEAD,
        f"Measured where the guarantee is {' and '.join(guarantees) or 'unknown'}: "
        + f"{len({result.attack.name for result in results})} attacks, "
        + f"{false} false alarms in the normal use before them.\n",
        _by_kind(results, modes),
        _false(results),
        _missed(results),
        _details(results, modes),
    ]
    return "\n".join(part for part in parts if part)


def _by_kind(results: Sequence[Result], modes: Sequence[Mode]) -> str:
    lines = [
        "| | attacks | " + " | ".join(str(mode) for mode in modes) + " |",
        "|---|---|" + "---|" * len(modes),
    ]
    for kind in (*Kind, None):
        of_kind = [r for r in results if kind is None or r.attack.row.kind is kind]
        cells = [_counted([result for result in of_kind if result.mode is mode]) for mode in modes]
        number = len({result.attack.name for result in of_kind})
        lines.append(f"| {kind or '**all**'} | {number} | " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def _counted(results: Sequence[Result]) -> str:
    counted = Counter(result.verdict for result in results)
    return ", ".join(f"{counted[verdict]} {verdict}" for verdict in _ORDER if counted[verdict])


def _false(results: Sequence[Result]) -> str:
    """Where normal use was told, most often first."""
    places = Counter(
        (result.attack.service, str(audit["program"]), posixpath.dirname(str(audit["path"])))
        for result in results
        for audit in result.before
    )
    if not places:
        return ""
    lines = ["## False alarms\n", "| service | program | in | audits |", "|---|---|---|---|"]
    for (service, program, folder), number in places.most_common():
        lines.append(f"| {service} | {_cell(program)} | {_cell(folder)} | {number} |")
    return "\n".join(lines) + "\n"


def _missed(results: Sequence[Result]) -> str:
    lines = ["## Missed, and why\n", "| attack | | technique | why |", "|---|---|---|---|"]
    seen: set[str] = set()
    for result in results:
        attack = result.attack
        if result.verdict is not Verdict.MISSED or attack.name in seen:
            continue
        seen.add(attack.name)
        lines.append(
            f"| {attack.name} | {attack.row.kind} | {attack.row.technique} | "
            f"{_cell(attack.why_missed) or '**not explained**'} |"
        )
    return "\n".join(lines) + "\n" if seen else ""


def _details(results: Sequence[Result], modes: Sequence[Mode]) -> str:
    lines = []
    for service in dict.fromkeys(result.attack.service for result in results):
        lines += [
            f"## {service}\n",
            "| attack | technique | enters | " + " | ".join(modes) + " | told as |",
            "|---|---|---|" + "---|" * len(modes) + "---|",
        ]
        by_name: dict[str, list[Result]] = {}
        for result in results:
            if result.attack.service == service:
                by_name.setdefault(result.attack.name, []).append(result)
        for of_attack in by_name.values():
            row = of_attack[0].attack.row
            verdicts = {result.mode: str(result.verdict) for result in of_attack}
            told = dict.fromkeys(str(a["type"]) for a in of_attack[0].naming)
            lines.append(
                f"| {_cell(row.name)} | {row.technique} | {row.enters} | "
                + " | ".join(verdicts.get(mode, "") for mode in modes)
                + f" | {', '.join(f'`{kind}`' for kind in told)} |"
            )
        lines.append("")
    return "\n".join(lines)


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")
