"""Checks of how a container runs: limits, restarts, health, what it executes, its environment."""

from __future__ import annotations

import re

from sensor.images.compliance.check import (
    Verdict,
    by_container,
    failed,
    fails_if,
    not_applicable,
    passed,
    unknown,
)
from sensor.images.compliance.secrets import secret_names
from sensor.images.compliance.subject import Subject
from sensor.images.compliance.values import (
    flag,
    items,
    listed,
    number,
    section,
    shorten,
    text,
    texts,
)

_SSH = frozenset({"sshd", "dropbear"})
# What is executed in an argument, which may be a line for a shell.
_COMMAND = re.compile(r"(?:^|[;&|(])\s*(?:(?:exec|nohup|setsid|sudo)\s+)*([^\s;&|()'\"]+)")
_RETRIES = range(1, 6)
_DEFAULT_SHARES = (None, 0, 1024)
_OWN_SYSCTL = re.compile(r"kernel\.(?:shm\w+|shm_\w+|msg\w+|sem|domainname)$")
_KERNEL = "kernel."
_OOM_MIN = -900
# Where runtimes put containers of their own accord.
_CGROUPS = re.compile(
    r"^(?:/docker/|/libpod_parent/|/machine\.slice/|/default/|/k8s\.io/|/moby/|/kubepods|"
    r"/?system\.slice(?::|/docker-)|/?user\.slice|machine\.slice:|kubepods)"
)
_NAMED_BY = ("io.kubernetes.cri.image-name", "io.kubernetes.cri-o.ImageName")
_DIGEST = re.compile(r"(?:sha256:)?[0-9a-f]{12,64}")


# ---- limits --------------------------------------------------------------------------------------


def _memory_docker(s: Subject) -> Verdict:
    return fails_if((number(s.inspected, "HostConfig", "Memory") or 0) <= 0, "Memory is not set")


def _memory_oci(s: Subject) -> Verdict:
    limit = number(s.spec, "linux", "resources", "memory", "limit") or 0
    return fails_if(limit <= 0, "linux.resources.memory.limit is not set")


def _cpu_docker(s: Subject) -> Verdict:
    host = section(s.inspected, "HostConfig")
    limits = [number(host, name) or 0 for name in ("NanoCpus", "CpuQuota")]
    free = number(host, "CpuShares") in _DEFAULT_SHARES and max(limits) <= 0
    return fails_if(free, "neither CpuShares nor NanoCpus nor CpuQuota is set")


def _cpu_oci(s: Subject) -> Verdict:
    cpu = section(s.spec, "linux", "resources", "cpu")
    free = number(cpu, "shares") in _DEFAULT_SHARES and (number(cpu, "quota") or 0) <= 0
    return fails_if(free, "neither cpu.shares nor cpu.quota is set")


def _pids_docker(s: Subject) -> Verdict:
    limit = number(s.inspected, "HostConfig", "PidsLimit") or 0
    return fails_if(limit <= 0, "PidsLimit is not set")


def _pids_oci(s: Subject) -> Verdict:
    limit = number(s.spec, "linux", "resources", "pids", "limit") or 0
    return fails_if(limit <= 0, "linux.resources.pids.limit is not set")


def _ulimits_docker(s: Subject) -> Verdict:
    return fails_if(not items(s.inspected, "HostConfig", "Ulimits"), "none is set")


def _ulimits_oci(s: Subject) -> Verdict:
    return fails_if(not items(s.spec, "process", "rlimits"), "process.rlimits is empty")


def _root_docker(s: Subject) -> Verdict:
    return fails_if(
        not flag(s.inspected, "HostConfig", "ReadonlyRootfs"), "ReadonlyRootfs is not set"
    )


def _root_oci(s: Subject) -> Verdict:
    return fails_if(not flag(s.spec, "root", "readonly"), "root.readonly is not set")


def _oom_docker(s: Subject) -> Verdict:
    if flag(s.inspected, "HostConfig", "OomKillDisable"):
        return failed("OomKillDisable is set")
    score = number(s.inspected, "HostConfig", "OomScoreAdj") or 0
    return fails_if(score < _OOM_MIN, f"OomScoreAdj is {score}")


def _oom_oci(s: Subject) -> Verdict:
    if flag(s.spec, "linux", "resources", "memory", "disableOOMKiller"):
        return failed("memory.disableOOMKiller is set")
    score = number(s.spec, "process", "oomScoreAdj") or 0
    return fails_if(score < _OOM_MIN, f"process.oomScoreAdj is {score}")


def _of_the_kernel(names: list[str]) -> Verdict:
    found = [n for n in names if n.startswith(_KERNEL) and not _OWN_SYSCTL.match(n)]
    return fails_if(found, listed(found))


def _sysctl_docker(s: Subject) -> Verdict:
    return _of_the_kernel([str(name) for name in section(s.inspected, "HostConfig", "Sysctls")])


def _sysctl_oci(s: Subject) -> Verdict:
    return _of_the_kernel([str(name) for name in section(s.spec, "linux", "sysctl")])


