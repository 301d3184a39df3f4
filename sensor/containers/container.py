"""What is known about one container, whichever runtime told us."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class Image:
    """An image as a container refers to it."""

    name: str = ""  # repository without tag: "nginx", "registry.example/app"
    tag: str = ""
    digest: str = ""  # registry (manifest) digest, "sha256:…"; empty for local images
    id: str = ""  # config digest, "sha256:…"

    @property
    def reference(self) -> str:
        """The name people use: ``nginx:1.25``."""
        return f"{self.name}:{self.tag}" if self.tag else self.name or self.id

    @property
    def identity(self) -> str:
        """What a model is keyed by: the digest, or the config digest of imported images."""
        return self.id or self.digest or self.name


@dataclass(frozen=True, slots=True)
class Mount:
    """One mount of a container: where, and of what kind (``bind``, ``volume``, ``tmpfs``)."""

    target: str
    kind: str


@dataclass(frozen=True, slots=True)
class Container:
    """Identity of one container. Immutable: a change makes a new one.

    Source: the runtime's inspection (Docker Engine API, Podman's compatible API, containerd's
    metadata) or, for plain cgroups, the cgroup's path.
    """

    id: str
    runtime: str  # "docker", "podman", "containerd", "cgroup"
    name: str = ""
    image: Image = field(default_factory=Image)
    labels: Mapping[str, str] = field(default_factory=dict)
    namespace: str = ""  # Kubernetes namespace, or empty
    pod: str = ""
    pod_container: str = ""
    cgroup_path: str = ""  # below the hierarchy's root, "/docker/<id>"
    cgroup_id: int = 0
    pid: int = 0  # first process, in the host's pid namespace; 0 when unknown
    entrypoint: tuple[str, ...] = ()
    command: tuple[str, ...] = ()
    healthcheck: tuple[str, ...] = ()  # as executed: ("/bin/sh", "-c", "…"); empty when none
    user: str = ""
    workdir: str = ""
    env_names: tuple[str, ...] = ()
    mounts: tuple[Mount, ...] = ()
    read_only: bool = False
    started_at: float = 0.0  # seconds since the epoch
    host_mount_namespace: bool = False  # plain cgroups: shares the host's file systems

    @property
    def launch_signature(self) -> str:
        """12 hex digits that tell apart different uses of one image (learning.md 3.0)."""
        parts = [
            "\0".join(self.entrypoint),
            "\0".join(self.command),
            self.user,
            self.workdir,
            "\0".join(sorted(f"{m.target}={m.kind}" for m in self.mounts)),
            "ro" if self.read_only else "rw",
            "\0".join(sorted(self.env_names)),
        ]
        return hashlib.sha256("\1".join(parts).encode("utf-8", "surrogateescape")).hexdigest()[:12]

    @property
    def model_id(self) -> str:
        """Key of the model this container belongs to: image identity and launch signature."""
        return f"{self.image.identity}~{self.launch_signature}"

    @property
    def short_id(self) -> str:
        """The first 12 characters, as runtimes print it."""
        return self.id[:12]
