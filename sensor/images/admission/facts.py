"""From what a hook says to what a judge needs: the container, its specification, its root.

Nothing here asks an engine for the inspection of the container whose start is held: it would not
answer before the start is over.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import orjson

from sensor.containers import cgroups
from sensor.containers.container import Container, Image
from sensor.containers.docker import split_reference
from sensor.containers.runtime import Gated
from sensor.errors import BadInputError, RuntimeUnavailableError
from sensor.images.admission.start import Start

_log = logging.getLogger("rote.gate")
_SPEC_MAX = 4 << 20
_PREFIXES = ("io.kubernetes.cri.", "io.kubernetes.cri-o.", "io.kubernetes.")
_NAMES = {
    "name": ("container-name", "ContainerName", "container.name"),
    "image": ("image-name", "ImageName"),
    "namespace": ("sandbox-namespace", "Namespace", "pod.namespace"),
    "pod": ("sandbox-name", "KubeName", "pod.name"),
}


@dataclass(frozen=True, slots=True)
class State:
    """What an OCI runtime tells its hooks. Source: runtime-spec, runtime.md, "State"."""

    id: str
    pid: int
    bundle: str
    annotations: Mapping[str, str] = field(default_factory=dict)


def parse_state(data: bytes) -> State:
    """The state in a hook's message.

    Raises:
        BadInputError: it is none.
    """
    try:
        found = orjson.loads(data)
    except orjson.JSONDecodeError as error:
        raise BadInputError(f"state of a container: {error}") from error
    if not isinstance(found, dict):
        raise BadInputError("state of a container: expected an object")
    identity, pid, bundle = found.get("id"), found.get("pid", 0), found.get("bundle")
    if not isinstance(identity, str) or not identity or len(identity) > 1024:
        raise BadInputError(f"state of a container: id {identity!r:.80}: expected its name")
    if not isinstance(bundle, str) or not bundle.startswith("/") or "\0" in bundle:
        raise BadInputError(f"state of a container: bundle {bundle!r:.80}: expected its directory")
    if not isinstance(pid, int) or isinstance(pid, bool) or not 0 <= pid < 1 << 22:
        raise BadInputError(f"state of a container: pid {pid!r:.80}: expected a process")
    annotations = found.get("annotations") or {}
    if not isinstance(annotations, dict):
        raise BadInputError("state of a container: annotations: expected an object")
    return State(identity, pid, bundle, {str(k): str(v) for k, v in annotations.items()})


class Facts:
    """Finds out who a container is whose start is held.

    Args:
        runtimes: who may know it.
        hierarchy: where cgroups are.
    """

    def __init__(
        self, runtimes: Sequence[Gated], *, hierarchy: cgroups.Hierarchy | None = None
    ) -> None:
        self._runtimes = tuple(runtimes)
        self._hierarchy = hierarchy or cgroups.find_hierarchy()

    async def start(self, state: State, gate: str, asker: int) -> tuple[Start, Gated | None]:
        """The start, and the runtime that knows the container; None: it is known by its spec only.

        Args:
            state: of the container.
            gate: that holds it.
            asker: pid of the hook: another mount namespace than ours, perhaps.

        Raises:
            BadInputError: there is no usable ``config.json`` in the bundle.
        """
        bundle, spec = _spec(state, asker)
        path = self._hierarchy.path_of_pid(state.pid) if state.pid else None
        # The runtime counts processes in its own namespace, which may not be ours.
        pid = state.pid if path and cgroups.container_id(path) == state.id else 0
        found = await self._known(state.id)
        container, inspected, runtime = found or (from_spec(state, spec), {}, None)
        return (
            Start(
                container=replace(container, pid=pid, cgroup_path=(path or "") if pid else ""),
                gate=gate,
                spec=spec,
                inspected=inspected,
                root=_root(bundle, spec, state.pid),
                held=True,
            ),
            runtime,
        )

    async def _known(self, identity: str) -> tuple[Container, dict[str, Any], Gated | None] | None:
        for runtime in self._runtimes:
            try:
                found = await runtime.at_gate(identity)
            except RuntimeUnavailableError as error:
                _log.warning("%s; its container %s is known by its bundle", error, identity[:12])
                continue
            if found is not None:
                return (*found, runtime)
        return None


def from_spec(state: State, spec: Mapping[str, Any]) -> Container:
    """A container from its ``config.json`` alone, with what Kubernetes wrote into it."""
    annotations = {**(spec.get("annotations") or {}), **state.annotations}

    def written(what: str) -> str:
        names = (prefix + name for name in _NAMES[what] for prefix in _PREFIXES)
        return next((str(annotations[name]) for name in names if annotations.get(name)), "")

    process: Mapping[str, Any] = spec.get("process") or {}
    name, tag = split_reference(written("image"))
    libpod = annotations.get("io.container.manager") == "libpod"
    return Container(
        id=state.id,
        runtime="podman" if libpod else "oci",
        name=written("name") or state.id,
        image=Image(name, tag),
        namespace=written("namespace"),
        pod=written("pod"),
        pod_container=written("name"),
        entrypoint=tuple(process.get("args") or ()),
        workdir=str(process.get("cwd") or ""),
        read_only=bool((spec.get("root") or {}).get("readonly")),
    )


def _spec(state: State, asker: int) -> tuple[Path, dict[str, Any]]:
    """The bundle as this process reaches it, and its ``config.json``."""
    problem: object = "not there"
    for bundle in (Path(state.bundle), Path(f"/proc/{asker}/root{state.bundle}")):
        path = bundle / "config.json"
        try:
            with path.open("rb") as file:
                data = file.read(_SPEC_MAX + 1)
            if len(data) > _SPEC_MAX:
                raise BadInputError(f"{path}: more than {_SPEC_MAX} bytes")
            spec = orjson.loads(data)
        except OSError as error:
            problem = error.strerror
            continue
        except orjson.JSONDecodeError as error:
            raise BadInputError(f"{path}: {error}") from error
        if not isinstance(spec, dict):
            raise BadInputError(f"{path}: expected an object")
        return bundle, spec
    raise BadInputError(f"{state.bundle}/config.json: {problem}")


def _root(bundle: Path, spec: Mapping[str, Any], pid: int) -> Path | None:
    """The merged root: where the runtime mounted it, else as the container's first process sees it.

    Podman mounts it in a mount namespace of its own.
    """
    text = str((spec.get("root") or {}).get("path") or "rootfs")
    path = Path(text) if text.startswith("/") else bundle / text
    seen = [path, *([Path(f"/proc/{pid}/root{path}")] if pid else [])]
    for candidate in seen:
        try:
            if any(candidate.iterdir()):
                return candidate
        except OSError:
            continue
    return None