def _cgroup_docker(s: Subject) -> Verdict:
    parent = text(s.inspected, "HostConfig", "CgroupParent")
    return fails_if(parent, f"CgroupParent is {shorten(parent)}")


def _cgroup_oci(s: Subject) -> Verdict:
    path = text(s.spec, "linux", "cgroupsPath")
    return fails_if(path and not _CGROUPS.match(path), f"cgroupsPath is {shorten(path)}")


# ---- what runs, and how long ---------------------------------------------------------------------


def _ssh(words: list[str]) -> Verdict:
    found = [
        part for word in words for part in _COMMAND.findall(word) if part.rpartition("/")[2] in _SSH
    ]
    return fails_if(found, listed(found))


def _ssh_docker(s: Subject) -> Verdict:
    if "Path" in s.inspected or "Args" in s.inspected:
        return _ssh([text(s.inspected, "Path"), *texts(s.inspected, "Args")])
    config = section(s.inspected, "Config")
    words = [*texts(config, "Entrypoint"), *texts(config, "Cmd")]
    return _ssh(words) if words else unknown("the inspection does not say what is executed")


def _ssh_oci(s: Subject) -> Verdict:
    return _ssh(texts(s.spec, "process", "args"))


def _restart(s: Subject) -> Verdict:
    policy = section(s.inspected, "HostConfig", "RestartPolicy")
    name, most = text(policy, "Name"), number(policy, "MaximumRetryCount") or 0
    bounded = name in ("", "no") or (name == "on-failure" and most in _RETRIES)
    return fails_if(not bounded, f"{shorten(name)}, {most or 'any number of'} retries", name)


def _health(s: Subject) -> Verdict:
    test = texts(s.inspected, "Config", "Healthcheck", "Test")
    return fails_if(not test or test[0] == "NONE", "disabled" if test else "none is set")


def _runtime_oci(s: Subject) -> Verdict:
    if not s.host.gated_runtimes:
        return not_applicable("no runtime of this host is a gate")
    return unknown("config.json does not name the runtime")


def _runtime_docker(s: Subject) -> Verdict:
    if not s.host.gated_runtimes:
        return not_applicable("no runtime of this host is a gate")
    name = text(s.inspected, "HostConfig", "Runtime")
    return fails_if(name not in s.host.gated_runtimes, f"runtime: {shorten(name) or 'none'}", name)


# ---- names and secrets ---------------------------------------------------------------------------


def _version(reference: str) -> Verdict:
    reference = reference.strip()
    if not reference:
        return unknown("how the container names its image is not known")
    if "@" in reference or _DIGEST.fullmatch(reference):
        return passed(f"{shorten(reference)}: by digest")
    tag = reference.rpartition("/")[2].partition(":")[2]
    return fails_if(tag in ("", "latest"), f"{shorten(reference)}: no version", shorten(reference))


def _version_docker(s: Subject) -> Verdict:
    return _version(text(s.inspected, "Config", "Image") or s.reference)


def _version_oci(s: Subject) -> Verdict:
    notes = section(s.spec, "annotations")
    said = next((found for name in _NAMED_BY if (found := text(notes, name))), "")
    return _version(said or s.reference)


def _secrets_docker(s: Subject) -> Verdict:
    return _secrets(texts(s.inspected, "Config", "Env"))


def _secrets_oci(s: Subject) -> Verdict:
    return _secrets(texts(s.spec, "process", "env"))


def _secrets(environment: list[str]) -> Verdict:
    found = secret_names(environment)
    return fails_if(found, listed(found))


by_container("5.7", _ssh_docker, _ssh_oci, oci_needs="process.args")
by_container("5.11", _memory_docker, _memory_oci, needs="HostConfig.Memory")
by_container("5.12", _cpu_docker, _cpu_oci, needs="HostConfig.CpuShares")
by_container("5.13", _root_docker, _root_oci, needs="HostConfig.ReadonlyRootfs", oci_needs="root")
by_container(
    "5.15", _restart, needs="HostConfig.RestartPolicy", lacks="config.json says nothing of restarts"
)
by_container("5.19", _ulimits_docker, _ulimits_oci, needs="HostConfig.Ulimits", oci_needs="process")
by_container("5.25", _cgroup_docker, _cgroup_oci, needs="HostConfig.CgroupParent")
by_container("5.27", _health, needs="Config", lacks="config.json says nothing of health checks")
by_container("5.28", _version_docker, _version_oci, oci_needs="")
by_container("5.29", _pids_docker, _pids_oci, needs="HostConfig.PidsLimit")
by_container("597", _secrets_docker, _secrets_oci, needs="Config.Env", oci_needs="process")
by_container("X3", _oom_docker, _oom_oci, needs="HostConfig.OomScoreAdj", oci_needs="process linux")
by_container("X4", _sysctl_docker, _sysctl_oci, needs="HostConfig")
by_container("X6", _runtime_docker, _runtime_oci, needs="HostConfig", oci_needs="")
