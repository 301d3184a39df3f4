"""Inventories as SPDX 2.3. Source: its specification and JSON schema."""

from __future__ import annotations

from typing import Any

from sensor import __version__
from sensor.images.cyclonedx import iso, refs
from sensor.images.inventory import identity
from sensor.images.package import OF_DISTRIBUTION, Inventory, Package

_NONE = "NOASSERTION"


def write_spdx(inventory: Inventory) -> dict[str, Any]:
    """An inventory as an SPDX document, to be written as JSON."""
    name = inventory.reference or inventory.image_id or "image"
    packages = refs(inventory)
    image: dict[str, Any] = {
        "SPDXID": "SPDXRef-image",
        "name": name,
        "downloadLocation": _NONE,
        "filesAnalyzed": False,
        "primaryPackagePurpose": "CONTAINER",
    }
    if inventory.image_id:
        image["versionInfo"] = inventory.image_id
    described = [image]
    if (distribution := inventory.distribution) is not None:
        described.append(
            {
                "SPDXID": "SPDXRef-distribution",
                "name": distribution.id,
                "versionInfo": distribution.version_id or distribution.codename or _NONE,
                "downloadLocation": _NONE,
                "filesAnalyzed": False,
                "primaryPackagePurpose": "OPERATING-SYSTEM",
                **({"summary": distribution.pretty} if distribution.pretty else {}),
            }
        )
    described += [_package(package, ref) for ref, package in packages.items()]
    relations = [
        {
            "spdxElementId": "SPDXRef-DOCUMENT",
            "relationshipType": "DESCRIBES",
            "relatedSpdxElement": "SPDXRef-image",
        }
    ]
    relations += [
        {
            "spdxElementId": "SPDXRef-image",
            "relationshipType": "CONTAINS",
            "relatedSpdxElement": entry["SPDXID"],
        }
        for entry in described[1:]
    ]
    when = iso(inventory.read_ns)
    return {
        "spdxVersion": "SPDX-2.3",
        "dataLicense": "CC0-1.0",
        "SPDXID": "SPDXRef-DOCUMENT",
        "name": name,
        "documentNamespace": f"urn:uuid:{identity(inventory)}",
        "creationInfo": {"created": when, "creators": [f"Tool: rote-{__version__}"]},
        **(
            {"comment": "Left out:\n" + "\n".join(map(str, inventory.warnings))}
            if inventory.warnings
            else {}
        ),
        "packages": described,
        "relationships": relations,
    }


def _package(package: Package, ref: str) -> dict[str, Any]:
    entry: dict[str, Any] = {
        "SPDXID": f"SPDXRef-{ref}",
        "name": package.name,
        "downloadLocation": _NONE,
        "filesAnalyzed": False,
        "externalRefs": [
            {
                "referenceCategory": "PACKAGE-MANAGER",
                "referenceType": "purl",
                "referenceLocator": package.purl,
            }
        ],
    }
    if package.version:
        entry["versionInfo"] = package.version
    if package.ecosystem in OF_DISTRIBUTION:
        entry["sourceInfo"] = f"built from {package.source_name} {package.source_version}"
    if package.location:
        layer = f" in layer {package.layer}" if package.layer else ""
        entry["comment"] = f"found by {package.location}{layer}"
    return entry
