"""The seam between Rote and the kernel.

``sensor.kernel.live.LiveKernel`` implements it with pinned BPF maps,
``sensor.testing.ReplayKernel`` with recorded events and dictionaries. Everything after the
ring uses this protocol only, and so runs without root.
"""

from __future__ import annotations

import enum
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Protocol

from sensor.events import Detection, Event

# Node numbers with a meaning of their own (``enum rote_node``).
NODE_PROGRAMS = 1  # root of the trie of program paths
NODE_RUNTIME = 2  # "program": the container runtime, outside the container
NODE_ANY = 3  # "program": whichever acts
NODE_PROTECTED = 4  # "program": no grant, but the mark of a protected place
NODE_DENIED = 1 << 31  # | program: no grant, but the mark of a rule that denies
NODE_FIRST = 16  # the first number for a path
MODEL_ROOT_BASE = 0x40000000  # + model number: root of that model's written paths
# Beside sensor.events.OperationClass, of rules only (``enum rule_class``).
RULE_EXEC = 1024  # what matches may be executed
RULE_EXEC_REPORT = 2048  # it may, and is told, because of its arguments
RULE_EXEC_ADDED = 4096  # with either: also what was written at run time


class LabelKind(enum.IntEnum):
    """How an edge of the path trie matches a component (``enum label_kind``), in order tried."""

    EXACT = 0
    CLASS = 1  # the component's canonical form, see sensor.paths
    ANY = 2  # any one component
    APPLET = 3  # not a component: the applet of a multi-call program
    NAME = 4  # from a model's root: a program's name, wherever it lies
    # Of last components only, beside what the others say:
    TEMPORARY = 5  # the label and six letters or digits
    EXTENSION = 6  # any name with this extension
    DATA = 7  # any name without an extension
    TEMPORARY_LONG = 9  # the label and eight of a to z, 0 to 9, _
    # Not components: how an interpreter is called, see sensor.models.arguments.
    SHAPE = 8


class NodeFlag(enum.IntFlag):
    """Remarks on a node of the path trie (``enum node_flag``)."""

    HAS_CLASS = 1  # some edge out of it is a CLASS edge
    HAS_ANY = 2
    MULTICALL = 4  # a program that acts by its applet
    SUBTREE = 8  # everything below counts as this node (a pattern that ends in /**)
    HAS_LAST = 16  # an edge of these kinds leads out of it


class ContainerFlag(enum.IntFlag):
    """Remarks on a watched cgroup (``enum container_flag``)."""

    HOST_MOUNTS = 1  # its tasks live in the host's mount namespace (plain cgroups)
    NO_SESSIONS = 2  # whoever enters is the service (plain cgroups)
    WATCHED = 4  # user space has taken it up; absent: found by the kernel, identity pending
    ALIAS = 8  # a cgroup below a container's own
    ERROR_ALLOW = 32  # what cannot be judged is allowed, whatever is refused
    RULES = 64  # its model has entries of rules about programs, or for any program
    SESSIONS = 128  # sessions may do anything for now; it is told all the same


@dataclass(frozen=True, slots=True)
class Mode:
    """What becomes of novelties in one container: bits ``1 << sensor.events.Detection``."""

    prevent: int = 0  # refused
    ignored: int = 0  # not told

    @classmethod
    def refusing(cls, detections: Iterable[Detection] = tuple(Detection)) -> Mode:
        """A mode that refuses these kinds; all of them when none is named."""
        return cls(prevent=sum(1 << detection for detection in detections if detection))


NOTHING_REFUSED = Mode()


@dataclass(frozen=True, slots=True)
class Edge:
    """One entry of the path trie: from ``parent`` by ``label`` to ``node``."""

    parent: int
    kind: LabelKind
    label: bytes  # at most 255 bytes
    node: int
    flags: NodeFlag = NodeFlag(0)


@dataclass(frozen=True, slots=True)
class ExecEntry:
    """One known execution. Programs are node numbers of the path trie (0: unknown).

    ``by_applet``: of a multi-call binary, of which only some applets are known; the kernel lets
    it begin and judges the applet before its first instruction (``EXEC_APPLET``). ``reported``:
    known, and told, since a rule looks at the arguments (``EXEC_REPORT``). ``by_shape``: of an
    interpreter, which is known by the ways in which it is called (``EXEC_SHAPE``). ``startup``:
    known only while the service starts up. Parent NODE_ANY with origin and actor 0 says that
    somebody executes the program.
    """

    model: int
    parent: int
    program: int
    origin: int
    actor: int
    by_applet: bool = False
    reported: bool = False
    by_shape: bool = False
    startup: bool = False


@dataclass(frozen=True, slots=True)
class Process:
    """A process that carries a stamp of the kernel side."""

    pid: int
    cgroup_id: int  # of its container
    exec_id: int
    program: int  # node; 0: not known to the kernel
    session: bool = False  # it, or who started it, came in from outside


@dataclass(frozen=True, slots=True)
class WriteEntry:
    """What one program may do to what one node matches; operations is a mask."""

    node: int
    program: int
    operations: int


@dataclass(frozen=True, slots=True)
class Seen:
    """Which entries the kernel met with: the known behaviour that it is silent about."""

    executions: tuple[ExecEntry, ...] = ()
    writes: tuple[WriteEntry, ...] = ()  # operations: those that were seen


@dataclass(frozen=True, slots=True)
class NameEntry:
    """The answer for one name that the kernel could not walk (tracepoint attachment)."""

    model: int
    program: int
    operation: int  # sensor.events.Operation
    device: int
    inode: int
    name: bytes
    second: bool = False  # the second name of a rename or link, or a script's


