"""Java's packages: archives, those within archives, and what each says that it is.

An archive is known by the properties that Maven puts into it, else by its manifest and its file's
name. Sources: Maven Archiver's reference; the JAR File Specification (manifest).
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, field

from sensor.errors import ImageError
from sensor.images.content import Memory, Readable
from sensor.images.found import make_package
from sensor.images.omissions import printable
from sensor.images.package import MAVEN, Package
from sensor.images.select import ARCHIVES_OF_JAVA
from sensor.images.zips import ZipMember, read_member, zip_members

_DEPTH_MAX = 4  # an ear with a war with a jar with a jar
_INNER_MAX = 128 << 20  # of an archive within, which has to be in memory
_ALL_MAX = 2 << 30  # of all archives within one file together
_TEXT_MAX = 1 << 20  # of properties and manifests
_ARCHIVES_MAX = 5000  # within one file; large applications have 500
_FILE_NAME = re.compile(r"(?P<name>.+?)-(?P<version>\d[A-Za-z0-9._+-]*)")
_CLASSIFIERS = ("-sources", "-javadoc", "-tests")
_GROUP = re.compile(r"[A-Za-z][\w-]*(?:\.[\w-]+)+")

Note = Callable[[str, Exception], None]


@dataclass(slots=True)
class _Parts:
    """What of an archive counts."""

    properties: list[ZipMember] = field(default_factory=list)
    manifest: ZipMember | None = None
    inner: list[ZipMember] = field(default_factory=list)


class JavaArchive:
    """One file of an image that is an archive of Java.

    Args:
        note: told of places that cannot be read.
        owned: whether the distribution brought it: then it is known without a name of its own.
    """

    def __init__(self, note: Note, *, owned: bool = False) -> None:
        self._note = note
        self._owned = owned
        self._archives = 0
        self._left = _ALL_MAX

    def read(self, content: Readable, location: str) -> list[Package]:
        """The packages in an archive and in those within it.

        Raises:
            ImageError: it is damaged.
            OSError: it cannot be read.
        """
        return self._read(content, location, 0)

    def _read(self, content: Readable, location: str, depth: int) -> list[Package]:
        self._archives += 1
        parts = self._parts(content, location)
        found: list[Package] = []
        for member in parts.properties:
            package = self._by_properties(content, member, location)
            if package is not None:
                found.append(package)
        stem = _stem(location)
        if not any(_is_named(package, stem) for package in found):
            own = self._by_manifest(content, parts.manifest, stem, location)
            # A single Maven project is what the archive is, whatever its file is called.
            if own is not None and len(found) != 1:
                found.append(own)
            elif not found and not parts.inner and not self._owned:
                self._note(location, ImageError("says neither what it is nor its version"))
        for member in parts.inner:
            found.extend(self._inner(content, member, location, depth + 1))
        return found

    def _parts(self, content: Readable, location: str) -> _Parts:
        parts = _Parts()
        try:
            for member in zip_members(content):
                name = member.name
                if name.endswith("/pom.properties") and name.startswith("META-INF/maven/"):
                    parts.properties.append(member)
                elif name == "META-INF/MANIFEST.MF":
                    parts.manifest = member
                elif name.endswith(ARCHIVES_OF_JAVA):
                    parts.inner.append(member)
        except ImageError as error:
            if not (parts.properties or parts.manifest or parts.inner):
                raise
            self._note(location, error)
        return parts

    def _inner(
        self, content: Readable, member: ZipMember, location: str, depth: int
    ) -> list[Package]:
        place = f"{location}!/{printable(member.name)}"
        try:
            if depth > _DEPTH_MAX:
                raise ImageError(f"more than {_DEPTH_MAX} archives, one within the other: not read")  # noqa: TRY301 - told like the rest
            if self._archives >= _ARCHIVES_MAX:
                raise ImageError(f"more than {_ARCHIVES_MAX} archives in one file: not read")  # noqa: TRY301
            data = read_member(content, member, _INNER_MAX)
            self._left -= len(data)
            if self._left < 0:
                raise ImageError(f"more than {_ALL_MAX} bytes of archives in one file: not read")  # noqa: TRY301
            return self._read(Memory(data), place, depth)
        except ImageError as error:
            self._note(place, error)
            return []

    def _by_properties(self, content: Readable, member: ZipMember, location: str) -> Package | None:
        facts = self._facts(content, member, location, "=")
        group, artifact, version = (
            facts.get(name, "") for name in ("groupId", "artifactId", "version")
        )
        if not group or not artifact or not version:
            return None
        return _package(group, artifact, version, location)

    def _by_manifest(
        self, content: Readable, member: ZipMember | None, stem: str, location: str
    ) -> Package | None:
        facts = self._facts(content, member, location, ":") if member else {}
        match = _FILE_NAME.fullmatch(stem)
        artifact = match["name"] if match else stem
        version = match["version"] if match else ""
        for name in ("Implementation-Version", "Bundle-Version", "Specification-Version"):
            version = version or facts.get(name, "")
        if not version or (not match and not facts):
            return None
        return _package(_group(facts, artifact), artifact, version.split()[0], location)

    def _facts(
        self, content: Readable, member: ZipMember, location: str, between: str
    ) -> dict[str, str]:
        try:
            text = read_member(content, member, _TEXT_MAX).decode("utf-8", "replace")
        except ImageError as error:
            self._note(f"{location}!/{printable(member.name)}", error)
            return {}
        facts: dict[str, str] = {}
        # Long lines of a manifest go on after a space.
        for line in text.replace("\r\n", "\n").replace("\n ", "").split("\n"):
            if not line and between == ":":
                break  # what follows is about single files
            name, found, value = line.partition(between)
            if found and value.strip():
                facts.setdefault(name.strip(), value.strip())
        return facts


def _group(facts: dict[str, str], artifact: str) -> str:
    """The group that a manifest speaks of; "" when it does not."""
    vendor = facts.get("Implementation-Vendor-Id", "")
    if _GROUP.fullmatch(vendor):
        return vendor
    symbolic = facts.get("Bundle-SymbolicName", "").partition(";")[0]
    if not _GROUP.fullmatch(symbolic):
        return ""
    return (
        symbolic.removesuffix("." + artifact)
        if symbolic.endswith("." + artifact)
        else (symbolic.rpartition(".")[0])
    )


def _package(group: str, artifact: str, version: str, location: str) -> Package:
    return make_package(
        MAVEN,
        f"{group}:{artifact}" if group else artifact,
        version,
        location=location,
        namespace=group,
        purl_name=artifact,
    )


def _stem(location: str) -> str:
    name = location.rpartition("/")[2]
    for suffix in (*ARCHIVES_OF_JAVA, *_CLASSIFIERS):
        name = name.removesuffix(suffix)
    return name


def _is_named(package: Package, stem: str) -> bool:
    """Whether an archive's file is called as a package in it."""
    artifact = package.name.rpartition(":")[2]
    return stem in (artifact, f"{artifact}-{package.version}")
