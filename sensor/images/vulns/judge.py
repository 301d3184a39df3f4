"""What a rule makes of an image's vulnerabilities. Pure: the same question, the same answer."""

from __future__ import annotations

import datetime as dt
import re
from collections import Counter
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, field

from sensor.audits.audit import Action
from sensor.images.vulns.finding import Finding
from sensor.images.vulns.severity import Severity
from sensor.models.keys import ExecKey
from sensor.models.model import Model, ModelState
from sensor.rules.vulnerability import VulnerabilityException, VulnerabilityRule

_ORDER = {Action.IGNORE: 0, Action.ALERT: 1, Action.BLOCK: 2}
_LIBRARY = re.compile(r"\.so(?:\.|$)")
_MERGED = re.compile(r"^/usr(?=/(?:bin|sbin|lib(?:32|64|x32)?)/)")
_NAMED_MAX = 3
_KNOWS_USE = (ModelState.DRY_RUN, ModelState.ACTIVE)


@dataclass(frozen=True, slots=True)
class Judgement:
    """What one vulnerability leads to.

    Attributes:
        finding: the vulnerability.
        action: ``ignore``, ``alert`` or ``block``.
        severity: by which the rule judged it.
        reasons: why, each in a few words; the first is the one that decided.
        in_use: a program or library of the package is in use; None when nobody knows.
    """

    finding: Finding
    action: Action
    severity: Severity
    reasons: tuple[str, ...]
    in_use: bool | None = None


@dataclass(frozen=True, slots=True)
class Decision:
    """What an image's vulnerabilities lead to under one rule.

    Attributes:
        action: the hardest of all judgements.
        rule: name of the rule.
        judgements: one for each finding: what blocks first, then what alerts, then the rest.
        message: one line for who starts the container; "" when nothing counts.
        counts: how many of which severity count.
    """

    action: Action
    rule: str
    judgements: tuple[Judgement, ...]
    message: str = ""
    counts: dict[str, int] = field(default_factory=dict, compare=False)

    @property
    def counting(self) -> tuple[Judgement, ...]:
        """Those that lead to anything."""
        return tuple(j for j in self.judgements if j.action is not Action.IGNORE)


def judge(
    findings: Iterable[Finding],
    rule: VulnerabilityRule,
    today: dt.date,
    in_use: Collection[str] | None = None,
) -> Decision:
    """Judge the vulnerabilities of an image.

    Args:
        findings: what it has.
        rule: the rule that counts for the container.
        today: for grace and for exceptions that expire.
        in_use: paths of programs and libraries that the image's containers use; None while nobody
            knows. What is not known counts as used.
    """
    used = None if in_use is None else frozenset(map(_merged, in_use))
    judgements = [_judge(finding, rule, today, used) for finding in findings]
    judgements.sort(
        key=lambda j: (
            -_ORDER[j.action], not j.finding.exploited, -j.severity, -(j.finding.score or 0.0),
            j.finding.package, j.finding.id,
        )
    )  # fmt: skip
    action = max((j.action for j in judgements), key=_ORDER.__getitem__, default=Action.IGNORE)
    counts = Counter(str(j.severity) for j in judgements if j.action is not Action.IGNORE)
    message = _message(action, [j for j in judgements if j.action is action], rule)
    return Decision(action, rule.name, tuple(judgements), message, dict(counts))


def _judge(
    finding: Finding, rule: VulnerabilityRule, today: dt.date, used: frozenset[str] | None
) -> Judgement:
    severity = _severity(finding, rule)
    in_use = _in_use(finding, used)

    def answer(action: Action, *reasons: str) -> Judgement:
        return Judgement(finding, action, severity, tuple(r for r in reasons if r), in_use)

    if not rule.covers(finding.ecosystem):
        return answer(Action.IGNORE, f"the rule is not about {finding.ecosystem}")
    exception, expired = _exception(finding, rule, today)
    if exception is not None and exception.effect is not Action.ALERT:
        until = f" until {exception.expires}" if exception.expires else ""
        return answer(exception.effect, f"exception {exception.text}{until}: {exception.reason}")
    known = rule.known_exploited if finding.exploited else None
    if rule.package_in_use and in_use is False:
        return answer(Action.IGNORE, "nothing of the package is in use", expired)
    if rule.only_fixed and not finding.fixed and known in (None, Action.IGNORE):
        return answer(Action.IGNORE, f"there is no fix ({finding.status})", expired)
    action, reason = _by_thresholds(finding, rule, severity)
    grace = _grace(finding, rule, today) if action is Action.BLOCK else ""
    if grace:
        action, reason = Action.ALERT, f"{grace}; then {reason}"
    if known is not None and _ORDER[known] >= _ORDER[action]:
        action, reason = known, f"known to be exploited since {finding.exploited}"
    if exception is not None and action is Action.BLOCK:
        action, reason = Action.ALERT, f"exception {exception.text}: {exception.reason}"
    unknown_use = rule.package_in_use and in_use is None
    return answer(action, reason, expired, "whether it is in use is not known" * unknown_use)


