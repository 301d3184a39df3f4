"""Rules, decided by the kernel: an action for each kind of deviation, grants and denials."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from sensor.containers.container import Image
from sensor.events import (
    Actor,
    Detection,
    Event,
    EventFlag,
    EventKind,
    Operation,
    OperationClass,
    Origin,
)
from sensor.kernel.live import LiveKernel
from sensor.kernel.port import NOTHING_REFUSED, ContainerFlag, Mode
from sensor.models.keys import ExecKey, Key, Program, WriteKey
from sensor.models.model import Evidence, Model, ModelState
from sensor.responses.knowledge import Knowledge
from sensor.rules.files import rule_from
from sensor.rules.judge import rule_on
from sensor.rules.rule import EMPTY, Rule
from sensor.rules.schema import ContainerRuleModel
from tests.kernel.conftest import Cgroup

Read = Callable[[], list[Event]]
_PLAIN = ContainerFlag.HOST_MOUNTS | ContainerFlag.NO_SESSIONS | ContainerFlag.WATCHED
_RUN = """
import os, sys
def run(*argv, path=None):
    pid = os.fork()
    if pid == 0:
        try:
            os.execv(path or argv[0], argv)
        except OSError as error:
            os._exit(100 + error.errno)
    status = os.waitpid(pid, 0)[1]
    return "k" if os.WIFSIGNALED(status) else "d" if os.WEXITSTATUS(status) == 101 else "r"
def write(path):
    pid = os.fork()
    if pid == 0:
        try:
            with open(path, "w") as file:
                file.write("x")
        except OSError as error:
            os._exit(100 + error.errno)
        os._exit(0)
    status = os.waitpid(pid, 0)[1]
    return "k" if os.WIFSIGNALED(status) else "d" if os.WEXITSTATUS(status) == 101 else "r"
