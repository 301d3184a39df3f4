"""Checks of what a container may do: capabilities, profiles, devices, users.

Sources: Docker Engine API 1.41 (``HostConfig``), OCI runtime specification 1.1 (``config.json``);
Docker's default capabilities are those of moby's ``oci/caps/defaults.go``.
"""

from __future__ import annotations

from sensor.images.compliance.check import (
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
    items,
    listed,
    number,
    section,
    sections,
    text,
    texts,
)

DEFAULT_CAPABILITIES = frozenset({
    "AUDIT_WRITE", "CHOWN", "DAC_OVERRIDE", "FOWNER", "FSETID", "KILL", "MKNOD", "NET_BIND_SERVICE",
    "NET_RAW", "SETFCAP", "SETGID", "SETPCAP", "SETUID", "SYS_CHROOT",
})  # fmt: skip
# Nothing but a privileged container has all of these.
_ALL_SIGN = frozenset({"SYS_ADMIN", "SYS_MODULE", "SYS_RAWIO", "SYS_BOOT", "SYS_PTRACE"})
# Every runtime makes these itself; who asks for one gets what is there anyway.
_USUAL_DEVICES = frozenset({
    "/dev/null", "/dev/zero", "/dev/full", "/dev/random", "/dev/urandom", "/dev/tty",
    "/dev/console", "/dev/ptmx",
})  # fmt: skip
_ROOT_NAMES = ("", "0", "root")


def capability(name: str) -> str:
    """One name of a capability, however it is written."""
    return name.strip().upper().removeprefix("CAP_")


def is_privileged(s: Subject) -> bool:
    """Whether Docker calls it so."""
    return flag(s.inspected, "HostConfig", "Privileged")


def security_options(s: Subject) -> list[tuple[str, str]]:
    """Docker's --security-opt, as (name, value); "=" and ":" are both in use."""
    found = []
    for option in texts(s.inspected, "HostConfig", "SecurityOpt"):
        cut = min((i for i in (option.find("="), option.find(":")) if i >= 0), default=len(option))
        found.append((option[:cut], option[cut + 1 :]))
    return found


def _bounding(s: Subject) -> set[str] | None:
    capabilities = section(s.spec, "process", "capabilities")
    if "bounding" not in capabilities and capabilities:
        return None
    return set(map(capability, texts(capabilities, "bounding")))


# ---- profiles ------------------------------------------------------------------------------------


def _apparmor(profile: str, s: Subject) -> Verdict:
    if s.host.apparmor is None:
        return unknown("whether the host has AppArmor is not known")
    if not s.host.apparmor:
        return not_applicable("AppArmor is not on in this host's kernel")
    return fails_if(profile in ("", "unconfined"), f"profile: {profile or 'none'}", profile)


def _apparmor_docker(s: Subject) -> Verdict:
    chosen = [value for name, value in security_options(s) if name == "apparmor"]
    profile = text(s.inspected, "AppArmorProfile") or (chosen[-1] if chosen else "")
    return _apparmor(profile, s)


def _apparmor_oci(s: Subject) -> Verdict:
    return _apparmor(text(s.spec, "process", "apparmorProfile"), s)


def _selinux(s: Subject, label: str, *, disabled: bool) -> Verdict:
    if s.host.selinux is None:
        return unknown("whether the host has SELinux is not known")
    if not s.host.selinux:
        return not_applicable("SELinux is not on in this host's kernel")
    return fails_if(disabled or not label, "label=disable" if disabled else "no label", label)


def _selinux_docker(s: Subject) -> Verdict:
    disabled = ("label", "disable") in security_options(s)
    return _selinux(s, text(s.inspected, "ProcessLabel"), disabled=disabled)


def _selinux_oci(s: Subject) -> Verdict:
    return _selinux(s, text(s.spec, "process", "selinuxLabel"), disabled=False)


