"""Compare generalisers on recorded runs of services, without containers.

    scripts/soak compare [FILES or FOLDERS …] [--write] [--names]

Each learns the first run of a service and judges the second, in a fresh container of the same
image.
"""

from __future__ import annotations

import argparse
import statistics
import sys
from collections.abc import Callable, Iterable
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path

from sensor.models.adversary import Admission, admission
from sensor.models.diff import describe
from sensor.models.keys import ExecKey, Key, WriteKey
from sensor.paths import Pattern, is_protected
from tests.soak import traces
from tests.soak.generalisers import Exact, Generaliser, Ours, Threshold
from tests.soak.page import write_section
from tests.soak.traces import Trace

GENERALISERS: tuple[Callable[[], Generaliser], ...] = (
    Exact,
    lambda: Threshold(50),
    lambda: Threshold(3),
    Ours,
)


@dataclass(frozen=True, slots=True)
class Result:
    """What one generaliser made of one service."""

    service: str
    generaliser: str
    keys: int
    executions: list[ExecKey]  # new in the second run
    writes: list[WriteKey]
    admission: Admission = field(repr=False)

    @property
    def protected(self) -> int:
        """How many of the new write keys are of protected places."""
        return sum(is_protected(_path(key)) for key in self.writes)


def _path(key: Key) -> str:
    if isinstance(key, ExecKey):
        return key.program.path
    return "/" + "/".join(
        label.name.decode(errors="surrogateescape") for label in Pattern.parse(key.pattern).labels
    )


def compare(trace: Trace) -> list[Result]:
    """Let each generaliser learn and judge a service."""
    learnable = {key for _, key in trace.judge.keys}
    written = {_path(key) for _, key in trace.learn.keys if isinstance(key, WriteKey)}
    results = []
    for make in GENERALISERS:
        with closing(make()) as generaliser:
            generaliser.learn(trace.learn)
            novel = generaliser.novel(trace.judge)
            result = Result(
                trace.name,
                generaliser.name,
                generaliser.keys(),
                [key for key in novel if isinstance(key, ExecKey) and key in learnable],
                [key for key in novel if isinstance(key, WriteKey)],
                admission(written, generaliser.admits),
            )
        results.append(result)
    return results


def table(results: list[Result]) -> str:
    """All results as Markdown: a line for each generaliser, then one for each service."""
    names = list(dict.fromkeys(result.generaliser for result in results))
    services = list(dict.fromkeys(result.service for result in results))
    by = {(result.service, result.generaliser): result for result in results}
    head = ["service", *(f"{name}: new, admitted" for name in names)]
    lines = [
        _row(_COLUMNS),
        _row(["---"] * len(_COLUMNS)),
        *(_row(_summary(name, [by[service, name] for service in services])) for name in names),
        "",
        _row(head),
        _row(["---"] * len(head)),
        *(_row([service, *(_cell(by[service, name]) for name in names)]) for service in services),
    ]
    return "\n".join(lines) + "\n"


_COLUMNS = (
    "generaliser", "keys", "new executions", "new write keys", "of protected places",
    "admitted, mean", "outside of grants, mean", "most", "protected paths admitted",
)  # fmt: skip


def _row(cells: Iterable[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _summary(name: str, results: list[Result]) -> list[str]:
    everywhere = [result.admission.share for result in results]
    outside = [result.admission.share_outside for result in results]
    return [
        name,
        f"{sum(result.keys for result in results):,}",
        f"{sum(len(result.executions) for result in results):,}",
        f"{sum(len(result.writes) for result in results):,}",
        f"{sum(result.protected for result in results):,}",
        f"{statistics.mean(everywhere):.1%}",
        f"{statistics.mean(outside):.2%}",
        f"{max(outside):.2%}",
        f"{sum(len(result.admission.protected) for result in results):,}",
    ]


def _cell(result: Result) -> str:
    new = f"{len(result.writes):,}"
    if result.executions:
        new += f" + {len(result.executions)} exec."
    return f"{new}, {result.admission.share:.1%}"


def main(arguments: list[str]) -> int:
    """Compare, print, and on request write docs/learning.md."""
    parser = argparse.ArgumentParser(
        "scripts/soak compare", description=(__doc__ or "").split("\n")[0]
    )
    parser.add_argument("places", nargs="*", type=Path, metavar="FILE or FOLDER")
    parser.add_argument("--names", action="store_true", help="what is new to ours, by name")
    parser.add_argument("--write", action="store_true", help="put the table into docs/learning.md")
    options = parser.parse_args(arguments)
    results: list[Result] = []
    for found in traces.find(options.places or [traces.OWN]):
        results += compare(traces.load(*found))
    text = table(results)
    sys.stdout.write(text)
    for result in results:
        if result.generaliser == Ours.name and options.names:
            sys.stdout.write(f"\n{result.service}\n")
            sys.stdout.writelines(f"  new: {describe(k)}\n" for k in result.executions)
            sys.stdout.writelines(f"  new: {describe(k)}\n" for k in result.writes)
            sys.stdout.writelines(f"  granted: {d}\n" for d in result.admission.granted)
            sys.stdout.writelines(f"  admitted: {p}\n" for p in result.admission.outside)
            sys.stdout.writelines(
                f"  protected admitted: {p}\n" for p in result.admission.protected
            )
    if options.write:
        write_section("compare", text)
    return 0
