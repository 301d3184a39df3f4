"""A model as one page for a browser: nothing is loaded from elsewhere, nothing is executed.

Names come from containers, and whoever is in one chooses them: each goes through ``text``.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import pairwise

from sensor.audits.formats import when
from sensor.cli import model_page
from sensor.cli.html import head, table, text
from sensor.models.diff import describe
from sensor.models.keys import ExecKey, Program, WriteKey
from sensor.models.model import Model

_WIDTH, _HEIGHT, _MARGIN = 720, 240, 46


def page(model: Model) -> str:
    """The page."""
    return "\n".join(_page(model)) + "\n"


def _code(value: str) -> str:
    return f"<code>{text(value)}</code>"


def _page(model: Model) -> Iterator[str]:
    name = text(model.name)
    yield from head(f"Model of {model.name}")
    yield f"<h1>{name}</h1>"
    yield f'<p class="sentence">{text(model_page.sentence(model))}</p>'
    yield f"<p>{text(model_page.origin(model))} {text(model_page.horizon(model))}</p>"
    for lack in model_page.lacking(model):
        yield f"<p>Lacking: {text(lack)}</p>"
    yield f'<p class="quiet">id {_code(model.id)}</p>'
    yield "<h2>Discovery</h2>"
    yield from _curve(model)
    yield "<h2>Figures</h2>"
    cells = [
        [text(cell) for cell in model_page.figure_cells(row)] for row in model_page.figures(model)
    ]
    yield from table(model_page.FIGURES, cells)
    yield f'<p class="quiet">{text(model_page.FIGURES_MEAN)}</p>'
    yield "<h2>Transitions</h2>"
    yield from table(
        ("time", "from", "to", "cause"),
        [map(text, (when(t.time_ns), t.old, t.new, t.cause)) for t in model.history],
    )
    yield "<h2>Processes: who executes whom</h2>"
    yield from _processes(model)
    yield "<h2>Written paths</h2>"
    yield from _paths(model)
    yield f"<h2>Every key, with its evidence ({len(model.keys)})</h2>"
    yield from table(
        ("key", "evidence", "last seen"),
        [
            (
                _code(describe(key)),
                text(model_page.seen(model, key, evidence)),
                when(evidence.last_ns),
            )
            for key, evidence in sorted(model.keys.items(), key=lambda pair: describe(pair[0]))
        ],
    )
    for title, others in (
        ("Sessions did, not learned", model.sessions),
        ("New since it is active, not learned", model_page.still_new(model)),
    ):
        if others:
            yield f"<h2>{title} ({len(others)})</h2><ul>"
            yield from (f"<li>{_code(describe(key))}</li>" for key in sorted(others, key=describe))
            yield "</ul>"
    yield "</body></html>"


def _curve(model: Model) -> Iterator[str]:
    points = model_page.steps(model)
    if not points:
        yield "<p>No unit is over yet: nothing to draw.</p>"
        return
    units, most = max(1, points[-1][0]), max(1, *(keys for _, keys in points))
    wide, high = _WIDTH - _MARGIN - 10, _HEIGHT - 2 * 24

    def place(unit: int, keys: int) -> str:
        return f"{_MARGIN + wide * unit / units:.1f},{24 + high * (1 - keys / most):.1f}"

    path = [f"M{place(*points[0])}"]
    for (_, before), (unit, keys) in pairwise(points):
        path += [f"L{place(unit, before)}", f"L{place(unit, keys)}"]
    base = 24 + high
    yield (
        f'<svg viewBox="0 0 {_WIDTH} {_HEIGHT}" width="{_WIDTH}" role="img" '
        f'aria-label="{most} distinct keys in {units} units" font-size="12">'
    )
    yield f'<path d="M{_MARGIN},24V{base}H{_MARGIN + wide}" fill="none" stroke="#8a95a3"/>'
    yield f'<path d="{"".join(path)}" fill="none" stroke="#1f6feb" stroke-width="2"/>'
    yield f'<text x="{_MARGIN - 6}" y="28" text-anchor="end">{most}</text>'
    yield f'<text x="{_MARGIN - 6}" y="{base + 4}" text-anchor="end">0</text>'
    yield f'<text x="{_MARGIN}" y="14" fill="#5a6675">distinct keys</text>'
    yield (
        f'<text x="{_MARGIN + wide}" y="{base + 18}" text-anchor="end" fill="#5a6675">'
        f"{units:,} units</text>"
    )
    yield "</svg>"


def _processes(model: Model) -> Iterator[str]:
    """From what the runtime starts down. What was shown above is not gone into again."""
    below: dict[Program, list[ExecKey]] = defaultdict(list)
    for key in sorted(key for key in model.keys if isinstance(key, ExecKey)):
        below[key.parent].append(key)
    executed = {key.program for keys in below.values() for key in keys}
    roots = [Program("")] if Program("") in below else []
    roots += [p for p in below if p not in executed and p.path]
    shown: set[Program] = set()
    yield '<div class="tree"><ul>'
    for root in roots:
        yield from _process(root, below, shown, model)
    while rest := [p for p in below if p not in shown]:  # in a ring that nobody begins
        yield from _process(rest[0], below, shown, model)
    yield "</ul></div>"


def _process(
    root: Program, below: dict[Program, list[ExecKey]], shown: set[Program], model: Model
) -> Iterator[str]:
    """One tree. Without recursion: a chain of programs may be as long as somebody likes."""
    pending: list[tuple[Program, str] | str] = [(root, "")]
    while pending:
        item = pending.pop()
        if isinstance(item, str):
            yield item
            continue
        program, remarks = item
        again = program in shown and program in below
        more = ' <small class="quiet">see above</small>' if again else ""
        yield f"<li>{text(str(program) or '(runtime)')}{remarks}{more}"
        if program in shown or program not in below:
            shown.add(program)
            yield "</li>"
            continue
        shown.add(program)
        yield "<ul>"
        pending.append("</ul></li>")
        for key in reversed(below[program]):
            said = text(", ".join(model_page.remarks_on(model, key)))
            pending.append((key.program, f" <small>[{said}]</small>"))


@dataclass(slots=True)
class _Node:
    children: dict[str, _Node] = field(default_factory=dict)
    writers: list[WriteKey] = field(default_factory=list)


def _paths(model: Model) -> Iterator[str]:
    root = _Node()
    for key in sorted(key for key in model.keys if isinstance(key, WriteKey)):
        node = root
        for part in [part for part in key.pattern.split("/") if part]:
            node = node.children.setdefault(part, _Node())
        node.writers.append(key)
    yield '<div class="tree"><ul>'
    yield from _directory("", root)
    yield "</ul></div>"


def _directory(name: str, node: _Node) -> Iterator[str]:
    """A directory that holds one thing only is written on one line with it."""
    while len(node.children) == 1 and not node.writers:
        ((part, node),) = node.children.items()
        name = f"{name}/{part}"
    by: dict[str, list[str]] = defaultdict(list)
    for key in node.writers:
        by[str(key.program)].append((key.operation.name or "").lower())
    said = "; ".join(f"{program}: {', '.join(ways)}" for program, ways in by.items())
    yield f"<li>{text(name or '/')}" + (f" <small>{text(said)}</small>" if said else "")
    if node.children:
        yield "<ul>"
        for part, child in sorted(node.children.items()):
            yield from _directory(f"/{part}", child)
        yield "</ul>"
    yield "</li>"
