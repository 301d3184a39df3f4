"""Digests of executed files, for rules that name programs by their content."""

from __future__ import annotations

import hashlib
import logging
import os
import stat
from collections import OrderedDict
from pathlib import Path

from sensor.events import Event
from sensor.models.keys import ExecKey
from sensor.models.model import Model
from sensor.rules.rule import Rule

_log = logging.getLogger("rote.digests")
_REMEMBERED = 4096
_BYTES_MAX = 256 << 20
_Key = tuple[int, int, int, int]  # device, inode, size, change time


class Digests:
    """SHA-256 of files in containers; remembered by inode and change time.

    A file is read whole, in the loop: only rules that name a digest ask for it.
    """

    def __init__(self) -> None:
        self._known: OrderedDict[_Key, str] = OrderedDict()
        self._of_images: dict[tuple[str, str], str] = {}  # image and path → digest

    def of_event(self, event: Event) -> str:
        """The digest of what was executed; empty when it cannot be read (any more)."""
        if event.action == "none" and (digest := self.of_file(Path(f"/proc/{event.pid}/exe"))):
            return digest
        return self._in_root(event.pid, event.path)

    def _in_root(self, pid: int, path: str) -> str:
        # Components may be links that lead out of the container: none is followed.
        root = Path(f"/proc/{pid}/root")
        at = root
        for part in path.split("/"):
            at = at / part
            try:
                if at != root and at.is_symlink():
                    return ""
            except OSError:
                return ""
        return self.of_file(at)

    def of_file(self, path: Path) -> str:
        """The digest of a regular file; empty when it cannot be read or is too large."""
        try:
            fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        except OSError:
            return ""
        with os.fdopen(fd, "rb") as file:
            found = os.fstat(file.fileno())
            if not stat.S_ISREG(found.st_mode) or found.st_size > _BYTES_MAX:
                return ""
            key = found.st_dev, found.st_ino, found.st_size, found.st_ctime_ns
            if (known := self._known.get(key)) is not None:
                return known
            try:
                digest = hashlib.file_digest(file, "sha256").hexdigest()
            except OSError as error:
                _log.warning("%s: cannot be read: %s", path, error.strerror)
                return ""
        self._known[key] = digest
        if len(self._known) > _REMEMBERED:
            self._known.popitem(last=False)
        return digest

    def denied_programs(self, model: Model, rule: Rule, pid: int) -> set[str]:
        """Paths of the model's programs whose content the rule denies.

        They can be looked up while a container runs; what was found stays, as an image's files do.

        Args:
            model: whose programs.
            rule: that counts.
            pid: a process of a container of the model's image; 0: none runs.
        """
        denied = {match.sha256 for match in rule.lists.deny_programs if match.sha256}
        if not denied:
            return set()
        paths = {key.program.path for key in model.keys if isinstance(key, ExecKey)}
        found: set[str] = set()
        for path in paths:
            name = model.image.identity, path
            known = name in self._of_images
            if pid and not known and (digest := self._in_root(pid, path)):
                self._of_images[name] = digest
            if self._of_images.get(name) in denied:
                found.add(path)
        return found
