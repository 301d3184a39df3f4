"""Rust's crates: what cargo-auditable put into a program, and Cargo.lock.

Sources: cargo-auditable's PARSING.md and its JSON schema; The Cargo Book, "Cargo.toml vs
Cargo.lock".
"""

from __future__ import annotations

import tomllib
import zlib
from typing import Any

import orjson

from sensor.errors import ImageError
from sensor.images.elf import Elf
from sensor.images.found import make_package
from sensor.images.package import CARGO, Package
from sensor.images.tree import Found, Tree

SECTION = b".dep-v0"
_SECTION_MAX = 4 << 20
_JSON_MAX = 16 << 20  # unpacked; of 1,000 crates it has 150 kB
_LOCK_MAX = 8 << 20  # of Cargo.lock; of 1,000 crates it has 250 kB
_CRATES_MAX = 20_000
# Sources that cargo downloaded: their locks speak of what their authors tested with.
_DOWNLOADED = ("cargo/registry/", "cargo/git/")


def read_rust(elf: Elf, location: str) -> list[Package]:
    """The crates of a program that cargo-auditable built; empty for others.

    Raises:
        ImageError: the list is damaged.
    """
    data = elf.section(SECTION, _SECTION_MAX)
    if data is None:
        return []
    try:
        unpacker = zlib.decompressobj()
        text = unpacker.decompress(data, _JSON_MAX)
        if not unpacker.eof:
            raise ImageError("its list of crates is cut off, or larger than any")
        facts = orjson.loads(text)
    except (zlib.error, orjson.JSONDecodeError) as error:
        raise ImageError(f"a damaged list of crates: {error}") from error
    return _crates(
        facts.get("packages") if isinstance(facts, dict) else None, location, (location,)
    )


def read_cargo_lock(tree: Tree, found: Found) -> list[Package]:
    """The crates of a Cargo.lock.

    Raises:
        ImageError: it is damaged.
    """
    if any(place in found.path for place in _DOWNLOADED):
        return []
    try:
        facts = tomllib.loads(tree.read(found, _LOCK_MAX).decode())
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, RecursionError) as error:
        raise ImageError(f"no TOML: {error}; left out") from error
    return _crates(facts.get("package"), "/" + found.path, ())


def _crates(entries: Any, location: str, files: tuple[str, ...]) -> list[Package]:
    if not isinstance(entries, list):
        raise ImageError("no list of crates in it; expected what cargo writes")
    if len(entries) > _CRATES_MAX:
        raise ImageError(f"{len(entries)} crates; at most {_CRATES_MAX} are read")
    found = []
    for entry in entries:
        if not isinstance(entry, dict):
            raise ImageError("a damaged list of crates; left out")
        name, version = entry.get("name"), entry.get("version")
        if not isinstance(name, str) or not isinstance(version, str) or not name:
            raise ImageError("a crate without name and version; the list is left out")
        if entry.get("kind") != "build":  # ran while the program was built, and is not in it
            found.append(make_package(CARGO, name, version, location=location, files=files))
    return found
