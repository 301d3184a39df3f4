"""Checks of what a container shares with the host or with others: namespaces, mounts, ports.

Sources: Docker Engine API 1.41 (``HostConfig``, ``Mounts``, ``NetworkSettings``); OCI runtime
specification 1.1 (``linux.namespaces``, ``mounts``).
"""

from __future__ import annotations

import posixpath
import re
from collections.abc import Callable, Iterator
from typing import NamedTuple

from sensor.images.compliance.check import (
    Predicate,
    Verdict,
    by_container,
    failed,
    fails_if,
    not_applicable,
    unknown,
)
from sensor.images.compliance.subject import Subject
from sensor.images.compliance.values import (
    flag,
    listed,
    section,
    sections,
    text,
    texts,
)

SENSITIVE = frozenset({
    "/", "/bin", "/boot", "/dev", "/etc", "/etc/kubernetes", "/home", "/lib", "/lib32", "/lib64",
    "/proc", "/root", "/run", "/run/containerd", "/sbin", "/sys", "/usr", "/var",
    "/var/lib/containerd", "/var/lib/docker", "/var/lib/kubelet", "/var/run",
    "/var/run/containerd",
})  # fmt: skip
_SOCKET = re.compile(r"/(?:docker|containerd|crio|podman|cri-dockerd)\.sock$")
# Docker keeps the host's own network under the name "default".
_HOST_NAMESPACE = re.compile(r"^/proc/(?:1|self)/ns/|/netns/default$")
_OF_A_PROCESS = re.compile(r"^/proc/\d+/ns/")
# A pod's containers share its namespaces: that is what a pod is.
_POD_NOTES = ("io.kubernetes.cri.sandbox-id", "io.kubernetes.cri-o.SandboxID")
_PRIVILEGED_PORTS = range(1, 1024)
_EVERYWHERE = "0.0.0.0"  # noqa: S104 - looked for, not bound to
_ANYWHERE = ("", _EVERYWHERE, "::")
_NO_PORTS = "config.json says nothing of published ports"


class _Bind(NamedTuple):
    source: str
    writable: bool
    propagation: str


# ---- mounts --------------------------------------------------------------------------------------


def _clean(source: str) -> str:
    # POSIX lets two slashes in front stand, and Linux does not care.
    return posixpath.normpath("/" + source.lstrip("/")) if source else ""


def _binds_docker(s: Subject) -> Iterator[_Bind]:
    for mount in sections(s.inspected, "Mounts"):
        if text(mount, "Type") in ("bind", ""):
            source = _clean(text(mount, "Source"))
            yield _Bind(source, flag(mount, "RW"), text(mount, "Propagation"))
    host = section(s.inspected, "HostConfig")
    # Of a container that was not started yet, some engines list only what was asked for.
    for bind in texts(host, "Binds"):
        source, _, rest = bind.partition(":")
        if source.startswith("/"):
            options = rest.rpartition(":")[2].split(",") if ":" in rest else []
            spread = next((o for o in options if o.lstrip("r") in ("shared", "slave")), "")
            yield _Bind(_clean(source), "ro" not in options, spread)
    for mount in sections(host, "Mounts"):
        if text(mount, "Type") == "bind":
            spread = text(mount, "BindOptions", "Propagation")
            source = _clean(text(mount, "Source"))
            yield _Bind(source, not flag(mount, "ReadOnly"), spread)


def _binds_oci(s: Subject) -> Iterator[_Bind]:
    for mount in sections(s.spec, "mounts"):
        options = texts(mount, "options")
        spread = next((o for o in options if o in ("shared", "rshared")), "")
        if text(mount, "type") == "bind" or {"bind", "rbind"} & set(options):
            yield _Bind(_clean(text(mount, "source")), "ro" not in options, spread)
        elif spread:
            yield _Bind("", writable=True, propagation=spread)


_Binds = Callable[[Subject], Iterator[_Bind]]


def _sensitive(binds: _Binds, *, writable: bool) -> Predicate:
    def look(s: Subject) -> Verdict:
        found = {
            f"{bind.source} ({'rw' if bind.writable else 'ro'})": None
            for bind in binds(s)
            if bind.source in SENSITIVE and (bind.writable or not writable)
        }
        return fails_if(found, listed([*found]))

    return look


def _sockets(binds: _Binds) -> Predicate:
    def look(s: Subject) -> Verdict:
        found = {bind.source: None for bind in binds(s) if _SOCKET.search(bind.source)}
        return fails_if(found, listed([*found]))

    return look


def _propagation_docker(s: Subject) -> Verdict:
    found = {
        f"{bind.source} ({bind.propagation})": None
        for bind in _binds_docker(s)
        if bind.propagation in ("shared", "rshared")
    }
    return fails_if(found, listed([*found]))


def _propagation_oci(s: Subject) -> Verdict:
    root = text(s.spec, "linux", "rootfsPropagation")
    if root in ("shared", "rshared"):
        return failed(f"linux.rootfsPropagation is {root}")
    found = {
        f"{bind.source or 'a mount'} ({bind.propagation})": None
        for bind in _binds_oci(s)
        if bind.propagation
    }
    return fails_if(found, listed([*found]))


# ---- namespaces ----------------------------------------------------------------------------------


