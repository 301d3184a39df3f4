"""From an image to a decision: the one thing that admission, the daily scan and people ask."""

from __future__ import annotations

import datetime as dt
from collections import OrderedDict
from collections.abc import Collection
from dataclasses import dataclass

from sensor.images.package import Inventory, Package
from sensor.images.vulns.finding import Finding
from sensor.images.vulns.judge import Decision, Judgement, judge
from sensor.images.vulns.matcher import Matcher
from sensor.images.vulns.reports import kept_report
from sensor.images.vulns.store import VulnStore
from sensor.images.vulns.told import ToldStore
from sensor.rules.vulnerability import VulnerabilityRule

_KEPT = 64  # images whose findings are remembered; to match one anew takes some 20 ms


@dataclass(frozen=True, slots=True)
class Scanned:
    """What an image has.

    Attributes:
        findings: the worst first.
        by: ``rote``, or the scanner whose report stands for the own scan.
        made: when that report was made, as it says; "" for an own scan.
        unmatched: packages that nothing can be said of, with the reason.
        generation: of the store, so that who keeps this knows when to ask again.
    """

    findings: tuple[Finding, ...]
    by: str = "rote"
    made: str = ""
    unmatched: tuple[tuple[Package, str], ...] = ()
    generation: int = 0


class Scanner:
    """Scans images, and remembers the last ones until a feed says something else.

    Args:
        store: the advisories and kept reports.
        told: what was told of which image; None for who only looks.
    """

    def __init__(self, store: VulnStore, told: ToldStore | None = None) -> None:
        self._store = store
        self._told = told
        self._matcher = Matcher(store)
        self._kept: OrderedDict[str, Scanned] = OrderedDict()

    @property
    def informed(self) -> bool:
        """Whether any feed or report ever said anything."""
        return self._store.generation > 0

    def scan(self, inventory: Inventory, *, own: bool = False) -> Scanned:
        """What an image has.

        Args:
            inventory: of the image.
            own: match its packages, even where a report of another scanner is kept.

        Raises:
            StateError: the store cannot be read.
        """
        generation = self._store.generation
        image = inventory.image_id
        known = self._kept.get(image) if image and not own else None
        if known is not None and known.generation == generation:
            self._kept.move_to_end(image)
            return known
        scanned = self._scan(inventory, own=own)
        if image and not own:
            self._kept[image] = scanned
            self._kept.move_to_end(image)
            if len(self._kept) > _KEPT:
                self._kept.popitem(last=False)
        return scanned

    def _scan(self, inventory: Inventory, *, own: bool) -> Scanned:
        if not own and (report := kept_report(self._store, inventory.image_id)):
            return Scanned(
                report.findings, report.tool, report.created, generation=self._store.generation
            )
        found = self._matcher.match(inventory)
        return Scanned(found.findings, unmatched=found.unmatched, generation=found.generation)

    def decide(
        self,
        inventory: Inventory,
        rule: VulnerabilityRule,
        today: dt.date,
        in_use: Collection[str] | None = None,
    ) -> Decision:
        """What a rule makes of an image; notes what is seen for the first time.

        Args:
            inventory: of the image.
            rule: that counts for the container.
            today: for grace and exceptions.
            in_use: see ``judge.judge``.

        Raises:
            StateError: a store cannot be read or written.
        """
        findings = self.scan(inventory).findings
        if self._told is not None and inventory.image_id:
            findings = tuple(self._told.seen(inventory.image_id, findings, today))
        return judge(findings, rule, today, in_use)

    def news(self, image_id: str, decision: Decision) -> list[Judgement]:
        """What of a decision nobody was told of yet; all of it where nothing is remembered."""
        if self._told is None:
            return list(decision.counting)
        return self._told.news(image_id, decision.judgements)

    def told(self, image_id: str, judgements: list[Judgement], today: dt.date) -> None:
        """Note that the audits of these are kept."""
        if self._told is not None:
            self._told.mark(image_id, judgements, today)
