"""How bad a vulnerability is: the words, and CVSS vectors as scores."""

from __future__ import annotations

import enum
import functools

from cvss import CVSS2, CVSS3, CVSS4
from cvss.exceptions import CVSSError


class Severity(enum.IntEnum):
    """Ordered; ``UNKNOWN`` is below all, because nobody has said anything yet."""

    UNKNOWN = 0
    NEGLIGIBLE = 1  # Debian's "unimportant", Ubuntu's and Grype's "negligible"
    LOW = 2
    MEDIUM = 3
    HIGH = 4
    CRITICAL = 5

    def __str__(self) -> str:
        return self.name.lower()


# How vendors call them.
_WORDS = {
    "unimportant": Severity.NEGLIGIBLE, "negligible": Severity.NEGLIGIBLE,
    "none": Severity.NEGLIGIBLE, "low": Severity.LOW, "minor": Severity.LOW,
    "moderate": Severity.MEDIUM, "medium": Severity.MEDIUM, "important": Severity.HIGH,
    "high": Severity.HIGH, "critical": Severity.CRITICAL, "untriaged": Severity.UNKNOWN,
}  # fmt: skip


def severity_of_word(word: str) -> Severity:
    """What a vendor's word means; ``UNKNOWN`` for "not yet assigned" and whatever else there is.

    Debian marks what it only took over from NVD with asterisks: ``high**``.
    """
    return _WORDS.get(word.strip().rstrip("*").lower(), Severity.UNKNOWN)


def severity_of_score(score: float) -> Severity:
    """The qualitative rating of a base score, 0.0 to 10.0 (CVSS v3.1, section 5)."""
    if score >= 9.0:
        return Severity.CRITICAL
    if score >= 7.0:
        return Severity.HIGH
    if score >= 4.0:
        return Severity.MEDIUM
    return Severity.LOW if score > 0 else Severity.NEGLIGIBLE


@functools.lru_cache(maxsize=65536)
def base_score(vector: str) -> float:
    """The base score of a CVSS vector of version 2, 3 or 4.

    Raises:
        ValueError: it is none.
    """
    try:
        if vector.startswith("CVSS:4"):
            return float(CVSS4(vector).base_score)
        if vector.startswith("CVSS:3"):
            return float(CVSS3(vector).base_score)
        return float(CVSS2(vector.strip("()")).base_score)
    except (CVSSError, ArithmeticError) as error:
        raise ValueError(f"{vector[:80]!r} is no CVSS vector") from error


def cvss_rank(vector: str) -> int:
    """Which of several vectors to believe: version 3 before 4 before 2.

    Version 3 comes first because nearly all scores are of it, so that they can be compared.
    """
    return 3 if vector.startswith("CVSS:3") else 2 if vector.startswith("CVSS:4") else 1
