"""Tables, JSON and JSON lines: how listings are shown."""

from __future__ import annotations

import shutil
import sys
import unicodedata
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, TypeVar

import click
import orjson

F = TypeVar("F", bound=Callable[..., Any])

output_option = click.option(
    "--output",
    "-o",
    type=click.Choice(["table", "json", "jsonl"]),
    default="table",
    show_default=True,
    help="How to print.",
)


def emit_json(value: Any) -> None:
    """One JSON document."""
    _write(orjson.dumps(value, option=orjson.OPT_INDENT_2 | orjson.OPT_NON_STR_KEYS))


def emit_lines(values: Iterable[Any]) -> None:
    """One JSON object a line, each written at once."""
    for value in values:
        _write(orjson.dumps(value, option=orjson.OPT_NON_STR_KEYS))


def _write(data: bytes) -> None:
    sys.stdout.write(data.decode() + "\n")
    sys.stdout.flush()


def emit(
    how: str,
    rows: Sequence[Mapping[str, Any]],
    columns: Sequence[str],
    *,
    cells: Callable[[Mapping[str, Any]], Sequence[str]] | None = None,
    empty: str = "nothing",
) -> None:
    """Rows in the form a person asked for; in a table only ``columns``."""
    if how == "json":
        emit_json(list(rows))
    elif how == "jsonl":
        emit_lines(rows)
    elif not rows:
        click.echo(empty, err=True)
    else:
        lines = [
            list(cells(row)) if cells else [str(row.get(name, "")) for name in columns]
            for row in rows
        ]
        emit_table(columns, lines)


def emit_table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Aligned columns. On a terminal the widest column gives way when they do not fit."""
    widths = [max(width(row[i]) for row in [columns, *rows]) for i in range(len(columns))]
    if sys.stdout.isatty():
        room = shutil.get_terminal_size().columns - 2 * (len(columns) - 1)
        while sum(widths) > room and max(widths) > 12:
            widths[widths.index(max(widths))] -= 1
    for row in [[name.upper().replace("_", " ") for name in columns], *rows]:
        cells = [_fit(cell, widths[i]) for i, cell in enumerate(row)]
        click.echo("  ".join(cells).rstrip())


def table_lines(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> Iterator[str]:
    """Aligned columns inside a page; nothing when there are no rows."""
    lines = [*rows]
    if not lines:
        return
    widths = [max(width(row[i]) for row in [columns, *lines]) for i in range(len(columns))]
    for row in [[name.upper() for name in columns], *lines]:
        cells = (cell + " " * (widths[i] - width(cell)) for i, cell in enumerate(row))
        yield "  ".join(cells).rstrip()


def width(text: str) -> int:
    """Columns a text takes on a terminal."""
    return sum(2 if unicodedata.east_asian_width(char) in "WF" else 1 for char in text)


def _fit(text: str, columns: int) -> str:
    if width(text) > columns:
        # The end of a path says more than its middle.
        keep = max(1, columns // 3)
        text = text[: columns - keep - 1] + "…" + text[-keep:]
    return text + " " * (columns - width(text))


def duration(seconds: float) -> str:
    """Seconds as a person says them."""
    if seconds < 120:
        return f"{seconds:.0f}s"
    if seconds < 7200:
        return f"{seconds / 60:.0f}m"
    if seconds < 172800:
        return f"{seconds / 3600:.1f}h"
    return f"{seconds / 86400:.1f}d"


def megabytes(count: int) -> str:
    """Bytes in MB."""
    return f"{count / 1e6:.1f} MB"
