"""What a check finds, and how one is made of predicates for each shape a container is told in."""

from __future__ import annotations

import enum
from collections.abc import Callable
from dataclasses import dataclass

from sensor.images.compliance.subject import Subject
from sensor.images.compliance.values import OddValueError, at
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


_LOOKS: dict[str, _Looks] = {}


def by_container(
    number: str, docker: Predicate, oci: Predicate | None = None, lacks: str = ""
) -> None:
    """Define a check of a container.

    Args:
        number: id of the check.
        docker: asked when there is Docker's inspection.
        oci: asked when there is a ``config.json``.
        lacks: what a ``config.json`` does not say, where ``oci`` is None.
    """
    _LOOKS[number] = _Looks(docker=docker, oci=oci, lacks=lacks)


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
        found = _ask(_with_host_config(looks.docker), subject)
        if found.status is not Status.UNKNOWN:
            return found
    if subject.spec:
        if looks.oci is None:
            return found or unknown(looks.lacks)
        other = _ask(looks.oci, subject)
        return found if found is not None and other.status is Status.UNKNOWN else other
    return found or unknown("neither an inspection nor a config.json of the container")


def _with_host_config(predicate: Predicate) -> Predicate:
    def ask(subject: Subject) -> Verdict:
        if at(subject.inspected, "HostConfig") is None:
            return unknown("the inspection has no HostConfig")
        return predicate(subject)

    return ask


def _ask(predicate: Predicate, subject: Subject) -> Verdict:
    try:
        return predicate(subject)
    except OddValueError as error:
        return unknown(str(error))


def builtin() -> tuple[Check, ...]:
    """Every check of Rote's own."""
    return tuple(CHECKS.values())
