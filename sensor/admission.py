"""The daemon's side of judging images: starts, the daily scan, feeds, and what status says."""

from __future__ import annotations

import asyncio
import contextlib
import datetime as dt
import logging
import sys
import time
from collections.abc import Collection, Mapping
from dataclasses import asdict
from typing import Any

from sensor.audits.audit import Audit, AuditType, Guarantee, Severity, audit_about
from sensor.config import Settings
from sensor.containers.container import Container
from sensor.containers.docker import DockerRuntime
from sensor.containers.registry import ContainerChange
from sensor.containers.runtime import Control, Runtime
from sensor.errors import BadInputError, RoteError, RuntimeUnavailableError
from sensor.images.admission.gatekeeper import Ends, Gatekeeper
from sensor.images.admission.image_rules import Applicable, ImageRules
from sensor.images.admission.judge_compliance import OwnChecks
from sensor.images.admission.library import Library
from sensor.images.admission.start import Answer, Failure, Start
from sensor.images.cache import InventoryCache
from sensor.images.vulns.judge import in_use_of
from sensor.images.vulns.scan import Scanner
from sensor.images.vulns.sources import read_sources
from sensor.images.vulns.store import VulnStore, stale_feeds
from sensor.images.vulns.told import ToldStore
from sensor.pipeline import Pipeline
from sensor.responses.block import Blocker
from sensor.rules.files import RuleSet
from sensor.rules.keeper import RuleKeeper

_log = logging.getLogger("rote.admission")
_LOOK_SECONDS = 5.0
_SCAN_SECONDS = 86400.0
_ASKED_SECONDS = 60.0  # so long after a gate's question a start is the same one
_ASKED_MAX = 4096
_HOOK_SECONDS = 1.0  # from the making of a cgroup to the hook's question, on a busy host
_ABANDONED_SECONDS = 2.0  # by then what goes on is known to run
_HOST = Container(id="", runtime="", name="rote")
_RETRY_SECONDS = 3600.0  # between two tries to update feeds
_UPDATE_MAX_SECONDS = 4 * 3600.0
_SAID_MAX = 500  # characters of what a failed update said


