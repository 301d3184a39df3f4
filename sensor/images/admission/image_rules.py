"""The rules about images: all of them, and those that count for one container."""

from __future__ import annotations

from dataclasses import dataclass

from sensor.containers.container import Container
from sensor.images.admission.start import Failure
from sensor.rules.compliance import ComplianceRule, compliance_rule_for, compliance_rules
from sensor.rules.files import RuleSet
from sensor.rules.scope import Where
from sensor.rules.trusted import TrustRule, trust_rule_for, trust_rules
from sensor.rules.vulnerability import VulnerabilityRule, rule_for, vulnerability_rules

AnyRule = TrustRule | ComplianceRule | VulnerabilityRule


@dataclass(frozen=True, slots=True)
class Applicable:
    """The rules about images that count for one container; None: no rule of the kind does."""

    trust: TrustRule | None
    compliance: ComplianceRule | None
    vulnerability: VulnerabilityRule

    @property
    def blocking(self) -> list[AnyRule]:
        """Those that may refuse a start."""
        return [
            rule
            for rule in (self.trust, self.compliance, self.vulnerability)
            if rule and rule.may_block
        ]

    @property
    def failure(self) -> Failure:
        """What becomes of a start that they cannot judge: the strictest of what they say."""
        rules = self.blocking
        if not rules:
            return Failure()
        strict = next((rule for rule in rules if not rule.allow_on_error), None)
        return Failure(
            strict is None,
            min(rule.time_limit for rule in rules),
            (strict or rules[0]).name,
        )


@dataclass(frozen=True, slots=True)
class ImageRules:
    """All rules about images, in their order."""

    trust: tuple[TrustRule, ...] = ()
    compliance: tuple[ComplianceRule, ...] = ()
    vulnerability: tuple[VulnerabilityRule, ...] = ()

    @classmethod
    def of(cls, rules: RuleSet) -> ImageRules:
        """Those among what was read."""
        return cls(trust_rules(rules), compliance_rules(rules), vulnerability_rules(rules))

    def applicable(self, container: Container, where: Where) -> Applicable:
        """Those that count for a container: of each kind the first whose scope matches."""
        return Applicable(
            trust_rule_for(self.trust, container, where),
            compliance_rule_for(self.compliance, container, where),
            rule_for(self.vulnerability, container, where),
        )

    @property
    def strictest(self) -> Failure:
        """What becomes of the start of a container that nobody knows."""
        rules: tuple[AnyRule, ...] = (*self.trust, *self.compliance, *self.vulnerability)
        strict = next((r for r in rules if r.may_block and not r.allow_on_error), None)
        return Failure() if strict is None else Failure(False, strict.time_limit, strict.name)
