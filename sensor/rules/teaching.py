"""What may and may not enter a model: every novelty is weighed here before it is learned.

Read ``Teaching.weigh``: it is the whole decision, in the order in which it is made.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from sensor.audits.audit import Severity
from sensor.containers.container import Container
from sensor.events import Actor, Event, EventKind
from sensor.models.bursts import Bursts
from sensor.models.inherit import confirm
from sensor.models.keys import ExecKey, Key, Program
from sensor.models.lineages import Lineages
from sensor.models.model import Evidence, Judgement, Model, ModelState, Verdict
from sensor.models.trust import Held, known_as_service
from sensor.rules.hard import makes_setuid, service_note, why_hard
from sensor.rules.judge import Ruling

_log = logging.getLogger("rote.teaching")
_LEARNING = (ModelState.LEARNING, ModelState.DRY_RUN)


@dataclass(slots=True)
class _Pupil:
    """What is remembered of one container while it runs."""

    lineages: Lineages
    bursts: Bursts


@dataclass(frozen=True, slots=True)
class Lesson:
    """What is to be made of a novelty."""

    ruling: Ruling  # nothing in it is learnable that must not be learned
    confirmed: tuple[Key, ...] = ()  # an earlier image's model knew it, and so does this one now
    held: tuple[Key, ...] = field(default=())  # the model had learned these and does not any more


class Teaching:
    """Decides for all containers.

    Args:
        parent_of: gives the parent of a process, or 0.
        path: of a file that keeps who is suspected, for the next daemon; None: in memory only.
    """

    def __init__(self, parent_of: Callable[[int], int], path: Path | None = None) -> None:
        self._parent_of = parent_of
        self._path = path
        self._pupils: dict[str, _Pupil] = {}
        self._kept: dict[str, Any] = {}  # of containers that did nothing new yet
        self._changed = False
        if path is not None and path.exists():
            try:
                self._kept = dict(json.loads(path.read_text(encoding="ascii")))
            except (OSError, ValueError, TypeError) as error:
                _log.warning(
                    "%s: cannot be read (%s); processes that were suspected may teach again",
                    path,
                    error,
                )

    def _pupil(self, container: Container, event: Event, *, ran_before: bool) -> _Pupil:
        pupil = self._pupils.get(container.id)
        if pupil is None:
            started = int(container.started_at * 1e9) or event.time_ns
            pupil = _Pupil(
                Lineages(container.pid, self._parent_of), Bursts(0 if ran_before else started)
            )
            self._pupils[container.id] = pupil
            if kept := self._kept.pop(container.id, None):
                try:
                    pupil.lineages.restore(kept)
                except (KeyError, TypeError, ValueError) as error:
                    _log.warning("%s: container %s: %r", self._path, container.short_id, error)
        return pupil

    def flush(self) -> None:
        """Write who is suspected, so that a restart of the daemon absolves nobody."""
        if self._path is None or not self._changed:
            return
        states = {
            container_id: pupil.lineages.state()
            for container_id, pupil in self._pupils.items()
            if not pupil.lineages.is_empty
        }
        temporary = self._path.with_suffix(".new")
        try:
            temporary.write_text(json.dumps({**self._kept, **states}), encoding="ascii")
            temporary.replace(self._path)
        except OSError as error:
            _log.error("%s: %s; who is suspected is not kept", self._path, error.strerror)
            return
        self._changed = False

    def keep_only(self, running: set[str]) -> None:
        """Forget containers that ended while no daemon ran.

        Args:
            running: ids of all that run.
        """
        for container_id in [name for name in self._kept if name not in running]:
            del self._kept[container_id]
            self._changed = True

    def forget(self, container_id: str) -> None:
        """A container has ended, and with it the taint of its processes."""
        self._kept.pop(container_id, None)
        pupil = self._pupils.pop(container_id, None)
        self._changed |= pupil is not None and not pupil.lineages.is_empty

    def tainted(self, container_id: str) -> int:
        """How many processes of a container teach nothing."""
        pupil = self._pupils.get(container_id)
        return pupil.lineages.tainted if pupil else 0

    def lift(self, container_id: str, covers: Callable[[str], bool]) -> int:
        """Let processes teach again whose taint has a reason that a person has allowed."""
        pupil = self._pupils.get(container_id)
        lifted = pupil.lineages.lift(covers) if pupil else 0
        self._changed |= bool(lifted)
        return lifted

    def weigh(
        self,
        event: Event,
        model: Model,
        container: Container,
        ruling: Ruling,
        *,
        ran_before: bool = False,
    ) -> Lesson:
        """Take out of a ruling what the model must not learn.

        Args:
            event: that the effective policy does not know.
            model: it would be learned by.
            container: where it happened.
            ruling: what was made of it so far.
            ran_before: the container ran before it was watched.
        """
        pupil = self._pupil(container, event, ran_before=ran_before)
        lineages = pupil.lineages
        cause = lineages.cause(event)
        hard = why_hard(event, ruling.detection, model)
        planted = lineages.planted(event)
        if not hard and planted:
            hard = f"executed {event.path}, which {planted} wrote"
        if hard:
            own = known_as_service(model, Program(event.program, event.applet))
            lineages.taint(event, hard, stranger=event.kind is EventKind.FILE and not own)
            model.trust.note_tried(event)
        session = event.actor is Actor.SESSION
        if session or cause or hard:
            self._changed = True
            lineages.note_written(event, "a session" if session else "a process that was caught")
        if hard:
            if makes_setuid(event):
                ruling = replace(ruling, severity=Severity.CRITICAL)
            return Lesson(replace(_refused(ruling, model, hard), tell=True))
        if cause:
            return Lesson(_refused(ruling, model, f"its process, or one above it, {cause}"))
        if session or not ruling.judgement.learnable:
            return Lesson(ruling)
        return self._teach(event, model, container, ruling, pupil)

    def _teach(
        self, event: Event, model: Model, container: Container, ruling: Ruling, pupil: _Pupil
    ) -> Lesson:
        """The process may teach; whether the model may learn just this."""
        learnable, trust = ruling.judgement.learnable, model.trust
        if any(key in trust.removed for key in learnable):
            return Lesson(_refused(ruling, model, "a person removed it from the model"))
        if any(key in trust.held for key in learnable) or self._is_held(model, event):
            return Lesson(_refused(ruling, model, "it is held until a person has looked at it"))
        if model.state not in _LEARNING:
            return Lesson(ruling)
        if trust.inherited and (
            confirmed := confirm(model, ruling.judgement.novel, event.time_ns, container.id)
        ):
            known = Judgement(Verdict.KNOWN, reason="the earlier image's model knew it")
            return Lesson(Ruling(known), confirmed=tuple(confirmed))
        if event.kind is EventKind.EXEC:
            (key,) = learnable
            if isinstance(key, ExecKey) and (burst := pupil.bursts.add(key, event.time_ns)):
                return self._hold(model, burst, event, ruling)
        note, severity = service_note(event)
        return Lesson(replace(ruling, tell=bool(note), note=note, severity=severity))

    @staticmethod
    def _is_held(model: Model, event: Event) -> bool:
        """Whether the acting program itself still waits to be looked at."""
        if event.kind is EventKind.EXEC or not model.trust.held:
            return False
        acting = Program(event.program, event.applet)
        waits = any(isinstance(k, ExecKey) and k.program == acting for k in model.trust.held)
        return waits and not model.executes(acting)

    @staticmethod
    def _hold(model: Model, burst: list[ExecKey], event: Event, ruling: Ruling) -> Lesson:
        parent = str(burst[0].parent) or "the runtime"
        reason = f"{parent} executed more than {len(burst) - 1} new programs within a minute"
        held = tuple(key for key in burst if key in model.keys)
        for key in burst:
            evidence = model.keys.get(key) or Evidence(event.time_ns, event.time_ns)
            model.trust.held.setdefault(key, Held(evidence, reason))
        model.remove(held)
        return Lesson(_refused(ruling, model, f"held for a person to look at: {reason}"), held=held)


def _refused(ruling: Ruling, model: Model, why: str) -> Ruling:
    """The ruling with nothing to be learned from it, and the reason in words."""
    note = ""
    if model.state in _LEARNING:
        model.trust.untaught += 1
        note = "" if ruling.judgement.reason else f"not learned: {why}"
    reason = ruling.judgement.reason or why
    judgement = replace(ruling.judgement, learnable=(), reason=reason)
    return replace(ruling, judgement=judgement, note=note)
