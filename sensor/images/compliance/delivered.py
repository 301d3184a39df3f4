"""What the programs of a distribution's packages should be, by its own databases.

Sources: dpkg's ``info/*.md5sums`` (deb-md5sums(5); configuration files are not in them) and
``diversions`` (dpkg-divert(1)); apk's ``Z:`` (apk-tools' doc/apk.5: Q1 and SHA-1 in base64);
RPM's FILEDIGESTS, FILEDIGESTALGO, FILEFLAGS (docs/manual/tags.md).
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Iterator, Mapping
from typing import NamedTuple

from sensor.errors import ImageError
from sensor.images.apk import DATABASE_MAX, PLACES
from sensor.images.found import may_run
from sensor.images.owners import Owners
from sensor.images.rpm import databases, read_header, rpm_files
from sensor.images.tree import Found, Tree

_INFO, _STATUS_D = "var/lib/dpkg/info", "var/lib/dpkg/status.d"
_DIVERSIONS = "var/lib/dpkg/diversions"
_LIST_MAX = 16 << 20
EXPECTED_MAX = 500_000  # programs of all packages; large images have 50,000
_SUMS = ".md5sums"
_NAME, _FLAGS, _DIGESTS, _ALGORITHM = 1000, 1037, 1035, 5011
_LISTS, _NUMBERS = frozenset({_DIGESTS, 1117, 1118}), frozenset({_FLAGS, _ALGORITHM, 1116})
_MAY_CHANGE = 1 | 1 << 6  # RPMFILE_CONFIG, RPMFILE_GHOST
_RPM_ALGORITHMS = {1: "md5", 2: "sha1", 8: "sha256", 9: "sha384", 10: "sha512"}


class Delivered(NamedTuple):
    """What a file should be.

    Attributes:
        algorithm: of the digest, as hashlib calls it.
        digest: hexadecimal, lower case.
        package: that brought it.
    """

    algorithm: str
    digest: str
    package: str


def read_delivered(tree: Tree) -> dict[str, Delivered]:
    """The programs and libraries of all packages, by path with a leading slash and no links.

    What cannot be read is among the tree's omissions.
    """
    owners = Owners(tree)
    found: dict[str, Delivered] = {}
    for path, what in _all(tree):
        if len(found) >= EXPECTED_MAX:
            tree.omissions.add("", f"more than {EXPECTED_MAX} programs of packages: not compared")
            break
        if may_run(path):
            found[owners.real(path)] = what
    return found


def _all(tree: Tree) -> Iterator[tuple[str, Delivered]]:
    yield from _dpkg(tree)
    yield from _apk(tree)
    yield from _rpm(tree)


def _read(tree: Tree, found: Found, limit: int) -> list[str]:
    try:
        return tree.read(found, limit).decode("utf-8", "surrogateescape").split("\n")
    except ImageError as error:
        tree.omissions.add("/" + found.path, error)
        return []


def _dpkg(tree: Tree) -> Iterator[tuple[str, Delivered]]:
    diverted = _diversions(tree)
    for directory in (_INFO, _STATUS_D):
        for name, entry in tree.directory(directory).items():
            if not name.endswith(_SUMS):
                continue
            package = name.removesuffix(_SUMS).partition(":")[0]
            found = tree.file(entry.path)
            for line in [] if found is None else _read(tree, found, _LIST_MAX):
                digest, gap, path = line.partition("  ")
                if gap and len(digest) == 32:
                    place = "/" + path.removeprefix("./").lstrip("/")
                    to, by = diverted.get(place, (place, package))
                    yield (
                        place if by == package else to,
                        Delivered("md5", digest.lower(), package),
                    )


def _diversions(tree: Tree) -> Mapping[str, tuple[str, str]]:
    """Where a file of a package went that another put its own in the place of: (to, whose)."""
    found = tree.file(_DIVERSIONS)
    lines = [] if found is None else _read(tree, found, _LIST_MAX)
    return {lines[i]: (lines[i + 1], lines[i + 2]) for i in range(0, len(lines) - 2, 3) if lines[i]}


def _apk(tree: Tree) -> Iterator[tuple[str, Delivered]]:
    seen = set()
    for place in PLACES:
        found = tree.file(place)
        if found is None or found.path in seen:
            continue
        seen.add(found.path)
        package, directory, path = "", "/", ""
        for line in _read(tree, found, DATABASE_MAX):
            key, value = line[:2], line[2:]
            if key == "P:":
                package, directory, path = value, "/", ""
            elif key == "F:":
                directory, path = (f"/{value}/" if value else "/"), ""
            elif key == "R:":
                path = directory + value
            elif key == "Z:" and path and value.startswith("Q1"):
                try:
                    digest = base64.b64decode(value[2:], validate=True).hex()
                except (binascii.Error, ValueError):
                    continue  # a damaged line says nothing of the file
                yield path, Delivered("sha1", digest, package)


def _rpm(tree: Tree) -> Iterator[tuple[str, Delivered]]:
    for found, headers in databases(tree):
        try:
            for header in headers:
                yield from _of_header(tree, found, header)
        except (ImageError, OSError) as error:
            tree.omissions.add("/" + found.path, error)


def _of_header(tree: Tree, found: Found, header: bytes) -> Iterator[tuple[str, Delivered]]:
    try:
        tags = read_header(header, lists=_LISTS, numbers=_NUMBERS)
    except ImageError as error:
        tree.omissions.add("/" + found.path, error)
        return
    digests, flags, algorithms = (tags.get(tag) for tag in (_DIGESTS, _FLAGS, _ALGORITHM))
    name = str(tags.get(_NAME, ""))
    number = algorithms[0] if isinstance(algorithms, tuple) and algorithms else 1
    algorithm = _RPM_ALGORITHMS.get(number, "")
    if not algorithm or not isinstance(digests, list) or not isinstance(flags, tuple):
        return
    for path, digest, flag in zip(rpm_files(tags), digests, flags, strict=False):
        if digest and not flag & _MAY_CHANGE:
            yield path, Delivered(algorithm, digest.lower(), name)
