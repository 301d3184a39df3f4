"""A new image of a known repository starts from what the earlier image's model knew.

What was carried over is not believed until it is seen: it lies in ``Trust.inherited``, where the
kernel does not know it, so that each thing is reported once. When it is seen it moves to the
model's keys, silently. What was not seen by the time the model becomes active moves there too, so
that nothing is refused merely because an image is new; only protected places are left out.
"""

from __future__ import annotations

import os
import posixpath
from collections.abc import Callable, Iterable
from dataclasses import replace

from sensor.containers.container import Container
from sensor.errors import UsageError
from sensor.events import Event, EventFlag, Origin
from sensor.models.arguments import shapes
from sensor.models.incidence import UNIT, UNIT_SECONDS
from sensor.models.keys import ANY_ARGUMENTS, ExecKey, Key, WriteKey
from sensor.models.model import Evidence, Model, Source
from sensor.models.phases import Phase
from sensor.models.static import static_keys
from sensor.paths import Pattern, is_protected

_DAY_NS = 86_400 * 10**9


def find_parent(container: Container, models: Iterable[Model]) -> Model | None:
    """The model that a container's new one starts from, or None.

    Of the same repository and another image; one that was started in the same way before one
    that merely begins with the same program; the one that changed last.
    """
    image = container.image
    if not image.name:
        return None
    candidates = [
        model
        for model in models
        if model.image.name == image.name and model.image.identity != image.identity
    ]
    same = [m for m in candidates if m.signature == container.launch_signature]
    alike = same or [m for m in candidates if _begins_alike(m, container)]
    return max(alike, key=lambda model: model.updated_ns, default=None)


def _begins_alike(model: Model, container: Container) -> bool:
    argv = (*container.entrypoint, *container.command)
    if not argv:
        return False
    began = {
        key.program
        for key in model.keys
        if isinstance(key, ExecKey) and not key.parent.path and key.actor.name == "SERVICE"
    }
    if any(isinstance(key, ExecKey) and key.program in began for key in static_keys(container)):
        return True
    return posixpath.basename(argv[0]) in {posixpath.basename(p.path) for p in began}


def is_confirmed(evidence: Evidence) -> bool:
    """Whether a key is carried to the next image: seen in two containers, or on two days."""
    if evidence.source is Source.ACCEPTED:
        return True
    if evidence.source in (Source.STATIC, Source.POPULATION) and not evidence.count:
        return False
    return evidence.containers >= 2 or evidence.first_ns // _DAY_NS != evidence.last_ns // _DAY_NS


def inherit(model: Model, parent: Model) -> int:
    """Let a new model start from an earlier one; how many keys it was given.

    What people decided about the earlier one holds for the new one as well.
    """
    trust = model.trust = parent.trust.decisions()
    trust.inherited_from = parent.id
    trust.checked = False
    for key, evidence in parent.keys.items():
        if key not in model.keys and key not in trust.removed and is_confirmed(evidence):
            trust.inherited[key] = replace(
                evidence, source=Source.INHERITED, count=0, containers=0, runs=0, last_container=""
            )
    return len(trust.inherited)


def drop_missing(model: Model, exists: Callable[[str], bool]) -> list[Key]:
    """Drop inherited keys of programs that the new image does not hold; which these were.

    Args:
        model: that inherited.
        exists: whether a path exists in the new image.
    """
    answers: dict[str, bool] = {"": True}

    def is_there(path: str) -> bool:
        if path not in answers:
            answers[path] = exists(path)
        return answers[path]

    gone: list[Key] = []
    for key in model.trust.inherited:
        if isinstance(key, ExecKey):
            there = is_there(key.parent.path)
            # What lies on a volume is not the image's.
            there = there and (key.origin is Origin.MOUNT or is_there(key.program.path))
        else:
            there = is_there(key.program.path)
        if not there:
            gone.append(key)
    for key in gone:
        del model.trust.inherited[key]
    model.trust.checked = True
    return gone


