"""The compliance checks that rules may name: what each is about, and which standards ask for it.

What a check looks at is in ``sensor.images.compliance``; here is only what rules, people and
reports need of it.

Sources: the numbers are those of CIS Docker Benchmark 1.6.0, sections 4 and 5; aliases are the
numbers that other scanners know the same checks by. Sections of NIST SP 800-190 are those of its
countermeasures (4.x); of PCI DSS those of version 4.0.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from sensor.yamlfiles import nearest

LEVELS = ("low", "medium", "high", "critical")
OWN_CHECKS = Path("/etc/rote/checks.d")  # where people put their own
CUSTOM_FROM = 9000  # numbers of checks that people write themselves
_CUSTOM_NAME = re.compile(r"[a-z][a-z0-9]*(?:[-_.][a-z0-9]+)*")
CIS, NIST, PCI = "CIS Docker 1.6.0", "NIST SP 800-190", "PCI DSS 4.0"


@dataclass(frozen=True, slots=True)
class Check:
    """What a check is about.

    Attributes:
        id: the number of the CIS benchmark (``5.4``), or our own (``X1``, ``597``).
        alias: another number it is known by; "" for none.
        severity: low, medium, high or critical.
        title: what is wrong where it fails, in a few words.
        why: what that allows.
        remedy: what to do.
        standards: which ask for it, each as (standard, section).
    """

    id: str
    alias: str
    severity: str
    title: str
    why: str = ""
    remedy: str = ""
    standards: tuple[tuple[str, str], ...] = ()

    @property
    def rank(self) -> int:
        """Of the severity: the higher the worse."""
        return LEVELS.index(self.severity)


def _check(  # noqa: PLR0917 - rows of a table
    number: str, alias: str, severity: str, title: str, why: str, remedy: str, *, nist: str = "",
    pci: str = "",
) -> Check:  # fmt: skip
    numbered = number.removesuffix("w")
    standards = [
        (CIS, numbered if "." in numbered else ""),
        *((NIST, section) for section in nist.split()),
        *((PCI, section) for section in pci.split()),
    ]
    given = tuple((name, section) for name, section in standards if section)
    return Check(number, alias, severity, title, why, remedy, given)


_ROWS = (
    _check(
        "4.1", "41", "high", "image runs as root",
        "Who breaks into the program is root in the container, one mistake away from the host.",
        "Put USER with a number or name other than root into the Dockerfile.",
        nist="4.1.2", pci="2.2.6 7.2.2",
    ),
    _check(
        "4.6", "406", "low", "image has no health check",
        "Nobody notices that the service hangs.",
        "Put HEALTHCHECK into the Dockerfile.",
        nist="4.1.2",
    ),
    _check(
        "4.7", "407", "low", "package lists updated in a step of its own",
        "The step is cached: later builds install old versions though they seem to update.",
        "Update and install in one RUN.",
        nist="4.1.1 4.1.2", pci="6.3.3",
    ),
    _check(
        "4.8", "408", "low", "setuid or setgid files in the image",
        "Each is a way to other rights for whoever runs in the container.",
        "chmod a-s in the Dockerfile, or set no-new-privileges.",
        nist="4.1.2", pci="2.2.4 7.2.2",
    ),
    _check(
        "4.9", "409", "low", "ADD in place of COPY",
        "ADD fetches URLs and unpacks archives: what comes in is not what was checked.",
        "Use COPY.",
        nist="4.1.2",
    ),
    _check(
        "4.10", "410", "high", "secret in the image's history",
        "Whoever may pull the image reads it.",
        "Hand secrets to builds with RUN --mount=type=secret; change the one that was exposed.",
        nist="4.1.4", pci="8.6.2 8.3.2",
    ),
    _check(
        "5.2", "51", "high", "no AppArmor profile",
        "The host's files in /proc and /sys, mounts and more are kept from it by one layer less.",
        "Remove --security-opt apparmor=unconfined and --privileged.",
        nist="4.4.3", pci="2.2.6",
    ),
    _check(
        "5.3", "52", "medium", "no SELinux label",
        "Nothing but permission bits stands between the container and the host's files.",
        "Remove --security-opt label=disable; run the daemon with --selinux-enabled.",
        nist="4.4.3", pci="2.2.6",
    ),
    _check(
        "5.4", "53", "high", "capabilities beyond the default",
        "Each capability is a part of root on the host's kernel.",
        "Remove --cap-add; drop all and add back what is needed.",
        nist="4.4.3", pci="2.2.6 7.2.2",
    ),
    _check(
        "5.5", "54", "high", "runs privileged",
        "It has every capability and device: its root is the host's.",
        "Remove --privileged; give the one capability or device that is needed.",
        nist="4.4.3", pci="2.2.6 7.2.2",
    ),
    _check(
        "5.6", "55", "high", "sensitive host directory mounted",
        "The container reads what the host keeps to itself.",
        "Mount the one file or directory that is needed, read-only.",
        nist="4.5.5", pci="2.2.6 7.2.2",
    ),
    _check(
        "5.6w", "", "critical", "sensitive host directory mounted writable",
        "Whoever is in the container can change the host: its programs, accounts or start-up.",
        "Mount it read-only, or not at all.",
        nist="4.5.5", pci="2.2.6 7.2.2 11.5.2",
    ),
    _check(
        "5.7", "56", "medium", "runs an SSH server",
        "A second way in, with keys and accounts that nobody manages.",
        "Use docker exec or kubectl exec.",
        nist="4.1.2 4.4.3", pci="2.2.4",
    ),
    _check(
        "5.8", "57", "low", "publishes a privileged port",
        "Ports below 1024 are those that others trust to be the host's own services.",
        "Publish a port from 1024 on, behind a proxy.",
        nist="4.4.2", pci="1.2.5",
    ),
    _check(
        "5.9", "58", "low", "publishes all ports",
        "Whatever the image exposes can be reached, wanted or not.",
        "Publish single ports (-p) in place of -P.",
        nist="4.4.2", pci="1.2.5",
    ),
    _check(
        "5.10", "59", "high", "host network",
        "It reaches every service that listens on the host only, and sees the host's traffic.",
        "Remove --network host; publish the ports that are needed.",
        nist="4.4.2 4.4.3", pci="1.4.1 2.2.6",
    ),
    _check(
        "5.11", "5510", "medium", "no memory limit",
        "One container can take all memory, and the kernel kills others for it.",
        "Set --memory.",
        nist="4.4.3",
    ),
    _check(
        "5.12", "5511", "low", "no CPU limit or share",
        "One container can starve the others.",
        "Set --cpu-shares or --cpus.",
        nist="4.4.3",
    ),
    _check(
        "5.13", "512", "medium", "writable root file system",
        "Who breaks in can put down programs and change the service's own.",
        "Set --read-only, with --tmpfs or volumes for what is written.",
        nist="4.4.3 4.4.4", pci="11.5.2",
    ),
    _check(
        "5.14", "513", "medium", "port published on every address",
        "It is reached from every network the host is in.",
        "Name the address: -p 10.0.0.1:8080:80.",
        nist="4.4.2", pci="1.2.5 1.4.1",
    ),
    _check(
        "5.15", "514", "low", "restarts without end",
        "A service that fails over and over takes the host's time and hides its cause.",
        "Use --restart on-failure:5.",
        nist="4.4.3",
    ),
    _check(
        "5.16", "515", "high", "host processes visible",
        "It sees, and as root ends or traces, every process of the host.",
        "Remove --pid host.",
        nist="4.4.3", pci="2.2.6",
    ),
    _check(
        "5.17", "516", "high", "host IPC",
        "It reads and writes shared memory of the host's programs.",
        "Remove --ipc host.",
        nist="4.4.3", pci="2.2.6",
    ),
    _check(
        "5.18", "517", "medium", "host devices given",
        "A device is often as good as the host's root: a disk, memory, a bus.",
        "Remove --device, or give it without w and m.",
        nist="4.4.3", pci="2.2.6",
    ),
    _check(
        "5.19", "518", "low", "no resource limits (ulimits)",
        "The host's limits hold: those of open files and processes are high.",
        "Set --ulimit, or default-ulimits of the daemon.",
        nist="4.4.3",
    ),
    _check(
        "5.20", "519", "high", "mounts propagate to the host",
        "What the container mounts appears on the host.",
        "Remove :shared and :rshared from volumes.",
        nist="4.4.3 4.5.5",
    ),
    _check(
        "5.21", "520", "high", "host name shared with the host",
        "It can change the host's name.",
        "Remove --uts host.",
        nist="4.4.3",
    ),
    _check(
        "5.22", "521", "high", "no seccomp profile",
        "Every system call of the kernel can be reached, those with a history of holes too.",
        "Remove --security-opt seccomp=unconfined and --privileged.",
        nist="4.4.3", pci="2.2.6",
    ),
    _check(
        "5.25", "524", "medium", "cgroup chosen by hand",
        "The limits of another cgroup than that of containers hold for it.",
        "Remove --cgroup-parent.",
        nist="4.4.3",
    ),
    _check(
        "5.26", "5525", "high", "may gain privileges",
        "setuid programs in it work: a user in the container becomes its root.",
        "Set --security-opt no-new-privileges, or \"no-new-privileges\": true for the daemon.",
        nist="4.4.3", pci="7.2.2",
    ),
    _check(
        "5.27", "526", "low", "no health check",
        "Nobody notices that the service hangs.",
        "Set --health-cmd, or HEALTHCHECK in the image.",
        nist="4.4.3",
    ),
    _check(
        "5.28", "527", "medium", "image without a fixed version",
        "What runs today is not what ran yesterday, and nobody decided so.",
        "Name a tag other than latest, or better a digest.",
        nist="4.1.5 4.2.2", pci="6.3.2",
    ),
    _check(
        "5.29", "528", "medium", "no limit of processes",
        "A fork bomb in it stops the host.",
        "Set --pids-limit.",
        nist="4.4.3",
    ),
    _check(
        "5.30", "529", "low", "Docker's default network",
        "All containers on it reach one another.",
        "Make a network for what belongs together (docker network create).",
        nist="4.4.2", pci="1.4.1",
    ),
    _check(
        "5.31", "530", "high", "host user namespace",
        "Its root is the host's root, though the daemon remaps users.",
        "Remove --userns host.",
        nist="4.4.3", pci="7.2.2",
    ),
    _check(
        "5.32", "531", "critical", "runtime's socket mounted",
        "Who may speak to it may start a privileged container: it is root on the host.",
        "Do not mount it; put a proxy before it that allows single requests.",
        nist="4.4.3 4.5.5", pci="2.2.6 7.2.2",
    ),
    _check(
        "420", "", "low", "image is old",
        "Nobody rebuilt it: what was mended since is not in it.",
        "Build and roll out anew.",
        nist="4.1.1 4.2.2", pci="6.3.3",
    ),
    _check(
        "422", "426", "critical", "known malware or miner",
        "A program of the image is on the list of hashes.",
        "Do not run it; find out how it got into the image.",
        nist="4.1.3", pci="5.2.1 5.3.1",
    ),
    _check(
        "423", "", "high", "image is not trusted",
        "It comes from where nobody vouches for images.",
        "Take it from a trusted registry, or add it to the list.",
        nist="4.1.5", pci="6.3.2",
    ),
    _check(
        "424", "", "high", "secret in the image's environment",
        "Whoever may pull the image reads it.",
        "Hand it over at start as a file; change the one that was exposed.",
        nist="4.1.4", pci="8.6.2 8.3.2",
    ),
    _check(
        "425", "", "high", "private key in the image",
        "Whoever may pull the image has the key.",
        "Hand it over at start as a file; change the one that was exposed.",
        nist="4.1.4", pci="3.6.1 8.6.2",
    ),
    _check(
        "448", "", "high", "programs of packages were altered",
        "A program is not what the distribution delivered.",
        "Find out who changed it; build anew from clean packages.",
        nist="4.1.3 4.4.5", pci="5.2.1 11.5.2",
    ),
    _check(
        "449", "", "medium", "host lacks security updates",
        "The kernel and runtime under every container have known holes.",
        "Install the distribution's security updates.",
        nist="4.5.3", pci="6.3.3",
    ),
    _check(
        "596", "", "low", "may make raw packets (NET_RAW)",
        "It can forge packets and answer for others on its network.",
        "Set --cap-drop NET_RAW.",
        nist="4.4.2 4.4.3", pci="1.4.1",
    ),
    _check(
        "597", "", "high", "secret in the container's environment",
        "It is in docker inspect, in /proc and in every child process.",
        "Hand it over as a file (docker secret, a mounted file, NAME_FILE).",
        nist="4.1.4", pci="8.6.2 8.3.2",
    ),
    _check(
        "599", "", "high", "container runs as root",
        "Who breaks into the program is root in the container, one mistake away from the host.",
        "Set --user, or USER in the image.",
        nist="4.4.3", pci="7.2.2",
    ),
    _check(
        "X1", "", "high", "/proc and /sys not masked",
        "It reads and writes settings of the host's kernel.",
        "Remove --security-opt systempaths=unconfined and --privileged.",
        nist="4.4.3", pci="2.2.6",
    ),
    _check(
        "X2", "", "high", "host cgroups visible",
        "It sees, and with rights changes, the limits of the host's other processes.",
        "Remove --cgroupns host.",
        nist="4.4.3",
    ),
    _check(
        "X3", "", "medium", "kept from the kernel's memory killer",
        "When memory runs out something else is ended, of the host perhaps.",
        "Remove --oom-kill-disable; keep --oom-score-adj above -900.",
        nist="4.4.3",
    ),
    _check(
        "X4", "", "medium", "sets the kernel's parameters",
        "kernel.* are settings of the host's kernel.",
        "Remove --sysctl kernel.*, but for shared memory and messages.",
        nist="4.4.3",
    ),
    _check(
        "X5", "", "medium", "shares another container's namespace",
        "What holds for one does not keep the other apart from it.",
        "Remove --network, --pid or --ipc container:NAME.",
        nist="4.4.3",
    ),
    _check(
        "X6", "", "low", "runs beside the gate",
        "Another runtime than the one that asks Rote: its start is not held.",
        "Remove --runtime.",
        nist="4.4.5",
    ),
)  # fmt: skip

CHECKS: dict[str, Check] = {check.id: check for check in _ROWS}
_ALIASES = {check.alias: check.id for check in _ROWS if check.alias}


def check_id(name: str) -> str:
    """The id of a check by its id or alias; of one's own checks, the name as it is.

    Raises:
        ValueError: there is none; names the nearest.
    """
    if name in CHECKS:
        return name
    known = _ALIASES.get(name)
    if known is not None:
        return known
    upper = name.upper()
    if upper in CHECKS:
        return upper
    if is_custom(name):
        return name
    raise ValueError(
        f"{name!r} is no check{nearest(name, [*CHECKS, *_ALIASES])}; expected an id of `rote "
        f"compliance list`, or for one's own a number from {CUSTOM_FROM} on or a name"
    )


def is_custom(name: str) -> bool:
    """Whether a check of one's own may be called so."""
    if name.isascii() and name.isdigit():
        return int(name) >= CUSTOM_FROM and len(name) <= 9
    return len(name) <= 64 and _CUSTOM_NAME.fullmatch(name) is not None and name not in LEVELS


def sort_key(check: Check) -> tuple[int, tuple[tuple[int, int, str], ...]]:
    """The worst first, then by number."""
    return (-check.rank, natural(check.id))


@cache
def natural(name: str) -> tuple[tuple[int, int, str], ...]:
    """Orders 5.9 before 5.10."""
    parts: Iterable[str] = re.findall(r"\d+|\D+", name)
    return tuple((0, int(p), "") if p.isdecimal() and p.isascii() else (1, 0, p) for p in parts)


def markdown() -> str:
    """All checks as the table of docs/compliance.md."""
    lines = [
        "| id | severity | fails where | what that allows | what to do |",
        "|---|---|---|---|---|",
    ]
    for check in sorted(CHECKS.values(), key=lambda check: natural(check.id)):
        alias = f" ({check.alias})" if check.alias else ""
        cells = (check.id + alias, check.severity, check.title, check.why, check.remedy)
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"
