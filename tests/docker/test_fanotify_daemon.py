"""The whole way: nothing configured, a rule about images, and what who types `docker run` reads."""

from __future__ import annotations

import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.docker import images
from tests.docker.client import Docker
from tests.docker.engine import PrivateEngine
from tests.docker.sensor import Rote
from tests.docker.test_admission import SECONDS, Judged, alpine_root
from tests.docker.test_admission_gate import ALPINE, BLOCKED, NO_CRITICALS, Gated


class Unconfigured(Gated):
    """An engine that knows nothing of Rote, and the sensor with the fanotify gate."""

    def status(self) -> dict[str, Any]:
        """Of the gate."""
        found: dict[str, Any] = self.rote.status()["gates"]["fanotify"]
        return found

    def listens(self) -> None:
        """Wait until it does."""
        self.rote.wait_for(
            lambda: self.status()["state"] == "on", seconds=SECONDS, what="the gate to listen"
        )


@pytest.fixture(scope="module")
def gated() -> Iterator[Unconfigured]:
    """One for all tests: each puts its own rules in place."""
    engine = PrivateEngine("fand")
    sensor = None
    try:
        engine.start()
        docker = Docker(engine.url)
        images.import_busybox(docker)
        docker("import", "-", ALPINE, stdin=alpine_root())
        state = str(engine.home / "containerd-state")
        options = ("--runtime", f"docker={engine.url}", "--gate-fanotify", state)
        sensor = Rote("fand", options)
        judged = Judged(sensor)
        judged.rate()
        judged.rule()
        judged.start()
        found = Unconfigured(docker, judged)
        found.listens()
        yield found
        docker.clean()
    finally:
        if sensor is not None:
            sensor.remove()
        engine.stop()


def test_a_vulnerable_image_does_not_start(gated: Unconfigured) -> None:
    """The same words as through every gate; the audit says it was refused; others run."""
    gated.rules(NO_CRITICALS)
    before = gated.status()
    assert gated.refused(ALPINE) == BLOCKED
    assert gated.audits("vulnerable_image")[0]["outcome"] == "denied"
    gated.runs(images.BUSYBOX)
    gated.rote.wait_for(
        lambda: gated.status()["injected"] == before["injected"] + 2,
        seconds=SECONDS,
        what="the counts",
    )
    after = gated.status()
    assert (after["missed"], after["late"]) == (0, 0)
    assert "gate        fanotify: on, " in gated.rote("status")


@pytest.mark.parametrize("word", ["allow", "deny"])
@pytest.mark.parametrize("number", [signal.SIGSTOP, signal.SIGKILL])
def test_a_dead_or_hung_daemon_behaves_as_was_chosen(
    gated: Unconfigured, word: str, number: signal.Signals
) -> None:
    """The gate goes on without the daemon where a rule refuses what nobody decided."""
    rote = gated.rote
    gated.rules({**NO_CRITICALS, "on_error": word, "time_limit": "1.5s"})
    time.sleep(1)  # the worker knows, too
    before = gated.status()
    assert rote.process is not None
    rote.process.send_signal(number)
    if number == signal.SIGKILL:
        rote.process.wait(SECONDS)
    try:
        result = gated.run(images.BUSYBOX)
    finally:
        if number == signal.SIGSTOP:
            rote.process.send_signal(signal.SIGCONT)
        else:
            gated.judged.start()
            gated.listens()
    if word == "allow":
        assert result.stdout == "it runs\n", result.stderr
    else:
        assert result.returncode == 125
        assert "it runs" not in result.stdout
        assert "rote: " in result.stderr
    after = gated.status()
    if number == signal.SIGKILL:
        assert before["listener"] != after["listener"]
        rote.wait_for(
            lambda: not Path(f"/proc/{before['listener']}").exists(),
            seconds=SECONDS,
            what="the earlier daemon's gate to end",
        )


def test_where_no_hook_can_be_made_the_open_is_refused(gated: Unconfigured) -> None:
    """Its user reads little; the audit has the reason."""
    rote = gated.rote
    programs = rote.state / "gate-fanotify"
    gated.rules(NO_CRITICALS)
    rote.stop()
    programs.rename(programs.with_name("aside"))
    programs.write_text("no directory")
    try:
        gated.judged.start()
        gated.listens()
        assert gated.status()["way"] == "deny"
        result = gated.run(ALPINE)
        assert result.returncode == 125
        assert "config.json: operation not permitted" in result.stderr
        assert gated.audits("vulnerable_image")[0]["outcome"] == "denied"
        gated.runs(images.BUSYBOX)
        rote.stop()
    finally:
        programs.unlink()
        programs.with_name("aside").rename(programs)
    gated.judged.start()
    gated.listens()
    assert gated.refused(ALPINE) == BLOCKED
