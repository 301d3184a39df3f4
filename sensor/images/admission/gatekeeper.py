"""Decides whether a container may run by what its image is, and lets people know.

Read ``judge`` first. What is found is the same whichever gate asks; only what can be done about it
differs: a start that a gate holds is refused, a container that runs already is blocked.
"""

from __future__ import annotations

import asyncio
import datetime as dt
import logging
import time
from collections.abc import Callable, Collection, Coroutine, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from sensor.audits.audit import Action, Audit, AuditType, Guarantee, Sensor, Severity, audit_about
from sensor.containers.container import Container
from sensor.errors import ImageError, RoteError, StateError
from sensor.images.admission.image_rules import AnyRule, Applicable
from sensor.images.admission.judge_compliance import OwnChecks, about_compliance
from sensor.images.admission.judges import about_trust, about_vulnerabilities
from sensor.images.admission.library import Library
from sensor.images.admission.opinion import Opinion, refusal
from sensor.images.admission.start import Answer, Failure, Start
from sensor.images.vulns.scan import Scanner
from sensor.images.vulns.told import ToldStore
from sensor.rules.compliance import ComplianceRule
from sensor.rules.trusted import TrustRule
from sensor.rules.vulnerability import VulnerabilityRule

_log = logging.getLogger("rote.admission")
_TURNS_MAX = 1024
_FEEDLESS = (
    "there are no advisories, so that nothing can be said of vulnerabilities; "
    "see: rote vulns status"
)


@dataclass(slots=True)
class Tally:
    """What was decided since the daemon started."""

    judged: int = 0
    refused: int = 0
    blocked: int = 0
    failed: int = 0
    rescans: int = 0
    last_error: str = ""


@dataclass(frozen=True, slots=True)
class Ends:
    """What a gatekeeper is connected to.

    Attributes:
        rules: the rules that count for a container, as they are now.
        record: keeps and tells an audit; returns when it is kept.
        block: takes a container out of service, because of an audit and a rule.
        blocked: why a container may not start whatever its image is; "" when it may.
        protected: why it must never be kept from running; "" when it may.
        count: counts that a rule, by its name, decided about something.
        own_checks: people's own checks of compliance.
        in_use: the programs that are known to run of an image; None while nobody knows.
    """

    rules: Callable[[Container], Applicable]
    record: Callable[[Audit], None]
    block: Callable[[Container, Audit, str], None]
    blocked: Callable[[str], str] = lambda _id: ""
    protected: Callable[[Container], str] = lambda _container: ""
    count: Callable[[str, str, int], None] = lambda _rule, _what, _time_ns: None
    own_checks: Callable[[], OwnChecks] = OwnChecks
    in_use: Callable[[Container], Collection[str] | None] = lambda _container: None


class _UnjudgedError(ImageError):
    """A rule that may refuse a start could not judge it.

    Args:
        rule: which.
        why: one line.
    """

    def __init__(self, rule: AnyRule, why: str) -> None:
        super().__init__(why)
        self.failure = Failure(rule.allow_on_error, rule.time_limit, rule.name)


@dataclass(slots=True)
class _Case:
    """One start while it is judged."""

    start: Start
    rules: Applicable
    held: bool  # it waits for the answer; no longer when that took too long
    runs: bool = True  # once nobody waits; not so when it was refused because that took too long


