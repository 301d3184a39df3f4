"""Channel files: what they may say, what is said of a wrong one, and that secrets stay secret."""

from __future__ import annotations

import os
from pathlib import Path

import jsonschema
import orjson
import pytest
import yaml

from sensor.audits.audit import Severity
from sensor.channels.files import (
    CHANNELS_DIR,
    ChannelConfig,
    missing_secrets,
    read_channels,
    schema,
    schema_text,
)
from sensor.channels.secrets import Secret, mask_url
from sensor.channels.sender import masked
from sensor.config import Settings
from sensor.errors import SecretError, YamlFileError
from tests.unit.builders import execution
from tests.unit.test_audits import make

ROOT = Path(__file__).parents[2]
EXAMPLES = """\
version: 1
channels:
  - {name: mail, type: email, host: mx.example.org, from: a@example.org, to: [b@example.org],
     username: rote, password: {env: P}}
  - {name: chat, type: slack, url: {file: /run/secrets/chat}}
  - name: hook
    type: webhook
    url: https://h.example.org/in
    headers: {Authorization: {env: T}, X-Team: shop}
    hmac: {secret: {file: /run/secrets/hmac}}
    template: {what: "{{message}}", n: "{{count}}"}
  - {name: log, type: syslog, transport: tls, host: log.example.org, format: ocsf}
  - {name: sock, type: syslog, transport: unix, path: /dev/log}
  - {name: jd, type: journald}
  - {name: am, type: alertmanager, url: "http://am:9093", labels: {team: shop}}
  - {name: pd, type: pagerduty, routing_key: {env: K}}
  - {name: rest, type: apprise, url: {env: U}, gather: hour, give_up_after: 7d}
"""


def write(directory: Path, channels: str, name: str = "a.yaml") -> Path:
    """A file with these channels."""
    path = directory / name
    path.write_text(f"version: 1\nchannels:\n{channels}")
    return path


def refusal(path: Path) -> str:
    """What is said about a directory; one line, without the directory's own name."""
    with pytest.raises(YamlFileError) as caught:
        read_channels(path)
    message = str(caught.value)
    assert "\n" not in message
    return message.removeprefix(f"{path}/")


def one(directory: Path, channel: str) -> ChannelConfig:
    """The one channel of a file."""
    return read_channels(write(directory, f"- {channel}"))[0]


def test_every_type_is_read(tmp_path: Path) -> None:
    """One of each, in two files; files and channels in order."""
    (tmp_path / "b.yaml").write_text(EXAMPLES)
    write(tmp_path, "- {name: first, type: journald, enabled: no}")
    (tmp_path / "c.yaml").write_text("# nothing yet\n")
    found = read_channels(tmp_path)
    assert [channel.name for channel in found] == [
        "first", "mail", "chat", "hook", "log", "sock", "jd", "am", "pd", "rest",
    ]  # fmt: skip
    assert found[0].enabled is False
    assert found[-1].give_up_after == 7 * 86400
    assert read_channels(tmp_path / "nowhere") == []
    assert Settings().channels_dir == CHANNELS_DIR


URL = "url: http://h/x"
MAIL = "host: h, from: a@b, to: [a@b]"


