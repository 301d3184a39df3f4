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
_Signature = tuple[tuple[str, int, int, int], ...]


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
        self._seen: _Signature = ()

    @property
    def policy(self) -> Policy:
        """What holds now."""
        return replace(self._base, rules=self.rules.rules)

    def reload(self) -> RuleSet:
        """Read the files again.

        Raises:
            BadInputError: one is bad; what held before holds on.
        """
        self._seen = self._signature()
        try:
            self.rules = read_rules(self.path)
        except BadInputError as error:
            self.error = str(error)
            raise
        self.error = ""
        return self.rules

    def changed(self) -> bool:
        """Whether the files are others than when they were last read."""
        return self._signature() != self._seen

    def _signature(self) -> _Signature:
        """Names, times and sizes: cheap enough for every other second."""
        found = []
        try:
            files = list_yaml(self.path)
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
