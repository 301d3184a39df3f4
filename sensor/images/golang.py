"""What Go's compiler wrote into a program: the modules that it was made from.

Source: Go's debug/buildinfo and runtime/debug.
"""

from __future__ import annotations

from sensor.errors import ImageError
from sensor.images.elf import Elf
from sensor.images.found import make_package
from sensor.images.package import GOLANG, Package

SECTION = b".go.buildinfo"
_MAGIC = b"\xff Go buildinf:"
_ALIGN = 16
_SECTION_MAX = 1 << 20
_SEARCH_MAX = 1 << 20  # of the data, where a program has no table of sections, as Go searches it
_TEXT_MAX = 4 << 20  # of the list of modules; of Kubernetes it has 50 kB
_INLINE, _BIG_ENDIAN = 2, 1
_FRAME = 16  # bytes that mark the list's beginning and end


def read_go(elf: Elf, location: str) -> list[Package]:
    """The modules of a program in Go, and the Go that made it; empty for others.

    Raises:
        ImageError: what is written there is damaged.
    """
    data = elf.section(SECTION, _SECTION_MAX)
    if data is None:
        if elf.has_sections or (segment := elf.writable()) is None:
            return []
        data = elf.content.read_at(segment.offset, min(segment.size, _SEARCH_MAX))
    at = data.find(_MAGIC)
    while at >= 0 and at % _ALIGN:
        at = data.find(_MAGIC, at + 1)
    if at < 0:
        return []
    version, modules = _texts(elf, data[at:])
    if not version.startswith(("go", "devel")):
        raise ImageError("a program in Go with a damaged version: its modules are left out")
    return _packages(version, modules, location)


def _texts(elf: Elf, data: bytes) -> tuple[str, str]:
    """The version of Go, and the modules as lines."""
    if len(data) < 32:
        raise ImageError("a program in Go whose modules are cut off")
    size, flags = data[14], data[15]
    if flags & _INLINE:
        version, rest = _inline(data[32:])
        modules, _ = _inline(rest)
    else:
        if size not in (4, 8):
            raise ImageError(f"a program in Go with pointers of {size} bytes")
        order = "big" if flags & _BIG_ENDIAN else "little"
        version, modules = (
            _by_pointer(elf, int.from_bytes(data[start : start + size], order), size, order)  # type: ignore[arg-type]
            for start in (16, 16 + size)
        )
    if len(modules) > 2 * _FRAME and modules[-_FRAME - 1 : -_FRAME] == b"\n":
        modules = modules[_FRAME:-_FRAME]
    else:
        modules = b""
    return version.decode("utf-8", "replace"), modules.decode("utf-8", "replace")


def _inline(data: bytes) -> tuple[bytes, bytes]:
    """A text with its length in front, and what follows it."""
    length = shift = at = 0
    while at < len(data) and at < 10:
        byte = data[at]
        length |= (byte & 0x7F) << shift
        at += 1
        shift += 7
        if not byte & 0x80:
            break
    if length > len(data) - at:
        raise ImageError("a program in Go whose modules are cut off")
    return data[at : at + length], data[at + length :]


def _by_pointer(elf: Elf, address: int, size: int, order: str) -> bytes:
    """Before Go 1.18: a pointer to a pointer and a length."""
    header = elf.at_address(address, 2 * size)
    if len(header) < 2 * size:
        return b""
    text = int.from_bytes(header[:size], order)  # type: ignore[arg-type]
    length = int.from_bytes(header[size:], order)  # type: ignore[arg-type]
    if length > _TEXT_MAX:
        raise ImageError(f"a program in Go with {length} bytes of modules; at most {_TEXT_MAX}")
    return elf.at_address(text, length)


def _packages(version: str, modules: str, location: str) -> list[Package]:
    # The number stands alone, before what was built otherwise, or behind the word "devel".
    number = next((w[2:] for w in version.split() if w.startswith("go") and w[2:3].isdigit()), "")
    found = []
    if number:
        found.append(_module("stdlib", "v" + number, location))
    last: tuple[str, str] | None = None
    for line in modules.split("\n"):
        fields = line.split("\t")
        if fields[0] in ("mod", "dep") and len(fields) >= 3:
            if last is not None:
                found.append(_module(*last, location))
            last = (fields[1], fields[2])
        # What is inside is the replacement. A directory is none that an advisory knows of: it is
        # taken for the module that it stands for.
        elif fields[0] == "=>" and len(fields) >= 3 and not fields[1].startswith((".", "/")):
            last = (fields[1], fields[2])
    if last is not None:
        found.append(_module(*last, location))
    return found


def _module(path: str, version: str, location: str) -> Package:
    namespace, _, name = path.rpartition("/")
    return make_package(
        GOLANG,
        path,
        "" if version == "(devel)" else version,
        location=location,
        files=(location,),
        namespace=namespace,
        purl_name=name,
    )