@pytest.mark.parametrize(
    ("channel", "expected"),
    [
        (
            f"{{name: a, type: slack, {URL}, gahter: hour}}",
            "gahter: unknown field; did you mean 'g",
        ),
        (f"{{name: a, type: slak, {URL}}}", "type: 'slak', expected one of email, slack"),
        ("{name: a, type: slack}", "url: missing"),
        (f"{{name: a, type: slack, {URL}, gather: weekly}}", "gather: 'weekly', expected 'imm"),
        (f"{{name: a b, type: slack, {URL}}}", "name: expected letters"),
        (f"{{name: journal, type: slack, {URL}}}", "name: 'journal' is always there"),
        (f"{{name: a, type: slack, {URL}, severity: hihg}}", "severity: 'hihg', expected"),
        (
            f"{{name: a, type: slack, {URL}, types: [unknwn_program]}}",
            "types: 'unknwn_program' mat",
        ),
        (
            f"{{name: a, type: slack, {URL}, timeout: 2h}}",
            "timeout: 7200 seconds, expected from 1s",
        ),
        (f"{{name: a, type: slack, {URL}, timeout: soon}}", "timeout: duration 'soon': expected"),
        (f"{{name: a, type: slack, {URL}, give_up_after: 1s}}", "give_up_after: 1 seconds"),
        ("{name: a, type: slack, url: 'ftp://h/x'}", "url: expected an address like https://"),
        (f"{{name: a, type: webhook, {URL}, template: '{{'}}", "template: not JSON"),
        (
            f"{{name: a, type: webhook, {URL}, template: {{x: '{{{{mesage}}}}'}}}}",
            "template: unknown",
        ),
        (f"{{name: a, type: webhook, {URL}, format: xml}}", "format: 'xml', expected"),
        (f"{{name: a, type: webhook, {URL}, headers: {{'a b': c}}}}", "headers: 'a b' is no name"),
        ("{name: a, type: syslog}", "transport udp: expected host"),
        ("{name: a, type: syslog, transport: unix, host: h}", "transport unix: expected path"),
        ("{name: a, type: syslog, host: h, port: 70000}", "port: 70000, expected less than or eq"),
        ("{name: a, type: email, host: h, from: me, to: [a@b]}", "from: expected an address like"),
        ("{name: a, type: email, host: h, from: a@b, to: []}", "to: "),
        (
            "{name: a, type: email, host: h, from: a@b, to: [a@b], username: u}",
            "username and passw",
        ),
        (
            f"{{name: a, type: email, {MAIL}, username: u, password: {{env: P}}, tls: none}}",
            "tls: none would show the password",
        ),
        (f"{{name: a, type: alertmanager, {URL}, labels: {{a-b: c}}}}", "labels: 'a-b' is no name"),
        ("{name: a, type: slack, url: {file: x}}", "url: the file of a secret: expected a path"),
        ("{name: a, type: slack, url: {}}", "url: expected either {file: /PATH} or {env: NAME}"),
    ],
)
def test_a_wrong_field_is_one_line(tmp_path: Path, channel: str, expected: str) -> None:
    """File, line, field, what was expected, the nearest valid name."""
    write(tmp_path, f"# one\n- {channel}\n")
    message = refusal(tmp_path)
    assert message.startswith("a.yaml:4: channels[0]")
    assert expected in message


def test_names_are_unique_among_all_files(tmp_path: Path) -> None:
    """The second is refused, with the place of the first."""
    write(tmp_path, "- {name: ops, type: journald}", "a.yaml")
    write(tmp_path, "- {name: x, type: journald}\n- {name: ops, type: journald}", "b.yaml")
    assert refusal(tmp_path) == (
        f"b.yaml:4: channels[1].name: 'ops' is the name of another, at {tmp_path}/a.yaml:3"
    )


def test_what_is_no_file_is_refused(tmp_path: Path) -> None:
    """A directory, a loop, 10 MB, a bomb, another version: a line each."""
    bad = tmp_path / "z.yaml"
    bad.mkdir()
    assert refusal(tmp_path) == "z.yaml: a directory; expected a YAML file"
    bad.rmdir()
    bad.symlink_to(bad)
    assert "symbolic links that lead to one another" in refusal(tmp_path)
    bad.unlink()
    bad.write_bytes(b"#" * 10_000_000)
    assert refusal(tmp_path) == "z.yaml: 10000000 bytes; expected at most 1048576"
    bomb = ["a: &a [x,x,x,x,x,x,x,x,x]"] + [
        f"{c}: &{c} [{','.join([f'*{p}'] * 9)}]"
        for p, c in zip("abcdefgh", "bcdefghi", strict=True)
    ]
    bad.write_text("\n".join(bomb))
    assert "more than 100000 values" in refusal(tmp_path)
    bad.write_text("version: 2\nchannels: []")
    assert refusal(tmp_path) == "z.yaml:1: version: 2, expected 1"


@pytest.mark.parametrize(
    "channel",
    [
        "{name: a, type: pagerduty, routing_key: hunter2}",
        "{name: a, type: pagerduty, routing_key: {file: hunter2}}",
        "{name: a, type: pagerduty, routing_key: {value: hunter2}}",
        "{name: a, type: pagerduty, rooting_key: hunter2}",
        "{name: a, type: slack, url: hunter2}",
        "{name: a, type: slack, url: 'https://[hunter2'}",
        "{name: a, type: apprise, url: hunter2}",
        "{name: a, type: webhook, url: 'http://h', headers: {Authorization: Bearer hunter2}}",
        "{name: a, type: webhook, url: 'http://h', hmac: {secret: hunter2}}",
        "{name: a, type: email, host: h, from: a@b, to: [a@b], username: u, password: hunter2}",
        "{name: a, type: alertmanager, url: 'http://h', token: [hunter2]}",
    ],
)
def test_a_secret_in_the_file_is_refused_and_not_repeated(tmp_path: Path, channel: str) -> None:
    """Secrets are named, not written; whoever writes one does not find it in a log as well."""
    write(tmp_path, f"- {channel}")
    assert "hunter2" not in refusal(tmp_path)


