"""`rote unload`: take the kernel side out."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import click

from sensor.errors import NotRootError, NotRunningError, StateError


@click.command()
@click.option(
    "--bpf-dir",
    type=click.Path(path_type=Path),
    default=Path("/sys/fs/bpf/rote"),
    show_default=True,
    envvar="ROTE_BPF_DIR",
    help="Where in the BPF file system the kernel side is pinned.",
)
@click.option("--force", is_flag=True, help="Also while the daemon runs; it will see nothing more.")
@click.pass_obj
def unload(context: Any, /, bpf_dir: Path, force: bool) -> None:
    """Remove Rote's programs and maps from the kernel. Models and audits stay.

    A fanotify gate that goes on without its daemon ends as well.
    """
    from sensor.images.admission.fanotify import end_left
    from sensor.kernel.live import LiveKernel

    if os.geteuid() != 0:
        raise NotRootError("rote unload: needs root: sudo rote unload")
    try:
        pid = context.client.ask("status")["pid"]
    except NotRunningError:
        pid = None
    if pid is not None and not force:
        raise StateError(f"the daemon runs (pid {pid}); stop it first, or give --force")
    if pid is None and end_left(context.run_dir):
        click.echo("ended the fanotify gate")
    removed = LiveKernel.unload(bpf_dir)
    links = sum(1 for item in removed if "/links/" in item)
    click.echo(f"removed {links} programs and {len(removed) - links} maps below {bpf_dir}")
