"""A model that may execute what one of its programs makes below a directory, in the kernel."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from sensor.events import Detection, Event, EventKind, Origin
from sensor.kernel.live import LiveKernel
from sensor.kernel.port import ContainerFlag, Mode
from sensor.models.keys import Program
from sensor.models.trust import WritesAndExecutes
from sensor.responses.prevent import Prevention
from sensor.rules.judge import rule_on
from sensor.rules.policy import Policy
from tests.kernel.conftest import Cgroup
from tests.kernel.test_rules import Judge

Read = Callable[[], list[Event]]
_REFUSED = ("k", "d")


@pytest.fixture
def shm() -> Iterator[Path]:
    """A directory whose files were certainly made at run time."""
    path = Path(tempfile.mkdtemp(prefix="rote-capability-", dir="/dev/shm"))
    yield path
    shutil.rmtree(path)


@pytest.fixture
def judge(kernel: LiveKernel, cgroup: Cgroup, shm: Path, tmp_path: Path) -> Iterator[Judge]:
    """A model that knows a tool, and may execute what Python makes below ``shm/src``."""
    made = Judge(kernel, cgroup, tmp_path)
    (shm / "src").mkdir()
    yield made
    made.knowledge.forget(made.model)


def allow(judge: Judge, directory: Path) -> None:
    """Load the model with the capability, as the daemon does it."""
    by = Program(judge.python)
    judge.model.trust.capabilities = {WritesAndExecutes(f"{directory}/**", by)}
    judge.by(processes={"default": "prevent"}, filesystem={"default": "prevent"})
    judge.knowledge.load_again(judge.model)
    flags, _ = Prevention(judge.kernel, judge.knowledge, Policy(), "never").mode(
        judge.model, judge.rule
    )
    assert flags & ContainerFlag.RULES
    judge.kernel.watch(
        judge.cgroup.id,
        model=judge.knowledge.number(judge.model, judge.rule),
        flags=flags | ContainerFlag.HOST_MOUNTS | ContainerFlag.NO_SESSIONS
        | ContainerFlag.WATCHED | ContainerFlag.ERROR_ALLOW,
        mode=Mode(judge.rule.refused(active=True), 0),
    )  # fmt: skip


def test_what_is_made_below_the_directory_is_executed(
    judge: Judge, shm: Path, events: Read
) -> None:
    """Silently there, refused beside it; in user space the same."""
    allow(judge, shm / "src")
    inside, deep, beside = shm / "src/x", shm / "src/a/b/y", shm / "z"
    deep.parent.mkdir(parents=True)
    for path in (inside, deep, beside):
        shutil.copy("/bin/true", path)
    events()
    found = judge.run(
        f"print(write('{shm}/src/made'), write('{shm}/src/a/made'), write('{shm}/no'), "
        f"run('{inside}'), run('{deep}'), run('{beside}'))"
    )
    assert [word in _REFUSED for word in found] == [False, False, True, False, False, True], found
    told = [e for e in events() if e.path.startswith(str(shm))]
    assert {(e.path.removeprefix(f"{shm}/"), e.detection) for e in told} == {
        ("no", Detection.UNKNOWN_WRITE),
        ("z", Detection.CHANGED_PROGRAM),
    }
    origins = {e.origin for e in told if e.kind is EventKind.EXEC}
    assert origins == {Origin.TMPFS}
    for event in told:
        assert rule_on(event, judge.model, judge.rule, lambda _: "").detection == event.detection


def test_without_it_nothing_made_is_executed(judge: Judge, shm: Path, events: Read) -> None:
    """Taken away, it is as it was; and nothing of it stays in the maps."""
    program = shm / "src/x"
    shutil.copy("/bin/true", program)
    judge.by(processes={"default": "prevent"}, filesystem={"default": "prevent"})
    (old,) = judge.knowledge.load_again(judge.model)
    judge.knowledge.drop(old)
    before = len(judge.kernel.writes())
    allow(judge, shm / "src")
    assert judge.run(f"print(run('{program}'), write('{shm}/src/w'))") == ["r", "r"]
    assert len(judge.kernel.writes()) > before
    judge.model.trust.capabilities = set()
    earlier = judge.knowledge.load_again(judge.model)
    judge.by(processes={"default": "prevent"}, filesystem={"default": "prevent"})
    for number in earlier:
        judge.knowledge.drop(number)
    events()
    found = judge.run(f"print(run('{program}'), write('{shm}/src/w'))")
    assert all(word in _REFUSED for word in found), found
