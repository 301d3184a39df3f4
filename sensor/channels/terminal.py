"""Alerts as lines on a stream."""

from __future__ import annotations

from typing import TextIO

import orjson

from sensor.audits.audit import Audit
from sensor.audits.formats import one_line, to_json, when


class TerminalChannel:
    """Writes one line an audit.

    Args:
        stream: where to.
        as_json: one JSON object a line instead of text.
    """

    name = "terminal"

    def __init__(self, stream: TextIO, *, as_json: bool = False) -> None:
        self._stream = stream
        self._as_json = as_json

    async def send(self, audit: Audit) -> None:
        """See ``Channel.send``."""
        if self._as_json:
            text = orjson.dumps(to_json(audit)).decode()
        else:
            text = f"{when(audit.last_ns)} {one_line(audit)}"
        self._stream.write(text + "\n")
        self._stream.flush()
