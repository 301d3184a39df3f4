"""What the gate's programs find when nobody answers: small files that the daemon wrote before.

``RUN_DIR/gate/ID`` for one container, ``RUN_DIR/gate/default`` for all others; each is one line,
``allow SECONDS RULE`` or ``deny SECONDS RULE``, or ``barred MESSAGE`` of a container that was taken
out of service. gate.c reads them.
"""

from __future__ import annotations

import contextlib
import logging
import os
import re
from collections import OrderedDict
from pathlib import Path

from sensor.errors import StateError
from sensor.images.admission.start import Failure

_log = logging.getLogger("rote.gate")
_ID = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,254}")
_FILES_MAX = 4096
_DEFAULT = "default"
SECONDS_MAX = 280.0  # the runtimes' own limit is 300


class FailureFiles:
    """The files of one daemon. What an earlier one wrote is gone once ``start`` returns.

    Args:
        run_dir: of the daemon.
        limit: of files; of more, the oldest goes, and the default counts for its container.
    """

    def __init__(self, run_dir: Path, *, limit: int = _FILES_MAX) -> None:
        self._directory = run_dir / "gate"
        self._limit = limit
        self._written: OrderedDict[str, Failure] = OrderedDict()
        self._default: Failure | None = None
        self._barred: set[str] = set()

    def start(self, default: Failure) -> None:
        """Make the directory, write the default, forget what was.

        Raises:
            StateError: it cannot be written.
        """
        try:
            self._directory.mkdir(mode=0o700, parents=True, exist_ok=True)
            self.set_default(default)
            for path in self._directory.iterdir():
                if path.name != _DEFAULT:
                    path.unlink()
        except OSError as error:
            raise StateError(f"{error.filename or self._directory}: {error.strerror}") from error
        self._written.clear()
        self._barred.clear()

    def set_default(self, failure: Failure) -> None:
        """What counts for containers that have no file of their own.

        Raises:
            OSError: it cannot be written.
        """
        if failure != self._default:
            self._write(_DEFAULT, failure)
            self._default = failure

    def put(self, container_id: str, failure: Failure) -> None:
        """What counts for one container. Not more than a log line when it cannot be written."""
        if not _ID.fullmatch(container_id) or container_id == _DEFAULT:
            return
        if container_id in self._barred or self._written.get(container_id) == failure:
            return
        try:
            self._write(container_id, failure)
        except OSError as error:
            _log.error("%s/%s: %s", self._directory, container_id, error.strerror)
            return
        self._written[container_id] = failure
        self._written.move_to_end(container_id)
        while len(self._written) > self._limit:
            self.remove(next(iter(self._written)))

    def remove(self, container_id: str) -> None:
        """A container is no more."""
        if self._written.pop(container_id, None) is not None:
            with contextlib.suppress(FileNotFoundError):
                (self._directory / container_id).unlink()

    def bar(self, container_id: str, message: str) -> None:
        """A container was taken out of service: its start is refused, whether we live or not."""
        if not _ID.fullmatch(container_id) or container_id == _DEFAULT:
            return
        try:
            self._put(container_id, f"barred {' '.join(message.split())[:1000]}")
        except OSError as error:
            _log.error("%s/%s: %s", self._directory, container_id, error.strerror)
            return
        self._written.pop(container_id, None)
        self._barred.add(container_id)

    def unbar(self, container_id: str) -> None:
        """It may start again, as others do."""
        if container_id in self._barred:
            self._barred.discard(container_id)
            with contextlib.suppress(FileNotFoundError):
                (self._directory / container_id).unlink()

    def _write(self, name: str, failure: Failure) -> None:
        word = "allow" if failure.allow else "deny"
        seconds = min(max(failure.seconds, 0.1), SECONDS_MAX)
        rule = " ".join(failure.rule.split())[:200]
        self._put(name, f"{word} {seconds:.3f} {rule}")

    def _put(self, name: str, line: str) -> None:
        fresh = self._directory / f".{name}"
        fd = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        with os.fdopen(fd, "w", encoding="utf-8") as file:
            file.write(f"{line}\n")
        fresh.replace(self._directory / name)
