"""`rote models`: what was learned."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click

from sensor.audits.formats import escape
from sensor.cli.model_admission import admission_json, admission_lines
from sensor.cli.model_page import as_json, page
from sensor.cli.output import duration, emit, emit_json, emit_lines, output_option
from sensor.errors import UsageError
from sensor.models.adversary import model_admission
from sensor.models.files import unpack_model
from sensor.models.learning import rate

COLUMNS = (
    "model", "image", "state", "executions", "writes", "runs", "observed", "lost", "expected",
    "at_most", "id",
)  # fmt: skip


@click.group()
def models() -> None:
    """What was learned, and what is to become of it.

    A MODEL is named by its image (nginx:1.25), its number (#3), its id, or the beginning of any.
    """


@models.command("list")
@output_option
@click.pass_obj
def list_(context: Any, /, output: str) -> None:
    """List the models.

    EXPECTED: new keys a day by what was counted. AT MOST: false alarms a day and container, with
    95 % confidence, by the dry run and since.
    """
    emit(
        output,
        context.client.ask("models.list"),
        COLUMNS,
        cells=lambda row: (
            f"#{row['number']}",
            escape(row["image"]),
            _state(row),
            str(row["executions"]),
            str(row["writes"]),
            str(row["runs"]),
            duration(row["observed_seconds"]),
            str(row["lost"]),
            _rate(row["expected_per_day"]),
            _rate(row["max_false_alarms_per_day"]),
            escape(row["id"].removeprefix("sha256:")[:12] + "~" + row["id"].rpartition("~")[2]),
        ),
        empty="no models yet; they are made when containers start",
    )


def _rate(number: float | None) -> str:
    return "-" if number is None else rate(number)


def _state(row: Mapping[str, Any]) -> str:
    remarks = ["by hand"] if row["manual"] else []
    remarks += [f"{kind} told only" for kind in row["unsettled"]]
    return str(row["state"]) + (f" ({', '.join(remarks)})" if remarks else "")


@models.command()
@click.argument("model")
@click.option(
    "--admission",
    is_flag=True,
    help="Also try some thousand paths that an attacker would write, and say which of them the "
    "model takes for the service's own.",
)
@output_option
@click.option(
    "--html",
    "file",
    type=click.Path(path_type=Path, dir_okay=False),
    help="Write a page for a browser to this file instead.",
)
@click.pass_obj
def show(context: Any, /, model: str, admission: bool, output: str, file: Path | None) -> None:
    """Show a model: how sure it is, how it was learned, and every key with its evidence.

    \b
    Examples:
      rote models show nginx:1.25
      rote models show nginx:1.25 --admission
      rote models show nginx:1.25 --html nginx.html
    """
    found = unpack_model(context.client.ask("models.show", name=model), 0, model)
    admitted = model_admission(found) if admission else None
    if file is not None:
        from sensor.cli import model_html

        try:
            file.write_text(model_html.page(found), encoding="utf-8")
        except OSError as error:
            raise UsageError(f"{file}: {error.strerror}; the page was not written") from error
        click.echo(str(file))
    elif output == "table":
        for line in page(found):
            click.echo(line)
        for line in admission_lines(admitted) if admitted else ():
            click.echo(line)
    elif output == "json":
        tried = {"admission": admission_json(admitted)} if admitted else {}
        emit_json({**as_json(found), **tried})
    else:
        emit_lines(as_json(found)["keys"])


@models.command()
@click.argument("left")
@click.argument("right", default="")
@output_option
@click.pass_obj
def diff(context: Any, /, left: str, right: str, output: str) -> None:
    """Show which keys only one of two models has.

    "-" is LEFT's only, "+" RIGHT's only, "?" what RIGHT inherited from an earlier image and has not
    seen yet. One model alone is compared with the one that it started from.

    \b
    Examples:
      rote models diff nginx:1.25 nginx:1.27
      rote models diff nginx:1.27
    """
    if not right:
        left, right = "", left
    found = context.client.ask("models.diff", left=left, right=right)
    if output == "json":
        emit_json(found)
    elif output == "jsonl":
        emit_lines(found["lines"])
    else:
        for line in found["lines"]:
            click.echo(escape(line))
        rest = f", {found['unconfirmed']} to be confirmed" if found["unconfirmed"] else ""
        click.echo(f"{found['common']} keys in both{rest}", err=True)


def _change(name: str, text: str) -> None:
    @models.command(name, help=text)
    @click.argument("model")
    @click.pass_obj
    def command(context: Any, /, model: str) -> None:
        moved = context.client.ask("models.change", name=model, verb=name)
        click.echo(f"{escape(model)}: {moved['old']} → {moved['new']} ({moved['cause']})")


_change("learn", "Let a model learn anew: what it knows goes.")
_change("extend", "Let a model learn on; what it knows stays.")
_change("activate", "End learning now: from here on every deviation is an audit.")
_change("archive", "Keep a model, but judge nothing by it.")
_change("restore", "Take a model out of the archive.")


@models.command()
@click.argument("model")
@click.argument("file", type=click.Path(path_type=Path, dir_okay=False))
@click.pass_obj
def export(context: Any, /, model: str, file: Path) -> None:
    """Write a model to a FILE, to be imported on another host."""
    data = context.client.ask("models.export", name=model)
    try:
        file.write_bytes(data)
    except OSError as error:
        raise UsageError(f"{file}: {error.strerror}; the model was not exported") from error
    click.echo(f"{file}: {len(data)} bytes")


@models.command("import")
@click.argument("file", type=click.Path(path_type=Path))
@click.option("--replace", is_flag=True, help="Replace the model of the same image.")
@click.option("--merge", is_flag=True, help="Add its keys to the model of the same image.")
@click.pass_obj
def import_(context: Any, /, file: Path, replace: bool, merge: bool) -> None:
    """Read a model from a FILE that `rote models export` wrote."""
    if replace and merge:
        raise UsageError("--replace and --merge exclude one another; give one of them")
    try:
        data = file.read_bytes()
    except OSError as error:
        raise UsageError(f"{file}: {error.strerror}; expected an exported model") from error
    taken = context.client.ask(
        "models.import", data=data, where=str(file), replace=replace, merge=merge
    )
    click.echo(f"#{taken['number']} {escape(taken['image'])}: {taken['keys']} keys")


@models.command()
@click.argument("model")
@click.option("--yes", is_flag=True, help="Do not ask.")
@click.pass_obj
def rm(context: Any, /, model: str, yes: bool) -> None:
    """Forget a model for good."""
    if not yes:
        click.confirm(f"Forget model {model} and everything it learned?", abort=True)
    gone = context.client.ask("models.remove", name=model)
    click.echo(f"#{gone['number']} {escape(gone['image'])}: forgotten, {gone['keys']} keys")


@models.command("copy-to-rule")
@click.argument("model")
@click.argument("file", type=click.Path(path_type=Path, dir_okay=False, allow_dash=True))
@click.pass_obj
def copy_to_rule(context: Any, /, model: str, file: Path) -> None:
    """Write a rule FILE ("-": standard output) that allows what a model learned.

    It is a start for editing: programs without their callers, changes with their programs.
    """
    import yaml

    text = yaml.safe_dump(
        context.client.ask("models.copy_to_rule", name=model), sort_keys=False, allow_unicode=True
    )
    if str(file) == "-":
        click.echo(text, nl=False)
        return
    try:
        with file.open("x", encoding="utf-8", errors="surrogateescape") as target:
            target.write(text)
    except OSError as error:
        raise UsageError(f"{file}: {error.strerror}; the rule was not written") from error
    click.echo(f"{file}: look at it, then put it among the rules")
