"""The rules that hold: read at start, read again when the files change, never half of them."""

from __future__ import annotations

import logging
from dataclasses import replace
from pathlib import Path

from sensor.errors import BadInputError
from sensor.rules.files import RuleSet, read_rules
from sensor.rules.policy import Policy
from sensor.yamlfiles import list_yaml

_log = logging.getLogger("rote.rules")
Signature = tuple[tuple[str, int, int, int], ...]


class RuleKeeper:
    """Keeps a policy equal to a directory of rule files.

    Args:
        path: the directory, or one file.
        base: what the command line says; the rules of the files are put into it.
    """

    def __init__(self, path: Path, base: Policy) -> None:
        self.path = path
        self.rules = RuleSet()
        self.error = ""  # why the files as they are now do not hold; empty: they do
        self._base = base
        self._seen: Signature = ()

    @property
    def policy(self) -> Policy:
        """What holds now."""
        return replace(self._base, rules=self.rules.rules)

    def reload(self) -> RuleSet:
        """Read the files again.

        Raises:
            BadInputError: one is bad; what held before holds on.
        """
        self._seen = signature(self.path)
        try:
            self.rules = read_rules(self.path)
        except BadInputError as error:
            self.error = str(error)
            raise
        self.error = ""
        return self.rules

    def status(self) -> dict[str, object]:
        """What holds, and why the files as they are now do not."""
        found = self.rules
        return {
            "path": str(self.path),
            "count": len(found.rules) + len(found.image_rules),
            "error": self.error,
        }

    def changed(self) -> bool:
        """Whether the files are others than when they were last read."""
        return signature(self.path) != self._seen


def signature(path: Path) -> Signature:
    """What tells a state of YAML files from another: names, times and sizes.

    Cheap enough for every other second.
    """
    found = []
    try:
        files = list_yaml(path)
    except BadInputError as error:
        return ((str(error), 0, 0, 0),)
    for file in files:
        try:
            status = file.stat()
        except OSError as error:
            found.append((str(file), -(error.errno or 0), 0, 0))
        else:
            found.append((str(file), status.st_mtime_ns, status.st_size, status.st_ino))
    return tuple(found)
