"""A refusal does not blind the model: what was refused can be accepted, and then happens."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from sensor.audits.audit import Action, Audit, AuditType
from sensor.audits.native import to_json
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


def test_what_belongs_to_the_start_up_is_accepted_for_later(story: Story) -> None:
    """The model knows the key already; what it did not know is that it may happen later, too."""
    model = story.models.all()[0]
    model.state = ModelState.LEARNING
    tool = ("/bin/chown", "/bin/entry")
    story.happen(execution(*tool, flags=EventFlag.STARTUP))
    model.steady_seconds = 1000.0
    model.state = ModelState.ACTIVE
    story.pipeline.reload_model(model)
    assert story.happen(execution(*tool)) == 1
    (audit,) = refused(story)
    assert audit.type is AuditType.STARTUP_PROGRAM
    assert len(accept(story, audit.id)[0]["keys"]) == 1
    assert story.happen(execution(*tool)) == 0


def test_arguments_are_accepted_but_told_to_nobody(tmp_path: Path) -> None:
    """The key in the store holds how an interpreter was called; what is sent out does not."""
    rule = uniform("strict", Scope(), Action.PREVENT)
    story = Story(tmp_path, ReplayKernel(guarantee="kill"), Policy(rules=(rule,)))
    story.learn(execution("/bin/serve", ""))
    called = execution("/bin/python3", argv=("python3", "/srv/s3cret.py"))
    story.happen(called)
    audit = story.recorded()[-1]
    assert "s3cret" in audit.keys[0]
    assert "s3cret" not in "".join(to_json(audit)["keys"])
    assert "whatever" not in accept(story, audit.id)[0]["keys"][0]
    assert story.happen(called) == 0
    assert story.happen(execution("/bin/python3", argv=("python3", "/srv/other.py"))) == 1


def test_an_interpreter_that_did_not_even_begin_is_accepted_in_plain_words(story: Story) -> None:
    """Nobody saw its arguments, so none are asked for; the answer says it."""
    called = execution("/bin/python3", argv=("python3", "/srv/job.py"))
    story.happen(called)
    (said,) = accept(story, refused(story)[0].id)
    assert said["keys"][0].endswith(", whatever its arguments are: they were not seen")
    assert story.happen(called) == 0