def test_secrets_are_read_when_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """From a file or the environment; what is missing is said without a value."""
    file = tmp_path / "s"
    file.write_text("hunter2\n")
    assert Secret(file=file).read() == "hunter2"
    file.write_text("hunter3")
    assert Secret(file=file).read() == "hunter3"
    monkeypatch.setenv("ROTE_TEST", "hunter4")
    assert Secret(env="ROTE_TEST").read() == "hunter4"
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    for wrong, content in ((file, b""), (file, b"hunter2\nhunter3"), (file, b"\xff"), (fifo, b"")):
        if wrong is file:
            file.write_bytes(content)
        with pytest.raises(SecretError) as caught:
            Secret(file=wrong).read()
        assert str(wrong) in str(caught.value)
        assert "hunter" not in str(caught.value)
    channel = one(tmp_path, "{name: pd, type: pagerduty, routing_key: {file: /nowhere/key}}")
    assert missing_secrets(channel) == [
        "channel pd: /nowhere/key: No such file or directory; expected a secret"
    ]


def test_nothing_shows_a_secret(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not the repr, not the target, not an error that repeats it."""
    monkeypatch.setenv("ROTE_TOKEN", "hunter2")
    channel = one(
        tmp_path,
        "{name: a, type: webhook, url: 'https://u:pw@h.example.org:8443/services/T0/hunter3', "
        "headers: {Authorization: {env: ROTE_TOKEN}}, hmac: {secret: {env: ROTE_TOKEN}}}",
    )
    shown = f"{channel!r} {channel} {channel.target()}"
    error = "cannot reach https://u:pw@h.example.org:8443/services/T0/hunter3 with hunter2\x1b[2J"
    shown += masked(error, channel)
    assert "hunter" not in shown
    assert "pw@" not in shown
    assert "\x1b" not in shown
    assert channel.target() == "https://h.example.org:8443/…"
    assert mask_url("http://[::1]:80/") == "http://[::1]:80"
    rest = one(tmp_path, "{name: a, type: apprise, url: 'tgram://hunter2/chat'}")
    assert rest.target() == "tgram://…"


def test_which_audits_a_channel_wants(tmp_path: Path) -> None:
    """All filters must hold; an empty list holds for everything."""
    audit = make(execution("/bin/nc"))  # high, of container web, image shop/web:1.2
    assert audit.severity is Severity.HIGH

    def wants(text: str) -> bool:
        return one(tmp_path, f"{{name: a, type: journald{text}}}").wants(audit)

    assert wants("")
    assert wants(", severity: high, types: ['unknown_*'], images: ['shop/*'], containers: [web]")
    assert wants(f", containers: ['{audit.container_id[:8]}*'], rules: [x, default]")
    assert not wants(", severity: critical")
    assert not wants(", types: ['*_write']")
    assert not wants(", images: ['other/*']")
    assert not wants(", containers: [db]")
    assert not wants(", rules: [x]")


def test_the_schema_is_current_and_agrees() -> None:
    """docs/channels.schema.json is what the code says, and accepts what the code accepts."""
    published = (ROOT / "docs/channels.schema.json").read_text(encoding="utf-8")
    assert published == schema_text(), "run scripts/gen-docs"
    jsonschema.Draft202012Validator.check_schema(schema())
    validator = jsonschema.Draft202012Validator(orjson.loads(published))
    assert not list(validator.iter_errors(yaml.safe_load(EXAMPLES)))
    for wrong in (
        "{version: 2, channels: []}",
        "{version: 1, channels: [{name: a, type: slack}]}",
        "{version: 1, channels: [{name: a, type: journald, nonsense: 1}]}",
        "{version: 1, channels: [{name: a, type: pagerduty, routing_key: hunter2}]}",
        "{version: 1, channels: [{name: a, type: slack, url: {file: /a, env: B}}]}",
    ):
        assert list(validator.iter_errors(yaml.safe_load(wrong))), wrong
