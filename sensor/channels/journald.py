"""systemd's journal through the queue: nothing is lost while it is restarted."""

from __future__ import annotations

import errno
import socket

import orjson

from sensor.channels.files import Journald
from sensor.channels.journal import PRIORITY, entry
from sensor.channels.message import Message
from sensor.channels.sender import Worker, reason
from sensor.errors import DeliveryError


class JournaldSender:
    """See ``Sender``."""

    def __init__(self, channel: Journald) -> None:
        self._channel = channel
        self._worker = Worker()

    async def send(self, message: Message) -> str:
        """See ``Sender.send``."""
        return await self._worker.run(lambda: self._deliver(message))

    async def close(self) -> None:
        """See ``Sender.close``."""

    def _deliver(self, message: Message) -> str:
        facts = message.facts()
        fields = {
            "MESSAGE": facts["message"],
            "PRIORITY": str(PRIORITY[message.severity]),
            "SYSLOG_IDENTIFIER": "rote",
            "ROTE_ID": message.uid,
            "ROTE_KIND": message.kind,
            "ROTE_AUDIT": message.ids(),
            "ROTE_COUNT": str(message.count),
            **{
                f"ROTE_{name.upper()}": facts[name]
                for name in (
                    "type",
                    "container",
                    "container_id",
                    "image",
                    "rule",
                    "action",
                    "outcome",
                )
            },
            "ROTE_JSON": orjson.dumps(facts["audit"]).decode(),
        }
        try:
            self._send(entry(fields))
        except OSError as error:
            if error.errno != errno.EMSGSIZE:
                raise DeliveryError(f"journal: {reason(error)}") from error
            del fields["ROTE_JSON"]
            return self._send_short(fields)
        return ""

    def _send_short(self, fields: dict[str, str]) -> str:
        try:
            self._send(entry(fields))
        except OSError as error:
            raise DeliveryError(f"journal: {reason(error)}", only_this=True) from error
        return "longer than the journal takes at once: sent without ROTE_JSON"

    def _send(self, data: bytes) -> None:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sender:
            sender.settimeout(self._channel.timeout)
            sender.sendto(data, str(self._channel.socket))
