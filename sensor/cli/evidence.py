"""`rote evidence`: what a container looked like when something happened."""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path
from typing import Any

import click

from sensor.audits.formats import escape, when
from sensor.audits.query import parse_time
from sensor.cli.evidence_page import page
from sensor.cli.output import emit, emit_json, emit_lines, megabytes, output_option
from sensor.errors import BadInputError, NotRunningError, RoteError, StateError, UsageError
from sensor.responses.evidence.pack import (
    Verification,
    read_manifest,
    read_members,
)
from sensor.responses.evidence.pack import verify as verify_pack
from sensor.responses.evidence.store import EvidenceStore

COLUMNS = ("id", "time", "container", "image", "reason", "size", "complete")


@click.group()
def evidence() -> None:
    """What a container looked like when something happened: packs of evidence."""


@evidence.command()
@click.argument("container")
@click.option("--filesystem", is_flag=True, help="The whole file system as well.")
@click.option("--reason", default="on request", show_default=True, help="Why, for those who read.")
@output_option
@click.pass_obj
def collect(context: Any, /, container: str, filesystem: bool, reason: str, output: str) -> None:
    """Take evidence of a CONTAINER, given by name or id. It goes on running.

    \b
    Examples:
      rote evidence collect web
      rote evidence collect web --filesystem --reason "ticket 4711"
    """
    pack: dict[str, Any] = {}
    for item in context.client.stream(
        "evidence.collect", name=container, filesystem=filesystem, reason=reason
    ):
        if step := item.get("step"):
            _progress(step)
        pack = item.get("pack", pack)
    _progress("")
    if not pack.get("id"):
        raise StateError("; ".join(pack.get("missing", ["the daemon stopped meanwhile"])))
    if output == "table":
        click.echo(f"evidence {pack['id']}: {megabytes(pack['size'])}, {pack['seconds']:.1f} s")
        click.echo(f"sha256 of its manifest: {pack['sha256']}")
        for line in pack["missing"]:
            click.echo(f"missing: {escape(line)}")
    else:
        (emit_json if output == "json" else lambda value: emit_lines([value]))(pack)


@evidence.command("list")
@output_option
@click.pass_obj
def list_(context: Any, /, output: str) -> None:
    """List packs, oldest first. Without a daemon the directory is read."""
    rows = [
        {
            "id": entry.id,
            "time": when(int(entry.created * 1e9)),
            "container": escape(entry.container),
            "container_id": escape(entry.container_id),
            "image": escape(entry.image),
            "reason": escape(entry.reason),
            "rule": escape(entry.rule),
            "audits": list(entry.audits),
            "size": entry.size,
            "sha256": entry.sha256,
            "partial": entry.partial,
            "missing": [escape(line) for line in entry.missing],
        }
        for entry in _store(context).entries()
    ]
    emit(
        output,
        rows,
        COLUMNS,
        cells=lambda row: (
            *(row[name] for name in COLUMNS[:5]),
            megabytes(row["size"]),
            "no" if row["partial"] else "yes",
        ),
        empty="no evidence",
    )


@evidence.command()
@click.argument("pack")
@output_option
@click.pass_obj
def show(context: Any, /, pack: str, output: str) -> None:
    """Show a PACK (an id, the beginning of one, "last", or a FILE) as a page.

    With -o json its manifest.
    """
    path, _ = _find(context, pack)
    manifest = read_manifest(path)
    if output == "table":
        click.echo(page(manifest, read_members(path)))
    else:
        (emit_json if output == "json" else lambda value: emit_lines([value]))(manifest)


