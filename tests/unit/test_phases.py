"""Start-up and steady operation: what is known only until the service has started."""

from __future__ import annotations

from pathlib import Path

import pytest

from sensor.audits.audit import AuditType
from sensor.events import EventFlag
from sensor.models.files import pack_model, unpack_model
from sensor.models.phases import Phase
from tests.unit.builders import container, execution
from tests.unit.stories import Story

INIT = 100  # the container's first process
START = EventFlag.STARTUP
CHOWN = execution("/bin/chown", "/bin/entry.sh", flags=START)
LATER = execution("/bin/chown", "/bin/entry.sh")


@pytest.fixture
def story(tmp_path: Path) -> Story:
    """An entry point that calls tools and becomes the service, watched for long enough."""
    story = Story(tmp_path)
    story.start(container(entrypoint=("/bin/entry.sh",)))
    story.happen(
        execution("/bin/entry.sh", "", flags=START, pid=INIT),
        CHOWN,
        execution("/bin/serve", "/bin/entry.sh", flags=START, pid=INIT),
        execution("/bin/helper", "/bin/serve", flags=START),
        execution("/bin/tool", "/bin/helper", flags=START),
    )
    return story


def after(story: Story, seconds: float) -> None:
    """Time goes by, a second at a step."""
    for _ in range(int(seconds)):
        story.now += 1
        story.pipeline.tick()


def activate(story: Story) -> None:
    """A person ends learning."""
    (model,) = story.models.all()
    story.models.activate(model)
    story.pipeline.reload_model(model)


def types(story: Story) -> list[AuditType]:
    """What was audited."""
    return [audit.type for audit in story.recorded()]


def test_a_tool_of_the_start_up_is_novel_later(story: Story) -> None:
    """The kernel is silent about it at start-up, and afterwards it is an audit of its own kind."""
    after(story, 125)
    activate(story)
    assert story.happen(CHOWN) == 0
    assert story.happen(LATER) == 1
    assert types(story) == [AuditType.STARTUP_PROGRAM]


def test_what_the_service_itself_executes_is_known_for_good(story: Story) -> None:
    """Though it was seen at start-up only: under load it may come again at any time."""
    after(story, 125)
    activate(story)
    helper = execution("/bin/helper", "/bin/serve")
    assert story.happen(helper, execution("/bin/tool", "/bin/helper")) == 0
    assert types(story) == []


def test_too_little_was_watched_to_tell(story: Story) -> None:
    """Half a minute after the start-up nobody knows what recurs."""
    after(story, 60)
    activate(story)
    assert story.happen(LATER) == 0
    assert types(story) == []


def test_seen_again_later_it_is_learned_as_steady(story: Story) -> None:
    """While it learns, the kernel reports the first time after the start-up, and then no more."""
    after(story, 40)
    assert story.happen(LATER) == 1
    assert story.happen(LATER) == 0
    (model,) = story.models.all()
    phases = {key.program.path: e.phases for key, e in model.keys.items() if hasattr(key, "parent")}
    assert phases["/bin/chown"] == Phase.STARTUP | Phase.STEADY
    after(story, 60)
    activate(story)
    assert story.happen(LATER) == 0
    assert types(story) == []


def test_phases_survive_the_store(story: Story) -> None:
    """What is known of start-ups is part of the model."""
    after(story, 125)
    (model,) = story.models.all()
    again = unpack_model(pack_model(model), model.number, "test")
    assert again.steady_seconds == model.steady_seconds
    assert [e.phases for e in again.keys.values()] == [e.phases for e in model.keys.values()]
