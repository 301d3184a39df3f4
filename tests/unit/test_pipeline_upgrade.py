"""A new image starts from what the earlier one's model knew, and believes it once it is seen."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path
from typing import Any, Self

import pytest

from sensor.containers.container import Container, Image
from sensor.control.handlers import Handlers
from sensor.errors import UsageError
from sensor.events import EventFlag, Operation, OperationClass, Origin
from sensor.models.arguments import exec_key
from sensor.models.diff import difference
from sensor.models.incidence import UNIT
from sensor.models.inherit import drop_missing, find_parent, unconfirmed
from sensor.models.keys import ANY_ARGUMENTS, ExecKey, WriteKey
from sensor.models.learning import LearningSettings, next_state
from sensor.models.model import Evidence, ModelState, Source
from sensor.models.phases import Phase
from tests.unit.builders import CGROUP, change, container, execution
from tests.unit.stories import DRY_RUN_SECONDS, LEARN_SECONDS, Story

DAY_NS = 86_400 * 10**9
NEW = Image("shop/web", "1.3", "", "sha256:" + "b" * 64)


def newer(name: str = "newer", **values: Any) -> Container:
    """A container of the next image."""
    return container(name, **{"image": NEW, "cgroup_id": CGROUP + 1, "pid": 0, **values})


def later(event: Any) -> Any:
    """The same in that container."""
    event.cgroup_id = CGROUP + 1
    return event


@pytest.fixture
def story(tmp_path: Path) -> Story:
    """A service of the first image, learned on two days, but for one tool."""
    host = Story(tmp_path)
    model = host.learn(
        execution("/bin/serve", ""),
        execution("/bin/tool"),
        execution("/bin/once"),
        change("/var/lib/web/temp-1.db"),
        change("/etc/passwd", "/bin/tool", pid=4_000_100),
    )
    for key, evidence in model.keys.items():
        if not (isinstance(key, ExecKey) and key.program.path == "/bin/once"):
            evidence.last_ns = evidence.first_ns + DAY_NS
    host.models.changed(model)
    return host


def test_only_what_is_certain_is_carried_and_nothing_is_believed_yet(story: Story) -> None:
    """Keys of one container on one day may be an intruder's."""
    old = story.models.all()[0]
    model = story.start(newer())
    assert model is not old
    assert model.state is ModelState.LEARNING
    assert model.inherited_from == old.id
    assert model.unconfirmed == len(old.keys) - 2  # not /bin/once; the entrypoint is known anyway
    assert not any(getattr(k, "program", None) == "/bin/once" for k in model.trust.inherited)
    assert len(model.keys) == 1  # the entrypoint


def test_what_is_seen_is_confirmed_silently(story: Story) -> None:
    """Also in a dry run, which it does not start again; the kernel knows it from then on."""
    model = story.start(newer())
    before = model.unconfirmed
    told = [
        later(execution("/bin/tool")),
        later(change("/var/lib/web/temp-77.db")),
    ]
    model.state, model.dry_run_seconds = ModelState.DRY_RUN, 5.0
    assert story.happen(*told) == 2
    assert model.unconfirmed == before - 2
    assert story.happen(*told, later(change("/var/lib/web/temp-9.db"))) == 0
    assert not [a for a in story.recorded() if a.container_id == newer().id]
    assert (model.dry_run_seconds, model.extensions) == (5.0, 0)
    confirmed = [e for e in model.keys.values() if e.source is Source.INHERITED]
    assert [(e.count, e.containers) for e in confirmed] == [(1, 1), (1, 1)]
    # Something else is new all the same.
    assert story.happen(later(execution("/bin/other"))) == 1
    assert [a.path for a in story.recorded() if a.container_id == newer().id] == ["/bin/other"]


def test_a_suspect_confirms_nothing(story: Story) -> None:
    """It is not the service that it imitates."""
    model = story.start(newer())
    before = model.unconfirmed
    story.happen(later(execution("/tmp/x", origin=Origin.ADDED, pid=4_000_200)))
    story.happen(later(execution("/bin/tool", pid=4_000_200)))
    assert model.unconfirmed == before