@evidence.command()
@click.argument("pack")
@click.argument("file", type=click.Path(path_type=Path, dir_okay=False, allow_dash=True))
@click.pass_obj
def export(context: Any, /, pack: str, file: Path) -> None:
    """Copy a PACK (an id, the beginning of one, or "last") to a FILE ("-": standard output).

    It is a plain tar: `tar -xf FILE` unpacks it.
    """
    store = _store(context)
    entry = store.get(pack)
    with _opened(store.path(entry.id)) as source:
        if str(file) == "-":
            shutil.copyfileobj(source, sys.stdout.buffer)
            return
        try:
            fd = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
            with open(fd, "wb") as target:  # noqa: PTH123 - made with its mode above
                shutil.copyfileobj(source, target, 1 << 20)
        except OSError as error:
            raise UsageError(f"{file}: {error.strerror}; the pack was not exported") from error
    click.echo(f"{file}: {megabytes(entry.size)}; check it anywhere with:")
    click.echo(f"rote evidence verify {file} --sha256 {entry.sha256}")


@evidence.command()
@click.argument("pack")
@click.option(
    "--sha256",
    default="",
    help="Of the manifest, as the audit of the block or `rote evidence list -o json` has it.",
)
@click.pass_obj
def verify(context: Any, /, pack: str, sha256: str) -> None:
    """Check every member of a PACK: an id, the beginning of one, "last", or an exported FILE.

    Needs no daemon. Exit code 3 when anything is not as it was written.
    """
    path, known = _find(context, pack)
    found = verify_pack(path, sha256 or known)
    for problem in found.problems:
        click.echo(f"wrong: {escape(problem)}")
    if not found.good:
        raise BadInputError(f"{path}: {len(found.problems)} members are not as they were written")
    click.echo(_verdict(found))


def _verdict(found: Verification) -> str:
    text = f"good: {found.members} members are as they were written"
    if not found.vouched:
        text += (
            "; nothing vouches for the manifest itself: give --sha256 from the audit "
            f"(found {found.manifest_sha256})"
        )
    return text + ("; the pack is partial, see: rote evidence show" if found.partial else "")


@evidence.command()
@click.option("--keep", type=click.IntRange(min=0), help="Keep the newest so many.")
@click.option("--older", help="Remove those older than this: an age (7d), or a time.")
@click.option("--force", is_flag=True, help="Also packs of containers that are still blocked.")
@click.option("--yes", is_flag=True, help="Do not ask.")
@click.pass_obj
def prune(context: Any, /, keep: int | None, older: str | None, force: bool, yes: bool) -> None:
    """Remove packs, oldest first. Without --keep and --older those beyond the quota.

    \b
    Examples:
      rote evidence prune --older 30d
      rote evidence prune --keep 20 --yes
    """
    before = parse_time(older) / 1e9 if older else None
    if not yes and (keep is not None or before is not None):
        limit = f"made before {when(int(before * 1e9))}" if before is not None else ""
        number = f"all but the newest {keep}" if keep is not None else ""
        click.confirm(f"Remove evidence {' and '.join(filter(None, (number, limit)))}?", abort=True)
    removed = context.client.ask("evidence.prune", newest=keep, before=before, force=force)
    for entry in removed:
        click.echo(f"{entry['id']} of {escape(entry['container'])}: removed")
    click.echo(f"{len(removed)} packs, {megabytes(sum(entry['size'] for entry in removed))}")


def _progress(step: str) -> None:
    """What is being done, on a terminal only."""
    if sys.stderr.isatty():
        click.echo(f"\r{step:<40}\r", nl=False, err=True)


def _store(context: Any, /) -> EvidenceStore:
    """The daemon's packs; without one, those of the state directory."""
    try:
        return EvidenceStore(Path(context.client.ask("evidence.place")))
    except NotRunningError:
        return EvidenceStore(context.state_dir / "evidence")


def _find(context: Any, /, name: str) -> tuple[Path, str]:
    """A pack by its file or id, and the sum of its manifest where an index has it."""
    path = Path(name)
    store = EvidenceStore(context.state_dir / "evidence") if path.is_file() else _store(context)
    if not path.is_file():
        entry = store.get(name)
        return store.path(entry.id), entry.sha256
    try:
        return path, store.get(str(read_manifest(path).get("id", ""))).sha256
    except RoteError:
        return path, ""  # made on another host, or no pack at all, which the check will say


def _opened(path: Path) -> Any:
    try:
        return path.open("rb")
    except OSError as error:
        raise StateError(f"{path}: {error.strerror}; expected a pack of evidence") from error
