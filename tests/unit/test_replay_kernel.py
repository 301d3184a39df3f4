"""The replay kernel judges as the kernel does, counts what it loses, and keeps recordings."""

from __future__ import annotations

import dataclasses
import os
import select
from pathlib import Path

import msgpack
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sensor.containers.container import Image
from sensor.errors import BadInputError
from sensor.events import Event, EventFlag, EventKind, Operation, OperationClass, Origin, WalkEnd
from sensor.kernel.port import (
    NODE_PROGRAMS,
    NODE_RUNTIME,
    ContainerFlag,
    Edge,
    Kernel,
    LabelKind,
    NodeFlag,
    Seen,
    WriteEntry,
)
from sensor.models.arguments import exec_key
from sensor.models.keys import Key, Program, WriteKey
from sensor.models.model import Model
from sensor.models.trie import PathTrie
from sensor.paths import Label, Match, Pattern, canonical
from sensor.responses.knowledge import Knowledge
from sensor.testing import ReplayKernel, load_events, save_events
from tests.unit.builders import CGROUP, change, execution

SERVE = Program("/bin/serve")


def knowing(*keys: Key) -> ReplayKernel:
    """A kernel that watches CGROUP by a model of these keys."""
    kernel = ReplayKernel()
    knowledge = Knowledge(kernel)
    for key in (exec_key(execution("/bin/serve", "")), *keys):  # one by one, as they are learned
        knowledge.add(model(), [key])
    kernel.watch(CGROUP, model=knowledge.number(model()), flags=ContainerFlag.WATCHED)
    return kernel


def model() -> Model:
    """An empty model, number 7."""
    return Model("x", 7, Image("x"), "s")


def test_it_is_a_kernel() -> None:
    """Everything that asks for a kernel takes it."""
    kernel: Kernel = ReplayKernel(guarantee="deny")
    assert (kernel.attachment.mode, kernel.attachment.guarantee) == ("replay", "deny")


def test_nothing_known_is_everything_reported() -> None:
    """Empty tables observe: each event comes, in order, marked where nobody took it up."""
    kernel = ReplayKernel()
    assert kernel.feed(execution("/bin/a"), change("/b")) == 2
    events = kernel.read_events()
    assert [event.path for event in events] == ["/bin/a", "/b"]
    assert all(event.flags & EventFlag.PENDING and event.model == 0 for event in events)
    kernel.watch(CGROUP, model=7, flags=ContainerFlag.WATCHED)
    kernel.feed(execution("/bin/a"))
    (event,) = kernel.read_events()
    assert (event.model, event.flags & EventFlag.PENDING) == (7, 0)


def test_at_most_so_many_events_are_read() -> None:
    """The limit holds, and what is left stays in order."""
    kernel = ReplayKernel()
    kernel.feed(*(change(f"/f{i}") for i in range(5)))
    assert [event.path for event in kernel.read_events(2)] == ["/f0", "/f1"]
    assert [event.path for event in kernel.read_events()] == ["/f2", "/f3", "/f4"]
    assert kernel.read_events() == []


@pytest.mark.parametrize(
    ("pattern", "path", "known"),
    [
        ("/data/file", "/data/file", True),
        ("/data/file", "/data/file/below", False),
        ("/data/file", "/data", False),
        ("/data/<N>.log", "/data/17.log", True),
        ("/data/<N>.log", "/data/x.log", False),
        ("/data/*", "/data/anything", True),
        ("/data/*", "/data/any/thing", False),
        ("/data/*/x", "/data/any/x", True),
        ("/data/**", "/data/a/b/c", True),
        ("/data/**", "/data", False),
        ("/data/tmp.<X>/f", "/data/tmp.UQog282xxT/f", True),
    ],
)
def test_written_paths_match_as_in_the_kernel(pattern: str, path: str, known: bool) -> None:
    """Exact, class, any, and below."""
    kernel = knowing(WriteKey(SERVE, pattern, OperationClass.WRITE))
    assert kernel.feed(change(path)) == (not known)


