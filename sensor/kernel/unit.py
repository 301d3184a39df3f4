"""The one BPF unit: its parts put together, and a hash that names it.

BCC rewrites only the main file, and clang runs inside the header tree, so local includes are
expanded here, with ``#line`` so that errors name the part they are in.
"""

from __future__ import annotations

import hashlib
import re
from pathlib import Path

from sensor.errors import KernelSupportError
from sensor.kernel.sources import bpf_source_dir

MAIN = "sensor.bpf.c"
LOCK = "lock.bpf.c"
_INCLUDE = re.compile(r'^#include "([^"]+)"$', re.MULTILINE)


def unit_text(directory: Path | None = None, main: str = MAIN) -> str:
    """A whole unit as one text.

    Raises:
        KernelSupportError: a part is missing from the installation.
    """
    return _expand(directory or bpf_source_dir(), main)


def _expand(directory: Path, name: str) -> str:
    path = directory / name
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise KernelSupportError(
            f"{path}: {error.strerror}; expected the BPF sources there, install Rote again"
        ) from error

    lines = [f'#line 1 "{name}"']
    for number, line in enumerate(text.splitlines(), 1):
        match = _INCLUDE.match(line)
        if match:
            lines.append(_expand(directory, match.group(1)))
            lines.append(f'#line {number + 1} "{name}"')
        else:
            lines.append(line)
    return "\n".join(lines) + "\n"


def fingerprint(*parts: str | bytes) -> str:
    """16 hex digits over everything that decides what the loaded programs are."""
    digest = hashlib.sha256()
    for part in parts:
        data = part.encode() if isinstance(part, str) else part
        digest.update(len(data).to_bytes(8, "little"))
        digest.update(data)
    return digest.hexdigest()[:16]
