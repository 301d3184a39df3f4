"""`rote vulns`, as a person uses it."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path

import orjson
import pytest
from click.testing import CliRunner, Result

from sensor.cli.main import main, rote
from sensor.errors import BadInputError, DownloadError, RoteError, UsageError
from sensor.images.cyclonedx import write_cyclonedx
from sensor.images.package import Inventory
from sensor.images.vulns.finding import Finding
from sensor.images.vulns.reports import Report, keep_report
from sensor.images.vulns.store import VulnStore
from sensor.models.model import ModelState
from sensor.models.store import ModelStore
from tests.unit import feeds
from tests.unit.builders import IMAGE
from tests.unit.feeds import as_json
from tests.unit.test_vulns_match import TRIVY
from tests.unit.test_vulns_rules import model

SBOM = {
    "bomFormat": "CycloneDX", "specVersion": "1.5", "components": [
        {"type": "operating-system", "name": "alpine", "version": "3.9.4"},
        {"type": "library", "name": "musl", "version": "1.1.20-r4",
         "purl": "pkg:apk/alpine/musl@1.1.20-r4?arch=x86_64&distro=3.9.4"},
    ],
}  # fmt: skip
RULES = """\
version: 1
rules:
- kind: vulnerability
  name: strict
  block: critical
- kind: vulnerability
  name: excused
  block: critical
  exceptions: [{cve: CVE-2019-14697, reason: no x87 here, expires: 2099-12-31}]
"""


class Commands:
    """`rote vulns` with a state directory of its own."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory

    def file(self, name: str, content: object) -> str:
        """A file to import."""
        path = self.directory / name
        path.write_bytes(content if isinstance(content, bytes) else as_json(content))
        return str(path)

    def __call__(self, *arguments: str) -> Result:
        """Run it."""
        return CliRunner().invoke(
            rote, ["--state-dir", str(self.directory / "state"), "vulns", *arguments]
        )

    def said(self, kind: type[RoteError], *arguments: str) -> str:
        """Run what fails, and what it says."""
        result = self(*arguments)
        assert isinstance(result.exception, kind), result.output
        return str(result.exception)


@pytest.fixture
def commands(tmp_path: Path) -> Commands:
    """No feeds yet."""
    return Commands(tmp_path)


def test_from_feeds_to_a_decision(commands: Commands) -> None:
    """Import, look at the feeds, match an SBOM, and judge it: blocked, or excused."""
    assert "no feeds" in commands("status").stderr
    files = [commands.file("main.json", feeds.SECDB), commands.file("nvd-2019.json", feeds.NVD)]
    result = commands("import", *files)
    assert result.exit_code == 0, result.output
    assert "feed alpine-v3.9-main (secdb): 9 records; 2 could not be used" in result.stdout
    assert "the same as before" in commands("import", files[0]).stdout
    rows = orjson.loads(commands("status", "-o", "json").stdout)
    assert [(row["feed"], row["state"]) for row in rows] == [
        ("alpine-v3.9-main", "current"), ("nvd-2019", "current"),
    ]  # fmt: skip
    assert "4.10-1-r1" in commands("status", "--problems", "alpine-v3.9-main").stdout
    shown = commands("show", "cve-2019-14697").stdout
    assert "9.8" in shown
    assert "1.1.20-r5" in shown
    sbom, rules = commands.file("app.cdx.json", SBOM), commands.file("r.yaml", RULES.encode())
    matched = commands("match", sbom)
    assert matched.exit_code == 0
    assert "CVE-2019-14697  critical" in matched.stdout
    assert "1 vulnerabilities: 1 critical" in matched.stdout
    blocked = commands("match", sbom, "--rules", rules)
    assert blocked.exit_code == 1
    assert "blocked by rule 'strict': 1 vulnerability [critical:1]" in blocked.stdout
    with pytest.raises(SystemExit) as ended:
        main(
            ["--state-dir", f"{commands.directory}/state", "vulns", "match", sbom, "--rules", rules]
        )
    assert ended.value.code == 1
    excused = commands("match", sbom, "--rules", rules, "--rule", "excused")
    assert excused.exit_code == 0
    assert "no x87 here" in excused.stdout
    assert "'excused'" in commands.said(UsageError, "match", sbom, "--rules", rules, "--rule", "x")
    assert "removed" in commands("remove", "nvd-2019").stdout
    assert "CVE-2019-14697  unknown" in commands("match", sbom).stdout


