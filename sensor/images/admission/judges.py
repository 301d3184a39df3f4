"""Who has an opinion about an image: one function for each kind of rule."""

from __future__ import annotations

import datetime as dt
from collections.abc import Collection

from sensor.audits.audit import Action, AuditType, Severity
from sensor.containers.container import Container
from sensor.errors import ImageError
from sensor.images.admission.opinion import Opinion
from sensor.images.package import Inventory
from sensor.images.vulns.judge import summary
from sensor.images.vulns.scan import Scanner
from sensor.images.vulns.severity import Severity as Rating
from sensor.images.vulns.told import ToldStore
from sensor.rules.trusted import TrustRule
from sensor.rules.vulnerability import VulnerabilityRule

_NAMED_MAX = 100  # vulnerabilities that an audit names; how many there are it says anyway
_SEVERITIES = {
    Rating.UNKNOWN: Severity.LOW,
    Rating.NEGLIGIBLE: Severity.INFO,
    Rating.LOW: Severity.LOW,
    Rating.MEDIUM: Severity.MEDIUM,
    Rating.HIGH: Severity.HIGH,
    Rating.CRITICAL: Severity.CRITICAL,
}


def about_trust(
    container: Container,
    rule: TrustRule,
    inventory: Inventory | None,
    told: ToldStore,
    today: dt.date,
) -> Opinion | None:
    """Whether an image is one that a rule trusts.

    Args:
        container: of the image.
        rule: that counts for it.
        inventory: of the image, where the rule asks for its layers.
        told: what people know already.
        today: is noted with it.

    Returns:
        None when it is trusted, or nobody minds.

    Raises:
        ImageError: the rule names base layers, and the image's layers are not known.
    """
    layers = inventory.layers if inventory is not None else ()
    if rule.untrusted is Action.IGNORE or rule.group_of(container.image, layers) is not None:
        return None
    if rule.asks_for_layers and not layers:
        raise ImageError(
            f"{container.image.reference}: its layers are not known, and rule {rule.name!r} asks "
            "for them"
        )
    names = ", ".join(group.name or "unnamed" for group in rule.groups)
    what = "blocked by" if rule.untrusted is Action.BLOCK else "alert of"
    found = f"image {container.image.reference} is of no trusted group ({names})"
    said = f" - {rule.message}" if rule.message else ""
    note = [f"untrusted: {rule.name}: {rule.untrusted}"]
    return Opinion(
        AuditType.UNTRUSTED_IMAGE,
        rule.untrusted,
        rule.name,
        f"{what} rule {rule.name!r}: {found}{said}",
        Severity.HIGH,
        found if told.unnoted(container.image.identity, note) else "",
        told=lambda: told.note(container.image.identity, note, today),
    )


def about_vulnerabilities(
    scanner: Scanner,
    inventory: Inventory,
    rule: VulnerabilityRule,
    today: dt.date,
    in_use: Collection[str] | None,
) -> Opinion | None:
    """What an image's vulnerabilities lead to.

    Args:
        scanner: that knows the advisories, and what was told.
        inventory: of the image.
        rule: that counts for the container.
        today: for grace and exceptions.
        in_use: see ``sensor.images.vulns.judge.judge``.

    Returns:
        None when there is nothing that the rule minds.

    Raises:
        StateError: a store cannot be read.
    """
    decision = scanner.decide(inventory, rule, today, in_use)
    if decision.action is Action.IGNORE:
        return None
    news = scanner.news(inventory.image_id, decision)
    counting = decision.counting
    worst = max((_SEVERITIES[j.severity] for j in news or counting), default=Severity.LOW)
    names = [f"{j.finding.id} ({j.finding.package}, {j.severity})" for j in news[:_NAMED_MAX]]
    if len(news) > _NAMED_MAX:
        names.append(f"and {len(news) - _NAMED_MAX} more")
    return Opinion(
        AuditType.VULNERABLE_IMAGE,
        decision.action,
        rule.name,
        decision.message,
        worst,
        summary(news) if news else "",
        {
            "counts": " ".join(f"{name}:{count}" for name, count in decision.counts.items()),
            **({"new": ", ".join(names)} if news else {}),
        },
        lambda: scanner.told(inventory.image_id, news, today),
    )
