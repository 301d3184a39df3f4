"""Who in a container teaches nothing any more, and what it left behind.

A process that raised a hard detection is tainted, and so is everything below it, until the
container ends. Processes are known by their pid and by the number of their execution, which
the kernel hands on to forked children; a process that is new to us is looked for among the
parents that still run.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, TypeVar

from sensor.events import Event, EventFlag, EventKind, Operation, Origin

K = TypeVar("K")
V = TypeVar("V")
_MARKS_MAX = 4096
_DEPTH = 32
_WRITES = (
    Operation.OPEN_WRITE, Operation.CREATE, Operation.TRUNCATE, Operation.WRITE,
    Operation.MAP_WRITE, Operation.RECEIVE, Operation.CHMOD, Operation.SYMLINK,
)  # fmt: skip
_NEW_NAMES = (Operation.RENAME, Operation.LINK)


@dataclass(frozen=True, slots=True)
class _Cause:
    """Why a process teaches nothing: in words, and the object that it was about."""

    text: str
    path: str


class Lineages:
    """The tainted processes of one container, and files that nobody may teach with.

    Args:
        first: pid of the container's first process, or 0.
        parent_of: gives the parent of a process, or 0.
    """

    def __init__(self, first: int, parent_of: Callable[[int], int]) -> None:
        self._first = first
        self._parent_of = parent_of
        self._pids: OrderedDict[int, _Cause] = OrderedDict()  # → why
        self._executions: OrderedDict[int, _Cause] = OrderedDict()
        self._planted: OrderedDict[str, str] = OrderedDict()  # path → who wrote it
        self._overflown = False  # some of those are forgotten

    def cause(self, event: Event) -> str:
        """Why the process behind an event teaches nothing; empty when it may teach."""
        if not self._pids and not self._executions:
            return ""
        found = self._executions.get(event.exec_id) or self._executions.get(event.caller_exec_id)
        for pid in self._above(event) if not found else ():
            found = self._pids.get(pid)
            if found:
                break
        if found:
            self._mark(event, found)
        return found.text if found else ""

    def _above(self, event: Event) -> Iterator[int]:
        yield event.pid
        pid = event.parent_pid or self._parent_of(event.pid)
        for _ in range(_DEPTH):
            if pid <= 1:
                return
            yield pid
            if pid == self._first:
                return
            pid = self._parent_of(pid)

    def taint(self, event: Event, why: str, *, stranger: bool) -> None:
        """Let the process behind an event, its parent, and all below them teach nothing.

        The parent too: who starts a dropped program is no better than it. The container's first
        process is spared, or its service could never be learned, unless it runs such a program
        itself.

        Args:
            event: the hard detection.
            why: in words.
            stranger: its program is none of the service's own, so that its execution is not that
                of processes which did nothing.
        """
        cause = _Cause(why, event.path)
        self._mark(event, cause)
        if stranger and event.exec_id and event.pid != self._first:
            _put(self._executions, event.exec_id, cause)
        if event.parent_pid > 1 and event.parent_pid != self._first:
            _put(self._pids, event.parent_pid, cause)

    def _mark(self, event: Event, why: _Cause) -> None:
        runs_it = event.kind is EventKind.EXEC and not event.flags & EventFlag.BEFORE
        if event.pid == self._first and not runs_it:
            return
        if event.pid:
            _put(self._pids, event.pid, why)
        # A change of a file names an execution that a worker shares with those it was forked from.
        if event.exec_id and runs_it:
            _put(self._executions, event.exec_id, why)

    def note_written(self, event: Event, who: str) -> None:
        """Remember what somebody who teaches nothing wrote: it is not learnable as a program.

        Args:
            event: a change of a file.
            who: wrote it, for a person.
        """
        if event.kind is not EventKind.FILE:
            return
        if event.operation in _WRITES:
            _put(self._planted, event.path, who)
        elif event.operation in _NEW_NAMES:
            _put(self._planted, event.path2, who)
        self._overflown |= len(self._planted) >= _MARKS_MAX

    def planted(self, event: Event) -> str:
        """Who wrote the program or script of an execution, if it was one of those; else empty."""
        if event.kind is not EventKind.EXEC:
            return ""
        if self._overflown and event.origin is not Origin.IMAGE:
            return (
                "a session or a process that was caught, which wrote more than can be remembered,"
            )
        return self._planted.get(event.path, "")

    def lift(self, covers: Callable[[str], bool]) -> int:
        """Forget taints whose reason a person has allowed meanwhile; how many that were.

        Args:
            covers: whether the object that a taint is about is allowed.
        """
        lifted = 0
        for marks in (self._pids, self._executions):
            for name in [name for name, cause in marks.items() if covers(cause.path)]:
                del marks[name]
                lifted += 1
        return lifted

    def state(self) -> dict[str, Any]:
        """Everything remembered, as plain values: ``restore`` takes them back."""
        return {
            "first": self._first,
            "pids": [[pid, cause.text, cause.path] for pid, cause in self._pids.items()],
            "executions": [[n, cause.text, cause.path] for n, cause in self._executions.items()],
            "planted": [[path, who] for path, who in self._planted.items()],
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Take back what an earlier daemon remembered, if it is of the same run of the container.

        Raises:
            KeyError, TypeError, ValueError: it is not what ``state`` gave.
        """
        if state["first"] != self._first:
            return
        for pid, text, path in state["pids"]:
            _put(self._pids, int(pid), _Cause(str(text), str(path)))
        for number, text, path in state["executions"]:
            _put(self._executions, int(number), _Cause(str(text), str(path)))
        for path, who in state["planted"]:
            _put(self._planted, str(path), str(who))
        self._overflown = len(self._planted) >= _MARKS_MAX

    @property
    def is_empty(self) -> bool:
        """Whether nobody is suspected and nothing was planted."""
        return not (self._pids or self._executions or self._planted)

    @property
    def tainted(self) -> int:
        """How many processes are marked; some of them may have ended."""
        return len(self._pids)


def _put(marks: OrderedDict[K, V], key: K, value: V) -> None:
    marks[key] = value
    marks.move_to_end(key)
    if len(marks) > _MARKS_MAX:
        marks.popitem(last=False)
