"""The loop: what the kernel reports becomes knowledge or an audit.

Read ``drain`` first; it is the whole story. Everything else here is one step of it, or what a
command may ask for.
"""

from __future__ import annotations

import contextlib
import logging
import os
import platform
import time
from collections import defaultdict
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from sensor.ancestry import descends_from, parent_of, programs_above
from sensor.audits.audit import (
    Action,
    Audit,
    AuditType,
    Guarantee,
    Sensor,
    Severity,
    audit_about,
)
from sensor.audits.record import audit_from_event
from sensor.audits.store import AuditStore
from sensor.channels.channel import Channels
from sensor.containers.container import Container
from sensor.containers.registry import ContainerChange, Registry
from sensor.errors import StateError
from sensor.events import Actor, Detection, Event, EventFlag, EventKind, Operation, WalkEnd
from sensor.kernel.port import (
    ERROR_CAUSES,
    NOTHING_REFUSED,
    ContainerCounters,
    ContainerFlag,
    Kernel,
    Mode,
)
from sensor.models.files import key_text
from sensor.models.inherit import drop_missing, unconfirmed
from sensor.models.keys import Key
from sensor.models.model import Judgement, Model, ModelState, Transition, unknowable
from sensor.models.registry import ModelRegistry
from sensor.responses.digests import Digests
from sensor.responses.evidence.recorder import FlightRecorder
from sensor.responses.image_programs import ImagePrograms
from sensor.responses.knowledge import Knowledge
from sensor.responses.prevent import Leftover, Prevention
from sensor.responses.proof import Attempt, prove
from sensor.responses.sessions import Session, Sessions
from sensor.rules.detection import ALERT_ONLY, DENIALS, HARD, SOFT, audit_type, detect
from sensor.rules.hits import Hits
from sensor.rules.judge import Ruling, rule_on
from sensor.rules.policy import DEFAULT, Policy
from sensor.rules.rule import Rule
from sensor.rules.teaching import Teaching
from sensor.waiting import WaitingRoom

_log = logging.getLogger("rote.pipeline")
_BATCH = 4096
_FLUSH_SECONDS = 5.0
_PRUNE_SECONDS = 600.0
_LOOK_SECONDS = 10.0
_EXPECTED_MAX = 4096  # as many as the kernel side remembers
_STRENGTH = list(Action)  # weakest first
_RETIRE_SECONDS = 30.0  # by then every runtime that answers has named its containers


@dataclass(slots=True)
class Statistics:
    """What went through, since the daemon started."""

    started_at: float = field(default_factory=time.time)
    events: int = 0
    executions: int = 0
    changes: int = 0
    novel: int = 0
    learned: int = 0
    audits: int = 0
    store_errors: int = 0


@dataclass(slots=True)
class Watched:
    """A container under watch."""

    container: Container
    model: Model
    running_before: bool
    lost: int = 0
    counted: int = 0  # of what the kernel says was lost, how much is in ``lost``
    flags: ContainerFlag = ContainerFlag(0)  # as the kernel has them
    flags_were_set: bool = False
    barred: bool = False  # it was blocked already when it started
    settled: bool = False  # everything that it may do is in the kernel
    rule: Rule = DEFAULT  # that counts for it
    mode: Mode = NOTHING_REFUSED  # as the kernel has it
    prevented_ns: int = 0  # since when something is refused in it; 0: nothing is

    @property
    def prevented(self) -> bool:
        """Whether what its model does not know is refused, in part at least."""
        return bool(self.mode.prevent) and self.model.judges


