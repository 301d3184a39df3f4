"""The command line of scripts/vm; its --help is the header of that script."""

from __future__ import annotations

import argparse
import os
import re
import signal
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from types import FrameType
from typing import IO, NoReturn

from tests.vm.host import REPOSITORY, VmError, building, call, prepare_host, say
from tests.vm.kernels import DEFAULT, KERNELS, Kernel, KernelMissingError, find_kernel
from tests.vm.machine import Machine, Outcome, Settings
from tests.vm.root import root_image

_AT_A_TIME = 2
# Loading the BPF programs takes minutes under emulation: the limit of a test is another one here,
# and all tests share one load. Those about loading (test_lifetime.py), and those whose subject is
# how soon a process that hangs is noticed (test_fanotify.py), run on the host only.
_TESTS = (
    "python", "-m", "pytest", "tests/kernel", "tests/evasion", "tests/lock",
    "--ignore=tests/kernel/test_lifetime.py", "--ignore=tests/kernel/test_fanotify.py",
    "-p", "no:cacheprovider", "-o", "timeout=900",
    "--basetemp=/var/tmp/tests", "--durations=15", "--durations-min=2",
)  # fmt: skip
_SUMMARY = re.compile(
    r"^=+ (.*\b(?:passed|failed|errors?|skipped)\b.*) in [\d.]+s.*=+$", re.MULTILINE
)
_BAD = re.compile(r"^(?:FAILED|ERROR) .*$", re.MULTILINE)


def main(arguments: Sequence[str]) -> int:
    """Run the machines; the exit status."""
    options, command = _parse(arguments)
    settings = Settings(
        command=command or _TESTS,
        environment={
            "ROTE_TEST_RESULTS": "/job/results",
            **{n: v for n, v in os.environ.items() if n.startswith("ROTE_TEST_")},
        },
        lsm=options.lsm,
        icount=options.icount,
        memory_mb=options.memory,
        timeout=options.timeout,
        results=options.results.absolute(),
    )
    prepare_host()
    call([REPOSITORY / "tests/evasion/build"], what="the evasion suite's programs")
    codes: list[int] = []
    with building():
        root = root_image()
        kernels, missing = _find_kernels(options.kernels)
    if missing and "all" not in options.kernels:
        codes.append(1)
    shared = _shared(settings, len(kernels)) if options.share else [settings] * len(kernels)
    codes += _run(kernels, root, shared, is_test=not command)
    return next((code for code in codes if code), 0)


def _parse(arguments: Sequence[str]) -> tuple[argparse.Namespace, Sequence[str]]:
    parser = argparse.ArgumentParser("scripts/vm", add_help=False, allow_abbrev=False)
    command: Sequence[str] = ()
    if "--" in arguments:
        cut = list(arguments).index("--")
        arguments, command = arguments[:cut], arguments[cut + 1 :]
        if not command:
            parser.error("no command behind --; expected scripts/vm KERNEL -- COMMAND …")
    parser.add_argument("kernels", nargs="*")
    parser.add_argument("--lsm", default="landlock,lockdown,yama,bpf")
    parser.add_argument("--icount", action="store_true")
    parser.add_argument("--share", action="store_true")
    parser.add_argument("--memory", type=int, default=1500)
    parser.add_argument("--timeout", type=float, default=2700)
    parser.add_argument("--results", type=Path, default=REPOSITORY / ".cache/vm")
    options = parser.parse_intermixed_args(arguments)
    for name in options.kernels:
        if name not in {"all", *KERNELS}:
            parser.error(f"kernel {name!r}: unknown; expected all, {', '.join(KERNELS)}")
    return options, command


def _find_kernels(names: Sequence[str]) -> tuple[list[Kernel], bool]:
    """The kernels asked for; and whether one is missing, which is said here."""
    wanted = KERNELS if "all" in names else dict.fromkeys(names or DEFAULT)
    found = []
    for name in wanted:
        try:
            found.append(find_kernel(name))
        except KernelMissingError as error:
            sys.stdout.write(f"vm {name}: {error}\n")
    return found, len(found) < len(wanted)


