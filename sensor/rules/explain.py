"""Which rule and which key decide about a path, and why."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass

from sensor.audits.audit import Action
from sensor.containers.container import Container
from sensor.events import (
    Actor,
    Detection,
    Event,
    EventKind,
    Operation,
    OperationClass,
    Origin,
    WalkEnd,
)
from sensor.models.diff import describe
from sensor.models.keys import ExecKey, Program, WriteKey
from sensor.models.model import Model
from sensor.paths import Pattern
from sensor.rules.judge import rule_on
from sensor.rules.policy import DEFAULT, Policy
from sensor.rules.rule import Rule


@dataclass(frozen=True, slots=True)
class Explanation:
    """One way to use a path, and what becomes of it."""

    what: str  # "executed by /bin/sh", "written by /bin/sh"
    verdict: str  # "known", "novel", "denied"
    action: str
    why: str

    def as_dict(self) -> dict[str, str]:
        """Plain values."""
        return {"what": self.what, "verdict": self.verdict, "action": self.action, "why": self.why}


def chosen(container: Container, policy: Policy) -> list[dict[str, str]]:
    """The rules in their order, up to the one that counts, with why each was passed over."""
    rule = policy.rule(container)
    if rule not in policy.all():
        return [{"rule": rule.name, "source": rule.source, "counts": "yes: it comes first"}]
    rows = []
    for candidate in policy.all():
        if candidate.name == rule.name:
            why = "yes: everything else failed" if rule is DEFAULT else "yes: its scope matches"
            rows.append({"rule": rule.name, "source": rule.source, "counts": why})
            break
        rows.append(
            {
                "rule": candidate.name,
                "source": candidate.source,
                "counts": "no: scope does not match",
            }
        )
    return rows


def explain(
    path: str, model: Model, rule: Rule, *, by: str = "", sha256: str = ""
) -> list[Explanation]:
    """What becomes of a path when it is executed, and when it is changed.

    Args:
        path: absolute, in the container.
        model: of the container.
        rule: that counts for it.
        by: the program that acts; empty: any that the model knows to do so, and one unknown.
        sha256: of the file, where rules name digests.
    """
    found = [_execution(path, caller, model, rule, sha256) for caller in _callers(path, model, by)]
    found += [_change(path, writer, model, rule) for writer in _writers(path, model, by)]
    return found


def _callers(path: str, model: Model, by: str) -> list[str]:
    if by:
        return [by]
    known = {
        str(key.parent)
        for key in model.keys
        if isinstance(key, ExecKey) and key.program.path == path and key.parent.path
    }
    return sorted(known) or [next(iter(model.image_programs()), "/bin/sh")]


def _writers(path: str, model: Model, by: str) -> list[str]:
    if by:
        return [by]
    known = {
        str(key.program)
        for key in model.keys
        if isinstance(key, WriteKey) and Pattern.parse(key.pattern).matches(path)
    }
    return sorted(known) or [next(iter(model.image_programs()), "/bin/sh")]


def _execution(path: str, caller: str, model: Model, rule: Rule, sha256: str) -> Explanation:
    program, _, applet = path.partition("#")
    parent, _, parent_applet = caller.partition("#")
    event = Event(
        EventKind.EXEC, time.time_ns(), 0, Operation.EXEC, path=program, applet=applet,
        program=parent, program_applet=parent_applet, actor=Actor.SERVICE, origin=Origin.IMAGE,
        walk_end=WalkEnd.ROOT, argv=(program,),
    )  # fmt: skip
    return _judged(f"executed by {caller}", event, model, rule, sha256)


def _change(path: str, writer: str, model: Model, rule: Rule) -> Explanation:
    program, _, applet = writer.partition("#")
    event = Event(
        EventKind.FILE, time.time_ns(), 0, Operation.OPEN_WRITE, path=path, program=program,
        applet=applet, actor=Actor.SERVICE, walk_end=WalkEnd.ROOT,
    )  # fmt: skip
    return _judged(f"written by {writer}", event, model, rule, "")


def _judged(what: str, event: Event, model: Model, rule: Rule, sha256: str) -> Explanation:
    ruling = rule_on(event, model, rule, lambda _: sha256)
    if ruling.known:
        why = f"rule {rule.name} allows {ruling.because}" if ruling.because else ""
        keys = "; ".join(_keys(event, model))
        return Explanation(what, "known", "-", why or f"the model has the key: {keys}")
    detection = ruling.detection
    action = rule.action(detection)
    holds = model.judges or rule.holds_without_model(detection)
    if ruling.because:
        return Explanation(what, "denied", str(action), f"rule {rule.name} denies {ruling.because}")
    why = f"{detection.name.lower()}: no key of the model and no entry of rule {rule.name} fits"
    if not holds:
        why += f"; the model is {model.state}, so it would be learned" * (
            action is not Action.IGNORE and detection in _LEARNED
        )
        return Explanation(what, "novel", f"(later: {action})", why)
    return Explanation(what, "novel", str(action), why)


_LEARNED = (
    Detection.UNKNOWN_PROGRAM, Detection.UNKNOWN_PARENT, Detection.STARTUP_PROGRAM,
    Detection.UNKNOWN_ARGUMENTS, Detection.SETUID_PROGRAM,
    Detection.UNKNOWN_WRITE, Detection.PROTECTED_WRITE,
)  # fmt: skip


def _keys(event: Event, model: Model) -> Iterator[str]:
    for key in model.keys:
        if isinstance(key, ExecKey):
            if event.kind is EventKind.EXEC and key.program == Program(event.path, event.applet):
                yield describe(key)
        elif (
            event.kind is EventKind.FILE
            and key.operation & OperationClass.WRITE
            and key.program == Program(event.program, event.applet)
            and Pattern.parse(key.pattern).matches(event.path)
        ):
            yield describe(key)
