"""`rote models accept`, `held`, `keys`, `remove-key`, `suggest`, `allow-…`, against a daemon."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import orjson
import pytest

from sensor.containers.registry import ContainerChange
from sensor.events import Origin
from sensor.models.bursts import LIMIT, START_UP_NS
from tests.unit.builders import CGROUP, change, container, execution
from tests.unit.test_control import Running

STARTED = 1_000.0


@pytest.fixture
def daemon(tmp_path: Path) -> Iterator[Running]:
    """A daemon whose model learns a container that has started long ago."""
    running = Running(tmp_path)
    try:
        who = container(started_at=STARTED)
        running.call(lambda p: p.on_container(ContainerChange("added", CGROUP, who, False)))
        running.kernel.feed(execution("/bin/ld"), change("/src/a", "/bin/ld", pid=4_000_010))
        running.call(lambda p: p.drain())
        yield running
    finally:
        running.stop()


def rows(running: Running, *arguments: str) -> list[dict[str, str]]:
    """A listing as JSON."""
    result = running.rote("models", *arguments, "-o", "json")
    assert result.exit_code == 0, result.output
    found: list[dict[str, str]] = orjson.loads(result.output)
    return found


def test_accept(daemon: Running) -> None:
    """One audit, none, both ways at once."""
    daemon.rote("models", "activate", "#1")
    daemon.kernel.feed(execution("/bin/nc"))
    daemon.call(lambda p: p.drain())
    said = daemon.rote("models", "accept", "1")
    words = "exec  /bin/serve → /bin/nc (program, image, service, called with no arguments)"
    assert said.output == f"#1 shop/web:1.2: {words}\n"
    assert daemon.kernel.feed(execution("/bin/nc")) == 0
    assert "knows audit 1 already" in daemon.rote("models", "accept", "1").output
    for wrong in (("accept",), ("accept", "1", "--held", "#1"), ("accept", "99")):
        refused = daemon.rote("models", *wrong)
        assert "audit" in str(refused.exception), wrong
        assert refused.exit_code == 1
    assert rows(daemon, "keys", "#1", "/bin/nc")[0]["remark"] == "accepted"


def test_held(daemon: Running) -> None:
    """A burst is listed with its reason, taken in, and another one dropped."""
    start = int(STARTED * 1e9) + START_UP_NS
    assert daemon.rote("models", "held", "#1").output == "nothing is held\n"

    def burst(parent: str) -> None:
        events = [
            execution(f"/bin/{chr(97 + i)}", parent, time_ns=start, pid=4_001_000 + i)
            for i in range(LIMIT + 1)
        ]
        # In the daemon's own thread, so that it takes them in together.
        daemon.call(lambda p: (daemon.kernel.feed(*events), p.drain()))

    burst("/bin/one")
    assert len(rows(daemon, "held", "#1")) == LIMIT + 1
    shown = daemon.rote("models", "held", "#1").output
    assert "/bin/one executed more than 20 new programs within a minute" in shown
    assert "Held until a person has looked" in daemon.rote("models", "show", "#1").output
    assert len(daemon.rote("models", "accept", "--held", "#1").output.splitlines()) == LIMIT + 1
    burst("/bin/two")
    assert len(daemon.rote("models", "held", "#1", "--drop").output.splitlines()) == LIMIT + 1
    assert rows(daemon, "held", "#1") == []
    assert "nothing is held" in daemon.rote("models", "accept", "--held", "#1").output
    assert f"kept out ({LIMIT + 1})" in daemon.rote("models", "show", "#1").output


def test_keys_are_removed_and_let_back(daemon: Running) -> None:
    """By the id that the listing shows."""
    (row,) = rows(daemon, "keys", "#1", "→ /bin/ld")
    table = daemon.rote("models", "keys", "#1", "→ /bin/ld").output
    assert table.startswith(row["id"])
    said = daemon.rote("models", "remove-key", "#1", row["id"]).output
    assert "removed, and kept out:\n  exec  /bin/serve → /bin/ld" in said
    assert rows(daemon, "keys", "#1", "→ /bin/ld") == []
    said = daemon.rote("models", "remove-key", "--forget", "#1", row["id"]).output
    assert "may be learned again" in said
    missing = daemon.rote("models", "remove-key", "#1", row["id"])
    assert "rote models keys" in str(missing.exception)


def test_suggest_and_allow(daemon: Running) -> None:
    """What is suggested is a command that can be given as it stands."""
    assert daemon.rote("models", "suggest", "#1").output == "nothing to suggest\n"
    made = execution("/src/a", "/bin/make", origin=Origin.ADDED, pid=4_000_011)
    daemon.kernel.feed(made)
    daemon.call(lambda p: p.drain())
    assert rows(daemon, "suggest", "#1")[0]["by"] == "/bin/ld"
    line = daemon.rote("models", "suggest", "#1").output.splitlines()[1]
    words = [word.strip("'") for word in line.partition("rote ")[2].split()]
    said = daemon.rote(*words)
    assert said.output == "#1 shop/web:1.2: may execute what /bin/ld makes below /src\n"
    assert daemon.kernel.feed(made) == 0
    assert "May execute what was made" in daemon.rote("models", "show", "#1").output
    assert "no more" in daemon.rote(*words, "--remove").output
    assert daemon.kernel.feed(made) == 1


def test_diff_with_the_model_it_started_from(daemon: Running) -> None:
    """One name is enough; a model that started from none says so."""
    alone = daemon.rote("models", "diff", "#1")
    assert "started from no earlier one" in str(alone.exception)
