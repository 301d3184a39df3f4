"""Compliance checks: each fails and passes in every shape a container is told in."""

from __future__ import annotations

import copy
import datetime as dt
from collections.abc import Mapping
from typing import Any

import pytest

from sensor.containers.container import Container, Image
from sensor.images.admission.start import Start
from sensor.images.compliance.check import Status, defined, run
from sensor.images.compliance.facts import ImageFacts
from sensor.images.compliance.judge import evaluate
from sensor.images.compliance.subject import HostFacts, Subject, Wishes
from sensor.images.package import Omission
from sensor.rules.checks import CHECKS

HOST = HostFacts(
    apparmor=True, selinux=True, cgroup2=True, userns_remap=True, no_new_privileges=False,
    security_updates=(), gated_runtimes=("rote",),
)  # fmt: skip
WISHES = Wishes(365, ("registry.example/*",), ("/usr/bin/su",), dt.date(2026, 11, 25))

# A container as it should be, as Docker tells it.
DOCKER: dict[str, Any] = {
    "Id": "c" * 64,
    "Name": "/web",
    "Path": "/app",
    "Args": ["--serve"],
    "AppArmorProfile": "docker-default",
    "ProcessLabel": "system_u:system_r:container_t:s0",
    "Mounts": [
        {"Type": "bind", "Source": "/srv/web", "Destination": "/srv", "RW": True,
         "Propagation": "rprivate"},
        {"Type": "volume", "Source": "/var/lib/docker/volumes/a/_data", "Destination": "/d",
         "RW": True, "Propagation": ""},
    ],
    "Config": {
        "User": "1000:1000",
        "Env": ["PATH=/bin", "DB_PASSWORD_FILE=/run/secrets/db", "MODE=fast"],
        "Image": "registry.example/web:1.2",
        "Healthcheck": {"Test": ["CMD", "/app", "--health"]},
    },
    "HostConfig": {
        "Privileged": False, "CapAdd": ["NET_BIND_SERVICE"], "CapDrop": ["ALL"],
        "SecurityOpt": ["no-new-privileges:true", "seccomp=/etc/profile.json"],
        "NetworkMode": "shop", "PidMode": "", "IpcMode": "private", "UTSMode": "",
        "UsernsMode": "", "CgroupnsMode": "private", "CgroupParent": "", "Memory": 1 << 28,
        "CpuShares": 512, "NanoCpus": 0, "CpuQuota": 0, "PidsLimit": 100, "ReadonlyRootfs": True,
        "PortBindings": {"80/tcp": [{"HostIp": "10.0.0.1", "HostPort": "8080"}]},
        "PublishAllPorts": False, "RestartPolicy": {"Name": "on-failure", "MaximumRetryCount": 5},
        "Devices": [], "DeviceRequests": None, "DeviceCgroupRules": None,
        "Ulimits": [{"Name": "nofile", "Soft": 1024, "Hard": 1024}], "Binds": None,
        "OomKillDisable": False, "OomScoreAdj": 0, "Sysctls": {"net.core.somaxconn": "1024"},
        "MaskedPaths": ["/proc/kcore"], "ReadonlyPaths": ["/proc/sys"], "Runtime": "rote",
    },
    "NetworkSettings": {"Ports": {"80/tcp": [{"HostIp": "10.0.0.1", "HostPort": "8080"}]}},
}  # fmt: skip
# The same as a runtime is told it.
OCI: dict[str, Any] = {
    "ociVersion": "1.0.2",
    "process": {
        "args": ["/app", "--serve"], "user": {"uid": 1000, "gid": 1000},
        "env": ["PATH=/bin", "MODE=fast"], "noNewPrivileges": True, "oomScoreAdj": 0,
        "capabilities": {"bounding": ["CAP_NET_BIND_SERVICE"]},
        "apparmorProfile": "docker-default", "selinuxLabel": "system_u:system_r:container_t:s0",
        "rlimits": [{"type": "RLIMIT_NOFILE", "hard": 1024, "soft": 1024}],
    },
    "root": {"path": "rootfs", "readonly": True},
    "mounts": [
        {"destination": "/proc", "type": "proc", "source": "proc", "options": ["nosuid"]},
        {"destination": "/srv", "type": "bind", "source": "/srv/web",
         "options": ["rbind", "rprivate"]},
    ],
    "annotations": {"io.kubernetes.cri.image-name": "registry.example/web:1.2"},
    "linux": {
        "namespaces": [
            {"type": kind} for kind in ("pid", "network", "ipc", "uts", "mount", "cgroup", "user")
        ],
        "resources": {
            "devices": [{"allow": False, "access": "rwm"}], "memory": {"limit": 1 << 28},
            "cpu": {"shares": 512}, "pids": {"limit": 100},
        },
        "seccomp": {"defaultAction": "SCMP_ACT_ERRNO", "syscalls": [{"names": ["read"]}]},
        "maskedPaths": ["/proc/kcore"], "readonlyPaths": ["/proc/sys"],
        "cgroupsPath": "/docker/abc", "sysctl": {"net.core.somaxconn": "1024"}, "devices": [],
    },
}  # fmt: skip
IMAGE: dict[str, Any] = {
    "Id": "sha256:" + "a" * 64,
    "RepoTags": ["registry.example/web:1.2"],
    "Created": "2026-11-01T10:00:00Z",
    "Config": {"User": "1000", "Env": ["PATH=/bin"], "Healthcheck": {"Test": ["CMD", "/app"]}},
    "History": [
        {"CreatedBy": "RUN /bin/sh -c apt-get update && apt-get install -y curl # buildkit"},
        {"CreatedBy": "COPY app /app # buildkit"},
        {"CreatedBy": "/bin/sh -c #(nop) ADD file:1234 in / "},
    ],
}
# The same as an OCI image has it.
OCI_IMAGE: dict[str, Any] = {
    "created": "2026-11-01T10:00:00Z",
    "architecture": "amd64",
    "config": {"User": "1000", "Env": ["PATH=/bin"], "Healthcheck": {"Test": ["CMD", "/app"]}},
    "history": [
        {"created_by": "/bin/sh -c #(nop) ADD file:1234 in / "},
        {"created_by": "COPY app /app # buildkit"},
    ],
    "rootfs": {"type": "layers", "diff_ids": []},
}
FACTS = ImageFacts("sha256:" + "a" * 64, ("/usr/bin/su (setuid)",), expected=9, compared=9,
                   hash_list="x")  # fmt: skip


def changed(document: Mapping[str, Any], path: str, value: Any) -> dict[str, Any]:
    """A copy in which something is otherwise."""
    copied: dict[str, Any] = copy.deepcopy(dict(document))
    *way, last = path.split(".")
    inner = copied
    for name in way:
        inner = inner[name]
    if value is ...:
        del inner[last]
    else:
        inner[last] = value
    return copied


def without_namespace(kind: str) -> list[dict[str, str]]:
    """All but one."""
    return [entry for entry in OCI["linux"]["namespaces"] if entry["type"] != kind]


def verdict(number: str, **subject: Any) -> tuple[str, str]:
    """How a check comes out, and why."""
    found = run(CHECKS[number], Subject(**{"host": HOST, "wishes": WISHES, **subject}))
    return str(found.status), found.evidence


def bind(source: str, *, rw: bool = True, propagation: str = "rprivate") -> list[dict[str, Any]]:
    """Docker's mounts."""
    return [{"Type": "bind", "Source": source, "RW": rw, "Propagation": propagation}]


def oci_bind(source: str, *options: str) -> list[dict[str, Any]]:
    """A runtime's mounts."""
    return [{"type": "bind", "source": source, "options": ["rbind", *options]}]


H = "HostConfig."
DOCKER_WRONG: list[tuple[str, str, Any, str]] = [
    ("5.2", "AppArmorProfile", "unconfined", "profile: unconfined"),
    ("5.2", "AppArmorProfile", "", "profile: none"),
    ("5.3", "ProcessLabel", "", "no label"),
    ("5.3", H + "SecurityOpt", ["label=disable"], "label=disable"),
    ("5.3", H + "SecurityOpt", ["label:disable"], "label=disable"),
    ("5.4", H + "CapAdd", ["cap_sys_admin", "CHOWN"], "added: SYS_ADMIN"),
    ("5.4", H + "CapAdd", ["ALL"], "added: ALL"),
    ("5.4", H + "Privileged", True, "privileged: all"),
    ("5.5", H + "Privileged", True, "HostConfig.Privileged is true"),
    ("5.6", "Mounts", bind("/etc/", rw=False), "/etc (ro)"),
    ("5.6", "Mounts", bind("//usr/../etc/.", rw=False), "/etc (ro)"),
    ("5.6", H + "Binds", ["/boot:/b:ro"], "/boot (ro)"),
    ("5.6w", "Mounts", bind("/"), "/ (rw)"),
    ("5.6w", H + "Binds", ["/root:/r"], "/root (rw)"),
    ("5.6w", H + "Mounts", [{"Type": "bind", "Source": "/var"}], "/var (rw)"),
    ("5.7", "Path", "/usr/sbin/sshd", "/usr/sbin/sshd"),
    ("5.7", "Args", ["-c", "mkdir /run/sshd; exec /usr/sbin/sshd -D"], "/usr/sbin/sshd"),
    ("5.8", H + "PortBindings", {"80/tcp": [{"HostIp": "10.0.0.1", "HostPort": "80"}]},
     "80 for 80/tcp"),
    ("5.8", "NetworkSettings.Ports", {"9/udp": [{"HostIp": "10.0.0.1", "HostPort": "1023"}]},
     "1023 for 9/udp"),
    ("5.9", H + "PublishAllPorts", True, "PublishAllPorts is true"),
    ("5.10", H + "NetworkMode", "host", "NetworkMode is host"),
    ("5.11", H + "Memory", 0, "Memory is not set"),
    ("5.12", H + "CpuShares", 0, "neither CpuShares nor NanoCpus nor CpuQuota is set"),
    ("5.12", H + "CpuShares", 1024, "neither CpuShares nor NanoCpus nor CpuQuota is set"),
    ("5.13", H + "ReadonlyRootfs", False, "ReadonlyRootfs is not set"),
    ("5.14", H + "PortBindings", {"80/tcp": [{"HostIp": "", "HostPort": "8080"}]},
     "80/tcp on 0.0.0.0:8080"),
    ("5.14", "NetworkSettings.Ports", {"80/tcp": [{"HostIp": "::", "HostPort": "8080"}]},
     "80/tcp on :::8080"),
    ("5.15", H + "RestartPolicy", {"Name": "always", "MaximumRetryCount": 0},
     "always, any number of retries"),
    ("5.15", H + "RestartPolicy", {"Name": "on-failure", "MaximumRetryCount": 9},
     "on-failure, 9 retries"),
    ("5.15", H + "RestartPolicy", {"Name": "on-failure", "MaximumRetryCount": 0},
     "on-failure, any number of retries"),
    ("5.16", H + "PidMode", "host", "PidMode is host"),
    ("5.17", H + "IpcMode", "host", "IpcMode is host"),
    ("5.18", H + "Devices", [{"PathOnHost": "/dev/sda"}], "/dev/sda"),
    ("5.18", H + "DeviceRequests", [{"Driver": "nvidia"}], "driver nvidia"),
    ("5.18", H + "DeviceCgroupRules", ["b 8:* rwm"], "rule b 8:* rwm"),
    ("5.18", H + "Privileged", True, "privileged: every device"),
    ("5.19", H + "Ulimits", None, "none is set"),
    ("5.20", "Mounts", bind("/srv", propagation="rshared"), "/srv (rshared)"),
    ("5.20", H + "Binds", ["/srv:/s:shared"], "/srv (shared)"),
    ("5.21", H + "UTSMode", "host", "UTSMode is host"),
    ("5.22", H + "SecurityOpt", ["seccomp=unconfined"], "seccomp=unconfined"),
    ("5.22", H + "SecurityOpt", ["seccomp:unconfined"], "seccomp=unconfined"),
    ("5.22", H + "Privileged", True, "privileged: no profile holds"),
    ("5.25", H + "CgroupParent", "/mine", "CgroupParent is /mine"),
    ("5.26", H + "SecurityOpt", [], "no-new-privileges is not set"),
    ("5.26", H + "SecurityOpt", ["no-new-privileges=false"], "no-new-privileges=false"),
    ("5.27", "Config.Healthcheck", ..., "none is set"),
    ("5.27", "Config.Healthcheck", {"Test": ["NONE"]}, "disabled"),
    ("5.28", "Config.Image", "localhost:5000/web", "localhost:5000/web: no version"),
    ("5.28", "Config.Image", "web:latest", "web:latest: no version"),
    ("5.29", H + "PidsLimit", None, "PidsLimit is not set"),
    ("5.29", H + "PidsLimit", -1, "PidsLimit is not set"),
    ("5.30", H + "NetworkMode", "default", "network: default"),
    ("5.30", H + "NetworkMode", "bridge", "network: bridge"),
    ("5.31", H + "UsernsMode", "host", "UsernsMode is host"),
    ("5.32", "Mounts", bind("/var/run/docker.sock", rw=False), "/var/run/docker.sock"),
    ("5.32", "Mounts", bind("/run/containerd/containerd.sock"), "/run/containerd/containerd.sock"),
    ("596", H + "CapDrop", None, "NET_RAW is not dropped"),
    ("596", H + "CapAdd", ["ALL"], "NET_RAW is added"),
    ("596", H + "Privileged", True, "privileged: all capabilities"),
    ("597", "Config.Env", ["DB_PASSWORD=hunter2"], "DB_PASSWORD (by its name)"),
    ("597", "Config.Env", ["X=AKIAIOSFODNN7EXAMPLE"], "X (an AWS key)"),
    ("599", "Config.User", "", "user: not set, so root"),
    ("599", "Config.User", "00:1000", "user: 00:1000"),
    ("X1", H + "MaskedPaths", [], "empty: MaskedPaths"),
    ("X1", H + "ReadonlyPaths", [], "empty: ReadonlyPaths"),
    ("X1", H + "Privileged", True, "privileged: nothing is masked"),
    ("X2", H + "CgroupnsMode", "host", "CgroupnsMode is host"),
    ("X3", H + "OomKillDisable", True, "OomKillDisable is set"),
    ("X3", H + "OomScoreAdj", -1000, "OomScoreAdj is -1000"),
    ("X4", H + "Sysctls", {"kernel.core_pattern": "|/x", "kernel.shmmax": "1"},
     "kernel.core_pattern"),
    ("X5", H + "NetworkMode", "container:db", "NetworkMode container:db"),
    ("X5", H + "PidMode", "container:db", "PidMode container:db"),
    ("X6", H + "Runtime", "runc", "runtime: runc"),
]  # fmt: skip
P, L = "process.", "linux."
OCI_WRONG: list[tuple[str, str, Any, str]] = [
    ("5.2", P + "apparmorProfile", ..., "profile: none"),
    ("5.3", P + "selinuxLabel", "", "no label"),
    ("5.4", P + "capabilities.bounding", ["CAP_SYS_PTRACE"], "beyond the default: SYS_PTRACE"),
    ("5.6", "mounts", oci_bind("/etc", "ro"), "/etc (ro)"),
    ("5.6w", "mounts", oci_bind("/etc"), "/etc (rw)"),
    ("5.7", P + "args", ["/usr/sbin/dropbear"], "/usr/sbin/dropbear"),
    ("5.10", L + "namespaces", without_namespace("network"), "no network namespace of its own"),
    ("5.10", L + "namespaces", [{"type": "network", "path": "/proc/1/ns/net"}],
     "network namespace /proc/1/ns/net"),
    ("5.10", L + "namespaces", [{"type": "network", "path": "/var/run/docker/netns/default"}],
     "network namespace /var/run/docker/netns/default"),
    ("5.11", L + "resources.memory", ..., "linux.resources.memory.limit is not set"),
    ("5.11", L + "resources.memory.limit", -1, "linux.resources.memory.limit is not set"),
    ("5.12", L + "resources.cpu", {"shares": 1024}, "neither cpu.shares nor cpu.quota is set"),
    ("5.13", "root.readonly", ..., "root.readonly is not set"),
    ("5.16", L + "namespaces", without_namespace("pid"), "no pid namespace of its own"),
    ("5.17", L + "namespaces", without_namespace("ipc"), "no ipc namespace of its own"),
    ("5.18", L + "devices", [{"path": "/dev/sda"}, {"path": "/dev/null"}], "/dev/sda"),
    ("5.19", P + "rlimits", ..., "process.rlimits is empty"),
    ("5.20", "mounts", oci_bind("/srv", "rshared"), "/srv (rshared)"),
    ("5.20", L + "rootfsPropagation", "rshared", "linux.rootfsPropagation is rshared"),
    ("5.21", L + "namespaces", without_namespace("uts"), "no uts namespace of its own"),
    ("5.22", L + "seccomp", ..., "config.json has no linux.seccomp"),
    ("5.22", L + "seccomp", {"defaultAction": "SCMP_ACT_ALLOW"}, "the profile allows everything"),
    ("5.25", L + "cgroupsPath", "/mine/x", "cgroupsPath is /mine/x"),
    ("5.26", P + "noNewPrivileges", False, "process.noNewPrivileges is not set"),
    ("5.28", "annotations", {"io.kubernetes.cri.image-name": "docker.io/library/web:latest"},
     "docker.io/library/web:latest: no version"),
    ("5.29", L + "resources.pids", ..., "linux.resources.pids.limit is not set"),
    ("5.31", L + "namespaces", without_namespace("user"),
     "no user namespace, though the daemon remaps users"),
    ("5.32", "mounts", oci_bind("/run/crio/crio.sock", "ro"), "/run/crio/crio.sock"),
    ("596", P + "capabilities.bounding", ["CAP_NET_RAW"], "NET_RAW is in the bounding set"),
    ("597", P + "env", ["GITHUB_TOKEN=abc"], "GITHUB_TOKEN (by its name)"),
    ("599", P + "user.uid", 0, "process.user.uid is 0"),
    ("X1", L + "maskedPaths", [], "empty: maskedPaths"),
    ("X2", L + "namespaces", without_namespace("cgroup"), "no cgroup namespace of its own"),
    ("X3", P + "oomScoreAdj", -950, "process.oomScoreAdj is -950"),
    ("X3", L + "resources.memory.disableOOMKiller", True, "memory.disableOOMKiller is set"),
    ("X4", L + "sysctl", {"kernel.panic": "1"}, "kernel.panic"),
    ("X5", L + "namespaces", [{"type": "network", "path": "/proc/4711/ns/net"}],
     "network /proc/4711/ns/net"),
]  # fmt: skip
IMAGE_WRONG: list[tuple[str, str, Any, str]] = [
    ("4.1", "Config.User", "root:1", "user: root:1"),
    ("4.1", "Config", None, "user: not set, so root"),
    ("4.6", "Config.Healthcheck", ..., "none"),
    ("4.7", "History", [{"CreatedBy": "/bin/sh -c apt-get update"}], "apt-get update"),
    ("4.7", "History", [{"CreatedBy": "RUN |1 A=b /bin/sh -c apk -q upgrade # buildkit"}],
     "apk -q upgrade"),
    ("4.9", "History", [{"CreatedBy": "ADD http://x/a.tgz / # buildkit"}, {"CreatedBy": "first"}],
     "ADD http://x/a.tgz /"),
    ("4.10", "History", [{"CreatedBy": "ENV API_TOKEN=abcdefgh"}],
     "ENV API_TOKEN=*** (by its name)"),
    ("420", "Created", "2024-01-01T00:00:00Z", "made on 2024-01-01, 1059 days ago"),
    ("423", "RepoTags", ["docker.io/web:1"], "docker.io/web:1 matches none of registry.example/*"),
    ("424", "Config.Env", ["URL=postgres://app:pw@db/x"], "URL (a URL with a password)"),
]  # fmt: skip
IMAGE_CHECKS = {"4.1", "4.6", "4.7", "4.8", "4.9", "4.10", "420", "422", "423", "424", "425",
                "448", "449"}  # fmt: skip
# Of these a config.json says nothing.
DOCKER_ONLY = {"5.8", "5.9", "5.14", "5.15", "5.27", "5.30", "X6"}


def test_every_check_has_a_failing_case_in_each_shape() -> None:
    """A check that is added without one is noticed; none is left out."""
    assert defined() == set(CHECKS)
    containers = set(CHECKS) - IMAGE_CHECKS
    assert {number for number, *_ in DOCKER_WRONG} == containers
    assert {number for number, *_ in OCI_WRONG} == containers - DOCKER_ONLY - {"5.5"}
    assert {number for number, *_ in IMAGE_WRONG} == IMAGE_CHECKS - {"4.8", "422", "425", "448",
                                                                     "449"}  # fmt: skip


@pytest.mark.parametrize(("number", "path", "value", "evidence"), DOCKER_WRONG)
def test_docker_fails(number: str, path: str, value: Any, evidence: str) -> None:
    """One thing is wrong, and the check says which."""
    assert verdict(number, inspected=changed(DOCKER, path, value)) == ("fail", evidence)


@pytest.mark.parametrize(("number", "path", "value", "evidence"), OCI_WRONG)
def test_oci_fails(number: str, path: str, value: Any, evidence: str) -> None:
    """The same by config.json."""
    assert verdict(number, spec=changed(OCI, path, value)) == ("fail", evidence)


def test_a_privileged_container_by_its_config() -> None:
    """All of its signs together; one alone is not enough."""
    every = ["CAP_SYS_ADMIN", "CAP_SYS_MODULE", "CAP_SYS_RAWIO", "CAP_SYS_BOOT", "CAP_SYS_PTRACE"]
    spec = changed(OCI, "process.capabilities.bounding", every)
    assert verdict("5.5", spec=spec)[0] == "pass"
    spec = changed(spec, "linux.maskedPaths", [])
    assert verdict("5.5", spec=spec)[0] == "pass"
    spec = changed(spec, "linux.resources.devices", [{"allow": True, "access": "rwm"}])
    assert verdict("5.5", spec=spec)[0] == "fail"


@pytest.mark.parametrize(("number", "path", "value", "evidence"), IMAGE_WRONG)
def test_an_image_fails(number: str, path: str, value: Any, evidence: str) -> None:
    """By Docker's inspection; by an OCI configuration where it says so as well."""
    shown = verdict(number, image=changed(IMAGE, path, value))
    assert shown == ("fail", evidence)
    names = {"Config": "config", "History": "history", "Created": "created"}
    first, _, rest = path.partition(".")
    if first not in names or value is None:
        return
    if first == "History":
        value = [{"created_by": entry["CreatedBy"]} for entry in reversed(value)]
    path = names[first] + ("." + rest if rest else "")
    assert verdict(number, image=changed(OCI_IMAGE, path, value)) == shown


@pytest.mark.parametrize("number", sorted(CHECKS))
def test_what_is_right_passes(number: str) -> None:
    """In each shape; what a config.json does not say is not known, and is not passed."""
    images: list[dict[str, Any]] = [
        {"image": IMAGE},
        {"image": OCI_IMAGE, "reference": "registry.example/web:1.2"},
    ]
    if number in IMAGE_CHECKS:
        for known in images:
            assert verdict(number, facts=FACTS, **known)[0] == "pass", known
        return
    assert verdict(number, inspected=DOCKER)[0] == "pass"
    expected = "unknown" if number in DOCKER_ONLY else "pass"
    assert verdict(number, spec=OCI)[0] == expected
    assert verdict(number, spec=OCI, inspected=DOCKER)[0] == "pass"


@pytest.mark.parametrize("number", sorted(CHECKS))
def test_what_is_not_known_does_not_pass(number: str) -> None:
    """With nothing at all, with an empty document, and with a part of one."""
    blank = HostFacts()
    for subject in (
        Subject(container_id="c", host=blank, wishes=WISHES),
        Subject(inspected={"Id": "c"}, host=blank, wishes=WISHES),
        Subject(inspected={"HostConfig": {}, "Config": {}}, host=blank, wishes=WISHES),
        Subject(spec={"ociVersion": "1"}, host=blank, wishes=WISHES),
    ):
        found = run(CHECKS[number], subject)
        # Engines leave sysctls out when there are none.
        left_out = number == "X4" and "HostConfig" in subject.inspected
        assert found.status is not Status.PASS or left_out, (number, subject)
        assert found.evidence or found.status is Status.PASS


@pytest.mark.parametrize(
    ("number", "facts", "evidence"),
    [
        ("4.8", {"set_ids": ("/usr/bin/su (setuid)", "/x (setgid)")}, "/x (setgid)"),
        ("422", {"malware": ("/bin/xmrig (miner)",)}, "/bin/xmrig (miner)"),
        ("425", {"keys": ("/root/.ssh/id_rsa",)}, "/root/.ssh/id_rsa"),
        ("448", {"altered": ("/bin/ls (coreutils)",)}, "/bin/ls (coreutils)"),
    ],
)
def test_what_lies_in_an_image(number: str, facts: dict[str, Any], evidence: str) -> None:
    """Found is found, also when not all was read; nothing found in a part is not known."""
    known: dict[str, Any] = {"expected": 9, "compared": 9, "hash_list": "x"}
    assert verdict(number, facts=ImageFacts(**{**known, **facts})) == ("fail", evidence)
    warned: dict[str, Any] = {"warnings": (Omission("/big", "not hashed"),), "complete": False}
    assert verdict(number, facts=ImageFacts(**{**known, **facts, **warned}))[0] == "fail"
    status, why = verdict(number, facts=ImageFacts(**{**known, **warned}))
    assert (status, "/big: not hashed" in why) == ("unknown", True)
    assert verdict(number)[0] == "unknown"


def test_what_the_host_lacks_is_not_asked_for() -> None:
    """No AppArmor, no SELinux, no remapped users, no cgroups of version 2, no gate."""
    bare = HostFacts(apparmor=False, selinux=False, cgroup2=False, userns_remap=False)
    for number in ("5.2", "5.3", "X2", "X6"):
        for told in ({"inspected": DOCKER}, {"spec": OCI}):
            assert verdict(number, host=bare, **told)[0] == "not-applicable"
    assert verdict("5.31", host=bare, spec=OCI)[0] == "not-applicable"
    unset = changed(DOCKER, "HostConfig.SecurityOpt", None)
    assert verdict("5.26", host=HostFacts(no_new_privileges=True), inspected=unset)[0] == "pass"
    pending = HostFacts(security_updates=("linux-image", "runc"))
    assert verdict("449", host=pending) == ("fail", "2 pending: linux-image, runc")
    for number in ("420", "422", "423", "448"):
        plain = {"facts": ImageFacts(), "wishes": Wishes(image_days=0), "image": IMAGE}
        assert verdict(number, **plain)[0] == "not-applicable"


def test_a_pod_shares_namespaces() -> None:
    """That is what a pod is; the same paths of another container fail."""
    joined = [{"type": "network", "path": "/proc/4711/ns/net"}]
    spec = changed(OCI, "linux.namespaces", joined)
    assert verdict("X5", spec=spec)[0] == "fail"
    spec["annotations"]["io.kubernetes.cri.sandbox-id"] = "s"
    assert verdict("X5", spec=spec)[0] == "not-applicable"
    named = [{"type": "network", "path": "/run/netns/cni-1"}]
    assert verdict("X5", spec=changed(OCI, "linux.namespaces", named))[0] == "pass"


def test_both_are_asked() -> None:
    """What an inspection does not say, config.json may."""
    partly = changed(DOCKER, "HostConfig.Memory", ...)
    assert verdict("5.11", inspected=partly)[0] == "unknown"
    assert verdict("5.11", inspected=partly, spec=OCI)[0] == "pass"


def test_from_a_start() -> None:
    """What a gate knows is what is judged."""
    image = Image("web", "latest", "sha256:" + "d" * 64, "sha256:" + "a" * 64)
    start = Start(Container("c" * 64, "docker", "web", image), "runtime", OCI, DOCKER)
    subject = Subject.from_start(start, IMAGE, FACTS, host=HOST)
    assert subject.reference == "web:latest@sha256:" + "d" * 64
    assert (subject.name, subject.image_id, subject.spec) == ("web", image.id, OCI)
    found = {result.check.id: result.status for result in evaluate(subject)}
    assert found["5.5"] is Status.PASS
    assert set(found) == set(CHECKS)
