"""Docker Engine, and whatever speaks its API (Podman's compatible socket).

Source: Docker Engine API 1.24 to 1.52. The version is negotiated; only fields that all of these
have are used.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections import OrderedDict
from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from typing import Any

import aiohttp
import orjson

from sensor.containers import docker_files
from sensor.containers.container import Container, Image, Mount
from sensor.containers.runtime import RestartPolicy, RuntimeEvent, RuntimeStatus, Sink
from sensor.errors import RuntimeUnavailableError

_log = logging.getLogger("rote.containers")
_NEWEST_API = (1, 52)
_OLDEST_API = (1, 24)
_RETRY_SECONDS = (0.5, 1, 2, 5, 10)
_SECONDS = 10.0
_EXPORT_SECONDS = 60.0  # what takes the daemon longer
_CREATED_MAX = 64  # inspections of what was created and did not start yet; some 30 KB each
_STREAM = aiohttp.ClientTimeout(total=None, sock_connect=10)
_EVENTS = {
    "create": "created",
    "start": "started",
    "die": "stopped",
    "rename": "changed",
    "update": "changed",
}


class DockerRuntime:
    """A daemon with the Docker Engine API on a Unix socket.

    Args:
        address: ``unix:///path``.
        name: how to call it.
    """

    def __init__(self, address: str, name: str = "docker") -> None:
        self.name = name
        self._address = address
        self._socket = address.removeprefix("unix://")
        self._client: aiohttp.ClientSession | None = None
        self._api = ""
        self._status = RuntimeStatus(name, address)
        self._images: dict[str, Image] = {}
        self._data_root: Path | None = None
        self._asking: dict[str, asyncio.Task[Container | None]] = {}  # for an event
        self._created: OrderedDict[str, tuple[Container, dict[str, Any]]] = OrderedDict()
        self._held: dict[str, Container] = {}
        self._released: dict[str, asyncio.Event] = {}

    def status(self) -> RuntimeStatus:
        """See ``Runtime.status``."""
        return self._status

    async def close(self) -> None:
        """See ``Runtime.close``."""
        if self._client is not None:
            await self._client.close()
            self._client = None

    def _session(self) -> aiohttp.ClientSession:
        if self._client is None:
            self._client = aiohttp.ClientSession(connector=aiohttp.UnixConnector(self._socket))
        return self._client

    async def _get(self, path: str, **params: str) -> Any:
        return (await self._request("GET", path, params))[1]

    async def _post(
        self, path: str, *, body: Any = None, seconds: float = 0.0, **params: str
    ) -> int:
        """Ask for something to be done; the status of the answer: 304 where it is so already.

        Raises:
            RuntimeUnavailableError: no answer, a refusal, or no such container.
        """
        status, _ = await self._request("POST", path, params, body=body, seconds=seconds)
        if status == 404:
            raise RuntimeUnavailableError(f"{self._address}: {path}: there is no such container")
        return status

    async def _request(
        self,
        method: str,
        path: str,
        params: Mapping[str, str],
        *,
        body: Any = None,
        seconds: float = 0.0,
    ) -> tuple[int, Any]:
        """Status and JSON answer of one request; None for "no such object" and for no answer.

        Args:
            method: of HTTP.
            path: below the API's version.
            params: the query.
            body: to be sent as JSON.
            seconds: how much longer than usual the daemon may take.

        Raises:
            RuntimeUnavailableError: no answer, a refusal, or an answer that is no JSON.
        """
        try:
            async with self._session().request(
                method,
                f"http://{self.name}{self._api}{path}",
                params=params,
                data=None if body is None else orjson.dumps(body),
                headers={} if body is None else {"Content-Type": "application/json"},
                timeout=aiohttp.ClientTimeout(total=_SECONDS + seconds),
            ) as response:
                if response.status == 404:
                    return 404, None
                answer = await response.read()
                if response.status >= 400:
                    message = answer.decode(errors="replace")[:200].strip()
                    raise RuntimeUnavailableError(
                        f"{self._address}: {path}: {response.status} {message}"
                    )
                return response.status, orjson.loads(answer) if answer.strip() else None
        except (aiohttp.ClientError, TimeoutError, OSError, orjson.JSONDecodeError) as error:
            raise RuntimeUnavailableError(
                f"{self._address}: {str(error) or type(error).__name__}"
            ) from error

    async def _negotiate(self) -> None:
        self._api = ""
        version = await self._get("/version") or {}
        text = str(version.get("ApiVersion", "1.24"))
        try:
            major, minor = (int(part) for part in text.split("."))
        except ValueError:
            major, minor = _OLDEST_API
        if (major, minor) < _OLDEST_API:
            raise RuntimeUnavailableError(
                f"{self._address}: API version {text}; expected 1.24 or later"
            )
        used = min((major, minor), _NEWEST_API)
        self._api = f"/v{used[0]}.{used[1]}"
        self._status.version = f"{version.get('Version', '?')} (API {used[0]}.{used[1]})"

    async def run(self, sink: Sink) -> None:
        """See ``Runtime.run``."""
        failures = 0
        while True:
            try:
                await self._negotiate()
                if failures:
                    _log.info("%s answers again", self._address)
                failures = 0
                await self._follow(sink)
            except RuntimeUnavailableError as error:
                self._status.available = False
                self._status.error = str(error)
                if failures == 0:
                    _log.warning("%s; known containers stay watched, trying again", error)
            await asyncio.sleep(_RETRY_SECONDS[min(failures, len(_RETRY_SECONDS) - 1)])
            failures += 1

    async def _follow(self, sink: Sink) -> None:
        """List what runs, then follow events since just before, so that nothing falls between."""
        since = time.time() - 1
        self._status.available = True
        self._status.error = ""
        running = await self._get("/containers/json") or []
        for summary in running:
            container = await self.inspect(summary["Id"])
            if container is not None:
                sink(RuntimeEvent("running", container.id, container))
        self._status.containers = len(running)
        async for event in self._events(since):
            kind = _EVENTS.get(str(event.get("Action", "")))
            actor = str((event.get("Actor") or {}).get("ID") or event.get("id") or "")
            if kind is None or not actor:
                continue
            # Inspecting takes a round trip, in which later events would wait for no reason, but
            # their order is what makes "stopped" after "started" mean what it says.
            container = await self._inspect_or_held(actor) if kind != "stopped" else None
            sink(RuntimeEvent(kind, actor, container))
        raise RuntimeUnavailableError(f"{self._address}: closed the connection")

    async def _events(self, since: float) -> AsyncIterator[dict[str, Any]]:
        """Events since a time; repeats within the first second are harmless to the registry."""
        try:
            async with self._session().get(
                f"http://{self.name}{self._api}/events",
                params={
                    "since": f"{since:.9f}",
                    "filters": orjson.dumps({"type": ["container"]}).decode(),
                },
                timeout=_STREAM,
            ) as response:
                async for line in response.content:
                    if line.strip():
                        yield orjson.loads(line)
        except (aiohttp.ClientError, TimeoutError, OSError, ValueError) as error:
            raise RuntimeUnavailableError(
                f"{self._address}: {str(error) or type(error).__name__}"
            ) from error

    async def information(self) -> dict[str, Any]:
        """What the Engine says of itself.

        Raises:
            RuntimeUnavailableError: no answer, or a refusal.
        """
        found: dict[str, Any] = await self._get("/info") or {}
        return found

    async def at_gate(self, container_id: str) -> tuple[Container, dict[str, Any]] | None:
        """A container whose start is being held, and its inspection; without asking for it.

        Returns:
            None: it is not this Engine's.

        Raises:
            RuntimeUnavailableError: the Engine does not answer, or its files cannot be read.
        """
        if self._data_root is None:
            self._data_root = Path(str((await self.information()).get("DockerRootDir") or "/"))
        found = docker_files.inspection(self._data_root, container_id)
        if found is None:
            return self._created.get(container_id)
        image = await self._image(str(found.get("Image", "")), found["Config"].get("Image", ""))
        return container_from_inspect(found, image, self.name), found

    def hold(self, container: Container) -> None:
        """Its start is held now: until ``release`` nothing asks for its inspection.

        The Engine would not answer before the start is over, and who waits for that answer may be
        who decides about the start.
        """
        self._held[container.id] = container
        self._released.setdefault(container.id, asyncio.Event())
        if (asking := self._asking.get(container.id)) is not None:
            asking.cancel()

    def release(self, container_id: str) -> None:
        """It goes on, or never will."""
        self._held.pop(container_id, None)
        if (released := self._released.pop(container_id, None)) is not None:
            released.set()

    async def _inspect_or_held(self, container_id: str) -> Container | None:
        """For an event: other containers' events must not wait for one that is held."""
        if container_id in self._held:
            return self._held[container_id]
        asking = self._asking[container_id] = asyncio.create_task(self.inspect(container_id))
        try:
            await asyncio.wait({asking})
        finally:
            asking.cancel()
            del self._asking[container_id]
        return self._held.get(container_id) if asking.cancelled() else asking.result()

    async def inspect(self, container_id: str) -> Container | None:
        """See ``Runtime.inspect``."""
        if (released := self._released.get(container_id)) is not None:
            await released.wait()
        found = await self._get(f"/containers/{container_id}/json")
        if found is None:
            return None
        image = await self._image(str(found.get("Image", "")), found["Config"].get("Image", ""))
        container = container_from_inspect(found, image, self.name)
        if (found.get("State") or {}).get("Status") == "created":
            self._created[container.id] = container, found
            if len(self._created) > _CREATED_MAX:
                self._created.popitem(last=False)
        else:
            self._created.pop(container.id, None)
        return container

    async def details(self, container_id: str) -> dict[str, Any] | None:
        """See ``Control.details``."""
        if (released := self._released.get(container_id)) is not None:
            await released.wait()
        found: dict[str, Any] | None = await self._get(f"/containers/{container_id}/json")
        return found

    async def image_details(self, image_id: str) -> dict[str, Any] | None:
        """See ``Control.image_details``."""
        found: dict[str, Any] | None = await self._get(f"/images/{image_id}/json")
        return found

    async def image_history(self, image_id: str) -> list[dict[str, Any]]:
        """The steps that made an image, the last one first; empty for one that is not there."""
        found: list[dict[str, Any]] | None = await self._get(f"/images/{image_id}/history")
        return found or []

    async def changes(self, container_id: str) -> list[tuple[str, str]]:
        """See ``Control.changes``."""
        # Comparing a large file system takes a while.
        _, found = await self._request(
            "GET", f"/containers/{container_id}/changes", {}, seconds=_EXPORT_SECONDS
        )
        kinds = ("changed", "added", "deleted")
        return [(kinds[int(entry["Kind"])], str(entry["Path"])) for entry in found or ()]

    def export(self, container_id: str) -> AsyncIterator[bytes]:
        """See ``Control.export``."""
        return self._stream(f"/containers/{container_id}/export")

    def image_archive(self, image_id: str) -> AsyncIterator[bytes]:
        """An image as `docker save` writes it, in pieces.

        Raises:
            RuntimeUnavailableError: no answer, a refusal, or no such image.
        """
        return self._stream(f"/images/{image_id}/get")

    async def images(self) -> list[dict[str, Any]]:
        """The runtime's own list of images.

        Raises:
            RuntimeUnavailableError: no answer or a refusal.
        """
        found: list[dict[str, Any]] | None = await self._get("/images/json")
        return found or []

    async def container_ids(self) -> list[str]:
        """Ids of all containers, running or not.

        Raises:
            RuntimeUnavailableError: no answer or a refusal.
        """
        found: list[dict[str, Any]] | None = await self._get("/containers/json", all="1")
        return [str(entry["Id"]) for entry in found or ()]

    async def _stream(self, path: str) -> AsyncIterator[bytes]:
        try:
            async with self._session().get(
                f"http://{self.name}{self._api}{path}", timeout=_STREAM
            ) as response:
                if response.status >= 400:
                    message = (await response.text())[:200].strip()
                    raise RuntimeUnavailableError(
                        f"{self._address}: {path}: {response.status} {message}"
                    )
                async for piece in response.content.iter_chunked(1 << 18):
                    yield piece
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            raise RuntimeUnavailableError(
                f"{self._address}: {path}: {str(error) or type(error).__name__}"
            ) from error

    async def restart_policy(self, container_id: str) -> RestartPolicy:
        """See ``Control.restart_policy``."""
        found = await self.details(container_id)
        if found is None:
            raise RuntimeUnavailableError(
                f"{self._address}: container {container_id[:12]}: there is none"
            )
        policy = (found.get("HostConfig") or {}).get("RestartPolicy") or {}
        return RestartPolicy(policy.get("Name") or "no", int(policy.get("MaximumRetryCount") or 0))

    async def set_restart_policy(self, container_id: str, policy: RestartPolicy) -> None:
        """See ``Control.set_restart_policy``."""
        await self._post(
            f"/containers/{container_id}/update",
            body={
                "RestartPolicy": {
                    "Name": policy.name,
                    "MaximumRetryCount": policy.maximum_retries,
                }
            },
        )

    async def stop(self, container_id: str, grace_seconds: float) -> bool:
        """See ``Control.stop``."""
        status = await self._post(
            f"/containers/{container_id}/stop",
            seconds=grace_seconds + _EXPORT_SECONDS,
            t=str(max(0, round(grace_seconds))),
        )
        return status != 304

    async def start(self, container_id: str) -> None:
        """See ``Control.start``."""
        await self._post(f"/containers/{container_id}/start", seconds=_EXPORT_SECONDS)

    async def _image(self, image_id: str, reference: str) -> Image:
        name, tag = split_reference(reference)
        known = self._images.get(image_id)
        if known is None:
            digest = ""
            with contextlib.suppress(RuntimeUnavailableError):
                details = await self._get(f"/images/{image_id}/json") or {}
                digests = details.get("RepoDigests") or []
                digest = digests[0].rpartition("@")[2] if digests else ""
            known = Image("", "", digest, image_id)
            if len(self._images) > 4096:
                self._images.clear()
            self._images[image_id] = known
        if reference.startswith("sha256:"):
            name, tag = "", ""
        return Image(name, tag, known.digest, image_id)


