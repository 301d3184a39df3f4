"""What must not be told twice, and who must be asked after."""

from __future__ import annotations

from pathlib import Path

from sensor.audits.query import AuditQuery
from sensor.events import Actor
from sensor.models.model import ModelState
from tests.unit.builders import CGROUP, execution
from tests.unit.stories import Story


class Asked:
    """A registry that remembers whom it was asked about."""

    def __init__(self) -> None:
        self.seen: list[tuple[int, int]] = []

    def is_pending(self, cgroup_id: int) -> bool:
        """Whether somebody is looking already."""
        return any(cgroup == cgroup_id for cgroup, _ in self.seen)

    def process_seen(self, cgroup_id: int, pid: int) -> None:
        """Note the question."""
        self.seen.append((cgroup_id, pid))


def test_a_probe_that_does_what_the_service_does_is_silent(tmp_path: Path) -> None:
    """Health checks cost the loop nothing."""
    story = Story(tmp_path)
    story.start()
    story.kernel.feed(execution("/bin/date", "/bin/serve"))
    story.pipeline.drain()
    probe = execution("/bin/date", "/bin/serve", actor=Actor.PROBE)
    assert story.kernel.feed(probe) == 0


def test_repeats_are_told_ever_more_rarely(tmp_path: Path) -> None:
    """A deviation that goes on is told at its 1st, 2nd, 4th and 8th time, and counted always."""
    story = Story(tmp_path)
    model = story.start()
    model.state = ModelState.ACTIVE
    for i in range(10):
        story.kernel.feed(execution("/bin/nc", time_ns=10**18 + i))
        story.pipeline.drain()
    assert len(story.shown.audits) == 4
    assert [audit.count for audit in story.audits.query(AuditQuery())] == [10]


def test_strangers_are_asked_about(tmp_path: Path) -> None:
    """Events of a cgroup whose creation nobody saw make the registry look, once."""
    story = Story(tmp_path)
    asked = Asked()
    story.pipeline.registry = asked  # type: ignore[assignment]
    story.kernel.feed(execution("/bin/x", pid=77))
    story.pipeline.drain()
    story.pipeline.tick()
    story.pipeline.tick()
    assert asked.seen == [(CGROUP, 77)]
