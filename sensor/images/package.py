"""What is found in an image: packages, the distribution, and what could not be read."""

from __future__ import annotations

from dataclasses import dataclass, field

# Types of package URLs. An inventory that was read from somebody's SBOM may have others.
DEB, APK, RPM = "deb", "apk", "rpm"
PYPI, NPM, GOLANG, MAVEN, CARGO = "pypi", "npm", "golang", "maven", "cargo"
OF_DISTRIBUTION = frozenset({DEB, APK, RPM})


@dataclass(frozen=True, slots=True, order=True)
class Package:
    """One package at one place in an image.

    Attributes:
        ecosystem: the type of its package URL, such as ``deb`` or ``pypi``.
        name: as advisories call it: PyPI's normalised, Maven's ``group:artifact``, npm's with its
            ``@scope/``, Go's module path (``stdlib`` for Go itself).
        version: as the ecosystem writes it: Debian's and RPM's with an epoch where it is not 0 and
            with the revision or release (``1:2.3-4``), Go's with its ``v``. "" when not known.
        source_name: of the source package, which advisories of distributions are about; for
            others the same as the name.
        source_version: of the source package; for others the same as the version.
        arch: as the ecosystem calls it, ``all`` and ``noarch`` included; "" when it has none.
        purl: the package URL.
        location: path in the image of the file that told of it; "" when an SBOM did not say.
            Within archives ``/app/a.war!/WEB-INF/lib/b.jar``.
        layer: diff id (``sha256:…``) of the layer that holds the location; "" when not known,
            as from a merged root.
        files: paths in the image of what may run or be loaded: programs, shared libraries, the
            binary itself; empty when not known.
        owner: name of the distribution's package that brought the location, "" for none. Of such
            a package the distribution's advisories speak: it mends without changing the version.
        module: of RPM, the stream that it was built in (``nodejs:18:…``); "" for none.
    """

    ecosystem: str
    name: str
    version: str
    source_name: str = ""
    source_version: str = ""
    arch: str = ""
    purl: str = ""
    location: str = ""
    layer: str = ""
    files: tuple[str, ...] = ()
    owner: str = ""
    module: str = ""


@dataclass(frozen=True, slots=True)
class Distribution:
    """What /etc/os-release says, in its own words.

    Attributes:
        id: ``debian``, ``alpine``, ``almalinux``; never empty.
        version_id: ``12``, ``3.19.1``; "" for a rolling or testing one.
        codename: ``bookworm``; "" when it has none.
        pretty: for people: ``Debian GNU/Linux 12 (bookworm)``.
        id_like: the distributions that it says it descends from, nearest first.
    """

    id: str
    version_id: str = ""
    codename: str = ""
    pretty: str = ""
    id_like: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, order=True)
class Omission:
    """Something that is in the image, or should be, and is not in the inventory.

    Attributes:
        location: path in the image, or the archive's; "" for the whole image.
        reason: one line.
    """

    location: str
    reason: str

    def __str__(self) -> str:
        return f"{self.location}: {self.reason}" if self.location else self.reason


@dataclass(frozen=True, slots=True)
class Inventory:
    """The packages of one image.

    Attributes:
        image_id: ``sha256:…`` of the image's configuration, as Docker calls an image; "" for a
            plain directory.
        distribution: None when the image does not say what it is (``FROM scratch``).
        packages: sorted; the same package at two places is there twice.
        warnings: what was left out, and why. Empty means that all was read.
        reference: what a person calls the image; may be "".
        source: what was read: ``docker archive``, ``OCI layout``, ``overlay``, ``root``, ``SBOM``.
        layers: diff ids, lowest first; empty when not known.
        files: entries of the file system that were looked at.
        reader: version of Rote's readers that made it (``inventory.READER``).
        read_ns: when, Unix time in nanoseconds.
        seconds: how long that took.
        final: whether another reading would find the same. Not so when time ran out, the image was
            removed meanwhile, or the disk or a permission failed; such a reading is not kept.
    """

    image_id: str
    distribution: Distribution | None
    packages: tuple[Package, ...]
    warnings: tuple[Omission, ...] = ()
    reference: str = ""
    source: str = ""
    layers: tuple[str, ...] = ()
    files: int = 0
    reader: int = 0
    read_ns: int = field(default=0, compare=False)
    seconds: float = field(default=0.0, compare=False)
    final: bool = True
