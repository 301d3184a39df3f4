"""Rules of kind ``trust`` as they are judged by: which images are trusted."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from sensor.audits.audit import Action
from sensor.containers.container import Container, Image
from sensor.rules.files import RuleSet, scope_from
from sensor.rules.schema import TrustedModel, TrustRuleModel
from sensor.rules.scope import Scope, Where, matches_globs


@dataclass(frozen=True, slots=True)
class TrustedGroup:
    """Images that are trusted; one of what is given must match.

    Digests and layers are ``sha256:…``; of each base its layers, the lowest first.
    """

    name: str = ""
    images: tuple[str, ...] = ()
    digests: frozenset[str] = frozenset()
    bases: tuple[tuple[str, ...], ...] = ()

    def trusts(self, image: Image, layers: Sequence[str]) -> bool:
        """Whether an image is one of them.

        Args:
            image: what it is called. A name alone can be given to any image by whoever may tag
                images on this host; a digest or a layer cannot.
            layers: its diff ids, the lowest first; empty when they are not known.
        """
        if self.images and matches_globs(self.images, (image.reference, image.name)):
            return True
        if not self.digests.isdisjoint((image.digest, image.id)):
            return True
        return any(base and tuple(layers[: len(base)]) == base for base in self.bases)


@dataclass(frozen=True, slots=True)
class TrustRule:
    """One rule of kind ``trust``. See ``schema.TrustRuleModel`` for the fields."""

    name: str
    scope: Scope = Scope()
    groups: tuple[TrustedGroup, ...] = ()
    untrusted: Action = Action.ALERT
    allow_on_error: bool = True
    time_limit: float = 10.0
    message: str = ""
    source: str = ""

    @property
    def may_block(self) -> bool:
        """Whether anything can lead to a refused start."""
        return self.untrusted is Action.BLOCK

    @property
    def asks_for_layers(self) -> bool:
        """Whether an image must be looked at to say whether it is trusted."""
        return any(group.bases for group in self.groups)

    def group_of(self, image: Image, layers: Sequence[str] = ()) -> TrustedGroup | None:
        """The first group that trusts an image."""
        return next((group for group in self.groups if group.trusts(image, layers)), None)


def trust_rules(rules: RuleSet) -> tuple[TrustRule, ...]:
    """The rules of kind ``trust`` of what was read, in their order."""
    return tuple(
        _rule(TrustRuleModel.model_validate(rule.content), rule.source)
        for rule in rules.image_rules
        if rule.kind == "trust"
    )


def trust_rule_for(
    rules: Sequence[TrustRule], container: Container, where: Where
) -> TrustRule | None:
    """The rule that counts for a container; None: nobody said what is trusted."""
    return next((rule for rule in rules if rule.scope.matches(container, where)), None)


def _rule(model: TrustRuleModel, source: str) -> TrustRule:
    return TrustRule(
        name=model.name,
        scope=scope_from(model.scope),
        groups=tuple(map(_group, model.trusted)),
        untrusted=Action(model.untrusted),
        allow_on_error=model.on_error == "allow",
        time_limit=model.time_limit,
        message=model.message,
        source=source,
    )


def _group(model: TrustedModel) -> TrustedGroup:
    return TrustedGroup(
        model.name,
        tuple(model.images),
        frozenset(map(_digest, model.digests)),
        tuple(tuple(map(_digest, layers)) for layers in model.base_layers),
    )


def _digest(text: str) -> str:
    return "sha256:" + text.removeprefix("sha256:")
