"""Debian's packages: dpkg's status file, and the directory of small ones that distroless has.

Source: dpkg's dpkg-query(1), deb-src-control(5): "Source: NAME (VERSION)"; versions in
deb-version(7).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace

from sensor.errors import ImageError
from sensor.images.found import distro_qualifier, make_package
from sensor.images.owners import Owners
from sensor.images.package import DEB, Distribution, Package
from sensor.images.tree import Tree

_DIRECTORY = "var/lib/dpkg"
_STATUS_MAX = 64 << 20  # of a status file; one of 10,000 packages has 10 MB
_LIST_MAX = 16 << 20  # of the list of one package's files; the longest genuine ones have 2 MB
_FIELDS = frozenset({b"Package", b"Status", b"Version", b"Architecture", b"Source"})
# Whose files are not there. Of a package that is half installed they may be.
_ABSENT = frozenset({"not-installed", "config-files"})


def read_dpkg(tree: Tree, distribution: Distribution | None, owners: Owners) -> Iterator[Package]:
    """The packages that dpkg has installed.

    Args:
        tree: the image.
        distribution: for package URLs.
        owners: told of each package's files.
    """
    sources = [(f"{_DIRECTORY}/status", "")]
    sources += [
        (found.path, name)
        for name, found in tree.directory(f"{_DIRECTORY}/status.d").items()
        if not name.endswith((".md5sums", ".preinst", ".postinst", ".list"))
    ]
    lists = tree.directory(f"{_DIRECTORY}/info")
    for path, single in sources:
        found = tree.file(path)
        if found is None:
            continue
        location = "/" + found.path
        try:
            data = tree.read(found, _STATUS_MAX)
        except ImageError as error:
            tree.omissions.add(location, error)
            continue
        number = 0
        for fields in _paragraphs(data):
            package = _package(fields, location, distribution, bool(single))
            if package is None:
                continue
            if isinstance(package, str):
                tree.omissions.add(location, package)
                continue
            files = owners.add(package.name, _files(tree, lists, package, single))
            number += 1
            yield replace(package, files=files)
        if not number and data.strip():
            tree.omissions.add(location, "no package in it; expected dpkg's status")
        elif not single and data and not data.endswith(b"\n"):
            tree.omissions.add(location, "ends in the middle of a line: the last package may lack")


def _paragraphs(data: bytes) -> Iterator[dict[bytes, str]]:
    """The fields that count of each paragraph. Continued lines belong to none of them."""
    for paragraph in data.replace(b"\r\n", b"\n").split(b"\n\n"):
        fields = {}
        for line in paragraph.split(b"\n"):
            name, colon, value = line.partition(b":")
            if colon and name in _FIELDS:
                fields[name] = value.strip().decode("utf-8", "surrogateescape")
        if fields:
            yield fields


def _package(
    fields: dict[bytes, str], location: str, distribution: Distribution | None, single: bool
) -> Package | str | None:
    """A package, None for one that is not installed, or what is wrong with it."""
    status = fields.get(b"Status", "").split()
    if status and status[-1] in _ABSENT:
        return None
    name, version = fields.get(b"Package", ""), fields.get(b"Version", "")
    if not name:
        return "a paragraph without a package's name: left out"
    if not version:
        return f"package {name} has no version: left out"
    if not single and not status:
        return f"package {name} has no status: left out"
    arch = fields.get(b"Architecture", "")
    source, _, of_source = fields.get(b"Source", name).partition("(")
    return make_package(
        DEB,
        name,
        version,
        source_name=source.strip(),
        source_version=of_source.strip(" )") or version,
        arch=arch,
        location=location,
        namespace=distribution.id if distribution is not None else "debian",
        qualifiers={"arch": arch, **distro_qualifier(distribution)},
    )


def _files(tree: Tree, lists: Mapping[str, object], package: Package, single: str) -> list[str]:
    """What a package brought, by its list."""
    if single:
        return _distroless_files(tree, single)
    for name in (f"{package.name}.list", f"{package.name}:{package.arch}.list"):
        if name not in lists:
            continue
        found = tree.file(f"{_DIRECTORY}/info/{name}")
        if found is None:
            return []
        try:
            text = tree.read(found, _LIST_MAX).decode("utf-8", "surrogateescape")
        except ImageError as error:
            tree.omissions.add("/" + found.path, error)
            return []
        return [line for line in text.split("\n") if len(line) > 2]
    return []


def _distroless_files(tree: Tree, single: str) -> list[str]:
    """Distroless keeps "SUM  PATH" instead of lists."""
    found = tree.file(f"{_DIRECTORY}/status.d/{single}.md5sums")
    if found is None:
        return []
    try:
        text = tree.read(found, _LIST_MAX).decode("utf-8", "surrogateescape")
    except ImageError as error:
        tree.omissions.add("/" + found.path, error)
        return []
    return ["/" + line.partition("  ")[2] for line in text.split("\n") if "  " in line]
