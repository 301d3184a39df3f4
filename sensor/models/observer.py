"""Time of one model, cut into units: who was active, what was seen, what was new.

Half a minute is a slot; slots make the units of each grid. All of it is in memory; what is over is
added to the model's ``Incidence`` and ``Trial``, which are kept. A restart of the daemon loses the
units that were under way, never more.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import partial

from sensor.models.incidence import GRIDS, SLOT_SECONDS, START_UP_SECONDS, UNIT, UNIT_SECONDS
from sensor.models.keys import Key
from sensor.models.model import Model, ModelState


@dataclass(slots=True)
class _Life:
    """One container's run, as far as it matters for units."""

    since: float  # it, or our watching it, began
    starting: bool  # its start-up is under observation, from the first instruction
    keys: set[Key] = field(default_factory=set)  # seen in its start-up
    ended: float = 0.0
    active: bool = False  # something happened in it
    units: int = 0  # of the trial, that it took part in


@dataclass(slots=True)
class _Unit:
    """A unit of one grid that is under way."""

    keys: set[Key] = field(default_factory=set)
    slots: int = 0
    active: bool = False


class Observer:
    """Cuts the time of one model into units.

    Args:
        model: whose counts are kept.
        now: seconds since the epoch, by the clock that all other times come from.
    """

    def __init__(self, model: Model, now: float) -> None:
        self.model = model
        self._slot_began = now
        self._lives: dict[str, _Life] = {}
        self._units = [_Unit() for _ in GRIDS]
        self._slot = _Unit()
        self._active: set[str] = set()  # containers, in the trial's unit
        self._novel: set[str] = set()
        self._running_most = 0
        self._changed = True  # nobody has looked yet
        self._folded: dict[Key, Key] = {}
        self._folded_at = -1  # how many keys the model had then

    def started(self, container_id: str, now: float, *, complete: bool, since: float) -> None:
        """A container runs.

        Args:
            container_id: which.
            now: seconds since the epoch.
            complete: it is watched from its first instruction.
            since: when that was; an earlier time than now where the daemon was started again.
        """
        if not any(not life.ended for life in self._lives.values()):
            self._slot_began = now  # nobody ran: a unit begins with the container
        starting = complete and now == since
        self._lives[container_id] = _Life(since, starting, units=int(now != since))
        self._note_running()

    def ended(self, container_id: str, now: float) -> None:
        """A container's run is over."""
        life = self._lives.get(container_id)
        if life is None or life.ended:
            return
        life.ended = now
        if life.starting:
            self._start_is_over(life)
        if self._running() == 0:
            self._close_slot(now, flush=True)

    def active(self, container_id: str) -> None:
        """Something happened in a container."""
        life = self._lives.get(container_id)
        if life is None:
            return
        self._active.add(container_id)
        life.active = True
        if not life.starting:
            self._slot.active = True

    def novel(self, container_id: str) -> None:
        """Something happened in a container that the model does not promise to know."""
        self.active(container_id)
        if container_id in self._lives:
            self._novel.add(container_id)

    def seen(self, keys: Iterable[Key], container_id: str = "") -> None:
        """Keys were seen since the last slot ended.

        Args:
            keys: which.
            container_id: in which container; empty where the kernel knows the model only. Then
                what is known from steady minutes counts for them, and else for who is starting.
        """
        life = self._lives.get(container_id)
        starting = self._starting()
        if life is not None:
            starting = [life] if life.starting else []
        for found in keys:
            key = self._folded.get(found, found)
            if starting and (life or not self.model.incidence.is_steady(key) or self._all_start()):
                for one in starting:
                    one.keys.add(key)
            else:
                self._slot.keys.add(key)
                self._slot.active = True

    def _all_start(self) -> bool:
        return all(life.starting for life in self._lives.values() if not life.ended)

    def is_due(self, now: float) -> bool:
        """Whether something is over by now, so that the kernel is to be asked before ``tick``."""
        return self._slot_is_over(now) or any(map(partial(_has_started, now), self._starting()))

    def _slot_is_over(self, now: float) -> bool:
        return now - self._slot_began >= SLOT_SECONDS and self._running() > 0

    def _starting(self) -> list[_Life]:
        return [life for life in self._lives.values() if life.starting]

    def tick(self, now: float) -> bool:
        """Close what is over by now; whether any count has changed since the last call."""
        for life in self._starting():
            if _has_started(now, life):
                self._start_is_over(life)
        if self._slot_is_over(now):
            # After a long silence, a sleep of the host say, what was under way is not continued.
            self._close_slot(now, flush=now - self._slot_began >= 2 * SLOT_SECONDS)
        changed, self._changed = self._changed, False
        return changed

    def restart(self) -> None:
        """The hold-out begins anew: what is under way does not count for it."""
        self._active.clear()
        self._novel.clear()
        for life in self._lives.values():
            life.units = 0

    def _running(self) -> int:
        return sum(not life.ended for life in self._lives.values())

    def _note_running(self) -> None:
        self._running_most = max(self._running_most, self._running())

    def _start_is_over(self, life: _Life) -> None:
        life.starting = False
        self._changed = True
        self._fold(life.keys)
        if life.active or life.keys:
            self.model.incidence.add_start(self._as_counted(life.keys))
        life.keys = set()

    def _close_slot(self, now: float, *, flush: bool) -> None:
        self._changed = True
        self._fold(self._slot.keys)
        slot, self._slot = self._slot, _Unit()
        self._slot_began = self._slot_began + SLOT_SECONDS if not flush else now
        for grid, size in enumerate(GRIDS):
            unit = self._units[grid]
            unit.slots += 1
            unit.keys |= slot.keys
            unit.active = unit.active or slot.active
            if unit.slots < size and not flush:
                continue
            if unit.active:
                self.model.incidence.add_steady(grid, self._as_counted(unit.keys))
            if grid == UNIT:
                self._close_trial()
            self._units[grid] = _Unit()

    def _close_trial(self) -> None:
        """A unit of the hold-out is over."""
        counted = [name for name in self._active if self._counts(name)]
        novel = len([name for name in counted if name in self._novel])
        running = max(self._running_most, len(counted))
        if counted and self.model.state in _ON_TRIAL:
            for trial in self.model.trials():
                trial.add(len(counted), novel, running)
                trial.runs += sum(self._lives[name].units == 0 for name in counted)
            for name in counted:
                self._lives[name].units += 1
        self._active.clear()
        self._novel.clear()
        self._lives = {name: life for name, life in self._lives.items() if not life.ended}
        self._running_most = self._running()

    def _counts(self, name: str) -> bool:
        """Whether a container takes part in this unit; a run shorter than a unit does so once."""
        life = self._lives[name]
        return not (life.ended and life.units and life.ended - life.since < UNIT_SECONDS)

    def _as_counted(self, keys: set[Key]) -> set[Key]:
        """As the keys that the model has for them; what it did not learn is not counted."""
        counted = (self._folded.get(key, key) for key in keys)
        return {key for key in counted if key in self.model.keys}

    def _fold(self, seen: Iterable[Key]) -> None:
        counted = self.model.incidence.keys
        if len(self.model.keys) != self._folded_at or any(key not in counted for key in seen):
            self._folded = self.model.incidence.fold(self.model.keys)
            self._folded_at = len(self.model.keys)


def _has_started(now: float, life: _Life) -> bool:
    return now - life.since >= START_UP_SECONDS


_ON_TRIAL = (ModelState.DRY_RUN, ModelState.ACTIVE, ModelState.SUSPECT)
