"""How often each rule decided, and when last."""

from __future__ import annotations

import logging
from dataclasses import asdict, dataclass, field
from pathlib import Path

import orjson

_log = logging.getLogger("rote.rules")


@dataclass(slots=True)
class Hit:
    """What one rule decided."""

    count: int = 0
    last_ns: int = 0
    detections: dict[str, int] = field(default_factory=dict)


class Hits:
    """Counts by the rules' names; kept in a file, which a crash may leave a few seconds behind.

    Args:
        path: of the file; None: in memory only.
    """

    def __init__(self, path: Path | None = None) -> None:
        self._path = path
        self._hits: dict[str, Hit] = {}
        self._changed = False
        if path is not None and path.exists():
            try:
                rows = orjson.loads(path.read_bytes())
                self._hits = {name: Hit(**row) for name, row in rows.items()}
            except (OSError, ValueError, TypeError, AttributeError) as error:
                # Only counts: worth a word, not worth a daemon that does not start.
                _log.warning("%s: cannot be read (%s); rules are counted anew", path, error)

    def count(self, rule: str, what: str, time_ns: int) -> None:
        """A rule decided about something.

        Args:
            rule: its name.
            what: a kind of deviation, or what was found of an image.
            time_ns: when, nanoseconds since the epoch.
        """
        hit = self._hits.setdefault(rule, Hit())
        hit.count += 1
        hit.last_ns = max(hit.last_ns, time_ns)
        hit.detections[what] = hit.detections.get(what, 0) + 1
        self._changed = True

    def of(self, name: str) -> Hit:
        """What a rule decided so far."""
        return self._hits.get(name, Hit())

    def flush(self) -> None:
        """Write what was counted."""
        if self._path is None or not self._changed:
            return
        temporary = self._path.with_suffix(".new")
        try:
            temporary.write_bytes(orjson.dumps({n: asdict(h) for n, h in self._hits.items()}))
            temporary.replace(self._path)
        except OSError as error:
            _log.error("%s: %s; the counts of rules are not kept", self._path, error.strerror)
            return
        self._changed = False
