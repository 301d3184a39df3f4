"""What a gate knows of a container that is about to run, and what it is told."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sensor.containers.container import Container


@dataclass(frozen=True, slots=True)
class Start:
    """The start of one container.

    Attributes:
        container: who it is. ``pid`` and ``cgroup_path`` are set where the gate knows them.
        gate: that holds the start: ``runtime``, ``hook``, ``fanotify``; ``events`` where nothing
            holds it and the container may run already.
        spec: the OCI runtime's ``config.json``; empty when it cannot be had.
        inspected: what Docker's or Podman's inspection of the container says (``Config``,
            ``HostConfig``, ``Mounts``, …), also when it was read from the files of the engine;
            empty for others.
        root: its merged root as the host sees it; None when it is not mounted yet, or not known.
        held: nothing of it has run, and nothing will before the answer.
    """

    container: Container
    gate: str
    spec: Mapping[str, Any] = field(default_factory=dict)
    inspected: Mapping[str, Any] = field(default_factory=dict)
    root: Path | None = None
    held: bool = False


@dataclass(frozen=True, slots=True)
class Answer:
    """Whether it may run; ``message`` is one line for who started it."""

    allow: bool
    message: str = ""


@dataclass(frozen=True, slots=True)
class Failure:
    """What becomes of a start that nobody decided in time.

    Attributes:
        allow: it goes on; else it is refused.
        seconds: how long a decision may take.
        rule: name of the rule that says so; "" when none does.
    """

    allow: bool = True
    seconds: float = 10.0
    rule: str = ""


Judge = Callable[[Start], Awaitable[Answer]]
