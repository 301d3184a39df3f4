"""`rote session`: work by hand in a container, allowed for a while."""

from __future__ import annotations

import time
from typing import Any

import click

from sensor.audits.formats import escape
from sensor.cli.output import duration, emit, output_option
from sensor.cli.run import Duration


@click.group()
def session() -> None:
    """Allow `docker exec` and the like to do what the model does not know, for a while."""


@session.command()
@click.argument("container")
@click.option(
    "--for", "seconds", type=Duration(), default="15m", show_default=True, help="How long."
)
@click.option("--reason", required=True, help="Why; it stands in every audit of the session.")
@click.pass_obj
def allow(context: Any, /, container: str, seconds: float, reason: str) -> None:
    """Let sessions do anything in CONTAINER for a while. All of it is recorded.

    When the time is over, processes that came in by a session are killed.

    \b
    Example:
      rote session allow web --for 15m --reason 'incident 4711'
    """
    found = context.client.ask("session.allow", container=container, seconds=seconds, reason=reason)
    until = time.strftime("%H:%M:%S", time.localtime(found["until"]))
    click.echo(f"sessions in {escape(found['name'])} are allowed until {until}")


@session.command()
@click.argument("container")
@click.pass_obj
def end(context: Any, /, container: str) -> None:
    """End the allowed sessions of CONTAINER now."""
    killed = context.client.ask("session.end", container=container)["killed"]
    click.echo(f"ended; {killed} processes of sessions were killed")


@session.command("list")
@output_option
@click.pass_obj
def list_(context: Any, /, output: str) -> None:
    """List the sessions that are allowed now."""
    emit(
        output,
        context.client.ask("session.list"),
        ("container", "for", "reason"),
        cells=lambda row: (
            escape(row["name"]),
            duration(max(0.0, row["until"] - time.time())),
            escape(row["reason"]),
        ),
        empty="no sessions are allowed",
    )
