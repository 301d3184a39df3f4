"""containerd: Kubernetes, nerdctl, ctr.

Source: containerd's api/services/*.proto, versions 1.x and 2.x; only fields that both have.
Kubernetes' names come from the labels and annotations that the CRI plugin writes.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Mapping
from typing import Any

import grpc
import grpc.aio
import orjson

from sensor.containers import wire
from sensor.containers.container import Container, Image, Mount
from sensor.containers.docker import split_reference
from sensor.containers.runtime import RuntimeEvent, RuntimeStatus, Sink
from sensor.errors import RuntimeUnavailableError

_log = logging.getLogger("rote.containers")
_SERVICES = "/containerd.services"
_SECONDS = 10.0
_RETRY_SECONDS = (0.5, 1, 2, 5, 10)
_RUNNING = 2  # enum Status of containerd.v1.types
_DOCKER_NAMESPACE = "moby"


class ContainerdRuntime:
    """A containerd on a Unix socket; all its namespaces.

    Args:
        address: path of the socket.
        without_docker: leave out the namespace that Docker keeps its containers in, because
            Docker itself is asked.
    """

    name = "containerd"

    def __init__(self, address: str, *, without_docker: bool = False) -> None:
        self._address = address
        self._without_docker = without_docker
        self._channel: grpc.aio.Channel | None = None
        self._status = RuntimeStatus(self.name, address)
        self._namespace_of: dict[str, str] = {}

    def status(self) -> RuntimeStatus:
        """See ``Runtime.status``."""
        return self._status

    async def close(self) -> None:
        """See ``Runtime.close``."""
        if self._channel is not None:
            await self._channel.close()
            self._channel = None

    def _open(self) -> grpc.aio.Channel:
        if self._channel is None:
            self._channel = grpc.aio.insecure_channel(
                f"unix://{self._address}",
                # Or grpc asks containerd for the host name "localhost" through a proxy.
                options=[("grpc.enable_http_proxy", 0), ("grpc.default_authority", "localhost")],
            )
        return self._channel

    async def _call(self, method: str, request: bytes = b"", namespace: str = "") -> wire.Message:
        """The answer to one call; empty for "no such object".

        Raises:
            RuntimeUnavailableError: no answer.
        """
        call = self._open().unary_unary(f"{_SERVICES}.{method}")
        metadata = (("containerd-namespace", namespace),) if namespace else ()
        try:
            return wire.decode(await call(request, timeout=_SECONDS, metadata=metadata))
        except grpc.aio.AioRpcError as error:
            if error.code() is grpc.StatusCode.NOT_FOUND:
                return {}
            raise RuntimeUnavailableError(f"{self._address}: {error.details()}") from error
        except ValueError as error:
            raise RuntimeUnavailableError(f"{self._address}: {method}: {error}") from error

    async def run(self, sink: Sink) -> None:
        """See ``Runtime.run``."""
        failures = 0
        while True:
            try:
                version = await self._call("version.v1.Version/Version")
                self._status.version = wire.text(version, 1)
                if failures:
                    _log.info("%s answers again", self._address)
                failures = 0
                await self._follow(sink)
            except RuntimeUnavailableError as error:
                self._status.available = False
                self._status.error = str(error)
                if failures == 0:
                    _log.warning("%s; known containers stay watched, trying again", error)
                await self.close()
            await asyncio.sleep(_RETRY_SECONDS[min(failures, len(_RETRY_SECONDS) - 1)])
            failures += 1

    async def _follow(self, sink: Sink) -> None:
        """Subscribe first and list then, so that nothing falls between; repeats do no harm."""
        subscribe = self._open().unary_stream(f"{_SERVICES}.events.v1.Events/Subscribe")
        stream = subscribe(wire.text_field(1, 'topic~="/tasks/"'))
        self._status.available = True
        self._status.error = ""
        running = await self._running()
        self._status.containers = len(running)
        for namespace, identity, pid in running:
            container = await self._container(namespace, identity, pid)
            if container is not None:
                sink(RuntimeEvent("running", container.id, container))
        try:
            async for data in stream:
                await self._on_event(wire.decode(data), sink)
        except (grpc.aio.AioRpcError, ValueError) as error:
            details = error.details() if isinstance(error, grpc.aio.AioRpcError) else str(error)
            raise RuntimeUnavailableError(f"{self._address}: {details}") from error
        raise RuntimeUnavailableError(f"{self._address}: closed the connection")

    async def _on_event(self, envelope: wire.Message, sink: Sink) -> None:
        namespace, topic = wire.text(envelope, 2), wire.text(envelope, 3)
        if not self._wanted(namespace) or topic not in ("/tasks/start", "/tasks/delete"):
            return
        event = wire.decode(wire.messages(envelope, 4)[0].get(2, [b""])[-1])  # type: ignore[arg-type]
        identity = wire.text(event, 1)
        if topic == "/tasks/delete":
            sink(RuntimeEvent("stopped", identity))
            return
        container = await self._container(namespace, identity, wire.number(event, 2))
        if container is not None:
            sink(RuntimeEvent("started", container.id, container))

    def _wanted(self, namespace: str) -> bool:
        return not (self._without_docker and namespace == _DOCKER_NAMESPACE)

    async def _namespaces(self) -> list[str]:
        found = await self._call("namespaces.v1.Namespaces/List")
        names = [wire.text(entry, 1) for entry in wire.messages(found, 1)]
        return [name for name in names if self._wanted(name)]

    async def _running(self) -> list[tuple[str, str, int]]:
        """(namespace, container id, pid) of every running task."""
        found: list[tuple[str, str, int]] = []
        for namespace in await self._namespaces():
            tasks = await self._call("tasks.v1.Tasks/List", namespace=namespace)
            for task in wire.messages(tasks, 1):
                if wire.number(task, 4) == _RUNNING:
                    # `id` is the container's; older versions leave `container_id` empty here
                    identity = wire.text(task, 1) or wire.text(task, 2)
                    found.append((namespace, identity, wire.number(task, 3)))
        return found

    async def inspect(self, container_id: str) -> Container | None:
        """See ``Runtime.inspect``."""
        known = self._namespace_of.get(container_id)
        for namespace in [known] if known else await self._namespaces():
            container = await self._container(namespace, container_id, 0)
            if container is not None:
                return container
        return None

    async def at_gate(self, container_id: str) -> tuple[Container, dict[str, Any]] | None:
        """See ``Gated.at_gate``: containerd's records do not wait for what its tasks do."""
        container = await self.inspect(container_id)
        return (container, {}) if container is not None else None

    def hold(self, container: Container) -> None:
        """See ``Gated.hold``."""

    def release(self, container_id: str) -> None:
        """See ``Gated.release``."""

    async def _container(self, namespace: str, identity: str, pid: int) -> Container | None:
        answer = await self._call(
            "containers.v1.Containers/Get", wire.text_field(1, identity), namespace
        )
        found = wire.messages(answer, 1)
        if not found:
            return None
        reference = wire.text(found[0], 3)
        target: list[wire.Message] = []
        if reference:
            image = await self._call(
                "images.v1.Images/Get", wire.text_field(1, reference), namespace
            )
            target = [t for i in wire.messages(image, 1) for t in wire.messages(i, 3)]
        digest = wire.text(target[0], 2) if target else ""
        self._namespace_of[identity] = namespace
        if len(self._namespace_of) > 65536:
            self._namespace_of.clear()
        return container_from_message(found[0], reference, digest, pid)