def confirm(model: Model, novel: Iterable[Key], event: Event, container_id: str) -> list[Key]:
    """The inherited keys that cover something new; from now on the model knows them.

    Args:
        model: that inherited.
        novel: what happened, exactly.
        event: in which it did.
        container_id: where.

    Returns:
        They, or nothing unless all that happened is covered; a change of a protected place
        never is.
    """
    found: list[Key] = []
    for key in novel:
        covering = _covering(model, key, event)
        if not covering:
            return []
        found += covering
    for key in found:
        evidence = model.trust.inherited.pop(key, None)
        if evidence is None:
            continue  # it covered both names of a rename
        model.add(
            key,
            replace(
                evidence, count=1, containers=1, runs=1, last_ns=event.time_ns,
                last_container=container_id,
            ),
        )  # fmt: skip
    return list(dict.fromkeys(found))


def _covering(model: Model, key: Key, event: Event) -> list[Key]:
    inherited = model.trust.inherited
    if isinstance(key, ExecKey):
        called = (key.shape, ANY_ARGUMENTS, *shapes(key.program, event.argv))
        wanted = [replace(key, shape=shape) for shape in called]
        found = next((one for one in wanted if one in inherited), None)
        # Of the start-up only, it is news when it happens later.
        late = not event.flags & EventFlag.STARTUP
        if found is None or (late and not inherited[found].phases & Phase.STEADY):
            return []
        return [found]
    path = _literal(key.pattern)
    if is_protected(path):
        return []
    return [
        one
        for one in inherited
        if isinstance(one, WriteKey)
        and one.program == key.program
        and one.operation == key.operation
        and Pattern.parse(one.pattern).matches(path)
    ]


def _literal(pattern: str) -> str:
    """The path that an exact pattern stands for."""
    return "/" + "/".join(os.fsdecode(label.name) for label in Pattern.parse(pattern).labels)


def settle_inherited(model: Model) -> list[Key]:
    """The model becomes active: what was not confirmed alarms nobody from now on.

    Except in protected places, where what an earlier image did is no allowance.
    """
    moved = [
        key for key in model.trust.inherited if key not in model.keys and not _is_protected(key)
    ]
    for key in moved:
        model.add(key, model.trust.inherited.pop(key))
    return moved


def _is_protected(key: Key) -> bool:
    return isinstance(key, WriteKey) and is_protected(key.pattern)


def unconfirmed(model: Model) -> list[Key]:
    """Inherited keys that were not seen with this image yet."""
    return [
        *(key for key in model.trust.inherited if key not in model.keys),
        *(k for k, e in model.keys.items() if e.source is Source.INHERITED and not e.count),
    ]


def parent_of(model: Model, models: Iterable[Model]) -> Model:
    """The model that another one started from.

    Raises:
        UsageError: it started from none, or that one is gone.
    """
    origin = model.trust.inherited_from
    if not origin:
        raise UsageError(
            f"model {model.name}: started from no earlier one; expected a second model to compare"
        )
    for other in models:
        if other.id == origin:
            return other
    raise UsageError(f"model {model.name}: the model it started from ({origin}) was removed")


def holds_again(model: Model, units: int, now_ns: int) -> str:
    """Why learning may end early for a model that started from an earlier one; or empty.

    The earlier image's model has seen many starts already. What is left to find out is whether the
    new image does the same, and minutes tell: nothing that was not inherited has come for as long
    as so many units take. The dry run then is a hold-out like any other.

    Args:
        model: that learns.
        units: how many active ones are enough.
        now_ns: nanoseconds since the epoch.
    """
    incidence = model.incidence
    if not model.inherited_from or not model.trust.checked or not incidence.starts:
        return ""
    quiet_ns = int(units * UNIT_SECONDS * 1e9)
    since_loss = model.observed_seconds - model.lost_seconds
    if incidence.units[UNIT] < units or since_loss < units * UNIT_SECONDS:
        return ""
    own = [e for e in model.keys.values() if e.source in (Source.LEARNED, Source.POPULATION)]
    if any(now_ns - evidence.first_ns < quiet_ns for evidence in own):
        return ""
    seen = sum(e.source is Source.INHERITED and bool(e.count) for e in model.keys.values())
    if seen <= model.unconfirmed:
        return ""  # it does too little of the same to be called the same
    return (
        f"{seen} of {seen + model.unconfirmed} keys of the earlier image's model were seen again, "
        f"{len(own)} are new, none in the last {units} minutes"
    )
