"""What the models know is silent, and the kernel's matcher is the Python one's twin."""

from __future__ import annotations

import json
import os
import random
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

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
from sensor.kernel.port import (
    MODEL_ROOT_BASE,
    NODE_PROGRAMS,
    Edge,
    ExecEntry,
    LabelKind,
    NameEntry,
    NodeFlag,
    Seen,
    WriteEntry,
)
from sensor.models.arguments import shape, shapes
from sensor.models.keys import Program
from sensor.models.trie import PathTrie
from sensor.paths import Label, Match, Pattern, canonical, last_labels, split
from tests.kernel.conftest import Cgroup, watch_with_model
from tests.live import KernelTestSettings

Read = Callable[[], list[Event]]
MODEL = 7


class Teacher:
    """Puts programs and patterns into the kernel's maps, as plainly as can be."""

    def __init__(self, kernel: LiveKernel) -> None:
        self.kernel = kernel
        self.next = 100
        self.programs: dict[tuple[int, LabelKind, bytes], int] = {}

    def _number(self) -> int:
        self.next += 1
        return self.next

    def program(self, path: str, applet: str = "") -> int:
        """The node of a program."""
        labels = [(LabelKind.EXACT, part, NodeFlag(0)) for part in split(path)]
        if applet:
            labels[-1] = (*labels[-1][:2], NodeFlag.MULTICALL)
            labels.append((LabelKind.APPLET, applet.encode(), NodeFlag(0)))
        node = NODE_PROGRAMS
        for kind, label, flags in labels:
            key = node, kind, label
            if key not in self.programs:
                self.programs[key] = self._number()
                self.kernel.put_edges([Edge(node, kind, label, self.programs[key], flags)])
                if flags & NodeFlag.MULTICALL:
                    at = self.programs[key]
                    self.kernel.put_edges([Edge(at, LabelKind.APPLET, label, at, flags)])
            node = self.programs[key]
        return node

    def label(self, parent: int, kind: LabelKind, label: bytes) -> int:
        """The node behind one label."""
        node = self._number()
        self.kernel.put_edges([Edge(parent, kind, label, node)])
        return node

    def execution(self, caller: int, program: int) -> None:
        """Make an execution of a plain cgroup's service known."""
        self.kernel.put_exec(
            [ExecEntry(MODEL, caller, program, int(Origin.UNKNOWN), int(Actor.SERVICE))]
        )

    def patterns(self, known: list[Pattern], program: int) -> PathTrie[int]:
        """Let a program write what any of the patterns matches."""
        trie: PathTrie[int] = PathTrie(MODEL_ROOT_BASE + MODEL, self._number)
        for pattern in known:
            trie.insert(pattern, int(OperationClass.WRITE))
        edges, nodes = [], []
        for parent, label, child in trie.edges():
            flags = NodeFlag(0)
            flags |= NodeFlag.HAS_CLASS if child.has_class else NodeFlag(0)
            flags |= NodeFlag.HAS_ANY if child.has_any else NodeFlag(0)
            flags |= NodeFlag.SUBTREE if child.subtree else NodeFlag(0)
            flags |= NodeFlag.HAS_LAST if child.has_last else NodeFlag(0)
            edges.append(
                Edge(parent.number, LabelKind(int(label.match)), label.name, child.number, flags)
            )
        for node in trie.nodes():
            here = int(bool(node.values))
            below = int(bool(node.subtree)) << 16
            nodes.append(WriteEntry(node.number, program, here | below))
        self.kernel.put_edges(edges)
        self.kernel.put_write(nodes)
        return trie


@pytest.fixture
def teacher(kernel: LiveKernel) -> Teacher:
    """Teaches the kernel under test."""
    return Teacher(kernel)


def silent_executions(found: list[Event]) -> set[str]:
    """Names of the programs whose execution was reported."""
    return {Path(e.path).name for e in found if e.kind is EventKind.EXEC}


def real(program: str) -> str:
    """A program's path without symbolic links."""
    return os.path.realpath(shutil.which(program) or program)


