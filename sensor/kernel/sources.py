"""Where the BPF sources are, in a checkout and in an installed package."""

from __future__ import annotations

from importlib import resources
from pathlib import Path


def bpf_source_dir() -> Path:
    """The directory of the BPF sources."""
    checkout = Path(__file__).resolve().parents[2] / "bpf"
    if (checkout / "sensor.bpf.c").exists():
        return checkout
    return Path(str(resources.files("sensor").joinpath("bpf")))