class Pipeline:
    """Knows every step and nothing of how they work.

    Args:
        kernel: where events come from and knowledge goes to.
        models: what is known.
        audits: where deviations are recorded.
        channels: who is told.
        policy: what deviations lead to.
        write_probe: when writes are judged one by one: "auto", "always" or "never".
        keep_audits: how many audits are kept.
        clock: seconds since the epoch.
    """

    def __init__(
        self,
        kernel: Kernel,
        models: ModelRegistry,
        audits: AuditStore,
        channels: Channels,
        *,
        policy: Policy | None = None,
        write_probe: str = "auto",
        keep_audits: int = 1_000_000,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self.kernel = kernel
        self.models = models
        self.audits = audits
        self.channels = channels
        self.statistics = Statistics()
        self.registry: Registry | None = None
        self.on_cgroup: Callable[[int, str], object] = lambda _id, _path: None  # one was made
        self.recorder: FlightRecorder | None = None
        self._knowledge = Knowledge(kernel)
        self.prevention = Prevention(kernel, self._knowledge, policy or Policy(), write_probe)
        self._expected: dict[str, Container] = {}  # created, not started
        self._ignored: set[int] = set()  # cgroups that Rote itself tries things in
        self._digests = Digests()
        self.hits = Hits()
        self.teaching = Teaching(parent_of)
        self.sessions = Sessions(clock)
        # What responses are to be told, and may tell.
        self.on_block: Callable[[Container, Rule, Audit], None] = lambda *_: None
        self.is_blocked: Callable[[str], bool] = lambda _: False
        self.failed_proofs: list[Attempt] = []
        self.proved_at = 0.0  # when it was last tried whether the kernel refuses; 0: never
        self._waiting = WaitingRoom()
        self._watched: dict[int, Watched] = {}
        self._batch: list[Audit] = []
        self._to_block: list[tuple[Container, Rule, Audit]] = []  # once the audit is stored
        self._counters: dict[int, ContainerCounters] = {}
        self._gone = ContainerCounters()  # of containers that are gone, added up
        self._host = platform.node()
        self._keep_audits = keep_audits
        self._clock = clock
        self._newest_audit = audits.last_id()
        self._next_flush = self._next_prune = self._next_look = 0.0
        self._retire_at = clock() + _RETIRE_SECONDS
        self._draining = False

    def drain(self) -> int:
        """Take in what waits in the ring; how many events it was."""
        events = self.kernel.read_events(_BATCH)
        self._draining = True
        try:
            for event in events:
                if event.kind is EventKind.CGROUP_CREATED:
                    self._cgroup_created(event)
                elif event.kind is EventKind.CGROUP_REMOVED:
                    self._cgroup_removed(event)
                elif watched := self._watched.get(event.cgroup_id):
                    self._take(event, watched)
                elif event.cgroup_id not in self._ignored:
                    self._waiting.put(event)
        finally:
            self._draining = False
        self.statistics.events += len(events)
        self._deliver()
        return len(events)

    def _take(self, event: Event, watched: Watched) -> None:
        """One event of a known container: known, to be learned, or to be audited."""
        model = watched.model
        self._note(event, watched)
        ruling = rule_on(event, model, watched.rule, self._digests.of_event)
        if ruling.known:
            if not event.flags & EventFlag.REPORTED:
                self._knowledge.answer(model, event)
            if event.action != "none":  # a refusal is told, also one that should not have been
                event.flags |= EventFlag.ON_ERROR
                self._audit(event, watched, ruling)
            return
        self.statistics.novel += 1
        if model.state is ModelState.ARCHIVED:
            return
        ruling = self._weigh(event, watched, ruling)
        if ruling.known:
            return
        if self._is_late(event, watched, ruling.detection):
            self.prevention.kill_late(event)
        if self._is_audited(model, event, ruling):
            self._audit(event, watched, ruling)
        if ruling.detection in DENIALS:
            return
        if not model.judges or event.actor is Actor.SESSION:
            self._learn(event, watched, ruling.judgement)
        else:
            self.models.note_novelty(model, ruling.judgement, event, watched.container.id)

    def _note(self, event: Event, watched: Watched) -> None:
        if self.recorder is not None:
            self.recorder.note(event)
        if event.kind is EventKind.EXEC:
            self.statistics.executions += 1
        else:
            self.statistics.changes += 1
        if event.actor is not Actor.SESSION:
            self.models.note_active(watched.container.id)

    def _weigh(self, event: Event, watched: Watched, ruling: Ruling) -> Ruling:
        """Take out of it what the model must not learn (``sensor.rules.teaching``)."""
        model, container = watched.model, watched.container
        lesson = self.teaching.weigh(
            event, model, container, ruling, ran_before=watched.running_before
        )
        if not model.judges:
            self.models.changed(model)
        if lesson.held:
            self.reload_model(model)
        if lesson.confirmed:
            self.admit(model, lesson.confirmed)
            self._knowledge.answer(model, event)
            self.models.note_confirmed(model, lesson.confirmed, event, container.id, container.pid)
        return lesson.ruling

    def _check_inherited(self, watched: Watched) -> None:
        """Drop what a model inherited of programs that its own image does not hold."""
        model = watched.model
        if model.trust.checked or not watched.container.pid:
            return
        with contextlib.suppress(OSError):  # it has ended, or is not set up yet: the next one
            with ImagePrograms(watched.container.pid) as programs:
                gone = drop_missing(model, programs.exist)
            self.models.changed(model)
            _log.info(
                "model #%d %s starts from an earlier image's: %d keys to be confirmed, %d of "
                "programs that are gone",
                model.number,
                model.name,
                len(unconfirmed(model)),
                len(gone),
            )

    def admit(self, model: Model, keys: Iterable[Key]) -> None:
        """Let the kernel know keys that came into a model beside the learning, at once."""
        self._knowledge.add(model, keys)
        self.models.changed(model)
        for watched in self._watched.values():
            if watched.model.id == model.id:
                self.prevention.settle(watched.container.cgroup_id)

    def _is_late(self, event: Event, watched: Watched, detection: Detection) -> bool:
        """Whether the kernel let something happen that the rule refuses."""
        if not watched.mode.prevent & 1 << detection or event.action != "none":
            return False
        if event.actor is Actor.SESSION and watched.flags & ContainerFlag.SESSIONS:
            return False
        # It is done, and who cleans up after something that was killed would be killed in turn,
        # and the service with it.
        removed = event.operation in (Operation.UNLINK, Operation.RMDIR)
        if removed and event.walk_end is WalkEnd.BY_NAME and detection is Detection.UNKNOWN_WRITE:
            return False
        return event.time_ns >= watched.prevented_ns

    def _is_audited(self, model: Model, event: Event, ruling: Ruling) -> bool:
        judgement = ruling.judgement
        if model.judges or ruling.detection in HARD or ruling.tell:
            return True
        if event.actor is Actor.SESSION:
            return event.kind is EventKind.EXEC and not event.program  # once, as it comes in
        # While learning, only what must never be learned; in a dry run, everything new.
        return not judgement.learnable or model.state is ModelState.DRY_RUN

    def _learn(self, event: Event, watched: Watched, judgement: Judgement) -> None:
        model = watched.model
        container = watched.container
        new = self.models.learn(model, judgement, event, container.id, init_pid=container.pid)
        if new:
            self.statistics.learned += len(new)
            self._knowledge.add(model, new)
        if judgement.learnable:
            self._knowledge.answer(model, event)

    def _audit(self, event: Event, watched: Watched, ruling: Ruling) -> None:
        model, container, rule = watched.model, watched.container, watched.rule
        detection = ruling.detection or detect(event, known_program=True)
        action = rule.action(detection)
        self.hits.count(rule.name, detection.name.lower(), event.time_ns)
        holds = model.judges or rule.holds_without_model(detection)
        would = model.state is ModelState.DRY_RUN and not holds
        if not holds and not would:
            action = min(action, Action.ALERT, key=_STRENGTH.index)
        if action is Action.IGNORE and event.action == "none":
            return
        # While a model is not active, that somebody came in is a remark and no more.
        is_hard = detection in HARD or ruling.tell
        remark = event.actor is Actor.SESSION and not holds and not is_hard
        session = self.sessions.reason(container.id) if event.actor is Actor.SESSION else ""
        audit = audit_from_event(
            event,
            container,
            audit_type(event, detection),
            model_id=model.id,
            model_state=str(model.state),
            rule=rule.name,
            action=Action.ALERT if session else action,
            guarantee=self._guarantee(event),
            host=self._host,
            would=would,
            parents=programs_above(event.parent_pid) if event.parent_pid else (),
            severity=Severity.INFO if remark or session else ruling.severity,
        )
        if not unknowable(event):
            wanted = ruling.judgement.learnable or ruling.judgement.novel
            audit.keys = tuple(key_text(key) for key in wanted)
        if ruling.judgement.reason and not ruling.because:
            audit.extra["not_learnable"] = ruling.judgement.reason
        if ruling.note:
            audit.remarks = (*audit.remarks, ruling.note)
        if ruling.because:
            audit.extra["denied_by" if detection in DENIALS else "allowed_by"] = ruling.because
        if rule.message:
            audit.extra["message"] = rule.message
        if session:
            audit.remarks = (*audit.remarks, f"in a session that is allowed: {session}")
        self._batch.append(audit)
        if action is Action.BLOCK and holds and not session:
            self._to_block.append((container, rule, audit))

    def _guarantee(self, event: Event) -> Guarantee:
        """What this host can really do about such an event."""
        if event.walk_end is WalkEnd.BY_NAME:
            return Guarantee.DETECT  # it has happened when it is seen
        attachment = self.kernel.attachment
        is_exec = event.kind is EventKind.EXEC
        return Guarantee(attachment.guarantee if is_exec else attachment.guarantee_files)

    def _deliver(self) -> None:
        """Record first, then act and tell.

        What cannot be recorded waits in the store and is not shown; it is acted upon all the same.
        """
        if self._batch or self.audits.pending:
            self._store()
        to_block, self._to_block = self._to_block, []
        for container, rule, audit in to_block:
            self.on_block(container, rule, audit)

    def _store(self) -> None:
        batch, self._batch = self._batch, []
        try:
            stored = self.audits.add_many(batch)
        except StateError as error:
            self.statistics.store_errors += 1
            if self.statistics.store_errors in (1, 10, 100) or (
                self.statistics.store_errors % 1000 == 0
            ):
                _log.error("%s; %d audits wait", error, self.audits.pending)
            return
        for audit in stored:
            if audit.id > self._newest_audit:  # else a repeat of an earlier one
                self._newest_audit = audit.id
                self.statistics.audits += 1
                self.channels.send(audit)
            elif audit.count & (audit.count - 1) == 0:
                self.channels.send(audit)  # the 2nd, 4th, 8th time: told, but no flood

    def _cgroup_created(self, event: Event) -> None:
        self.on_cgroup(event.cgroup_id, event.path)
        if self.registry is not None:
            self.registry.cgroup_created(event.cgroup_id, event.path)

    def _cgroup_removed(self, event: Event) -> None:
        if self.registry is not None:
            self.registry.cgroup_removed(event.cgroup_id)
            if self.registry.is_pending(event.cgroup_id):
                return  # who it was may still turn out; its events wait for that
        self._forget(event.cgroup_id)

    def on_container(self, change: ContainerChange) -> None:
        """A container came, went or was renamed (``Registry``'s callback)."""
        if change.kind == "removed":
            if not self._draining:
                self.drain()  # what it did last may still wait in the ring
            self._forget(change.cgroup_id)
        elif change.kind == "created":
            self._expect(change.container)
        elif change.kind == "changed":
            if watched := self._watched.get(change.cgroup_id):
                watched.container = change.container
        else:
            self._watch(change)
        if self.recorder is not None and change.cgroup_id:
            self.recorder.state(change.cgroup_id, f"container {change.kind}")
            if change.kind == "removed":
                self.recorder.gone(change.cgroup_id)
        self._deliver()

    def _watch(self, change: ContainerChange) -> None:
        container, cgroup_id = change.container, change.cgroup_id
        self._expected.pop(container.id, None)
        before = self.models.of_container(container)
        if before is not None:
            self._note_seen(before)  # what others of the model did is not this one's start-up
        model = self.models.attach(
            container,
            complete=not change.running_before,
            continued=change.running_before and self.kernel.attachment.reused,
        )
        watched = Watched(
            container, model, change.running_before, rule=self._rule(container, model)
        )
        watched.barred = self.is_blocked(container.id)
        self._watched[cgroup_id] = watched
        for child in change.child_cgroups:
            self.kernel.alias(child, cgroup_id)
        self._check_inherited(watched)
        self._adopt(watched, change.pids)
        if change.running_before and self.registry is not None:
            self._adopt(watched, self.registry.pids(cgroup_id))  # what they forked meanwhile
        if container.healthcheck:
            self.kernel.allow_probe(cgroup_id, container.healthcheck)
        self._apply(watched)
        events, lost = self._waiting.take(cgroup_id)
        if lost:
            self._note_lost(watched, lost)
        for event in events:
            self._take(event, watched)
        _log.info(
            "watching %s (%s), model #%d %s%s%s",
            container.name or container.short_id,
            container.image.reference,
            model.number,
            model.state,
            ", under prevention" if watched.prevented else "",
            ", it ran before" if change.running_before else "",
        )

    def _rule(self, container: Container, model: Model | None) -> Rule:
        """The rule that counts for a container, less what its model is not trusted with."""
        rule = self.prevention.policy.rule(container)
        if model is None:
            return rule
        untrusted = SOFT if model.state is ModelState.SUSPECT else frozenset()
        for kind in model.unsettled:
            untrusted |= ALERT_ONLY[kind]
        return rule.only_telling(untrusted)

    def _note_seen(self, model: Model) -> None:
        self.models.note_seen(model, self._knowledge.take_seen(model), self._clock())

    def _adopt(self, watched: Watched, pids: Iterable[int]) -> None:
        container = watched.container
        for pid in pids:
            session = bool(container.pid) and not descends_from(pid, container.pid)
            session = session and not _flags(container) & ContainerFlag.NO_SESSIONS
            self.kernel.adopt(pid, container.cgroup_id, session=session)

    def _apply(self, watched: Watched) -> None:
        """Let the kernel judge a container by its model and its rule as they are now."""
        container, model = watched.container, watched.model
        rule = watched.rule = self._rule(container, model)
        cgroup_id = container.cgroup_id
        flags, mode = self._mode(container, model, rule)
        if watched.barred and self.is_blocked(container.id):
            mode = Mode.refusing()
        old = self._load(model, rule, container.pid)
        strangers = 0
        before, watched.mode = watched.mode.prevent, mode
        begins = watched.prevented and not watched.settled
        if begins:
            strangers = self.prevention.settle(cgroup_id)
        self.kernel.watch(
            cgroup_id,
            model=self._knowledge.number(model, rule),
            flags=flags,
            mode=mode,
            init_pid=container.pid if watched.running_before else 0,
        )
        if old:
            self._go_over(model, rule, old)
        watched.flags = flags
        if mode.prevent & ~before:
            # Of a container that began under our eyes everything was under prevention, even what
            # happened before the kernel was told whose it is.
            fresh = not watched.running_before and not watched.flags_were_set
            watched.prevented_ns = 1 if fresh else int(self._clock() * 1e9)
        elif not mode.prevent:
            watched.prevented_ns = 0
        if begins:
            watched.settled = True
            for leftover in self.prevention.look_for_leftovers(cgroup_id, model):
                self._tell_leftover(watched, leftover)
            if strangers:
                _log.warning(
                    "%s: %d processes run programs that its model does not know; what they "
                    "change is refused",
                    container.name or container.short_id,
                    strangers,
                )
        elif watched.settled and not watched.prevented:
            watched.settled = False
            self.prevention.forget(cgroup_id)
        watched.flags_were_set = True
        self.prevention.set_probe(may_detach=False)

    def _go_over(self, model: Model, rule: Rule, old: int) -> None:
        """Let everybody who is judged by an earlier loading be judged by the new one."""
        for other in self._watched.values():
            if other.model.id == model.id and other.rule.fingerprint == rule.fingerprint:
                self._apply(other)
        self._knowledge.drop(old)

    def _mode(self, container: Container, model: Model, rule: Rule) -> tuple[ContainerFlag, Mode]:
        flags, mode = self.prevention.mode(model, rule)
        if self.sessions.reason(container.id):
            flags |= ContainerFlag.SESSIONS
        return _flags(container) | flags, mode

    def _load(self, model: Model, rule: Rule, pid: int = 0) -> int:
        """See to it that a model under a rule is in the kernel.

        Args:
            model: what is known.
            rule: what is allowed and denied beside it.
            pid: of a container that runs, in which programs' digests can be seen; or 0.

        Returns:
            A number that nobody is judged by any more once this container has the new one; or 0.
        """
        denied = self._digests.denied_programs(model, rule, pid)
        if self._knowledge.number(model, rule) and self._knowledge.denied(model, rule) == denied:
            return 0
        return self._knowledge.load(model, rule, denied=denied)

    def _expect(self, container: Container) -> None:
        """A container was created: judge it from its first instruction."""
        if self.is_blocked(container.id):
            # By a model that knows nothing: what the runtime executes in it is refused.
            self._knowledge.load_nothing()
            self.kernel.expect(
                container.id,
                model=self._knowledge.nothing,
                flags=_flags(container),
                mode=Mode.refusing(),
            )
            return
        model = self.models.of_container(container)
        rule = self._rule(container, model)
        if model is None and rule.refused(active=False):
            model = self.models.make(container)  # what the rule denies holds from the start
        if model is None:
            return
        flags, mode = self._mode(container, model, rule)
        if not mode.prevent:
            self.kernel.expect_no_more(container.id)
            return
        if not self._knowledge.number(model, rule):
            self._load(model, rule)
        if len(self._expected) >= _EXPECTED_MAX:
            self._expected.pop(next(iter(self._expected)))
        self._expected[container.id] = container
        self.kernel.expect(
            container.id, model=self._knowledge.number(model, rule), flags=flags, mode=mode
        )

    def _tell_leftover(self, watched: Watched, leftover: Leftover) -> None:
        container, now_ns = watched.container, int(self._clock() * 1e9)
        program, path = leftover.program, leftover.path
        event = Event(
            EventKind.FILE,
            now_ns,
            container.cgroup_id,
            Operation.MAP_WRITE if leftover.mapped else Operation.WRITE,
            path=path,
            pid=leftover.pid,
            program=program.path,
            applet=program.applet,
            walk_end=WalkEnd.ROOT,
            flags=EventFlag.LEFTOVER | (EventFlag.MAPPED if leftover.mapped else EventFlag(0)),
        )
        ruling = rule_on(event, watched.model, watched.rule, self._digests.of_event)
        self._audit(event, watched, ruling)

    def _forget(self, cgroup_id: int) -> None:
        self._count_losses()
        watched = self._watched.pop(cgroup_id, None)
        self._waiting.drop(cgroup_id)
        self._gone += self._counters.pop(cgroup_id, ContainerCounters())
        self.kernel.unwatch(cgroup_id)
        if watched is not None:
            self._note_seen(watched.model)
            self.models.detach(watched.container.id)
            self.teaching.forget(watched.container.id)
            self.prevention.forget(cgroup_id)
            self._expect(watched.container)  # it may be started again
            _log.info("%s is gone", watched.container.name or watched.container.short_id)

    def tick(self) -> None:
        """What has to be done every second or so."""
        now = self._clock()
        self._count_losses()
        self._ask_about_strangers()
        for session in self.sessions.over():
            self.end_session(session.container_id, "its time is over")
        for model in {w.model.id: w.model for w in self._watched.values()}.values():
            if self.models.is_due(model, now):
                self._note_seen(model)
        for moved in self.models.tick(now):
            self._moved(self.models.get(moved.model_id), moved)
        for model, keys in self.models.take_widened():
            self._knowledge.add(model, keys)
        if now >= self._next_look:
            self._next_look = now + _LOOK_SECONDS
            for watched in self._watched.values():
                self._check_inherited(watched)
            complete = now >= self._retire_at
            self.prevention.look_again(self._model_under_prevention, complete=complete)
            if complete:
                self._retire()
        if now >= self._next_flush:
            self._next_flush = now + _FLUSH_SECONDS
            self.flush()
        if now >= self._next_prune:
            self._next_prune = now + _PRUNE_SECONDS
            try:
                self.audits.prune(keep_rows=self._keep_audits)
            except StateError as error:
                _log.error("%s", error)
        self._deliver()

    def _moved(self, model: Model, moved: Transition) -> None:
        """A model changed its state by itself."""
        _log.info("model %s: %s → %s: %s", model.name, moved.old, moved.new, moved.cause)
        if model.state is ModelState.ARCHIVED:
            if model.id not in {expected.model_id for expected in self._expected.values()}:
                self._knowledge.forget(model)
            return
        self.reload_model(model)
        if model.state is ModelState.SUSPECT:
            for watched in self._watched.values():
                if watched.model is model:
                    self._tell_suspect(watched, moved.cause)

    def _tell_suspect(self, watched: Watched, cause: str) -> None:
        audit = audit_about(
            watched.container,
            AuditType.MODEL_SUSPECT,
            Severity.HIGH,
            int(self._clock() * 1e9),
            Guarantee(self.kernel.attachment.guarantee),
        )
        name = watched.model.name
        audit.model_id, audit.model_state = watched.model.id, str(watched.model.state)
        audit.extra = {
            "cause": cause,
            "since": "known programs under another caller or with other arguments, and writes "
            "outside protected places, are told and not refused",
            "decide": f"rote models show {name}; then: rote models activate {name}, or: "
            f"rote models extend {name}",
        }
        self.record(audit)

    def _model_under_prevention(self, cgroup_id: int) -> Model | None:
        watched = self._watched.get(cgroup_id)
        return watched.model if watched is not None and watched.prevented else None

    def _retire(self) -> None:
        """Let go of what earlier daemons left, once all containers are judged by our models."""
        self._knowledge.drop_unused()
        self.teaching.keep_only({watched.container.id for watched in self._watched.values()})
        if self.kernel.retire():
            _log.info("what an earlier version had attached is removed")

    def _apply_all(self, model: Model) -> None:
        for watched in self._watched.values():
            if watched.model.id == model.id:
                watched.model = model
                if self.recorder is not None:
                    self.recorder.state(watched.container.cgroup_id, f"model {model.state}")
                self._apply(watched)
        for container in list(self._expected.values()):
            if container.model_id == model.id:
                self._expect(container)

    def _ask_about_strangers(self) -> None:
        """Events may wait for a container whose creation nobody saw: ask who it is."""
        if self.registry is None:
            return
        for event in self._waiting.first_of_each():
            if not self.registry.is_pending(event.cgroup_id):
                self.registry.process_seen(event.cgroup_id, event.pid)

    def flush(self) -> None:
        """Write what the models learned, and how often rules decided."""
        self.hits.flush()
        self.teaching.flush()
        try:
            self.models.flush()
        except StateError as error:
            _log.error("%s; what was learned stays in memory", error)

    def _count_losses(self) -> None:
        for cgroup_id, counters in self.kernel.counters().items():
            before, self._counters[cgroup_id] = self._counters.get(cgroup_id), counters
            watched = self._watched.get(cgroup_id)
            if watched is not None and counters.known > (before.known if before else 0):
                self.models.note_active(watched.container.id)
            if watched is None:
                continue  # who it is turns out later; these losses are its own all the same
            lost = counters.lost + counters.unseen - watched.counted
            if lost > 0:
                watched.counted += lost
                self._note_lost(watched, lost)

    def _note_lost(self, watched: Watched, lost: int) -> None:
        watched.lost += lost
        container, model = watched.container, watched.model
        self.models.note_lost(container.id, lost)
        now_ns = int(self._clock() * 1e9)
        self._batch.append(
            audit_about(
                container,
                AuditType.EVENTS_LOST,
                Severity.HIGH,
                now_ns,
                Guarantee(self.kernel.attachment.guarantee),
                host=self._host,
                model_id=model.id,
                model_state=str(model.state),
                extra={"lost": str(lost), "ring": "use a larger --ring-size if this repeats"},
            )
        )

    def forget_model(self, model: Model) -> None:
        """Take a model that judges nothing any more out of the kernel."""
        self._apply_all(model)
        self._knowledge.forget(model)

    def reload_model(self, model: Model) -> None:
        """Put a model into the kernel anew, after it was changed from outside the loop.

        Beside the old one: no container is without a model in between.
        """
        old = self._knowledge.load_again(model)
        self._apply_all(model)
        for number in old:
            self._knowledge.drop(number)
        self._drop_unwanted()  # what a model is not trusted with may have changed

    def set_policy(self, policy: Policy) -> None:
        """Let other rules hold from now on, for running containers as well.

        Each container goes over from the old to the new at once; at no moment is it without.
        """
        self.prevention.policy = policy
        for watched in self._watched.values():
            self._apply(watched)
        for container in list(self._expected.values()):
            self._expect(container)
        self._drop_unwanted()

    def _drop_unwanted(self) -> None:
        wanted: dict[str, set[str]] = defaultdict(set)
        for watched in self._watched.values():
            wanted[watched.model.id].add(watched.rule.fingerprint)
        for container in self._expected.values():
            rule = self._rule(container, self.models.of_container(container))
            wanted[container.model_id].add(rule.fingerprint)
        self._knowledge.keep_only(wanted)

    def apply_to(self, container_id: str) -> None:
        """Tell the kernel anew about one container: sessions are allowed, say."""
        for watched in self._watched.values():
            if watched.container.id == container_id:
                self._apply(watched)

    def expect_again(self, container: Container) -> None:
        """Tell the kernel anew what becomes of a container that does not run."""
        self._expect(container)

    def allow_session(self, container: Container, *, seconds: float, reason: str) -> Session:
        """Let people work by hand in a container for a while. Everything they do is audited.

        Raises:
            UsageError: no reason, or no time that makes sense.
            StateError: it cannot be written.
        """
        session = self.sessions.allow(
            container.id, container.name or container.short_id, seconds=seconds, reason=reason
        )
        self.apply_to(container.id)
        self._tell_session(AuditType.SESSION_ALLOWED, Severity.MEDIUM, container, session, {})
        return session

    def end_session(self, container_id: str, why: str) -> int:
        """End the allowed sessions of a container: processes that came in by them are killed.

        Returns:
            How many processes that were.
        """
        session = self.sessions.end(container_id)
        if session is None:
            return 0
        killed = 0
        for watched in self._watched.values():
            container = watched.container
            if container.id != container_id:
                continue
            self._apply(watched)
            for process in self.kernel.processes():
                if process.cgroup_id == container.cgroup_id and process.session:
                    killed += self.kernel.kill(process.pid, process.exec_id)
            facts = {"why": why, "killed": str(killed)}
            self._tell_session(AuditType.SESSION_ENDED, Severity.INFO, container, session, facts)
        return killed

    def _tell_session(
        self,
        kind: AuditType,
        severity: Severity,
        container: Container,
        session: Session,
        facts: dict[str, str],
    ) -> None:
        now_ns = int(self._clock() * 1e9)
        audit = audit_about(container, kind, severity, now_ns, Guarantee.DETECT)
        audit.extra = {
            "reason": session.reason,
            "until": time.strftime("%Y-%m-%d %H:%M:%S%z", time.localtime(session.until)),
            **facts,
        }
        self.record(audit)

    def record(self, audit: Audit) -> None:
        """Take in an audit that a response made; it is stored and told with the next ones."""
        audit.host = audit.host or self._host
        self._batch.append(audit)
        if not self._draining:
            self._deliver()

    @property
    def policy(self) -> Policy:
        """The rules that hold now."""
        return self.prevention.policy

    def watched(self) -> list[Watched]:
        """The containers under watch."""
        return list(self._watched.values())

    async def prove(self, directory: Path) -> list[Attempt]:
        """Try whether the kernel still refuses; an alarm when the answer is not as promised.

        Args:
            directory: where files for it may be made.

        Raises:
            HostError: it cannot be tried.
        """
        attempts = await prove(
            self.kernel, self._knowledge, directory, small=True, on_cgroup=self._ignored.add
        )
        self.drain()
        for cgroup_id in self._ignored:
            self._counters.pop(cgroup_id, None)
        self._ignored.clear()
        self.proved_at = self._clock()
        failed = [attempt for attempt in attempts if not attempt.held]
        if failed != self.failed_proofs:
            self.failed_proofs = failed
            for attempt in failed:
                self._tell_failed_proof(attempt)
            if not failed:
                _log.warning("protection holds again")
        self._deliver()
        return attempts

    def _tell_failed_proof(self, attempt: Attempt) -> None:
        now_ns = int(self._clock() * 1e9)
        attachment = self.kernel.attachment
        is_exec = attempt.name.startswith("execute")
        _log.error("protection failed: %s: %s", attempt.name, attempt.text)
        self._batch.append(
            Audit(
                time_ns=now_ns,
                last_ns=now_ns,
                host=self._host,
                container_id="",
                container_name="rote",
                image="",
                sensor=Sensor.SELF,
                type=AuditType.PROTECTION_FAILED,
                severity=Severity.CRITICAL,
                model_id="",
                model_state="",
                action=Action.ALERT,
                guarantee=Guarantee(
                    attachment.guarantee if is_exec else attachment.guarantee_files
                ),
                operation=attempt.name,
                errno=attempt.errno,
                extra={"happened": attempt.text, "attachment": attachment.mode},
            )
        )

    @property
    def preventing(self) -> bool:
        """Whether any container is under prevention."""
        return any(watched.prevented for watched in self._watched.values())

    def status(self) -> dict[str, Any]:
        """Everything `rote status` shows, as plain values."""
        attachment = asdict(self.kernel.attachment)
        totals = sum(self._counters.values(), self._gone)
        states = [str(model.state) for model in self.models.all()]
        return {
            "host": self._host,
            "pid": os.getpid(),
            "memory_bytes": resident_bytes(),
            "attachment": attachment,
            "statistics": asdict(self.statistics),
            "kernel": {
                **asdict(totals),
                "errors": dict(zip(ERROR_CAUSES, totals.errors, strict=True)),
            },
            "containers": len(self._watched),
            "prevention": {
                "containers": sum(w.prevented for w in self._watched.values()),
                "globs": list(self.prevention.policy.prevent),
                "refusing_rules": [
                    rule.name for rule in self.policy.rules if rule.refused(active=True)
                ],
                "on_error": "allow" if self.prevention.policy.allow_on_error else "deny",
                "refused": totals.refused,
                "suppressed": totals.suppressed,
                "write_probe": self.prevention.probe_on,
                "holding": self.prevention.holding,
                "proved_at": self.proved_at,
                "failed": [f"{attempt.name}: {attempt.text}" for attempt in self.failed_proofs],
            },
            "models": {state: states.count(state) for state in sorted(set(states))},
            "waiting": len(self._waiting),
            "given_up": self._waiting.given_up,
            "audits": {"pending": self.audits.pending, "dropped": self.audits.dropped},
            "channels": self.channels.status(),
            "runtimes": [asdict(status) for status in self.registry.statuses()]
            if self.registry
            else [],
        }

    def containers(self) -> list[dict[str, Any]]:
        """Everything `rote containers` shows."""
        rows = []
        for cgroup_id, watched in self._watched.items():
            counters = self._counters.get(cgroup_id, ContainerCounters())
            container = watched.container
            rows.append(
                {
                    "id": container.id,
                    "name": container.name,
                    "runtime": container.runtime,
                    "image": container.image.reference,
                    "image_id": container.image.id,
                    "digest": container.image.digest,
                    "namespace": container.namespace,
                    "pod": container.pod,
                    "pod_container": container.pod_container,
                    "labels": dict(container.labels),
                    "cgroup": container.cgroup_path,
                    "model": watched.model.number,
                    "model_state": str(watched.model.state),
                    "prevented": watched.prevented,
                    "rule": watched.rule.name,
                    "blocked": self.is_blocked(container.id),
                    "session": self.sessions.reason(container.id),
                    "refused": counters.refused,
                    "suspects": self.teaching.tainted(container.id),
                    "complete": not watched.running_before,
                    "known": counters.known,
                    "events": counters.events,
                    "lost": watched.lost,
                    "truncated": counters.truncated,
                    "errors": sum(counters.errors),
                    "errors_by_cause": {
                        cause: n
                        for cause, n in zip(ERROR_CAUSES, counters.errors, strict=True)
                        if n
                    },
                }
            )
        return sorted(rows, key=lambda row: str(row["name"]))


def _flags(container: Container) -> ContainerFlag:
    flags = ContainerFlag.WATCHED
    if container.runtime == "cgroup" and container.cgroup_path == container.image.name:
        flags |= ContainerFlag.NO_SESSIONS
    if container.host_mount_namespace:
        flags |= ContainerFlag.HOST_MOUNTS
    return flags


def resident_bytes() -> int:
    """Resident memory of this process. Source: proc_pid_statm(5)."""
    pages = Path("/proc/self/statm").read_text(encoding="ascii").split()[1]
    return int(pages) * os.sysconf("SC_PAGESIZE")
