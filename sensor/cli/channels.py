"""`rote channels`: where alerts go."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import click

from sensor.cli.output import emit, emit_json, output_option
from sensor.errors import BadInputError, DeliveryError, NotRunningError, SecretError

_COLUMNS = ("name", "type", "enabled", "severity", "gather", "target")
_STATUS = ("name", "sent", "waiting", "gathered", "failed", "dropped", "last_sent", "last_error")
_TEST = ("name", "type", "result", "seconds", "target", "error")
_PATH = click.Path(path_type=Path)

channels_option = click.option(
    "--channels",
    "path",
    type=_PATH,
    default=Path("/etc/rote/channels.d"),
    show_default=True,
    envvar="ROTE_CHANNELS",
    help="The directory of channel files, or one of them.",
)


@click.group()
def channels() -> None:
    """Where alerts go: the channel files, tests, and what became of what was sent."""


@channels.command("list")
@channels_option
@output_option
def list_(path: Path, output: str) -> None:
    """List the channels of the files, enabled or not.

    \b
    Examples:
      rote channels list
      rote channels list --channels ./channels.d -o json
    """
    from sensor.channels.files import read_channels

    rows = [
        {**{name: getattr(channel, name) for name in _COLUMNS[:-1]}, "target": channel.target()}
        for channel in read_channels(path)
    ]
    emit(output, rows, _COLUMNS, empty=f"{path}: no channels")


@channels.command()
@click.argument("name", required=False)
@channels_option
@output_option
@click.pass_obj
def test(context: Any, /, name: str | None, path: Path, output: str) -> None:
    """Send a marked test message through one channel, or through each.

    The daemon sends it, past its queue; without a daemon this command does, as the files say.
    Exit code 4 when a channel did not take it.

    \b
    Examples:
      rote channels test
      rote channels test ops-mail
    """
    try:
        found = context.client.ask("channels.test", name=name or "")
    except NotRunningError:
        from sensor.channels.files import read_channels
        from sensor.channels.outbox import run_tests

        enabled = [channel for channel in read_channels(path) if channel.enabled]
        click.echo("rote: no daemon answers; sending from here", err=True)
        found = asyncio.run(run_tests(enabled, name or ""))
    rows = [{**row, "result": "delivered" if row["ok"] else "FAILED"} for row in found]
    emit(output, rows, _TEST, empty="no channels")
    failed = [row["name"] for row in found if not row["ok"]]
    if failed:
        raise DeliveryError(f"not delivered: {', '.join(failed)}")


@channels.command()
@output_option
@click.pass_obj
def status(context: Any, /, output: str) -> None:
    """What became of the alerts: sent, waiting, gathered, given up, and the last error."""
    found = context.client.ask("channels.status")
    if output == "json":
        emit_json(found)
        return
    rows = found["channels"]
    emit(output, rows, _STATUS, empty="no channels")
    if output == "table":
        for row in rows:
            if row.get("next_try"):
                click.echo(f"{row['name']}: next try {row['next_try']}")
        if found["repeats_dropped"]:
            click.echo(f"{found['repeats_dropped']} repeats of audits were not told")
        if found["error"]:
            click.echo(f"not in use: {found['error']}", err=True)


@channels.command()
@click.argument("file", metavar="[PATH]", type=_PATH, required=False)
@channels_option
def check(file: Path | None, path: Path) -> None:
    """Read the channel files, or the one at PATH, as the daemon would, and look for the secrets.

    Exit code 3 when something is wrong.
    """
    from sensor.channels.files import missing_secrets, read_channels

    where = file or path
    if not where.exists():
        raise BadInputError(f"{where}: not there; expected a directory of channel files, or one")
    found = read_channels(where)
    wrong = [text for channel in found if channel.enabled for text in missing_secrets(channel)]
    if wrong:
        raise SecretError(wrong[0] + (f" (and {len(wrong) - 1} more)" if wrong[1:] else ""))
    click.echo(f"{where}: {len(found)} channels, good")


@channels.command()
@click.pass_obj
def reload(context: Any, /) -> None:
    """Let the daemon read the channel files anew: all of them, or, when one is wrong, none."""
    changes = context.client.ask("channels.reload")
    for what, names in changes.items():
        if names:
            click.echo(f"{what}: {', '.join(names)}")


@channels.command()
def schema() -> None:
    """Print the JSON Schema of a channel file, for editors."""
    from sensor.channels.files import schema as made

    emit_json(made())
