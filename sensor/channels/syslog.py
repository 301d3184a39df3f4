"""Syslog as RFC 5424 has it.

Over UDP (RFC 5426), TCP (RFC 6587, octets counted), TLS (RFC 5425) or a Unix datagram socket.
No kind of syslog says that a message was taken. Over TCP and TLS the connection is closed in
order after each, so that what the other side's kernel did not acknowledge is sent again.
"""

from __future__ import annotations

import contextlib
import os
import socket
import ssl

import orjson

from sensor.audits.audit import Severity
from sensor.audits.formats import escape, iso
from sensor.channels.files import Syslog, default_port, shapes
from sensor.channels.message import Message
from sensor.channels.sender import Worker, reason, tls_context
from sensor.errors import DeliveryError

_FACILITIES = {"user": 1, "daemon": 3, "auth": 4, "authpriv": 10} | {
    f"local{i}": 16 + i for i in range(8)
}
_SEVERITIES = {
    Severity.INFO: 6,
    Severity.LOW: 5,
    Severity.MEDIUM: 4,
    Severity.HIGH: 3,
    Severity.CRITICAL: 2,
}
# 32473 is IANA's number for examples: Rote has none of its own.
_ELEMENT = "rote@32473"
_DATAGRAM_MAX = 8192
_CLOSE_SECONDS = 1.0


class SyslogSender:
    """See ``Sender``."""

    def __init__(self, channel: Syslog) -> None:
        self._channel = channel
        self._worker = Worker()
        self._socket: socket.socket | None = None

    async def send(self, message: Message) -> str:
        """See ``Sender.send``."""
        return await self._worker.run(lambda: self._deliver(message), abort=self._abort)

    async def close(self) -> None:
        """See ``Sender.close``."""
        self._abort()

    def _abort(self) -> None:
        if self._socket is not None:
            with contextlib.suppress(OSError):  # it is closed already
                self._socket.shutdown(socket.SHUT_RDWR)

    def _deliver(self, message: Message) -> str:
        channel = self._channel
        try:
            if channel.transport in ("tcp", "tls"):
                self._stream(line(message, channel))
                return ""
            data = line(message, channel)
            note = ""
            if len(data) > _DATAGRAM_MAX:
                data = line(message, channel, text_only=True)[:_DATAGRAM_MAX]
                data = data.decode(errors="ignore").encode()
                note = f"longer than a datagram of {_DATAGRAM_MAX} bytes: sent as a line of text"
            self._datagram(data)
        except OSError as error:
            raise DeliveryError(f"syslog: {reason(error)}") from error
        finally:
            self._socket = None
        return note

    def _datagram(self, data: bytes) -> None:
        channel = self._channel
        if channel.transport == "unix":
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sender:
                sender.settimeout(channel.timeout)
                sender.sendto(data, str(channel.path))
            return
        port = channel.port or default_port(channel)
        found = socket.getaddrinfo(channel.host, port, type=socket.SOCK_DGRAM)
        family, kind, proto, _, address = found[0]
        with socket.socket(family, kind, proto) as sender:
            sender.settimeout(channel.timeout)
            sender.connect(address)  # so that the kernel tells when nobody listens there
            sender.send(data)

    def _stream(self, data: bytes) -> None:
        channel = self._channel
        port = channel.port or default_port(channel)
        with socket.create_connection((channel.host, port), channel.timeout) as plain:
            self._socket = plain
            connection: socket.socket = plain
            if channel.transport == "tls":
                connection = tls_context(channel.ca_file).wrap_socket(
                    plain, server_hostname=channel.host
                )
            with connection:
                connection.sendall(b"%d %s" % (len(data), data))
                _finish(connection)


def _finish(connection: socket.socket) -> None:
    """Close in order: an error here means that the message may not have arrived."""
    connection.settimeout(_CLOSE_SECONDS)
    # One that keeps the connection open after our end took the message all the same.
    with contextlib.suppress(TimeoutError):
        if isinstance(connection, ssl.SSLSocket):
            with contextlib.suppress(ssl.SSLEOFError, ssl.SSLZeroReturnError):
                connection.unwrap()
            return
        connection.shutdown(socket.SHUT_WR)
        while connection.recv(4096):
            pass


def line(message: Message, channel: Syslog, *, text_only: bool = False) -> bytes:
    """One message: header, structured data, and a text or JSON.

    Args:
        message: what to say.
        channel: facility and format.
        text_only: as a text although the channel's format is JSON, and without the data.
    """
    priority = _FACILITIES[channel.facility] * 8 + _SEVERITIES[message.severity]
    facts = message.facts()
    host: str = _word(facts["host"], 255)
    header = f"<{priority}>1 {iso(message.last_ns)} {host} rote {os.getpid()} {_id(message)}"
    names = () if text_only else ("type", "severity", "container", "image", "rule", "count", "id")
    data = "".join(f' {name}="{_value(str(facts[name]))}"' for name in names)
    if channel.format == "text" or text_only:
        text = message.title()
    else:
        text = orjson.dumps(message.as_json(shapes()[channel.format])).decode()
    # The mark says that what follows is UTF-8.
    return f"{header} [{_ELEMENT}{data}] ".encode() + b"\xef\xbb\xbf" + text.encode()


def _id(message: Message) -> str:
    return {"audit": "AUDIT", "gathered": "GATHERED"}.get(message.kind, "TEST")


def _word(text: str, size: int) -> str:
    return "".join(c for c in escape(text) if "!" <= c <= "~")[:size] or "-"


def _value(text: str) -> str:
    text = text[:256].encode(errors="replace").decode()
    return text.replace("\\", "\\\\").replace('"', '\\"').replace("]", "\\]")
