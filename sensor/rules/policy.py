"""All rules in their order: the first whose scope matches is the only one that counts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from sensor.audits.audit import Action
from sensor.containers.container import Container
from sensor.rules.rule import Rule, uniform
from sensor.rules.scope import Scope, Where, matches_globs

DEFAULT = uniform("default", Scope(), Action.ALERT, source="built in")


@dataclass(frozen=True, slots=True)
class Policy:
    """What deviations lead to.

    Args:
        prevent: globs over a container's name and its image: everything unknown is refused. They
            come before the rules.
        allow_on_error: under prevention, allow what cannot be judged instead of refusing it.
        rules: of kind container, in order; a rule that alerts on everything stands behind them.
        where: this host.
    """

    prevent: tuple[str, ...] = ()
    allow_on_error: bool = False
    rules: tuple[Rule, ...] = ()
    where: Where = field(default=Where())

    def rule(self, container: Container) -> Rule:
        """The rule that counts for a container."""
        names = (container.name, container.image.reference, container.image.name)
        for glob in self.prevent:
            if matches_globs((glob,), names):
                return uniform(f"--prevent {glob}", Scope(), Action.PREVENT, source="command line")
        for rule in self.rules:
            if rule.scope.matches(container, self.where):
                return rule
        return DEFAULT

    def allows_on_error(self, rule: Rule) -> bool:
        """Whether what cannot be judged is allowed under a rule that refuses."""
        return self.allow_on_error if rule.allow_on_error is None else rule.allow_on_error

    def all(self) -> Sequence[Rule]:
        """The rules in their order, the default at the end."""
        return (*self.rules, DEFAULT)
