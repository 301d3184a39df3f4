"""What readers give back, and what they have in common."""

from __future__ import annotations

import re
from collections.abc import Mapping

from packageurl import PackageURL

from sensor.images.omissions import printable
from sensor.images.package import Distribution, Package

NAME_MAX = 1024  # of a name or a version; longer ones are rubbish
_RUNNABLE = re.compile(r"/(?:s?bin|libexec|games)/|\.so(?:\.[^/]*)?$")


def make_package(
    ecosystem: str,
    name: str,
    version: str,
    *,
    source_name: str = "",
    source_version: str = "",
    arch: str = "",
    location: str = "",
    files: tuple[str, ...] = (),
    module: str = "",
    namespace: str = "",
    purl_name: str = "",
    purl_version: str = "",
    qualifiers: Mapping[str, str] | None = None,
) -> Package:
    """A package with its URL.

    Args:
        ecosystem: see ``Package``, as for what is not named here.
        name: likewise; the beginning of it counts.
        version: likewise.
        source_name: likewise; the same as ``name`` by default.
        source_version: likewise; the same as ``version`` by default.
        arch: likewise.
        location: likewise.
        files: likewise.
        module: likewise.
        namespace: of the package URL.
        purl_name: where the package URL calls it otherwise than ``name``.
        purl_version: the same for ``version``.
        qualifiers: of the package URL; empty ones are left out.
    """
    name, version = printable(name[:NAME_MAX]), printable(version[:NAME_MAX])
    purl = PackageURL(
        type=ecosystem,
        namespace=printable(namespace) or None,
        name=printable(purl_name) or name,
        version=printable(purl_version) or version or None,
        qualifiers={key: printable(value) for key, value in (qualifiers or {}).items() if value},
    ).to_string()
    return Package(
        ecosystem,
        name,
        version,
        printable(source_name[:NAME_MAX]) or name,
        printable(source_version[:NAME_MAX]) or version,
        printable(arch),
        purl,
        printable(location),
        files=files,
        module=printable(module),
    )


def distro_qualifier(distribution: Distribution | None) -> dict[str, str]:
    """What a package URL says of the distribution: ``debian-12``."""
    if distribution is None:
        return {}
    release = distribution.version_id or distribution.codename
    return {"distro": f"{distribution.id}-{release}" if release else distribution.id}


def may_run(path: str) -> bool:
    """Whether a file that a package owns may be a program or a shared library, by its path.

    Args:
        path: absolute.
    """
    return _RUNNABLE.search(path) is not None