def test_known_execution_is_silent_and_others_are_not(
    cgroup: Cgroup, teacher: Teacher, events: Read
) -> None:
    """A known (caller, program) makes no event; the same program from another caller does."""
    shell, env, true = (teacher.program(real(name)) for name in ("sh", "env", "true"))
    watch_with_model(cgroup.kernel, cgroup, MODEL)
    cgroup.run("/bin/sh", "-c", "/bin/true; true")
    before = events()
    python = next(e for e in before if e.kind is EventKind.EXEC).program
    caller = teacher.program(python)
    teacher.execution(caller, shell)
    teacher.execution(shell, true)
    # the test process that enters the cgroup has no number; give it one as the daemon would
    cgroup.run("/usr/bin/env", "/bin/sh", "-c", "/bin/true; true")
    assert "true" not in silent_executions(events())
    assert env
    cgroup.run("/usr/bin/env", "/bin/true")
    assert "true" in silent_executions(events())


def test_applets_are_told_apart(
    cgroup: Cgroup, teacher: Teacher, events: Read, tmp_path: Path
) -> None:
    """A known applet is silent under each way to call it; another applet is not."""
    busybox = shutil.which("busybox")
    assert busybox, "busybox-static is not installed"
    busybox = os.path.realpath(busybox)
    shell = teacher.program(real("sh"))
    teacher.execution(shell, teacher.program(busybox, "true"))
    teacher.execution(teacher.program(real("env")), shell)
    watch_with_model(cgroup.kernel, cgroup, MODEL)
    (tmp_path / "true").symlink_to(busybox)
    (tmp_path / "sleep").symlink_to(busybox)
    cgroup.run("/usr/bin/env", "sh", "-c", f"{tmp_path}/true; {busybox} true; :")
    assert "busybox" not in silent_executions(events())
    for command in (f"{tmp_path}/sleep 0; :", f"{busybox} sleep 0; :"):
        cgroup.run("/usr/bin/env", "sh", "-c", command)
        found = [e for e in events() if e.kind is EventKind.EXEC and e.path == busybox]
        assert [e.applet for e in found] == ["sleep"]


def test_known_write_is_silent_for_its_program_only(
    cgroup: Cgroup, teacher: Teacher, events: Read, tmp_path: Path
) -> None:
    """A write key holds for one program and one kind of change."""
    shell, env = teacher.program(real("sh")), teacher.program(real("env"))
    teacher.execution(env, shell)
    teacher.patterns([Pattern.parse(f"{_text(tmp_path)}/log-<N>")], shell)
    watch_with_model(cgroup.kernel, cgroup, MODEL)
    cgroup.run("/usr/bin/env", "sh", "-c", f"echo x > {tmp_path}/log-20261123")
    cgroup.run("/usr/bin/env", "sh", "-c", f"echo x > {tmp_path}/log-x")
    cgroup.run("/usr/bin/env", "tee", f"{tmp_path}/log-5")
    found = [(Path(e.program).name, Path(e.path).name) for e in events() if _is_write(e, tmp_path)]
    assert found == [(Path(real("sh")).name, "log-x"), ("tee", "log-5")]


def test_names_of_every_length_are_told_apart(
    cgroup: Cgroup, teacher: Teacher, events: Read, tmp_path: Path
) -> None:
    """Short names have a map of their own: at its edge, and cut off, nothing is confused."""
    shell = teacher.program(real("sh"))
    teacher.execution(teacher.program(real("env")), shell)
    lengths = (1, 21, 22, 23, 24, 25, 64, 254)
    known = [f"{_text(tmp_path)}/{'x' * length}" for length in lengths]
    teacher.patterns([Pattern.parse(text) for text in known], shell)
    watch_with_model(cgroup.kernel, cgroup, MODEL)
    for length in lengths:
        cgroup.run("/usr/bin/env", "sh", "-c", f"echo x > {tmp_path}/{'x' * length}")
    assert not [event.path for event in events() if _is_write(event, tmp_path)]
    others = (20, 26, 63, 65, 253, 255)
    for length in others:
        cgroup.run("/usr/bin/env", "sh", "-c", f"echo x > {tmp_path}/{'x' * length}")
    found = [len(Path(event.path).name) for event in events() if _is_write(event, tmp_path)]
    assert found == list(others)


