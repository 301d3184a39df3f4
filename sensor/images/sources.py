"""Where an image can be read: a file, a directory, a runtime's layers, a container's root."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from sensor.containers.docker import DockerRuntime
from sensor.errors import ImageError
from sensor.images.archive import ImageFiles, open_image
from sensor.images.directory import DirectoryLayer
from sensor.images.streams import Scratch
from sensor.images.tree import Tree

__all__ = [
    "ImageFiles", "image_details", "open_details", "open_image", "open_layers", "open_root",
]  # fmt: skip
_REFERENCE = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:/@-]*")


def open_root(path: Path, image_id: str = "", reference: str = "") -> ImageFiles:
    """Open a merged root: /proc/PID/root of a container, or a mounted overlay.

    What is mounted below it, such as volumes, is not of the image and is not read. What the
    container added or changed is read like the image's own.

    Args:
        path: of it.
        image_id: of the container's image, if the container has not run yet: what is found is
            kept under it as the image's.
        reference: what a person calls that.

    Raises:
        ImageError: it cannot be opened.
    """
    layer = DirectoryLayer(path)
    stack = ExitStack()
    stack.callback(layer.close)
    tree = Tree([layer])
    return ImageFiles(tree, image_id, reference, "root", (), tree.omissions, stack)


def open_layers(details: Mapping[str, Any], reference: str = "") -> ImageFiles | None:
    """Open the directories that a runtime keeps an image's or a container's layers in.

    Args:
        details: the answer to Docker's `GET /images/ID/json`, or `/containers/ID/json`: then
            what the container changed is the uppermost layer, and only of one that never ran is
            it the image.
        reference: what a person calls the image.

    Returns:
        None where the runtime keeps them otherwise than overlay2 does.

    Raises:
        ImageError: a directory cannot be opened: removed meanwhile, or this is not root.
    """
    driver = details.get("GraphDriver") or {}
    data = driver.get("Data") or {}
    upper, lower = str(data.get("UpperDir") or ""), str(data.get("LowerDir") or "")
    if not upper:
        return None
    places = [upper, *(place for place in lower.split(":") if place)]
    image_id = _image_of(details)
    diff_ids = tuple(str(diff) for diff in (details.get("RootFS") or {}).get("Layers") or ())
    names = diff_ids[::-1] if len(diff_ids) == len(places) else ("",) * len(places)
    stack = ExitStack()
    try:
        layers = []
        for place, name in zip(places, names, strict=True):
            layers.append(DirectoryLayer(Path(place), name, overlay=True))
            stack.callback(layers[-1].close)
    except BaseException:
        stack.close()
        raise
    tree = Tree(layers)
    return ImageFiles(tree, image_id, reference, "overlay", diff_ids, tree.omissions, stack)


def _image_of(details: Mapping[str, Any]) -> str:
    """The id of the image that the layers are; "" when a container may have changed them."""
    if "State" not in details:
        return str(details.get("Id") or "")
    if (details["State"] or {}).get("Status") != "created":
        return ""
    return str(details.get("Image") or "")


async def image_details(engine: DockerRuntime, reference: str) -> dict[str, Any]:
    """A runtime's inspection of an image, by its name or id.

    Raises:
        ImageError: there is none.
        RuntimeUnavailableError: the runtime does not answer.
    """
    details = None
    # Anything else would be another path of the runtime's interface.
    if _REFERENCE.fullmatch(reference) and ".." not in reference.split("/"):
        details = await engine.image_details(reference)
    if details is None:
        raise ImageError(
            f"{reference}: neither a file nor an image of {engine.name}; expected an archive, a "
            "directory, or the name or id of an image"
        )
    return details


async def open_details(
    engine: DockerRuntime, details: Mapping[str, Any], reference: str
) -> ImageFiles:
    """Open an image that a runtime has.

    Args:
        engine: the runtime.
        details: its inspection of the image.
        reference: what a person calls it.

    Raises:
        ImageError: it cannot be opened.
        RuntimeUnavailableError: the runtime does not answer.
    """
    files = open_layers(details, reference)
    if files is None:
        files = await _saved(engine, str(details["Id"]))
        files.image_id = str(details["Id"])
        files.reference = reference
        files.source = f"saved by {engine.name}"
    return files


async def _saved(engine: DockerRuntime, image_id: str) -> ImageFiles:
    """An image as the runtime saves it, where its layers are no directories of overlay2."""
    scratch = Scratch()
    try:
        async for piece in engine.image_archive(image_id):
            await asyncio.to_thread(scratch.append, piece)
        # The name stays valid for as long as the descriptor does.
        files = open_image(Path(f"/proc/self/fd/{scratch.fileno()}"))
    except BaseException:
        scratch.close()
        raise
    files.stack.callback(scratch.close)
    return files
