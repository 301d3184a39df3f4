"""Podman, through its Docker-compatible socket."""

from __future__ import annotations

from sensor.containers.docker import DockerRuntime

SOCKET = "unix:///run/podman/podman.sock"


def podman_runtime(address: str = SOCKET) -> DockerRuntime:
    """Podman's service; it speaks Docker's API as far as Rote uses it."""
    return DockerRuntime(address, name="podman")
