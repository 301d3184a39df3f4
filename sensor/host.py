"""What this host can do, what it lacks, and the exact remedy: the answers behind `rote doctor`."""

from __future__ import annotations

import contextlib
import importlib.util
import os
import platform
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from sensor.containers.cgroups import find_hierarchy
from sensor.errors import KernelSupportError
from sensor.kernel.headers import BTF, find_bpftool
from sensor.kernel.probe import lsm_refused, trampolines_refused

OK, WARN, MISSING = "ok", "warn", "missing"
BCC_MINIMUM = (0, 26)
BPF_FS_MAGIC = "cafe4a11"
_SOCKETS = (
    ("docker", Path("/var/run/docker.sock")),
    ("podman", Path("/run/podman/podman.sock")),
    ("containerd", Path("/run/containerd/containerd.sock")),
)


@dataclass(frozen=True, slots=True)
class Finding:
    """One line of the doctor's."""

    subject: str
    state: str  # OK, WARN, MISSING
    text: str
    remedy: str = ""  # a command, where one helps


def examine(state_dir: Path, bpf_dir: Path) -> list[Finding]:
    """Everything that decides what Rote can do here. Changes nothing."""
    probes: tuple[Callable[[], Iterator[Finding]], ...] = (
        _privileges, _machine, _btf, _bcc, _bpftool, _bpf_fs, _cgroups, _lockdown, _attachment,
        _runtimes,
    )  # fmt: skip
    found = [finding for probe in probes for finding in probe()]
    found.extend(_state(state_dir))
    found.extend(_pins(bpf_dir))
    return found


def verdict(findings: list[Finding]) -> str:
    """What Rote can do here, in a sentence."""
    missing = [finding.subject for finding in findings if finding.state == MISSING]
    if missing:
        return f"Rote cannot run here yet; missing: {', '.join(missing)}."
    how = next((f.text for f in findings if f.subject == "attachment"), "")
    return f"Rote can run here. {how}"


def _privileges() -> Iterator[Finding]:
    if os.geteuid() == 0:
        yield Finding("privileges", OK, "root")
    else:
        yield Finding("privileges", MISSING, "loading BPF programs needs root", "sudo rote doctor")


def _machine() -> Iterator[Finding]:
    release, machine = platform.release(), platform.machine()
    numbers = tuple(int(n) for n in re.findall(r"\d+", release)[:2])
    if machine != "x86_64":
        yield Finding(
            "kernel",
            WARN,
            f"{release} on {machine}; Rote is tested on x86_64 only, and the tracepoint "
            "attachment knows the system calls of x86_64 only",
        )
    elif numbers < (5, 10):
        yield Finding("kernel", MISSING, f"{release}; expected 5.10 or later")
    else:
        yield Finding("kernel", OK, f"{release} on {machine}")


def _btf() -> Iterator[Finding]:
    if BTF.exists():
        yield Finding("types", OK, f"{BTF}, {BTF.stat().st_size >> 20} MiB; no headers needed")
    else:
        yield Finding(
            "types", MISSING, f"{BTF} is not there; expected a kernel with CONFIG_DEBUG_INFO_BTF"
        )


def _bcc() -> Iterator[Finding]:
    spec = importlib.util.find_spec("bcc")
    if spec is None or spec.origin is None:
        yield Finding(
            "bcc",
            MISSING,
            f"python3-bpfcc is not seen by {sys.executable}; it is tied to the distribution's "
            "Python",
            "apt-get install python3-bpfcc",
        )
        return
    folder = Path(spec.origin).parent
    if not (folder / "libbcc.py").exists():
        yield Finding(
            "bcc",
            MISSING,
            f"{folder} is another package of that name (a lattice library), not BCC",
            "pip uninstall bcc; apt-get install python3-bpfcc",
        )
        return
    text = (
        (folder / "version.py").read_text(encoding="utf-8")
        if (folder / "version.py").exists()
        else ""
    )
    match = re.search(r"(\d+)\.(\d+)", text)
    version = (int(match.group(1)), int(match.group(2))) if match else (0, 0)
    shown = ".".join(map(str, version)) if match else "of unknown version"
    if match and version < BCC_MINIMUM:
        yield Finding(
            "bcc",
            MISSING,
            f"python3-bpfcc {shown} is too old, as on Ubuntu 22.04: Rote needs 0.26 or later "
            "(Debian 12, Debian 13, Ubuntu 24.04)",
        )
    else:
        yield Finding("bcc", OK, f"python3-bpfcc {shown}")


