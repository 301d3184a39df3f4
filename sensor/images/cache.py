"""What was read of images: an image does not change under its id, so one reading lasts.

One SQLite file, an image a row: of its inventory, and of the facts for compliance. Several
processes may use it at once.
"""

from __future__ import annotations

import time
import zlib
from contextlib import AbstractContextManager
from dataclasses import asdict, astuple, dataclass, fields
from pathlib import Path

import msgpack

from sensor.database import database_errors, open_database
from sensor.errors import ImageError
from sensor.images.compliance.facts import READER as FACTS_READER
from sensor.images.compliance.facts import ImageFacts
from sensor.images.inventory import READER
from sensor.images.package import Distribution, Inventory, Omission, Package

_SCHEMA = """
CREATE TABLE IF NOT EXISTS inventories (
    image_id TEXT NOT NULL PRIMARY KEY,
    reader INTEGER NOT NULL,
    read_ns INTEGER NOT NULL,
    used_ns INTEGER NOT NULL,
    reference TEXT NOT NULL,
    distribution TEXT NOT NULL,
    packages INTEGER NOT NULL,
    warnings INTEGER NOT NULL,
    content BLOB NOT NULL
) WITHOUT ROWID
"""
# Beside the inventories since a later version, so that it is made where they are already.
_FACTS = """
CREATE TABLE IF NOT EXISTS facts (
    image_id TEXT NOT NULL PRIMARY KEY,
    reader INTEGER NOT NULL,
    hash_list TEXT NOT NULL,
    used_ns INTEGER NOT NULL,
    content BLOB NOT NULL
) WITHOUT ROWID
"""
_VERSION = 1
KEEP = 2000  # images; beyond that those go that were not asked for for longest. Some 50 kB each
_BUSY_SECONDS = 10.0
_UNPACKED_MAX = 1 << 30
_REMEDY = "remove it: images are read again"


@dataclass(frozen=True, slots=True)
class Summary:
    """One image that was read.

    Attributes:
        image_id: of the image.
        reference: what it was called when it was read.
        distribution: for people.
        packages: how many.
        warnings: how many things were left out.
        read_ns: when, Unix time in nanoseconds.
        current: whether a reader of this version made it; others are read again when asked for.
    """

    image_id: str
    reference: str
    distribution: str
    packages: int
    warnings: int
    read_ns: int
    current: bool


class InventoryCache:
    """The inventories of one host.

    Args:
        path: the database file; made when absent, mode 0600.
        keep: how many images.

    Raises:
        StateError: it cannot be opened, is damaged, or is of a later version.
    """

    def __init__(self, path: Path, keep: int = KEEP) -> None:
        self.path = path
        self._keep = keep
        with self._errors("open"):
            # What is lost in a power failure is read again.
            self._db = open_database(path, _VERSION, _SCHEMA, busy_seconds=_BUSY_SECONDS)
            self._db.execute(_FACTS)

    def _errors(self, what: str) -> AbstractContextManager[None]:
        return database_errors(self.path, what, _REMEDY)

    def get(self, image_id: str) -> Inventory | None:
        """The inventory of an image, unless it was made by a reader of another version.

        Raises:
            StateError: the database cannot be read.
        """
        with self._errors("read"):
            row = self._db.execute(
                "SELECT content FROM inventories WHERE image_id=? AND reader=?", (image_id, READER)
            ).fetchone()
        if row is None:
            return None
        try:
            found = unpack(row[0])
        except ImageError:
            self.remove(image_id)  # damaged; it is read again
            return None
        with self._errors("write"):
            self._db.execute(
                "UPDATE inventories SET used_ns=? WHERE image_id=?", (time.time_ns(), image_id)
            )
        return found

    def put(self, inventory: Inventory) -> None:
        """Keep an inventory; one without an image's id, or that is not final, is not kept.

        Raises:
            StateError: the database cannot be written.
        """
        if not inventory.image_id or not inventory.final:
            return
        distribution = inventory.distribution
        with self._errors("write"):
            self._db.execute(
                "INSERT OR REPLACE INTO inventories VALUES (?,?,?,?,?,?,?,?,?)",
                (
                    inventory.image_id,
                    inventory.reader,
                    inventory.read_ns,
                    time.time_ns(),
                    inventory.reference,
                    (distribution.pretty or distribution.id) if distribution else "",
                    len(inventory.packages),
                    len(inventory.warnings),
                    pack(inventory),
                ),
            )
            self._db.execute(
                "DELETE FROM inventories WHERE image_id IN "
                "(SELECT image_id FROM inventories ORDER BY used_ns DESC LIMIT -1 OFFSET ?)",
                (self._keep,),
            )

    def get_facts(self, image_id: str, hash_list: str = "") -> ImageFacts | None:
        """What was found in an image's files, unless by another reader or against another list.

        Args:
            image_id: of the image.
            hash_list: ``HashList.id`` of the list of malware that counts now.

        Raises:
            StateError: the database cannot be read.
        """
        with self._errors("read"):
            row = self._db.execute(
                "SELECT content FROM facts WHERE image_id=? AND reader=? AND hash_list=?",
                (image_id, FACTS_READER, hash_list),
            ).fetchone()
        if row is None:
            return None
        try:
            found = unpack_facts(row[0])
        except ImageError:
            with self._errors("write"):  # damaged; it is looked at again
                self._db.execute("DELETE FROM facts WHERE image_id=?", (image_id,))
            return None
        with self._errors("write"):
            self._db.execute(
                "UPDATE facts SET used_ns=? WHERE image_id=?", (time.time_ns(), image_id)
            )
        return found

    def put_facts(self, facts: ImageFacts) -> None:
        """Keep facts; those without an image's id, or that are not final, are not kept.

        Raises:
            StateError: the database cannot be written.
        """
        if not facts.image_id or not facts.final:
            return
        with self._errors("write"):
            self._db.execute(
                "INSERT OR REPLACE INTO facts VALUES (?,?,?,?,?)",
                (
                    facts.image_id, facts.reader, facts.hash_list, time.time_ns(),
                    pack_facts(facts),
                ),
            )  # fmt: skip
            self._db.execute(
                "DELETE FROM facts WHERE image_id IN "
                "(SELECT image_id FROM facts ORDER BY used_ns DESC LIMIT -1 OFFSET ?)",
                (self._keep,),
            )

    def list(self) -> list[Summary]:
        """Every image that was read, the newest reading last.

        Raises:
            StateError: the database cannot be read.
        """
        with self._errors("read"):
            rows = self._db.execute(
                "SELECT image_id, reference, distribution, packages, warnings, read_ns, reader "
                "FROM inventories ORDER BY read_ns"
            ).fetchall()
        return [
            Summary(
                image_id, reference, distribution, packages, warnings, read_ns, reader == READER
            )
            for image_id, reference, distribution, packages, warnings, read_ns, reader in rows
        ]

    def find(self, name: str) -> str | None:
        """The id of an image by its id, the beginning of it, or what it was last called.

        Raises:
            StateError: the database cannot be read.
            ImageError: several begin like that.
        """
        start = name.removeprefix("sha256:")
        found = {
            entry.image_id: entry
            for entry in self.list()
            if name in (entry.image_id, entry.reference)
            or f"{name}:latest" == entry.reference
            or (len(start) >= 4 and entry.image_id.removeprefix("sha256:").startswith(start))
        }
        named = [entry for entry in found.values() if entry.reference.startswith(name)]
        if named:
            return named[-1].image_id
        if len(found) > 1:
            shown = ", ".join(entry.image_id[7:19] for entry in found.values())
            raise ImageError(f"image {name!r}: {len(found)} begin like that: {shown}")
        return next(iter(found), None)

    def remove(self, image_id: str) -> None:
        """Forget an image.

        Raises:
            StateError: the database cannot be written.
        """
        with self._errors("write"):
            self._db.execute("DELETE FROM inventories WHERE image_id=?", (image_id,))
            self._db.execute("DELETE FROM facts WHERE image_id=?", (image_id,))

    def close(self) -> None:
        """Close the database."""
        self._db.close()


