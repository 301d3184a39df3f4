"""`rote doctor`: what this host can do."""

from __future__ import annotations

import asyncio
import os
import tempfile
from dataclasses import asdict
from pathlib import Path
from typing import Any

import click

from sensor.cli.output import emit_json, emit_lines, output_option
from sensor.config import ATTACHMENTS, Settings


@click.command()
@click.option(
    "--bpf-dir",
    type=click.Path(path_type=Path),
    default=Path("/sys/fs/bpf/rote"),
    show_default=True,
    envvar="ROTE_BPF_DIR",
    help="Where in the BPF file system the kernel side is pinned.",
)
@click.option(
    "--prove",
    is_flag=True,
    help="Load a kernel side of its own, try forbidden executions and writes in a throw-away "
    "cgroup, and say what really happened. Needs root.",
)
@click.option(
    "--attach",
    type=click.Choice(ATTACHMENTS),
    default="auto",
    show_default=True,
    help="With --prove: the attachment to try.",
)
@output_option
@click.pass_context
def doctor(
    context: click.Context,
    bpf_dir: Path,
    output: str,
    attach: str,
    prove: bool,
) -> None:
    """Say what this host can do, what is missing, and the exact remedy.

    Changes nothing. Ends with 0 when Rote can run here, with 4 when not; with --prove, with 1 when
    something that must be refused was not.

    \b
    Examples:
      rote doctor
      rote doctor --prove
    """
    from sensor.host import MISSING, examine, verdict

    settings: Any = context.obj
    if prove:
        context.exit(_prove(settings.state_dir, bpf_dir, attach, output))
    findings = examine(settings.state_dir, bpf_dir)
    if output == "json":
        emit_json({"verdict": verdict(findings), "findings": [asdict(f) for f in findings]})
    elif output == "jsonl":
        emit_lines(asdict(f) for f in findings)
    else:
        for finding in findings:
            click.echo(f"{finding.state:8}{finding.subject:16} {finding.text}")
            if finding.remedy and finding.state != "ok":
                click.echo(f"{'':24} remedy: {finding.remedy}")
        click.echo(verdict(findings))
    if any(finding.state == MISSING for finding in findings):
        context.exit(4)


def _prove(state_dir: Path, bpf_dir: Path, attach: str, output: str) -> int:
    """Prove on a kernel side of our own, beside a daemon's; the exit code."""
    from sensor.errors import NotRootError
    from sensor.kernel.live import LiveKernel
    from sensor.responses.knowledge import Knowledge
    from sensor.responses.proof import Attempt, prove

    if os.geteuid() != 0:
        raise NotRootError("rote doctor --prove: loads BPF programs and needs root: sudo rote …")
    own = bpf_dir.with_name(f"{bpf_dir.name}-proof-{os.getpid()}")
    base = state_dir if state_dir.is_dir() else None
    with tempfile.TemporaryDirectory(prefix="proof-", dir=base) as place:
        settings = Settings(
            run_dir=Path(place), bpf_dir=own, attach=attach, discover=False, ring_size=1 << 20
        )
        try:
            kernel = LiveKernel.open(settings)
            try:
                attempts = asyncio.run(prove(kernel, Knowledge(kernel), Path(place)))
            finally:
                kernel.close()
        finally:
            LiveKernel.unload(own)
    attachment = kernel.attachment

    def row(attempt: Attempt) -> dict[str, Any]:
        return {**asdict(attempt), "held": attempt.held, "text": attempt.text}

    if output == "json":
        emit_json({"attachment": attachment.mode, "attempts": [row(a) for a in attempts]})
    elif output == "jsonl":
        emit_lines(row(attempt) for attempt in attempts)
    else:
        click.echo(
            f"Tried through {attachment.mode} in a cgroup of its own "
            f"(promised: {attachment.guarantee} executions, {attachment.guarantee_files} writes):"
        )
        for attempt in attempts:
            mark = "as promised" if attempt.held else "NOT AS PROMISED"
            what = "known" if attempt.allowed else "forbidden"
            click.echo(f"  {what:10}{attempt.name:24}{attempt.text:56}{mark}")
    return 0 if all(attempt.held for attempt in attempts) else 1
