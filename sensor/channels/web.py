"""Channels that are HTTP: a request each, whose body is what differs."""

from __future__ import annotations

import base64
import hashlib
import hmac
import html
import socket
import time
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any

import aiohttp
import orjson
from aiohttp.abc import AbstractResolver, ResolveResult

from sensor import __version__
from sensor.audits.audit import Severity
from sensor.audits.formats import escape, iso, to_json
from sensor.channels.files import Alertmanager, Hmac, PagerDuty, Slack, Webhook, shapes
from sensor.channels.message import Group, Message
from sensor.channels.secrets import Secret, check_http
from sensor.channels.sender import Worker, read_address, reason, tls_context
from sensor.channels.template import fill
from sensor.errors import DeliveryError

_ANSWER_MAX = 200
_RETRY_AFTER_MAX = 3600.0
# The request itself is what they refuse; others may pass.
_ONLY_THIS = {400, 411, 413, 414, 415, 422, 431}
_SLACK_MAX = 2900  # of the 3000 that a section may have
_PAGERDUTY_MAX = 1024
_PAGERDUTY_SEVERITIES = {
    Severity.INFO: "info",
    Severity.LOW: "warning",
    Severity.MEDIUM: "warning",
    Severity.HIGH: "error",
    Severity.CRITICAL: "critical",
}


class _Resolver(AbstractResolver):
    """Asks for addresses in a thread of ours, which nobody waits for when the daemon stops."""

    def __init__(self, worker: Worker) -> None:
        self._worker = worker

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_UNSPEC
    ) -> list[ResolveResult]:
        found = await self._worker.run(
            lambda: socket.getaddrinfo(host, port, family, socket.SOCK_STREAM)
        )
        return [
            ResolveResult(
                hostname=host,
                host=str(address[0]),
                port=int(address[1]),
                family=kind,
                proto=proto,
                flags=socket.AI_NUMERICHOST,
            )
            for kind, _, proto, _, address in found
        ]

    async def close(self) -> None:
        """Nothing is open."""


class HttpSender:
    """See ``Sender``. Subclasses say what to send.

    Redirections are not followed and proxies of the environment not used: the address in the file
    is where alerts go.
    """

    method = "POST"
    signature: Hmac | None = None

    def __init__(self, channel: Webhook | Slack | Alertmanager | PagerDuty) -> None:
        self._base = channel
        self._worker = Worker()
        self._session: aiohttp.ClientSession | None = None

    def body(self, message: Message) -> Any:
        """What is sent, as plain values."""
        raise NotImplementedError

    def address(self, url: str) -> str:
        """Where to."""
        return url

    def headers(self) -> dict[str, str]:
        """Beyond the usual ones."""
        return {}

    async def send(self, message: Message) -> str:
        """See ``Sender.send``."""
        try:
            url = self.address(check_http(read_address(self._base.url)))
        except ValueError as error:
            raise DeliveryError(f"url: {error}") from error
        body = orjson.dumps(self.body(message))
        headers = {
            "Content-Type": "application/json",
            "User-Agent": f"rote/{__version__}",
            "X-Rote-Id": message.uid,
            **self.headers(),
        }
        if self.signature is not None:
            secret = self.signature.secret.read()
            headers[self.signature.header] = sign(secret, body, int(time.time()))
        try:
            async with self._open().request(
                self.method, url, data=body, headers=headers, allow_redirects=False
            ) as answer:
                text = (await answer.content.read(_ANSWER_MAX)).decode(errors="replace")
                _check(answer.status, answer.reason or "", answer.headers, text)
        except aiohttp.ClientConnectorError as error:
            raise DeliveryError(f"cannot connect: {reason(error.os_error)}") from error
        except aiohttp.ClientError as error:
            raise DeliveryError(f"{type(error).__name__}: {reason(error)}") from error
        except (OSError, ValueError) as error:
            raise DeliveryError(reason(error)) from error
        return ""

    def _open(self) -> aiohttp.ClientSession:
        if self._session is None:
            self._session = aiohttp.ClientSession(
                connector=aiohttp.TCPConnector(
                    limit=1,
                    ssl=tls_context(self._base.ca_file) if self._base.ca_file else True,
                    resolver=_Resolver(self._worker),
                ),
                timeout=aiohttp.ClientTimeout(total=self._base.timeout),
                trust_env=False,
                cookie_jar=aiohttp.DummyCookieJar(),
            )
        return self._session

    async def close(self) -> None:
        """See ``Sender.close``."""
        if self._session is not None:
            await self._session.close()
            self._session = None


def _check(status: int, phrase: str, headers: Any, text: str) -> None:
    if 200 <= status < 300:
        return
    said = f": {text.strip()}" if text.strip() else ""
    raise DeliveryError(
        f"HTTP {status} {phrase}{said}",
        retry_after=retry_after(headers.get("Retry-After", "")),
        only_this=status in _ONLY_THIS,
    )


def retry_after(value: str) -> float:
    """Seconds from a Retry-After header, which has seconds or a date; 0 when it has neither."""
    if value.strip().isdigit():
        return min(float(value), _RETRY_AFTER_MAX)
    try:
        when = parsedate_to_datetime(value)
    except (ValueError, TypeError):
        return 0.0
    if when.tzinfo is None:
        when = when.replace(tzinfo=UTC)
    seconds = (when - datetime.now(UTC)).total_seconds()
    return min(max(seconds, 0.0), _RETRY_AFTER_MAX)


