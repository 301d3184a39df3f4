"""Which package of the distribution brought a file."""

from __future__ import annotations

import re
from collections.abc import Iterable

from sensor.errors import ImageError
from sensor.images.found import may_run
from sensor.images.omissions import printable
from sensor.images.tree import Kind, Tree

# Links to /usr/bin and so on in distributions of today; their packages' lists have both forms.
_MERGED = ("bin", "sbin", "lib", "lib32", "lib64", "libx32", "usr/sbin", "usr/lib64")

_OWNED_MAX = 2_000_000  # files of all packages; large images have 500,000
_RUNNABLE_MAX = 10_000  # programs and libraries of one package; the largest genuine have 1,000


class Owners:
    """The files of the distribution's packages, by their paths without links in front.

    Args:
        tree: the image.
    """

    def __init__(self, tree: Tree) -> None:
        self._tree = tree
        self._owners: dict[str, str] = {}
        self._moved: dict[str, str] = {}
        for name in _MERGED:
            parent, _, last = name.rpartition("/")
            entry = tree.directory(parent).get(last)
            if entry is None or entry.node.kind is not Kind.SYMLINK:
                continue
            try:
                found = tree.find(name)
            except ImageError:
                continue  # a circle, which whoever wants a file there will be told of
            if found is not None:
                self._moved[f"/{name}/"] = f"/{found.path}/"
        self._linked = re.compile("|".join(map(re.escape, self._moved))) if self._moved else None

    def add(self, package: str, paths: Iterable[str]) -> tuple[str, ...]:
        """Note the files of a package; those among them that may run.

        Args:
            package: its name.
            paths: absolute, as its list has them.
        """
        runnable: list[str] = []
        for path in paths:
            if len(self._owners) >= _OWNED_MAX:
                self._tree.omissions.add("", f"more than {_OWNED_MAX} files of packages")
                break
            real = self.real(path)
            self._owners[real] = package
            if may_run(real) and len(runnable) < _RUNNABLE_MAX:
                runnable.append(printable(real))
        return tuple(runnable)

    def of(self, path: str) -> str:
        """The package that brought a file; "" when none did."""
        return self._owners.get(path, "")

    def real(self, path: str) -> str:
        """A path of a package's list as it is without links to /usr in front."""
        match = self._linked.match(path) if self._linked else None
        return self._moved[match[0]] + path[match.end() :] if match else path
