"""The verdict of the effective policy: model, plus what a rule allows, less what it denies."""

from __future__ import annotations

from dataclasses import dataclass

from sensor.audits.audit import Severity
from sensor.events import Detection, Event, EventKind
from sensor.models.keys import Program, written_paths
from sensor.models.model import Judgement, Model, Verdict, unknowable
from sensor.rules.detection import detect
from sensor.rules.rule import EMPTY, Hasher, Rule


@dataclass(frozen=True, slots=True)
class Ruling:
    """What is to be thought of one event."""

    judgement: Judgement
    detection: Detection = Detection.NONE  # NONE: it is known
    because: str = ""  # the rule's entry that decided, when one did
    tell: bool = False  # whatever the model's state is (sensor.rules.teaching)
    note: str = ""  # for a person, besides
    severity: Severity | None = None  # instead of the type's own

    @property
    def known(self) -> bool:
        """Whether the effective policy knows it."""
        return self.judgement.verdict is Verdict.KNOWN


_ALLOWED = Judgement(Verdict.KNOWN, reason="a rule allows it")


def rule_on(event: Event, model: Model, rule: Rule, sha256: Hasher) -> Ruling:
    """Judge an event by a model and a rule. A denial counts before anything else.

    Args:
        event: what happened.
        model: of its container.
        rule: that counts for its container.
        sha256: gives the digest of an executed file.
    """
    judgement = model.judge(event)
    lists = rule.lists
    if lists != EMPTY:
        if denied := lists.denies(event, sha256):
            refused = Judgement(
                Verdict.NOVEL,
                novel=judgement.novel,
                known_program=judgement.known_program,
                reason=f"rule {rule.name} denies {denied}",
            )
            return Ruling(refused, detect(event, known_program=False, denied=True), denied)
        if judgement.verdict is Verdict.NOVEL:
            judgement, allowed = _without_allowed(event, judgement, model, rule, sha256)
            if judgement.verdict is Verdict.KNOWN:
                return Ruling(judgement, because=allowed)
    if judgement.verdict is Verdict.KNOWN:
        return Ruling(judgement)
    detection = detect(
        event,
        known_program=judgement.known_program,
        known_otherwise=judgement.known_otherwise,
    )
    return Ruling(judgement, detection)


def _without_allowed(
    event: Event, judgement: Judgement, model: Model, rule: Rule, sha256: Hasher
) -> tuple[Judgement, str]:
    if event.kind is EventKind.EXEC:
        program = rule.lists.allowed_program(event, sha256)
        if program is None or unknowable(event):
            return judgement, ""
        return _ALLOWED, program.text
    if unknowable(event):
        return judgement, ""
    acting = Program(event.program, event.applet)
    texts: list[str] = []
    for path, operation in written_paths(event):
        change = rule.lists.allowed_change(acting, path, operation)
        if change is not None:
            texts.append(change.text)
        elif not model.writes(acting, path, int(operation)):
            return judgement, ""
    return _ALLOWED, "; ".join(texts)
