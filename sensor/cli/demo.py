"""`rote demo`: the whole story by itself."""

from __future__ import annotations

import os

import click

from sensor.errors import NotRootError


@click.command()
@click.option(
    "--runtime",
    type=click.Choice(["auto", "docker", "runc"]),
    default="auto",
    show_default=True,
    help="What runs the container; auto: Docker where it answers, else runc.",
)
def demo(runtime: str) -> None:
    """Learn a small container, let it deviate, and show the audits. Under two minutes.

    Uses a daemon of its own that leaves nothing behind; a sensor that runs here is not touched.

    \b
    Example:
      rote demo --runtime runc
    """
    from sensor.demo.story import Story

    if os.geteuid() != 0:
        raise NotRootError("rote demo: loads BPF programs and needs root: sudo rote demo")
    Story(click.echo, runtime=runtime).tell()