def _text(path: Path) -> str:
    return Pattern.exact(str(path)).text


def _is_write(event: Event, directory: Path) -> bool:
    return (
        event.kind is EventKind.FILE
        and event.operation in (Operation.CREATE, Operation.OPEN_WRITE)
        and event.path.startswith(f"{directory}/")
    )


def _random_name(source: random.Random) -> str:
    alphabet = source.choice(
        ["ab1", "aB3", "0123456789abcdef", "xY9z-_.", "a.b-1", "\x01\x02a1é", "abc"]
    )
    ending = source.choice(["", "", "", ".log", ".so", ".php", ".x"])
    name = "".join(source.choice(alphabet) for _ in range(source.randint(1, 40))) + ending
    return name if name.strip(".") else f"{name}a"


def _random_pattern(source: random.Random, base: Path, parts: list[bytes]) -> Pattern:
    labels = list(Pattern.exact(str(base)).labels)
    for part in parts:
        form = canonical(part)
        how = source.randrange(4)
        if how == 0:
            labels.append(Label(Match.ANY))
        elif how < 3 and form is not None:
            labels.append(Label(Match.CLASS, form))
        else:
            labels.append(Label(Match.EXACT, part))
    how = source.randrange(6)
    if how == 0:
        labels[-1] = Label(Match.SUBTREE)
    elif how < 3 and (last := last_labels(parts[-1])):
        labels[-1] = source.choice(last)
    return Pattern(tuple(labels))


@pytest.mark.parametrize("seed", range(4))
def test_kernel_and_python_agree_on_generated_paths(
    cgroup: Cgroup, teacher: Teacher, events: Read, tmp_path: Path, seed: int
) -> None:
    """Generated names against generated patterns: the kernel is silent exactly where Python is."""
    source = random.Random(f"{seed}")
    base = tmp_path / "d"
    base.mkdir()
    shapes = [[_random_name(source) for _ in range(source.randint(1, 3))] for _ in range(60)]
    encoded = [[os.fsencode(name) for name in shape] for shape in shapes]
    known = [_random_pattern(source, base, parts) for parts in source.sample(encoded, 25)]
    python = teacher.program(os.path.realpath("/usr/bin/python3"))
    trie = teacher.patterns(known, python)
    watch_with_model(cgroup.kernel, cgroup, MODEL)
    probes = [*shapes, *([*shape[:-1], _random_name(source)] for shape in shapes)]
    paths = list(dict.fromkeys("/".join([str(base), *shape]) for shape in probes))
    for path in map(Path, paths):
        if not path.parent.is_file():
            path.parent.mkdir(parents=True, exist_ok=True)
    paths = [p for p in paths if Path(p).parent.is_dir() and not Path(p).is_dir()]
    assert len(paths) > 50
    listing = tmp_path / "list"
    listing.write_bytes(b"\0".join(os.fsencode(path) for path in paths))
    cgroup.run(
        "/usr/bin/env",
        "/usr/bin/python3",
        "-S",
        "-c",
        "import sys\nfor p in open(sys.argv[1],'rb').read().split(b'\\0'): open(p,'wb').close()",
        listing,
    )
    reported = {e.path for e in events() if _is_write(e, base)}
    expected = {path for path in paths if not trie.walk(split(path))}
    assert reported == expected


