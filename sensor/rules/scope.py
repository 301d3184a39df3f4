"""Which containers a rule is about."""

from __future__ import annotations

import fnmatch
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Protocol, TypeVar

from sensor.containers.container import Container


@dataclass(frozen=True, slots=True)
class Where:
    """Where a container runs: what scopes may ask beyond the container itself."""

    host: str = ""
    cluster: str = ""


def matches_globs(globs: tuple[str, ...], names: Iterable[str]) -> bool:
    """Whether any of the names matches: some glob, and none of those behind a "!".

    Without a glob that is not negated, every name matches that is not excluded.
    """
    candidates = [name for name in names if name]
    wanted = [glob for glob in globs if not glob.startswith("!")]
    unwanted = [glob[1:] for glob in globs if glob.startswith("!")]
    if any(fnmatch.fnmatchcase(name, glob) for glob in unwanted for name in candidates):
        return False
    return not wanted or any(
        fnmatch.fnmatchcase(name, glob) for glob in wanted for name in candidates
    )


@dataclass(frozen=True, slots=True)
class Scope:
    """All fields that are given must match. Globs are the shell's; "!" in front excludes."""

    images: tuple[str, ...] = ()  # reference, name without tag, or digest
    containers: tuple[str, ...] = ()  # name, or name in the pod
    labels: tuple[tuple[str, tuple[str, ...]], ...] = field(default=())  # each of them
    namespaces: tuple[str, ...] = ()
    hosts: tuple[str, ...] = ()
    clusters: tuple[str, ...] = ()

    def matches(self, container: Container, where: Where) -> bool:
        """Whether a container is meant."""
        image = container.image
        return (
            matches_globs(self.images, (image.reference, image.name, image.digest, image.id))
            and matches_globs(self.containers, (container.name, container.pod_container))
            and matches_globs(self.namespaces, (container.namespace,))
            and matches_globs(self.hosts, (where.host,))
            and matches_globs(self.clusters, (where.cluster,))
            and all(
                _label_matches(container.labels.get(name), globs) for name, globs in self.labels
            )
        )


def _label_matches(value: str | None, globs: tuple[str, ...]) -> bool:
    if value is None:
        # A label that is not there is not what was asked for, unless only values are excluded.
        return all(glob.startswith("!") for glob in globs)
    if value == "":
        return any(glob in ("", "*") for glob in globs)
    return matches_globs(globs, (value,))


class Scoped(Protocol):
    """A rule with a scope."""

    @property
    def scope(self) -> Scope:
        """Which containers it is about."""


_R = TypeVar("_R", bound=Scoped)


def first_match(rules: Iterable[_R], container: Container, where: Where) -> _R | None:
    """The first rule whose scope matches a container; None when none does."""
    return next((rule for rule in rules if rule.scope.matches(container, where)), None)
