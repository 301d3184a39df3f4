"""Node's packages: package.json of each installed module.

Source: npm's package.json(5) and folders(5).
"""

from __future__ import annotations

import orjson

from sensor.errors import ImageError
from sensor.images.found import make_package
from sensor.images.package import NPM, Package
from sensor.images.tree import Found, Tree

_MAX = 4 << 20  # of a package.json; the largest genuine ones have 200 kB


def read_node(tree: Tree, found: Found) -> list[Package]:
    """The module that a package.json tells of.

    Raises:
        ImageError: it cannot be read, or names no module.
    """
    try:
        facts = orjson.loads(tree.read(found, _MAX))
    except orjson.JSONDecodeError as error:
        raise ImageError(f"no JSON: {error}; left out") from error
    name, version = (
        (facts.get("name"), facts.get("version")) if isinstance(facts, dict) else (None, None)
    )
    if not isinstance(name, str) or not isinstance(version, str) or not name or not version:
        raise ImageError("package.json without name and version: left out")
    scope, _, rest = name.rpartition("/")
    return [
        make_package(NPM, name, version, location="/" + found.path, namespace=scope, purl_name=rest)
    ]
