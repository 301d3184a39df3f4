"""Alpine's and Wolfi's packages: apk's database of what is installed.

Source: apk-tools' doc/apk.5 (P name, V version, A architecture, o origin, F directory, R file).
"""

from __future__ import annotations

from collections.abc import Iterator

from sensor.errors import ImageError
from sensor.images.found import distro_qualifier, make_package
from sensor.images.owners import Owners
from sensor.images.package import APK, Distribution, Package
from sensor.images.tree import Tree

PLACES = ("lib/apk/db/installed", "usr/lib/apk/db/installed")
DATABASE_MAX = 64 << 20  # of 10,000 packages it has some 40 MB


def read_apk(tree: Tree, distribution: Distribution | None, owners: Owners) -> Iterator[Package]:
    """The packages that apk has installed.

    Args:
        tree: the image.
        distribution: for package URLs.
        owners: told of each package's files.
    """
    seen: set[str] = set()
    for place in PLACES:
        found = tree.file(place)
        if found is None or found.path in seen:
            continue
        seen.add(found.path)
        location = "/" + found.path
        try:
            data = tree.read(found, DATABASE_MAX)
        except ImageError as error:
            tree.omissions.add(location, error)
            continue
        number = 0
        for paragraph in data.decode("utf-8", "surrogateescape").split("\n\n"):
            package = _package(paragraph, location, distribution, owners)
            if isinstance(package, Package):
                number += 1
                yield package
            elif package:
                tree.omissions.add(location, package)
        if not number and data.strip():
            tree.omissions.add(location, "no package in it; expected apk's database")
        elif data and not data.endswith(b"\n"):
            tree.omissions.add(location, "ends in the middle of a line: the last package may lack")


def _package(
    paragraph: str, location: str, distribution: Distribution | None, owners: Owners
) -> Package | str:
    fields: dict[str, str] = {}
    files: list[str] = []
    directory = "/"
    for line in paragraph.split("\n"):
        if line[1:2] != ":":
            continue
        key, value = line[0], line[2:]
        if key == "F":
            directory = f"/{value}/" if value else "/"
        elif key == "R":
            files.append(directory + value)
        elif key in "PVAo":
            fields[key] = value.strip()
    name, version = fields.get("P", ""), fields.get("V", "")
    if not fields and not files:
        return ""
    if not name or not version:
        return f"package {name or '(no name)'} has no {'version' if name else 'name'}: left out"
    arch = fields.get("A", "")
    return make_package(
        APK,
        name,
        version,
        source_name=fields.get("o", ""),
        arch=arch,
        location=location,
        files=owners.add(name, files),
        namespace=distribution.id if distribution is not None else "alpine",
        qualifiers={"arch": arch, **distro_qualifier(distribution)},
    )