def test_reports_in_place_of_an_own_scan(commands: Commands) -> None:
    """Looked at as they are, and imported for their image."""
    report = commands.file("report.json", TRIVY)
    found = commands("match", report, "-o", "json")
    assert {row["id"]: row["severity"] for row in orjson.loads(found.stdout)} == {
        "CVE-2021-44228": "critical", "CVE-2019-18224": "critical", "CVE-2019-18276": "high",
    }  # fmt: skip
    assert "Results[0].Vulnerabilities[2]" in found.stderr
    imported = commands("import", report)
    assert "report of trivy on shop:1 (sha256:c2c0): 3 vulnerabilities" in imported.stdout
    said = commands.said(BadInputError, "import", "--image", "sha256:beef", report)
    assert "expected sha256:beef" in said


def test_what_the_models_know_is_shown(commands: Commands) -> None:
    """Packages whose programs run, by the models of the image on this host."""
    state = commands.directory / "state"
    state.mkdir()
    with closing(ModelStore(state / "models.db")) as models:
        models.add(model(ModelState.ACTIVE, "/usr/bin/bash"))
    findings = tuple(
        Finding(f"CVE-2020-{i}000", "Debian:10", f"p{i}", "1", files=files)
        for i, files in enumerate([("/usr/bin/idn2",), ("/bin/bash",), ()], 1)
    )
    with closing(VulnStore(state / "vulns.db")) as store:
        keep_report(store, Report(IMAGE.id, "shop:1", "trivy", "", findings))
    sbom = commands.file("app.cdx.json", write_cyclonedx(Inventory(IMAGE.id, None, ())))
    found = commands("match", sbom, "-o", "json")
    assert "by the report of trivy" in found.stderr
    assert {row["id"]: row["in_use"] for row in orjson.loads(found.stdout)} == {
        "CVE-2020-1000": False, "CVE-2020-2000": True, "CVE-2020-3000": None,
    }  # fmt: skip


def test_bad_files_do_not_stop_good_ones(commands: Commands) -> None:
    """Each is said; the good ones are imported; the exit code tells."""
    good, bad = commands.file("kev.json", feeds.KEV), commands.file("bad.json", b"<html>")
    result = commands("import", bad, good)
    assert isinstance(result.exception, BadInputError)
    assert "1 of 2 files" in str(result.exception)
    assert "bad.json: not recognised" in result.stderr
    assert "feed kev" in result.stdout
    assert "bad.json" in commands.said(BadInputError, "import", bad)
    assert "expected one file" in commands.said(UsageError, "import", "--feed", "x", good, bad)


def test_update(commands: Commands) -> None:
    """What is configured; without it, how to; failures by name and exit code."""
    config = commands.directory / "vulns.yaml"
    said = commands.said(UsageError, "update", "--config", str(config))
    assert "no feeds; expected such as" in said
    kev = commands.file("kev.json", feeds.KEV)
    config.write_text(
        f"version: 1\nfeeds:\n- {{name: kev, file: {kev}}}\n- {{name: epss, file: /nowhere}}\n"
    )
    result = commands("update", "--config", str(config), "-o", "jsonl")
    assert isinstance(result.exception, DownloadError)
    assert str(result.exception) == "1 of 2 feeds could not be updated: epss"
    states = {row["feed"]: row["state"] for row in map(orjson.loads, result.stdout.splitlines())}
    assert states == {"kev": "imported", "epss": "failed"}
    assert commands("update", "--config", str(config), "kev").exit_code == 0
    status = commands("status")
    assert "/nowhere: No such file" in status.stderr
    assert "STALE" in status.stdout


def test_what_is_not_there_is_said(commands: Commands) -> None:
    """With what there is."""
    assert "no feed knows it" in commands.said(UsageError, "show", "CVE-1999-0001")
    assert "expected one of: none" in commands.said(UsageError, "remove", "x")
    assert "expected one of: none" in commands.said(UsageError, "status", "--problems", "x")
    empty = commands.file("rules.yaml", b"version: 1")
    report = commands.file("report.json", TRIVY)
    assert "no rule of kind vulnerability" in commands.said(
        UsageError, "match", report, "--rules", empty
    )