def test_program_and_operation_count() -> None:
    """A known path is novel for another program and for another kind of change."""
    kernel = knowing(WriteKey(SERVE, "/data/f", OperationClass.WRITE))
    assert kernel.feed(change("/data/f")) == 0
    assert kernel.feed(change("/data/f", "/bin/sh")) == 1
    assert kernel.feed(change("/data/f", operation=Operation.UNLINK)) == 1


def test_both_names_of_a_rename_count() -> None:
    """A rename is known when the old name may go and the new one may come."""
    rename = change(
        "/data/new", operation=Operation.RENAME, path2="/data/f", walk_end2=WalkEnd.ROOT
    )
    old = WriteKey(SERVE, "/data/new", OperationClass.REMOVE)
    new = WriteKey(SERVE, "/data/f", OperationClass.RENAME)
    assert knowing(old).feed(rename) == 1
    assert knowing(new).feed(rename) == 1
    assert knowing(old, new).feed(rename) == 0
    outside = dataclasses.replace(rename, walk_end2=WalkEnd.OTHER_NAMESPACE)
    assert knowing(old, new).feed(outside) == 1


@pytest.mark.parametrize("end", [WalkEnd.OTHER_NAMESPACE, WalkEnd.DETACHED, WalkEnd.TOO_DEEP])
def test_only_a_walk_to_the_root_is_known(end: WalkEnd) -> None:
    """The letters of a path are nothing without where its walk ended."""
    kernel = knowing(WriteKey(SERVE, "/data/f", OperationClass.WRITE))
    assert kernel.feed(change("/data/f", walk_end=end)) == 1
    assert kernel.feed(execution("/bin/serve", "", walk_end=end)) == 1


@pytest.mark.parametrize("end", [WalkEnd.INTERNAL, WalkEnd.PSEUDO])
def test_pipes_and_backing_files_are_no_objects(end: WalkEnd) -> None:
    """They make no event, known or not."""
    assert ReplayKernel().feed(change("", walk_end=end)) == 0


def test_executions_count_with_caller_origin_and_actor() -> None:
    """Each part of the key makes a difference."""
    event = execution("/bin/tool")
    kernel = knowing(exec_key(event))
    assert kernel.feed(event) == 0
    assert kernel.feed(execution("/bin/tool", "")) == 1
    assert kernel.feed(execution("/bin/tool", origin=Origin.ADDED)) == 1
    assert kernel.feed(execution("/bin/other")) == 1


def test_applets() -> None:
    """A multi-call program is a program only together with its applet."""
    kernel = knowing(exec_key(execution("/bin/busybox", applet="ls")))
    assert kernel.feed(execution("/bin/busybox", applet="ls")) == 0
    assert kernel.feed(execution("/bin/busybox", applet="nc")) == 1
    assert kernel.program_node(Program("/bin/busybox")) == 0
    assert kernel.program_node(Program("/bin/busybox", "busybox")) == 0
    assert kernel.program_node(Program("/bin/busybox", "ls")) > 0
    assert kernel.program_node(Program("")) == NODE_RUNTIME


def test_what_was_known_is_marked_until_it_is_taken() -> None:
    """Known behaviour is silent, but leaves the entry by which it was known, once."""
    tool = exec_key(execution("/bin/tool"))
    kernel = knowing(tool, WriteKey(SERVE, "/run/<N>.pid", OperationClass.WRITE))
    assert kernel.feed(execution("/bin/tool"), change("/run/7.pid"), change("/run/8.pid")) == 0
    seen = kernel.take_seen(kernel.executions(), kernel.writes())
    (write,) = seen.writes
    assert [entry.program for entry in seen.executions] == [kernel.program_node(tool.program)]
    assert (write.program, write.operations) == (kernel.program_node(SERVE), OperationClass.WRITE)
    assert kernel.take_seen(kernel.executions(), kernel.writes()) == Seen()
    kernel.feed(change("/run/7.pid", operation=Operation.UNLINK), execution("/bin/other"))
    assert kernel.take_seen(kernel.executions(), kernel.writes()) == Seen()


