"""`rote block`, `rote unblock`, `rote blocked`, `rote quarantine`, `rote release`."""

from __future__ import annotations

from typing import Any

import click

from sensor.audits.formats import escape, when
from sensor.cli.output import duration, emit, emit_json, emit_lines, output_option
from sensor.config import parse_duration

BLOCKED_COLUMNS = (
    "name", "id", "image", "state", "blocked", "rule", "violations", "reason",
)  # fmt: skip
QUARANTINED_COLUMNS = ("name", "id", "image", "mode", "since", "links", "reason")
# A grace period, evidence of a large file system: it may take a while.
_SECONDS = 600.0


@click.command()
@click.argument("container")
@click.option("--reason", required=True, help="Why; it stands in the audit.")
@click.option("--grace", default=None, metavar="DURATION", help="How long it may take to end.")
@click.option("--no-evidence", is_flag=True, help="Take no evidence.")
@output_option
@click.pass_obj
def block(context: Any, /, container: str, output: str, **options: Any) -> None:
    """Take a CONTAINER out of service until `rote unblock`.

    It is frozen, evidence is taken, its restart policy is changed so that it does not come back,
    and it is stopped. CONTAINER is a name, an id, or the beginning of an id.

    \b
    Examples:
      rote block web --reason "mines coins"
      rote block 3f9c --reason test --grace 10s --no-evidence
    """
    found = context.client.ask(
        "block",
        within=_SECONDS,
        name=container,
        reason=options["reason"],
        grace=None if options["grace"] is None else parse_duration(options["grace"]),
        evidence=not options["no_evidence"],
    )
    if output != "table":
        _emit_one(output, found)
        return
    click.echo(f"{escape(found['name'] or found['id'][:12])}: {found['state']}")
    _emit_steps(found)
    if found["state"] == "blocking":
        click.echo("not all of it could be done; it is tried again until it is", err=True)


@click.command()
@click.argument("container")
@click.option("--start", is_flag=True, help="Start it as well.")
@output_option
@click.pass_obj
def unblock(context: Any, /, container: str, start: bool, output: str) -> None:
    """Let a blocked CONTAINER run again, under the restart policy that it had.

    \b
    Example:
      rote unblock web --start
    """
    found = context.client.ask("unblock", within=_SECONDS, name=container, start=start)
    if output != "table":
        _emit_one(output, found)
        return
    name, (result, detail) = escape(found["name"] or found["id"][:12]), found["policy"]
    click.echo(f"{name}: unblocked{' and started' if start else ''}")
    click.echo(f"restart policy: {escape(detail)}" + ("" if result == "done" else " (unchanged)"))


@click.group()
def blocked() -> None:
    """Which containers were taken out of service."""


@blocked.command("list")
@click.option("--all", "everything", is_flag=True, help="Also those that were let go again.")
@output_option
@click.pass_obj
def list_(context: Any, /, everything: bool, output: str) -> None:
    """List the blocked containers.

    \b
    Example:
      rote blocked list -o jsonl | jq .reason
    """
    emit(
        output,
        context.client.ask("blocked.list", all=everything),
        BLOCKED_COLUMNS,
        cells=lambda row: (
            escape(row["name"]),
            escape(row["id"][:12]),
            escape(row["image"]),
            row["state"],
            when(int(row["blocked_at"] * 1e9)),
            escape(row["rule"] or "by hand"),
            str(row["violations"]),
            escape(row["reason"]),
        ),
        empty="no container is blocked",
    )


@blocked.command()
@click.argument("container")
@output_option
@click.pass_obj
def show(context: Any, /, container: str, output: str) -> None:
    """Show a blocked CONTAINER: why, when, and what became of each step.

    \b
    Example:
      rote blocked show web
    """
    found = context.client.ask("blocked.show", name=container)
    if output != "table":
        _emit_one(output, found)
        return
    pairs = {
        "container": f"{found['name']} ({found['id'][:12]})",
        "image": found["image"],
        "runtime": found["runtime"],
        "state": found["state"],
        "reason": found["reason"],
        "rule": found["rule"] or "by hand",
        "blocked": when(int(found["blocked_at"] * 1e9)),
        "unblocked": when(int(found["unblocked_at"] * 1e9)) if found["unblocked_at"] else "",
        "violations": str(found["violations"]),
        "audits": " ".join(f"#{number}" for number in found["cause_ids"]),
        "restart policy": found["restart_policy"] and f"{found['restart_policy']} before",
        "orchestrator": found["orchestrator"],
        "starts refused": str(found["starts_refused"] or ""),
        "evidence": found["evidence"],
    }
    for name, text in pairs.items():
        if text:
            click.echo(f"{name:<15} {escape(text)}")
    click.echo()
    _emit_steps(found)


@click.command()
@click.argument("container")
@click.option("--reason", required=True, help="Why; it stands in the audit.")
@click.option(
    "--mode",
    type=click.Choice(["links", "drop"]),
    default="links",
    show_default=True,
    help="links: its links go down; drop: what it sends and gets is dropped, without a word.",
)
@output_option
@click.pass_obj
def quarantine(context: Any, /, container: str, reason: str, mode: str, output: str) -> None:
    """Cut a running CONTAINER off from the network. It keeps running.

    \b
    Example:
      rote quarantine web --reason "talks to strangers"
    """
    found = context.client.ask(
        "quarantine", within=_SECONDS, name=container, reason=reason, mode=mode
    )
    if output != "table":
        _emit_one(output, found)
        return
    what = "links down" if found["mode"] == "links" else "traffic dropped"
    click.echo(f"{escape(found['name'] or found['id'][:12])}: {what}: {escape(found['links'])}")
    for note in found["notes"]:
        click.echo(escape(note), err=True)


@click.command()
@click.argument("container")
@output_option
@click.pass_obj
def release(context: Any, /, container: str, output: str) -> None:
    """Give a CONTAINER in quarantine its network back.

    \b
    Example:
      rote release web
    """
    found = context.client.ask("release", within=_SECONDS, name=container)
    if output != "table":
        _emit_one(output, found)
        return
    click.echo(f"{escape(found['name'] or found['id'][:12])}: released: {escape(found['links'])}")
    for remark in found["remarks"]:
        click.echo(escape(remark), err=True)


@click.command()
@output_option
@click.pass_obj
def quarantined(context: Any, /, output: str) -> None:
    """List the containers in quarantine.

    \b
    Example:
      rote quarantined -o json
    """
    emit(
        output,
        context.client.ask("quarantined.list"),
        QUARANTINED_COLUMNS,
        cells=lambda row: (
            escape(row["name"]),
            escape(row["id"][:12]),
            escape(row["image"]),
            row["mode"],
            when(int(row["since"] * 1e9)),
            escape(row["links"]),
            escape(row["reason"]),
        ),
        empty="no container is in quarantine",
    )


def _emit_one(output: str, found: dict[str, Any]) -> None:
    if output == "json":
        emit_json(found)
    else:
        emit_lines([found])


def _emit_steps(found: dict[str, Any]) -> None:
    for step in found["steps"]:
        took = (
            f"{step['seconds'] * 1000:.0f} ms" if step["seconds"] < 2 else duration(step["seconds"])
        )
        click.echo(f"  {step['name']:<15} {step['result']:<8} {took:>8}  {escape(step['detail'])}")


COMMANDS = (block, unblock, blocked, quarantine, release, quarantined)
