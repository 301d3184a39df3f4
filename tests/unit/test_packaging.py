"""What is installed, and what must never be."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
import tomllib
from importlib import metadata
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
REQUIREMENTS = [
    *PROJECT["project"]["dependencies"],
    *(line for lines in PROJECT["project"]["optional-dependencies"].values() for line in lines),
    *PROJECT["build-system"]["requires"],
]
COMMANDS = ("run", "setup", "test", "check")


def test_the_lattice_library_named_bcc_is_no_dependency() -> None:
    """PyPI's ``bcc`` is not BCC: it would hide the distribution's and break every probe."""
    names = {re.split(r"[\s<>=!~;\[]", line)[0].lower() for line in REQUIREMENTS}
    assert names.isdisjoint({"bcc", "bpfcc", "python-bpfcc", "python3-bpfcc"})


def test_dependencies_are_what_is_imported() -> None:
    """Nothing is imported that is not declared, and nothing declared that is not imported."""
    imported = set()
    for path in ROOT.glob("sensor/**/*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                imported |= {alias.name.split(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom):
                imported.add((node.module or "").split(".")[0])
    imported -= {*sys.stdlib_module_names, "sensor", "bcc"}
    owners = metadata.packages_distributions()
    needed = {owners[name][0].lower() for name in imported}
    declared = {
        re.split(r"[\s<>=!~;\[]", line)[0].lower() for line in PROJECT["project"]["dependencies"]
    }
    assert needed == declared


def test_every_package_is_installed() -> None:
    """A folder of Python files that is missing from pyproject would be missing once installed."""
    folders = {
        ".".join(path.relative_to(ROOT).parent.parts) for path in ROOT.glob("sensor/**/*.py")
    }
    assert folders | {"sensor.bpf"} == set(PROJECT["tool"]["setuptools"]["packages"])


def test_every_bpf_source_is_installed() -> None:
    """Each file of bpf/ matches a pattern of the package data."""
    patterns = PROJECT["tool"]["setuptools"]["package-data"]["sensor.bpf"]
    left_out = [
        path.name
        for path in (ROOT / "bpf").iterdir()
        if path.is_file() and not any(path.match(pattern) for pattern in patterns)
    ]
    assert left_out == []


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_explains_itself(command: str) -> None:
    """``--help`` answers at once, without root, and without setting anything up."""
    result = subprocess.run(
        [ROOT / "scripts" / command, "--help"],
        capture_output=True,
        text=True,
        timeout=10,
        check=False,
    )
    assert result.returncode == 0
    assert f"scripts/{command}" in result.stdout
    assert result.stderr == ""


@pytest.mark.parametrize("command", ["setup", "check"])
def test_an_unknown_argument_is_refused(command: str) -> None:
    """One line that names the argument and what was expected; exit code 2."""
    result = subprocess.run(
        [ROOT / "scripts" / command, "--nonsense"],
        capture_output=True,
        text=True,
        timeout=10,
        check=False,
    )
    assert result.returncode == 2
    assert "'--nonsense'; expected" in result.stderr
    assert result.stderr.count("\n") == 1


def test_licences_are_in_place() -> None:
    """Apache-2.0 for all; the BPF sources say that GPL-2.0 is a choice, and carry its text."""
    assert "Apache License" in (ROOT / "LICENSE").read_text(encoding="utf-8")
    assert "Version 2, June 1991" in (ROOT / "bpf/LICENSE.GPL-2.0").read_text(encoding="utf-8")
    unmarked = [
        path.name
        for path in (ROOT / "bpf").glob("*.[ch]")
        if "SPDX-License-Identifier: GPL-2.0 OR Apache-2.0"
        not in path.read_text(encoding="utf-8").splitlines()[0]
    ]
    assert unmarked == []


def test_links_in_the_documentation_lead_somewhere() -> None:
    """Every relative link of README.md and docs/ names a file of the project."""
    broken = [
        f"{page.relative_to(ROOT)}: {target}"
        for page in (ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")))
        for target in re.findall(r"\]\(([^)#\s]+)\)", page.read_text(encoding="utf-8"))
        if "://" not in target and not (page.parent / target).exists()
    ]
    assert broken == []
