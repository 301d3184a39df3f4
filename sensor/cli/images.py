"""`rote images`: what images consist of."""

from __future__ import annotations

import sys
from collections import Counter
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
import orjson

from sensor.audits.formats import escape, when
from sensor.cli.images_reading import (
    Wanted,
    about_an_image,
    engine_option,
    inventory_of,
    opened_cache,
    unread,
)
from sensor.cli.output import emit, emit_json, emit_lines, emit_table, output_option
from sensor.errors import UsageError

if TYPE_CHECKING:
    from sensor.images.package import Inventory

_COLUMNS = ("image", "id", "distribution", "packages", "warnings", "read")


@click.group()
def images() -> None:
    """What images consist of: packages of distributions and of languages.

    WHAT is an archive (`docker save`, OCI, a tar of a root), a directory (OCI layout, a root such
    as /proc/PID/root), or the name or id of an image that Docker or Podman has. Rote need not run.
    """


@images.command("list")
@engine_option
@output_option
@click.pass_obj
def list_(context: Any, /, engine: str | None, output: str) -> None:
    """List images that were read, and those that Docker or Podman has and that were not."""
    with opened_cache(context) as cache:
        known = {entry.image_id: entry for entry in (cache.list() if cache else ())}
    rows = [
        {
            "image": entry.reference,
            "id": entry.image_id,
            "distribution": entry.distribution,
            "packages": entry.packages,
            "warnings": entry.warnings,
            "read": when(entry.read_ns),
            "current": entry.current,
        }
        for entry in known.values()
    ]
    rows += [
        {"image": name, "id": image_id, "distribution": "", "packages": None, "warnings": None,
         "read": None, "current": False}
        for image_id, name in unread(engine).items()
        if image_id not in known
    ]  # fmt: skip
    emit(
        output,
        rows,
        _COLUMNS,
        cells=lambda row: (
            escape(row["image"]) or "-",
            _short(row["id"]),
            escape(row["distribution"]) or "-",
            "-" if row["packages"] is None else str(row["packages"]),
            "-" if row["warnings"] is None else str(row["warnings"]),
            row["read"] or "not yet",
        ),
        empty="no images",
    )


@images.command()
@about_an_image
@output_option
@click.pass_obj
def scan(context: Any, /, wanted: Wanted, output: str) -> None:
    """Read an image, and say what kinds of packages it has and what could not be read.

    \b
    Examples:
      rote images scan nginx:1.25
      rote images scan app.tar --output json
      rote images scan /proc/4711/root
      rote images scan --from-sbom app.cdx.json
    """
    inventory = inventory_of(context, wanted)
    facts = {**_head(inventory), "counts": dict(_counts(inventory))}
    if output == "table":
        _say(inventory)
    else:
        (emit_json if output == "json" else lambda value: emit_lines([value]))(facts)


@images.command()
@about_an_image
@click.option("--ecosystem", help="Only packages of this one: deb, apk, rpm, pypi, npm, …")
@output_option
@click.pass_obj
def show(context: Any, /, wanted: Wanted, ecosystem: str | None, output: str) -> None:
    """Show every package of an image, with where it was found. Reads the image if need be."""
    inventory = inventory_of(context, wanted)
    packages = [
        package
        for package in inventory.packages
        if ecosystem is None or package.ecosystem == ecosystem
    ]
    if output == "json":
        emit_json({**_head(inventory), "packages": [asdict(package) for package in packages]})
    elif output == "jsonl":
        emit_lines(asdict(package) for package in packages)
    else:
        _say(inventory)
        if packages:
            click.echo()
            emit_table(
                ("ecosystem", "name", "version", "source", "location"),
                [
                    (
                        package.ecosystem,
                        package.name,
                        package.version or "-",
                        package.source_name if package.source_name != package.name else "",
                        package.location + (f" (of {package.owner})" if package.owner else ""),
                    )
                    for package in packages
                ],
            )


@images.command()
@about_an_image
@click.option(
    "--format",
    "form",
    type=click.Choice(["cyclonedx", "spdx"]),
    default="cyclonedx",
    show_default=True,
    help="CycloneDX 1.5 or SPDX 2.3, as JSON.",
)
@click.option(
    "--file",
    type=click.Path(path_type=Path, dir_okay=False),
    help="Where to write it; standard output by default.",
)
@click.pass_obj
def sbom(context: Any, /, wanted: Wanted, form: str, file: Path | None) -> None:
    """Write the bill of materials of an image.

    \b
    Examples:
      rote images sbom nginx:1.25 --file nginx.cdx.json
      rote images sbom --from-sbom theirs.cdx.json --format spdx
    """
    from sensor.images.cyclonedx import write_cyclonedx
    from sensor.images.spdx import write_spdx

    inventory = inventory_of(context, wanted)
    document = (write_cyclonedx if form == "cyclonedx" else write_spdx)(inventory)
    if file is None:
        emit_json(document)
    else:
        try:
            file.write_bytes(orjson.dumps(document, option=orjson.OPT_INDENT_2))
        except OSError as error:
            raise UsageError(f"{file}: {error.strerror}; nothing was written") from error
        click.echo(f"{file}: {len(inventory.packages)} packages")
    for warning in inventory.warnings if file is not None or not sys.stdout.isatty() else ():
        click.echo(f"not read: {warning}", err=True)


def _counts(inventory: Inventory) -> Counter[str]:
    return Counter(package.ecosystem for package in inventory.packages)


def _head(inventory: Inventory) -> dict[str, Any]:
    distribution = inventory.distribution
    return {
        "image": inventory.reference,
        "id": inventory.image_id,
        "source": inventory.source,
        "distribution": asdict(distribution) if distribution else None,
        "layers": list(inventory.layers),
        "files": inventory.files,
        "seconds": round(inventory.seconds, 3),
        "read": when(inventory.read_ns),
        "warnings": [asdict(warning) for warning in inventory.warnings],
    }


def _say(inventory: Inventory) -> None:
    """The head of an inventory, for people."""
    name = escape(inventory.reference) or "image"
    click.echo(f"{name}  {_short(inventory.image_id)}".rstrip())
    distribution = inventory.distribution
    shown = "no distribution"
    if distribution is not None:
        shown = distribution.pretty or f"{distribution.id} {distribution.version_id}"
    click.echo(
        f"{escape(shown)}; {inventory.source}, {inventory.files} files, "
        f"{inventory.seconds:.2f} s, {when(inventory.read_ns)}"
    )
    counts = ", ".join(f"{number} {kind}" for kind, number in sorted(_counts(inventory).items()))
    click.echo(f"{len(inventory.packages)} packages" + (f": {counts}" if counts else ""))
    for warning in inventory.warnings:
        click.echo(f"not read: {warning}", err=True)


def _short(image_id: str) -> str:
    return image_id.removeprefix("sha256:")[:12]
