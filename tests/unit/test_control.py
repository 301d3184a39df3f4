"""The control socket and the commands that use it, with a real daemon on the replay kernel."""

from __future__ import annotations

import asyncio
import contextlib
import io
import os
import socket
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import orjson
import pytest
from click.testing import CliRunner, Result

from sensor.cli.main import rote
from sensor.cli.shell import markdown, walk
from sensor.config import Settings
from sensor.containers.registry import ContainerChange
from sensor.control import protocol
from sensor.control.client import Client
from sensor.control.server import ControlServer
from sensor.daemon import Daemon
from sensor.errors import (
    AlreadyRunningError,
    BadInputError,
    NotRunningError,
    RoteError,
    UsageError,
)
from sensor.pipeline import Pipeline
from sensor.testing import ReplayKernel
from tests.unit.builders import CGROUP, change, container, execution
from tests.waiting import wait_for


class Running:
    """A daemon in a thread, and what a test needs of it."""

    def __init__(self, directory: Path) -> None:
        self.settings = Settings(
            state_dir=directory / "state",
            run_dir=directory / "run",
            runtimes=("none",),
            learn_max_seconds=3600,
        )
        self.kernel = ReplayKernel()
        self.output = io.StringIO()
        self.daemon: Daemon | None = None
        self.failure: RoteError | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread = threading.Thread(target=self._run)
        self._thread.start()
        wait_for(
            lambda: self.failure or (self.daemon and self.daemon.started.is_set()),
            seconds=20,
            what="the daemon's start",
        )
        failure: RoteError | None = self.failure
        if failure is not None:
            self._thread.join()
            raise failure

    def _run(self) -> None:
        async def main() -> None:
            self._loop = asyncio.get_running_loop()
            self.daemon = Daemon(self.settings, kernel=lambda _: self.kernel, output=self.output)
            await self.daemon.run()

        try:
            asyncio.run(main())
        except RoteError as error:
            self.failure = error

    def call(self, function: Callable[[Pipeline], object]) -> None:
        """Do something in the daemon's own thread."""
        assert self._loop is not None
        daemon = self.daemon
        assert daemon is not None

        async def inside() -> None:
            assert daemon.pipeline is not None
            function(daemon.pipeline)

        asyncio.run_coroutine_threadsafe(inside(), self._loop).result(10)

    def stop(self) -> None:
        """Stop it and wait."""
        if self._loop is not None and self.daemon is not None and self._thread.is_alive():
            self._loop.call_soon_threadsafe(self.daemon.stop)
        self._thread.join(20)
        assert not self._thread.is_alive()

    @property
    def client(self) -> Client:
        """A client of it."""
        return Client(self.settings.socket)

    def rote(self, *arguments: str) -> Result:
        """Run a command against it."""
        return CliRunner().invoke(
            rote,
            [
                "--run-dir", str(self.settings.run_dir),
                "--state-dir", str(self.settings.state_dir),
                *arguments,
            ],
        )  # fmt: skip


@pytest.fixture
def running(tmp_path: Path) -> Iterator[Running]:
    """A daemon that has learned one container and saw one deviation."""
    daemon = Running(tmp_path)
    try:
        daemon.call(lambda p: p.on_container(ContainerChange("added", CGROUP, container(), False)))
        daemon.kernel.feed(execution("/bin/tar"), change("/var/log/a-1"))
        daemon.call(lambda p: p.drain())
        daemon.rote("models", "activate", "#1")
        daemon.kernel.feed(execution("/bin/nc", argv=("nc", "--token", "s3cret")))
        daemon.call(lambda p: p.drain())
        yield daemon
    finally:
        daemon.stop()


def test_commands_tell_the_story(running: Running, tmp_path: Path) -> None:
    """Status, containers, models and audits show what happened, in every form."""
    status = running.rote("status")
    assert "1 watched" in status.output
    assert orjson.loads(running.rote("status", "-o", "json").output)["models"] == {"active": 1}
    assert "shop/web:1.2" in running.rote("containers").output
    listed = orjson.loads(running.rote("models", "list", "-o", "json").output)
    assert (listed[0]["executions"], listed[0]["writes"]) == (2, 1)
    shown = running.rote("models", "show", "shop").output
    assert "/bin/tar" in shown
    assert "/var/log/a-<N>" in shown
    assert "nothing is promised yet" in shown
    assert {"expected_per_day", "max_false_alarms_per_day"} <= listed[0].keys()
    assert "AT MOST" in running.rote("models", "list").output
    browser = tmp_path / "shop.html"
    assert running.rote("models", "show", "shop", "--html", str(browser)).exit_code == 0
    assert browser.read_bytes().startswith(b"<!doctype html>")
    nowhere = running.rote("models", "show", "shop", "--html", str(tmp_path / "no" / "x"))
    assert "the page was not written" in str(nowhere.exception)
    audits = [
        orjson.loads(line)
        for line in running.rote("audits", "list", "-o", "jsonl").output.split("\n")
        if line
    ]
    assert [(a["program"], a["type"]) for a in audits] == [("/bin/nc", "unknown_program")]
    assert audits[0]["argv"] == ["nc", "--token", "***"]
    page = running.rote("audits", "show", "1").output
    assert "executed a program that its model does not know" in page
    assert "/bin/nc" in running.output.getvalue()


def test_models_change_by_command(running: Running, tmp_path: Path) -> None:
    """Each verb does what it says, and the kernel is told."""
    file = tmp_path / "web.rote"
    assert running.rote("models", "export", "#1", str(file)).exit_code == 0
    running.rote("models", "archive", "#1")
    assert running.kernel.known_executions == set()
    running.rote("models", "restore", "#1")
    assert running.kernel.known_executions != set()
    assert "learning" in running.rote("models", "extend", "#1").output
    running.rote("models", "learn", "#1")
    assert orjson.loads(running.rote("models", "list", "-o", "json").output)[0]["keys"] == 0
    refused = running.rote("models", "import", str(file))
    assert isinstance(refused.exception, RoteError)
    assert "--replace or --merge" in str(refused.exception)
    assert running.rote("models", "import", "--merge", str(file)).exit_code == 0
    assert orjson.loads(running.rote("models", "list", "-o", "json").output)[0]["keys"] == 3
    assert running.kernel.known_executions != set()
    in_use = running.rote("models", "rm", "--yes", "#1")
    assert "running containers use it" in str(in_use.exception)


def test_bad_model_file_changes_nothing(running: Running, tmp_path: Path) -> None:
    """A damaged file is one line with its name and code 3."""
    file = tmp_path / "bad.rote"
    file.write_bytes(b"\x81\xa5magic")
    refused = running.rote("models", "import", "--replace", str(file))
    assert isinstance(refused.exception, RoteError)
    assert refused.exception.exit_code == 3
    assert str(file) in str(refused.exception)
    assert orjson.loads(running.rote("models", "list", "-o", "json").output)[0]["keys"] == 3


def test_second_daemon_is_refused(running: Running) -> None:
    """Two daemons cannot share a state directory; the second says who has it."""

    async def second() -> None:
        await Daemon(running.settings, kernel=lambda _: ReplayKernel()).run()

    with pytest.raises(AlreadyRunningError, match=f"pid {os.getpid()}"):
        asyncio.run(second())
    assert running.client.ask("status")["containers"] == 1


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\x00",
        b"GET / HTTP/1.1\r\n\r\n",
        b"\xff\xff\xff\xff",
        (5).to_bytes(4, "big") + b"abc",
        (3).to_bytes(4, "big") + b"\xc1\xc1\xc1",
        protocol.encode({"version": 99, "verb": "status"}),
        protocol.encode({"version": 1, "verb": "nonsense"}),
        protocol.encode({"version": 1, "verb": ["status"]}),
        protocol.encode({"version": 1, "verb": "models.show", "args": {"name": "nobody"}}),
        protocol.encode({"version": 1, "verb": "models.import", "args": {}}),
    ],
)
def test_strange_messages_do_not_hurt(running: Running, data: bytes) -> None:
    """Garbage is refused or ignored, and the daemon goes on."""
    with socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(5)
        connection.connect(str(running.settings.socket))
        connection.sendall(data)
        connection.shutdown(socket.SHUT_WR)
        with contextlib.suppress(ConnectionError):
            answer = connection.recv(65536)
            assert not answer or b"error" in answer
    assert running.client.ask("status")["pid"] == os.getpid()


def test_half_open_connections_do_not_hold_others_up(running: Running) -> None:
    """Somebody who connects and says nothing is alone with it."""
    idle = [socket.socket(socket.AF_UNIX) for _ in range(5)]
    try:
        for connection in idle:
            connection.connect(str(running.settings.socket))
        started = time.monotonic()
        running.client.ask("status")
        assert time.monotonic() - started < 5
    finally:
        for connection in idle:
            connection.close()


def test_socket_is_roots_alone(running: Running) -> None:
    """Neither the socket nor its directory is open to others."""
    assert running.settings.socket.stat().st_mode & 0o777 == 0o600
    assert running.settings.run_dir.stat().st_mode & 0o777 == 0o700


async def test_other_users_are_refused(tmp_path: Path) -> None:
    """Whoever gets hold of the socket must still be the owner."""
    server = ControlServer(tmp_path / "s", {"status": lambda _: "secret"}, owner=4711)
    await server.start()
    try:
        client = Client(tmp_path / "s")
        with pytest.raises(RoteError, match=f"user {os.geteuid()} may not ask"):
            await asyncio.to_thread(client.ask, "status")
        assert server.refused == 1
    finally:
        await server.stop()


def test_follow_streams_and_ends_with_the_daemon(running: Running) -> None:
    """New audits come as they are stored; the end of the daemon is said."""
    seen: list[bytes] = []
    ended: list[str] = []

    def collect() -> None:
        try:
            for item in filter(None, running.client.stream("audits.follow")):
                seen.append(item)  # noqa: PERF402 - as it comes, not at the end
        except NotRunningError as error:
            ended.append(str(error))

    thread = threading.Thread(target=collect)
    thread.start()
    wait_for(lambda: len(seen) == 1, seconds=10, what="the earlier audit")
    running.kernel.feed(execution("/bin/id"))
    running.call(lambda p: p.drain())
    wait_for(lambda: len(seen) == 2, seconds=10, what="the new audit")
    running.stop()
    thread.join(10)
    assert ended
    assert "closed the connection" in ended[0]


def test_without_a_daemon(running: Running) -> None:
    """Audits can still be read; everything else says that no daemon answers, with code 6."""
    running.stop()
    assert "unknown_program" in running.rote("audits", "list").output
    refused = running.rote("status")
    assert isinstance(refused.exception, NotRunningError)
    assert refused.exception.exit_code == 6


def test_verify_with_and_without_a_daemon(running: Running) -> None:
    """It prints the head, checks heads, and ends with 3 and the place when something is wrong."""
    audit = orjson.loads(running.rote("audits", "list", "-o", "jsonl").output)
    head = f"{audit['sequence']}:{audit['hash']}"
    good = running.rote("audits", "verify", "--head", head)
    assert (good.exit_code, head in good.output) == (0, True), good.output
    wait_for(
        lambda: (running.settings.state_dir / "audits.head").read_text().strip() == head,
        seconds=5,
        what="the head beside the database",
    )
    with sqlite3.connect(running.settings.audits_db) as db:
        db.execute("DELETE FROM chain")
    db.close()
    cut = running.rote("audits", "verify")
    assert isinstance(cut.exception, BadInputError)
    assert cut.exception.exit_code == 3
    assert "the running daemon remembers" in cut.output
    assert "the file beside the database says" in cut.output
    running.stop()
    alone = running.rote("audits", "verify", "--head", "7:" + "0" * 64, "-o", "json")
    assert isinstance(alone.exception, BadInputError)
    found = orjson.loads(alone.stdout)
    assert found["good"] is False
    assert any("was noted elsewhere" in problem for problem in found["problems"])
    wrong = running.rote("audits", "verify", "--head", "7")
    assert isinstance(wrong.exception, UsageError)
    (running.settings.audits_db).unlink()
    assert isinstance(running.rote("audits", "verify").exception, NotRunningError)


def test_export_in_every_form(running: Running, tmp_path: Path) -> None:
    """One JSON object a line, in the form asked for; filters hold."""
    for form, key in (("rote", "id"), ("ocsf", "class_uid"), ("ecs", "ecs"), ("falco", "priority")):
        target = tmp_path / form
        done = running.rote("audits", "export", str(target), "--format", form, "--rule", "def*")
        assert done.exit_code == 0, done.output
        assert key in orjson.loads(target.read_bytes())
    assert running.rote("audits", "export", "-", "--rule", "other").output == ""


def test_stale_socket_is_replaced(tmp_path: Path) -> None:
    """What a killed daemon left behind does not stop the next one."""
    (tmp_path / "run").mkdir()
    with socket.socket(socket.AF_UNIX) as stale:
        stale.bind(str(tmp_path / "run/control.sock"))
    daemon = Running(tmp_path)
    try:
        assert daemon.client.ask("status")["containers"] == 0
    finally:
        daemon.stop()


def test_every_command_is_in_the_documentation() -> None:
    """docs/cli.md is what scripts/gen-docs makes; every command has a help text."""
    page = Path(__file__).parents[2] / "docs/cli.md"
    assert page.read_text(encoding="utf-8") == markdown(rote), "run scripts/gen-docs"
    assert all(command.help for _, command in walk(rote, ("rote",)))