def test_what_was_not_seen_alarms_nobody_later_but_protected_places_do(story: Story) -> None:
    """Once the model is active, the kernel knows the rest, without protected places."""
    model = story.start(newer())
    story.wait(LEARN_SECONDS)
    story.wait(DRY_RUN_SECONDS)
    assert model.state is ModelState.ACTIVE
    assert story.happen(later(execution("/bin/tool"))) == 0
    assert story.happen(later(change("/var/lib/web/temp-3.db"))) == 0
    assert story.happen(later(change("/etc/passwd", "/bin/tool", pid=4_000_201))) == 1
    assert story.recorded()[-1].path == "/etc/passwd"
    assert model.unconfirmed == 3  # the kernel does not tell that it was seen
    kept = {key for key in model.trust.inherited if isinstance(key, WriteKey)}
    assert {key.pattern for key in kept} == {"/etc/passwd"}


def test_a_protected_place_is_learned_anew_by_the_service_only(story: Story) -> None:
    """With its alert, as for any image."""
    model = story.start(newer())
    story.happen(later(execution("/bin/tool")))
    story.happen(later(change("/etc/passwd", "/bin/tool", pid=4_000_201)))
    assert any(isinstance(k, WriteKey) and k.pattern == "/etc/passwd" for k in model.keys)
    assert story.recorded()[-1].path == "/etc/passwd"
    assert not [k for k in unconfirmed(model) if getattr(k, "pattern", "") == "/etc/passwd"]


