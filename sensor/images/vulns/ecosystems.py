"""Where advisories and packages meet: names of ecosystems, and whose version order holds."""

from __future__ import annotations

import functools
import re
from collections.abc import Callable

from packaging.utils import canonicalize_name

from sensor.images.package import APK, DEB, OF_DISTRIBUTION, RPM, Distribution, Package
from sensor.images.vulns.keys import apk_key, deb_key, rpm_key
from sensor.images.vulns.language_keys import (
    gem_key,
    go_key,
    maven_key,
    nuget_key,
    pep440_key,
    semver_key,
)

_KEYS: dict[str, Callable[[str], bytes]] = {
    "Debian": deb_key, "Ubuntu": deb_key,
    "Alpine": apk_key, "Wolfi": apk_key, "Chainguard": apk_key,
    "AlmaLinux": rpm_key, "Rocky Linux": rpm_key, "Red Hat": rpm_key, "SUSE": rpm_key,
    "openSUSE": rpm_key, "openEuler": rpm_key, "Mageia": rpm_key, "Azure Linux": rpm_key,
    "Photon OS": rpm_key,
    "PyPI": pep440_key, "npm": semver_key, "crates.io": semver_key, "Go": go_key,
    "Hex": semver_key, "Pub": semver_key, "Maven": maven_key, "RubyGems": gem_key,
    "NuGet": nuget_key,
}  # fmt: skip
# Type of a package URL → ecosystem.
_LANGUAGES = {
    "pypi": "PyPI", "npm": "npm", "golang": "Go", "maven": "Maven", "cargo": "crates.io",
    "gem": "RubyGems", "nuget": "NuGet", "hex": "Hex", "pub": "Pub",
}  # fmt: skip
# Their advisories name binary packages; those of other distributions name source packages.
_BY_BINARY = ("AlmaLinux", "Red Hat", "openEuler")
CODENAMES = {
    "slink": "2.1", "potato": "2.2", "woody": "3.0",
    "sarge": "3.1", "etch": "4", "lenny": "5", "squeeze": "6", "wheezy": "7", "jessie": "8",
    "stretch": "9", "buster": "10", "bullseye": "11", "bookworm": "12", "trixie": "13",
    "forky": "14", "duke": "15", "sid": "sid",
}  # fmt: skip
_DISTRIBUTIONS = {
    "almalinux": "AlmaLinux", "rocky": "Rocky Linux", "rhel": "Red Hat", "centos": "Red Hat",
    "opensuse-leap": "openSUSE", "sles": "SUSE", "openeuler": "openEuler", "mageia": "Mageia",
    "azurelinux": "Azure Linux", "mariner": "Azure Linux", "photon": "Photon OS",
    "wolfi": "Wolfi", "chainguard": "Chainguard",
}  # fmt: skip
_ROLLING = ("Wolfi", "Chainguard")
_RELEASE = re.compile(r"\d+(?:\.\d+)*")


@functools.lru_cache(maxsize=4096)
def canonical_ecosystem(name: str) -> str:
    """One name for what feeds write differently.

    ``Ubuntu:22.04:LTS`` is ``Ubuntu:22.04``, ``Red Hat:enterprise_linux:9::baseos`` is
    ``Red Hat:9``; what is paid for (``Ubuntu:Pro:22.04:LTS``) stays apart.
    """
    base, _, rest = name.strip().partition(":")
    if base == "Ubuntu":
        return f"{base}:{rest.removesuffix(':LTS')}"
    if base == "Red Hat":
        parts = rest.split(":")
        found = _RELEASE.search(rest) if "enterprise_linux" in parts else None
        return f"{base}:{found.group().partition('.')[0]}" if found else f"{base}:{rest}"
    return f"{base}:{rest}" if rest else base


def key_of(ecosystem: str) -> Callable[[str], bytes] | None:
    """The order of an ecosystem's versions; None when they are not compared."""
    return _KEYS.get(ecosystem.partition(":")[0])


def canonical_name(ecosystem: str, name: str) -> str:
    """A package's name as it is looked up."""
    if ecosystem == "PyPI":
        return canonicalize_name(name)
    return name.lower() if ecosystem == "NuGet" else name


def of_distribution(distribution: Distribution | None) -> str:
    """The ecosystem of a distribution's own packages; "" when no feed is about it."""
    if distribution is None:
        return ""
    name, version = distribution.id, distribution.version_id
    if name == "debian":
        release = version.partition(".")[0] or CODENAMES.get(distribution.codename, "sid")
        return f"Debian:{release}"
    if name == "ubuntu":
        return f"Ubuntu:{version}"
    if name == "alpine":
        edge = _RELEASE.match(version) is None or "_alpha" in version
        return "Alpine:edge" if edge else "Alpine:v" + ".".join(version.split(".")[:2])
    base = _DISTRIBUTIONS.get(name, "")
    major, _, minor = version.partition(".")
    if not base or base in _ROLLING:
        return base
    if base == "SUSE":
        pack = f" SP{minor}" if minor and minor != "0" else ""
        return f"{base}:Linux Enterprise Server {major}{pack}"
    if base == "openSUSE":
        return f"{base}:Leap {version}"
    return f"{base}:{version if base in ('Photon OS', 'openEuler') else major}"


def of_purl_type(kind: str) -> str:
    """The ecosystem of a type of package URL that is a language's; "" when no feed is about it."""
    return _LANGUAGES.get(kind, "")


def look_up(package: Package, distribution: Distribution | None) -> tuple[str, str, str]:
    """Under which ecosystem, name and version advisories would name a package.

    Returns:
        The ecosystem is "" when no feed is about it.
    """
    if package.ecosystem not in OF_DISTRIBUTION:
        ecosystem = of_purl_type(package.ecosystem)
        return ecosystem, canonical_name(ecosystem, package.name), package.version
    ecosystem = of_distribution(distribution)
    expected = {DEB: deb_key, APK: apk_key, RPM: rpm_key}[package.ecosystem]
    if key_of(ecosystem) is not expected:
        return "", package.name, package.version
    if ecosystem.startswith(_BY_BINARY):
        return ecosystem, package.name, package.version
    return (
        ecosystem,
        package.source_name or package.name,
        package.source_version or package.version,
    )
