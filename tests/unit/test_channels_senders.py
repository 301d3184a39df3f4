"""Each type of channel, sent to something real on loopback."""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import re
import socket
import ssl
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import orjson
import pytest
from aiosmtpd.controller import Controller
from aiosmtpd.smtp import AuthResult, Envelope, LoginPassword

from sensor.audits.audit import Audit, Severity
from sensor.channels.files import ChannelConfig, read_channels
from sensor.channels.message import SAMPLES_MAX, Group, Message, trial_message
from sensor.channels.outbox import attempt, make_sender
from sensor.channels.syslog import line
from sensor.channels.template import fill
from sensor.channels.web import retry_after, sign
from sensor.errors import DeliveryError
from tests.unit.builders import execution
from tests.unit.sinks import CERTIFICATE, Listener, http_sink, tls_server
from tests.unit.test_audits import make
from tests.waiting import wait_for

HOSTILE = 'x"}\n{{audit}}<!channel>&```\x1b[2J\udcff</a>]'


def audit(number: int = 17, **values: Any) -> Audit:
    """An audit as stored."""
    made = make(execution("/bin/nc", argv=("nc", HOSTILE)))
    made.id, made.last_ns, made.container_name = number, made.time_ns, HOSTILE
    for name, value in values.items():
        setattr(made, name, value)
    return made


SINGLE = Message("audit", (audit(),))
GATHERED = Message(
    "gathered",
    (audit(17), audit(18, severity=Severity.CRITICAL)),
    (
        Group("default", "shop/web:1.2", "unknown_program", 4, 3, 9, 10**18, 2 * 10**18),
        Group("strict", "shop/db:1", "changed_program", 5, 1, 1, 10**18, 10**18),
    ),
    ((17, 19), (25, 25)),
)
TEST = trial_message()


@pytest.fixture
def secrets(monkeypatch: pytest.MonkeyPatch) -> None:
    """Secrets in the environment."""
    monkeypatch.setenv("ROTE_TEST_SECRET", "hunter2")


def channel(directory: Path, text: str) -> ChannelConfig:
    """The channel of a text."""
    path = directory / "c.yaml"
    path.write_text(f"version: 1\nchannels:\n- {{name: a, {text}}}")
    return read_channels(path)[0]


async def deliver(
    directory: Path, text: str, *messages: Message, seconds: float = 10
) -> list[str | DeliveryError]:
    """Send messages; what came of each."""
    config = channel(directory, text)
    sender = make_sender(config)
    try:
        return [await attempt(sender, config, message, seconds) for message in messages]
    finally:
        await sender.close()


# E-mail


class _Mailbox:
    def __init__(self) -> None:
        self.mails: list[Envelope] = []
        self.refuse: set[str] = set()
        self.answer = "250 OK"

    async def handle_RCPT(  # noqa: N802 - aiosmtpd's name
        self, _server: Any, _session: Any, envelope: Envelope, address: str, _options: Any
    ) -> str:
        if address in self.refuse:
            return "550 no such user"
        envelope.rcpt_tos.append(address)
        return "250 OK"

    async def handle_DATA(self, _server: Any, _session: Any, envelope: Envelope) -> str:  # noqa: N802
        self.mails.append(envelope)
        return self.answer


@pytest.fixture
def mailbox() -> _Mailbox:
    """Where mail ends up."""
    return _Mailbox()


def _check_login(
    _server: Any, _session: Any, _envelope: Any, _mechanism: str, login: Any
) -> AuthResult:
    assert isinstance(login, LoginPassword)
    return AuthResult(success=(login.login, login.password) == (b"rote", b"hunter2"), handled=False)


@pytest.fixture
def smtp(mailbox: _Mailbox) -> Iterator[Controller]:
    """A server that wants STARTTLS and a login."""
    server = Controller(
        mailbox, hostname="127.0.0.1", port=_free_port(), tls_context=tls_server(),
        require_starttls=True, auth_required=True, authenticator=_check_login,
    )  # fmt: skip
    server.start()
    yield server
    server.stop()


