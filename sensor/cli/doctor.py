"""`rote doctor`: what this host can do."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

import click

from sensor.cli.output import emit_json, emit_lines, output_option


@click.command()
@click.option(
    "--bpf-dir",
    type=click.Path(path_type=Path),
    default=Path("/sys/fs/bpf/rote"),
    show_default=True,
    envvar="ROTE_BPF_DIR",
    help="Where in the BPF file system the kernel side is pinned.",
)
@output_option
@click.pass_context
def doctor(context: click.Context, bpf_dir: Path, output: str) -> None:
    """Say what this host can do, what is missing, and the exact remedy.

    Changes nothing. Ends with 0 when Rote can run here, with 4 when not.
    """
    from sensor.host import MISSING, examine, verdict

    settings: Any = context.obj
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