def _seccomp_docker(s: Subject) -> Verdict:
    if is_privileged(s):
        return failed("privileged: no profile holds")
    return fails_if(("seccomp", "unconfined") in security_options(s), "seccomp=unconfined")


def _seccomp_oci(s: Subject) -> Verdict:
    profile = section(s.spec, "linux", "seccomp")
    if not profile:
        return failed("config.json has no linux.seccomp")
    allows = text(profile, "defaultAction") in ("SCMP_ACT_ALLOW", "SCMP_ACT_LOG")
    return fails_if(allows and not items(profile, "syscalls"), "the profile allows everything")


def _new_privileges_docker(s: Subject) -> Verdict:
    for name, value in security_options(s):
        if name == "no-new-privileges":
            return fails_if(value.strip().lower() not in ("", "true"), f"no-new-privileges={value}")
    if s.host.no_new_privileges is None:
        return unknown("not set for the container; the daemon's default is not known")
    return fails_if(not s.host.no_new_privileges, "no-new-privileges is not set", "the default")


def _new_privileges_oci(s: Subject) -> Verdict:
    return fails_if(
        not flag(s.spec, "process", "noNewPrivileges"), "process.noNewPrivileges is not set"
    )


# ---- capabilities --------------------------------------------------------------------------------


def _capabilities_docker(s: Subject) -> Verdict:
    if is_privileged(s):
        return failed("privileged: all")
    added = set(map(capability, texts(s.inspected, "HostConfig", "CapAdd")))
    beyond = sorted(added - DEFAULT_CAPABILITIES)
    return fails_if(beyond, f"added: {listed(beyond)}")


def _capabilities_oci(s: Subject) -> Verdict:
    bounding = _bounding(s)
    if bounding is None:
        return unknown("config.json has no process.capabilities.bounding")
    beyond = sorted(bounding - DEFAULT_CAPABILITIES)
    return fails_if(beyond, f"beyond the default: {listed(beyond)}")


def _raw_docker(s: Subject) -> Verdict:
    if is_privileged(s):
        return failed("privileged: all capabilities")
    added, dropped = (
        set(map(capability, texts(s.inspected, "HostConfig", name)))
        for name in ("CapAdd", "CapDrop")
    )
    if "NET_RAW" in added or ("ALL" in added and "NET_RAW" not in dropped):
        return failed("NET_RAW is added")
    return fails_if(not dropped & {"NET_RAW", "ALL"}, "NET_RAW is not dropped")


def _raw_oci(s: Subject) -> Verdict:
    bounding = _bounding(s)
    if bounding is None:
        return unknown("config.json has no process.capabilities.bounding")
    return fails_if("NET_RAW" in bounding, "NET_RAW is in the bounding set")


# ---- privileged, devices, masks ------------------------------------------------------------------


def _privileged_docker(s: Subject) -> Verdict:
    return fails_if(is_privileged(s), "HostConfig.Privileged is true")


def _privileged_oci(s: Subject) -> Verdict:
    bounding = _bounding(s)
    if bounding is None:
        return unknown("config.json has no process.capabilities.bounding")
    every_device = any(
        flag(rule, "allow")
        and {"r", "w", "m"} <= set(text(rule, "access"))
        and text(rule, "type") in ("", "a")
        and (number(rule, "major") or -1) < 0
        for rule in sections(s.spec, "linux", "resources", "devices")
    )
    masked = texts(s.spec, "linux", "maskedPaths")
    return fails_if(
        bounding >= _ALL_SIGN and not masked and every_device,
        "all capabilities, every device, nothing masked",
    )


def _devices_docker(s: Subject) -> Verdict:
    if is_privileged(s):
        return failed("privileged: every device")
    host = section(s.inspected, "HostConfig")
    given = [
        place
        for device in sections(host, "Devices")
        if (place := text(device, "PathOnHost")) not in _USUAL_DEVICES
    ]
    given += [
        f"driver {text(request, 'Driver') or '(any)'}"
        for request in sections(host, "DeviceRequests")
    ]
    given += [f"rule {rule}" for rule in texts(host, "DeviceCgroupRules")]
    return fails_if(given, listed(given))


def _devices_oci(s: Subject) -> Verdict:
    given = [
        place
        for device in sections(s.spec, "linux", "devices")
        if (place := text(device, "path")) not in _USUAL_DEVICES
    ]
    return fails_if(given, listed(given))


def _masks_docker(s: Subject) -> Verdict:
    if is_privileged(s):
        return failed("privileged: nothing is masked")
    host = section(s.inspected, "HostConfig")
    empty = [
        name for name in ("MaskedPaths", "ReadonlyPaths") if name in host and host[name] is not None
        and not texts(host, name)
    ]  # fmt: skip
    return fails_if(empty, f"empty: {listed(empty)}")


def _masks_oci(s: Subject) -> Verdict:
    empty = [name for name in ("maskedPaths", "readonlyPaths") if not texts(s.spec, "linux", name)]
    return fails_if(empty, f"empty: {listed(empty)}")


# ---- users ---------------------------------------------------------------------------------------


def is_root(user: str) -> bool:
    """Whether ``USER[:GROUP]`` is root."""
    name = user.partition(":")[0].strip()
    return name in _ROOT_NAMES or (name.isdecimal() and int(name) == 0)


def _root_docker(s: Subject) -> Verdict:
    user = text(s.inspected, "Config", "User")
    return fails_if(is_root(user), f"user: {user or 'not set, so root'}", f"user: {user}")


def _root_oci(s: Subject) -> Verdict:
    uid = number(s.spec, "process", "user", "uid")
    return fails_if(not uid, "process.user.uid is 0", f"uid {uid}")


def _userns_docker(s: Subject) -> Verdict:
    return fails_if(text(s.inspected, "HostConfig", "UsernsMode") == "host", "UsernsMode is host")


def _userns_oci(s: Subject) -> Verdict:
    if s.host.userns_remap is None:
        return unknown("whether the daemon remaps users is not known")
    if not s.host.userns_remap:
        return not_applicable("the daemon does not remap users")
    kinds = [text(entry, "type") for entry in sections(s.spec, "linux", "namespaces")]
    return fails_if("user" not in kinds, "no user namespace, though the daemon remaps users")


by_container(
    "5.2", _apparmor_docker, _apparmor_oci, needs="HostConfig.SecurityOpt", oci_needs="process"
)
by_container(
    "5.3", _selinux_docker, _selinux_oci, needs="HostConfig.SecurityOpt", oci_needs="process"
)
by_container(
    "5.4",
    _capabilities_docker,
    _capabilities_oci,
    needs="HostConfig.CapAdd HostConfig.Privileged",
    oci_needs="process",
)
by_container(
    "5.5",
    _privileged_docker,
    _privileged_oci,
    needs="HostConfig.Privileged",
    oci_needs="process linux",
)
by_container(
    "5.18", _devices_docker, _devices_oci, needs="HostConfig.Devices HostConfig.Privileged"
)
by_container(
    "5.22", _seccomp_docker, _seccomp_oci, needs="HostConfig.SecurityOpt HostConfig.Privileged"
)
by_container(
    "5.26",
    _new_privileges_docker,
    _new_privileges_oci,
    needs="HostConfig.SecurityOpt",
    oci_needs="process",
)
by_container("5.31", _userns_docker, _userns_oci, needs="HostConfig.UsernsMode")
by_container(
    "596",
    _raw_docker,
    _raw_oci,
    needs="HostConfig.CapAdd HostConfig.CapDrop HostConfig.Privileged",
    oci_needs="process",
)
by_container("599", _root_docker, _root_oci, needs="Config.User", oci_needs="process")
by_container("X1", _masks_docker, _masks_oci, needs="HostConfig.Privileged")
