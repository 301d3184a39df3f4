"""What the tests on a real kernel share."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

import pytest


@dataclass
class KernelTestSettings:
    """What LiveKernel reads of the settings."""

    bpf_dir: Path
    run_dir: Path
    attach: str = os.environ.get("ROTE_TEST_ATTACH", "auto")
    write_probe: str = "always"
    startup_pause: float = 30.0
    ring_size: int = 1 << 20
    discover: bool = True
    lock: bool = False


def cgroup_root() -> Path:
    """Where the hierarchy that Rote uses is mounted."""
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        left, _, right = line.partition(" - ")
        if right.startswith("cgroup2 "):
            return Path(left.split()[4])
    pytest.fail("no cgroup2 file system is mounted; expected one: mount -t cgroup2 …")
