"""`rote audits`: what deviated."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import click
import orjson

from sensor.audits.audit import Action, Audit, AuditType, Severity
from sensor.audits.formats import (
    COLUMNS,
    FORMATS,
    escape,
    iso,
    one_line,
    render,
    row,
    to_json,
    when,
)
from sensor.audits.head import parse_head
from sensor.audits.query import AuditQuery
from sensor.audits.store import AuditStore, unpack_audit
from sensor.audits.verify import Verification, verify
from sensor.cli.output import F, emit_json, emit_lines, emit_table, output_option
from sensor.errors import BadInputError, NotRunningError, UsageError

_FILTERS = (
    click.option("--container", "-c", help="Name, beginning of the id, or a glob."),
    click.option("--image", "-i", help="Glob over the image's reference."),
    click.option("--type", "type", type=click.Choice([str(t) for t in AuditType])),
    click.option("--action", type=click.Choice([str(a) for a in Action])),
    click.option(
        "--severity",
        type=click.Choice([s.name.lower() for s in Severity]),
        help="At least this.",
    ),
    click.option("--path", help="Glob over the paths."),
    click.option("--rule", help="Glob over the name of the rule that decided."),
    click.option("--since", help="An age (2h), a time (2026-11-23T14:00) or epoch seconds."),
    click.option("--until", help="Like --since."),
)


def _filters(function: F) -> F:
    decorated: Callable[..., Any] = function
    for option in reversed(_FILTERS):
        decorated = option(decorated)
    return decorated  # type: ignore[return-value]


@click.group()
def audits() -> None:
    """What deviated from what was learned."""


@audits.command("list")
@_filters
@click.option("--limit", "-n", default=100, show_default=True, help="The newest so many; 0: all.")
@output_option
@click.pass_obj
def list_(context: Any, /, output: str, **filters: Any) -> None:
    """List audits, oldest first. Without a daemon the database is read.

    \b
    Examples:
      rote audits list --since 2h --severity high
      rote audits list -c web -o jsonl
    """
    found = _query(context, filters)
    if output == "json":
        emit_json([to_json(audit) for audit in found])
    elif output == "jsonl":
        emit_lines(to_json(audit) for audit in found)
    elif not found:
        click.echo("no audits", err=True)
    else:
        emit_table(COLUMNS, [row(audit) for audit in found])


@audits.command()
@click.argument("audit", type=int)
@output_option
@click.pass_obj
def show(context: Any, /, audit: int, output: str) -> None:
    """Show one audit as a page."""
    try:
        found = unpack_audit(context.client.ask("audits.show", id=audit))
    except NotRunningError as error:
        store = _database(context, error)
        stored = store.get(audit)
        if stored is None:
            raise UsageError(f"audit {audit}: there is none; see: rote audits list") from error
        found = stored
    if output == "table":
        click.echo(render(found))
    else:
        (emit_json if output == "json" else lambda value: emit_lines([value]))(to_json(found))


@audits.command()
@_filters
@click.option("--limit", "-n", default=10, show_default=True, help="So many earlier ones first.")
@output_option
@click.pass_obj
def follow(context: Any, /, output: str, **filters: Any) -> None:
    """Show audits as they come, until Ctrl-C or until the daemon stops."""
    AuditQuery.from_options(filters)  # wrong filters are said here, not by the daemon
    for data in context.client.stream("audits.follow", **_given(filters)):
        if not data:
            continue
        audit = unpack_audit(data)
        if output == "table":
            click.echo(f"{when(audit.last_ns)} {one_line(audit)}")
        else:
            emit_lines([to_json(audit)])


@audits.command()
@click.argument("file", type=click.Path(path_type=Path, dir_okay=False, allow_dash=True))
@_filters
@click.option(
    "--format",
    "form",
    type=click.Choice(list(FORMATS)),
    default="rote",
    show_default=True,
    help="Our own fields, OCSF detection findings, the Elastic Common Schema, or as Falco writes.",
)
@click.pass_obj
def export(context: Any, /, file: Path, form: str, **filters: Any) -> None:
    """Write audits to a FILE ("-": standard output), one JSON object a line."""
    shape = FORMATS[form]
    found = _query(context, {**filters, "limit": 0})
    if str(file) == "-":
        emit_lines(shape(audit) for audit in found)
        return
    try:
        with file.open("wb") as target:
            target.writelines(orjson.dumps(shape(audit)) + b"\n" for audit in found)
    except OSError as error:
        raise UsageError(f"{file}: {error.strerror}; the audits were not exported") from error
    click.echo(f"{file}: {len(found)} audits")


@audits.command("verify")
@click.option(
    "--head",
    "heads",
    multiple=True,
    metavar="SEQUENCE:HASH",
    help="Noted elsewhere: from an alert, the journal, or an earlier verify. May be repeated.",
)
@output_option
@click.pass_obj
def verify_(context: Any, /, heads: tuple[str, ...], output: str) -> None:
    """Check that no audit was changed, removed or put in since it was recorded.

    The database is read here, also while a daemon runs; what the daemon remembers of its head is
    checked against it. Exits with 3 when something is wrong.

    \b
    Examples:
      rote audits verify
      rote audits verify --head 1207:9f2c...
    """
    noted = [parse_head(head) for head in heads]
    try:
        answer = context.client.ask("audits.head")
        path, remembered = Path(answer["database"]), parse_head(answer["head"])
    except NotRunningError as error:
        path, remembered = context.state_dir / "audits.db", None
        if not path.exists():
            raise error from None
    found = verify(path, noted, remembered=remembered, progress=_progress())
    if output == "table":
        click.echo("\n".join(_findings(found)))
    else:
        facts = {
            "database": str(path),
            "good": found.good,
            "audits": found.audits,
            "entries": found.entries,
            "first": found.first,
            "head": str(found.head),
            "pruned": found.pruned,
            "pruned_time": iso(found.pruned_ns) if found.pruned_ns else None,
            "taken_over": found.taken_over,
            "wrong": found.wrong,
            "problems": [escape(problem) for problem in found.problems],
        }
        (emit_json if output == "json" else lambda value: emit_lines([value]))(facts)
    if not found.good:
        raise BadInputError(
            f"{path}: {found.wrong} {'thing is' if found.wrong == 1 else 'things are'} not as "
            "recorded"
        )


def _progress() -> Callable[[int], None] | None:
    """A line on standard error that counts, when a person looks at it."""
    if not sys.stderr.isatty():
        return None
    return lambda entries: click.echo(f"\r{entries} entries checked", err=True, nl=False)


def _findings(found: Verification) -> list[str]:
    last = found.head.sequence
    lines = [
        f"audits    {found.audits}",
        f"entries   {found.entries}" + (f", {found.first} to {last}" if found.entries else ""),
        f"head      {found.head}",
    ]
    if found.pruned_ns:
        lines.append(f"pruned    {found.pruned} audits, last {when(found.pruned_ns)}")
    if found.taken_over:
        lines.append(
            f"older     {found.taken_over} audits are from before there was a chain: unchanged "
            "since they were taken over"
        )
    lines.extend(f"WRONG     {escape(problem)}" for problem in found.problems)
    if found.wrong > len(found.problems):
        lines.append(f"WRONG     and {found.wrong - len(found.problems)} more")
    if found.good:
        lines.append("good      every audit is what was recorded")
    return lines


def _given(filters: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in filters.items() if value is not None}


def _query(context: Any, /, filters: dict[str, Any]) -> list[Audit]:
    query = AuditQuery.from_options(filters)
    try:
        rows: Iterable[bytes] = context.client.ask("audits.list", **_given(filters))
    except NotRunningError as error:
        return _database(context, error).query(query)
    return [unpack_audit(data) for data in rows]


def _database(context: Any, /, error: NotRunningError) -> AuditStore:
    path = context.state_dir / "audits.db"
    if not path.exists():
        raise error
    click.echo(f"rote: no daemon answers; reading {path}", err=True)
    return AuditStore(path, read_only=True)
