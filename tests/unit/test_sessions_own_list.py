"""What people did by hand while a model learned is nothing new for people, and for nobody else."""

from __future__ import annotations

from pathlib import Path

import pytest

from sensor.audits.audit import AuditType
from sensor.events import Actor, Event, Origin
from tests.unit.builders import change, container, execution
from tests.unit.stories import Story

INSIDE = {"actor": Actor.SESSION}
LATER_NS = 1_000 * 10**9


def listing(**values: object) -> Event:
    """Somebody's shell lists files."""
    return execution("/bin/ls", "/bin/sh", **{**INSIDE, **values})


@pytest.fixture
def story(tmp_path: Path) -> Story:
    """Somebody came in while the model learned; now it is active."""
    story = Story(tmp_path)
    model = story.start(container())
    story.happen(
        execution("/bin/serve", ""),
        execution("/bin/sh", "", **INSIDE),
        listing(),
        change("/tmp/notes", "/bin/sh", **INSIDE),
        change("/etc/passwd", "/bin/sh", **INSIDE),
    )
    assert not any("/bin/ls" in str(key) for key in model.keys)
    story.models.activate(model)
    story.pipeline.reload_model(model)
    return story


def told(story: Story, *events: Event) -> list[AuditType]:
    """The audits that follow."""
    before = len(story.recorded())
    for event in events:
        event.time_ns += LATER_NS  # no repeat of what was told while it learned
    story.happen(*events)
    return [audit.type for audit in story.recorded()[before:]]


def test_what_sessions_did_before_is_silent(story: Story) -> None:
    """Coming in is told; what follows as before is not."""
    assert told(story, execution("/bin/sh", "", **INSIDE)) == [AuditType.EXEC_SESSION]
    assert told(story, listing(), change("/tmp/notes", "/bin/sh", **INSIDE)) == []


def test_it_says_nothing_about_the_service(story: Story) -> None:
    """The same by the service is new."""
    assert told(story, execution("/bin/ls", "/bin/sh")) == [AuditType.UNKNOWN_PROGRAM]


def test_protected_places_and_dropped_programs_are_told_every_time(story: Story) -> None:
    """Whatever somebody did while the model learned."""
    assert told(story, change("/etc/passwd", "/bin/sh", **INSIDE)) == [AuditType.PROTECTED_WRITE]
    dropped = listing(origin=Origin.ADDED)
    assert told(story, dropped) == [AuditType.CHANGED_PROGRAM]


def test_what_sessions_do_later_stays_news(story: Story) -> None:
    """The list is not added to by doing it once."""
    other = execution("/bin/cat", "/bin/sh", **INSIDE)
    assert told(story, other) == [AuditType.UNKNOWN_PROGRAM]
    (model,) = story.models.all()
    assert not any("/bin/cat" in str(key) for key in model.sessions)
