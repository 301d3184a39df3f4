"""`rote channels`, with a daemon and without."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import orjson
import pytest
from click.testing import CliRunner, Result

from sensor.channels.channel import Channels
from sensor.cli.main import rote
from sensor.config import Settings
from sensor.errors import DeliveryError, NotRunningError, RoteError, SecretError, YamlFileError
from tests.unit.builders import execution
from tests.unit.sinks import HttpSink, http_sink
from tests.unit.test_audits import make
from tests.unit.test_control import Running
from tests.waiting import wait_for


class Commands:
    """`rote channels` on a directory of files."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.files = directory / "channels.d"
        self.files.mkdir()

    def write(self, channels: str) -> None:
        """The channel file."""
        (self.files / "a.yaml").write_text(f"version: 1\nchannels:\n{channels}\n")

    def __call__(self, *arguments: str) -> Result:
        """Run it."""
        return CliRunner().invoke(
            rote,
            ["--run-dir", str(self.directory / "run"), "channels", *arguments],
            env={"ROTE_CHANNELS": str(self.files)},
        )


@pytest.fixture
def commands(tmp_path: Path) -> Commands:
    """Files, and no daemon."""
    return Commands(tmp_path)


@pytest.fixture
def sink() -> Iterator[HttpSink]:
    """A receiver."""
    with http_sink() as made:
        yield made


def test_without_a_daemon(commands: Commands, sink: HttpSink) -> None:
    """List, check, schema and test work from the files alone; status needs a daemon."""
    assert "no channels" in commands("list").stderr
    commands.write(
        f"- {{name: hook, type: webhook, url: '{sink.url}/secret-path'}}\n"
        "- {name: gone, type: syslog, transport: unix, path: /nowhere/log}\n"
        "- {name: off, type: journald, enabled: false}"
    )
    listed = commands("list")
    assert listed.output.splitlines()[1].split()[:2] == ["hook", "webhook"]
    assert "secret-path" not in listed.output
    assert [row["name"] for row in orjson.loads(commands("list", "-o", "json").output)] == [
        "hook", "gone", "off",
    ]  # fmt: skip
    assert commands("check").output == f"{commands.files}: 3 channels, good\n"
    assert orjson.loads(commands("schema").output)["properties"]["version"]
    tried = commands("test")
    assert isinstance(tried.exception, DeliveryError)
    assert str(tried.exception) == "not delivered: gone"
    assert tried.exception.exit_code == 4
    assert "FAILED" in tried.output
    assert "No such file or directory" in tried.output
    assert commands("test", "hook").exception is None
    assert [orjson.loads(body)["test"] for _, _, _, body in sink.requests] == [True, True]
    assert isinstance(commands("status").exception, NotRunningError)


def test_check_says_what_is_wrong(commands: Commands, tmp_path: Path) -> None:
    """A wrong file, a secret that is missing, a path that is not there."""
    commands.write("- {name: a, type: pagerduty, routing_key: {file: /nowhere/key}}")
    found = commands("check").exception
    assert isinstance(found, SecretError)
    assert str(found) == "channel a: /nowhere/key: No such file or directory; expected a secret"
    commands.write("- {name: a, type: pagerdutty, routing_key: {file: /nowhere/key}}")
    found = commands("check", str(commands.files / "a.yaml")).exception
    assert isinstance(found, YamlFileError)
    assert found.exit_code == 3
    assert "a.yaml:3: channels[0].type: 'pagerdutty'" in str(found)
    assert "did you mean 'pagerduty'?" in str(found)
    missing = commands("check", str(tmp_path / "nowhere")).exception
    assert isinstance(missing, RoteError)
    assert "nowhere: not there" in str(missing)


def test_with_a_daemon(commands: Commands, sink: HttpSink, monkeypatch: pytest.MonkeyPatch) -> None:
    """Audits of a running daemon arrive; status, test and reload ask it."""
    commands.write(f"- {{name: hook, type: webhook, url: '{sink.url}'}}")
    original = Settings

    def settings(**values: object) -> Settings:
        return replace(original(**values), channels_dir=commands.files)  # type: ignore[arg-type]

    monkeypatch.setattr("tests.unit.test_control.Settings", settings)
    daemon = Running(commands.directory)
    try:
        channels: list[Channels] = []

        def record(pipeline: object) -> None:
            (audit,) = pipeline.audits.add_many([make(execution("/bin/nc"))])  # type: ignore[attr-defined]
            channels.append(pipeline.channels)  # type: ignore[attr-defined]
            channels[0].send(audit)

        daemon.call(record)
        wait_for(lambda: sink.requests, seconds=10, what="the audit", step=0.01)
        assert orjson.loads(sink.requests[0][3])["program"] == "/bin/nc"

        def row() -> dict[str, object]:
            rows = orjson.loads(commands("status", "-o", "json").output)["channels"]
            found: dict[str, object] = next(row for row in rows if row["name"] == "hook")
            return found

        wait_for(lambda: row()["sent"] == 1, seconds=10, what="the count", step=0.01)
        assert "hook" in commands("status").output
        assert commands("test", "hook").exception is None
        wrong = commands("test", "hok").exception
        assert isinstance(wrong, RoteError)
        assert wrong.exit_code == 2
        commands.write(f"- {{name: hook, type: webhook, url: '{sink.url}', serverity: high}}")
        refused = commands("reload").exception
        assert isinstance(refused, RoteError)
        assert (refused.exit_code, "did you mean 'severity'?" in str(refused)) == (3, True)
        assert "not in use: " in commands("status").stderr
        commands.write(f"- {{name: other, type: webhook, url: '{sink.url}'}}")
        assert commands("reload").output == "added: other\nremoved: hook\n"
    finally:
        daemon.stop()
