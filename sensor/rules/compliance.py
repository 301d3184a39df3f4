"""Rules of kind ``compliance`` as they are judged by."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from importlib import resources
from pathlib import Path

from pydantic import ValidationError

from sensor.audits.audit import Action
from sensor.containers.container import Container
from sensor.errors import RuleFileError, UsageError
from sensor.rules.checks import Check
from sensor.rules.files import RuleSet, scope_from
from sensor.rules.schema import ComplianceRuleModel, RuleFileModel
from sensor.rules.scope import Scope, Where, first_match
from sensor.yamlfiles import explain_validation, nearest, parse_yaml

TEMPLATES: tuple[str, ...] = ("cis-docker", "nist-800-190", "pci-dss")
_BUILT_IN: Mapping[str, Action] = {
    "critical": Action.ALERT, "high": Action.ALERT, "medium": Action.IGNORE, "low": Action.IGNORE,
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class ComplianceRule:
    """One rule of kind ``compliance``. See ``schema.ComplianceRuleModel`` for the fields.

    Attributes:
        name: of the rule.
        scope: which containers.
        checks: what single checks lead to, by id.
        template: what those of the template lead to; None without one.
        severity: what checks lead to by their severity, where ``checks`` does not name them.
        default: for what nothing else is said of; None: by severity as built in.
        allow_on_error: a start that cannot be judged goes on.
        time_limit: seconds that a start may be held.
        message: for who started it.
        source: file and line.
    """

    name: str
    scope: Scope = Scope()
    checks: Mapping[str, Action] = field(default_factory=dict, hash=False)
    template: Mapping[str, Action] | None = field(default=None, hash=False)
    severity: Mapping[str, Action] = field(default_factory=dict, hash=False)
    default: Action | None = None
    allow_on_error: bool = True
    time_limit: float = 10.0
    message: str = ""
    source: str = ""

    @property
    def may_block(self) -> bool:
        """Whether anything can lead to a refused start."""
        said = (self.checks, self.template or {}, self.severity)
        return self.default is Action.BLOCK or any(Action.BLOCK in m.values() for m in said)

    def effect(self, check: Check) -> Action:
        """What a check leads to where it fails: ``ignore``, ``alert`` or ``block``."""
        for name in (check.id, check.alias):
            if name and name in self.checks:
                return self.checks[name]
        if self.template is not None and check.id not in self.template:
            return self.default or Action.IGNORE
        if check.severity in self.severity:
            return self.severity[check.severity]
        if self.template is not None:
            return self.template[check.id]
        return self.default or _BUILT_IN[check.severity]

    @property
    def own_checks(self) -> tuple[str, ...]:
        """The checks that are named one by one, in their order."""
        return tuple(self.checks)


DEFAULT = ComplianceRule("default", source="built in")


def compliance_rules(rules: RuleSet) -> tuple[ComplianceRule, ...]:
    """The rules of kind ``compliance`` of what was read, in their order."""
    return tuple(
        rule_from(ComplianceRuleModel.model_validate(rule.content), rule.source)
        for rule in rules.image_rules
        if rule.kind == "compliance"
    )


def rule_from(model: ComplianceRuleModel, source: str) -> ComplianceRule:
    """A rule as it is judged by."""
    return ComplianceRule(
        name=model.name,
        scope=scope_from(model.scope),
        checks={name: Action(effect) for name, effect in model.checks.items()},
        template=None if model.template is None else template_checks(model.template),
        severity={str(level): Action(effect) for level, effect in model.severity.items()},
        default=None if model.default is None else Action(model.default),
        allow_on_error=model.on_error == "allow",
        time_limit=model.time_limit,
        message=model.message,
        source=source,
    )


def template_text(name: str) -> str:
    """A template as the rule file that it is.

    Raises:
        UsageError: there is none of this name.
    """
    if name not in TEMPLATES:
        raise UsageError(
            f"template {name!r}: there is none{nearest(name, TEMPLATES)}; expected one of: "
            + ", ".join(TEMPLATES)
        )
    return resources.files("sensor.rules").joinpath(f"templates/{name}.yaml").read_text("utf-8")


@cache
def template_checks(name: str) -> Mapping[str, Action]:
    """What the checks of a template lead to.

    Raises:
        UsageError: there is none of this name.
        RuleFileError: it was damaged.
    """
    place = Path(f"(template {name})")
    document = parse_yaml(template_text(name).encode(), place)
    try:
        (rule,) = RuleFileModel.model_validate(document.value).rules
    except ValidationError as error:
        raise RuleFileError(explain_validation(document, error, RuleFileModel)) from error
    assert isinstance(rule, ComplianceRuleModel)
    return {check: Action(effect) for check, effect in rule.checks.items()}


def compliance_rule_for(
    rules: Sequence[ComplianceRule], container: Container, where: Where
) -> ComplianceRule | None:
    """The rule that counts for a start; None: nobody asked for checks of it."""
    return first_match(rules, container, where)


def rule_for(rules: Sequence[ComplianceRule], container: Container, where: Where) -> ComplianceRule:
    """The rule that counts for a container: the first whose scope matches, else one that alerts."""
    return first_match(rules, container, where) or DEFAULT