def pack(inventory: Inventory) -> bytes:
    """An inventory as bytes."""
    facts = {
        **{field.name: getattr(inventory, field.name) for field in fields(inventory)},
        "distribution": asdict(inventory.distribution) if inventory.distribution else None,
        "packages": [asdict(package) for package in inventory.packages],
        "warnings": [astuple(warning) for warning in inventory.warnings],
    }
    # Paths and versions repeat: what is packed is a fifth.
    return zlib.compress(msgpack.packb(facts), 1)


def unpack(data: bytes) -> Inventory:
    """The inventory that ``pack`` made bytes of.

    Raises:
        ImageError: the bytes are damaged.
    """
    try:
        facts = msgpack.unpackb(zlib.decompressobj().decompress(data, _UNPACKED_MAX))
        distribution = facts.pop("distribution")
        if distribution is not None:
            distribution["id_like"] = tuple(distribution["id_like"])
            distribution = Distribution(**distribution)
        packages = tuple(
            Package(**{**package, "files": tuple(package["files"])})
            for package in facts.pop("packages")
        )
        warnings = tuple(Omission(*warning) for warning in facts.pop("warnings"))
        facts["layers"] = tuple(facts["layers"])
        return Inventory(distribution=distribution, packages=packages, warnings=warnings, **facts)
    except (zlib.error, ValueError, TypeError, KeyError, AttributeError) as error:
        raise ImageError(f"a kept inventory is damaged: {error}") from error


def pack_facts(facts: ImageFacts) -> bytes:
    """Facts as bytes."""
    plain = {field.name: getattr(facts, field.name) for field in fields(facts)}
    plain["warnings"] = [astuple(warning) for warning in facts.warnings]
    return zlib.compress(msgpack.packb(plain), 1)


def unpack_facts(data: bytes) -> ImageFacts:
    """The facts that ``pack_facts`` made bytes of.

    Raises:
        ImageError: the bytes are damaged.
    """
    try:
        plain = msgpack.unpackb(zlib.decompressobj().decompress(data, _UNPACKED_MAX))
        plain["warnings"] = tuple(Omission(*warning) for warning in plain["warnings"])
        lists = ("set_ids", "keys", "altered", "malware")
        return ImageFacts(**{**plain, **{name: tuple(plain[name]) for name in lists}})
    except (zlib.error, ValueError, TypeError, KeyError, AttributeError) as error:
        raise ImageError(f"kept facts are damaged: {error}") from error
