"""Everything that the store knows of one vulnerability."""

from __future__ import annotations

from typing import Any

from sensor.images.vulns.advisory import Status
from sensor.images.vulns.matcher import Matcher
from sensor.images.vulns.severity import Severity, severity_of_score
from sensor.images.vulns.store import VulnStore

_AFFECTED = """
SELECT p.ecosystem, p.name, a.fixed, a.status, a.severity, v.name, f.name, v.published, v.score
FROM advisory_name n
JOIN advisory v ON v.id = n.advisory
JOIN affected a ON a.advisory = v.id
JOIN package p ON p.id = a.package
JOIN feed f ON f.id = v.feed
WHERE n.name = ? ORDER BY p.ecosystem, p.name, f.name, a.low
"""
_NAMES = """
SELECT DISTINCT other.name FROM advisory_name n JOIN advisory_name other
ON other.advisory = n.advisory WHERE n.name = ? ORDER BY other.name
"""


def known_of(store: VulnStore, name: str) -> dict[str, Any] | None:
    """What is known of a CVE, or of whatever else advisories are called.

    Args:
        store: the advisory store.
        name: as feeds write it; case does not matter for CVEs.

    Returns:
        Plain values; None when no feed knows it.

    Raises:
        StateError: the store cannot be read.
    """
    name = name.upper() if name.upper().startswith("CVE-") else name
    facts = Matcher(store).facts(name)
    with store.errors("read"):
        rows = store.db.execute(_AFFECTED, (name,)).fetchall()
        names = [row[0] for row in store.db.execute(_NAMES, (name,)) if row[0] != name]
        summaries = store.db.execute(
            "SELECT v.summary, v.vector, f.name FROM advisory_name n JOIN advisory v "
            "ON v.id = n.advisory JOIN feed f ON f.id = v.feed WHERE n.name=?",
            (name,),
        ).fetchall()
    scores = [row[8] for row in rows if row[8] is not None]
    score = facts.score if facts.score is not None else max(scores, default=None)
    if not rows and score is None and not (facts.exploited or facts.epss or facts.published):
        return None
    return {
        "id": name,
        "summary": facts.summary or next((text for text, _, _ in summaries if text), ""),
        "severity": "unknown" if score is None else str(severity_of_score(score)),
        "score": score,
        "vector": facts.vector or next((vector for _, vector, _ in summaries if vector), ""),
        "scored_by": facts.scored_by or ("advisories" if score is not None else ""),
        "exploited": facts.exploited,
        "ransomware": facts.ransomware,
        "epss": facts.epss,
        "published": facts.published or min((row[7] for row in rows if row[7]), default=""),
        "also": names,
        "affected": [
            {
                "ecosystem": ecosystem,
                "package": package,
                "fixed": fixed,
                "status": str(Status(status)),
                "severity": str(Severity(severity)),
                "advisory": advisory,
                "feed": feed,
            }
            for ecosystem, package, fixed, status, severity, advisory, feed, *_ in rows
        ],
    }
