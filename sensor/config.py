"""What a person can tune, and how it is written."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from sensor.errors import UsageError

_DURATION = re.compile(r"(\d+(?:\.\d+)?)(ms|s|m|h|d|w)")
_UNITS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0, "w": 604800.0}
_SIZE = re.compile(r"(\d+)([KMG]?)i?B?", re.IGNORECASE)
_FACTORS = {"": 1, "K": 1 << 10, "M": 1 << 20, "G": 1 << 30}
ATTACHMENTS = ("auto", "lsm", "fmod-ret", "tracepoint")
WRITE_PROBES = ("auto", "always", "never")
ON_ERROR = ("deny", "allow")
_RING_MIN, _RING_MAX = 64 << 10, 1 << 30


def parse_duration(text: str) -> float:
    """Seconds from "90s", "1h30m", "0".

    Raises:
        UsageError: naming the value and the accepted forms.
    """
    stripped = text.strip().lower()
    if stripped in ("0", "0.0"):
        return 0.0
    if not stripped or _DURATION.sub("", stripped):
        raise UsageError(f"duration {text!r}: expected for example 90s, 15m, 1h30m, 7d, or 0")
    return sum(float(number) * _UNITS[unit] for number, unit in _DURATION.findall(stripped))


def parse_size(text: str) -> int:
    """Bytes from "8M", "512K", "1048576".

    Raises:
        UsageError: naming the value and the accepted forms.
    """
    match = _SIZE.fullmatch(text.strip())
    if match is None:
        raise UsageError(f"size {text!r}: expected for example 512K, 8M, 1G")
    return int(match.group(1)) * _FACTORS[match.group(2).upper()]


@dataclass(frozen=True, slots=True)
class Settings:
    """Everything the daemon was told."""

    state_dir: Path = Path("/var/lib/rote")
    run_dir: Path = Path("/run/rote")
    bpf_dir: Path = Path("/sys/fs/bpf/rote")
    # Equal limits: that time decides, else the counts do between them. See docs/models.md.
    learn_min_seconds: float = 600.0
    learn_max_seconds: float = 86400.0
    dry_run_min_seconds: float = 3600.0
    dry_run_max_seconds: float = 259200.0
    max_false_alarms_per_day: float = 1.0
    archive_after_seconds: float = 86400.0
    audit_window_seconds: float = 60.0
    audit_keep: int = 1_000_000
    attach: str = "auto"
    write_probe: str = "auto"
    startup_pause: float = 30.0  # seconds without anything new that end a start-up; 0: never
    prevent: tuple[str, ...] = ()  # globs over names and images of containers
    rules: Path = Path("/etc/rote/rules.d")
    cluster: str = ""  # that this host belongs to, for the scopes of rules
    on_error: str = "deny"  # under prevention, what cannot be judged
    block_grace_seconds: float = 0.0  # how long a blocked container may take to end by itself
    evidence_quota: int = 2 << 30  # bytes of all packs of evidence
    evidence_pack_max: int = 256 << 20  # bytes of one
    evidence_seconds: float = 30.0  # how long taking one may take; a container stands still then
    canary_seconds: float = 60.0  # between two tries of what must be refused; 0: never
    ring_size: int = 8 << 20
    runtimes: tuple[str, ...] = ("auto",)
    watches: tuple[str, ...] = ()
    lock: bool = False  # guard the daemon and the pins against everybody but `rote`
    gate_fanotify: str = "off"  # auto, off, or a state directory of containerd
    discover: bool = True  # recognise containers by the names of their cgroups
    log_format: str = "text"
    log_level: str = "info"
    quiet: bool = False
    channels_dir: Path = Path("/etc/rote/channels.d")
    checks_dir: Path = Path("/etc/rote/checks.d")
    malware_file: Path = Path("/etc/rote/malware.txt")  # hashes, a line each
    feeds_file: Path = Path("/etc/rote/vulns.yaml")
    feeds_seconds: float = 86400.0  # how old feeds get before they are updated; 0: not by us

    def __post_init__(self) -> None:
        if self.attach not in ATTACHMENTS:
            raise UsageError(f"attach {self.attach!r}: expected one of {', '.join(ATTACHMENTS)}")
        if self.write_probe not in WRITE_PROBES:
            raise UsageError(
                f"write probe {self.write_probe!r}: expected one of {', '.join(WRITE_PROBES)}"
            )
        if self.on_error not in ON_ERROR:
            raise UsageError(f"on error {self.on_error!r}: expected one of {', '.join(ON_ERROR)}")
        for name, least, most in (
            ("learn", self.learn_min_seconds, self.learn_max_seconds),
            ("dry-run", self.dry_run_min_seconds, self.dry_run_max_seconds),
        ):
            if least > most:
                raise UsageError(
                    f"{name}-min {least:g} s: expected no more than {name}-max, {most:g} s"
                )
        if not self.max_false_alarms_per_day > 0:
            raise UsageError(
                f"max-false-alarms-per-day {self.max_false_alarms_per_day:g}: expected more than 0"
            )
        if not 1 << 20 <= self.evidence_pack_max <= min(self.evidence_quota, 8 << 30):
            raise UsageError(
                f"evidence pack {self.evidence_pack_max}: expected 1M to 8G, and no more than the "
                f"quota of {self.evidence_quota} bytes"
            )
        size = self.ring_size
        if size & (size - 1) or not _RING_MIN <= size <= _RING_MAX:
            raise UsageError(f"ring size {size}: expected a power of two from 64K to 1G")

    @property
    def socket(self) -> Path:
        """The control socket."""
        return self.run_dir / "control.sock"

    @property
    def gate_socket(self) -> Path:
        """Where hooks ask whether a container may run; gate.c has the name, too."""
        return self.run_dir / "gate.sock"

    @property
    def gate_dir(self) -> Path:
        """The programs that container runtimes start, and what refers to them."""
        return self.state_dir / "gate"

    @property
    def models_db(self) -> Path:
        """The store of models."""
        return self.state_dir / "models.db"

    @property
    def channels_db(self) -> Path:
        """The queue of the channels."""
        return self.state_dir / "channels.db"

    @property
    def blocked_db(self) -> Path:
        """The store of containers that are blocked or in quarantine."""
        return self.state_dir / "blocked.db"

    @property
    def evidence_dir(self) -> Path:
        """Where packs of evidence are."""
        return self.state_dir / "evidence"

    @property
    def images_db(self) -> Path:
        """What images consist of; may be removed, images are read again."""
        return self.state_dir / "images.db"

    @property
    def vulns_db(self) -> Path:
        """The store of advisories; may be removed, feeds bring it again."""
        return self.state_dir / "vulns.db"

    @property
    def vulns_told_db(self) -> Path:
        """Which vulnerabilities of which image were told."""
        return self.state_dir / "vulns-told.db"

    @property
    def audits_db(self) -> Path:
        """The store of audits."""
        return self.state_dir / "audits.db"


def parse_watch(text: str) -> str:
    """The path of a plain cgroup from "cgroup:/system.slice/x.service".

    Raises:
        UsageError: it is not written like that.
    """
    kind, colon, path = text.partition(":")
    if kind != "cgroup" or not colon or not path.strip("/"):
        raise UsageError(
            f"watch {text!r}: expected cgroup:PATH, PATH as in /proc/PID/cgroup, "
            "for example cgroup:/system.slice/nginx.service"
        )
    return "/" + path.strip("/")
