"""The Debian mirror of this machine, read from its own apt sources; never written down here."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from tests.vm.host import VmError

_KEYRING = Path("/usr/share/keyrings/debian-archive-keyring.gpg")
_DEBIAN_SUITE = re.compile(
    r"(bullseye|bookworm|trixie|forky|sid|stable|testing|unstable)(-security)?"
)


@dataclass(frozen=True)
class Mirror:
    """Where packages come from: base addresses of the main and of the security archive."""

    main: str
    security: str

    def sources(self, suites: Iterable[str]) -> str:
        """A sources.list (one-line format) for the suites; ``*-security`` is the other archive."""
        return "".join(
            f"deb [signed-by={_KEYRING}] "
            f"{self.security if suite.endswith('-security') else self.main} {suite} main\n"
            for suite in suites
        )


def find_mirror(apt: Path = Path("/etc/apt")) -> Mirror:
    """The mirror that this machine's own packages come from.

    ``ROTE_VM_MIRROR`` (address of the main archive) comes first.

    Args:
        apt: the configuration directory of apt.

    Raises:
        VmError: no Debian archive is configured, or Debian's keys are missing.
    """
    if not _KEYRING.exists():
        raise VmError(f"{_KEYRING}: missing; install debian-archive-keyring")
    if address := os.environ.get("ROTE_VM_MIRROR"):
        return Mirror(address.rstrip("/"), address.rstrip("/") + "-security")
    main = security = None
    for address, suite in _entries(apt):
        if not (match := _DEBIAN_SUITE.fullmatch(suite)):
            continue
        if match[2]:
            security = security or address
        else:
            main = main or address
    if main is None:
        raise VmError(
            f"{apt}: no Debian archive among the sources (expected one with suite bookworm, "
            "trixie, …); name one with ROTE_VM_MIRROR"
        )
    return Mirror(main, security or f"{main}-security")


def _entries(apt: Path) -> Iterator[tuple[str, str]]:
    """Every (address, suite) of binary packages, in apt's order."""
    for path in [apt / "sources.list", *sorted((apt / "sources.list.d").glob("*"))]:
        if not path.is_file():
            continue
        text = path.read_text(errors="replace")
        if path.suffix == ".list":
            yield from _one_line_entries(text)
        elif path.suffix == ".sources":
            yield from _deb822_entries(text)


def _one_line_entries(text: str) -> Iterator[tuple[str, str]]:
    for line in text.splitlines():
        if match := re.match(r"\s*deb\s+(?:\[[^]]*]\s+)?(\S+)\s+(\S+)", line):
            yield match[1].rstrip("/"), match[2]


def _deb822_entries(text: str) -> Iterator[tuple[str, str]]:
    lines = "\n".join(line for line in text.splitlines() if not line.startswith("#"))
    for stanza in re.split(r"\n\s*\n", lines):
        fields = {
            name.lower(): value.split()
            for name, value in re.findall(r"^(\S+):[ \t]*(.*(?:\n[ \t]+.*)*)", stanza, re.MULTILINE)
        }
        if "deb" not in fields.get("types", []) or fields.get("enabled") == ["no"]:
            continue
        for address in fields.get("uris", []):
            for suite in fields.get("suites", []):
                yield address.rstrip("/"), suite