def test_edges_come_parents_first() -> None:
    """A restarted daemon can follow them; a multi-call program's loop does not hang it."""
    kernel = ReplayKernel()
    below = Edge(20, LabelKind.EXACT, b"busybox", 21, NodeFlag.MULTICALL)
    top = Edge(NODE_PROGRAMS, LabelKind.EXACT, b"bin", 20)
    loop = Edge(21, LabelKind.APPLET, b"busybox", 21, NodeFlag.MULTICALL)
    kernel.put_edges([loop, below, top])
    assert kernel.edges() == [top, below, loop]
    kernel.drop_edges([below, below])
    assert below not in kernel.edges()


def test_program_numbers_are_taken_over() -> None:
    """A new daemon on the same kernel gives every program the number it has."""
    kernel = knowing(exec_key(execution("/bin/tool")))
    again = Knowledge(kernel)
    assert again.program_number(Program("/bin/tool")) == kernel.program_node(Program("/bin/tool"))
    before = {edge.node for edge in kernel.edges()}
    assert again.program_number(Program("/bin/new")) not in before


def test_writes_can_be_taken_back() -> None:
    """Operations 0 removes an entry; unknown ids and absent entries do no harm."""
    kernel = ReplayKernel()
    kernel.put_write([WriteEntry(5, 6, 1), WriteEntry(5, 7, 1)])
    kernel.put_write([WriteEntry(5, 6, 0), WriteEntry(9, 9, 0)])
    assert kernel.known_writes == {(5, 7): 1}
    kernel.unwatch(999)
    assert kernel.writes() == [WriteEntry(5, 7, 1)]


def test_a_full_ring_counts_what_it_loses() -> None:
    """The container's counters say how many came, how many were lost, how many were known."""
    kernel = ReplayKernel(capacity=2)
    assert kernel.feed(*(change(f"/f{i}") for i in range(5))) == 2
    counters = kernel.counters()[CGROUP]
    assert (counters.events, counters.lost) == (2, 3)
    kernel.unwatch(CGROUP)
    assert CGROUP not in kernel.counters()


def test_the_descriptor_is_readable_while_events_wait() -> None:
    """An event loop can wait for it as for the ring."""
    kernel = ReplayKernel()
    kernel.feed(change("/before"))
    fd = kernel.fileno()
    assert select.select([fd], [], [], 0)[0]
    kernel.feed(change("/after"))
    kernel.read_events(1)
    assert select.select([fd], [], [], 0)[0]
    kernel.read_events()
    assert not select.select([fd], [], [], 0)[0]
    kernel.feed(change("/later"))
    assert select.select([fd], [], [], 0)[0]
    kernel.close()
    kernel.close()
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(fd)


def test_calls_are_kept_for_assertions() -> None:
    """Each call, with its arguments, in order."""
    kernel = ReplayKernel()
    kernel.adopt(12, CGROUP, session=True)
    kernel.alias(9, CGROUP)
    assert [name for name, _ in kernel.calls] == ["adopt", "alias"]
    assert kernel.called("adopt") == [{"pid": 12, "cgroup_id": CGROUP, "session": True}]


def test_a_recording_replays_the_same(tmp_path: Path) -> None:
    """What was fed is written, read and fed again without a change."""
    path = tmp_path / "story.events"
    first = ReplayKernel()
    first.feed(
        Event(EventKind.CGROUP_CREATED, 1, CGROUP, Operation.EXEC, path="/docker/x"),
        execution("/bin/t\udcff", argv=("t", "\udcfe"), flags=EventFlag.TTY | EventFlag.SETUID),
        change("/d", operation=Operation.RENAME, path2="/e", walk_end2=WalkEnd.ROOT, base=(1, 2)),
    )
    first.record(path)
    second = ReplayKernel()
    assert second.replay(path) == 3
    assert second.fed == first.fed
    assert second.read_events() == first.read_events()
    assert [type(event.flags) for event in second.fed] == [EventFlag] * 3