def _namespaces(s: Subject) -> dict[str, str]:
    """Paths of the namespaces by kind."""
    found = sections(s.spec, "linux", "namespaces")
    return {text(entry, "type"): text(entry, "path") for entry in found}


def _mode_is_host(field: str) -> Predicate:
    def look(s: Subject) -> Verdict:
        return fails_if(text(s.inspected, "HostConfig", field) == "host", f"{field} is host")

    return look


def _namespace_is_host(kind: str) -> Predicate:
    def look(s: Subject) -> Verdict:
        found = _namespaces(s)
        if kind not in found:
            return failed(f"no {kind} namespace of its own")
        return fails_if(_HOST_NAMESPACE.search(found[kind]), f"{kind} namespace {found[kind]}")

    return look


def _cgroups_docker(s: Subject) -> Verdict:
    if s.host.cgroup2 is None:
        return unknown("the version of the host's cgroups is not known")
    if not s.host.cgroup2:
        return not_applicable("the host has cgroups of version 1")
    return _mode_is_host("CgroupnsMode")(s)


def _cgroups_oci(s: Subject) -> Verdict:
    if s.host.cgroup2 is None:
        return unknown("the version of the host's cgroups is not known")
    if not s.host.cgroup2:
        return not_applicable("the host has cgroups of version 1")
    return _namespace_is_host("cgroup")(s)


def _joined_docker(s: Subject) -> Verdict:
    joined = [
        f"{name} {mode}"
        for name in ("NetworkMode", "PidMode", "IpcMode")
        if (mode := text(s.inspected, "HostConfig", name)).startswith("container:")
    ]
    return fails_if(joined, listed(joined))


def _joined_oci(s: Subject) -> Verdict:
    found = _namespaces(s)
    if any(note in section(s.spec, "annotations") for note in _POD_NOTES):
        return not_applicable("part of a pod, whose containers share namespaces")
    joined = [
        f"{kind} {path}"
        for kind in ("network", "pid", "ipc")
        if _OF_A_PROCESS.match(path := found.get(kind, "")) and not _HOST_NAMESPACE.search(path)
    ]
    return fails_if(joined, listed(joined))


# ---- the network ---------------------------------------------------------------------------------


def _published(s: Subject) -> Iterator[tuple[str, str, int | None]]:
    """(port in the container, address of the host, its port); None: the engine chooses one."""
    for place in (("NetworkSettings", "Ports"), ("HostConfig", "PortBindings")):
        for inner in section(s.inspected, *place):
            for bind in sections(s.inspected, *place, inner):
                outer = text(bind, "HostPort")
                number_ = int(outer) if outer.isascii() and outer.isdigit() else None
                yield inner, text(bind, "HostIp"), number_


def _low_ports(s: Subject) -> Verdict:
    found = {
        f"{outer} for {inner}": None
        for inner, _, outer in _published(s)
        if outer is not None and outer in _PRIVILEGED_PORTS
    }
    return fails_if(found, listed([*found]))


def _everywhere(s: Subject) -> Verdict:
    found = {
        f"{inner} on {address or _EVERYWHERE}:{outer or '(any port)'}": None
        for inner, address, outer in _published(s)
        if address in _ANYWHERE
    }
    return fails_if(found, listed([*found]))


def _all_ports(s: Subject) -> Verdict:
    return fails_if(flag(s.inspected, "HostConfig", "PublishAllPorts"), "PublishAllPorts is true")


def _default_network(s: Subject) -> Verdict:
    mode = text(s.inspected, "HostConfig", "NetworkMode")
    return fails_if(mode in ("", "default", "bridge"), f"network: {mode or 'default'}", mode)


for _number, _writable in (("5.6", False), ("5.6w", True)):
    by_container(
        _number,
        _sensitive(_binds_docker, writable=_writable),
        _sensitive(_binds_oci, writable=_writable),
        needs="Mounts",
        oci_needs="mounts",
    )
by_container("5.8", _low_ports, needs="HostConfig.PortBindings", lacks=_NO_PORTS)
by_container("5.9", _all_ports, needs="HostConfig.PublishAllPorts", lacks=_NO_PORTS)
by_container("5.14", _everywhere, needs="HostConfig.PortBindings", lacks=_NO_PORTS)
for _number, _field, _kind in (
    ("5.10", "NetworkMode", "network"), ("5.16", "PidMode", "pid"), ("5.17", "IpcMode", "ipc"),
    ("5.21", "UTSMode", "uts"),
):  # fmt: skip
    by_container(
        _number, _mode_is_host(_field), _namespace_is_host(_kind), needs=f"HostConfig.{_field}"
    )
by_container(
    "5.20", _propagation_docker, _propagation_oci, needs="Mounts", oci_needs="mounts linux"
)
by_container(
    "5.30",
    _default_network,
    needs="HostConfig.NetworkMode",
    lacks="config.json does not say which network it is",
)
by_container(
    "5.32", _sockets(_binds_docker), _sockets(_binds_oci), needs="Mounts", oci_needs="mounts"
)
by_container("X2", _cgroups_docker, _cgroups_oci, needs="HostConfig.CgroupnsMode")
by_container(
    "X5",
    _joined_docker,
    _joined_oci,
    needs="HostConfig.NetworkMode HostConfig.PidMode HostConfig.IpcMode",
)