def split_reference(reference: str) -> tuple[str, str]:
    """Name and tag of an image reference; a digest is left out, the tag defaults to latest."""
    reference = reference.partition("@")[0]
    name, colon, tag = reference.rpartition(":")
    if not colon or "/" in tag:
        return reference, "latest" if reference else ""
    return name, tag


def container_from_inspect(found: Mapping[str, Any], image: Image, runtime: str) -> Container:
    """A container from the answer to ``GET /containers/ID/json``."""
    config: Mapping[str, Any] = found.get("Config") or {}
    host: Mapping[str, Any] = found.get("HostConfig") or {}
    state: Mapping[str, Any] = found.get("State") or {}
    labels: dict[str, str] = dict(config.get("Labels") or {})
    mounts = [Mount(m.get("Destination", ""), m.get("Type", "")) for m in found.get("Mounts") or ()]
    mounts.extend(Mount(target, "tmpfs") for target in host.get("Tmpfs") or ())
    return Container(
        id=found["Id"],
        runtime=runtime,
        name=str(found.get("Name", "")).lstrip("/"),
        image=image,
        labels=labels,
        namespace=labels.get("io.kubernetes.pod.namespace", ""),
        pod=labels.get("io.kubernetes.pod.name", ""),
        pod_container=labels.get("io.kubernetes.container.name", ""),
        pid=int(state.get("Pid") or 0),
        entrypoint=tuple(config.get("Entrypoint") or ()),
        command=tuple(config.get("Cmd") or ()),
        healthcheck=_healthcheck(config),
        user=str(config.get("User") or ""),
        workdir=str(config.get("WorkingDir") or ""),
        env_names=tuple(sorted(entry.partition("=")[0] for entry in config.get("Env") or ())),
        mounts=tuple(sorted(mounts, key=lambda mount: mount.target)),
        read_only=bool(host.get("ReadonlyRootfs")),
    )


def _healthcheck(config: Mapping[str, Any]) -> tuple[str, ...]:
    """The health check as the runtime executes it."""
    test = list((config.get("Healthcheck") or {}).get("Test") or ())
    if test[:1] == ["CMD"]:
        return tuple(test[1:])
    if test[:1] == ["CMD-SHELL"]:
        shell = config.get("Shell") or ["/bin/sh", "-c"]
        return (*shell, *test[1:])
    return ()
