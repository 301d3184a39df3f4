"""Prevention of a Docker container, as a person sees it."""

from __future__ import annotations

from pathlib import Path

from tests.docker.client import Docker
from tests.docker.sensor import Rote

# What it may do all the time, and what it tries while /attack is there.
_SERVICE = """
while :; do
	date >/var/tick
	sleep 0.2
	if [ -e /attack ]; then
		/bin/touch /var/pwned
		(echo pwned >/var/forbidden)
	fi
done
"""
_LEARNED_FOR = 2  # times the service wrote its file anew


def _text(path: Path) -> str:
    return path.read_text() if path.exists() else ""


def test_what_is_unknown_is_refused_and_the_service_goes_on(
    docker: Docker, rote: Rote, busybox_image: str
) -> None:
    """Also while no daemon runs, and after it was killed and started again."""
    options = ("--prevent", busybox_image, "--canary", "2s")
    rote.start(*options)
    container = docker.run(busybox_image, "sh", "-c", _SERVICE)
    root = Path(f"/proc/{container.pid}/root")
    tick = root / "var/tick"
    seen: set[str] = set()

    def ticked() -> bool:
        seen.add(_text(tick))
        return len(seen) > _LEARNED_FOR

    rote.wait_for(lambda: rote.watches(container.id), seconds=20, what="the container")
    rote.wait_for(ticked, seconds=20, what="the service to write")
    rote("models", "activate", busybox_image)
    rote.wait_for(
        lambda: [row for row in rote.containers() if row["prevented"]],
        seconds=20,
        what="prevention",
    )

    def attack() -> int:
        before = rote_refused()
        (root / "attack").touch()
        rote.wait_for(lambda: rote_refused() >= before + 2, seconds=20, what="refusals")
        (root / "attack").unlink()
        return rote_refused() - before

    def rote_refused() -> int:
        (row,) = rote.containers()
        return int(row["refused"])

    def still_works() -> None:
        old = _text(tick)
        rote.wait_for(lambda: _text(tick) not in (old, ""), seconds=20, what="the service")
        assert container.inspect()["State"]["Running"]
        assert not (root / "var/pwned").exists()
        assert not _text(root / "var/forbidden")

    assert attack() >= 2
    still_works()
    outcomes = {(audit["sensor"], audit["outcome"]) for audit in rote.audits()}
    guarantee = rote.status()["attachment"]["guarantee"]
    assert outcomes & {("process", "killed"), ("process", "denied")}, outcomes
    assert guarantee in ("kill", "deny")
    status = rote.status()["prevention"]
    assert status["containers"] == 1
    assert not status["failed"]

    assert rote.stop(number=9) == -9
    (root / "attack").touch()
    old = _text(tick)
    rote.wait_for(lambda: _text(tick) not in (old, ""), seconds=20, what="the service")
    still_works()
    (root / "attack").unlink()

    rote.start(*options)
    rote.wait_for(lambda: rote.watches(container.id), seconds=20, what="the container")
    assert rote.status()["attachment"]["reused"]
    assert attack() >= 2
    still_works()
    rote.wait_for(
        lambda: rote.status()["prevention"]["proved_at"], seconds=30, what="the canary's try"
    )
    assert not rote.status()["prevention"]["failed"]
