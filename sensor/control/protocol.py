"""Messages on the control socket: a length of four bytes, then msgpack.

A connection carries one request and its answer::

    client → {"version": 1, "verb": "status", "args": {…}}
    daemon → {"item": …}            any number, for verbs that stream
    daemon → {"result": …}  or  {"error": "one line", "code": 2}

Paths travel as text with ``surrogateescape``.
"""

from __future__ import annotations

from typing import Any

import msgpack

from sensor.errors import ProtocolError

VERSION = 1
HEADER_BYTES = 4
REQUEST_MAX = 64 << 20  # an imported model travels in a request
ANSWER_MAX = 256 << 20


def encode(message: dict[str, Any]) -> bytes:
    """A message as it travels."""
    body: bytes = msgpack.packb(message, unicode_errors="surrogateescape")
    return len(body).to_bytes(HEADER_BYTES, "big") + body


def decode(body: bytes) -> dict[str, Any]:
    """The message in a body.

    Raises:
        ProtocolError: it is no msgpack map.
    """
    try:
        message = msgpack.unpackb(body, unicode_errors="surrogateescape")
    except Exception as error:  # msgpack raises a dozen unrelated types for damaged input
        raise ProtocolError("control message: not msgpack; expected a request of rote") from error
    if not isinstance(message, dict):
        raise ProtocolError(f"control message: expected a map, found {type(message).__name__}")
    return message


def body_size(header: bytes, limit: int) -> int:
    """The length that a header announces.

    Raises:
        ProtocolError: more than the limit.
    """
    size = int.from_bytes(header, "big")
    if size > limit:
        raise ProtocolError(f"control message: {size} bytes; expected at most {limit}")
    return size