def _bpftool() -> Iterator[Finding]:
    path = find_bpftool()
    if path is None:
        yield Finding(
            "bpftool",
            MISSING,
            "not found; it reads the kernel's types",
            "apt-get install bpftool   # Ubuntu: linux-tools-generic",
        )
    else:
        yield Finding("bpftool", OK, path)


def _bpf_fs() -> Iterator[Finding]:
    if _file_system("/sys/fs/bpf") == BPF_FS_MAGIC:
        yield Finding("bpf file system", OK, "/sys/fs/bpf")
    else:
        yield Finding(
            "bpf file system",
            MISSING,
            "/sys/fs/bpf is none; programs are pinned there",
            "mount -t bpf bpf /sys/fs/bpf",
        )


def _file_system(path: str) -> str:
    with contextlib.suppress(OSError, subprocess.SubprocessError):
        result = subprocess.run(
            ["stat", "-f", "-c", "%t", path],  # noqa: S607 - coreutils, wherever they are
            capture_output=True,
            text=True,
            timeout=10,
            check=False,
        )
        return result.stdout.strip()
    return ""


def _cgroups() -> Iterator[Finding]:
    try:
        hierarchy = find_hierarchy()
    except KernelSupportError:
        yield Finding(
            "cgroups",
            MISSING,
            "no cgroup file system is mounted",
            "mount -t cgroup2 cgroup2 /sys/fs/cgroup",
        )
        return
    kind = f"version 1, {hierarchy.controller}" if hierarchy.controller else "version 2"
    yield Finding("cgroups", OK, f"{kind} at {hierarchy.root}")


def _lockdown() -> Iterator[Finding]:
    with contextlib.suppress(OSError):
        text = Path("/sys/kernel/security/lockdown").read_text(encoding="ascii").strip()
        chosen = re.search(r"\[(\w+)\]", text)
        if chosen and chosen.group(1) == "confidentiality":
            yield Finding(
                "lockdown",
                MISSING,
                "confidentiality: the kernel lets no BPF program read its memory",
                "boot without lockdown=confidentiality",
            )
        elif chosen:
            yield Finding("lockdown", OK, chosen.group(1))


def _attachment() -> Iterator[Finding]:
    if os.geteuid() != 0:
        yield Finding("attachment", WARN, "cannot be tried without root")
        return
    names = ""
    with contextlib.suppress(OSError):
        names = Path("/sys/kernel/security/lsm").read_text(encoding="ascii").strip()
    refused = trampolines_refused()
    if refused:
        yield Finding(
            "attachment",
            WARN,
            "Through tracepoints: this kernel refuses trampolines "
            f"({refused}). Guarantee: kill for executions and for opening files to write; detect "
            "for renames, links, removals and attributes, which are judged by the name the caller "
            "gave when they have happened; what io_uring does is not seen.",
        )
    elif "bpf" in names.split(",") and not lsm_refused():
        yield Finding(
            "attachment",
            OK,
            "Through BPF LSM: every hook sees the object itself. Guarantee: deny for executions "
            "and for changes of files.",
        )
    else:
        yield Finding(
            "attachment",
            OK,
            "Through fmod_ret: every hook sees the object itself. Guarantee: deny for executions "
            f"and for changes of files. `bpf` is not in the LSM list ({names or 'unknown'}).",
            "nothing is lacking; with bpf added to lsm= at boot it would be BPF LSM",
        )


def _runtimes() -> Iterator[Finding]:
    found = [f"{name} ({path})" for name, path in _SOCKETS if path.is_socket()]
    if found:
        yield Finding("runtimes", OK, ", ".join(found))
    else:
        yield Finding(
            "runtimes",
            WARN,
            "none found; containers are recognised by their cgroups only, without names",
            "rote run --runtime docker=unix:///PATH, or --watch cgroup:PATH",
        )


def _state(state_dir: Path) -> Iterator[Finding]:
    place = state_dir
    while not place.exists() and place != place.parent:
        place = place.parent
    if not os.access(place, os.W_OK):
        yield Finding("state", MISSING, f"{place} cannot be written", f"mkdir -p {state_dir}")
        return
    free = shutil.disk_usage(place).free
    state = OK if free > 100 << 20 else WARN
    yield Finding("state", state, f"{state_dir}, {free >> 20} MiB free")


def _pins(bpf_dir: Path) -> Iterator[Finding]:
    with contextlib.suppress(OSError):
        sets = [path.name for path in bpf_dir.iterdir()]
        if sets:
            yield Finding(
                "pins", OK, f"{len(sets)} set of programs loaded: {', '.join(sets)}", "rote unload"
            )