@pytest.fixture
def plain_smtp(mailbox: _Mailbox) -> Iterator[Controller]:
    """A server without."""
    server = Controller(mailbox, hostname="127.0.0.1", port=_free_port())
    server.start()
    yield server
    server.stop()


def _content(mail: Envelope) -> str:
    assert isinstance(mail.content, bytes)
    return mail.content.decode(errors="replace")


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port: int = probe.getsockname()[1]
        return port


MAIL = "type: email, host: 127.0.0.1, from: rote@h.example, to: [ops@h.example, sec@h.example]"


@pytest.mark.usefixtures("secrets")
async def test_mail_with_starttls_and_login(
    tmp_path: Path, smtp: Controller, mailbox: _Mailbox
) -> None:
    """Encrypted, verified, logged in; one audit, what was gathered, and a test."""
    text = f"{MAIL}, port: {smtp.port}, username: rote, password: {{env: ROTE_TEST_SECRET}}"
    found = await deliver(tmp_path, f"{text}, ca_file: {CERTIFICATE}", SINGLE, GATHERED, TEST)
    assert found == ["", "", ""]
    single, gathered, test = (_content(mail) for mail in mailbox.mails)
    assert mailbox.mails[0].rcpt_tos == ["ops@h.example", "sec@h.example"]
    assert "Message-ID: <rote.h-17@h.example>" in single
    assert "X-Rote-Id: h/17" in single
    assert re.search(r"Subject: \[rote\] CRITICAL 4 audits on h", gathered)
    assert "TEST: Rote" in test
    headers = single.partition("\r\n\r\n")[0]
    assert "\x1b" not in headers
    # A server that nobody vouches for gets neither the password nor the mail.
    (found_untrusted,) = await deliver(tmp_path, text, SINGLE)
    assert "TLS: self" in str(found_untrusted)
    assert len(mailbox.mails) == 3


