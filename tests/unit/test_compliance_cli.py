"""`rote compliance`: what it prints, its reports, and how it says what is wrong."""

from __future__ import annotations

import json
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from sensor.audits.scrub import MASK
from sensor.cli.compliance_html import page
from sensor.cli.compliance_ocsf import to_ocsf
from sensor.cli.main import main
from sensor.images.compliance.check import Status
from sensor.images.compliance.judge import Result, decide, evaluate
from sensor.images.compliance.subject import HostFacts, Subject
from sensor.rules.checks import CHECKS, Check
from sensor.rules.compliance import DEFAULT
from tests.unit.imagery import docker_archive, layer
from tests.unit.schemas import ocsf_errors
from tests.unit.test_compliance_checks import DOCKER, IMAGE, OCI, changed

EVIL = "<script>alert(1)</script>\x1b[31m\"'&\u202e"


class Ran:
    """How a command ended."""

    def __init__(self, code: int, out: str, err: str) -> None:
        self.code, self.out, self.err = code, out, err


@pytest.fixture
def rote(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Any:
    """A command of `rote compliance`."""

    def run(*arguments: str) -> Ran:
        code = 0
        try:
            main(["--state-dir", str(tmp_path / "state"), "compliance", *arguments])
        except SystemExit as end:
            code = int(end.code or 0)
        said = capsys.readouterr()
        return Ran(code, said.out, said.err)

    return run


@pytest.fixture
def spec(tmp_path: Path) -> Path:
    """A config.json with two mistakes."""
    document = changed(changed(OCI, "process.noNewPrivileges", False), "process.user.uid", 0)
    path = tmp_path / "config.json"
    path.write_text(json.dumps(document))
    return path


@pytest.fixture
def inspected(tmp_path: Path) -> Path:
    """What docker inspect prints, with a mistake and a secret."""
    document = changed(DOCKER, "HostConfig.Privileged", True)
    document["Config"]["Env"] = ["A_TOKEN=zz9"]
    path = tmp_path / "inspect.json"
    path.write_text(json.dumps([document]))
    return path


def test_a_table_shows_what_failed(rote: Any, spec: Path) -> None:
    """The worst first; everything with --full."""
    ran = rote("check", "--spec", str(spec))
    assert ran.code == 0
    assert re.search(r"config\.json: 2 failed, \d+ passed, \d+ not known", ran.out)
    assert re.search(r"(?m)^599 +high +container runs as root +process\.user\.uid is 0$", ran.out)
    assert "5.29" not in ran.out
    full = rote("check", "--spec", str(spec), "--full").out
    assert all(re.search(rf"(?m)^{re.escape(number)} ", full) for number in CHECKS)


def test_json_and_lines(rote: Any, spec: Path, inspected: Path) -> None:
    """Each result with its remedy and standards."""
    (document,) = json.loads(rote("check", "--spec", str(spec), "-o", "json").out)
    found = {r["id"]: r for r in document["results"]}
    assert found["5.26"]["status"] == "fail"
    assert "CIS Docker 1.6.0 5.26" in found["5.26"]["standards"]
    assert found["5.8"]["status"] == "unknown"
    assert document["counts"]["fail"] == 2
    lines = rote("check", "--inspect", str(inspected), "-o", "jsonl").out.splitlines()
    assert len(lines) == len(CHECKS)
    assert json.loads(lines[0])["name"] == "web"
    assert "zz9" not in "".join(lines)


def test_ocsf_keeps_to_its_schema(rote: Any, spec: Path, inspected: Path) -> None:
    """A Compliance Finding for each check."""
    lines: list[str] = []
    for arguments in (("--spec", str(spec)), ("--inspect", str(inspected))):
        lines = rote("check", *arguments, "-o", "ocsf").out.splitlines()
        assert len(lines) == len(CHECKS)
        for line in lines:
            finding = json.loads(line)
            assert ocsf_errors(finding) == []
            assert finding["class_uid"] == 2003
    statuses = {json.loads(line)["compliance"]["status"] for line in lines}
    assert statuses >= {"Pass", "Fail", "Warning", "Not applicable"}
    evil = Result(Check("9001", "", "low", EVIL, EVIL, EVIL), Status.FAIL, EVIL)
    for subject in (Subject(EVIL, "c", EVIL, EVIL), Subject("", reference=EVIL)):
        assert ocsf_errors(to_ocsf(subject, evil, 1_790_000_000_000_000_000, "h")) == []
    wrong = {**json.loads(lines[0]), "compliance": {"status_id": 17}, "nonsense": 1}
    assert any("not in the enum" in error for error in ocsf_errors(wrong))
    assert any("unknown attribute" in error for error in ocsf_errors(wrong))


def test_a_report_for_a_browser(rote: Any, inspected: Path, tmp_path: Path) -> None:
    """Closed in itself; names that a container chose are text."""
    path = tmp_path / "report.html"
    assert rote("check", "--inspect", str(inspected), "--html", str(path)).code == 0
    text = path.read_text(encoding="utf-8")
    assert "runs privileged" in text
    assert "zz9" not in text
    subject = Subject(EVIL, "c" * 64, reference=EVIL, inspected=DOCKER, image=IMAGE)
    results = [*evaluate(subject), Result(Check("9001", "", "high", EVIL), Status.FAIL, EVIL)]
    made = page([(subject, decide(results, DEFAULT))], EVIL, 10**18, EVIL)
    tags: list[str] = []

    class Reader(HTMLParser):
        def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
            tags.append(tag)
            for name, value in attrs:
                assert name not in ("src", "onclick", "onerror")
                assert name != "href" or (value or "").startswith("#")

    reader = Reader()
    reader.feed(made)
    assert "script" not in tags
    assert "\x1b" not in made
    assert "Content-Security-Policy" in made
    refused = rote("check", "--inspect", str(inspected), "--html", str(tmp_path / "no/x.html"))
    assert (refused.code, refused.err.count("\n")) == (2, 1)


def test_a_rule_blocks(rote: Any, inspected: Path, tmp_path: Path) -> None:
    """With exit status 1 and the line that whoever starts it would see."""
    rules = tmp_path / "rules.yaml"
    rules.write_text(
        "version: 1\nrules:\n- {kind: compliance, name: other, scope: {containers: db}}\n"
        "- {kind: compliance, name: strict, checks: {'5.5': block, no-such: alert}}\n"
    )
    ran = rote("check", "--inspect", str(inspected), "--rules", str(rules))
    assert ran.code == 1
    assert "blocked by rule 'strict': 1 failed check [high: 1]: 5.5 runs privileged" in ran.out
    assert "names checks there are none of: no-such" in ran.err
    mild = rote("check", "--inspect", str(inspected), "--rules", str(rules), "--rule", "other")
    assert (mild.code, "alert of rule 'other'" in mild.out) == (0, True)
    wrong = rote("check", "--inspect", str(inspected), "--rules", str(rules), "--rule", "othr")
    assert (wrong.code, "did you mean 'other'" in wrong.err) == (2, True)


def test_an_archive_and_a_list_of_malware(rote: Any, tmp_path: Path) -> None:
    """An image alone; its files are kept for the next time."""
    archive = docker_archive(tmp_path / "a.tar", [layer({"bin/x": b"\x7fELF"}, {"bin/x": 0o4755})])
    (document,) = json.loads(rote("check", str(archive), "-o", "json").out)
    found = {r["id"]: r["status"] for r in document["results"]}
    assert (found["4.8"], found["5.5"], found["4.1"]) == ("fail", "not-applicable", "fail")
    quick = json.loads(rote("check", str(archive), "--quick", "-o", "json").out)[0]
    assert {r["id"]: r["status"] for r in quick["results"]}["4.8"] == "fail"  # kept
    hashes = tmp_path / "hashes"
    hashes.write_text("7f\n")
    assert "hashes:1:" in rote("check", str(archive), "--malware", str(hashes)).err


def test_own_checks_are_listed_run_and_explained(rote: Any, spec: Path, tmp_path: Path) -> None:
    """Beside Rote's."""
    directory = tmp_path / "checks"
    directory.mkdir()
    (directory / "own").write_text("#!/bin/sh\nexit 0\n")
    (directory / "own").chmod(0o755)
    (directory / "own.yaml").write_text("id: 9001\ntitle: mine\nseverity: low\nremedy: do it\n")
    listed = rote("list", "--checks", str(directory)).out
    assert re.search(r"(?m)^9001 +low +mine$", listed)
    assert all(re.search(rf"(?m)^{re.escape(number)} ", listed) for number in CHECKS)
    explained = rote("explain", "9001", "--checks", str(directory)).out
    assert "remedy: do it" in explained
    (directory / "own").chmod(0o644)
    broken = rote("check", "--spec", str(spec), "--checks", str(directory))
    assert (broken.code, broken.err.count("\n")) == (3, 1)
    assert "is not executable" in broken.err


@pytest.mark.parametrize("number", sorted(CHECKS))
def test_every_check_is_explained(number: str) -> None:
    """What it allows, what to do, who asks for it."""
    check = CHECKS[number]
    assert check.why.endswith(".")
    assert check.remedy.endswith(".")
    assert check.standards
    assert len(check.title) <= 50
    assert MASK not in check.why


def test_explain_and_template(rote: Any) -> None:
    """By alias as well; the nearest is named."""
    assert rote("explain", "53").out.startswith("5.4 (also 53)  capabilities beyond the default\n")
    wrong = rote("explain", "5.99")
    assert (wrong.code, "is no check" in wrong.err, wrong.err.count("\n")) == (2, True, 1)
    assert "kind: compliance" in rote("template", "pci-dss").out
    assert rote("template").out.splitlines()[0].startswith("cis-docker  ")
    assert rote("template", "cis").code == 2


@pytest.mark.parametrize(
    ("option", "content", "said"),
    [
        ("--spec", "{", "no JSON"),
        ("--spec", "[]", "0 objects; expected one"),
        ("--spec", '"x"', "no JSON object; expected an OCI runtime's config.json"),
        ("--spec", '{"HostConfig": {}}', "has neither process nor linux nor root"),
        ("--inspect", "[{}, {}]", "2 objects; expected one: what `docker inspect CONTAINER`"),
        ("--inspect", '[{"Id": "x"}]', "has no HostConfig"),
        ("--inspect", '[{"Id": "x", "HostConfig": 7}]', "has no HostConfig"),
        ("--inspect", None, "No such file"),
    ],
)
def test_bad_input_is_one_line(
    rote: Any, tmp_path: Path, option: str, content: str | None, said: str
) -> None:
    """With the file and what was expected; exit status 3."""
    path = tmp_path / "x.json"
    if content is not None:
        path.write_text(content)
    ran = rote("check", option, str(path))
    assert (ran.code, ran.err.count("\n")) == (3, 1)
    assert said in ran.err
    assert str(path) in ran.err


def test_odd_values_are_not_known(rote: Any, tmp_path: Path) -> None:
    """A document of the right kind with a wrong part is judged as far as that goes."""
    path = tmp_path / "x.json"
    odd = {"Id": 7, "Name": 3, "Config": [], "HostConfig": {"Privileged": 1}}
    path.write_text(json.dumps(odd))
    (document,) = json.loads(rote("check", "--inspect", str(path), "-o", "json").out)
    found = {r["id"]: r for r in document["results"]}
    assert found["5.5"]["evidence"] == ("HostConfig.Privileged is a number; expected true or false")


def test_nothing_and_nobody(rote: Any, tmp_path: Path) -> None:
    """No name; no engine."""
    assert rote("check").code == 2
    absent = rote("check", "web", "--engine", f"unix://{tmp_path}/none.sock")
    assert (absent.code, absent.err.count("\n")) == (4, 1)
    assert HostFacts().apparmor is None