@pytest.mark.parametrize(
    ("message", "complaint"),
    [
        ([], "expected the format 'rote-events'"),
        ({"format": "other"}, "expected the format 'rote-events'"),
        ({"format": "rote-events", "version": 9}, "version 9; expected 1"),
        ({"format": "rote-events", "version": 1, "events": 5}, "expected a list"),
        ({"format": "rote-events", "version": 1, "events": [5]}, "event 0: expected a map"),
        ({"format": "rote-events", "version": 1, "events": [{}]}, "event 0: 'kind' is missing"),
    ],
)
def test_what_is_no_recording_is_refused(tmp_path: Path, message: object, complaint: str) -> None:
    """One line names the file, the place and what was expected."""
    path = tmp_path / "bad.events"
    path.write_bytes(msgpack.packb(message))
    with pytest.raises(BadInputError, match=complaint) as caught:
        load_events(path)
    assert str(path) in str(caught.value)


@pytest.mark.parametrize(
    ("field", "value", "complaint"),
    [
        ("kind", 99, "99 is not a valid EventKind"),
        ("argv", 5, "not iterable"),
        ("path", 5, "expected str"),
        ("pid", "x", "expected int"),
        ("colour", 1, "not a field of an event"),
    ],
)
def test_a_damaged_event_is_named(
    tmp_path: Path, field: str, value: object, complaint: str
) -> None:
    """The event's number and the field are in the message."""
    path = tmp_path / "bad.events"
    row = {"kind": 1, "time_ns": 1, "cgroup_id": 1, "operation": 1}
    rows = [row, {**row, field: value}]
    path.write_bytes(msgpack.packb({"format": "rote-events", "version": 1, "events": rows}))
    with pytest.raises(BadInputError, match=f"event 1: '{field}': .*{complaint}"):
        load_events(path)


@pytest.mark.parametrize("content", [b"", b"\xc1", b"\x92\x01"])
def test_what_is_no_msgpack_is_refused(tmp_path: Path, content: bytes) -> None:
    """A cut or foreign file is named."""
    path = tmp_path / "bad.events"
    path.write_bytes(content)
    with pytest.raises(BadInputError, match=r"bad\.events: is not msgpack"):
        load_events(path)
    with pytest.raises(BadInputError, match="No such file"):
        load_events(tmp_path / "absent")


def test_defaults_are_not_written(tmp_path: Path) -> None:
    """A recording stays small: only what differs from the default is in it."""
    path = tmp_path / "one.events"
    save_events(path, [Event(EventKind.EXEC, 5, 6, Operation.EXEC, path="/x")])
    (row,) = msgpack.unpackb(path.read_bytes())["events"]
    assert row == {"kind": 1, "time_ns": 5, "cgroup_id": 6, "operation": 1, "path": "/x"}


_NAMES = st.sampled_from(["a", "b", "f1", "f22", "tmp.UQog282xxT", "x.log"])
_PATHS = st.lists(_NAMES, min_size=1, max_size=4)


def _label(name: str, how: int) -> Label:
    form = canonical(name.encode())
    if how == 1 and form is not None:
        return Label(Match.CLASS, form)
    return Label(Match.ANY) if how == 2 else Label(Match.EXACT, name.encode())


@st.composite
def _patterns(draw: st.DrawFn) -> Pattern:
    labels = [_label(name, draw(st.integers(0, 2))) for name in draw(_PATHS)]
    if draw(st.booleans()):
        labels.append(Label(Match.SUBTREE))
    return Pattern(tuple(labels))


@given(st.lists(_patterns(), min_size=1, max_size=6), st.lists(_PATHS, min_size=1, max_size=8))
def test_tables_patterns_and_trie_agree(patterns: list[Pattern], paths: list[list[str]]) -> None:
    """What came down into the tables matches exactly the paths that the patterns match."""
    kernel = knowing(*(WriteKey(SERVE, p.text, OperationClass.WRITE) for p in patterns))
    trie: PathTrie[int] = PathTrie()
    for pattern in patterns:
        trie.insert(pattern, 1)
    for parts in paths:
        path = "/" + "/".join(parts)
        expected = any(pattern.matches(path) for pattern in patterns)
        assert bool(trie.lookup(path)) == expected, path
        assert kernel.feed(change(path)) == (not expected), path
