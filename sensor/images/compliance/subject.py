"""What compliance checks look at: one container, its image, and the host below them."""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

import orjson

from sensor.errors import BadInputError
from sensor.images.admission.start import Start
from sensor.images.compliance.facts import ImageFacts
from sensor.images.package import Inventory

_DAEMON_MAX = 1 << 20  # bytes of daemon.json


@dataclass(frozen=True, slots=True)
class HostFacts:
    """What of the host counts. None: not known.

    Attributes:
        apparmor: it is on in the kernel.
        selinux: it is on in the kernel.
        cgroup2: cgroups are of version 2 alone.
        userns_remap: the daemon gives containers other users than the host's.
        no_new_privileges: the daemon sets it for every container.
        security_updates: names of packages with a pending security update.
        gated_runtimes: names of the runtimes whose starts Rote's gate holds; empty: any, or there
            is no gate of this kind.
    """

    apparmor: bool | None = None
    selinux: bool | None = None
    cgroup2: bool | None = None
    userns_remap: bool | None = None
    no_new_privileges: bool | None = None
    security_updates: tuple[str, ...] | None = None
    gated_runtimes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Wishes:
    """What people may set for checks that have no answer of their own.

    Attributes:
        image_days: an image older than this is old; 0: none is.
        trusted_images: shell globs over references and digests; empty: nothing is said of trust.
        setuid_allowed: paths of setuid and setgid files that are as they should be.
        today: what ages are counted from; None: this day.
    """

    image_days: int = 365
    trusted_images: tuple[str, ...] = ()
    setuid_allowed: tuple[str, ...] = ()
    today: dt.date | None = None


@dataclass(frozen=True, slots=True)
class Subject:
    """What checks look at. What is empty or None is not known, and no check passes for it.

    Attributes:
        name: what a person calls it.
        container_id: of the container; "" for an image alone.
        image_id: ``sha256:…``; "" when not known.
        reference: how the container names its image.
        spec: the OCI runtime's ``config.json``.
        inspected: Docker's or Podman's inspection of the container.
        image: Docker's inspection of the image, with ``History`` (Docker's ``/history``) where
            that is known, or the OCI image's configuration with its ``history``.
        facts: what was found in the image's file system.
        inventory: its packages.
        host: of the host.
        wishes: what people set.
    """

    name: str = ""
    container_id: str = ""
    image_id: str = ""
    reference: str = ""
    spec: Mapping[str, Any] = field(default_factory=dict)
    inspected: Mapping[str, Any] = field(default_factory=dict)
    image: Mapping[str, Any] = field(default_factory=dict)
    facts: ImageFacts | None = None
    inventory: Inventory | None = None
    host: HostFacts = HostFacts()
    wishes: Wishes = Wishes()

    @classmethod
    def from_start(
        cls,
        start: Start,
        image: Mapping[str, Any] | None = None,
        facts: ImageFacts | None = None,
        *,
        inventory: Inventory | None = None,
        host: HostFacts = HostFacts(),
        wishes: Wishes = Wishes(),
    ) -> Self:
        """What a gate knows of a container that is about to run.

        Args:
            start: of the container.
            image: inspection or configuration of its image.
            facts: what was found in the image.
            inventory: of the image.
            host: of the host.
            wishes: what people set.
        """
        known = start.container.image
        reference = f"{known.reference}@{known.digest}" if known.digest else known.reference
        return cls(
            name=start.container.name or start.container.short_id,
            container_id=start.container.id,
            image_id=known.id,
            reference=reference if known.name else known.id,
            spec=start.spec,
            inspected=start.inspected,
            image=image or {},
            facts=facts,
            inventory=inventory,
            host=host,
            wishes=wishes,
        )

    @property
    def is_container(self) -> bool:
        """Whether it is about a container, not an image alone."""
        return bool(self.spec or self.inspected or self.container_id)


def read_host_facts(root: Path = Path("/"), gated_runtimes: tuple[str, ...] = ()) -> HostFacts:
    """What this host says of itself. Pending updates are looked for elsewhere: they take a second.

    Args:
        root: of the host's file system.
        gated_runtimes: see ``HostFacts``.
    """
    apparmor = _line(root / "sys/module/apparmor/parameters/enabled")
    daemon = _daemon(root / "etc/docker/daemon.json")
    cgroup = root / "sys/fs/cgroup"
    return HostFacts(
        apparmor=apparmor == "Y",
        selinux=_line(root / "sys/fs/selinux/enforce") in ("0", "1"),
        cgroup2=(cgroup / "cgroup.controllers").exists() if cgroup.exists() else None,
        userns_remap=None if daemon is None else bool(daemon.get("userns-remap")),
        no_new_privileges=None if daemon is None else daemon.get("no-new-privileges") is True,
        gated_runtimes=gated_runtimes,
    )


def _line(path: Path) -> str:
    try:
        return path.read_text().strip()
    except (OSError, UnicodeDecodeError):
        return ""  # not there: the kernel has no such thing


def _daemon(path: Path) -> Mapping[str, Any] | None:
    """Docker's configuration; empty where there is none, None where it cannot be read."""
    try:
        if path.stat().st_size > _DAEMON_MAX:
            return None
        found = orjson.loads(path.read_bytes())
    except FileNotFoundError:
        return {}
    except (OSError, orjson.JSONDecodeError):
        return None  # whoever asks is told that it is not known
    return found if isinstance(found, Mapping) else None


def parse_object(data: bytes, place: str, expected: str) -> dict[str, Any]:
    """One JSON object; of a list with one, as `docker inspect` prints, that one.

    Args:
        data: the bytes.
        place: where they come from, for the error.
        expected: what they should be, for the error.

    Raises:
        BadInputError: they are something else.
    """
    try:
        found = orjson.loads(data)
    except orjson.JSONDecodeError as error:
        raise BadInputError(f"{place}: no JSON: {error}; expected {expected}") from error
    if isinstance(found, list) and len(found) == 1:
        found = found[0]
    if isinstance(found, list):
        raise BadInputError(f"{place}: {len(found)} objects; expected one: {expected}")
    if not isinstance(found, dict):
        raise BadInputError(f"{place}: no JSON object; expected {expected}")
    return found