def test_known_behaviour_is_marked_until_it_is_taken(
    cgroup: Cgroup, teacher: Teacher, events: Read, tmp_path: Path
) -> None:
    """The kernel is silent about what is known, and remembers by which entries it was."""
    shell, env, true = (teacher.program(real(name)) for name in ("sh", "env", "true"))
    teacher.execution(env, shell)
    teacher.execution(shell, true)
    teacher.patterns([Pattern.parse(f"{_text(tmp_path)}/log-<N>")], shell)
    watch_with_model(cgroup.kernel, cgroup, MODEL)
    kernel = cgroup.kernel
    cgroup.run("/usr/bin/env", "sh", "-c", f"echo x > {tmp_path}/log-5")
    events()
    seen = kernel.take_seen(kernel.executions(), kernel.writes())
    assert [entry.program for entry in seen.executions] == [shell]
    assert [(e.program, e.operations) for e in seen.writes] == [(shell, OperationClass.WRITE)]
    assert kernel.take_seen(kernel.executions(), kernel.writes()) == Seen()
    cgroup.run("/usr/bin/env", "sh", "-c", f"{real('true')}; echo x > {tmp_path}/other")
    seen = kernel.take_seen(kernel.executions(), kernel.writes())
    assert {entry.program for entry in seen.executions} == {shell, true}
    assert not seen.writes


def _random_call(source: random.Random) -> list[str]:
    words = ["-c", "-e", "-lc", "-x", "-xyz", "-u", "--rcfile", "--long-option", "-", "--", "true"]
    files = ["/usr/lib/cron/job", "run.sh", "/tmp/x1y2z3.sh", "", "é" * 100, "/opt/" + "a" * 150]
    argv = [source.choice(words) for _ in range(source.randint(0, 5))]
    return [*argv, *(source.choice(files) for _ in range(source.randint(0, 2)))]


@pytest.mark.parametrize("seed", range(2))
def test_kernel_and_python_agree_on_how_interpreters_are_called(
    cgroup: Cgroup, teacher: Teacher, events: Read, tmp_path: Path, seed: int
) -> None:
    """The kernel is silent exactly about the calls whose shape is known."""
    source = random.Random(f"calls {seed}")
    shell = tmp_path / "sh"  # an interpreter by its name
    shutil.copy(real("true"), shell)
    python, node = (
        teacher.program(os.path.realpath("/usr/bin/python3")),
        teacher.program(str(shell)),
    )
    program = Program(str(shell))
    calls = [_random_call(source) for _ in range(80)]
    known = {shape(program, ["sh", *call]) for call in source.sample(calls, 25)}
    service = int(Origin.UNKNOWN), int(Actor.SERVICE)
    cgroup.kernel.put_exec([ExecEntry(MODEL, python, node, *service, by_shape=True)])
    for label in known:
        number = teacher.label(node, LabelKind.SHAPE, os.fsencode(label))
        cgroup.kernel.put_exec([ExecEntry(MODEL, python, number, *service)])
    watch_with_model(cgroup.kernel, cgroup, MODEL)
    listing = tmp_path / "list"
    listing.write_text(json.dumps([["sh", *call] for call in calls]))
    code = "import json,os,sys\nfor a in json.load(open(sys.argv[2])):\n"
    code += " os.waitpid(os.posix_spawn(sys.argv[1], a, {}), 0)"
    cgroup.run("/usr/bin/env", "/usr/bin/python3", "-S", "-c", code, shell, listing)
    found = [e for e in events() if e.kind is EventKind.EXEC and e.path == str(shell)]
    unknown = [call for call in calls if not known & set(shapes(program, ["sh", *call]))]
    assert {e.detection for e in found} == {Detection.UNKNOWN_ARGUMENTS}
    assert [list(e.argv[1:]) for e in found] == unknown


@pytest.fixture
def startup_pause(kernel: LiveKernel) -> Iterator[float]:
    """A pause that tests can wait for; in seconds."""
    kernel.set_startup_pause(2.0)
    yield 2.0
    kernel.set_startup_pause(KernelTestSettings.startup_pause)


