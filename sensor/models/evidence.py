"""Noting that a key was seen."""

from __future__ import annotations

from sensor.events import Event, EventFlag, EventKind
from sensor.models.keys import Key
from sensor.models.model import Evidence, Model
from sensor.models.phases import ALWAYS, Phase


def see(
    known: dict[Key, Evidence],
    key: Key,
    event: Event,
    container_id: str,
    model: Model | None = None,
) -> bool:
    """Note that a key was seen; whether it is new, or new that it is in steady operation."""
    evidence = known.get(key)
    if evidence is None:
        fresh = Evidence(
            event.time_ns, event.time_ns, phases=_phase(event), last_container=container_id
        )
        if model is None:
            known[key] = fresh
        else:
            model.add(key, fresh)
        return True
    widened = not evidence.phases & _phase(event)
    evidence.phases |= _phase(event)
    evidence.last_ns = event.time_ns
    evidence.count += 1
    note_container(evidence, container_id)
    return widened


def note_container(evidence: Evidence, container_id: str) -> None:
    """Note in which container a key was seen; another than last time is another run."""
    if evidence.last_container != container_id:
        evidence.last_container = container_id
        evidence.containers += 1
        evidence.runs += 1


def _phase(event: Event) -> Phase:
    if event.kind is not EventKind.EXEC:
        return ALWAYS
    return Phase.STARTUP if event.flags & EventFlag.STARTUP else Phase.STEADY
