"""Who is above a process: for audits, and to tell sessions among processes older than us."""

from __future__ import annotations

from pathlib import Path

_DEPTH = 8


def parent_of(pid: int) -> int:
    """The parent of a process, or 0 when it has ended. Source: proc_pid_stat(5)."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_bytes()
    except OSError:
        return 0
    # The name in parentheses may hold anything, parentheses included.
    return int(stat.rpartition(b")")[2].split()[1])


def programs_above(pid: int, stop: frozenset[int] = frozenset()) -> tuple[str, ...]:
    """Programs of the parents of a process, nearest first, as far as they still run.

    Args:
        pid: whose parents.
        stop: pids that are outside the container.
    """
    found: list[str] = []
    for _ in range(_DEPTH):
        pid = parent_of(pid)
        if pid <= 1 or pid in stop:
            break
        try:
            found.append(str(Path(f"/proc/{pid}/exe").readlink()))
        except OSError:
            break
    return tuple(found)


def descends_from(pid: int, ancestor: int) -> bool:
    """Whether a process is another one or below it."""
    while pid > 1:
        if pid == ancestor:
            return True
        pid = parent_of(pid)
    return False
