"""`rote rules`: what deviations lead to."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from sensor.audits.formats import escape, when
from sensor.cli.output import emit, emit_json, emit_lines, emit_table, output_option
from sensor.errors import UsageError
from sensor.rules.files import read_rules
from sensor.rules.schema import json_schema

COLUMNS = ("order", "rule", "kind", "containers", "hits", "last_used", "source")
_RULES = Path("/etc/rote/rules.d")


@click.group()
def rules() -> None:
    """What deviations lead to: ordered rules, of which the first that matches counts.

    They are YAML files in /etc/rote/rules.d (`rote run --rules`); docs/rules.md explains them.
    """


@rules.command("list")
@output_option
@click.pass_obj
def list_(context: Any, /, output: str) -> None:
    """List the rules that hold, in their order, with how often they decided."""
    found = context.client.ask("rules.list")
    if found["error"]:
        click.echo(f"rote: the files as they are now do not hold: {found['error']}", err=True)
    if found["prevent"] and output == "table":
        click.echo(f"before all: --prevent {' --prevent '.join(found['prevent'])}", err=True)
    emit(
        output,
        found["rules"],
        COLUMNS,
        cells=lambda row: (
            str(row["order"] or "-"),
            escape(row["name"]),
            row["kind"],
            str(row["containers"]),
            str(row["hits"]),
            when(row["last_used"]) if row["last_used"] else "never",
            escape(row["source"]),
        ),
    )


@rules.command()
@click.argument("rule")
@output_option
@click.pass_obj
def show(context: Any, /, rule: str, output: str) -> None:
    """Show a rule: scope, actions, lists, and what it decided."""
    found = context.client.ask("rules.list")["rules"]
    row = next((row for row in found if row["name"] == rule), None)
    if row is None:
        names = ", ".join(repr(row["name"]) for row in found)
        raise UsageError(f"rule {rule!r}: there is none; expected one of {names}")
    if output != "table":
        (emit_json if output == "json" else lambda value: emit_lines([value]))(row)
        return
    click.echo(f"{row['name']} ({row['kind']}), from {escape(row['source'])}")
    for name, value in row.items():
        if name in ("name", "kind", "source") or value in ("", [], {}, None):
            continue
        if isinstance(value, dict):
            click.echo(f"  {name}")
            for key, inner in value.items():
                if inner not in ("", [], {}, None, False):
                    click.echo(f"    {key:<18} {escape(str(inner))}")
        elif isinstance(value, list):
            click.echo(f"  {name}")
            for entry in value:
                click.echo(f"    {escape(str(entry))}")
        elif name == "last_used":
            click.echo(f"  {name:<20} {when(value)}")
        else:
            click.echo(f"  {name:<20} {escape(str(value))}")


@rules.command()
@click.argument("path", type=click.Path(path_type=Path), default=_RULES)
def check(path: Path) -> None:
    """Check rule files without a daemon and without applying them.

    \b
    Example:
      rote rules check ./rules.d
    """
    if not path.exists():
        raise UsageError(f"{path}: there is none; expected a rule file or a directory of them")
    found = read_rules(path)
    names = [*(r.name for r in found.rules), *(r.name for r in found.image_rules)]
    click.echo(
        f"{path}: {len(found.files)} files, {len(names)} rules, all good"
        + (f"; disabled: {', '.join(found.disabled)}" if found.disabled else "")
    )


@rules.command()
def schema() -> None:
    """Print the JSON Schema of rule files, for editors and checks."""
    emit_json(json_schema())


@rules.command()
@click.pass_obj
def reload(context: Any, /) -> None:
    """Read the files of rules and channels again now. The daemon does so by itself as well."""
    found = context.client.ask("rules.reload")
    click.echo(f"{found['rules']} rules and {found['channels']} channels hold")


@rules.command()
@click.argument("container")
@click.argument("path")
@click.option("--by", default="", help="The program that acts: its path, or PATH#APPLET.")
@click.option("--sha256", default="", help="Of the program, where rules name digests.")
@output_option
@click.pass_obj
def explain(context: Any, /, container: str, path: str, output: str, **options: str) -> None:
    """Say which rule and which key decide about a PATH in a CONTAINER, and why.

    PATH is a program (PATH#APPLET for one of a multi-call binary) or any file.

    \b
    Example:
      rote rules explain web /usr/bin/nc --by /bin/sh
    """
    found = context.client.ask("rules.explain", container=container, path=path, **options)
    if output != "table":
        (emit_json if output == "json" else lambda value: emit_lines([value]))(found)
        return
    for row in found["rules"]:
        click.echo(f"rule {escape(row['rule'])} ({escape(row['source'])}): {row['counts']}")
    click.echo(f"model {escape(found['model'])}: {found['model_state']}\n")
    emit_table(
        ("what", "verdict", "action", "why"),
        [
            (escape(a["what"]), a["verdict"], a["action"], escape(a["why"]))
            for a in found["answers"]
        ],
    )
    click.echo(
        f"\nthis host can {found['guarantee']} executions and {found['guarantee_files']} changes; "
        "arguments and digests are known when a program runs: what they deny is killed"
    )


@rules.command()
@click.argument("rulefile", type=click.Path(path_type=Path))
@click.option("--since", default="7d", show_default=True, help="An age or a time.")
@output_option
@click.pass_obj
def test(context: Any, /, rulefile: Path, since: str, output: str) -> None:
    """Judge recorded audits by a changed RULEFILE (or directory), before it is applied.

    And the images of what runs by its rules about images. What its lists deny of that which was
    known, and so silent, is not among the audits.
    """
    found = context.client.ask("rules.test", path=str(rulefile.absolute()), since=since)
    if output != "table":
        (emit_json if output == "json" else lambda value: emit_lines([value]))(found)
        return
    would = ", ".join(f"{count} {action}" for action, count in sorted(found["would"].items()))
    click.echo(
        f"{found['audits']} audits ({found['occurrences']} occurrences) since {since}: "
        f"would be {would or 'nothing'}"
    )
    if found["entries_by_content_not_judged"]:
        click.echo("entries by sha256 were not judged: audits hold no digests of programs")
    if found["changes"]:
        click.echo()
        emit_table(
            ("was", "would_be", "count", "what"),
            [
                (row["was"], row["would_be"], str(row["count"]), escape(row["what"]))
                for row in found["changes"]
            ],
        )
        hidden = found["changes_in_all"] - len(found["changes"])
        if hidden:
            click.echo(f"and {hidden} more; --output json has the counts")
    if found["images"]:
        click.echo()
        emit_table(
            ("container", "image", "start_would_be", "why"),
            [
                (
                    escape(row["container"]),
                    escape(row["image"]),
                    "refused" if row["action"] == "block" else row["action"],
                    escape(row["message"]),
                )
                for row in found["images"]
            ],
        )
