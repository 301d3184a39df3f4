"""What a check finds, and how one is made of predicates for each shape a container is told in."""

from __future__ import annotations

import enum
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from sensor.images.compliance.subject import Subject
from sensor.images.compliance.values import OddValueError, section
from sensor.rules.checks import CHECKS, Check


class Status(enum.StrEnum):
    """How a check came out."""

    FAIL = "fail"
    PASS = "pass"  # noqa: S105 - no password
    UNKNOWN = "unknown"  # it lacks what it looks at
    NOT_APPLICABLE = "not-applicable"  # there is nothing that it could be about


@dataclass(frozen=True, slots=True)
class Verdict:
    """How a predicate came out.

    Attributes:
        status: that.
        evidence: what was found, or why nothing is known; one line without secrets.
        error: a custom check ended otherwise than it should.
    """

    status: Status
    evidence: str = ""
    error: bool = False


Predicate = Callable[[Subject], Verdict]


def failed(evidence: str) -> Verdict:
    """It is as it should not be."""
    return Verdict(Status.FAIL, evidence)


def passed(evidence: str = "") -> Verdict:
    """It is as it should be."""
    return Verdict(Status.PASS, evidence)


def unknown(why: str) -> Verdict:
    """What is needed is not there."""
    return Verdict(Status.UNKNOWN, why)


def not_applicable(why: str) -> Verdict:
    """There is nothing to look at."""
    return Verdict(Status.NOT_APPLICABLE, why)


def fails_if(wrong: object, evidence: str, right: str = "") -> Verdict:
    """Fail with the evidence, or pass."""
    return failed(evidence) if wrong else passed(right)


@dataclass(frozen=True, slots=True)
class _Looks:
    docker: Predicate | None = None
    oci: Predicate | None = None
    image: Predicate | None = None
    lacks: str = ""
    docker_needs: tuple[str, ...] = ()
    oci_needs: tuple[str, ...] = ()


_LOOKS: dict[str, _Looks] = {}


def by_container(
    number: str,
    docker: Predicate,
    oci: Predicate | None = None,
    *,
    needs: str = "",
    oci_needs: str = "linux",
    lacks: str = "",
) -> None:
    """Define a check of a container.

    Args:
        number: id of the check.
        docker: asked when there is Docker's inspection.
        oci: asked when there is a ``config.json``.
        needs: what an inspection must have for it, as paths; fields that engines always write.
        oci_needs: what a ``config.json`` must have for it.
        lacks: what a ``config.json`` does not say, where ``oci`` is None.
    """
    wants = tuple(needs.split())
    _LOOKS[number] = _Looks(docker, oci, None, lacks, wants, tuple(oci_needs.split()))


def by_image(number: str, image: Predicate) -> None:
    """Define a check of an image or of the host, whatever a container is told in."""
    _LOOKS[number] = _Looks(image=image)


def defined() -> frozenset[str]:
    """The checks that have predicates."""
    return frozenset(_LOOKS)


def run(check: Check, subject: Subject) -> Verdict:
    """What one check finds. Never raises for what it looks at."""
    looks = _LOOKS[check.id]
    if looks.image is not None:
        return _ask(looks.image, subject)
    if not subject.is_container:
        return not_applicable("an image alone: it is about containers")
    found = None
    if subject.inspected:
        assert looks.docker is not None
        found = _ask(looks.docker, subject, subject.inspected, looks.docker_needs)
        if found.status is not Status.UNKNOWN:
            return found
    if subject.spec:
        if looks.oci is None:
            return found or unknown(looks.lacks)
        other = _ask(looks.oci, subject, subject.spec, looks.oci_needs)
        return found if found is not None and other.status is Status.UNKNOWN else other
    return found or unknown("neither an inspection nor a config.json of the container")


def _ask(
    predicate: Predicate,
    subject: Subject,
    told: Mapping[str, Any] | None = None,
    needs: tuple[str, ...] = (),
) -> Verdict:
    try:
        for need in needs:
            *path, last = need.split(".")
            if last not in section(told, *path):
                what = "the inspection" if told is subject.inspected else "config.json"
                return unknown(f"{what} has no {need}")
        return predicate(subject)
    except OddValueError as error:
        return unknown(str(error))


def builtin() -> tuple[Check, ...]:
    """Every check of Rote's own."""
    return tuple(CHECKS.values())
