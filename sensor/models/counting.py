"""What is counted of all models: who runs under which, what was seen, what was new."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from sensor.events import Event
from sensor.models.evidence import note_container, see
from sensor.models.incidence import Trial
from sensor.models.keys import Key
from sensor.models.model import Model
from sensor.models.observer import Observer
from sensor.models.outlook import kind_of

_NOVELTIES_MAX = 1000  # kept of one model


class Counting:
    """The observers of the models.

    Args:
        clock: seconds since the epoch.
    """

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._observers: dict[str, Observer] = {}  # by model id
        self._running: dict[str, Model] = {}  # by container id

    def observer(self, model: Model) -> Observer:
        """The observer of a model, made when there is none."""
        if model.id not in self._observers:
            self._observers[model.id] = Observer(model, self._clock())
        return self._observers[model.id]

    def started(self, container_id: str, model: Model, *, complete: bool, since: float) -> None:
        """A container runs; see ``Observer.started``."""
        self._running[container_id] = model
        self.observer(model).started(container_id, self._clock(), complete=complete, since=since)

    def ended(self, container_id: str) -> None:
        """A container's run is over."""
        model = self._running.pop(container_id, None)
        if model is not None:
            self.observer(model).ended(container_id, self._clock())

    def active(self, container_id: str) -> None:
        """Something happened in a container."""
        model = self._running.get(container_id)
        if model is not None:
            self.observer(model).active(container_id)

    def replace(self, model: Model, other: Model) -> None:
        """Containers go over to a model of the same identity that knows nothing yet."""
        self.forget(model)
        now = self._clock()
        for name in self._containers(model):
            # The start-up was counted for the model before, or not at all.
            self._running[name] = other
            self.observer(other).started(name, now, complete=False, since=now)

    def forget(self, model: Model) -> None:
        """Stop observing a model."""
        self._observers.pop(model.id, None)

    def _containers(self, model: Model) -> list[str]:
        return [name for name, other in self._running.items() if other is model]

    def seen_by_kernel(self, model: Model, keys: Iterable[Key], now: float) -> bool:
        """Keys were seen in some container of a model; whether it knows any of them."""
        names = self._containers(model)
        seen = [key for key in keys if key in model.keys]
        for key in seen:
            evidence = model.keys[key]
            evidence.last_ns = int(now * 1e9)
            evidence.count += 1
            if len(names) == 1:  # else nobody knows which of them it was
                note_container(evidence, names[0])
        self.observer(model).seen(seen)
        return bool(seen)

    def met_in_dry_run(self, model: Model, new: Iterable[Key], container_id: str) -> None:
        """Something new was learned in a dry run: it begins again, if such keys can settle."""
        if all(kind_of(key) in model.unsettled for key in new):
            self.observer(model).novel(container_id)
            return
        model.dry_run_seconds = 0.0
        model.extensions += 1
        self.begin_trial(model, model.trial.again())

    def met_while_active(
        self, model: Model, new: Iterable[Key], event: Event, container_id: str
    ) -> None:
        """Something new came that is not learned: the minute breaks the promise."""
        self.observer(model).novel(container_id)
        for key in new:
            if key in model.novelties or len(model.novelties) < _NOVELTIES_MAX:
                see(model.novelties, key, event, container_id)

    def begin_trial(self, model: Model, trial: Trial) -> None:
        """The hold-out of a model begins anew."""
        model.trial = trial
        self.observer(model).restart()
