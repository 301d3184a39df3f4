"""`rote containers`: what is watched."""

from __future__ import annotations

from typing import Any

import click

from sensor.audits.formats import escape
from sensor.cli.output import emit, output_option

COLUMNS = (
    "name", "id", "image", "runtime", "model", "state", "since", "rule", "prevent", "refused",
    "known", "events", "lost", "errors",
)  # fmt: skip


@click.command()
@output_option
@click.pass_obj
def containers(context: Any, /, output: str) -> None:
    """List the containers under watch, with their models and what the kernel counted.

    \b
    Example:
      rote containers -o jsonl | jq .name
    """
    emit(
        output,
        context.client.ask("containers"),
        COLUMNS,
        cells=lambda row: (
            escape(row["name"]),
            escape(row["id"][:12]),
            escape(row["image"]),
            row["runtime"],
            f"#{row['model']}",
            row["model_state"],
            "first instruction" if row["complete"] else "later",
            escape(row["rule"]),
            _prevention(row),
            str(row["refused"]),
            str(row["known"]),
            str(row["events"]),
            str(row["lost"]),
            " ".join(f"{n} {cause}" for cause, n in row["errors_by_cause"].items()) or "0",
        ),
        empty="no containers",
    )


def _prevention(row: Any) -> str:
    if row["blocked"]:
        return "blocked"
    return ("yes" if row["prevented"] else "no") + (", session allowed" if row["session"] else "")