async def test_mail_that_is_refused(
    tmp_path: Path, smtp: Controller, mailbox: _Mailbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A wrong password, no login, no STARTTLS: the server's answer is the error."""
    monkeypatch.setenv("ROTE_TEST_SECRET", "wrong")
    text = f"{MAIL}, port: {smtp.port}, ca_file: {CERTIFICATE}"
    login = "username: rote, password: {env: ROTE_TEST_SECRET}"
    for rest, expected in (
        (login, "SMTP 535"),
        ("tls: starttls", "SMTP 530"),
        ("tls: none", "530"),
    ):
        (found,) = await deliver(tmp_path, f"{text}, {rest}", SINGLE)
        assert isinstance(found, DeliveryError)
        assert expected in str(found)
    assert mailbox.mails == []


async def test_mail_for_some_recipients(
    tmp_path: Path, plain_smtp: Controller, mailbox: _Mailbox
) -> None:
    """One refused of two: delivered, and said. Both: not delivered. DATA refused: only this one."""
    text = f"{MAIL}, port: {plain_smtp.port}, tls: none"
    mailbox.refuse = {"sec@h.example"}
    assert await deliver(tmp_path, text, SINGLE) == ["refused for sec@h.example: 550 no such user"]
    mailbox.refuse = {"sec@h.example", "ops@h.example"}
    (found,) = await deliver(tmp_path, text, SINGLE)
    assert "every recipient was refused: ops@h.example and 1 more: 550" in str(found)
    mailbox.refuse, mailbox.answer = set(), "554 too large"
    (found,) = await deliver(tmp_path, text, SINGLE)
    assert isinstance(found, DeliveryError)
    assert (found.only_this, str(found)) == (True, "SMTP 554: too large")


async def test_a_mail_server_that_hangs(tmp_path: Path) -> None:
    """It ends at the channel's own limit; the loop goes on meanwhile."""
    server = Listener(silent=True)
    began, turns = time.monotonic(), 0
    task = asyncio.create_task(
        deliver(tmp_path, f"{MAIL}, port: {server.port}, tls: none, timeout: 1s", SINGLE, seconds=1)
    )
    while not task.done():
        turns += 1
        await asyncio.sleep(0.01)
    server.close()
    (found,) = await task
    assert isinstance(found, DeliveryError)
    assert "in time" in str(found) or "timed out" in str(found)
    assert time.monotonic() - began < 10
    assert turns > 2  # a loop that is held up does not turn at all


# HTTP


async def test_a_webhook_with_our_format(tmp_path: Path) -> None:
    """The audit as `rote audits list` has it; what is gathered with counts, ids and examples."""
    with http_sink() as sink:
        found = await deliver(
            tmp_path, f"type: webhook, url: '{sink.url}/in'", SINGLE, GATHERED, TEST
        )
    assert found == ["", "", ""]
    (_, path, headers, body), (_, _, _, gathered), (_, _, _, test) = sink.requests
    assert (path, headers["Content-Type"], headers["X-Rote-Id"]) == (
        "/in", "application/json", "h/17",
    )  # fmt: skip
    said = orjson.loads(body)
    assert (said["id"], said["type"], said["program"]) == (17, "unknown_program", "/bin/nc")
    said = orjson.loads(gathered)
    assert (said["gathered"], said["ids"]) == (4, [[17, 19], [25, 25]])
    assert [(g["rule"], g["audits"], g["times"]) for g in said["groups"]] == [
        ("default", 3, 9), ("strict", 1, 1),
    ]  # fmt: skip
    assert orjson.loads(test)["test"] is True


async def test_a_webhook_with_another_format(tmp_path: Path) -> None:
    """Formats that know single audits only get one that stands for what was gathered."""
    with http_sink() as sink:
        await deliver(tmp_path, f"type: webhook, url: '{sink.url}', format: ocsf", SINGLE, GATHERED)
    single, gathered = (orjson.loads(body) for _, _, _, body in sink.requests)
    assert (single["class_uid"], single["count"]) == (2004, 1)
    assert (gathered["count"], gathered["severity"]) == (4, "Critical")
    assert "stands for 4 audits: 17-19, 25" in gathered["unmapped"]["rote"]["remarks"][-1]


@pytest.mark.usefixtures("secrets")
async def test_a_webhook_with_template_headers_and_signature(tmp_path: Path) -> None:
    """What a container chose is a value and no more; the receiver can check who sent it."""
    text = (
        "type: webhook, method: PUT, headers: {Authorization: {env: ROTE_TEST_SECRET}, X-Team: t}, "
        "hmac: {secret: {env: ROTE_TEST_SECRET}}, template: {what: 'in {{container}}: {{count}}', "
        "n: '{{count}}', list: ['{{severity}}', 1], whole: '{{ audit }}', '{{x}}': '{{text}}'}"
    )
    with http_sink() as sink:
        assert await deliver(tmp_path, f"{text}, url: '{sink.url}'", SINGLE) == [""]
    ((method, _, headers, body),) = sink.requests
    said = orjson.loads(body)
    assert set(said) == {"what", "n", "list", "whole", "{{x}}"}
    assert said["what"].startswith('in x"}\\x0a{{audit}}')
    assert (said["n"], said["list"], said["whole"]["id"]) == (1, ["high", 1], 17)
    assert (method, headers["Authorization"], headers["X-Team"]) == ("PUT", "hunter2", "t")
    # As docs/channels.md tells receivers to check it.
    match = re.fullmatch(r"t=(\d+),v1=([0-9a-f]{64})", headers["X-Rote-Signature"])
    assert match is not None
    expected = hmac.new(b"hunter2", match[1].encode() + b"." + body, hashlib.sha256).hexdigest()
    assert hmac.compare_digest(expected, match[2])
    assert abs(int(match[1]) - time.time()) < 60
    assert sign("hunter2", body + b" ", int(match[1])) != headers["X-Rote-Signature"]


def test_macros_of_what_was_gathered() -> None:
    """What is the same in all is said, what differs is `several`."""
    facts = GATHERED.facts()
    assert (facts["type"], facts["program"], facts["kind"]) == ("several", "/bin/nc", "gathered")
    assert fill(["{{ids}} {{kind}}", 3, None], facts) == ["17-19, 25 gathered", 3, None]


async def test_slack(tmp_path: Path) -> None:
    """Text and blocks within Slack's limits; nothing in them is a mention or a link."""
    long = Message("audit", (audit(container_name="<!channel>&" * 2000),))
    with http_sink() as sink:
        text = f"type: slack, url: '{sink.url}/services/T/B/x', channel: '#ops'"
        assert await deliver(tmp_path, text, SINGLE, GATHERED, TEST, long) == ["", "", "", ""]
    for _, _, _, body in sink.requests:
        said = orjson.loads(body)
        assert said["channel"] == "#ops"
        assert "<" not in body.decode()
        texts = [block["text"]["text"] for block in said["blocks"] if "text" in block]
        assert all(0 < len(text) <= 3000 for text in texts)
        assert texts[1].count("```") == 2
        assert not re.search(r"&(?!amp;|lt;|gt;)", body.decode())


@pytest.mark.usefixtures("secrets")
async def test_alertmanager(tmp_path: Path) -> None:
    """One alert an audit, one a group of what was gathered; token or login."""
    with http_sink() as sink:
        text = f"type: alertmanager, url: '{sink.url}/', labels: {{team: shop}}"
        await deliver(tmp_path, f"{text}, token: {{env: ROTE_TEST_SECRET}}", SINGLE, GATHERED)
        login = "username: u, password: {env: ROTE_TEST_SECRET}"
        await deliver(tmp_path, f"{text}, {login}", TEST)
    (_, path, headers, single), (_, _, _, gathered), (_, _, login_headers, test) = sink.requests
    assert (path, headers["Authorization"]) == ("/api/v2/alerts", "Bearer hunter2")
    assert login_headers["Authorization"] == "Basic dTpodW50ZXIy"
    (alert,) = orjson.loads(single)
    assert alert["labels"].items() >= {
        "alertname": "Rote", "team": "shop", "severity": "high", "type": "unknown_program",
        "id": "17",
    }.items()  # fmt: skip
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT[\d:.]+Z", alert["startsAt"])
    assert [alert["labels"]["rule"] for alert in orjson.loads(gathered)] == ["default", "strict"]
    assert orjson.loads(test)[0]["labels"]["alertname"] == "RoteTest"


@pytest.mark.usefixtures("secrets")
async def test_pagerduty(tmp_path: Path) -> None:
    """The key that makes repeats of one audit one incident."""
    repeat = Message("audit", (audit(count=4),))
    with http_sink(lambda _: (202, {}, b"{}")) as sink:
        text = f"type: pagerduty, url: '{sink.url}', routing_key: {{env: ROTE_TEST_SECRET}}"
        assert await deliver(tmp_path, text, SINGLE, repeat, GATHERED) == ["", "", ""]
    single, again, gathered = (orjson.loads(body) for _, _, _, body in sink.requests)
    assert single["routing_key"] == "hunter2"
    assert single["dedup_key"] == again["dedup_key"] == "rote/h/17"
    assert single["payload"]["severity"] == "error"
    assert gathered["payload"]["severity"] == "critical"
    assert gathered["dedup_key"] != single["dedup_key"]


@pytest.mark.parametrize(
    ("status", "headers", "wait", "only_this"),
    [
        (500, {}, 0.0, False),
        (429, {"Retry-After": "7"}, 7.0, False),
        (503, {"Retry-After": "999999"}, 3600.0, False),
        (429, {"Retry-After": "soon"}, 0.0, False),
        (404, {}, 0.0, False),
        (302, {"Location": "http://127.0.0.1:1/"}, 0.0, False),
        (400, {}, 0.0, True),
    ],
)
async def test_answers_that_are_errors(
    tmp_path: Path, status: int, headers: dict[str, str], wait: float, only_this: bool
) -> None:
    """What the other side says is the error; how long it asks to wait is kept to."""
    with http_sink(lambda _: (status, headers, b"no, because\x1b")) as sink:
        (found,) = await deliver(tmp_path, f"type: webhook, url: '{sink.url}'", SINGLE)
    assert isinstance(found, DeliveryError)
    assert str(found).startswith(f"HTTP {status} ")
    assert "no, because" in str(found)
    assert (found.retry_after, found.only_this) == (wait, only_this)
    assert len(sink.requests) == 1  # a redirection is not followed


def test_retry_after_as_a_date() -> None:
    """HTTP has it in two forms."""
    assert 0 < retry_after("Wed, 25 Nov 2099 03:00:00 GMT") == 3600
    assert retry_after("Wed, 25 Nov 2020 03:00:00 GMT") == 0


async def test_a_webhook_that_never_answers_or_is_not_there(tmp_path: Path) -> None:
    """Both end, with a reason."""
    with http_sink(lambda _: (0, {}, b"")) as sink:
        (found,) = await deliver(
            tmp_path, f"type: webhook, url: '{sink.url}', timeout: 1s", SINGLE, seconds=1
        )
        assert "no answer" in str(found)
    (found,) = await deliver(tmp_path, f"type: webhook, url: '{sink.url}'", SINGLE)
    assert str(found) == "cannot connect: Connection refused"
    (found,) = await deliver(tmp_path, "type: webhook, url: {file: /nowhere}", SINGLE)
    assert "/nowhere: No such file" in str(found)


async def test_a_webhook_over_tls(tmp_path: Path) -> None:
    """The certificate is verified."""
    server = Listener(tls_server())
    try:
        (found,) = await deliver(
            tmp_path, f"type: webhook, url: 'https://localhost:{server.port}'", SINGLE
        )
        assert "certificate" in str(found).lower()
    finally:
        server.close()
    assert server.received == []


# Syslog

RFC5424 = re.compile(
    r"<(?P<pri>\d{1,3})>1 (?P<time>\d{4}-\d\d-\d\dT[\d:.]+Z) (?P<host>[!-~]+) rote \d+ "
    r'(?P<id>[A-Z]+) \[rote@32473(?P<data>(?: [a-z]+="(?:[^"\\\]]|\\["\\\]])*")*)\] '
    "\ufeff(?P<text>[^\n]*)"
)


def parse(data: bytes) -> re.Match[str]:
    """A message as RFC 5424 has it."""
    match = RFC5424.fullmatch(data.decode())
    assert match is not None, data
    return match


async def test_syslog_over_udp(tmp_path: Path) -> None:
    """One datagram a message."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as server:
        server.bind(("127.0.0.1", 0))
        server.settimeout(5)
        port = server.getsockname()[1]
        text = f"type: syslog, host: 127.0.0.1, port: {port}, facility: local3"
        assert await deliver(tmp_path, text, SINGLE, GATHERED, TEST) == ["", "", ""]
        single, gathered, test = (parse(server.recv(65536)) for _ in range(3))
        assert single["pri"] == str(19 * 8 + 3)
        assert 'id="h/17"' in single["data"]
        assert 'container="x\\"}' in single["data"]
        assert (gathered["id"], gathered["pri"], test["id"]) == ("GATHERED", "154", "TEST")
        assert 'count="4"' in gathered["data"]
        large = Message("audit", (audit(argv=("x" * 1000,) * 60),))
        found = await deliver(tmp_path, f"{text}, format: rote", SINGLE, large)
        assert found[0] == ""
        assert "longer than a datagram" in str(found[1])
        assert orjson.loads(parse(server.recv(65536))["text"])["id"] == 17
        assert len(server.recv(65536)) <= 8192
    (found_gone,) = await deliver(tmp_path, text, SINGLE)
    assert found_gone == ""  # the first goes into the void: UDP cannot know


@pytest.mark.parametrize("transport", ["tcp", "tls"])
async def test_syslog_over_streams(tmp_path: Path, transport: str) -> None:
    """Octets are counted, so that a message may hold anything."""
    server = Listener(tls_server() if transport == "tls" else None)
    text = f"type: syslog, transport: {transport}, host: localhost, port: {server.port}"
    trust = f", ca_file: {CERTIFICATE}" if transport == "tls" else ""
    assert await deliver(tmp_path, text + trust, SINGLE, GATHERED) == ["", ""]
    wait_for(lambda: len(server.received) == 2, seconds=5, what="two messages", step=0.01)
    if transport == "tls":
        (found,) = await deliver(tmp_path, text, SINGLE)
        assert "TLS: self" in str(found)
    server.close()
    for data in server.received[:2]:
        size, _, rest = data.partition(b" ")
        assert int(size) == len(rest)
        parse(rest)
    (found,) = await deliver(tmp_path, text, SINGLE)
    assert str(found) == "syslog: Connection refused"


async def test_syslog_to_a_unix_socket(tmp_path: Path) -> None:
    """A datagram socket on this host."""
    path = tmp_path / "log"
    text = f"type: syslog, transport: unix, path: {path}"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as server:
        server.bind(str(path))
        server.settimeout(5)
        assert await deliver(tmp_path, text, SINGLE) == [""]
        assert parse(server.recv(65536))["id"] == "AUDIT"
    path.unlink()
    (found,) = await deliver(tmp_path, text, SINGLE)
    assert str(found) == "syslog: No such file or directory"


def test_a_host_without_a_name_is_a_dash(tmp_path: Path) -> None:
    """RFC 5424's nil value."""
    config = channel(tmp_path, "type: syslog, host: h")
    assert parse(line(Message("audit", (audit(host=""),)), config))["host"] == "-"  # type: ignore[arg-type]


# The journal, and the rest


async def test_journald(tmp_path: Path) -> None:
    """Fields as journald reads them, the whole audit among them."""
    path = tmp_path / "journal"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as server:
        server.bind(str(path))
        server.settimeout(5)
        assert await deliver(tmp_path, f"type: journald, socket: {path}", SINGLE, GATHERED) == [
            "",
            "",
        ]
        single, gathered = server.recv(1 << 20), server.recv(1 << 20)
        assert b"\nROTE_ID=h/17\n" in single
        assert b"\nPRIORITY=3\n" in single
        assert b"ROTE_COUNT=4\n" in gathered
        huge = Message("audit", (audit(argv=("x" * 1000,) * 400),))
        (found,) = await deliver(tmp_path, f"type: journald, socket: {path}", huge)
        assert "sent without ROTE_JSON" in str(found)
        assert b"ROTE_JSON" not in server.recv(1 << 20)


@pytest.mark.filterwarnings("ignore")  # of its own and its plugins', at import
async def test_apprise(tmp_path: Path) -> None:
    """Through a service of apprise's; one that refuses; an address that is none."""
    with http_sink(lambda number: (200 if number == 0 else 500, {}, b"")) as sink:
        text = f"type: apprise, url: 'json://127.0.0.1:{sink.port}/x'"
        good, bad = await deliver(tmp_path, text, GATHERED, SINGLE)
    assert good == ""
    assert "the service did not take it" in str(bad)
    said = orjson.loads(sink.requests[0][3])
    assert said["title"].startswith("[rote] CRITICAL 4 audits")
    assert "17-19, 25" in said["message"]
    (found,) = await deliver(tmp_path, "type: apprise, url: 'nonsense://x'", SINGLE)
    assert "does not know such an address" in str(found)


def trial_messages_survive_storage() -> None:
    """What is read is what was written, odd bytes and all; long ones stay short to a reader."""
    for message in (SINGLE, GATHERED, TEST):
        assert Message.unpack(message.pack()) == message
    many = Message(
        "gathered",
        tuple(audit(i) for i in range(SAMPLES_MAX)),
        tuple(Group(f"r{i}", "i", "t", 3, 1, 1, 1, 1) for i in range(1000)),
        tuple((i * 2, i * 2) for i in range(1, 100_000)),
    )
    assert many.count == 1000
    assert len(many.text()) < 40_000
    assert "… up to 199998" in many.ids()
    assert "and 950 other kinds" in many.text()


def test_tls_is_verified() -> None:
    """What tls_context gives checks certificate and name."""
    from sensor.channels.sender import tls_context

    context = tls_context(None)
    assert context.verify_mode is ssl.CERT_REQUIRED
    assert context.check_hostname
    with pytest.raises(DeliveryError, match="/nowhere: No such file"):
        tls_context(Path("/nowhere"))