def _severity(finding: Finding, rule: VulnerabilityRule) -> Severity:
    if rule.severity == "vendor":
        found = finding.vendor_severity
    elif rule.severity == "highest":
        found = max(finding.vendor_severity, finding.cvss_severity)
    else:
        found = finding.severity
    if found is Severity.UNKNOWN and rule.unrated is not None:
        return Severity[rule.unrated.upper()]
    return found


def _by_thresholds(
    finding: Finding, rule: VulnerabilityRule, severity: Severity
) -> tuple[Action, str]:
    unrated = " (nobody has rated it)" if _is_unrated(finding, rule) else ""
    for action, level, likelihood in (
        (Action.BLOCK, rule.block, rule.epss_block),
        (Action.ALERT, rule.alert, rule.epss_alert),
    ):
        if level is not None and severity >= Severity[level.upper()]:
            return action, f"severity {severity}{unrated}: the rule has {action} from {level} on"
        if likelihood is not None and finding.epss is not None and finding.epss >= likelihood:
            return action, f"EPSS {finding.epss:.3f}: the rule has {action} from {likelihood:g} on"
    return Action.IGNORE, f"severity {severity}{unrated} is below what the rule asks for"


def _is_unrated(finding: Finding, rule: VulnerabilityRule) -> bool:
    if rule.severity == "vendor":
        return finding.vendor_severity is Severity.UNKNOWN
    return max(finding.vendor_severity, finding.cvss_severity) is Severity.UNKNOWN


def _exception(
    finding: Finding, rule: VulnerabilityRule, today: dt.date
) -> tuple[VulnerabilityException | None, str]:
    """The first exception that holds, and what to say of one that has expired."""
    names = (finding.id, *finding.advisories)
    packages = (finding.package, *finding.installed)
    expired = ""
    for exception in rule.exceptions:
        if exception.matches(names, packages):
            if exception.holds(today):
                return exception, ""
            expired = f"the exception {exception.text} expired on {exception.expires}"
    return None, expired


def _grace(finding: Finding, rule: VulnerabilityRule, today: dt.date) -> str:
    """Why it is not blocked yet; "" when it is time."""
    if not rule.grace_days:
        return ""
    begins: tuple[str, ...] = (finding.published, finding.first_seen)
    if rule.grace_from == "fix":
        begins = (finding.fixed_since, *begins)
    start = next((day for day in begins if day), "")
    try:
        end = dt.date.fromisoformat(start) + dt.timedelta(days=rule.grace_days)
    except (ValueError, OverflowError):
        return ""  # nobody knows since when, so there is nothing to count from
    return f"grace until {end}" if today <= end else ""


def _merged(path: str) -> str:
    """One name for what lies in /usr and is reached by /bin as well."""
    return _MERGED.sub("", path)


def _in_use(finding: Finding, used: frozenset[str] | None) -> bool | None:
    if used is None or not finding.files:
        return None
    if not used.isdisjoint(map(_merged, finding.files)):
        return True
    # Where only programs are known, nobody can say that a library is not loaded by one of them.
    if any(map(_is_library, finding.files)) and not any(map(_is_library, used)):
        return None
    return False


def _is_library(path: str) -> bool:
    return bool(_LIBRARY.search(path.rpartition("/")[2]))


def in_use_of(models: Iterable[Model]) -> frozenset[str] | None:
    """The programs that an image runs, by what was learned of it.

    Args:
        models: of the image; it may have several, one for each way it is started.

    Returns:
        Paths in the image; None while one is still being learned, or there is none.
    """
    found: set[str] = set()
    known = False
    for model in models:
        if model.state not in _KNOWS_USE:
            return None
        known = True
        found |= {key.program.path for key in model.keys if isinstance(key, ExecKey)}
    return frozenset(found) if known else None


def _message(action: Action, counting: list[Judgement], rule: VulnerabilityRule) -> str:
    """One line: the rule, how many of which severity, and the worst of them."""
    if action is Action.IGNORE:
        return ""
    what = "blocked by" if action is Action.BLOCK else "alert of"
    said = f" - {rule.message}" if rule.message else ""
    return f"{what} rule {rule.name!r}: {summary(counting)}{said}"


def summary(judgements: Sequence[Judgement]) -> str:
    """How many vulnerabilities of which severity, and the first of them, in one line."""
    counts = Counter(j.severity for j in judgements)
    listed = " ".join(f"{severity}:{counts[severity]}" for severity in sorted(counts, reverse=True))
    number = f"{len(judgements)} vulnerabilit{'y' if len(judgements) == 1 else 'ies'}"
    named = "; ".join(_line(judgement) for judgement in judgements[:_NAMED_MAX])
    more = f"; and {len(judgements) - _NAMED_MAX} more" if len(judgements) > _NAMED_MAX else ""
    return f"{number} [{listed}]: {named}{more}"


def _line(judgement: Judgement) -> str:
    finding = judgement.finding
    fix = f", fixed in {finding.fixed}" if finding.fixed else f", {finding.status}"
    exploited = ", known to be exploited" if finding.exploited else ""
    return (
        f"{finding.id} {judgement.severity} in {finding.package} {finding.version}{fix}{exploited}"
    )