def test_programs_that_the_new_image_does_not_hold_are_dropped(
    story: Story, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With everything that they would have done; looked up in the container's own root."""
    asked: list[int] = []

    class Programs:
        def __init__(self, pid: int) -> None:
            asked.append(pid)

        def __enter__(self) -> Self:
            return self

        def __exit__(self, *_: object) -> None:
            pass

        def exist(self, path: str) -> bool:
            return path != "/bin/tool"

    monkeypatch.setattr("sensor.pipeline.ImagePrograms", Programs)
    model = story.start(newer(pid=222))
    assert asked == [222]
    left = model.trust.inherited
    assert {key.program.path for key in left} == {"/bin/serve"}
    assert model.trust.checked
    story.start(newer("second", pid=333, cgroup_id=CGROUP + 2))
    assert asked == [222]


def test_a_root_that_is_the_hosts_is_not_looked_at(story: Story) -> None:
    """The runtime has not set up the container yet: later."""
    model = story.start(newer(pid=os.getpid()))
    assert not model.trust.checked
    assert model.trust.inherited


def test_a_volume_is_not_the_images(story: Story) -> None:
    """What lies there stays, whatever the image holds."""
    model = story.models.all()[0]
    key = next(k for k in model.keys if isinstance(k, ExecKey) and k.program.path == "/bin/tool")
    on_volume = ExecKey(key.parent, key.program, Origin.MOUNT, key.actor)
    model.trust.inherited = {key: Evidence(1, 1), on_volume: Evidence(1, 1)}
    assert drop_missing(model, lambda path: path == "/bin/serve") == [key]


def test_which_model_is_the_parent(story: Story) -> None:
    """Same repository; same launch first, else the same entrypoint; never another image's."""
    old = story.models.all()[0]
    models = story.models.all()
    assert find_parent(newer(), models) is old
    assert find_parent(newer(env_names=("NEW",)), models) is old
    assert find_parent(newer(entrypoint=("/bin/migrate",)), models) is None
    assert find_parent(newer(image=Image("shop/other", "1", "", "sha256:c")), models) is None
    assert find_parent(newer(image=Image("", "", "", "sha256:c")), models) is None
    assert find_parent(container("again"), models) is None


def test_what_people_decided_holds_for_the_next_image(story: Story) -> None:
    """Removed keys stay out; they are not inherited either."""
    old = story.models.all()[0]
    (tool,) = [k for k in old.keys if isinstance(k, ExecKey) and k.program.path == "/bin/tool"]
    old.remove([tool])
    old.trust.removed[tool] = 1
    model = story.start(newer())
    assert tool not in model.trust.inherited
    story.happen(later(execution("/bin/tool")))
    assert tool not in model.keys


def test_the_difference_is_shown(story: Story) -> None:
    """What vanished, what is new, what is yet to be seen; by default against the parent."""
    old = story.models.all()[0]
    model = story.start(newer())
    story.happen(later(execution("/bin/tool")), later(execution("/bin/fresh")))
    found = difference(old, model)
    marks = {line[0]: line for line in found.lines()}
    assert [line for line in found.lines() if line[0] == "-"] == [marks["-"]]
    assert "/bin/once" in marks["-"]
    assert "/bin/fresh" in marks["+"]
    assert any("temp-<N>.db" in line for line in found.lines() if line[0] == "?")
    handlers = Handlers(story.pipeline, {}, lambda: None, dict)
    ask = handlers.table()["models.diff"]
    assert ask({"left": "", "right": model.id})["lines"] == found.lines()
    with pytest.raises(UsageError, match="started from no earlier one"):
        ask({"left": "", "right": old.id})
    story.stop()
    story.models.remove(old)
    with pytest.raises(UsageError, match="was removed"):
        ask({"left": "", "right": model.id})


def test_classes_of_changes_are_told_apart(story: Story) -> None:
    """An inherited write confirms no removal."""
    model = story.start(newer())
    key = next(
        k for k in model.trust.inherited if isinstance(k, WriteKey) and "temp" in k.pattern
    )  # fmt: skip
    assert key.operation is OperationClass.WRITE
    story.happen(later(change("/var/lib/web/temp-1.db", operation=Operation.UNLINK)))
    assert key in model.trust.inherited


def test_an_interpreter_is_confirmed_by_how_it_was_called(story: Story) -> None:
    """Also where the earlier model knew it whatever its arguments are; another call is new."""
    old = story.models.all()[0]
    shaped = later(execution("/bin/sh", argv=("sh", "/opt/job.sh")))
    free = later(execution("/bin/python3", argv=("python3", "/opt/any.py")))
    for event, shape in ((shaped, None), (free, ANY_ARGUMENTS)):
        key = exec_key(event)
        key = key if shape is None else replace(key, shape=shape)
        old.add(key, Evidence(1, 1 + DAY_NS))
    model = story.start(newer())
    assert story.happen(shaped, free) == 2
    assert not [a for a in story.recorded() if a.container_id == newer().id]
    confirmed = {k for k, e in model.keys.items() if e.source is Source.INHERITED}
    assert {k.shape for k in confirmed if isinstance(k, ExecKey)} == {
        exec_key(shaped).shape, ANY_ARGUMENTS,
    }  # fmt: skip
    story.happen(later(execution("/bin/sh", argv=("sh", "/opt/other.sh"))))
    learned = [k for k, e in model.keys.items() if e.source is Source.LEARNED]
    assert len(learned) == 1


def test_what_belongs_to_the_start_up_is_confirmed_by_a_start_up_only(story: Story) -> None:
    """Later it is news, as it was for the earlier image."""
    old = story.models.all()[0]
    event = later(execution("/bin/chown", "/bin/entry"))
    old.add(exec_key(event), Evidence(1, 1 + DAY_NS, phases=Phase.STARTUP))
    model = story.start(newer())
    key = exec_key(event)
    story.happen(later(execution("/bin/chown", "/bin/entry", flags=EventFlag.STARTUP)))
    assert model.keys[key].source is Source.INHERITED
    assert model.keys[key].phases == Phase.STARTUP
    del model.keys[key]
    model.trust.inherited[key] = Evidence(1, 1, phases=Phase.STARTUP)
    story.pipeline.reload_model(model)
    story.happen(event)
    assert model.keys[key].source is Source.LEARNED


def test_learning_takes_minutes_where_the_image_does_the_same(story: Story) -> None:
    """One start and ten active minutes without news; more of the old than is missing."""
    settings = LearningSettings(learn_seconds=86400, learn_min_seconds=600)
    model = story.start(newer())
    model.trust.checked = True
    now_ns = 5_000 * 10**9

    def moves() -> bool:
        return next_state(model, settings, now_ns) is not None

    model.runs, model.observed_seconds = 1, 600.0
    model.incidence.starts, model.incidence.units[UNIT] = 1, 10
    assert not moves()  # nothing was seen again
    story.happen(
        later(execution("/bin/serve", "")),
        later(execution("/bin/tool")),
        later(change("/var/lib/web/temp-77.db")),
    )
    assert model.unconfirmed == 1
    move = next_state(model, settings, now_ns)
    assert move is not None
    assert move.state is ModelState.DRY_RUN
    assert move.cause.startswith("2 of 3 keys of the earlier image's model were seen again, 0 are")
    spoiled: tuple[tuple[Any, str, Any], ...] = (
        (model.incidence, "units", [0] * len(model.incidence.units)),
        (model.incidence, "starts", 0),
        (model, "lost_seconds", 1.0),
        (model.trust, "checked", False),
    )
    for where, name, wrong in spoiled:
        right = getattr(where, name)
        setattr(where, name, wrong)
        assert not moves()
        setattr(where, name, right)
        assert moves()
    story.happen(later(execution("/bin/news", time_ns=now_ns - 599 * 10**9)))
    assert not moves()
    now_ns += 2 * 10**9
    assert moves()