def container_from_message(found: wire.Message, reference: str, digest: str, pid: int) -> Container:
    """A container from containerd's record of it and the OCI specification inside."""
    labels = {wire.text(entry, 1): wire.text(entry, 2) for entry in wire.messages(found, 2)}
    spec: Mapping[str, Any] = {}
    for any_value in wire.messages(found, 5):
        body = any_value.get(2, [b""])[-1]
        if isinstance(body, bytes) and body.startswith(b"{"):
            spec = orjson.loads(body)
    process: Mapping[str, Any] = spec.get("process") or {}
    annotations: Mapping[str, str] = spec.get("annotations") or {}
    user: Mapping[str, Any] = process.get("user") or {}
    name, tag = split_reference(reference)
    identity = wire.text(found, 1)
    pod_container = _kubernetes(labels, annotations, "container.name", "container-name")
    return Container(
        id=identity,
        runtime="containerd",
        name=pod_container or labels.get("nerdctl/name") or identity,
        image=Image(name, tag, digest, digest or f"containerd:{reference or identity}"),
        labels=labels,
        namespace=_kubernetes(labels, annotations, "pod.namespace", "sandbox-namespace"),
        pod=_kubernetes(labels, annotations, "pod.name", "sandbox-name"),
        pod_container=pod_container,
        pid=pid,
        entrypoint=tuple(process.get("args") or ()),
        user=f"{user.get('uid', 0)}:{user.get('gid', 0)}",
        workdir=str(process.get("cwd") or ""),
        env_names=tuple(sorted(entry.partition("=")[0] for entry in process.get("env") or ())),
        mounts=tuple(
            sorted(
                (
                    Mount(str(mount.get("destination", "")), str(mount.get("type", "")))
                    for mount in spec.get("mounts") or ()
                ),
                key=lambda mount: mount.target,
            )
        ),
        read_only=bool((spec.get("root") or {}).get("readonly")),
        started_at=time.time() if pid else 0.0,
    )


def _kubernetes(
    labels: Mapping[str, str], annotations: Mapping[str, str], label: str, annotation: str
) -> str:
    return labels.get(f"io.kubernetes.{label}") or annotations.get(
        f"io.kubernetes.cri.{annotation}", ""
    )