ERROR_CAUSES = (
    "scratch",
    "task_map",
    "container_map",
    "read",
    "unresolved",
)  # enum rote_error_cause


@dataclass(slots=True)
class ContainerCounters:
    """What the kernel counted for one container. All are totals since it was first seen."""

    events: int = 0  # handed over
    lost: int = 0  # could not be handed over: the ring was full
    truncated: int = 0  # paths cut or too deep
    errors: tuple[int, ...] = (0,) * len(ERROR_CAUSES)
    known: int = 0  # judged known, and so silent
    refused: int = 0  # denied or killed
    suppressed: int = 0  # of these: not told, because too many came at once

    @property
    def unseen(self) -> int:
        """Errors by which something went unseen; what could not be resolved was judged."""
        return sum(
            n for cause, n in zip(ERROR_CAUSES, self.errors, strict=True) if cause != "unresolved"
        )

    def __add__(self, other: ContainerCounters) -> ContainerCounters:
        return ContainerCounters(
            events=self.events + other.events,
            lost=self.lost + other.lost,
            truncated=self.truncated + other.truncated,
            errors=tuple(a + b for a, b in zip(self.errors, other.errors, strict=True)),
            known=self.known + other.known,
            refused=self.refused + other.refused,
            suppressed=self.suppressed + other.suppressed,
        )


@dataclass(slots=True)
class Attachment:
    """How Rote is attached to this kernel."""

    mode: str  # "lsm", "fmod-ret", "tracepoint", "replay"
    hooks: tuple[str, ...] = ()
    missing: tuple[tuple[str, str], ...] = ()  # (hook, reason)
    guarantee: str = "detect"  # for executions: what a refusal amounts to here
    guarantee_files: str = "detect"  # for changes of files
    reused: bool = False  # pinned objects of an earlier daemon were taken over
    load_seconds: float = 0.0
    notes: tuple[str, ...] = field(default=())


class Kernel(Protocol):
    """Everything the user side may ask of the kernel side."""

    attachment: Attachment

    def fileno(self) -> int:
        """A descriptor that becomes readable when events wait; -1 when there is none."""

    def read_events(self, limit: int = 4096) -> list[Event]:
        """Events that wait, oldest first, at most ``limit``. Never blocks."""

    def watch(
        self,
        cgroup_id: int,
        *,
        model: int,
        flags: ContainerFlag,
        init_pid: int = 0,
        mode: Mode = NOTHING_REFUSED,
    ) -> None:
        """Take up a container's own cgroup, or change the model it is judged by."""

    def alias(self, cgroup_id: int, container_cgroup_id: int) -> None:
        """Let a cgroup below a container's own count as that container."""

    def unwatch(self, cgroup_id: int) -> None:
        """Forget a cgroup and its aliases, tasks and counters. Unknown ids are ignored."""

    def adopt(self, pid: int, cgroup_id: int, *, session: bool) -> None:
        """Say that a process which ran before we looked belongs to a watched container."""

    def allow_probe(self, cgroup_id: int, argv: tuple[str, ...]) -> None:
        """Name the health check's argv: such a session is a probe."""

    def put_edges(self, edges: Iterable[Edge]) -> None:
        """Add or replace edges of the path trie."""

    def drop_edges(self, edges: Iterable[Edge]) -> None:
        """Remove edges; absent ones are ignored."""

    def edges(self) -> list[Edge]:
        """All edges: how a restarted daemon finds the node numbers in use."""

    def put_exec(self, entries: Iterable[ExecEntry]) -> None:
        """Make executions known."""

    def drop_exec(self, entries: Iterable[ExecEntry]) -> None:
        """Make executions novel again; absent ones are ignored."""

    def put_write(self, entries: Iterable[WriteEntry]) -> None:
        """Set the operations known for (node, program). Operations 0 removes the entry."""

    def executions(self) -> list[ExecEntry]:
        """Everything that put_exec set: what an earlier daemon left."""

    def writes(self) -> list[WriteEntry]:
        """Everything that put_write set."""

    def take_seen(self, executions: Iterable[ExecEntry], writes: Iterable[WriteEntry]) -> Seen:
        """Which of these entries the kernel met with since it was asked last.

        Args:
            executions: entries that put_exec set.
            writes: entries that put_write set; their operations do not matter.
        """

    def models_in_use(self) -> set[int]:
        """The numbers of the models by which some container is judged, or will be."""

    def resolve(self, exec_id: int, program: int) -> None:
        """Tell the kernel the node of an executed program that had none when it was executed."""

    def processes(self) -> list[Process]:
        """All processes of containers that the kernel side knows."""

    def kill(self, pid: int, exec_id: int) -> bool:
        """Kill a process if it still runs that execution; whether it got the signal."""

    def set_write_probe(self, *, on: bool) -> None:
        """Judge writes through descriptors that were opened elsewhere, or stop doing so."""

    def expect(
        self, container_id: str, *, model: int, flags: ContainerFlag, mode: Mode = NOTHING_REFUSED
    ) -> None:
        """Name the model of a container whose cgroup is yet to be made."""

    def expect_no_more(self, container_id: str) -> None:
        """Forget what ``expect`` said of a container. Unknown ids are ignored."""

    def put_names(self, entries: Iterable[NameEntry]) -> None:
        """Remember answers for names; the kernel may forget them again."""

    def clear_knowledge(self) -> None:
        """Remove every edge, execution, write and name: everything is novel again."""

    def counters(self) -> dict[int, ContainerCounters]:
        """Counters by container cgroup id; id 0 holds what belongs to no container."""

    def retire(self) -> bool:
        """Let go of what an earlier version left attached; whether there was any."""

    def close(self) -> None:
        """Let go of the kernel objects. Pinned ones stay and keep working."""
