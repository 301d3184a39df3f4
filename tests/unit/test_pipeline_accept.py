"""A refusal does not blind the model: what was refused can be accepted, and then happens."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from sensor.audits.audit import Action, Audit
from sensor.control.trust_handlers import TrustHandlers
from sensor.errors import UsageError
from sensor.events import EventFlag, Operation, Origin, WalkEnd
from sensor.models.files import key_from_text
from sensor.models.model import ModelState, Source
from sensor.rules.policy import Policy
from sensor.rules.rule import uniform
from sensor.rules.scope import Scope
from sensor.testing import ReplayKernel
from tests.unit.builders import change, container, execution
from tests.unit.stories import Story, session


@pytest.fixture
def story(tmp_path: Path) -> Story:
    """A host that refuses, and a service whose model is active."""
    rule = uniform("strict", Scope(), Action.PREVENT)
    host = Story(tmp_path, ReplayKernel(guarantee="deny"), Policy(rules=(rule,)))
    host.learn(execution("/bin/serve", ""), execution("/bin/sh"), change("/var/lib/a"))
    return host


def accept(story: Story, *audits: int) -> list[dict[str, Any]]:
    """What `rote models accept` does."""
    said: list[dict[str, Any]] = TrustHandlers(story.pipeline).table()["models.accept"](
        {"audits": list(audits)}
    )
    return said


def refused(story: Story) -> list[Audit]:
    """The audits of what was refused, oldest first."""
    return [audit for audit in story.recorded() if audit.outcome == "denied"]


@pytest.mark.parametrize(
    ("event", "others"),
    [
        (execution("/bin/curl", "/bin/sh"), [execution("/bin/wget", "/bin/sh")]),
        (execution("/bin/busybox", "/bin/sh", applet="nc"),
         [execution("/bin/busybox", "/bin/sh", applet="wget")]),
        (change("/var/spool/job-17"), [change("/var/spool/other")]),
        (change("/etc/cron.d/job-17"), [change("/etc/cron.d/job-18")]),
        (change("/var/lib/new", operation=Operation.RENAME, path2="/var/lib/final",
                walk_end2=WalkEnd.ROOT), [change("/var/lib/final")]),
    ],
    ids=["program", "applet", "class", "protected", "rename"],
)  # fmt: skip
def test_what_was_refused_is_accepted_and_works_at_once(
    story: Story, event: Any, others: list[Any]
) -> None:
    """And nothing beside it."""
    assert story.happen(event) == 1
    (audit,) = refused(story)
    model = story.models.all()[0]
    (said,) = accept(story, audit.id)
    assert said["audit"] == audit.id
    assert len(said["keys"]) == len(audit.keys)
    assert story.happen(event) == 0
    assert story.happen(*others) == 1
    assert len(refused(story)) == 2
    accepted = {key for key, e in model.keys.items() if e.source is Source.ACCEPTED}
    assert accepted == {key_from_text(text, "test") for text in audit.keys}
    assert model.state is ModelState.ACTIVE
    assert accept(story, audit.id)[0]["keys"] == []  # it is known by now
    # It lasts.
    story.models.flush()
    kept = Story(story.directory).models.get(model.id)
    assert accepted <= kept.keys.keys()


def test_a_class_is_accepted_as_it_would_have_been_learned(story: Story) -> None:
    """Not the one name that happened to be refused."""
    story.happen(change("/var/spool/job-17"))
    accept(story, refused(story)[0].id)
    assert story.happen(change("/var/spool/job-18")) == 0


def test_a_session_may_be_let_in_but_its_writes_are_not_the_services(story: Story) -> None:
    """The key says that a session does it."""
    story.happen(session("/bin/sh"), change("/var/lib/b", "/bin/sh", actor=session().actor))
    entered, written = refused(story)
    accept(story, entered.id)
    assert story.happen(session("/bin/sh")) == 0
    assert story.happen(execution("/bin/sh", "/bin/other")) == 1
    with pytest.raises(UsageError, match="rote session"):
        accept(story, written.id)


@pytest.mark.parametrize(
    ("event", "why"),
    [
        (execution("/memfd:x", origin=Origin.MEMORY), "memory_program: ignore"),
        (execution("/tmp/x", origin=Origin.ADDED), "added: true"),
        (execution("/bin/x", flags=EventFlag.PATH_TRUNCATED), "not whole.*unknown_program: ignore"),
        (change("/var/x", walk_end=WalkEnd.DETACHED), "detached.*unknown_write: ignore"),
        (change("/var/x", flags=EventFlag.PROGRAM_TRUNCATED), "acting program's path is not whole"),
    ],
)
def test_what_can_never_be_accepted(story: Story, event: Any, why: str) -> None:
    """Refused in one line that says which rule would do; nothing is changed."""
    story.happen(event, execution("/bin/good"))
    never, good = refused(story)
    model = story.models.all()[0]
    known = set(model.keys)
    with pytest.raises(UsageError, match=f"(?s)audit {never.id}: cannot be accepted: .*{why}"):
        accept(story, good.id, never.id)
    assert set(model.keys) == known


def test_audits_that_are_not_there_or_hold_no_keys(story: Story) -> None:
    """An earlier Rote did not keep keys."""
    with pytest.raises(UsageError, match="rote audits list"):
        accept(story, 99)
    story.happen(execution("/bin/x"))
    (audit,) = refused(story)
    audit.keys, audit.id, audit.container_id = (), 0, "elsewhere"
    old = story.audits.add_many([audit])[0]
    with pytest.raises(UsageError, match="earlier Rote"):
        accept(story, old.id)


def test_accepting_lifts_what_a_person_had_removed(story: Story) -> None:
    """The later word counts."""
    model = story.models.all()[0]
    handlers = TrustHandlers(story.pipeline).table()
    handlers["models.remove_keys"]({"model": model.id, "keys": ["/bin/sh"]})
    story.happen(execution("/bin/sh"))
    (audit,) = refused(story)
    accept(story, audit.id)
    assert not model.trust.removed
    assert story.happen(execution("/bin/sh")) == 0
    assert container().id == audit.container_id
