"""Just enough of protobuf's wire format to talk to containerd without generated code.

Source: protobuf.dev/programming-guides/encoding. Messages are maps from field number to the list
of its values: ``bytes`` for length-delimited fields, ``int`` for the rest.
"""

from __future__ import annotations

Message = dict[int, list[bytes | int]]

_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5


def text_field(number: int, text: str) -> bytes:
    """One string field."""
    data = text.encode()
    return _varint(number << 3 | _BYTES) + _varint(len(data)) + data


def _varint(value: int) -> bytes:
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def decode(data: bytes) -> Message:
    """Read a message.

    Raises:
        ValueError: it is cut short or of an unknown wire type.
    """
    fields: Message = {}
    at = 0
    while at < len(data):
        tag, at = _read_varint(data, at)
        kind = tag & 7
        value: bytes | int
        if kind == _VARINT:
            value, at = _read_varint(data, at)
        elif kind in (_FIXED64, _FIXED32):
            size = 8 if kind == _FIXED64 else 4
            value, at = int.from_bytes(data[at : at + size], "little"), at + size
        elif kind == _BYTES:
            size, at = _read_varint(data, at)
            value, at = data[at : at + size], at + size
        else:
            raise ValueError(f"protobuf wire type {kind} at byte {at}")
        if at > len(data):
            raise ValueError(f"protobuf message cut short at byte {len(data)}")
        fields.setdefault(tag >> 3, []).append(value)
    return fields


def _read_varint(data: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        if at >= len(data):
            raise ValueError(f"protobuf number cut short at byte {at}")
        byte = data[at]
        value |= (byte & 0x7F) << shift
        at += 1
        if byte < 0x80:
            return value, at
        shift += 7


def messages(message: Message, number: int) -> list[Message]:
    """The messages in a repeated field."""
    return [decode(value) for value in message.get(number, ()) if isinstance(value, bytes)]


def text(message: Message, number: int) -> str:
    """A string field; empty when absent."""
    value = message.get(number, [b""])[-1]
    return value.decode(errors="replace") if isinstance(value, bytes) else ""


def number(message: Message, field: int) -> int:
    """An integer field; 0 when absent."""
    value = message.get(field, [0])[-1]
    return value if isinstance(value, int) else 0
