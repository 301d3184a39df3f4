"""What became of an attack: what audits and container say, and what that is called."""

from __future__ import annotations

import enum
import fnmatch
import io
import os
import stat
import tarfile
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

from tests.attacks.table import Attack, Effect, Expected, Row
from tests.docker.client import Running


class Mode(enum.StrEnum):
    """Whether Rote only tells or also refuses."""

    ALERT = "alert"
    PREVENT = "prevent"


class Verdict(enum.StrEnum):
    """What Rote made of an attack."""

    CAUGHT = "caught"  # told within two seconds, and it had its effect
    REFUSED = "refused"  # no effect, by EPERM; the service goes on
    KILLED = "killed"  # no effect, by the end of who tried; the service goes on
    DOWN = "down"  # no effect, and no service any more
    MISSED = "missed"  # nobody was told
    BROKEN = "broken"  # it proves nothing: it works nowhere, or the service did not start


_PREVENTED = (Verdict.REFUSED, Verdict.KILLED)
# Verdicts that are as good as what is expected under prevention, where nothing can be denied.
_GOOD_ENOUGH = {
    Expected.PREVENTED: _PREVENTED,
    Expected.SEEN: (*_PREVENTED, Verdict.CAUGHT),
    Expected.DOWN: (*_PREVENTED, Verdict.DOWN),
    Expected.MISSED: tuple(Verdict),
}


@dataclass(slots=True)
class Result:
    """One attack, done."""

    attack: Attack
    mode: Mode
    said: str = ""
    effect: bool = False  # it had it
    answers: bool = True  # the service does, afterwards
    audits: list[dict[str, Any]] = field(default_factory=list)  # since the attack began
    before: list[dict[str, Any]] = field(default_factory=list)  # audits of normal use: false ones
    started: bool = True  # the service answered before the attack

    @property
    def naming(self) -> list[dict[str, Any]]:
        """The audits that name what the attack did."""
        return [audit for audit in self.audits if names(self.attack.row, audit)]

    @property
    def verdict(self) -> Verdict:
        """What is to be called what happened."""
        row = self.attack.row
        if not self.started:
            return Verdict.BROKEN
        if self.mode is Mode.ALERT:
            if not row.attempt and not self.effect:
                return Verdict.BROKEN
            return Verdict.CAUGHT if self.naming else Verdict.MISSED
        if self.effect:
            return Verdict.CAUGHT if self.naming else Verdict.MISSED
        outcomes = {str(audit["outcome"]) for audit in self.audits}
        if not outcomes & {"denied", "killed"}:
            return Verdict.CAUGHT if self.naming else Verdict.MISSED
        if not self.answers:
            return Verdict.DOWN
        return Verdict.REFUSED if "denied" in outcomes else Verdict.KILLED

    def is_good(self, guarantee: str) -> bool:
        """Whether that is what was expected, or better.

        Args:
            guarantee: what the host can do: "deny", "kill" or "detect".
        """
        verdict = self.verdict
        expected = self.attack.expected
        if expected is Expected.MISSED:
            return verdict is not Verdict.BROKEN
        if self.mode is Mode.ALERT:
            return verdict is Verdict.CAUGHT
        if guarantee == "deny":
            return verdict in _PREVENTED
        return verdict in _GOOD_ENOUGH[expected]

    @property
    def is_better(self) -> bool:
        """Whether it is told though the table explains why it is not."""
        return self.attack.expected is Expected.MISSED and self.verdict not in (
            Verdict.MISSED,
            Verdict.BROKEN,
        )


def names(row: Row, audit: dict[str, Any]) -> bool:
    """Whether an audit names the program or path of an attack, in the type that is asked for."""
    if row.types and audit["type"] not in [str(audit_type) for audit_type in row.types]:
        return False
    said = [str(audit[part]) for part in ("program", "path", "path2") if audit[part]]
    return any(fnmatch.fnmatchcase(text, glob) for text in said for glob in row.names)


def has_effect(effect: Effect, said: str, container: Running, root: Path) -> bool:
    """Whether all that shows an attack's effect is there; False when nothing is looked at.

    Args:
        effect: what to look at.
        said: what the attack printed.
        container: where to look; from outside, so that looking is no session.
        root: of its first process, in /proc; not there any more when the container ended.
    """
    if effect.is_empty:
        return False
    files = _Files(container, root if root.exists() else None)
    return (
        effect.says in said
        and (not effect.exists or files.status(effect.exists) is not None)
        and (not effect.gone or files.status(effect.gone) is None)
        and all(text in files.text(path) for path, text in effect.contains.items())
        and not any(text in files.text(path) for path, text in effect.lacks.items())
        and (not effect.empty or files.size(effect.empty) == 0)
        and all(files.mode(path) & int(bits, 8) for path, bits in effect.mode.items())
        and all(files.modified(path) == when for path, when in effect.modified.items())
    )


class _Files:
    """The files of a container, running or not, without going into it."""

    def __init__(self, container: Running, root: Path | None) -> None:
        self._container = container
        self._root = root

    def status(self, path: str) -> tarfile.TarInfo | os.stat_result | None:
        """Of the path itself, links not followed; None when there is nothing."""
        if self._root is not None:
            try:
                return (self._root / path.lstrip("/")).lstat()
            except OSError:
                return None
        found = self._copied(path)
        return found[0] if found else None

    def text(self, path: str) -> str:
        """Content of a file; empty when there is none."""
        if self._root is not None:
            try:
                file = self._root / path.lstrip("/")
                return "" if file.is_symlink() else file.read_text(errors="replace")
            except OSError:
                return ""
        found = self._copied(path)
        return found[1].decode(errors="replace") if found else ""

    def size(self, path: str) -> int:
        """Of a file; -1 when there is none."""
        status = self.status(path)
        if status is None:
            return -1
        return status.size if isinstance(status, tarfile.TarInfo) else status.st_size

    def mode(self, path: str) -> int:
        """Its permissions; 0 when there is none."""
        status = self.status(path)
        if status is None:
            return 0
        return status.mode if isinstance(status, tarfile.TarInfo) else stat.S_IMODE(status.st_mode)

    def modified(self, path: str) -> int:
        """When it was changed, epoch seconds; -1 when there is none."""
        status = self.status(path)
        if status is None:
            return -1
        return int(status.mtime if isinstance(status, tarfile.TarInfo) else status.st_mtime)

    def _copied(self, path: str) -> tuple[tarfile.TarInfo, bytes] | None:
        archive = self._container.copy_out(path)
        if not archive:
            return None
        with tarfile.open(fileobj=io.BytesIO(archive)) as files:
            entry = files.getmember(PurePosixPath(path).name)
            file = files.extractfile(entry) if entry.isfile() else None
            return entry, file.read() if file else b""
