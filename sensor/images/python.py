"""Python's packages: the metadata of wheels and eggs.

Source: the core metadata specification and the recording of installed projects, of the Python
Packaging User Guide.
"""

from __future__ import annotations

import posixpath
import re

from sensor.errors import ImageError
from sensor.images.found import make_package, may_run
from sensor.images.omissions import printable
from sensor.images.package import PYPI, Package
from sensor.images.tree import Found, Tree

_METADATA_MAX = 8 << 20  # with a long description some have 500 kB
_RECORD_MAX = 32 << 20
_NAMES = ("METADATA", "PKG-INFO")
_RUNS = re.compile(r"[-_.]+")


def read_python(tree: Tree, found: Found) -> list[Package]:
    """The package that a file of metadata tells of.

    Args:
        tree: the image.
        found: METADATA, PKG-INFO, RECORD or NAME.egg-info.

    Raises:
        ImageError: it cannot be read, or names no package.
    """
    if found.name not in _NAMES and not found.name.endswith(".egg-info"):
        return []  # a RECORD, read with its METADATA
    head = tree.read(found, _METADATA_MAX).replace(b"\r\n", b"\n").partition(b"\n\n")[0]
    fields: dict[str, str] = {}
    for line in head.decode("utf-8", "replace").split("\n"):
        name, colon, value = line.partition(":")
        if colon and name in ("Name", "Version"):
            fields.setdefault(name, value.strip())
    if not fields.get("Name") or not fields.get("Version"):
        raise ImageError("metadata without name and version: left out")
    return [
        make_package(
            PYPI,
            _RUNS.sub("-", fields["Name"]).lower(),
            fields["Version"],
            location="/" + found.path,
            files=_files(tree, found),
        )
    ]


def _files(tree: Tree, found: Found) -> tuple[str, ...]:
    """Programs and libraries by the RECORD beside the metadata."""
    directory = found.path.rpartition("/")[0]
    if not directory.endswith(".dist-info"):
        return ()
    record = tree.file(f"{directory}/RECORD")
    if record is None:
        return ()
    base = "/" + directory.rpartition("/")[0]
    try:
        text = tree.read(record, _RECORD_MAX).decode("utf-8", "surrogateescape")
    except ImageError as error:
        tree.omissions.add("/" + record.path, error)
        return ()
    paths = []
    for line in text.splitlines():
        name = line.partition(",")[0]
        if name.startswith("..") or ".so" in name:
            path = posixpath.normpath(posixpath.join(base, name))
            if may_run(path):
                paths.append(printable(path))
    return tuple(paths)
