"""Many new executions at once, after the container's start, are no way to learn a service.

Of twelve recorded services the busiest parent (the shell of a gcc build) brought 8 new executions
in any 60 seconds once the first two minutes were over, and 21 within them; all but three
brought one or none. An intruder who looks around brings dozens.
"""

from __future__ import annotations

from collections import defaultdict, deque

from sensor.models.keys import ExecKey, Program

LIMIT = 20
WINDOW_NS = 60 * 10**9
START_UP_NS = 120 * 10**9


class Bursts:
    """The new executions of one container, by the program that did them.

    Args:
        started_ns: when the container started; 0: before anybody watched.
        limit: new keys of one parent within a window that are still learned.
    """

    def __init__(self, started_ns: int, *, limit: int = LIMIT) -> None:
        self._steady_ns = started_ns + START_UP_NS if started_ns else 0
        self._limit = limit
        self._recent: dict[Program, deque[tuple[int, ExecKey]]] = defaultdict(deque)

    def add(self, key: ExecKey, time_ns: int) -> list[ExecKey]:
        """Count a new execution.

        Returns:
            The keys of the burst that it belongs to, or none when it belongs to none.
        """
        if time_ns < self._steady_ns:
            return []
        recent = self._recent[key.parent]
        while recent and recent[0][0] <= time_ns - WINDOW_NS:
            recent.popleft()
        if all(key != other for _, other in recent):
            recent.append((time_ns, key))
        if len(recent) <= self._limit:
            return []
        return [other for _, other in recent]
