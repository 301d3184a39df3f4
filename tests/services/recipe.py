"""What a service consists of."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class Recipe:
    """How a root becomes the image of one service."""

    name: str
    changes: tuple[str, ...]  # as for docker commit --change
    options: tuple[str, ...] = ()  # for docker run; what commit cannot change
    files: Mapping[str, str] = field(default_factory=dict)  # put over the root; *.sh is executable

    @property
    def reference(self) -> str:
        """The name that the Engine knows it by."""
        return f"rote-test/{self.name}:1"


@dataclass(frozen=True, slots=True)
class Root:
    """A root file system that several images are made of."""

    packages: Sequence[str]
    files: Mapping[str, str] = field(default_factory=dict)  # there before packages are installed
    commands: Sequence[str] = ()  # shell, with the root as $1, when all is installed
    name: str = "services"  # of its archive in the cache


@dataclass(frozen=True, slots=True)
class Service:
    """A service, and two rounds of work for it: bash, run in its network by the load image.

    A round takes some ten seconds, waits for the service itself and fails loudly. ``learn`` and
    ``judge`` do the same kinds of things, with other tools, amounts, names and orders.
    """

    recipe: Recipe
    packages: tuple[str, ...]
    learn: str
    judge: str
    early: Mapping[str, str] = field(default_factory=dict)  # files of the root
    commands: tuple[str, ...] = ()  # as for Root
    learn_options: tuple[str, ...] = ()  # for docker run, where no client can say what to do
    judge_options: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        """What people call it."""
        return self.recipe.name


def root_of(services: Sequence[Service], tools: Sequence[str], name: str) -> Root:
    """The root that all these services are made of, with the tools of their clients."""
    files: dict[str, str] = {}
    for service in services:
        files.update(service.early)
    packages = {package for service in services for package in service.packages} | set(tools)
    commands = [command for service in services for command in service.commands]
    return Root(tuple(sorted(packages)), files, commands, name)
