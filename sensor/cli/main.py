"""`rote`: the commands, and how errors become one line and an exit code."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path

import click

from sensor import __version__
from sensor.cli.audits import audits
from sensor.cli.block import COMMANDS as BLOCK_COMMANDS
from sensor.cli.channels import channels
from sensor.cli.compliance import compliance
from sensor.cli.containers import containers
from sensor.cli.demo import demo
from sensor.cli.doctor import doctor
from sensor.cli.evidence import evidence
from sensor.cli.gate import gate
from sensor.cli.images import images
from sensor.cli.models import models
from sensor.cli.models_trust import TRUST_COMMANDS
from sensor.cli.rules import rules
from sensor.cli.run import run
from sensor.cli.session import session
from sensor.cli.shell import completion, man
from sensor.cli.status import status
from sensor.cli.stop import stop
from sensor.cli.unload import unload
from sensor.cli.vulns import vulns
from sensor.control.client import Client
from sensor.errors import RoteError

EPILOG = """\b
Exit codes: 0 done, 1 other error, 2 wrong usage, 3 bad input, 4 this host
lacks something, 5 state on disk, 6 no daemon answers.
"""


@dataclass
class Context:
    """What every command may need."""

    run_dir: Path
    state_dir: Path
    debug: bool

    @property
    def client(self) -> Client:
        """A way to ask the daemon."""
        return Client(self.run_dir / "control.sock")


@click.group(epilog=EPILOG, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="rote")
@click.option(
    "--run-dir",
    type=click.Path(path_type=Path),
    default=Path("/run/rote"),
    show_default=True,
    envvar="ROTE_RUN_DIR",
    help="Where the control socket is.",
)
@click.option(
    "--state-dir",
    type=click.Path(path_type=Path),
    default=Path("/var/lib/rote"),
    show_default=True,
    envvar="ROTE_STATE_DIR",
    help="Where models and audits are kept.",
)
@click.option("--debug", is_flag=True, help="Show the traceback of an unexpected error.")
@click.pass_context
def rote(context: click.Context, run_dir: Path, state_dir: Path, debug: bool) -> None:
    """Learns, by rote, what each container on this host does, and tells you of the rest.

    \b
    Examples:
      rote doctor                     what can this host do?
      rote run --learn 10m            start the sensor
      rote status                     how is it?
      rote audits follow              watch what deviates
    """
    context.obj = Context(run_dir, state_dir, debug)


for command in TRUST_COMMANDS:
    models.add_command(command)
for command in (
    run, stop, status, doctor, containers, models, rules, session, audits, channels,
    images, vulns, compliance, gate, *BLOCK_COMMANDS, evidence, unload, demo, completion, man,
):  # fmt: skip
    rote.add_command(command)


def main(arguments: list[str] | None = None) -> None:
    """Entry point: run a command; errors are one line on standard error."""
    debug = "--debug" in (arguments if arguments is not None else sys.argv)
    try:
        code = rote.main(args=arguments, prog_name="rote", standalone_mode=False)
        if (
            isinstance(code, int) and code
        ):  # in this mode click hands back what a command exits with
            sys.exit(code)
    except click.exceptions.Exit as end:
        sys.exit(end.exit_code)
    except click.Abort:
        click.echo("rote: stopped", err=True)
        sys.exit(130)
    except click.ClickException as error:
        error.show()
        sys.exit(2)
    except RoteError as error:
        click.echo(f"rote: error: {error}", err=True)
        sys.exit(error.exit_code)
    except BrokenPipeError:
        sys.exit(0)  # the reader, `head` say, has what it wanted
    except KeyboardInterrupt:
        sys.exit(130)
    except Exception as error:
        if debug:
            raise
        click.echo(
            f"rote: unexpected {type(error).__name__}: {error} (rote --debug shows where)", err=True
        )
        sys.exit(1)
