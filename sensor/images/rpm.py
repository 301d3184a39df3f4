"""RPM's packages: headers, as each of RPM's databases keeps them.

Source: RPM's docs/manual/format_header.md and tags.md (Header Structure, tags). In a database a
header has no magic in front.
"""

from __future__ import annotations

import struct
from collections.abc import Container, Iterator, Mapping, Sequence

from sensor.errors import ImageError
from sensor.images.found import distro_qualifier, make_package
from sensor.images.owners import Owners
from sensor.images.package import RPM, Distribution, Package
from sensor.images.rpmdb import FORMATS
from sensor.images.tree import Found, Tree

_PLACES = ("var/lib/rpm", "usr/lib/sysimage/rpm", "usr/share/rpm")
_NAME, _VERSION, _RELEASE, _EPOCH, _ARCH, _SOURCE, _MODULE = (
    1000, 1001, 1002, 1003, 1022, 1044, 5096,
)  # fmt: skip
_DIRECTORY_INDEXES, _BASENAMES, _DIRECTORIES = 1116, 1117, 1118
_INT32, _STRING, _STRINGS, _TRANSLATED = 4, 6, 8, 9
_TEXTS = frozenset({_NAME, _VERSION, _RELEASE, _ARCH, _SOURCE, _MODULE})
_LISTS = frozenset({_BASENAMES, _DIRECTORIES})
_NUMBERS = frozenset({_EPOCH, _DIRECTORY_INDEXES})
_ENTRIES_MAX = 65535  # of a header, as RPM has it
_SOURCE_SUFFIXES = (".src.rpm", ".nosrc.rpm")
# What is no software: the keys that packages are signed with.
_KEYS = "gpg-pubkey"


def read_rpm(tree: Tree, distribution: Distribution | None, owners: Owners) -> Iterator[Package]:
    """The packages that RPM has installed.

    Args:
        tree: the image.
        distribution: for package URLs.
        owners: told of each package's files.
    """
    for found, headers in databases(tree):
        location = "/" + found.path
        number = 0
        try:
            for header in headers:
                try:
                    package = _package(header, location, distribution, owners)
                except ImageError as error:
                    tree.omissions.add(location, error)
                    continue
                if package is not None:
                    number += 1
                    yield package
        except (ImageError, OSError) as error:
            tree.omissions.add(location, error)
        else:
            if not number:
                tree.omissions.add(location, "no package in it; expected RPM's database")


def databases(tree: Tree) -> Iterator[tuple[Found, Iterator[bytes]]]:
    """RPM's databases in an image, each with its headers.

    Going through the headers raises ImageError and OSError.
    """
    seen: set[str] = set()
    for place in _PLACES:
        entries = tree.directory(place)
        for name, headers in FORMATS:
            # A database that was converted leaves its old form behind: the newest form counts.
            if name not in entries:
                continue
            found = tree.file(f"{place}/{name}")
            if found is not None and found.path not in seen:
                seen.add(found.path)
                yield found, headers(tree, found)
            break


def _package(
    header: bytes, location: str, distribution: Distribution | None, owners: Owners
) -> Package | None:
    tags = read_header(header)
    name, version, release = (str(tags.get(tag, "")) for tag in (_NAME, _VERSION, _RELEASE))
    if name == _KEYS:
        return None
    if not name or not version:
        raise ImageError(f"package {name or '(no name)'} has no version: left out")
    epoch = _first(tags.get(_EPOCH))
    arch = str(tags.get(_ARCH, ""))
    full = f"{version}-{release}" if release else version
    source_name, source_version = _of_source(str(tags.get(_SOURCE, "")))
    prefix = f"{epoch}:" if epoch else ""
    return make_package(
        RPM,
        name,
        prefix + full,
        source_name=source_name,
        # The source package has the same epoch, but its file's name does not say it.
        source_version=prefix + source_version if source_version else "",
        arch=arch,
        location=location,
        files=owners.add(name, rpm_files(tags)),
        module=str(tags.get(_MODULE, "")),
        namespace=distribution.id if distribution is not None else "",
        qualifiers={
            "arch": arch,
            **distro_qualifier(distribution),
            "epoch": str(epoch) if epoch else "",
        },
        purl_version=full,
    )


def _of_source(file: str) -> tuple[str, str]:
    """Name and version of NAME-VERSION-RELEASE.src.rpm; "" when it is not like that."""
    for suffix in _SOURCE_SUFFIXES:
        if file.endswith(suffix):
            parts = file.removesuffix(suffix).rsplit("-", 2)
            if len(parts) == 3 and all(parts):
                return parts[0], f"{parts[1]}-{parts[2]}"
    return "", ""


def rpm_files(tags: Mapping[int, object]) -> list[str]:
    """The paths of a package's files, in the order of its digests; empty when not known."""
    names, directories, indexes = (
        tags.get(tag) for tag in (_BASENAMES, _DIRECTORIES, _DIRECTORY_INDEXES)
    )
    if not (
        isinstance(names, list) and isinstance(directories, list) and isinstance(indexes, tuple)
    ):
        return []
    return [
        directories[index] + name
        for name, index in zip(names, indexes, strict=False)
        if index < len(directories)
    ]


def _first(value: object) -> int:
    return int(value[0]) if isinstance(value, Sequence) and value else 0


def read_header(
    blob: bytes, *, lists: Container[int] = _LISTS, numbers: Container[int] = _NUMBERS
) -> dict[int, object]:
    """The tags of a header that count: texts, lists of texts, tuples of numbers.

    Args:
        blob: the header.
        lists: which lists of texts are wanted.
        numbers: which tuples of numbers are wanted.

    Raises:
        ImageError: it is damaged.
    """
    if len(blob) < 8:
        raise ImageError(f"a header of {len(blob)} bytes: damaged, left out")
    count, size = struct.unpack_from(">II", blob)
    start = 8 + 16 * count
    if count > _ENTRIES_MAX or start + size > len(blob):
        raise ImageError(f"a header of {count} entries in {len(blob)} bytes: damaged, left out")
    data = blob[start : start + size]
    tags: dict[int, object] = {}
    for tag, kind, offset, number in struct.iter_unpack(">IIiI", blob[8:start]):
        if not 0 <= offset < size:
            continue
        if tag in _TEXTS and kind in (_STRING, _STRINGS, _TRANSLATED):
            tags[tag] = _text(data[offset : _end(data, offset)])
        elif tag in lists and kind == _STRINGS:
            if number > size - offset:
                raise ImageError(f"a list of {number} texts in {size} bytes: damaged, left out")
            tags[tag] = [_text(part) for part in data[offset:].split(b"\0", number)[:number]]
        elif tag in numbers and kind == _INT32:
            if 4 * number > size - offset:
                raise ImageError(f"a list of {number} numbers in {size} bytes: damaged, left out")
            tags[tag] = struct.unpack_from(f">{number}I", data, offset)
    return tags


def _end(data: bytes, offset: int) -> int:
    end = data.find(b"\0", offset)
    return end if end >= 0 else len(data)


def _text(data: bytes) -> str:
    return data.decode("utf-8", "surrogateescape")
