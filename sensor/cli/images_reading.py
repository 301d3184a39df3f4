"""Where the inventory comes from that a command of `rote images` is about."""

from __future__ import annotations

import asyncio
import functools
import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from sensor.errors import ImageError, RuntimeUnavailableError, StateError, UsageError

if TYPE_CHECKING:
    from sensor.containers.docker import DockerRuntime
    from sensor.images.archive import ImageFiles
    from sensor.images.cache import InventoryCache
    from sensor.images.package import Inventory

F = TypeVar("F", bound=Callable[..., Any])
_SOCKETS = ("unix:///var/run/docker.sock", "unix:///run/podman/podman.sock")

engine_option = click.option(
    "--engine",
    envvar="DOCKER_HOST",
    metavar="ADDRESS",
    help="Of the Docker Engine or Podman, unix:///…; by default whichever is there.",
)
_image_option = click.option("--image", default="", help="Which, where an archive has several.")
_fresh_option = click.option("--fresh", is_flag=True, help="Read it again, known or not.")
_sbom_option = click.option(
    "--from-sbom",
    "sbom",
    type=click.Path(path_type=Path, dir_okay=False),
    help="Take what a CycloneDX document says instead of reading an image.",
)


@dataclass(frozen=True, slots=True)
class Wanted:
    """Which image a person means."""

    what: str
    image: str
    fresh: bool
    sbom: Path | None
    engine: str | None


def about_an_image(command: F) -> F:
    """The argument and the options of a command about one image, given to it as ``wanted``."""

    @click.argument("what", required=False, default="")
    @_image_option
    @_fresh_option
    @_sbom_option
    @engine_option
    @functools.wraps(command)
    def wrapped(
        *arguments: Any, what: str, image: str, fresh: bool, sbom: Path | None, engine: str | None,
        **rest: Any,
    ) -> Any:  # fmt: skip
        return command(*arguments, wanted=Wanted(what, image, fresh, sbom, engine), **rest)

    return wrapped  # type: ignore[return-value]


def inventory_of(context: Any, /, wanted: Wanted) -> Inventory:
    """The inventory that a person means: kept, or made now.

    Args:
        context: of the command.
        wanted: which image.

    Raises:
        UsageError: nothing, or two things at once, are named.
        ImageError: it is not there, or cannot be read at all.
    """
    from sensor.images.archive import open_image

    what, cached = wanted.what, not wanted.fresh
    if wanted.sbom is not None:
        if what:
            raise UsageError("give either WHAT or --from-sbom, not both")
        from sensor.images.cyclonedx import read_cyclonedx

        return read_cyclonedx(wanted.sbom, time.time_ns())
    if not what:
        raise UsageError("name an archive, a directory or an image, or give --from-sbom")
    with opened_cache(context) as cache:
        if is_there(Path(what)):
            with open_image(Path(what), wanted.image) as files:
                return _kept_or_read(files, cache, wanted.fresh)
        if cache is not None and cached and (found := _by_id(cache, what)):
            return found
        return asyncio.run(_of_engine(wanted, cache))


def is_there(path: Path) -> bool:
    """Whether a path exists."""
    try:
        return path.exists()
    except OSError:
        return False  # too long for a name, say


def _by_id(cache: InventoryCache, name: str) -> Inventory | None:
    """What is kept under an id, which needs no runtime; a name may mean another image by now."""
    start = name.removeprefix("sha256:")
    known = cache.find(name) if start.isalnum() else None
    if known is None or not known.removeprefix("sha256:").startswith(start):
        return None
    return cache.get(known)


async def _of_engine(wanted: Wanted, cache: InventoryCache | None) -> Inventory:
    from sensor.images.sources import image_details, open_details

    what = wanted.what
    engine = engine_at(wanted.engine)
    if engine is None:
        raise ImageError(
            f"{what}: no such file, and neither Docker nor Podman answers here; expected an "
            "archive, a directory, or the name or id of an image"
        )
    try:
        details = await image_details(engine, what)
        if cache is not None and not wanted.fresh:
            found = cache.get(str(details["Id"]))
            if found is not None:
                return found
        with await open_details(engine, details, what) as files:
            return _kept_or_read(files, cache, wanted.fresh)
    finally:
        await engine.close()


def _kept_or_read(files: ImageFiles, cache: InventoryCache | None, fresh: bool) -> Inventory:
    from sensor.images.inventory import take_inventory

    if cache is not None and not fresh and files.image_id:
        found = cache.get(files.image_id)
        if found is not None:
            return found
    with _progress() as progress:
        inventory = take_inventory(files, progress=progress)
    if cache is not None:
        cache.put(inventory)
    return inventory


@contextmanager
def opened_cache(context: Any, /) -> Iterator[InventoryCache | None]:
    """Kept inventories, or None where they cannot be: somebody's own machine, not root."""
    from sensor.images.cache import InventoryCache

    cache = None
    try:
        context.state_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
        cache = InventoryCache(context.state_dir / "images.db")
    except OSError as error:
        click.echo(f"not kept: {context.state_dir}: {error.strerror}", err=True)
    except StateError as error:
        click.echo(f"not kept: {error}", err=True)
    try:
        yield cache
    finally:
        if cache is not None:
            cache.close()


def engine_at(address: str | None) -> DockerRuntime | None:
    """The runtime at an address, or the one that is there."""
    from sensor.containers.docker import DockerRuntime

    if address is not None:
        if not address.startswith("unix:///"):
            raise UsageError(f"engine {address!r}: expected an address like {_SOCKETS[0]}")
        return DockerRuntime(address)
    found = next((s for s in _SOCKETS if Path(s.removeprefix("unix://")).is_socket()), None)
    return DockerRuntime(found, "podman" if "podman" in found else "docker") if found else None


def unread(address: str | None) -> dict[str, str]:
    """Ids and names of the images that a runtime has; empty where none answers."""
    engine = engine_at(address)
    if engine is None:
        return {}

    async def ask() -> dict[str, str]:
        try:
            found = await engine.images()
        finally:
            await engine.close()
        return {str(entry.get("Id")): str((entry.get("RepoTags") or [""])[0]) for entry in found}

    try:
        return asyncio.run(ask())
    except RuntimeUnavailableError as error:
        click.echo(f"images that were not read are not listed: {error}", err=True)
        return {}


@contextmanager
def _progress() -> Iterator[Callable[[int], None] | None]:
    """How far it is, on a terminal only."""
    if not sys.stderr.isatty() or os.environ.get("TERM") == "dumb":
        yield None
        return
    last = 0.0

    def tell(files: int) -> None:
        nonlocal last
        if time.monotonic() - last > 0.2:
            last = time.monotonic()
            click.echo(f"\r{files} files read", nl=False, err=True)

    yield tell
    if last:
        click.echo(f"\r{'':<30}\r", nl=False, err=True)
