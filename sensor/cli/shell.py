"""`rote completion` and `rote man`: for shells and for readers."""

from __future__ import annotations

import click
from click.shell_completion import get_completion_class


@click.command()
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
@click.pass_context
def completion(context: click.Context, shell: str) -> None:
    """Print the completion script for a SHELL.

    \b
    Example:
      rote completion bash > /etc/bash_completion.d/rote
    """
    kind = get_completion_class(shell)
    assert kind is not None
    click.echo(kind(context.find_root().command, {}, "rote", "_ROTE_COMPLETE").source())


@click.command()
@click.pass_context
def man(context: click.Context) -> None:
    """Print the manual page, in troff.

    \b
    Example:
      rote man | man -l -
    """
    root = context.find_root()
    lines = ['.TH ROTE 8 "" "Rote" "System Manager\'s Manual"', ".SH NAME"]
    lines.append("rote \\- learns what each container does and reports the rest")
    lines += [".SH SYNOPSIS", ".B rote", "[OPTIONS] COMMAND [ARGS]...", ".SH DESCRIPTION"]
    lines += _troff((root.command.help or "").replace("\b\n", ""))
    lines.append(".SH COMMANDS")
    for path, command in walk(root.command, ("rote",)):
        if isinstance(command, click.Group) and len(path) == 1:
            continue
        lines.append(f".SS {' '.join(path)}")
        lines += _troff((command.help or "").replace("\b\n", ""))
        with click.Context(command, info_name=path[-1]) as sub:
            for parameter in command.get_params(sub):
                record = parameter.get_help_record(sub)
                if record:
                    lines += [".TP", f".B {_plain(record[0])}", *_troff(record[1])]
    click.echo("\n".join(lines))


def markdown(root: click.Group) -> str:
    """docs/cli.md: every command with its help."""
    lines = ["# Commands", "", "Made by `scripts/gen-docs` from the commands themselves.", ""]
    for path, command in walk(root, ("rote",)):
        name = " ".join(path)
        with click.Context(command, info_name=name, help_option_names=["-h", "--help"]) as context:
            lines += [f"## {name}", "", "```", command.get_help(context), "```", ""]
    return "\n".join(lines)


def walk(
    command: click.Command, path: tuple[str, ...]
) -> list[tuple[tuple[str, ...], click.Command]]:
    """Every command with the words that name it."""
    found = [(path, command)]
    if isinstance(command, click.Group):
        for name in sorted(command.commands):
            found.extend(walk(command.commands[name], (*path, name)))
    return found


def _plain(text: str) -> str:
    return text.replace("\\", "\\\\").replace("-", "\\-")


def _troff(text: str) -> list[str]:
    lines = []
    for line in text.strip().splitlines():
        stripped = _plain(line.strip())
        lines.append("." + "PP" if not stripped else "\\&" + stripped)
    return lines
