"""Alerts in the system's journal, or in syslog where there is none.

Source: systemd's native protocol (systemd.io/JOURNAL_NATIVE_PROTOCOL) and RFC 3164.
"""

from __future__ import annotations

import socket
import struct
from pathlib import Path

import orjson

from sensor.audits.audit import Audit, Severity
from sensor.audits.formats import one_line, to_json

JOURNAL = Path("/run/systemd/journal/socket")
SYSLOG = Path("/dev/log")
# RFC 5424 severities
PRIORITY = {
    Severity.INFO: 6,
    Severity.LOW: 5,
    Severity.MEDIUM: 4,
    Severity.HIGH: 3,
    Severity.CRITICAL: 2,
}
_AUTHPRIV = 10 << 3


class JournalChannel:
    """Writes each audit to journald with its fields, or to syslog as a line.

    Args:
        journal: journald's socket.
        syslog: syslog's socket.
    """

    name = "journal"

    def __init__(self, journal: Path = JOURNAL, syslog: Path = SYSLOG) -> None:
        self._journal = journal
        self._syslog = syslog
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC)
        self._socket.setblocking(False)

    @classmethod
    def available(cls, journal: Path = JOURNAL, syslog: Path = SYSLOG) -> bool:
        """Whether either socket is there."""
        return journal.is_socket() or syslog.is_socket()

    async def send(self, audit: Audit) -> None:
        """See ``Channel.send``."""
        if self._journal.is_socket():
            self._socket.sendto(_journal_entry(audit), str(self._journal))
        else:
            line = f"<{_AUTHPRIV | PRIORITY[audit.severity]}>rote: {one_line(audit)}"
            self._socket.sendto(line.encode(errors="replace"), str(self._syslog))


def _journal_entry(audit: Audit) -> bytes:
    return entry(
        {
            "MESSAGE": one_line(audit),
            "PRIORITY": str(PRIORITY[audit.severity]),
            "SYSLOG_IDENTIFIER": "rote",
            "ROTE_AUDIT": str(audit.id),
            "ROTE_TYPE": str(audit.type),
            "ROTE_CONTAINER": audit.container_name,
            "ROTE_CONTAINER_ID": audit.container_id,
            "ROTE_IMAGE": audit.image,
            "ROTE_ACTION": str(audit.action),
            "ROTE_OUTCOME": audit.outcome,
            "ROTE_JSON": orjson.dumps(to_json(audit)).decode(),
        }
    )


def entry(fields: dict[str, str]) -> bytes:
    """Fields as journald takes them."""
    made = bytearray()
    for name, value in fields.items():
        data = value.encode(errors="replace")
        if b"\n" in data:
            made += name.encode() + b"\n" + struct.pack("<Q", len(data)) + data + b"\n"
        else:
            made += name.encode() + b"=" + data + b"\n"
    return bytes(made)
