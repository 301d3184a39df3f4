"""Security updates that the host's Debian or Ubuntu has pending, by what apt last fetched.

Nothing is fetched and apt is not run: the lists that it keeps are compared with what is installed.
"""

from __future__ import annotations

import lzma
from collections.abc import Iterator
from pathlib import Path

from sensor.images.vulns.keys import deb_key

_LISTS, _STATUS = "var/lib/apt/lists", "var/lib/dpkg/status"
_LIST_MAX = 256 << 20
_FIELDS = (b"Package: ", b"Version: ", b"Architecture: ", b"Status: ")


def pending_updates(root: Path = Path("/")) -> tuple[str, ...] | None:
    """Names of installed packages of which a security archive has a later version.

    Args:
        root: of the host's file system.

    Returns:
        None where that is not known: no dpkg, or apt has no list of a security archive that can be
        read (those compressed with LZ4 cannot).
    """
    try:
        lists = sorted(
            path
            for path in (root / _LISTS).iterdir()
            if "security" in path.name and path.name.endswith(("_Packages", "_Packages.xz"))
        )
        installed = {
            (fields[b"Package: "], fields[b"Architecture: "]): fields[b"Version: "]
            for fields in _paragraphs((root / _STATUS).read_bytes())
            if fields.get(b"Status: ", b"").endswith(b" installed") and len(fields) == len(_FIELDS)
        }
        if not lists or not installed:
            return None
        found = set()
        for path in lists:
            for fields in _paragraphs(_content(path)):
                name, arch = fields.get(b"Package: ", b""), fields.get(b"Architecture: ", b"")
                have = installed.get((name, arch))
                offered = fields.get(b"Version: ")
                if have and offered and _later(offered, have):
                    found.add(name.decode("utf-8", "replace"))
    except (OSError, lzma.LZMAError):
        return None
    return tuple(sorted(found))


def _content(path: Path) -> bytes:
    if path.suffix == ".xz":
        return lzma.LZMADecompressor().decompress(path.read_bytes(), _LIST_MAX)
    with path.open("rb") as file:
        return file.read(_LIST_MAX)


def _paragraphs(data: bytes) -> Iterator[dict[bytes, bytes]]:
    for paragraph in data.split(b"\n\n"):
        fields = {}
        for line in paragraph.split(b"\n"):
            for name in _FIELDS:
                if line.startswith(name):
                    fields[name] = line[len(name) :].strip()
        yield fields


def _later(offered: bytes, have: bytes) -> bool:
    try:
        later, now = (deb_key(version.decode("utf-8", "replace")) for version in (offered, have))
    except ValueError:
        return False  # no version, so no later one
    return later > now