class WebhookSender(HttpSender):
    """JSON of one of our formats, or of a template; signed when there is a secret."""

    def __init__(self, channel: Webhook) -> None:
        super().__init__(channel)
        self._channel = channel
        self.method = channel.method
        self.signature = channel.hmac

    def body(self, message: Message) -> Any:
        """See ``HttpSender.body``."""
        if self._channel.template is not None:
            return fill(self._channel.template, message.facts())
        return message.as_json(shapes()[self._channel.format])

    def headers(self) -> dict[str, str]:
        """See ``HttpSender.headers``."""
        return {
            name: value.read() if isinstance(value, Secret) else value
            for name, value in self._channel.headers.items()
        }


def sign(secret: str, body: bytes, now: int) -> str:
    """The value of a signature header: ``t=SECONDS,v1=HEX``.

    HEX is HMAC-SHA256 over SECONDS, a dot and the body: whoever checks it refuses what is old,
    and a recorded request cannot be used again.
    """
    signed = hmac.new(secret.encode(), f"{now}.".encode() + body, hashlib.sha256)
    return f"t={now},v1={signed.hexdigest()}"


class SlackSender(HttpSender):
    """What Slack's incoming webhooks take, and those that do as they do."""

    def __init__(self, channel: Slack) -> None:
        super().__init__(channel)
        self._channel = channel

    def body(self, message: Message) -> Any:
        """See ``HttpSender.body``."""
        title, text = _slack(message.title(), 300), _slack(message.text(), _SLACK_MAX)
        blocks: list[dict[str, Any]] = [
            {"type": "section", "text": {"type": "mrkdwn", "text": f"*{title}*"}},
            {"type": "section", "text": {"type": "mrkdwn", "text": f"```{text}```"}},
            {
                "type": "context",
                "elements": [{"type": "mrkdwn", "text": _slack(message.uid, 300)}],
            },
        ]
        body: dict[str, Any] = {"text": title, "blocks": blocks}
        if self._channel.channel:
            body["channel"] = self._channel.channel
        if self._channel.username:
            body["username"] = self._channel.username
        return body


def _slack(text: str, size: int) -> str:
    """Text in which nothing is a link, a mention or the end of a block of code."""
    text = _cut(text.replace("```", "'''"), size)
    # Escaped it is longer, and what is cut afterwards might end within an escape.
    while len(safe := html.escape(text, quote=False)) > size:
        text = _cut(text, len(text) - 1 - (len(safe) - size) // 5)
    return safe


def _cut(text: str, size: int) -> str:
    return text if len(text) <= size else text[: size - 1] + "…"


class AlertmanagerSender(HttpSender):
    """Alerts for Prometheus Alertmanager: one an audit, or one a group of what was gathered."""

    def __init__(self, channel: Alertmanager) -> None:
        super().__init__(channel)
        self._channel = channel

    def address(self, url: str) -> str:
        """See ``HttpSender.address``."""
        url = url.rstrip("/")
        return url if url.endswith("/api/v2/alerts") else url + "/api/v2/alerts"

    def headers(self) -> dict[str, str]:
        """See ``HttpSender.headers``."""
        channel = self._channel
        if channel.token is not None:
            return {"Authorization": f"Bearer {channel.token.read()}"}
        if channel.username is not None and channel.password is not None:
            login = f"{channel.username}:{channel.password.read()}".encode()
            return {"Authorization": f"Basic {base64.b64encode(login).decode()}"}
        return {}

    def body(self, message: Message) -> Any:
        """See ``HttpSender.body``."""
        audit = message.worst
        if message.kind == "gathered":
            return [self._group(message, group) for group in message.groups]
        said = to_json(audit)
        labels = {
            "alertname": "RoteTest" if message.kind == "test" else "Rote",
            "type": "test" if message.kind == "test" else said["type"],
            **{
                name: said[name]
                for name in ("severity", "host", "container", "image", "namespace", "pod", "rule")
            },
            "id": str(audit.id),
        }
        notes = {"summary": message.title(), "description": message.text(), "id": message.uid}
        return [self._alert(labels, notes, audit.time_ns)]

    def _group(self, message: Message, group: Group) -> dict[str, Any]:
        labels = {
            "alertname": "Rote",
            "type": group.type,
            "severity": Severity(group.severity).name.lower(),
            "host": escape(message.worst.host),
            "image": escape(group.image),
            "rule": escape(group.rule),
            "gathered": "true",
        }
        notes = {"summary": group.line(), "description": message.title(), "id": message.uid}
        return self._alert(labels, notes, group.first_ns)

    def _alert(self, labels: dict[str, str], notes: dict[str, str], ns: int) -> dict[str, Any]:
        return {
            "labels": {
                **{name: value for name, value in labels.items() if value},
                **self._channel.labels,
            },
            "annotations": notes,
            "startsAt": iso(ns),
        }


class PagerDutySender(HttpSender):
    """Events for PagerDuty; the same message twice is one incident."""

    def __init__(self, channel: PagerDuty) -> None:
        super().__init__(channel)
        self._channel = channel

    def body(self, message: Message) -> Any:
        """See ``HttpSender.body``."""
        facts = message.facts()
        # Repeats of one audit belong to its incident.
        key = f"{facts['host']}/{message.worst.id}" if message.kind == "audit" else message.uid
        return {
            "routing_key": self._channel.routing_key.read(),
            "event_action": "trigger",
            "dedup_key": f"rote/{key}"[:255],
            "client": "Rote",
            "payload": {
                "summary": _cut(message.title(), _PAGERDUTY_MAX),
                "source": facts["host"] or "rote",
                "severity": _PAGERDUTY_SEVERITIES[message.severity],
                "timestamp": facts["time"],
                "component": facts["container"],
                "group": facts["image"],
                "class": facts["type"],
                "custom_details": facts["audit"],
            },
        }
