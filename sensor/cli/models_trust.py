"""`rote models accept`, `held`, `keys`, …: what people decide about a model's keys."""

from __future__ import annotations

from typing import Any

import click

from sensor.audits.formats import escape
from sensor.cli.output import emit_json, emit_lines, output_option
from sensor.cli.trust_text import held_lines, key_line, suggestion_lines, trust_json
from sensor.errors import UsageError
from sensor.models.diff import describe
from sensor.models.files import unpack_model
from sensor.models.inherit import unconfirmed
from sensor.models.keys import Key
from sensor.models.model import Model
from sensor.models.trust import key_id, singletons


def _model(context: Any, name: str) -> Model:
    return unpack_model(context.client.ask("models.show", name=name), 0, name)


def _tell(found: dict[str, Any], nothing: str) -> None:
    for line in found["keys"]:
        click.echo(f"{escape(found['model'])}: {escape(line)}")
    if not found["keys"]:
        click.echo(f"{escape(found['model'])}: {nothing}")


@click.command()
@click.argument("audits", nargs=-1, type=int)
@click.option("--held", metavar="MODEL", help="Instead: everything that is held of a model.")
@click.pass_obj
def accept(context: Any, /, audits: tuple[int, ...], held: str | None) -> None:
    """Let a model know what AUDITS are about, by their numbers; it holds at once.

    What can never be known that way (programs without a file, programs made at run time, paths
    that were not whole, what a rule denies, files that a session changed) is refused, and nothing
    is changed.

    \b
    Examples:
      rote models accept 41 42
      rote models accept --held nginx:1.27
    """
    if held is not None:
        if audits:
            raise UsageError("--held MODEL and audits exclude one another; give one of them")
        _tell(context.client.ask("models.accept_held", model=held), "nothing is held")
        return
    if not audits:
        raise UsageError("expected numbers of audits (rote audits list), or --held MODEL")
    for found in context.client.ask("models.accept", audits=list(audits)):
        _tell(found, f"knows audit {found['audit']} already")


@click.command()
@click.argument("model")
@click.option("--drop", is_flag=True, help="Keep all of them out of the model for good.")
@output_option
@click.pass_obj
def held(context: Any, /, model: str, drop: bool, output: str) -> None:
    """Show what was not learned until a person has looked at it.

    Programs that came in a burst (more than 20 new ones of one parent within a minute, after the
    container's start) are held. Take them in with: rote models accept --held MODEL
    """
    if drop:
        _tell(context.client.ask("models.drop_held", model=model), "nothing is held")
        return
    found = _model(context, model)
    if output != "table":
        rows = trust_json(found)["held"]
        emit_json(rows) if output == "json" else emit_lines(rows)
        return
    for line in held_lines(found) or ["nothing is held"]:
        click.echo(line)


@click.command()
@click.argument("model")
@click.argument("text", default="")
@output_option
@click.pass_obj
def keys(context: Any, /, model: str, text: str, output: str) -> None:
    """List the keys of a model with their ids; those only that hold a TEXT, if one is given.

    Remarks: from where a key is, unless it was learned; "one run": seen in one of three runs or
    more; "unconfirmed": an earlier image's, not seen yet.
    """
    found = _model(context, model)
    rare, waiting = set(singletons(found)), set(unconfirmed(found))

    def remark(key: Key) -> str:
        evidence = found.keys.get(key)
        words = [] if evidence is None or evidence.source == "learned" else [str(evidence.source)]
        words += ["one run"] if key in rare else []
        return ", ".join([*words, *(["unconfirmed"] if key in waiting else [])])

    every = sorted({*found.keys, *found.trust.inherited}, key=describe)
    shown = [(key, remark(key)) for key in every if text in describe(key)]
    if output == "table":
        for key, words in shown:
            click.echo(key_line(key, words).strip())
        return
    rows = [
        {"id": key_id(key), "key": escape(describe(key)), "remark": words} for key, words in shown
    ]
    emit_json(rows) if output == "json" else emit_lines(rows)


@click.command("remove-key")
@click.argument("model")
@click.argument("keys", nargs=-1, required=True, metavar="KEY...")
@click.option("--forget", is_flag=True, help="Let removed keys be learned again.")
@click.pass_obj
def remove_key(context: Any, /, model: str, keys: tuple[str, ...], forget: bool) -> None:
    """Take keys out of a model; they do not come back by themselves.

    A KEY is named by its id or the beginning of it (rote models keys), by a program, or by the
    pattern of the paths that it allows to change.

    \b
    Examples:
      rote models remove-key nginx:1.27 3fa9c2d1
      rote models remove-key nginx:1.27 /usr/bin/wget '/etc/cron.d/*'
      rote models remove-key --forget nginx:1.27 3fa9c2d1
    """
    found = context.client.ask("models.remove_keys", model=model, keys=list(keys), forget=forget)
    click.echo(
        f"{escape(found['model'])}: "
        + ("may be learned again:" if forget else "removed, and kept out:")
    )
    for line in found["keys"]:
        click.echo(f"  {escape(line)}")


@click.command()
@click.argument("model")
@output_option
@click.pass_obj
def suggest(context: Any, /, model: str, output: str) -> None:
    """Say what a model seems to need that it will never learn by itself, and why.

    Build images write programs and execute them. That is never learned; a person may allow it.
    """
    found = _model(context, model)
    if output == "table":
        for line in suggestion_lines(found) or ["nothing to suggest"]:
            click.echo(line)
        return
    rows = trust_json(found)["suggestions"]
    emit_json(rows) if output == "json" else emit_lines(rows)


@click.command("allow-writes-and-executes")
@click.argument("model")
@click.option("--directory", required=True, metavar="PATTERN", help="Below this, such as /src/**.")
@click.option(
    "--by",
    required=True,
    multiple=True,
    metavar="PROGRAM",
    help="Who may make programs there, such as /usr/bin/ld; repeatable.",
)
@click.option("--remove", is_flag=True, help="Allow it no more.")
@click.pass_obj
def allow_writes_and_executes(
    context: Any, /, model: str, directory: str, by: tuple[str, ...], remove: bool
) -> None:
    """Let a build image make programs below a directory and execute them.

    The PROGRAM may change everything below the directory, and whatever lies there may be executed
    by the model's containers. Sessions may not come in through it, and memory is never covered.

    \b
    Example:
      rote models allow-writes-and-executes gcc:13 --directory '/src/**' --by /usr/bin/ld
    """
    found = context.client.ask(
        "models.writes_and_executes",
        model=model,
        directory=directory,
        by=list(by),
        remove=remove,
    )
    verb = "may execute no more" if remove else "may execute"
    for text in found["capabilities"]:
        click.echo(f"{escape(found['model'])}: {verb} {escape(text)}")


TRUST_COMMANDS = (accept, held, keys, remove_key, suggest, allow_writes_and_executes)