def test_what_belongs_to_the_start_up_is_novel_after_it(
    cgroup: Cgroup, teacher: Teacher, events: Read, startup_pause: float
) -> None:
    """A start-up goes on while it does something new, and ends with a pause."""
    shell, true = teacher.program(real("sh")), teacher.program(real("true"))
    teacher.execution(teacher.program(real("env")), shell)
    entry = ExecEntry(MODEL, shell, true, int(Origin.UNKNOWN), int(Actor.SERVICE), startup=True)
    cgroup.kernel.put_exec([entry])
    assert entry in cgroup.kernel.executions()
    watch_with_model(cgroup.kernel, cgroup, MODEL)
    program = real("true")
    script = f"for i in 1 2 3; do {program}; sleep 1; done; sleep {startup_pause + 1}; {program}; :"
    cgroup.run("/usr/bin/env", "sh", "-c", script)
    found = [e for e in events() if e.kind is EventKind.EXEC]
    late = [e for e in found if e.path == real("true")]
    assert [(e.detection, EventFlag.STARTUP in e.flags) for e in late] == [
        (Detection.STARTUP_PROGRAM, False)
    ]
    assert EventFlag.STARTUP in found[0].flags


def test_names_answered_are_silent_until_they_expire(
    cgroup: Cgroup, teacher: Teacher, events: Read, tmp_path: Path
) -> None:
    """Where the kernel cannot walk a name, user space's answer holds for that name."""
    if cgroup.kernel.attachment.mode != "tracepoint":
        assert cgroup.kernel.attachment.mode in ("lsm", "fmod-ret")
        return  # with trampolines nothing is judged by name
    rm = teacher.program(real("rm"))
    watch_with_model(cgroup.kernel, cgroup, MODEL)
    target = tmp_path / "victim"
    target.touch()
    cgroup.run("/usr/bin/env", "rm", target)
    found = [e for e in events() if e.operation is Operation.UNLINK]
    assert [e.path for e in found] == [str(target)]
    event = found[0]
    cgroup.kernel.put_names(
        [NameEntry(MODEL, rm, int(event.operation), *event.base, event.name.encode())]
    )
    target.touch()
    cgroup.run("/usr/bin/env", "rm", target)
    assert [e for e in events() if e.operation is Operation.UNLINK] == []


def test_matching_does_not_slow_with_keys(teacher: Teacher, kernel: LiveKernel) -> None:
    """Ten thousand patterns load in reasonable time; the table holds them all."""
    started = time.monotonic()
    node = teacher.program("/usr/bin/writer")
    teacher.patterns([Pattern.exact(f"/srv/{i % 100}/{i}") for i in range(10000)], node)
    assert len(kernel.edges()) > 10000
    assert time.monotonic() - started < 60


def test_late_answers_reach_the_right_execution(
    cgroup: Cgroup, teacher: Teacher, events: Read, tmp_path: Path
) -> None:
    """A number that comes late holds for the forks, and not for what the process runs next."""
    watch_with_model(cgroup.kernel, cgroup, MODEL)
    fifo = tmp_path / "go"
    os.mkfifo(fifo)
    script = f"read x < {fifo}; (/bin/true; :); exec /usr/bin/env /bin/true"
    with subprocess.Popen(
        ["/usr/bin/env", "sh", "-c", script],
        preexec_fn=cgroup.enter,  # noqa: PLW1509 - no threads here
    ) as process:
        shell_path = real("sh")
        found: list[Event] = []
        deadline = time.monotonic() + 20
        while not any(e.path == shell_path for e in found) and time.monotonic() < deadline:
            found.extend(events())
            time.sleep(0.02)
        shell = next(e for e in found if e.path == shell_path and e.kind is EventKind.EXEC)
        node = teacher.program(shell_path)
        cgroup.kernel.resolve(shell.exec_id, node)
        teacher.execution(node, teacher.program(real("true")))
        fifo.write_text("x\n")
        process.wait(20)
    callers = [(Path(e.program).name, Path(e.path).name) for e in events() if e.path != shell_path]
    shell_name = Path(shell_path).name
    assert (shell_name, "true") not in callers
    assert (shell_name, "env") in callers
    assert ("env", "true") in callers
