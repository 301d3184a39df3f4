"""How an inventory is made: the distribution, its database, then every file that tells of more."""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import chain, islice

from sensor.errors import ImageError
from sensor.images import golang, rust
from sensor.images.apk import read_apk
from sensor.images.archive import ImageFiles
from sensor.images.content import Content
from sensor.images.distribution import read_distribution
from sensor.images.dpkg import read_dpkg
from sensor.images.elf import Elf
from sensor.images.golang import read_go
from sensor.images.java import JavaArchive
from sensor.images.node import read_node
from sensor.images.owners import Owners
from sensor.images.package import Inventory, Package
from sensor.images.python import read_python
from sensor.images.rpm import read_rpm
from sensor.images.rust import read_cargo_lock, read_rust
from sensor.images.select import Tells, tells
from sensor.images.tree import Found, Kind, Tree
from sensor.reading import Deadline

READER = 1  # goes up when a reader finds more, so that images are read again
_PROGRAM_MIN = 64  # bytes of a compiled program's header
_PACKED, _PACKED_WITHIN = b"UPX!", 1024  # its loader's header follows the program's own
_SECTIONS = (golang.SECTION, rust.SECTION)
PACKAGES_MAX = 100_000  # of an image; large ones have 5,000


def take_inventory(
    files: ImageFiles,
    seconds: float = 600.0,
    progress: Callable[[int], None] | None = None,
    see: Callable[[Found], None] | None = None,
) -> Inventory:
    """Read an image.

    Args:
        files: it, opened.
        seconds: when this time is over the rest is left out, and the inventory says so.
        progress: told now and then how many files were looked at.
        see: shown every ordinary file, for others who want to know of the same image.

    Returns:
        What was found. What could not be read is among its warnings; nothing is raised for it.
    """
    began = time.monotonic()
    tree = files.tree
    distribution = read_distribution(tree)
    owners = Owners(tree)
    layers = _Layers(tree)
    system = chain.from_iterable(
        read(tree, distribution, owners) for read in (read_dpkg, read_apk, read_rpm)
    )
    packages = [
        replace(package, layer=layers.of(package.location))
        for package in islice(system, PACKAGES_MAX)
    ]
    if next(system, None) is not None:
        tree.omissions.add("", f"more than {PACKAGES_MAX} packages: the rest is not read")
    if packages and distribution is None:
        tree.omissions.add(
            "", "packages of a distribution, but no /etc/os-release that says of which"
        )
    elif distribution is not None and not packages:
        tree.omissions.add(
            "",
            f"{distribution.id} without a database of packages (dpkg, apk or RPM): "
            "what it brought is not known",
        )
    for found, what in _tellers(tree, seconds, progress, see):
        if len(packages) >= PACKAGES_MAX:
            tree.partial = True
            tree.omissions.add(
                "/" + found.path, f"more than {PACKAGES_MAX} packages: the rest is not read"
            )
            break
        layer, owner = tree.layer_of(found), owners.of("/" + found.path)
        packages.extend(
            replace(package, layer=layer, owner=owner)
            for package in _read(tree, found, what, owner)
        )
    if any(layer.gone() for layer in tree.layers):
        tree.omissions.add("", "was removed while it was read: packages may lack", final=False)
    return Inventory(
        files.image_id,
        distribution,
        tuple(sorted(set(packages))),
        tree.omissions.all(),
        files.reference,
        files.source,
        files.layers,
        tree.entries,
        READER,
        time.time_ns(),
        time.monotonic() - began,
        tree.omissions.final,
    )


def identity(inventory: Inventory) -> uuid.UUID:
    """The name of a document: the same for the same reading of the same image."""
    return uuid.uuid5(uuid.NAMESPACE_URL, f"{inventory.image_id}#{inventory.read_ns}")


def _tellers(
    tree: Tree,
    seconds: float,
    progress: Callable[[int], None] | None,
    see: Callable[[Found], None] | None,
) -> Iterator[tuple[Found, Tells]]:
    """The files of an image that tell of packages beside the distribution's."""
    deadline = Deadline(seconds)
    for directory, entries in tree.walk():
        if progress is not None:
            progress(tree.entries)
        if deadline.passed():
            tree.partial = True
            tree.omissions.add(
                f"/{directory.path}",
                f"out of time after {seconds:.0f} s: what comes after it is not read",
                final=False,
            )
            return
        for found in entries.values():
            if found.node.kind is not Kind.FILE:
                continue
            if see is not None:
                see(found)
            what = tells(found.path, found.node.mode)
            if what is Tells.BINARY:
                if found.node.program is not False and found.node.size >= _PROGRAM_MIN:
                    yield found, what
            elif what not in (Tells.NOTHING, Tells.DISTRIBUTION):
                yield found, what


def _read(tree: Tree, found: Found, what: Tells, owner: str) -> list[Package]:
    """The packages that one file tells of; what is damaged is noted."""
    location = "/" + found.path
    try:
        if what is Tells.PYTHON:
            return read_python(tree, found)
        if what is Tells.NODE:
            return read_node(tree, found)
        if what is Tells.CARGO_LOCK:
            return read_cargo_lock(tree, found)
        with tree.open(found) as content:
            if what is Tells.JAVA:
                return JavaArchive(tree.omissions.add, owned=bool(owner)).read(content, location)
            return _of_program(tree, content, location)
    except (ImageError, OSError) as error:
        tree.omissions.add(location, error)
        return []


def _of_program(tree: Tree, content: Content, location: str) -> list[Package]:
    elf = Elf.open(content, _SECTIONS)
    if elf is None:
        return []
    if not elf.has_sections and _PACKED in content.read_at(0, _PACKED_WITHIN):
        tree.omissions.add(location, "packed with UPX: what it is made of is not known")
    found = []
    for read in (read_go, read_rust):
        try:
            found.extend(read(elf, location))
        except ImageError as error:
            tree.omissions.add(location, error)
    return found


class _Layers:
    """Which layer holds a file, by its path."""

    def __init__(self, tree: Tree) -> None:
        self._tree = tree
        self._known: dict[str, str] = {}

    def of(self, location: str) -> str:
        known = self._known.get(location)
        if known is None:
            found = self._tree.find(location)
            known = self._known[location] = self._tree.layer_of(found) if found else ""
        return known
