"""An installed package works from any directory: ``pip install .`` carries all it needs."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

from sensor.kernel.unit import unit_text

ROOT = Path(__file__).parents[2]
PIP = (sys.executable, "-m", "pip", "install", "--quiet", "--no-deps")
ASK = """
import sys
from sensor.kernel.sources import bpf_source_dir
from sensor.kernel.unit import unit_text
import sensor.cli.main, sensor.daemon, sensor.demo.story, sensor.kernel.build
print(bpf_source_dir())
sys.stdout.write(unit_text())
"""


def test_the_installed_package_is_whole(tmp_path: Path) -> None:
    """It imports all of itself and finds the same BPF unit, without the checkout."""
    source, target = tmp_path / "source", tmp_path / "installed"
    # A copy: setuptools builds in the source, and what it leaves there it would install again.
    source.mkdir()
    for name in ("pyproject.toml", "README.md", "LICENSE", "NOTICE"):
        shutil.copy(ROOT / name, source)
    for name in ("bpf", "sensor"):
        shutil.copytree(ROOT / name, source / name)
    subprocess.run(
        [*PIP, "--target", target, source],
        check=True,
        timeout=110,
    )
    result = subprocess.run(
        [sys.executable, "-c", ASK],
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
        cwd="/",
        env={"PYTHONPATH": str(target)},
    )
    assert result.returncode == 0, result.stderr
    where, _, unit = result.stdout.partition("\n")
    assert Path(where) == target / "sensor" / "bpf"
    assert unit == unit_text()
    assert (target / "sensor" / "bpf" / "LICENSE.GPL-2.0").exists()
