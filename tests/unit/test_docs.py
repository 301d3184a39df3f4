"""What the documentation says it lists, it lists; what it names, there is."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from sensor import errors
from sensor.audits.audit import AuditType, Severity
from sensor.channels.files import read_channels, schema
from sensor.channels.template import MACROS
from sensor.events import OperationClass, Origin
from sensor.models.model import ModelState
from sensor.rules.checks import markdown

ROOT = Path(__file__).parents[2]
PAGES = {path.stem: path.read_text(encoding="utf-8") for path in (ROOT / "docs").glob("*.md")}


@pytest.mark.parametrize("kind", list(AuditType))
def test_every_audit_type_is_explained(kind: AuditType) -> None:
    """People filter by these names, so each has its line in audits.md."""
    assert re.search(rf"(?m)^\| `{kind}` \|", PAGES["audits"])


@pytest.mark.parametrize("kind", list(AuditType))
def test_severities_are_spelled_as_filters_take_them(kind: AuditType) -> None:
    """The severity that audits.md gives a type is one there is."""
    row = re.search(rf"(?m)^\| `{kind}` \| (\w+)", PAGES["audits"])
    assert row is not None
    assert row.group(1).upper() in Severity.__members__


@pytest.mark.parametrize("state", list(ModelState))
def test_every_state_of_a_model_is_explained(state: ModelState) -> None:
    """Each state has its line in models.md."""
    assert re.search(rf"(?m)^\| {state} \|", PAGES["models"])


@pytest.mark.parametrize("operation", list(OperationClass))
def test_every_way_of_changing_is_named(operation: OperationClass) -> None:
    """Write keys show these names."""
    assert f"`{(operation.name or '').lower()}`" in PAGES["models"]


@pytest.mark.parametrize("origin", [origin for origin in Origin if origin is not Origin.UNKNOWN])
def test_every_origin_is_in_the_glossary(origin: Origin) -> None:
    """Audits show these names."""
    assert f"`{origin.name.lower()}`" in PAGES["glossary"]


def test_every_exit_code_is_documented() -> None:
    """Scripts depend on them; operations.md has a line for each."""
    classes = [value for value in vars(errors).values() if isinstance(value, type)]
    codes = {cls.exit_code for cls in classes if issubclass(cls, errors.RoteError)}
    for code in codes | {0, 130}:
        assert re.search(rf"(?m)^\| {code} \|", PAGES["operations"])


def test_files_that_the_documentation_names_exist() -> None:
    """A page that explains a file by its path is wrong when the file has moved."""
    text = "\n".join([*PAGES.values(), (ROOT / "README.md").read_text(encoding="utf-8")])
    named = set(re.findall(r"`((?:bpf|sensor|tests|scripts)/[\w./]+\w)`", text))
    assert sorted(name for name in named if not (ROOT / name).exists()) == []


def test_every_type_of_channel_has_an_example_that_is_read(tmp_path: Path) -> None:
    """Each YAML block of channels.md is a valid file, and no type or macro is left out."""
    types = set()
    for i, block in enumerate(re.findall(r"```yaml\n(.*?)```", PAGES["channels"], re.DOTALL)):
        path = tmp_path / f"{i}.yaml"
        path.write_text(block)
        types |= {channel.type for channel in read_channels(path)}
    assert types == set(schema()["properties"]["channels"]["items"]["discriminator"]["mapping"])
    assert [name for name in MACROS if f"`{name}`" not in PAGES["channels"]] == []


def test_every_compliance_check_is_in_the_documentation() -> None:
    """scripts/gen-docs writes the table."""
    assert f"<!-- checks -->\n{markdown()}<!-- end of checks -->\n" in PAGES["compliance"]
