"""scripts/soak's commands."""

from __future__ import annotations

import sys

from sensor.errors import RoteError
from tests.soak import compare, record, run

_COMMANDS = {"run": run.main, "record": record.main, "compare": compare.main}


def main() -> int:
    """Find the command; without one: run."""
    arguments = sys.argv[1:]
    command = run.main
    if arguments and arguments[0] in _COMMANDS:
        command = _COMMANDS[arguments.pop(0)]
    try:
        return command(arguments)
    except RoteError as error:
        sys.stderr.write(f"soak: {error}\n")
        return 2


if __name__ == "__main__":
    sys.exit(main())
