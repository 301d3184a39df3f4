"""Inventories as CycloneDX, written and read.

Source: CycloneDX 1.5's JSON schema. The format has no place for "which layer" or "which package
of the distribution brought this file"; they are properties with names of ours.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import orjson
from packageurl import PackageURL

from sensor import __version__
from sensor.errors import ImageError
from sensor.images.found import NAME_MAX
from sensor.images.inventory import PACKAGES_MAX, READER, identity
from sensor.images.omissions import printable
from sensor.images.package import (
    GOLANG,
    MAVEN,
    OF_DISTRIBUTION,
    Distribution,
    Inventory,
    Omission,
    Package,
)

_VERSION = "1.5"
_VERSIONS = ("1.2", "1.3", "1.4", "1.5", "1.6", "1.7")
_FILE_MAX = 128 << 20
_DEPTH_MAX = 32  # components within components
_PROPERTY = "rote:"
_WARNING = "rote:warning:"
_SOURCE_NAMES = ("rote:source:name", "aquasecurity:trivy:SrcName", "syft:metadata:source")
_SOURCE_VERSIONS = (
    "rote:source:version", "aquasecurity:trivy:SrcVersion", "syft:metadata:sourceVersion",
)  # fmt: skip
_LAYERS = ("rote:layer", "aquasecurity:trivy:LayerDiffID", "syft:location:0:layerID")
_LOCATIONS = ("rote:location", "aquasecurity:trivy:FilePath", "syft:location:0:path")


def write_cyclonedx(inventory: Inventory) -> dict[str, Any]:
    """An inventory as a CycloneDX document, to be written as JSON."""
    image = {
        "type": "container",
        "bom-ref": "image",
        "name": inventory.reference or inventory.image_id or "image",
        "version": inventory.image_id,
        "properties": _properties(
            {"image-id": inventory.image_id, "source": inventory.source}
            | {f"layer:{number}": layer for number, layer in enumerate(inventory.layers)}
        ),
    }
    components = [_component(package, ref) for ref, package in refs(inventory).items()]
    if inventory.distribution is not None:
        components.insert(0, _operating_system(inventory.distribution))
    document: dict[str, Any] = {
        "bomFormat": "CycloneDX",
        "specVersion": _VERSION,
        "serialNumber": f"urn:uuid:{identity(inventory)}",
        "version": 1,
        "metadata": {
            "timestamp": iso(inventory.read_ns),
            "tools": {
                "components": [{"type": "application", "name": "rote", "version": __version__}]
            },
            "component": image,
        },
        "components": components,
        # Whether all was found: an image with warnings is known in part.
        "compositions": [
            {
                "aggregate": "incomplete" if inventory.warnings else "complete",
                "assemblies": ["image"],
            }
        ],
    }
    if inventory.warnings:
        document["metadata"]["properties"] = [
            {"name": _WARNING + warning.location, "value": warning.reason}
            for warning in inventory.warnings
        ]
    return document


def refs(inventory: Inventory) -> dict[str, Package]:
    """The packages by a name that is unique in a document."""
    return {f"package-{number}": package for number, package in enumerate(inventory.packages)}


def iso(nanoseconds: int) -> str:
    """A time as documents have it, to the second."""
    return datetime.fromtimestamp(nanoseconds // 10**9, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def _operating_system(distribution: Distribution) -> dict[str, Any]:
    return {
        "type": "operating-system",
        "bom-ref": "distribution",
        "name": distribution.id,
        "version": distribution.version_id,
        **({"description": distribution.pretty} if distribution.pretty else {}),
        "properties": _properties(
            {"codename": distribution.codename, "id-like": " ".join(distribution.id_like)}
        ),
    }


def _component(package: Package, ref: str) -> dict[str, Any]:
    group, _, name = package.name.rpartition(":") if package.ecosystem == MAVEN else ("", "", "")
    component: dict[str, Any] = {
        "type": "library",
        "bom-ref": ref,
        **({"group": group} if group else {}),
        "name": name or package.name,
        "version": package.version,
        "purl": package.purl,
    }
    if package.location:
        component["evidence"] = {"occurrences": [{"location": package.location}]}
    of_source = package.ecosystem in OF_DISTRIBUTION
    component["properties"] = _properties(
        {
            "ecosystem": package.ecosystem,
            "arch": package.arch,
            "source:name": package.source_name if of_source else "",
            "source:version": package.source_version if of_source else "",
            "layer": package.layer,
            "owner": package.owner,
            "module": package.module,
        }
    )
    return component


def _properties(facts: Mapping[str, str]) -> list[dict[str, str]]:
    return [{"name": _PROPERTY + name, "value": value} for name, value in facts.items() if value]


# ---- reading ---------------------------------------------------------------------------------


def read_cyclonedx(path: Path, read_ns: int) -> Inventory:
    """The inventory that a CycloneDX document in JSON describes; Rote's own, Trivy's or Syft's.

    Args:
        path: of the document.
        read_ns: now, Unix time in nanoseconds.

    Raises:
        ImageError: it cannot be read, or is no such document.
    """
    try:
        if path.stat().st_size > _FILE_MAX:
            raise ImageError(f"{path}: more than {_FILE_MAX} bytes; no SBOM is that large")
        document = orjson.loads(path.read_bytes())
    except OSError as error:
        raise ImageError(f"{path}: {error.strerror}; expected an SBOM") from error
    except orjson.JSONDecodeError as error:
        raise ImageError(f"{path}: no JSON: {error}; expected an SBOM in CycloneDX") from error
    if not isinstance(document, dict) or document.get("bomFormat") != "CycloneDX":
        raise ImageError(f"{path}: no bomFormat CycloneDX; expected an SBOM in CycloneDX")
    version = document.get("specVersion")
    if version not in _VERSIONS:
        raise ImageError(
            f"{path}: CycloneDX {version!r}; expected {_VERSIONS[0]} to {_VERSIONS[-1]}"
        )
    return _Reading(document).inventory(read_ns)


class _Reading:
    """One document."""

    def __init__(self, document: Mapping[str, Any]) -> None:
        self._document = document
        self._warnings: dict[Omission, None] = {}
        self._distribution: Distribution | None = None
        self._packages: list[Package] = []

    def inventory(self, read_ns: int) -> Inventory:
        metadata = _mapping(self._document.get("metadata"))
        image = _mapping(metadata.get("component"))
        facts = _facts(image)
        self._add(self._document.get("components"), 0)
        if not self._packages:
            self._warn("", "the SBOM names no package")
        for entry in _sequence(metadata.get("properties")):
            name = _text(_mapping(entry).get("name"))
            if name.startswith(_WARNING):
                self._warn(name.removeprefix(_WARNING), _text(entry.get("value")))
        layers = [value for name, value in facts.items() if name.startswith("rote:layer:")]
        return Inventory(
            facts.get("rote:image-id")
            or facts.get("aquasecurity:trivy:ImageID")
            or (_text(image.get("version")) if _is_digest(_text(image.get("version"))) else ""),
            self._distribution,
            tuple(sorted(set(self._packages))),
            tuple(sorted(self._warnings)),
            _text(image.get("name")),
            "SBOM",
            tuple(layers),
            reader=READER,
            read_ns=read_ns,
        )

    def _warn(self, location: str, reason: str) -> None:
        self._warnings[Omission(location, reason)] = None

    def _add(self, components: Any, depth: int) -> None:
        if depth > _DEPTH_MAX:
            self._warn("", f"components more than {_DEPTH_MAX} deep: left out")
            return
        for entry in _sequence(components):
            component = _mapping(entry)
            if len(self._packages) >= PACKAGES_MAX:
                self._warn("", f"more than {PACKAGES_MAX} packages: the rest is left out")
                return
            if component.get("type") == "operating-system":
                self._distribution = _distribution(component)
            elif component.get("purl"):
                self._package(component)
            elif component.get("type") in ("library", "framework", "application") and (
                not component.get("components") and component.get("version")
            ):
                self._warn(_text(component.get("name")), "has no package URL: left out")
            self._add(component.get("components"), depth + 1)

    def _package(self, component: Mapping[str, Any]) -> None:
        text = _text(component["purl"])
        try:
            purl = PackageURL.from_string(text)
        except ValueError as error:
            self._warn(
                _text(component.get("name")), f"package URL {text[:80]!r}: {error}; left out"
            )
            return
        facts = _facts(component)
        version = _text(purl.version)
        qualifiers = _mapping(purl.qualifiers)
        epoch = _text(qualifiers.get("epoch"))
        if epoch and epoch != "0" and ":" not in version:
            version = f"{epoch}:{version}"
        name = _name(purl)
        occurrences = _sequence(_mapping(component.get("evidence")).get("occurrences"))
        location = _text(_mapping(occurrences[0]).get("location")) if occurrences else ""
        source_version = _first(facts, _SOURCE_VERSIONS) or version
        if release := facts.get("aquasecurity:trivy:SrcRelease"):
            source_version = f"{source_version}-{release}"
        if source_epoch := facts.get("aquasecurity:trivy:SrcEpoch"):
            source_version = f"{source_epoch}:{source_version}"
        self._packages.append(
            Package(
                purl.type,
                name,
                version,
                _first(facts, _SOURCE_NAMES) or _text(qualifiers.get("upstream")) or name,
                source_version,
                _text(qualifiers.get("arch")),
                text,
                location or _first(facts, _LOCATIONS),
                _first(facts, _LAYERS),
                owner=facts.get("rote:owner", ""),
                module=facts.get("rote:module", ""),
            )
        )


def _name(purl: PackageURL) -> str:
    """A package's name as advisories call it."""
    name, namespace = _text(purl.name), _text(purl.namespace)
    if not namespace or purl.type in OF_DISTRIBUTION:
        return name
    if purl.type == MAVEN:
        return f"{namespace}:{name}"
    path = f"{namespace}/{name}"
    return f"{path}/{purl.subpath}" if purl.type == GOLANG and purl.subpath else path


def _distribution(component: Mapping[str, Any]) -> Distribution | None:
    facts = _facts(component)
    name = _text(component.get("name")).lower()
    if not name:
        return None
    return Distribution(
        name,
        _text(component.get("version")),
        facts.get("rote:codename", ""),
        _text(component.get("description")),
        tuple(facts.get("rote:id-like", "").split()),
    )


def _facts(component: Mapping[str, Any]) -> dict[str, str]:
    return {
        _text(entry.get("name")): _text(entry.get("value"))
        for entry in map(_mapping, _sequence(component.get("properties")))
    }


def _first(facts: Mapping[str, str], names: tuple[str, ...]) -> str:
    return next((facts[name] for name in names if facts.get(name)), "")


def _is_digest(text: str) -> bool:
    return text.startswith("sha256:")


def _text(value: Any) -> str:
    return printable(value[:NAME_MAX]) if isinstance(value, str) else ""


def _mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}


def _sequence(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []
