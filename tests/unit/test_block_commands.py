"""`rote block` and its like: what a person types, sees, and gets wrong."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import orjson
import pytest
from click.testing import CliRunner, Result

from sensor.cli import main
from sensor.containers.container import Container
from sensor.control.blocking import block_handlers, finder
from sensor.control.server import Handler
from sensor.errors import RoteError
from sensor.responses.quarantine import Quarantine
from sensor.responses.records import RecordStore
from tests.unit.builders import container
from tests.unit.worlds import WEB, Bench, FakeFreezer

TWIN = container("web-2")  # its id begins as the other's
IDLE = container("idle", pid=0)


class Desk:
    """The commands, in front of handlers that share a loop; no socket in between."""

    def __init__(self, directory: Path) -> None:
        self._runner = asyncio.Runner()
        self.bench = self._runner.run(self._bench(directory))
        self.world = self.bench.world
        quarantine = Quarantine(
            RecordStore(directory / "q.db"), FakeFreezer(self.world), self.bench.audits.append
        )
        self.asked: list[str] = []
        self.handlers: dict[str, Handler] = block_handlers(
            self.bench.blocker, quarantine, finder(lambda: [WEB, TWIN], self._ask_runtime)
        )

    async def _bench(self, directory: Path) -> Bench:
        return Bench(directory)

    async def _ask_runtime(self, name: str) -> Container | None:
        self.asked.append(name)
        return IDLE if name == "idle" else None

    def ask(self, verb: str, *, within: float = 0.0, **args: Any) -> Any:
        """As the client does: through plain values."""
        assert within >= 0

        async def answer() -> Any:
            found = self.handlers[verb](orjson.loads(orjson.dumps(args)))
            return await found if inspect.isawaitable(found) else found

        return orjson.loads(orjson.dumps(self._runner.run(answer())))

    def close(self) -> None:
        """End the loop."""
        self._runner.run(self.bench.blocker.close())
        self._runner.close()

    def rote(self, *arguments: str) -> Result:
        """Run a command."""
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(main, "Context", lambda *_: _Context(self))
            return CliRunner().invoke(main.rote, list(arguments))


class _Context(main.Context):
    def __init__(self, desk: Desk) -> None:
        super().__init__(Path(), Path(), debug=False)
        self._desk = desk

    @property
    def client(self) -> Any:
        """Whoever answers."""
        return self._desk


@pytest.fixture
def desk(tmp_path: Path) -> Iterator[Desk]:
    """Two containers run; one does not."""
    desk = Desk(tmp_path)
    yield desk
    desk.close()


def test_the_story_of_a_block(desk: Desk) -> None:
    """Block, list, show, unblock; each says what was done."""
    said = desk.rote("block", "web", "--reason", "mines\ncoins", "--no-evidence")
    assert said.exit_code == 0, said.output
    assert "web: blocked" in said.output
    assert "restart policy  done" in said.output
    assert "always → unless-stopped" in said.output
    assert "not asked for" in said.output

    listed = desk.rote("blocked", "list").output
    assert "mines\\x0acoins" in listed  # nothing that a person typed moves the cursor
    (row,) = orjson.loads(desk.rote("blocked", "list", "-o", "json").output)
    assert (row["id"], row["state"], row["restart_policy"]) == (WEB.id, "blocked", "always")
    assert [step["name"] for step in row["steps"]] == [
        "freeze", "evidence", "restart policy", "stop",
    ]  # fmt: skip
    shown = desk.rote("blocked", "show", WEB.id[:6]).output
    assert "always before" in shown
    assert "by hand" in shown

    said = desk.rote("unblock", "web", "--start")
    assert "web: unblocked and started" in said.output
    assert "restart policy: always again" in said.output
    assert desk.rote("blocked", "list").output == "no container is blocked\n"
    assert "unblocked" in desk.rote("blocked", "list", "--all").output


def test_a_grace_period_is_a_duration(desk: Desk) -> None:
    """Also when it is not one."""
    assert desk.rote("block", "web", "--reason", "x", "--grace", "1m").exit_code == 0
    assert "stop 60" in desk.world.calls
    assert "expected for example" in str(
        desk.rote("block", "web", "--reason", "x", "--grace", "soon").exception
    )


def test_names_find_one_container_or_none(desk: Desk) -> None:
    """A whole name or id, else the beginning of one id, else what a runtime knows."""
    for name, message in (
        ("we", "2 fit: web (web-00000000), web-2 (web-2-000000)"),
        ("nobody", "none of that name or id is running"),
        ("../images/json", "none of that name or id is running"),
    ):
        result = desk.rote("block", name, "--reason", "x")
        assert isinstance(result.exception, RoteError)
        assert message in str(result.exception)
    assert desk.asked == ["nobody"]  # what cannot be a name is not put into a path
    assert desk.world.calls == []
    assert desk.rote("block", "idle", "--reason", "never again").exit_code == 0
    assert desk.bench.blocker.is_blocked(IDLE.id)
    for command in (("unblock", "web-2"), ("blocked", "show", "web-2")):
        assert "is blocked; see: rote blocked list" in str(desk.rote(*command).exception)
    assert "is in quarantine" in str(desk.rote("release", "web").exception)


def test_a_reason_is_needed(desk: Desk) -> None:
    """An audit without one helps nobody."""
    assert desk.rote("block", "web").exit_code == 2
    assert "reason: expected a text" in str(desk.rote("block", "web", "--reason", " ").exception)


def test_what_could_not_be_done_is_said(desk: Desk) -> None:
    """With the step it was."""
    desk.world.broken["stop 0"] = RuntimeError("boom")
    said = desk.rote("block", "web", "--reason", "x")
    assert "web: blocking" in said.output
    assert "stop            failed" in said.output
    assert "it is tried again until it is" in said.output


def test_quarantine_of_what_does_not_run_is_refused(desk: Desk) -> None:
    """Nothing is listed then."""
    result = desk.rote("quarantine", "idle", "--reason", "x")
    assert "idle: does not run" in str(result.exception)
    assert desk.rote("quarantined").output == "no container is in quarantine\n"
    assert orjson.loads(desk.rote("quarantined", "-o", "json").output) == []
