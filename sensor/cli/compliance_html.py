"""Results of compliance checks as one page for a browser."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence

from sensor.audits.formats import when
from sensor.cli.html import head, table, text
from sensor.images.compliance.check import Status
from sensor.images.compliance.judge import ComplianceDecision, Result
from sensor.images.compliance.subject import Subject

_STYLE = """
.critical { color: #a4000f; font-weight: 700 } .high { color: #b35900; font-weight: 600 }
.fail { color: #a4000f } .pass { color: #1a7f37 } .unknown { color: #b35900 }
"""
_TITLES = {
    Status.FAIL: "Failed",
    Status.UNKNOWN: "Not known",
    Status.PASS: "Passed",
    Status.NOT_APPLICABLE: "Not applicable",
}


def page(
    found: Sequence[tuple[Subject, ComplianceDecision]], host: str, time_ns: int, rule: str
) -> str:
    """The page.

    Args:
        found: what was checked, with what became of it.
        host: name of this host.
        time_ns: when, Unix time in nanoseconds.
        rule: name of the rule that judged; "" when none did.
    """
    return "\n".join(_page(found, host, time_ns, rule)) + "\n"


def _page(
    found: Sequence[tuple[Subject, ComplianceDecision]], host: str, time_ns: int, rule: str
) -> Iterator[str]:
    yield from head(f"Compliance of {host}", _STYLE)
    yield f"<h1>Compliance of {text(host)}</h1>"
    judged = f", judged by rule {text(rule)}" if rule else ""
    yield f'<p class="quiet">{text(when(time_ns))}{judged}</p>'
    yield from table(
        ("checked", "critical", "high", "medium", "low", "not known", "passed", ""),
        [_summary(i, subject, decision, rule) for i, (subject, decision) in enumerate(found)],
    )
    for i, (subject, decision) in enumerate(found):
        yield f'<h2 id="s{i}">{text(subject.name)}</h2>'
        yield (
            f'<p class="quiet">container {text(subject.container_id[:12] or "-")}, image '
            f"{text(subject.reference or '-')} {text(subject.image_id[:19])}</p>"
        )
        for status, title in _TITLES.items():
            results = [(r, action) for r, action in decision.results if r.status is status]
            if results:
                yield f'<h3 class="{status}">{title} ({len(results)})</h3>'
                yield from table(
                    ("id", "severity", "check", "evidence", "remedy", "standards", ""),
                    [_row(result, str(action) if rule else "") for result, action in results],
                )
    yield "</body></html>"


def _summary(i: int, subject: Subject, decision: ComplianceDecision, rule: str) -> Iterator[str]:
    results = [result for result, _ in decision.results]
    failed = Counter(r.check.severity for r in results if r.status is Status.FAIL)
    yield f'<a href="#s{i}">{text(subject.name)}</a>'
    for level in ("critical", "high", "medium", "low"):
        yield str(failed[level] or "")
    yield str(len(decision.unknown) or "")
    yield str(sum(r.status is Status.PASS for r in results))
    yield text(str(decision.action)) if rule else ""


def _row(result: Result, action: str) -> Iterator[str]:
    check, fails = result.check, result.status is Status.FAIL
    yield text(check.id)
    yield f'<span class="{text(check.severity)}">{text(check.severity)}</span>'
    why = f"<br><small>{text(check.why)}</small>" if fails and check.why else ""
    yield text(check.title) + why
    yield f"<code>{text(result.evidence)}</code>" if result.evidence else ""
    yield text(check.remedy) if fails else ""
    yield "<small>" + "<br>".join(text(f"{n} {s}") for n, s in check.standards) + "</small>"
    yield text(action)
