"""When learning ends."""

from __future__ import annotations

from dataclasses import dataclass

from sensor.models.model import Model, ModelState


@dataclass(frozen=True, slots=True)
class LearningSettings:
    """How long models learn. Seconds, cumulative over an image's containers; 0 means at once."""

    learn_seconds: float = 3600.0
    dry_run_seconds: float = 86400.0
    startup_pause: float = 30.0  # without anything new: a start-up is over


def next_state(model: Model, settings: LearningSettings) -> tuple[ModelState, str] | None:
    """The state that time moves a model to, with the cause, or None while it stays."""
    if model.manual:
        return None
    if model.state is ModelState.LEARNING:
        # Loss while learning starts the clock again: what was lost may have been anything.
        clean = model.observed_seconds - model.lost_seconds
        if model.runs and clean >= settings.learn_seconds:
            return (
                ModelState.DRY_RUN,
                f"learned {len(model.keys)} keys for {_minutes(clean)} without loss "
                + f"in {model.runs} runs",
            )
    elif model.state is ModelState.DRY_RUN and model.dry_run_seconds >= settings.dry_run_seconds:
        return ModelState.ACTIVE, f"nothing new for {_minutes(model.dry_run_seconds)} of dry run"
    return None


def _minutes(seconds: float) -> str:
    return f"{seconds / 60:.0f} min" if seconds >= 120 else f"{seconds:.0f} s"
