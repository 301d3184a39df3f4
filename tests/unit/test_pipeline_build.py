"""Build images: what they write and execute is told, suggested, and allowed by a person only."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from sensor.audits.audit import Action, AuditType
from sensor.cli.trust_text import suggestion_lines, trust_json
from sensor.control.trust_handlers import TrustHandlers
from sensor.errors import UsageError
from sensor.events import Actor, Operation, Origin, WalkEnd
from sensor.models.files import export_bytes, import_model
from sensor.models.keys import Program
from sensor.models.model import Model, ModelState
from sensor.models.trust import WritesAndExecutes, suggestions, writes_and_executes
from sensor.rules.policy import Policy
from sensor.rules.rule import uniform
from sensor.rules.scope import Scope
from sensor.testing import ReplayKernel
from tests.unit.builders import change, execution
from tests.unit.stories import Story, session

LD = "/usr/bin/ld"


@pytest.fixture
def story(tmp_path: Path) -> Story:
    """A host that refuses what active models do not know."""
    rule = uniform("strict", Scope(), Action.PREVENT)
    return Story(tmp_path, ReplayKernel(guarantee="deny"), Policy(rules=(rule,)))


def made(path: str, parent: str = "/usr/bin/make", **values: Any) -> Any:
    """Something made at run time is executed."""
    return execution(path, parent, **{"origin": Origin.ADDED, "pid": 4_000_500, **values})


def build(story: Story) -> Model:
    """A build that links two programs and executes them."""
    model = story.start()
    story.happen(execution("/usr/bin/make", "/bin/serve"), execution(LD, "/usr/bin/make"))
    for path in ("/src/app/main", "/src/test/unit"):
        story.happen(change(path, LD, pid=4_000_501), made(path), made(path))
    return model


def allow(story: Story, model: Model, directory: str = "/src", **args: Any) -> dict[str, Any]:
    """What `rote models allow-writes-and-executes` does."""
    said: dict[str, Any] = TrustHandlers(story.pipeline).table()["models.writes_and_executes"](
        {"model": model.id, "directory": directory, "by": [LD], **args}
    )
    return said


def test_it_is_suggested_and_never_assumed(story: Story) -> None:
    """With the evidence: who made what, who executed it, how often."""
    model = build(story)
    (one,) = suggestions(model)
    assert one.capability == WritesAndExecutes("/src/**", Program(LD))
    assert one.programs == ("/src/app/main", "/src/test/unit")
    assert (one.executed_by, one.count) == (("/usr/bin/make",), 4)
    assert "--directory '/src/**' --by '/usr/bin/ld'" in suggestion_lines(model)[1]
    assert trust_json(model)["suggestions"][0]["by"] == LD
    assert not model.trust.capabilities
    assert {a.type for a in story.recorded()} == {AuditType.CHANGED_PROGRAM}
    allow(story, model)
    assert suggestions(model) == []


def test_what_nobody_learned_to_write_is_not_suggested(story: Story) -> None:
    """Dropped by a session, by a stranger, into a place of programs, or from memory."""
    model = build(story)
    story.happen(change("/opt/evil", "/bin/sh", actor=Actor.SESSION, pid=4_000_510))
    story.happen(made("/opt/evil", pid=4_000_511))
    story.happen(change("/usr/lib/x.so", LD, pid=4_000_501), made("/usr/lib/x.so", pid=4_000_512))
    story.happen(made("/memfd:x", origin=Origin.MEMORY, pid=4_000_513))
    assert [one.capability.directory for one in suggestions(model)] == ["/src/**"]


def test_allowed_it_is_known_to_the_kernel_below_the_directory_only(story: Story) -> None:
    """Executions of whatever lies there; changes there by that program."""
    model = build(story)
    allow(story, model)
    model.state = ModelState.ACTIVE
    story.pipeline.reload_model(model)
    known = (
        made("/src/app/other"),
        made("/src/app/deep/er", origin=Origin.TMPFS),
        made("/src/lib.so", operation=Operation.MAP_EXEC),
        change("/src/x/y.o", LD),
        change("/src/x/y.o", LD, operation=Operation.UNLINK),
        change("/src/.tmp", LD, operation=Operation.RENAME, path2="/src/bin",
               walk_end2=WalkEnd.ROOT),
        change("/src/bin", LD, operation=Operation.CHMOD),
    )  # fmt: skip
    assert story.happen(*known) == 0
    unknown = (
        made("/src2/x"),
        made("/src"),
        made("/src/m", origin=Origin.MEMORY),
        made("/src/other", walk_end=WalkEnd.DETACHED),
        session("/src/app/other", origin=Origin.ADDED),
        change("/src/x/z.o", "/bin/serve"),
        change("/src/x/z.o", LD, operation=Operation.MOUNT),
    )
    for event in unknown:
        before = len(story.recorded())
        assert story.happen(event) == 1, event
        assert len(story.recorded()) == before + 1, event
        assert story.recorded()[-1].outcome == "denied", event


def test_user_space_gives_the_same_answer(story: Story) -> None:
    """What the kernel could not tell by itself is judged by the same capability."""
    model = build(story)
    allow(story, model)
    by_name: dict[str, Any] = {"walk_end": WalkEnd.BY_NAME, "base": (1, 2), "name": "n"}
    before = len(story.recorded())
    assert story.happen(change("/src/q", LD, **by_name), made("/src/q", **by_name)) == 2
    assert len(story.recorded()) == before


def test_who_was_suspected_for_it_teaches_again(story: Story) -> None:
    """But not who did something else besides."""
    model = build(story)
    story.happen(made("/elsewhere/x", pid=4_000_600))
    allow(story, model)
    story.happen(change("/var/log/make", "/usr/bin/make", pid=4_000_500))
    story.happen(change("/var/log/evil", "/usr/bin/make", pid=4_000_600))
    assert model.writes(Program("/usr/bin/make"), "/var/log/make", 1)
    assert not model.writes(Program("/usr/bin/make"), "/var/log/evil", 1)


def test_it_is_taken_back_exported_and_imported(story: Story) -> None:
    """It belongs to the model."""
    model = build(story)
    allow(story, model)
    taken = import_model(export_bytes(model), "test")
    assert taken.trust.capabilities == {WritesAndExecutes("/src/**", Program(LD))}
    said = allow(story, model, remove=True)
    assert said["capabilities"] == ["what /usr/bin/ld makes below /src"]
    assert story.happen(made("/src/app/other")) == 1
    with pytest.raises(UsageError, match="it may: nothing"):
        allow(story, model, remove=True)
    merged = story.models.take_in(taken, merge=True)
    assert merged.trust.capabilities


@pytest.mark.parametrize(
    ("directory", "by", "why"),
    [
        ("/", LD, "is everything"),
        ("/**", LD, "is everything"),
        ("/*/*", LD, "is everything"),
        ("/usr/bin", LD, "protected place"),
        ("/lib/x/**", LD, "protected place"),
        ("src", LD, "absolute"),
        ("/src/**/x", LD, "at the end"),
        ("/src", "ld", "absolute path"),
        ("/src", "/usr/bin/../ld", "absolute path"),
    ],
)
def test_too_wide_or_wrong(directory: str, by: str, why: str) -> None:
    """One clear line."""
    with pytest.raises(UsageError, match=why):
        writes_and_executes(directory, by)


@pytest.mark.parametrize("directory", ["/src", "/src/", "/src/**", "/root/build", "/builds/*/out"])
def test_directories(directory: str) -> None:
    """The end may be left out; people build in root's home."""
    found = writes_and_executes(directory, "/bin/busybox#sh")
    assert found.directory == f"{directory.removesuffix('/**').rstrip('/')}/**"
    assert found.by == Program("/bin/busybox", "sh")