def _shared(settings: Settings, number: int) -> list[Settings]:
    """Settings of machines that divide the attacks between them."""
    return [
        replace(
            settings,
            environment={**settings.environment, "ROTE_TEST_SHARE": f"{i + 1}/{number}"},
        )
        for i in range(number)
    ]


def _run(
    kernels: Sequence[Kernel], root: Path, settings: Sequence[Settings], *, is_test: bool
) -> list[int]:
    """Run the kernels, some at a time; their exit codes, in the order of the kernels."""
    waiting = list(zip(kernels, settings, strict=True))
    running: dict[Machine, _Follower | None] = {}
    codes: dict[str, int] = {}
    try:
        while waiting or running:
            while waiting and len(running) < _AT_A_TIME:
                kernel, its_settings = waiting.pop(0)
                machine = Machine(kernel, root, its_settings)
                prefix = f"{machine.kernel.name}: " if len(kernels) > 1 else ""
                running[machine] = None if is_test else _Follower(machine.output, prefix)
            time.sleep(0.1)
            for machine, follower in list(running.items()):
                outcome = machine.poll()
                if follower:
                    follower.copy(to_end=outcome is not None)
                if outcome:
                    machine.close()
                    del running[machine]
                    codes[machine.kernel.name] = _report(machine, outcome, is_test=is_test)
    finally:
        for machine in running:
            machine.close()
    return [codes[kernel.name] for kernel in kernels]


class _Follower:
    """Copies what a guest's command writes to stdout, whole lines of one guest at a time."""

    def __init__(self, path: Path, prefix: str) -> None:
        self._file: IO[str] = path.open(errors="replace", newline="")
        self._prefix = prefix
        self._rest = ""

    def copy(self, *, to_end: bool) -> None:
        text = self._rest + self._file.read()
        cut = len(text) if to_end else text.rfind("\n") + 1
        text, self._rest = text[:cut], text[cut:]
        for line in text.splitlines():
            sys.stdout.write(f"{self._prefix}{line}\n")
        sys.stdout.flush()
        if to_end:
            self._file.close()


def _report(machine: Machine, outcome: Outcome, *, is_test: bool) -> int:
    """Say how a kernel did; its exit code."""
    written = machine.output.read_text(errors="replace")
    log = os.path.relpath(machine.output)
    code = 1 if outcome.code is None else outcome.code
    if outcome.code is None:
        verdict = outcome.problem
    elif is_test and (summary := _SUMMARY.findall(written)):
        verdict = summary[-1]
    else:
        verdict = f"exit status {code}"
    lines = [*_BAD.findall(written)] if is_test else []
    if outcome.complaints:
        lines += [f"kernel: {complaint}" for complaint in outcome.complaints]
        log = f"{log}, dmesg.log beside it"
        # A command's exit status is its own.
        code = code or int(is_test)
    # Commands own stdout; for tests the verdict is what was asked for.
    stream = sys.stdout if is_test else sys.stderr
    for line in lines[:20]:
        stream.write(f"  {line[:300]}\n")
    stream.write(
        f"vm {machine.kernel.name}: {verdict} in {outcome.seconds:.0f} s "
        f"({machine.kernel.release}, boot {outcome.boot_seconds:.1f} s)"
        f"{f'; see {log}' if code else ''}\n"
    )
    stream.flush()
    return code


def _stop(number: int, _frame: FrameType | None) -> NoReturn:
    # As an exception, so that every machine is closed on the way out.
    sys.exit(128 + number)


if __name__ == "__main__":
    for signal_number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(signal_number, _stop)
    try:
        sys.exit(main(sys.argv[1:]))
    except VmError as problem:
        say(str(problem))
        sys.exit(1)
