"""Events whose container is not known yet."""

from __future__ import annotations

from collections import deque

from sensor.events import Event


class WaitingRoom:
    """Keeps events by cgroup, in order, until somebody knows the container.

    Args:
        limit: events kept for one cgroup; of more the oldest are given up, and counted.
        cgroups: cgroups kept; of more the longest waiting one is given up.
    """

    def __init__(self, limit: int = 20_000, cgroups: int = 1024) -> None:
        self._limit = limit
        self._cgroups = cgroups
        self._events: dict[int, deque[Event]] = {}
        self._lost: dict[int, int] = {}
        self.given_up = 0  # events, in total

    def __len__(self) -> int:
        return sum(len(events) for events in self._events.values())

    def first_of_each(self) -> list[Event]:
        """The oldest event of each cgroup."""
        return [events[0] for events in self._events.values() if events]

    def put(self, event: Event) -> None:
        """Let an event wait."""
        events = self._events.get(event.cgroup_id)
        if events is None:
            if len(self._events) >= self._cgroups:
                oldest = next(iter(self._events))
                self._give_up(oldest, len(self._events.pop(oldest)))
            events = self._events[event.cgroup_id] = deque()
        if len(events) >= self._limit:
            events.popleft()
            self._give_up(event.cgroup_id, 1)
        events.append(event)

    def _give_up(self, cgroup_id: int, number: int) -> None:
        self._lost[cgroup_id] = self._lost.get(cgroup_id, 0) + number
        self.given_up += number

    def take(self, cgroup_id: int) -> tuple[list[Event], int]:
        """The events of a cgroup, oldest first, and how many were given up before."""
        return list(self._events.pop(cgroup_id, ())), self._lost.pop(cgroup_id, 0)

    def drop(self, cgroup_id: int) -> int:
        """Give up what waits for a cgroup that is gone; how many events."""
        events, lost = self.take(cgroup_id)
        self.given_up += len(events)
        return len(events) + lost
