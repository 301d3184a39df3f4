"""`rote models show --admission`: what a model would let an attacker plant."""

from __future__ import annotations

from typing import Any

from sensor.audits.formats import escape
from sensor.models.adversary import Admission


def admission_lines(tried: Admission) -> list[str]:
    """What a model admits, for a person."""
    summary = (
        f"Of {tried.tried} paths that an attacker would write, {tried.admitted} are admitted "
        f"({tried.share:.1%}); outside of granted directories {len(tried.outside)} of "
        f"{tried.tried_outside} ({tried.share_outside:.1%}); in protected places "
        f"{len(tried.protected)}."
    )
    return [
        summary,
        *(f"  any name in {escape(directory)}" for directory in tried.granted),
        *(f"  {escape(path)}" for path in tried.outside),
        *(f"  protected: {escape(path)}" for path in tried.protected),
    ]


def admission_json(tried: Admission) -> dict[str, Any]:
    """What a model admits, with stable field names."""
    return {
        "tried": tried.tried,
        "admitted": tried.admitted,
        "tried_outside": tried.tried_outside,
        "outside": [escape(path) for path in tried.outside],
        "protected": [escape(path) for path in tried.protected],
        "granted": [escape(path) for path in tried.granted],
    }
