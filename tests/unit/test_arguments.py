"""How interpreters are called: what of it a model remembers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sensor.audits.audit import AuditType
from sensor.events import Actor, Event
from sensor.models.arguments import MANY_SHAPES, shape, shape_text, shapes
from sensor.models.files import pack_model, unpack_model
from sensor.models.keys import ANY_ARGUMENTS, ExecKey, Program
from tests.unit.builders import container, execution
from tests.unit.stories import Story

SH = Program("/usr/bin/dash")
BUSYBOX = Program("/bin/busybox", "sh")


@pytest.mark.parametrize(
    ("program", "argv", "expected"),
    [
        (SH, ["sh", "-c", "rm -rf /"], "-c"),
        (SH, ["sh", "-ec", "true"], "-ec"),
        (SH, ["sh", "/usr/lib/cron/job", "x"], "/usr/lib/cron/job"),
        (SH, ["sh", "-x", "/usr/lib/cron/job"], "-x /usr/lib/cron/job"),
        (SH, ["sh", "/tmp/tmp.Xa1Bc2De3"], "<any>"),
        (SH, ["sh"], "no arguments"),
        (SH, ["sh", "-"], "-"),
        (BUSYBOX, ["busybox", "sh", "-c", "true"], "-c"),
        (BUSYBOX, ["sh", "-c", "true"], "-c"),
        (Program("/usr/bin/python3.11"), ["python3", "-u", "-m", "http.server"], "-u -m"),
        (Program("/usr/bin/python3.11"), ["python3", "/usr/lib/python3.11/x.py"],
         "/usr/lib/python3.11/x.py"),
        (Program("/usr/bin/curl"), ["curl", "--silent", "http://x"], "--silent <any>"),
        (Program("/usr/sbin/nginx"), ["nginx", "-g", "daemon off;"], ANY_ARGUMENTS),
    ],
)  # fmt: skip
def test_the_shape_of_a_call(program: Program, argv: list[str], expected: str) -> None:
    """Options and the first operand; nothing of code that is given along, nothing made up."""
    assert shape_text(shape(program, argv)) == expected


@given(st.lists(st.text(max_size=300), max_size=8))
def test_a_call_is_always_known_by_its_own_shape(arguments: list[str]) -> None:
    """What is remembered of a call is among what it is looked up by, and short enough."""
    argv = ["sh", *(text.replace("\0", "") for text in arguments)]
    assert shape(SH, argv) in shapes(SH, argv)
    assert all(len(label.encode("utf-8", "surrogateescape")) <= 255 for label in shapes(SH, argv))


@pytest.fixture
def story(tmp_path: Path) -> Story:
    """A service that runs a script by a shell, and is active."""
    story = Story(tmp_path)
    model = story.start(container())
    story.happen(called("/usr/lib/job"))
    story.models.activate(model)
    story.pipeline.reload_model(model)
    return story


def called(*arguments: str, **values: Any) -> Event:
    """The service executed a shell."""
    return execution(SH.path, argv=("sh", *arguments), **values)


def test_a_known_shell_told_something_new_is_an_audit_of_its_own(story: Story) -> None:
    """The same script is silent; inline code, or another script, is not."""
    assert story.happen(called("/usr/lib/job", "again")) == 0
    assert story.happen(called("-c", "id"), called("/tmp/evil")) == 2
    assert [audit.type for audit in story.recorded()] == [AuditType.UNKNOWN_ARGUMENTS] * 2


def test_a_session_may_call_what_the_service_calls(story: Story) -> None:
    """In the same way, and in no other."""
    assert (
        story.happen(called("/usr/lib/job", actor=Actor.SESSION)) <= 1
    )  # the first time it is asked about
    assert story.recorded() == []
    story.happen(called("-c", "id", actor=Actor.SESSION))
    assert [audit.type for audit in story.recorded()] == [AuditType.UNKNOWN_ARGUMENTS]


def test_an_answer_about_a_session_is_for_its_arguments_only(story: Story) -> None:
    """What came before the container was known is answered, and lets nothing else pass."""
    (model,) = story.models.all()
    event = called("/usr/lib/job", actor=Actor.SESSION)
    story.pipeline._knowledge.answer(model, event)
    assert story.happen(called("/usr/lib/job", actor=Actor.SESSION)) == 0
    assert story.happen(called("-c", "id", actor=Actor.SESSION)) == 1


def test_called_in_many_ways_it_is_known_in_all(tmp_path: Path) -> None:
    """A service that makes up what it tells its shell causes no endless novelty."""
    story = Story(tmp_path)
    model = story.start(container())
    story.happen(*(called(f"/usr/lib/job-{'x' * n}") for n in range(MANY_SHAPES)))
    keys = [key for key in model.keys if isinstance(key, ExecKey) and key.program == SH]
    assert [key.shape for key in keys] == [ANY_ARGUMENTS]
    assert story.happen(called("/usr/lib/another")) == 0
    again = unpack_model(pack_model(model), model.number, "test")
    assert again.keys == model.keys
