"""Structs and enums of ``bpf/events.h``, read from its text.

The header is the only declaration. This reads the strict subset of C it keeps to and gives, for
each struct, its size and a ``struct.Struct``; ``struct`` with native alignment lays out as the C
compiler does, and the sizes are checked against the header's own ``_Static_assert``s.
"""

from __future__ import annotations

import functools
import re
import struct
from dataclasses import dataclass

from sensor import events
from sensor.errors import KernelSupportError
from sensor.kernel import port
from sensor.kernel.sources import bpf_source_dir

_CODES = {"u8": "B", "u16": "H", "u32": "I", "u64": "Q", "s32": "i", "s64": "q"}


@dataclass(frozen=True)
class StructLayout:
    """One struct: its fields in order, flattened, and the packer for it."""

    name: str
    fields: tuple[str, ...]
    packer: struct.Struct

    @property
    def size(self) -> int:
        """Bytes, trailing padding included."""
        return self.packer.size

    def unpack(self, data: bytes | memoryview) -> dict[str, object]:
        """Field values by name; arrays of numbers as ``name[0]``, ``name[1]`` and so on."""
        return dict(zip(self.fields, self.packer.unpack_from(data), strict=True))

    def pack(self, **values: int | bytes) -> bytes:
        """Bytes of the struct; fields that are not given are zero."""
        full = [
            values.pop(name, b"" if code == "s" else 0)
            for name, code in zip(self.fields, self._codes(), strict=True)
        ]
        if values:
            raise KeyError(f"struct {self.name} has no field {sorted(values)}")
        return self.packer.pack(*full)

    def _codes(self) -> list[str]:
        return re.findall(r"\d*([BHIQiqs])", self.packer.format.rsplit("0", 1)[0])


@dataclass(frozen=True)
class Header:
    """All of events.h."""

    structs: dict[str, StructLayout]
    enums: dict[str, dict[str, int]]


@functools.cache
def header() -> Header:
    """The shared header of this installation."""
    return parse((bpf_source_dir() / "events.h").read_text(encoding="utf-8"))


def parse(text: str) -> Header:
    """Read the text of events.h.

    Raises:
        KernelSupportError: something in it is outside the subset, or a size assertion fails.
    """
    text = re.sub(r"/\*.*?\*/", "", text, flags=re.DOTALL)
    enums = {
        name: {key: int(value, 0) for key, value in re.findall(r"(\w+)\s*=\s*(-?\w+)", body)}
        for name, body in re.findall(r"enum rote_(\w+)\s*\{(.*?)\};", text, flags=re.DOTALL)
    }
    structs: dict[str, StructLayout] = {}
    for name, body in re.findall(r"struct rote_(\w+)\s*\{(.*?)\};", text, flags=re.DOTALL):
        structs[name] = _struct(name, body, structs)
    for name, size in re.findall(r"_Static_assert\(sizeof\(struct rote_(\w+)\) == (\d+)", text):
        if structs[name].size != int(size):
            raise KernelSupportError(
                f"events.h: struct rote_{name} is {structs[name].size} bytes in Python, "
                f"expected {size} as the header asserts"
            )
    return Header(structs, enums)


def _struct(name: str, body: str, known: dict[str, StructLayout]) -> StructLayout:
    fields: list[str] = []
    codes: list[str] = []
    for line in (part.strip() for part in body.split(";")):
        if not line:
            continue
        if match := re.fullmatch(r"char (\w+)\[(\d+)\]", line):
            fields.append(match.group(1))
            codes.append(f"{match.group(2)}s")
        elif match := re.fullmatch(r"struct rote_(\w+) (\w+)", line):
            inner = known[match.group(1)]
            fields.extend(f"{match.group(2)}.{field}" for field in inner.fields)
            codes.append(inner.packer.format.removeprefix("@").removesuffix("0Q"))
        elif match := re.fullmatch(r"(\w+) (\w+)\[(\d+)\]", line):
            fields.extend(f"{match.group(2)}[{i}]" for i in range(int(match.group(3))))
            codes.append(_CODES[match.group(1)] * int(match.group(3)))
        elif match := re.fullmatch(r"(\w+) (\w+)", line):
            fields.append(match.group(2))
            codes.append(_CODES[match.group(1)])
        else:
            raise KernelSupportError(f"events.h: struct rote_{name}: cannot read {line!r}")
    joined = "".join(codes)
    # Trailing padding to the strictest member, as C does: "0Q" aligns the end.
    tail = "0Q" if "Q" in joined or "q" in joined else ""
    return StructLayout(name, tuple(fields), struct.Struct("@" + joined + tail))


_MIRRORED = (
    ("event_kind", "EVENT_", events.EventKind),
    ("operation", "OPERATION_", events.Operation),
    ("operation_class", "OPERATION_CLASS_", events.OperationClass),
    ("origin", "ORIGIN_", events.Origin),
    ("detection", "DETECTION_", events.Detection),
    ("actor", "ACTOR_", events.Actor),
    ("walk_end", "WALK_END_", events.WalkEnd),
    ("event_flag", "EVENT_FLAG_", events.EventFlag),
    ("label_kind", "LABEL_KIND_", port.LabelKind),
    ("node_flag", "NODE_FLAG_", port.NodeFlag),
    ("container_flag", "CONTAINER_FLAG_", port.ContainerFlag),
)


def check_mirrors() -> None:
    """Refuse to go on when an enum of the header and its Python twin differ.

    Raises:
        KernelSupportError: naming the enum and the members that differ.
    """
    for name, prefix, mirror in _MIRRORED:
        in_c = {key.removeprefix(prefix): value for key, value in header().enums[name].items()}
        in_python = {member.name: int(member.value) for member in mirror}
        if in_c != in_python:
            differing = sorted(set(in_c.items()) ^ set(in_python.items()))
            raise KernelSupportError(
                f"enum rote_{name} differs from {mirror.__name__}: {differing}"
            )
