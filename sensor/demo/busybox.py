"""A root file system out of one static program."""

from __future__ import annotations

import io
import struct
import subprocess
import tarfile
from collections.abc import Iterable, Mapping
from pathlib import Path

from sensor.errors import HostError

_PROGRAM_INTERPRETER = 3  # PT_INTERP, elf(5)
_CANDIDATES = (Path("/bin/busybox"), Path("/usr/bin/busybox"), Path("/bin/busybox.static"))


def static_busybox() -> Path:
    """A busybox that needs no libraries.

    Raises:
        HostError: there is none on this host.
    """
    for path in _CANDIDATES:
        if path.exists() and is_static(path):
            return path
    raise HostError(
        "/bin/busybox: no static busybox on this host; expected one to make a container of: "
        "apt-get install busybox-static"
    )


def is_static(path: Path) -> bool:
    """Whether an ELF program of 64 bits runs without a loader: it names no interpreter."""
    with path.open("rb") as file:
        head = file.read(64)
        if head[:5] != b"\x7fELF\x02":
            return False
        (table,) = struct.unpack_from("<Q", head, 32)
        size, count = struct.unpack_from("<HH", head, 54)
        file.seek(table)
        entries = file.read(size * count)
    kinds = (struct.unpack_from("<I", entries, size * i)[0] for i in range(count))
    return _PROGRAM_INTERPRETER not in kinds


def root_archive(folders: Iterable[str], files: Mapping[str, tuple[int, str]]) -> bytes:
    """A root with ``/bin/busybox``, a link for each applet, and what is asked for besides.

    Args:
        folders: names without the leading slash; ``tmp`` is made for everybody to write.
        files: name to mode and content.

    Returns:
        A tar archive: the same bytes for the same arguments and busybox.
    """
    busybox = static_busybox()
    applets = subprocess.run(
        [busybox, "--list"], capture_output=True, text=True, check=True, timeout=30
    ).stdout.split()
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:

        def add(name: str, kind: bytes, mode: int, data: bytes = b"", link: str = "") -> None:
            entry = tarfile.TarInfo(name)
            entry.type, entry.mode, entry.size, entry.linkname = kind, mode, len(data), link
            archive.addfile(entry, io.BytesIO(data))

        for folder in ("bin", *folders):
            add(folder, tarfile.DIRTYPE, 0o1777 if folder == "tmp" else 0o755)
        for name, (mode, text) in files.items():
            add(name, tarfile.REGTYPE, mode, text.encode())
        add("bin/busybox", tarfile.REGTYPE, 0o755, busybox.read_bytes())
        for applet in sorted(set(applets) - {"busybox"}):
            add(f"bin/{applet}", tarfile.SYMTYPE, 0o777, link="busybox")
    return buffer.getvalue()
