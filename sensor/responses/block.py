"""Blocking: a container is taken out of service, and stays out until a person says otherwise.

Read ``_run`` first: the steps in their order. Each has a time limit and a result of its own, and
none waits for an earlier one to succeed. What could not be done, because the runtime does not
answer, say, is tried again until it is done; a daemon that was killed in between goes on with it
when it is started again, because every step is written down before the next one begins.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import logging
import platform
import time
from collections.abc import Awaitable, Callable, Coroutine
from dataclasses import replace
from typing import Any

from sensor.audits.audit import (
    Action,
    Audit,
    AuditType,
    Guarantee,
    Sensor,
    Severity,
    Step,
    audit_about,
)
from sensor.containers import cgroups
from sensor.containers.container import Container
from sensor.containers.runtime import Control, RestartPolicy
from sensor.errors import HostError, RoteError, RuntimeUnavailableError, StateError, UsageError
from sensor.responses.blocked import HELD, BlockCause, Blocked, BlockState
from sensor.responses.freezer import Freezer, own_containers
from sensor.responses.records import RecordStore

_log = logging.getLogger("rote.block")
_TABLE = "blocked"
_ORCHESTRATORS = {
    "io.kubernetes.": "Kubernetes",
    "com.docker.swarm.": "Docker Swarm",
    "com.hashicorp.nomad.": "Nomad",
}
_UNLESS_STOPPED = RestartPolicy("unless-stopped")
_NEVER = RestartPolicy("no")
_STOPS = 3  # a restart that was under way already may come between
_SIGNALLED_SECONDS = 0.1  # by then a runtime that answers has sent the first signal
_THAW_SECONDS = 2.0  # by then it has killed what it stops, and thawed it
_KILL_SECONDS = 0.005  # between two looks at what is being started
_RETRY_SECONDS = (1, 2, 5, 10, 30)
_POLICY_TRIES = 10  # older Podmans cannot change one, ever
_COUNT_SECONDS = 1.0  # how late a count of violations may be on the disk
_CLOSE_SECONDS = 5.0
_UNBLOCKED_MAX = 500  # records of what is past
_EVIDENCE, _POLICY, _STOP, _KILL, _FREEZE = "evidence", "restart policy", "stop", "kill", "freeze"

Controls = Callable[[Container], Control | None]
Evidence = Callable[[Container, BlockCause], Awaitable[str]]
Outcome = tuple[str, str]  # result and detail of a step
Work = Callable[[Blocked], Awaitable[Outcome]]


class Blocker:
    """Blocks containers, keeps them down, and lets them go again.

    Args:
        store: where it is written down.
        freezer: acts on cgroups.
        controls: the runtime of a container; None where it offers no way to control it.
        record: takes an audit; returns at once.
        evidence: takes evidence of a frozen container and returns the pack's id and, after a
            space, what the audit should say of it; None: there is nobody who does.
        protected: why a container must never be blocked; "" when it may.
        on_change: told that a container is (True) or no longer is (False) held down, before
            anything is done about it.
        guarantee: what this host can do, as audits say it.
        grace_seconds: how long a container may take to end by itself; 0: not at all.
        evidence_seconds: how long taking evidence may take.
        step_seconds: how long any other step may take, the grace period not counted.
        clock: seconds since the epoch.

    Raises:
        StateError: the store cannot be read.
    """

    def __init__(
        self,
        store: RecordStore,
        freezer: Freezer,
        controls: Controls,
        record: Callable[[Audit], None],
        *,
        evidence: Evidence | None = None,
        protected: Callable[[Container], str] = lambda _: "",
        on_change: Callable[[str, bool], None] = lambda _identity, _held: None,
        guarantee: Guarantee = Guarantee.DETECT,
        grace_seconds: float = 0.0,
        evidence_seconds: float = 120.0,
        step_seconds: float = 20.0,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._store = store
        self._freezer = freezer
        self._controls = controls
        self._record = record
        self.evidence = evidence
        self.protected = protected
        self.on_change = on_change
        self._guarantee = guarantee
        self._grace_seconds = grace_seconds
        self._evidence_seconds = evidence_seconds
        self._step_seconds = step_seconds
        self._clock = clock
        self._host = platform.node()
        self._own = own_containers()
        self._tasks: dict[str, asyncio.Task[None]] = {}  # one for a container
        self._finishers: dict[str, asyncio.Task[None]] = {}  # try again what failed
        self._started_again: set[str] = set()  # while something was under way
        self._refusals: dict[str, str] = {}  # of containers that must not be blocked
        self._counted: set[str] = set()  # whose counters are not on the disk
        self._records: dict[str, Blocked] = {}
        self._load()

    def _load(self) -> None:
        found = [Blocked.from_values(values) for values in self._store.all(_TABLE)]
        found.sort(key=lambda blocked: blocked.unblocked_at)
        past = [blocked for blocked in found if blocked.state is BlockState.UNBLOCKED]
        for blocked in past[:-_UNBLOCKED_MAX]:
            self._store.remove(_TABLE, blocked.id)
            found.remove(blocked)
        self._records = {blocked.id: blocked for blocked in found}

    # ---- what others ask -------------------------------------------------------------------

    def is_blocked(self, container_id: str) -> bool:
        """Whether a container may not run."""
        blocked = self._records.get(container_id)
        return blocked is not None and blocked.state in HELD

    def blocked_ids(self) -> frozenset[str]:
        """Ids of the containers that may not run."""
        return frozenset(i for i, blocked in self._records.items() if blocked.state in HELD)

    def records(self) -> list[Blocked]:
        """Everything that is or was blocked, oldest first."""
        return sorted(self._records.values(), key=lambda blocked: blocked.blocked_at)

    def refusal(self, container: Container) -> str:
        """Why a container must not be blocked; "" when it may be."""
        if why := self.protected(container):
            return why
        if container.id in self._own:
            return "this sensor runs in it"
        try:
            self._freezer.place(container)
        except HostError as error:
            return str(error)
        return ""

    def violation(
        self,
        container: Container,
        audit: Audit | None,
        rule: str,
        *,
        grace_seconds: float | None = None,
    ) -> str:
        """A rule asks for a block. Returns at once.

        Returns:
            Why it is not blocked; "" when it is, or is about to be.
        """
        if self._count(container, audit):
            return ""
        why = self._refusals.get(container.id)
        if why is None:
            why = self._refusals[container.id] = self.refusal(container)
            if why:
                _log.warning("%s is not blocked: %s", _name(container), why)
        if why:
            return why
        kind = str(audit.type).replace("_", " ") if audit is not None else "violation"
        is_exec = audit is not None and audit.sensor is Sensor.PROCESS
        what = (audit.program if is_exec else audit.path) if audit is not None else ""
        cause = BlockCause(f"{kind}: {what}" if what else kind, rule, [audit] if audit else [])
        grace = self._grace_seconds if grace_seconds is None else grace_seconds
        self._begin(container, cause, grace, with_evidence=True)
        return ""

    def _count(self, container: Container, audit: Audit | None) -> bool:
        """Whether there is nothing to do about a violation but to count it."""
        blocked = self._records.get(container.id)
        if blocked is None or blocked.state is BlockState.UNBLOCKED:
            return False
        if (
            blocked.state is BlockState.ORCHESTRATED
            and container.id not in self._tasks
            and self._runs(container)
        ):
            return False  # it was started again, and misbehaves again
        blocked.count(audit)
        if not self._counted:
            asyncio.get_running_loop().call_later(_COUNT_SECONDS, self._save_counts)
        self._counted.add(container.id)
        return True

    def _save_counts(self) -> None:
        counted, self._counted = self._counted, set()
        for identity in counted:
            self._save(self._records[identity])

    async def block(
        self,
        container: Container,
        cause: BlockCause,
        *,
        grace_seconds: float | None = None,
        with_evidence: bool = True,
    ) -> Blocked:
        """Take a container out of service; returns when every step has its result.

        Args:
            container: which.
            cause: why.
            grace_seconds: instead of the usual one.
            with_evidence: take evidence before it is stopped.

        Raises:
            UsageError: this container must not be blocked.
        """
        if not self._count(container, None):
            if why := self.refusal(container):
                raise UsageError(f"{_name(container)}: not blocked: {why}")
            grace = self._grace_seconds if grace_seconds is None else grace_seconds
            self._begin(container, cause, grace, with_evidence=with_evidence)
        task = self._tasks.get(container.id)
        if task is not None:
            await asyncio.shield(task)
        return self._records[container.id]

    def _begin(
        self, container: Container, cause: BlockCause, grace: float, *, with_evidence: bool
    ) -> None:
        blocked = Blocked(
            container,
            # It may hold a path of any bytes, and is shown as JSON.
            cause.reason.encode("utf-8", "backslashreplace").decode(),
            cause.rule,
            self._clock(),
            grace_seconds=grace,
            with_evidence=with_evidence,
            causes=cause.audits,
            violations=1,
        )
        self._records[container.id] = blocked
        self.on_change(blocked.id, True)
        self._spawn(blocked, self._run(blocked))

    def _spawn(self, blocked: Blocked, work: Coroutine[Any, Any, None]) -> None:
        async def run() -> None:
            try:
                await work
                while blocked.id in self._started_again:
                    self._started_again.discard(blocked.id)
                    if blocked.state in HELD and self._runs(blocked.container):
                        await self._refuse_start(blocked)
            except Exception:  # noqa: BLE001 - logged whole; the next start finishes it
                _log.exception("blocking %s", _name(blocked.container))
            finally:
                self._tasks.pop(blocked.id, None)

        self._tasks[blocked.id] = asyncio.create_task(run(), name=f"block {blocked.id[:12]}")

    async def resume(self) -> None:
        """Finish what an earlier daemon began. Returns at once; call it when a loop runs."""
        for blocked in self._records.values():
            if blocked.state is BlockState.BLOCKING and blocked.id not in self._tasks:
                _log.warning(
                    "%s: an earlier daemon did not finish blocking it", _name(blocked.container)
                )
                self._spawn(blocked, self._run(blocked, remark="finished after a restart of Rote"))

    async def close(self) -> None:
        """Let steps that are under way end, for a moment; the next daemon finishes the rest."""
        for finisher in self._finishers.values():
            finisher.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks.values(), timeout=_CLOSE_SECONDS)
        tasks = (*self._tasks.values(), *self._finishers.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        self._save_counts()

    # ---- the steps -------------------------------------------------------------------------

    async def _run(self, blocked: Blocked, remark: str = "") -> None:
        """All steps of a block, in their order."""
        self._save(blocked)  # before the first step, so that a daemon killed now finishes it later
        self._tell_refused(blocked)
        await self._take(blocked, _FREEZE, self._freeze)
        if not blocked.done(_EVIDENCE):
            await self._take(blocked, _EVIDENCE, self._take_evidence, self._evidence_seconds)
        blocked.orchestrator = await self._orchestrator(blocked)
        await self._take_out(blocked)
        self._conclude(blocked, (remark,) if remark else ())

    async def _take_out(self, blocked: Blocked) -> None:
        """The steps that keep it down, without those that have succeeded already."""
        if not blocked.done(_POLICY):
            await self._take(blocked, _POLICY, self._change_policy)
        if not blocked.done(_STOP):
            seconds = blocked.grace_seconds + self._step_seconds
            result = await self._take(blocked, _STOP, self._stop, seconds)
            if result == "failed":
                await self._take(blocked, _KILL, self._kill)

    def _conclude(self, blocked: Blocked, remarks: tuple[str, ...]) -> None:
        """Write down what became of it, tell it, and go on trying what failed."""
        failed = {step.name for step in blocked.steps if step.result == "failed"}
        if failed & {_POLICY, _STOP}:
            remarks += ("what failed is tried again until it is done",)
            self._finishers[blocked.id] = asyncio.create_task(
                self._finish(blocked), name=f"finish {blocked.id[:12]}"
            )
        else:
            self._settle(blocked)
        self._tell(
            blocked,
            AuditType.CONTAINER_BLOCKED,
            Severity.CRITICAL,
            "blocked" if not self._runs(blocked.container) else "failed",
            steps=blocked.steps,
            remarks=remarks,
        )

    def _settle(self, blocked: Blocked) -> None:
        """Every step that keeps it down has succeeded."""
        blocked.finished_at = self._clock()
        blocked.state = BlockState.ORCHESTRATED if blocked.orchestrator else BlockState.BLOCKED
        if blocked.state is BlockState.ORCHESTRATED:
            self.on_change(blocked.id, False)
        self._save(blocked)

    def _runs(self, container: Container) -> bool:
        """Whether anything of it is there and not frozen."""
        try:
            return bool(self._freezer.pids(container)) and not self._freezer.is_frozen(container)
        except HostError:
            return True

    async def _take(
        self, blocked: Blocked, name: str, work: Work, seconds: float | None = None
    ) -> str:
        """Take a step of a block and write down what became of it; its result."""
        step = await self._try(blocked, name, work, seconds)
        steps = list(blocked.steps)
        earlier = next((i for i, old in enumerate(steps) if old.name == name), None)
        if earlier is None:
            steps.append(step)
        else:
            steps[earlier] = step
        if step.result == "failed" and (
            earlier is None or blocked.steps[earlier].detail != step.detail
        ):
            _log.error("%s: %s: %s", _name(blocked.container), name, step.detail)
        blocked.steps = tuple(steps)
        self._save(blocked)
        return step.result

    async def _try(
        self, blocked: Blocked, name: str, work: Work, seconds: float | None = None
    ) -> Step:
        seconds = self._step_seconds if seconds is None else seconds
        began = time.monotonic()
        try:
            async with asyncio.timeout(seconds):
                result, detail = await work(blocked)
        except TimeoutError:
            result, detail = "failed", f"not done within {seconds:g} s"
        except (RoteError, OSError) as error:
            result, detail = "failed", str(error)
        except Exception as error:  # noqa: BLE001 - logged whole, and no reason to leave the rest
            _log.exception("%s: %s", _name(blocked.container), name)
            result, detail = "failed", f"unexpected {type(error).__name__}: {error}"
        return Step(name, result, detail, round(time.monotonic() - began, 6))

    def _save(self, blocked: Blocked) -> None:
        try:
            self._store.put(_TABLE, blocked.id, blocked.to_values())
        except StateError as error:
            # A full disk must not keep a container running. The audit says what a restart forgets.
            _log.error("%s", error)
            if not any(step.name == "record" for step in blocked.steps):
                blocked.steps = (*blocked.steps, Step("record", "failed", str(error)))

    @staticmethod
    def _tell_refused(blocked: Blocked) -> None:
        """What became of the operation itself; the kernel did that before we heard of it."""
        if not blocked.causes or blocked.steps:
            return
        audit = blocked.causes[0]
        refused = audit.outcome in ("denied", "killed")
        what = audit.operation or str(audit.type)
        blocked.steps = (
            Step(
                "refuse",
                "done" if refused else "skipped",
                f"{what}: {audit.outcome}" + ("" if refused else "; it has happened"),
            ),
        )

    async def _freeze(self, blocked: Blocked) -> Outcome:
        detail = await self._freezer.freeze(blocked.container)
        return ("done", detail) if detail else ("skipped", "nothing of it runs")

    async def _take_evidence(self, blocked: Blocked) -> Outcome:
        if not blocked.with_evidence:
            return "skipped", "not asked for"
        if self.evidence is None:
            return "skipped", "this daemon takes none"
        cause = BlockCause(blocked.reason, blocked.rule, blocked.causes)
        taken = await self.evidence(blocked.container, cause)
        blocked.evidence = taken.partition(" ")[0]
        return "done", taken

    async def _orchestrator(self, blocked: Blocked) -> str:
        """Who keeps this container running; "" for nobody."""
        container, control = blocked.container, self._controls(blocked.container)
        found = orchestrator(container)
        if not found or control is None:
            return found
        # Docker shows an image's labels as the container's. They are whatever its maker wrote, and
        # must not decide that a container may come back.
        try:
            async with asyncio.timeout(self._step_seconds):
                image = await control.image_details(container.image.id) or {}
        except (RoteError, TimeoutError) as error:
            _log.warning("%s: cannot tell whose it is: %s", _name(container), error)
            return ""
        printed = (image.get("Config") or {}).get("Labels") or {}
        own = {key: value for key, value in container.labels.items() if printed.get(key) != value}
        return orchestrator(replace(container, labels=own, pod=""))

    async def _change_policy(self, blocked: Blocked) -> Outcome:
        control = self._controls(blocked.container)
        if blocked.orchestrator:
            return "skipped", f"{blocked.orchestrator} decides whether another one is started"
        if control is None:
            return "skipped", f"{blocked.container.runtime}: has none that could be changed here"
        if blocked.restart_policy is None:
            blocked.restart_policy = await control.restart_policy(blocked.id)
        old = blocked.restart_policy
        if old.name == _NEVER.name:
            return "skipped", "no: it is never started by itself"
        blocked.policy_changed = True
        self._save(blocked)  # first, or what it was would be forgotten
        await control.set_restart_policy(blocked.id, _UNLESS_STOPPED)
        return "done", f"{old} → {_UNLESS_STOPPED}"

    async def _stop(self, blocked: Blocked) -> Outcome:
        container, control = blocked.container, self._controls(blocked.container)
        if control is None:
            return await self._stop_by_cgroup(blocked)
        ran = False
        for _ in range(_STOPS):
            ran = await self._stop_through(control, container, blocked.grace_seconds) or ran
            if not await _runs(control, container):
                break
        else:
            raise HostError(f"{container.runtime} started it again after each of {_STOPS} stops")
        killed = await self._freezer.kill(container)
        more = f"; {killed} were left and killed" if killed else ""
        if ran:
            return "done", f"through {container.runtime}{more}"
        detail = f"it did not run{more}"
        policy = blocked.restart_policy
        if not blocked.orchestrator and policy is not None and policy.name != _NEVER.name:
            # The runtime counts as stopped only what it stopped; "unless-stopped" would start it.
            with contextlib.suppress(RuntimeUnavailableError):  # gone altogether
                await control.set_restart_policy(blocked.id, _NEVER)
                detail += f"; restart policy → {_NEVER}, or its runtime might start it"
        return "done", detail

    async def _stop_through(self, control: Control, container: Container, grace: float) -> bool:
        """Stop it as its runtime does; whether it ran.

        Nothing of it runs meanwhile, unless a grace period was given.
        """
        condemned = grace == 0 and self._freezer.condemn(container)
        task = asyncio.create_task(control.stop(container.id, grace))
        try:
            if grace or condemned:
                await asyncio.wait({task}, timeout=_SIGNALLED_SECONDS if grace else _THAW_SECONDS)
                if not task.done():
                    await self._freezer.thaw(container)
            return await task
        finally:
            task.cancel()

    async def _stop_by_cgroup(self, blocked: Blocked) -> Outcome:
        container, grace = blocked.container, blocked.grace_seconds
        how = f"{container.runtime} offers no way to stop it here; through its cgroup"
        if grace and await self._freezer.terminate(container, grace):
            return "done", f"{how}: it ended by itself"
        killed = await self._freezer.kill(container)
        return "done", f"{how}: {killed} killed" if killed else "nothing of it ran"

    async def _kill(self, blocked: Blocked) -> Outcome:
        killed = await self._freezer.kill(blocked.container)
        return "done", f"through its cgroup: {killed}" if killed else "nothing of it ran"

    # ---- afterwards ------------------------------------------------------------------------

    async def _finish(self, blocked: Blocked) -> None:
        """Try again what failed until it is done, or the container is no more."""
        try:
            for attempt in itertools.count():
                delay = _RETRY_SECONDS[min(attempt, len(_RETRY_SECONDS) - 1)]
                await asyncio.sleep(delay)
                control = self._controls(blocked.container)
                if control is not None and await self._is_gone(control, blocked):
                    break
                await self._take_out(blocked)
                results = {step.name: step.result for step in blocked.steps}
                if results.get(_STOP) != "failed" and (
                    results.get(_POLICY) != "failed" or attempt >= _POLICY_TRIES
                ):
                    break
            self._settle(blocked)
            self._tell(
                blocked,
                AuditType.CONTAINER_BLOCKED,
                Severity.CRITICAL,
                "blocked",
                steps=blocked.steps,
                remarks=("what had failed was tried again",),
            )
        finally:
            self._finishers.pop(blocked.id, None)

    async def _is_gone(self, control: Control, blocked: Blocked) -> bool:
        """Whether the runtime says that there is no such container any more."""
        try:
            async with asyncio.timeout(self._step_seconds):
                return await control.details(blocked.id) is None
        except (RuntimeUnavailableError, TimeoutError):
            return False

    def started(self, container: Container) -> bool:
        """A container runs; whether it is blocked, and therefore stopped again. Returns at once."""
        blocked = self._records.get(container.id)
        if blocked is None or blocked.state not in HELD:
            return False
        blocked.container = container  # its first process is another one now
        if container.pid and not self._runs(container):
            return True  # it has been stopped since this was said
        if container.id in self._tasks:
            self._started_again.add(container.id)
        else:
            self._spawn(blocked, self._refuse_start(blocked))
        return True

    def cgroup_created(self, cgroup_id: int, path: str) -> bool:
        """The kernel saw a cgroup being made, in which nothing runs yet. Returns at once.

        A blocked container that is being started is thereby refused before its runtime would have
        told of it.

        Returns:
            Whether it is a blocked container's.
        """
        blocked = self._records.get(cgroups.container_id(path) or "")
        if blocked is None:
            return False
        return self.started(
            replace(blocked.container, cgroup_id=cgroup_id, cgroup_path=path, pid=0)
        )

    async def _refuse_start(self, blocked: Blocked) -> None:
        """Kill what somebody started, and let its runtime know that it is to stay down.

        Not frozen first, as in a block: a runtime that is about to start it would wait for it,
        and would not answer meanwhile. Killed in time, the start itself fails.
        """
        now = replace(blocked, steps=(), grace_seconds=0.0, causes=[])
        killer = asyncio.create_task(self._keep_killing(blocked.container))
        try:
            steps = [await self._try(now, _STOP, self._stop)]
        finally:
            killer.cancel()
            await asyncio.gather(killer, return_exceptions=True)
        blocked.starts_refused += 1
        self._save(blocked)
        if steps[-1].result == "failed":
            steps.append(await self._try(now, _KILL, self._kill))
            blocked.steps = tuple(step for step in blocked.steps if step.name != _STOP)
            if blocked.id not in self._finishers:
                self._finishers[blocked.id] = asyncio.create_task(
                    self._finish(blocked), name=f"finish {blocked.id[:12]}"
                )
        self._tell(
            blocked,
            AuditType.START_REFUSED,
            Severity.HIGH,
            "refused" if not self._runs(blocked.container) else "failed",
            # Not as steps: then each try of somebody who does not give up would be an audit.
            remarks=tuple(f"{s.name}: {s.result}: {s.detail}" for s in steps),
        )

    async def _keep_killing(self, container: Container) -> None:
        """Until cancelled. Its cgroup may be there before anything is in it."""
        while True:
            with contextlib.suppress(HostError, OSError):  # said by the step that is under way
                await self._freezer.kill(container)
            await asyncio.sleep(_KILL_SECONDS)

    async def unblock(self, container_id: str, *, start: bool = False) -> tuple[Blocked, Step]:
        """Let a container run again, under the restart policy that it had.

        Args:
            container_id: its whole id.
            start: start it as well.

        Returns:
            The record, and what became of the restart policy.

        Raises:
            UsageError: it is not blocked, or is being blocked at the moment.
            RuntimeUnavailableError: the runtime does not answer; it stays blocked.
        """
        blocked = self._records.get(container_id)
        if blocked is None or blocked.state is BlockState.UNBLOCKED:
            raise UsageError(f"{container_id[:12]}: not blocked; see: rote blocked list")
        await self._settled(blocked)
        policy = await self._restore_policy(blocked)
        steps = [policy]
        if self._freezer.is_frozen(blocked.container):
            await self._freezer.thaw(blocked.container)
            steps.append(Step("thaw", "done", "it was frozen, and could not be stopped"))
        blocked.state = BlockState.UNBLOCKED
        blocked.unblocked_at = self._clock()
        self._refusals.pop(container_id, None)
        self._save(blocked)
        self.on_change(container_id, False)
        if start:
            steps.append(await self._try(blocked, "start", self._start))
        self._tell(
            blocked,
            AuditType.CONTAINER_UNBLOCKED,
            Severity.INFO,
            "unblocked",
            steps=tuple(steps),
        )
        if steps[-1].name == "start" and steps[-1].result == "failed":
            raise HostError(
                f"{_name(blocked.container)}: unblocked, not started: {steps[-1].detail}"
            )
        return blocked, policy

    async def _settled(self, blocked: Blocked) -> None:
        """Wait until nothing is under way for a container."""
        finisher = self._finishers.pop(blocked.id, None)
        if finisher is not None:
            finisher.cancel()
            await asyncio.gather(finisher, return_exceptions=True)
        task = self._tasks.get(blocked.id)
        if task is not None:
            await asyncio.wait({task}, timeout=self._step_seconds)
            if not task.done():
                raise UsageError(f"{_name(blocked.container)}: still being blocked; try again")

    async def _restore_policy(self, blocked: Blocked) -> Step:
        began = time.monotonic()
        old, control = blocked.restart_policy, self._controls(blocked.container)
        if not blocked.policy_changed or old is None:
            kept = str(old) if old is not None else "none known"
            return Step(_POLICY, "skipped", f"{kept}: it was not changed")
        if control is None:
            raise RuntimeUnavailableError(
                f"{_name(blocked.container)}: stays blocked: its runtime "
                f"{blocked.container.runtime} is not asked by this daemon (see --runtime)"
            )
        if await control.details(blocked.id) is None:
            return Step(_POLICY, "skipped", "there is no such container any more")
        await control.set_restart_policy(blocked.id, old)
        return Step(_POLICY, "done", f"{old} again", round(time.monotonic() - began, 6))

    async def _start(self, blocked: Blocked) -> Outcome:
        control = self._controls(blocked.container)
        if control is None:
            return "failed", f"{blocked.container.runtime} offers no way to start it here"
        await control.start(blocked.id)
        return "done", f"through {blocked.container.runtime}"

    def _tell(
        self,
        blocked: Blocked,
        kind: AuditType,
        severity: Severity,
        outcome: str,
        *,
        steps: tuple[Step, ...] = (),
        remarks: tuple[str, ...] = (),
    ) -> None:
        container = blocked.container
        now_ns = int(self._clock() * 1e9)
        facts = {
            "reason": blocked.reason,
            "causes": " ".join(str(number) for number in blocked.audit_ids()),
            "evidence": blocked.evidence,
            "orchestrator": blocked.orchestrator,
            "restart_policy": str(blocked.restart_policy or ""),
            "starts_refused": str(blocked.starts_refused or ""),
        }
        if blocked.orchestrator and kind is AuditType.CONTAINER_BLOCKED:
            remarks += (f"a fresh container may come: that is {blocked.orchestrator}'s to decide",)
        _log.warning("%s: %s: %s", _name(container), outcome, blocked.reason)
        self._record(
            audit_about(
                container,
                kind,
                severity,
                now_ns,
                self._guarantee,
                action=Action.BLOCK,
                host=self._host,
                rule=blocked.rule or "by hand",
                outcome=outcome,
                remarks=remarks,
                extra={name: text for name, text in facts.items() if text},
                steps=steps,
            )
        )


def orchestrator(container: Container) -> str:
    """Who, by its labels, keeps a container running; "" for nobody."""
    for prefix, name in _ORCHESTRATORS.items():
        if any(label.startswith(prefix) for label in container.labels):
            return name
    return "Kubernetes" if container.pod else ""


async def _runs(control: Control, container: Container) -> bool:
    """Whether a runtime says that a container runs, or is about to."""
    state = ((await control.details(container.id)) or {}).get("State") or {}
    return bool(state.get("Running") or state.get("Restarting"))


def _name(container: Container) -> str:
    return container.name or container.short_id