class Gatekeeper:
    """Judges starts.

    Args:
        library: what images consist of.
        scanner: what is known of vulnerabilities.
        told: what people know already.
        ends: the rest of the daemon.
        clock: seconds since the epoch.
    """

    def __init__(
        self,
        library: Library,
        scanner: Scanner,
        told: ToldStore,
        ends: Ends,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self.tally = Tally()
        self._library = library
        self._scanner = scanner
        self._told = told
        self._ends = ends
        self._clock = clock
        self._tasks: set[asyncio.Task[Any]] = set()
        self._turns: dict[str, asyncio.Lock] = {}

    async def judge(self, start: Start) -> Answer:
        """Whether a container may run.

        Never raises: what cannot be judged is answered as the rules say.
        """
        container = start.container
        if start.held and (why := self._ends.blocked(container.id)):
            return Answer(False, why)
        rules = self._ends.rules(container)
        if not start.held or not rules.blocking or self._ends.protected(container):
            # Nothing can be refused, so nobody has to wait.
            self._keep(asyncio.create_task(self._judge_apart(_Case(start, rules, False))))
            return Answer(True)
        failure = rules.failure
        case = _Case(start, rules, True)
        considering = asyncio.create_task(self._consider(case))
        self._keep(considering)
        try:
            async with asyncio.timeout(failure.seconds):
                reason = await asyncio.shield(considering)
        except TimeoutError:
            # It goes on: the next start finds it done, and if this one goes on as well and should
            # not have, it is blocked then.
            case.held, case.runs = False, failure.allow
            return self._without(case, failure, f"not judged within {failure.seconds:g} s")
        except asyncio.CancelledError:
            case.held, case.runs = False, False  # whoever asked has gone
            raise
        except _UnjudgedError as error:
            return self._without(case, error.failure, str(error))
        if reason:
            self.tally.refused += 1
            _log.warning("%s is refused: %s", _name(container), reason)
        return Answer(not reason, reason)

    def failure(self, container: Container) -> Failure:
        """What becomes of its start when nobody decides in time."""
        return self._ends.rules(container).failure

    async def rescan(self, container: Container, inspected: Mapping[str, Any]) -> None:
        """Judge a container that runs anew: its rules, or the advisories, are others now.

        It is told of and goes on: only starts are refused.

        Args:
            container: which.
            inspected: what its runtime says of it, see ``Start``.
        """
        self.tally.rescans += 1
        rules = self._ends.rules(container)
        start = Start(container, "scan", inspected=inspected)
        await self._judge_apart(_Case(start, rules, False))

    async def preview(
        self, container: Container, inspected: Mapping[str, Any], rules: Applicable
    ) -> list[Opinion]:
        """What other rules would make of a container. Nobody is told.

        Args:
            container: which.
            inspected: what its runtime says of it, see ``Start``.
            rules: that are tried.

        Raises:
            RoteError: its image cannot be judged.
        """
        return await self._weigh(Start(container, "scan", inspected=inspected), rules)

    async def _judge_apart(self, case: _Case) -> None:
        """Judge what nobody waits for."""
        try:
            await self._consider(case)
        except _UnjudgedError as error:
            audit = self._undecided(case, error.failure, str(error))
            if not error.failure.allow and not case.start.held and self._may_stop(case.start):
                self._ends.block(case.start.container, audit, error.failure.rule)

    def _note_failed(self, container: Container, why: str) -> None:
        self.tally.failed += 1
        self.tally.last_error = f"{_name(container)}: {why}"

    def _may_stop(self, start: Start) -> bool:
        """Whether a container that should not run is taken out of service.

        One that ran before anybody looked is somebody's service, and only told of.
        """
        return start.gate != "scan" and not self._ends.protected(start.container)

    async def _consider(self, case: _Case) -> str:
        """Weigh, and tell; why it must not run, or "".

        Of one image one at a time: what two starts find is told once.
        """
        start = case.start
        container = start.container
        key = container.image.id or container.id
        if len(self._turns) > _TURNS_MAX:
            self._turns = {k: turn for k, turn in self._turns.items() if turn.locked()}
        async with self._turns.setdefault(key, asyncio.Lock()):
            opinions = await self._weigh(start, case.rules)
            reason = refusal(opinions)
            stops = bool(reason) and not case.held and case.runs and self._may_stop(start)
            audits = self._tell(case, opinions, stops=stops)
        self.tally.judged += 1
        for opinion in opinions:
            self._ends.count(opinion.rule, str(opinion.kind), int(self._clock() * 1e9))
        if stops:
            self.tally.blocked += 1
            cause = next(audit for audit in audits if audit.action is Action.BLOCK)
            self._ends.block(container, cause, cause.rule)
        return reason

    async def _weigh(self, start: Start, rules: Applicable) -> list[Opinion]:
        """All opinions that rules have of it.

        What one kind of rule cannot judge keeps no other from refusing, and counts only where it
        might itself have refused.

        Raises:
            _UnjudgedError: a rule that may refuse could not judge, and no other refuses.
        """
        found: list[Opinion] = []
        unjudged: list[_UnjudgedError] = []
        for rule, judging in self._judges(start, rules):
            try:
                opinion = await judging
            except RoteError as error:
                if rule.may_block:
                    unjudged.append(_UnjudgedError(rule, str(error)))
                else:
                    self._note_failed(start.container, str(error))
                    _log.warning("%s cannot be judged: %s", _name(start.container), error)
            else:
                found += [opinion] if opinion is not None else []
        if unjudged and not refusal(found):
            raise next((e for e in unjudged if not e.failure.allow), unjudged[0])
        return found

    def _judges(
        self, start: Start, rules: Applicable
    ) -> Iterator[tuple[AnyRule, Coroutine[Any, Any, Opinion | None]]]:
        today = dt.datetime.fromtimestamp(self._clock(), dt.UTC).date()
        if rules.trust is not None:
            yield rules.trust, self._about_trust(start, rules.trust, today)
        if rules.compliance is not None:
            yield rules.compliance, self._about_compliance(start, rules.compliance, today)
        yield rules.vulnerability, self._about_vulnerabilities(start, rules.vulnerability, today)

    async def _about_trust(self, start: Start, rule: TrustRule, today: dt.date) -> Opinion | None:
        inventory = await self._library.inventory(start) if rule.asks_for_layers else None
        return about_trust(start.container, rule, inventory, self._told, today)

    async def _about_compliance(
        self, start: Start, rule: ComplianceRule, today: dt.date
    ) -> Opinion | None:
        own = self._ends.own_checks()
        contents = await self._library.contents(start, own.hashes)
        return await about_compliance(start, rule, contents, own, told=self._told, today=today)

    async def _about_vulnerabilities(
        self, start: Start, rule: VulnerabilityRule, today: dt.date
    ) -> Opinion | None:
        if not self._scanner.informed:
            if rule.may_block:
                raise ImageError(_FEEDLESS)
            return None
        inventory = await self._library.inventory(start)
        in_use = self._ends.in_use(start.container)
        return about_vulnerabilities(self._scanner, inventory, rule, today, in_use)

    def _tell(self, case: _Case, opinions: Iterable[Opinion], *, stops: bool) -> list[Audit]:
        """Audits of what is new, and of what is done because of it."""
        audits = []
        for opinion in opinions:
            refuses = opinion.action is Action.BLOCK
            acted = refuses and (case.held or stops)
            if not opinion.found and not acted:
                continue
            audit = self._audit(
                case,
                opinion.kind,
                opinion.severity,
                rule=opinion.rule,
                action=opinion.action,
                outcome="denied" if refuses and case.held else "observed",
                extra={"found": opinion.found or opinion.message, **opinion.facts},
            )
            if refuses and not acted and case.runs:
                audit.remarks = ("it runs already; its next start would be refused",)
            self._ends.record(audit)
            self._note_told(opinion)
            audits.append(audit)
        return audits

    def _note_told(self, opinion: Opinion) -> None:
        try:
            opinion.told()
        except StateError as error:
            _log.error("%s; it is told once more", error)

    def _without(self, case: _Case, failure: Failure, why: str) -> Answer:
        """The answer when nobody could decide."""
        self._undecided(case, failure, why)
        if failure.allow:
            return Answer(True)
        return Answer(False, f"blocked by rule {failure.rule!r}: its image cannot be judged: {why}")

    def _undecided(self, case: _Case, failure: Failure, why: str) -> Audit:
        """Tell that nobody could decide."""
        name = _name(case.start.container)
        held = case.start.held
        self._note_failed(case.start.container, why)
        done = ("allowed" if failure.allow else "refused") if held else "not undone"
        _log.warning("%s cannot be judged, its start is %s: %s", name, done, why)
        audit = self._audit(
            case,
            AuditType.ADMISSION_FAILED,
            Severity.HIGH,
            rule=failure.rule or "default",
            action=Action.ALERT if failure.allow else Action.BLOCK,
            outcome="denied" if held and not failure.allow else "observed",
            extra={"found": f"{why}; its start is {done}"},
        )
        self._ends.record(audit)
        return audit

    def _audit(
        self, case: _Case, kind: AuditType, severity: Severity, *, extra: dict[str, str],
        **more: Any,
    ) -> Audit:  # fmt: skip
        container = case.start.container
        facts = {"gate": case.start.gate, **extra}
        if container.image.id:
            facts["image_id"] = container.image.id
        return audit_about(
            container,
            kind,
            severity,
            int(self._clock() * 1e9),
            Guarantee.DENY if case.start.held else Guarantee.DETECT,
            sensor=Sensor.IMAGE,
            extra=facts,
            **more,
        )

    def _keep(self, task: asyncio.Task[Any]) -> None:
        self._tasks.add(task)
        task.add_done_callback(self._finished)

    def _finished(self, task: asyncio.Task[Any]) -> None:
        self._tasks.discard(task)
        error = None if task.cancelled() else task.exception()
        if error is not None and not isinstance(error, RoteError):
            self.tally.failed += 1
            self.tally.last_error = f"a mistake of Rote's: {type(error).__name__}; see the log"
            _log.error("a start was not judged", exc_info=error)

    async def close(self) -> None:
        """End what is under way."""
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await self._library.close()


def _name(container: Container) -> str:
    return container.name or container.id[:12]