class Admission:
    """Judges the images of containers, at their start and whenever something about them is new.

    Args:
        settings: of the daemon.
        pipeline: whose containers these are.
        runtimes: that know their images.
        keeper: of the rules.
        blocker: takes containers out of service.
        stack: closes the stores at the end.

    Raises:
        StateError: a store cannot be read.
        BadInputError: a check of people's own cannot be used.
    """

    def __init__(
        self,
        settings: Settings,
        pipeline: Pipeline,
        runtimes: Collection[Runtime],
        keeper: RuleKeeper,
        blocker: Blocker,
        *,
        stack: contextlib.ExitStack,
    ) -> None:
        self._settings = settings
        self._pipeline = pipeline
        self._keeper = keeper
        self._blocker = blocker
        self._controls = {r.name: r for r in runtimes if isinstance(r, Control)}
        self._store = VulnStore(settings.vulns_db)
        stack.callback(self._store.close)
        self._told = ToldStore(settings.vulns_told_db)
        stack.callback(self._told.close)
        cache = InventoryCache(settings.images_db)
        stack.callback(cache.close)
        self.gatekeeper = Gatekeeper(
            Library(cache, self._image_details),
            Scanner(self._store, self._told),
            self._told,
            Ends(
                rules=self._rules,
                record=pipeline.record,
                block=self._block,
                blocked=self._blocked,
                protected=self._protected,
                count=self._count,
                own_checks=lambda: self._own,
                in_use=self._in_use,
            ),
        )
        self._parsed: tuple[RuleSet, ImageRules] | None = None
        self._own = OwnChecks.read(settings.checks_dir, settings.malware_file)
        self.gates_ask = False  # gates are installed, or have asked already
        self._asked: dict[str, float] = {}  # container → when a gate asked, oldest first
        self._tasks: set[asyncio.Task[Any]] = set()
        self._scanned_at = 0.0
        self._scanned_by: tuple[int, RuleSet] | None = None
        self._updated_at = 0.0
        self._update_error = ""
        self._stale: set[str] = set()  # feeds whose age was told

    async def judge(self, start: Start) -> Answer:
        """Whether a container may run; what gates ask."""
        if not start.held:
            return await self.gatekeeper.judge(start)
        self._note_asked(start.container.id)
        try:
            answer = await self.gatekeeper.judge(start)
        except asyncio.CancelledError:
            # Whoever asked gave up, and may have let it go on without us.
            self._asked.pop(start.container.id, None)
            self._apart(self._abandoned(start.container.id))
            raise
        self._note_asked(start.container.id)
        return answer

    async def _abandoned(self, container_id: str) -> None:
        """Judge a container that went on without an answer, as one that no gate held."""
        await asyncio.sleep(_ABANDONED_SECONDS)
        for watched in self._pipeline.watched():
            if watched.container.id == container_id and not self._was_asked(container_id):
                await self._started(watched.container)

    def _note_asked(self, container_id: str) -> None:
        self.gates_ask = True
        self._asked.pop(container_id, None)
        self._asked[container_id] = time.monotonic()
        if len(self._asked) > _ASKED_MAX:
            self._asked.pop(next(iter(self._asked)))

    def _was_asked(self, container_id: str) -> bool:
        """Whether a gate asks about this start, or did."""
        return time.monotonic() - self._asked.get(container_id, -_ASKED_SECONDS) < _ASKED_SECONDS

    def reload(self) -> None:
        """Read people's own checks again. What is bad is said, and what held before holds on."""
        try:
            self._own = OwnChecks.read(self._settings.checks_dir, self._settings.malware_file)
        except BadInputError as error:
            _log.error("%s; the checks that held before hold on", error)

    def failure(self, container: Container | None) -> Failure:
        """What becomes of a start that nobody decides.

        Args:
            container: None for one that nobody knows: the strictest that any rule says.
        """
        if container is not None:
            return self.gatekeeper.failure(container)
        return self._image_rules().strictest

    def on_container(self, change: ContainerChange) -> None:
        """A container came, went or changed."""
        container = change.container
        if change.kind != "added" or not container.image.id or container.runtime == "cgroup":
            return
        if change.running_before:
            self._apart(self._rescan(container))
        elif not self._was_asked(container.id):
            self._apart(self._started(container))

    async def _started(self, container: Container) -> None:
        """No gate held its start: judge it while it runs."""
        if self.gates_ask:
            # Its cgroup is there before the hook asks; then the gate decides, and alone.
            await asyncio.sleep(_HOOK_SECONDS)
            if self._was_asked(container.id):
                return
        inspected = await self._inspected(container)
        await self.gatekeeper.judge(Start(container, "events", inspected=inspected))

    async def _rescan(self, container: Container) -> None:
        await self.gatekeeper.rescan(container, await self._inspected(container))

    async def _inspected(self, container: Container) -> Mapping[str, Any]:
        """What its runtime says of it; what is empty is not known, and checks say so."""
        if (control := self._controls.get(container.runtime)) is not None:
            with contextlib.suppress(RuntimeUnavailableError):
                return await control.details(container.id) or {}
        return {}

    async def run(self) -> None:
        """Scan when a day is over, or rules or feeds are others; update feeds; until cancelled."""
        while True:
            try:
                await self._look()
            except RoteError as error:
                _log.error("%s", error)
            await asyncio.sleep(_LOOK_SECONDS)

    async def _look(self) -> None:
        now = time.time()
        self._tell_stale(now)
        if self._update_is_due(now):
            self._updated_at = now
            self._apart(self._update_feeds())
        by = (self._store.generation, self._keeper.rules)
        if self._scanned_by is None:  # what runs now is looked at as it is found
            self._scanned_by, self._scanned_at = by, now
        if by != self._scanned_by or now - self._scanned_at >= _SCAN_SECONDS:
            self._scanned_by, self._scanned_at = by, now
            await self._scan()

    def _update_is_due(self, now: float) -> bool:
        every = self._settings.feeds_seconds
        if not every or now - self._updated_at < min(every, _RETRY_SECONDS):
            return False
        feeds = self._store.feeds()
        return not feeds or min(feed.checked_ns for feed in feeds) / 1e9 <= now - every

    async def _scan(self) -> None:
        """Look at every image that runs, once for each of its models."""
        seen: set[tuple[str, str]] = set()
        for watched in self._pipeline.watched():
            container = watched.container
            key = (container.model_id, container.name if self._keeper.rules.image_rules else "")
            if container.image.id and container.runtime != "cgroup" and key not in seen:
                seen.add(key)
                await self._rescan(container)
        await self._forget_gone()

    async def _forget_gone(self) -> None:
        """Forget what was told of images that no runtime has any more."""
        images: set[str] = set()
        for control in self._controls.values():
            lister = getattr(control, "images", None)
            if lister is None:
                return
            try:
                images |= {str(entry.get("Id")) for entry in await lister()}
            except RuntimeUnavailableError:
                return  # it may have them
        self._told.forget(images, dt.datetime.now(dt.UTC).date())

    def _tell_stale(self, now: float) -> None:
        stale = {feed.name: feed for feed in stale_feeds(self._store, int(now * 1e9))}
        for name in stale.keys() - self._stale:
            days = stale[name].age(int(now * 1e9)) / 86400
            audit = audit_about(
                _HOST, AuditType.FEED_STALE, Severity.MEDIUM, int(now * 1e9), Guarantee.DETECT
            )
            audit.extra = {
                "feed": name,
                "age": f"{days:.1f} days",
                **({"error": stale[name].error} if stale[name].error else {}),
                "mend": "rote vulns update",
            }
            self._pipeline.record(audit)
        self._stale = set(stale)

    async def _update_feeds(self) -> None:
        """Bring the advisories up to date, in a process of its own: it takes minutes."""
        path = self._settings.feeds_file
        try:
            if not path.exists() or not read_sources(path).feeds:
                return
        except BadInputError as error:
            self._note_update(str(error))
            return
        command = (
            *(sys.executable, "-m", "sensor", "--state-dir", str(self._settings.state_dir)),
            *("vulns", "update", "--config", str(path), "--output", "jsonl"),
        )
        process = await asyncio.create_subprocess_exec(
            *command,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.DEVNULL,
            stderr=asyncio.subprocess.PIPE,
            start_new_session=True,
        )
        try:
            async with asyncio.timeout(_UPDATE_MAX_SECONDS):
                _, said = await process.communicate()
        except TimeoutError:
            said = f"not done within {_UPDATE_MAX_SECONDS / 3600:g} h".encode()
        finally:
            if process.returncode is None:
                with contextlib.suppress(ProcessLookupError):
                    process.kill()
                await process.wait()
        failed = process.returncode != 0
        lines = said.decode(errors="replace").strip().splitlines()
        self._note_update("; ".join(lines)[:_SAID_MAX] or "it failed" if failed else "")

    def _note_update(self, error: str) -> None:
        if error:
            _log.error("the advisories are not up to date: %s", error)
        self._update_error = error

    async def preview(self, rules: RuleSet) -> list[dict[str, str]]:
        """What rules would make of the images that run, before they hold.

        Args:
            rules: that are tried.

        Returns:
            For each container and opinion the action and one line; of an image that cannot be
            judged, what its start would be.
        """
        tried = ImageRules.of(rules)
        rows: list[dict[str, str]] = []
        for watched in self._pipeline.watched():
            container = watched.container
            if not container.image.id or container.runtime == "cgroup":
                continue
            found = tried.applicable(container, self._keeper.policy.where)
            name = {"container": container.name, "image": container.image.reference}
            try:
                opinions = await self.gatekeeper.preview(
                    container, await self._inspected(container), found
                )
            except RoteError as error:
                action = "allow" if found.failure.allow else "block"
                rows.append({**name, "action": action, "message": f"cannot be judged: {error}"})
            else:
                rows += [{**name, "action": str(o.action), "message": o.message} for o in opinions]
        return rows

    def status(self) -> dict[str, object]:
        """What `rote status` says of images."""
        now_ns = time.time_ns()
        feeds = self._store.feeds()
        return {
            **asdict(self.gatekeeper.tally),
            "feeds": len(feeds),
            "stale_feeds": sorted(feed.name for feed in feeds if feed.is_stale(now_ns)),
            "update_error": self._update_error,
            "scanned_at": self._scanned_at,
        }

    async def close(self) -> None:
        """End what is under way."""
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await self.gatekeeper.close()

    async def _image_details(self, container: Container) -> Mapping[str, Any] | None:
        control = self._controls.get(container.runtime)
        if control is None:
            return None
        details = await control.image_details(container.image.id)
        if details is None or not isinstance(control, DockerRuntime):
            return details
        return {**details, "History": await control.image_history(container.image.id)}

    def _rules(self, container: Container) -> Applicable:
        return self._image_rules().applicable(container, self._keeper.policy.where)

    def _image_rules(self) -> ImageRules:
        rules = self._keeper.rules
        if self._parsed is None or self._parsed[0] is not rules:
            self._parsed = (rules, ImageRules.of(rules))
        return self._parsed[1]

    def _protected(self, container: Container) -> str:
        rule = self._keeper.policy.rule(container)
        return f"rule {rule.name} protects it" if rule.protected else ""

    def _block(self, container: Container, audit: Audit, rule: str) -> None:
        if why := self._blocker.violation(container, audit, rule):
            _log.error("%s is not blocked: %s", container.name or container.short_id, why)

    def _blocked(self, container_id: str) -> str:
        for blocked in self._blocker.records():
            if blocked.id == container_id and self._blocker.is_blocked(container_id):
                name = blocked.container.name or blocked.container.short_id
                return f"blocked: {blocked.reason}; let it run again with: rote unblock {name}"
        return ""

    def _count(self, rule: str, what: str, time_ns: int) -> None:
        self._pipeline.hits.count(rule, what, time_ns)

    def _in_use(self, container: Container) -> Collection[str] | None:
        models = self._pipeline.models.all()
        return in_use_of(model for model in models if model.image.id == container.image.id)

    def _apart(self, work: Any) -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._finished)

    def _finished(self, task: asyncio.Task[Any]) -> None:
        self._tasks.discard(task)
        error = None if task.cancelled() else task.exception()
        if error is not None:
            _log.error("%s", error, exc_info=None if isinstance(error, RoteError) else error)