"""
_REFUSED = ("k", "d")


class Judge:
    """A cgroup judged by one model and one rule."""

    def __init__(self, kernel: LiveKernel, cgroup: Cgroup, place: Path) -> None:
        self.kernel = kernel
        self.cgroup = cgroup
        self.place = place
        self.knowledge = Knowledge(kernel)
        self.rule = Rule("none")
        python = str(Path(sys.executable).resolve())
        acting = Program(python)
        tool = Program(self.copy("tool"))
        starting = (Program(""), Program("/usr/bin/env"))
        keys: list[Key] = [
            *(ExecKey(parent, acting, Origin.UNKNOWN, Actor.SERVICE) for parent in starting),
            ExecKey(acting, tool, Origin.UNKNOWN, Actor.SERVICE),
            WriteKey(acting, f"{place}/known/*", OperationClass.WRITE),
        ]
        evidence = {key: Evidence(1, 1) for key in keys}
        self.model = Model("m", 1, Image("test"), "s", ModelState.ACTIVE, keys=evidence)
        self.python = python
        (place / "known").mkdir(exist_ok=True)

    def copy(self, name: str, where: str = "") -> str:
        """A program of this name that ends at once."""
        path = self.place / where / name
        path.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy("/bin/true", path)
        return str(path)

    def by(self, active: bool = True, **content: Any) -> None:
        """Let a rule hold."""
        entry = ContainerRuleModel.model_validate({"name": "r", **content})
        self.rule = rule_from(entry, "test")
        self.knowledge.load(self.model, self.rule)
        flags = _PLAIN | (ContainerFlag.RULES if self.rule.lists != EMPTY else ContainerFlag(0))
        self.kernel.watch(
            self.cgroup.id,
            model=self.knowledge.number(self.model, self.rule),
            flags=flags | ContainerFlag.ERROR_ALLOW,
            mode=Mode(self.rule.refused(active=active), self.rule.ignored(active=active)),
        )

    def run(self, code: str) -> list[str]:
        """Run Python in the cgroup; what it prints, in words."""
        text = self.cgroup.run(self.python, "-I", "-S", "-B", "-c", _RUN + code)
        return text.split()


@pytest.fixture
def judge(kernel: LiveKernel, cgroup: Cgroup, tmp_path: Path) -> Iterator[Judge]:
    """A model that knows a tool and a directory, and no rule yet."""
    made = Judge(kernel, cgroup, tmp_path)
    yield made
    made.knowledge.forget(made.model)
    kernel.watch(cgroup.id, model=0, flags=_PLAIN, mode=NOTHING_REFUSED)


def told(events: list[Event], judge: Judge) -> dict[str, Detection]:
    """What the kernel told: file name → kind. User space makes the same of it."""
    found: dict[str, Detection] = {}
    for event in events:
        if event.kind not in (EventKind.EXEC, EventKind.FILE) or not event.path:
            continue
        if not event.path.startswith(str(judge.place)):
            continue
        ruling = rule_on(event, judge.model, judge.rule, lambda _: "")
        if not event.flags & EventFlag.REPORTED and event.operation is not Operation.SCRIPT:
            assert ruling.detection == event.detection, event
        found[event.path.rpartition("/")[2]] = event.detection
    return found


def test_kinds_of_executions_have_actions_of_their_own(judge: Judge, events: Read) -> None:
    """Unknown ones run and are told, what is denied by name or place is refused."""
    new, evil = judge.copy("new"), judge.copy("evil")
    under, other = judge.copy("x", "under/a"), judge.copy("y", "other")
    judge.by(
        processes={
            "unknown_program": "alert",
            "unknown_parent": "prevent",
            "deny": ["evil", f"{judge.place}/under/**"],
        }
    )
    events()
    code = f"print(*[run(p) for p in {[new, evil, under, other, str(judge.place / 'tool')]!r}])"
    found = judge.run(code)
    assert [word in _REFUSED for word in found] == [False, True, True, False, False], found
    assert told(events(), judge) == {
        "new": Detection.UNKNOWN_PROGRAM,
        "evil": Detection.DENIED_PROGRAM,
        "x": Detection.DENIED_PROGRAM,
        "y": Detection.UNKNOWN_PROGRAM,
    }


def test_denials_hold_while_the_model_learns(judge: Judge, events: Read) -> None:
    """And so they do for what the model knows."""
    new = judge.copy("new")
    judge.by(
        active=False,
        processes={"default": "prevent", "deny": ["tool"]},
        filesystem={"default": "prevent", "deny": [f"{judge.place}/known/no"]},
    )
    events()
    place = judge.place
    found = judge.run(
        f"print(run({new!r}), run('{place}/tool'), write('{place}/known/no'), "
        f"write('{place}/known/yes'), write('{place}/free'))"
    )
    assert [word in _REFUSED for word in found] == [False, True, True, False, False], found
    assert told(events(), judge) == {
        "new": Detection.UNKNOWN_PROGRAM,
        "tool": Detection.DENIED_PROGRAM,
        "no": Detection.DENIED_PATH,
        "free": Detection.UNKNOWN_WRITE,
    }


def test_what_a_rule_allows_is_silent(judge: Judge, events: Read) -> None:
    """By pattern, by name, for any program and for one."""
    deep, named, elsewhere = (
        judge.copy("p", "opt/a"),
        judge.copy("good"),
        judge.copy("p", "opt/a/b"),
    )
    place = judge.place
    (place / "data/a").mkdir(parents=True)
    judge.by(
        processes={"default": "prevent", "allow": [f"{place}/opt/*/p", "good"]},
        filesystem={
            "default": "prevent",
            "allow": [f"{place}/data/**", {"path": f"{place}/log", "by": judge.python}],
        },
    )
    events()
    found = judge.run(
        f"print(run({deep!r}), run({named!r}), write('{place}/data/a/x'), write('{place}/log'), "
        f"run({elsewhere!r}), write('{place}/data2'))"
    )
    refused = [word in _REFUSED for word in found]
    assert refused == [False, False, False, False, True, True], found
    assert told(events(), judge) == {
        "p": Detection.UNKNOWN_PROGRAM,
        "data2": Detection.UNKNOWN_WRITE,
    }


def test_protected_places_and_what_is_ignored(judge: Judge, events: Read) -> None:
    """Code by its name is protected; what is ignored is not even told."""
    place = judge.place
    judge.by(
        filesystem={"unknown_write": "ignore", "protected_write": "prevent"},
        processes={"unknown_program": "ignore"},
    )
    new = judge.copy("new")
    events()
    found = judge.run(
        f"print(write('{place}/plain'), write('{place}/x.py'), write('{place}/.so'), "
        f"write('{place}/unit.service'), write('{place}/long-name-of-code-that-is.php'), "
        f"write('{place}/py'), run({new!r}))"
    )
    refused = [word in _REFUSED for word in found]
    assert refused == [False, True, True, True, True, False, False], found
    assert set(told(events(), judge).values()) == {Detection.PROTECTED_WRITE}


def test_arguments_make_a_known_program_told(judge: Judge, events: Read) -> None:
    """It runs; user space sees the arguments each time."""
    tool = str(judge.place / "tool")
    judge.by(processes={"default": "prevent", "deny": [{"name": "tool", "args": "*--evil*"}]})
    events()
    assert judge.run(f"print(run({tool!r}, '--good'), run({tool!r}, 'x', '--evil'))") == ["r", "r"]
    found = [e for e in events() if e.path == tool]
    assert [e.argv[1:] for e in found] == [("--good",), ("x", "--evil")]
    assert all(e.flags & EventFlag.REPORTED and e.action == "none" for e in found)
    rulings = [rule_on(e, judge.model, judge.rule, lambda _: "") for e in found]
    assert [ruling.known for ruling in rulings] == [True, False]


def test_a_rule_that_changes_leaves_nothing_behind(judge: Judge) -> None:
    """Everything that a loading put into the kernel goes with it."""
    before = (len(judge.kernel.executions()), len(judge.kernel.writes()))
    names = len(judge.kernel.edges())
    judge.by(processes={"deny": ["evil", "/opt/**"]}, filesystem={"allow": ["/data/**"]})
    judge.knowledge.keep_only({})
    assert (len(judge.kernel.executions()), len(judge.kernel.writes())) == before
    # Programs keep their numbers for good: their own edges stay.
    left = len(judge.kernel.edges()) - names
    assert left <= 2 * len(Path(judge.python).parts) + 2 * len(judge.place.parts) + 4
