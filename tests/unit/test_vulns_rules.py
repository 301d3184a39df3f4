"""Vulnerability rules: what a rule makes of findings, and that a thing is told once."""

from __future__ import annotations

import datetime as dt
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from sensor.audits.audit import Action
from sensor.errors import RuleFileError
from sensor.events import Actor, Origin
from sensor.images.vulns.advisory import Status
from sensor.images.vulns.finding import Finding
from sensor.images.vulns.judge import Decision, in_use_of, judge
from sensor.images.vulns.severity import Severity
from sensor.images.vulns.sources import read_sources
from sensor.images.vulns.told import FORGET_DAYS, ToldStore
from sensor.models.keys import ExecKey, Program
from sensor.models.model import Evidence, Model, ModelState
from sensor.rules.files import read_rules
from sensor.rules.schema import json_schema
from sensor.rules.scope import Where
from sensor.rules.vulnerability import (
    DEFAULT,
    VulnerabilityRule,
    rule_for,
    vulnerability_rules,
)
from tests.unit.builders import IMAGE, container

TODAY = dt.date(2026, 11, 25)
MUSL = Finding(
    "CVE-2019-14697", "Alpine:v3.9", "musl", "1.1.20-r4", "1.1.20-r5", Status.FIXED, score=9.8,
    published="2019-08-06", installed=("musl", "musl-utils"), advisories=("CVE-2019-14697",),
    files=("/lib/ld-musl-x86_64.so.1", "/usr/bin/ldd"),
)  # fmt: skip
BASH = Finding(
    "CVE-2019-18276", "Debian:10", "bash", "5.0-4", status=Status.OPEN, score=7.8,
    vendor_severity=Severity.LOW, epss=0.02, installed=("bash",), files=("/bin/bash",),
)  # fmt: skip
LOG4J = Finding(
    "CVE-2021-44228", "Maven", "org.apache.logging.log4j:log4j-core", "2.14.1", "2.15.0",
    score=10.0, exploited="2021-12-10", epss=0.94, published="2021-12-10",
    advisories=("GHSA-jfh8-c2jp-5v3q",),
)  # fmt: skip
UNRATED = Finding("CVE-2020-27350", "Debian:10", "apt", "1.8.2", "1.8.2.2")


def rule(directory: Path, **fields: Any) -> VulnerabilityRule:
    """A rule, written to a file and read again; it fits the published schema."""
    content = {"version": 1, "rules": [{"kind": "vulnerability", "name": "v", **fields}]}
    jsonschema.validate(content, json_schema())
    (directory / "rules.yaml").write_text(yaml.safe_dump(content))
    (found,) = vulnerability_rules(read_rules(directory / "rules.yaml"))
    return found


def actions(decision: Decision) -> dict[str, str]:
    """What became of each."""
    return {j.finding.package.rpartition(":")[2]: str(j.action) for j in decision.judgements}


def reason(decision: Decision, package: str) -> str:
    """Why."""
    (judgement,) = [j for j in decision.judgements if j.finding.package == package]
    return "; ".join(judgement.reasons)


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({}, {"musl": "alert", "bash": "alert", "log4j-core": "alert", "apt": "alert"}),
        ({"block": "critical"}, {"musl": "block", "bash": "alert", "log4j-core": "block",
                                 "apt": "alert"}),
        ({"alert": "high", "block": "critical", "only_fixed": True},
         {"musl": "block", "bash": "ignore", "log4j-core": "block", "apt": "ignore"}),
        ({"alert": "critical", "severity": "vendor"},
         {"musl": "ignore", "bash": "ignore", "log4j-core": "ignore", "apt": "ignore"}),
        ({"alert": "low", "severity": "vendor", "unrated": None},
         {"musl": "ignore", "bash": "alert", "log4j-core": "ignore", "apt": "ignore"}),
        ({"alert": "high", "block": "high", "unrated": "critical"},
         {"musl": "block", "bash": "block", "log4j-core": "block", "apt": "block"}),
        ({"alert": None, "known_exploited": "block"},
         {"musl": "ignore", "bash": "ignore", "log4j-core": "block", "apt": "ignore"}),
        ({"alert": None, "epss": {"alert": 0.01, "block": 0.5}},
         {"musl": "ignore", "bash": "alert", "log4j-core": "block", "apt": "ignore"}),
        ({"block": "critical", "ecosystems": "Alpine"},
         {"musl": "block", "bash": "ignore", "log4j-core": "ignore", "apt": "ignore"}),
        ({"ecosystems": ["!Debian:10"]},
         {"musl": "alert", "bash": "ignore", "log4j-core": "alert", "apt": "ignore"}),
    ],
)  # fmt: skip
def test_thresholds(tmp_path: Path, fields: dict[str, Any], expected: dict[str, str]) -> None:
    """Each field of a rule by what it makes of four findings."""
    decision = judge([MUSL, BASH, LOG4J, UNRATED], rule(tmp_path, **fields), TODAY)
    assert actions(decision) == expected
    ranks = ["ignore", "alert", "block"]
    assert str(decision.action) == max(expected.values(), key=ranks.index)


def test_the_line_for_who_starts_the_container(tmp_path: Path) -> None:
    """Rule, counts, the worst with their fixes, and what the rule's author says."""
    found = judge(
        [BASH, MUSL, LOG4J], rule(tmp_path, block="high", alert="high", message="ask the platform"),
        TODAY,
    )  # fmt: skip
    assert found.message == (
        "blocked by rule 'v': 3 vulnerabilities [critical:2 high:1]: CVE-2021-44228 critical in "
        "org.apache.logging.log4j:log4j-core 2.14.1, fixed in 2.15.0, known to be exploited; "
        "CVE-2019-14697 critical in musl 1.1.20-r4, fixed in 1.1.20-r5; "
        "CVE-2019-18276 high in bash 5.0-4, open - ask the platform"
    )
    assert found.counts == {"critical": 2, "high": 1}
    assert judge([], DEFAULT, TODAY) == Decision(Action.IGNORE, "default", ())
    many = judge([replace(MUSL, id=f"CVE-{i}") for i in range(5)], DEFAULT, TODAY)
    assert many.message.endswith("; and 2 more")


@pytest.mark.parametrize(
    ("exception", "expected"),
    [
        ({"cve": "CVE-2019-14697"}, "ignore"),
        ({"cve": "cve-2019-*"}, "ignore"),
        ({"package": "musl-utils"}, "ignore"),
        ({"cve": "CVE-2019-14697", "package": "openssl"}, "block"),
        ({"package": "musl", "expires": "2026-11-25"}, "ignore"),
        ({"package": "musl", "expires": "2026-11-24"}, "block"),
        ({"package": "musl", "effect": "alert"}, "alert"),
    ],
)
def test_exceptions(tmp_path: Path, exception: dict[str, Any], expected: str) -> None:
    """By CVE or package, with a reason, until a day."""
    found = judge(
        [MUSL], rule(tmp_path, block="critical", exceptions=[{"reason": "x87 only", **exception}]),
        TODAY,
    )  # fmt: skip
    assert str(found.action) == expected
    if expected != "block":
        assert "x87 only" in reason(found, "musl")
    elif "expires" in exception:
        assert "expired on 2026-11-24" in reason(found, "musl")


def test_an_exception_may_block(tmp_path: Path) -> None:
    """What must never run, whatever its severity."""
    given = [{"package": "bash", "reason": "no shells", "effect": "block"}]
    assert judge([BASH], rule(tmp_path, alert=None, exceptions=given), TODAY).action == "block"


@pytest.mark.parametrize(
    ("finding", "grace_from", "days", "expected"),
    [
        (replace(MUSL, fixed_since="2026-11-20"), "fix", 5, "alert"),
        (replace(MUSL, fixed_since="2026-11-19"), "fix", 5, "block"),
        (replace(MUSL, fixed_since="2026-11-20"), "published", 5, "block"),
        (replace(MUSL, published="2026-11-24"), "published", 1, "alert"),
        (replace(MUSL, published="", first_seen="2026-11-24"), "fix", 5, "alert"),
        (replace(MUSL, published="soon"), "fix", 5, "block"),
        (replace(MUSL, published=""), "fix", 3650, "block"),
        (replace(MUSL, fixed_since="2026-11-20", exploited="2026-11-21"), "fix", 5, "block"),
    ],
)
def test_grace(tmp_path: Path, finding: Finding, grace_from: str, days: int, expected: str) -> None:
    """Alert for some days, then block; not for what is exploited, nor from a day nobody knows."""
    given = rule(
        tmp_path, block="critical", grace_days=days, grace_from=grace_from, known_exploited="block"
    )
    found = judge([finding], given, TODAY)
    assert str(found.action) == expected
    if expected == "alert":
        assert re.match(r"grace until 2026-11-2[59]; then severity critical", reason(found, "musl"))


def test_what_is_exploited_counts_without_a_fix(tmp_path: Path) -> None:
    """Where the rule says so; else it is as every other."""
    unfixed = replace(LOG4J, fixed="", status=Status.OPEN)
    assert judge([unfixed], rule(tmp_path, only_fixed=True), TODAY).action == "ignore"
    strict = rule(tmp_path, only_fixed=True, known_exploited="block")
    assert judge([unfixed], strict, TODAY).action == "block"
    softer = rule(tmp_path, block="critical", known_exploited="alert")
    assert judge([LOG4J], softer, TODAY).action == "block"


@pytest.mark.parametrize(
    ("finding", "in_use", "expected", "counts"),
    [
        (BASH, None, None, True),
        (BASH, {"/usr/bin/nginx"}, False, False),
        (BASH, {"/usr/bin/bash"}, True, True),  # /bin is a link to /usr/bin
        (BASH, {"/bin/bash"}, True, True),
        (BASH, set(), False, False),
        (LOG4J, {"/usr/bin/java"}, None, True),  # nobody knows its files
        (MUSL, {"/usr/bin/nginx"}, None, True),  # a library: programs alone do not tell
        (MUSL, {"/usr/bin/nginx", "/lib/ld-musl-x86_64.so.1"}, True, True),
        (MUSL, {"/usr/bin/nginx", "/usr/lib/libz.so.1"}, False, False),
    ],
)
def test_packages_in_use(
    tmp_path: Path, finding: Finding, in_use: set[str] | None, expected: bool | None, counts: bool
) -> None:
    """What is not in use does not count; what nobody knows counts, and the reason says so."""
    found = judge([finding], rule(tmp_path, block="high", alert="high", package_in_use=True), TODAY,
                  in_use)  # fmt: skip
    assert found.judgements[0].in_use is expected
    assert (found.action == "block") is counts
    assert ("not known" in " ".join(found.judgements[0].reasons)) is (expected is None)
    shown = judge([finding], rule(tmp_path), TODAY, in_use)
    assert shown.judgements[0].in_use is expected
    assert shown.action == "alert"


def model(state: ModelState, *programs: str) -> Model:
    """A model that knows these programs."""
    made = Model("m", 1, IMAGE, "", state=state)
    for program in programs:
        made.add(
            ExecKey(Program(""), Program(program, "sh"), Origin.IMAGE, Actor.SERVICE),
            Evidence(1, 1),
        )
    return made


def test_the_models_know_what_is_in_use() -> None:
    """All of them together, once none is still learning."""
    active, dry = model(ModelState.ACTIVE, "/bin/busybox"), model(ModelState.DRY_RUN, "/bin/nc")
    assert in_use_of([active, dry]) == frozenset({"/bin/busybox", "/bin/nc"})
    assert in_use_of([active, model(ModelState.LEARNING, "/bin/x")]) is None
    assert in_use_of([]) is None


FINDINGS = st.builds(
    replace,
    st.sampled_from([MUSL, BASH, LOG4J, UNRATED]),
    score=st.none() | st.floats(0, 10).map(lambda x: round(x, 1)),
    vendor_severity=st.sampled_from(Severity),
    epss=st.none() | st.floats(0, 1),
    exploited=st.sampled_from(["", "2026-01-01"]),
    fixed=st.sampled_from(["", "2"]),
)
LEVELS = st.sampled_from([None, "low", "medium", "high", "critical"])


@given(st.lists(FINDINGS, max_size=5), LEVELS, LEVELS, st.booleans())
def test_a_stricter_rule_never_asks_for_less(
    findings: list[Finding], alert: str | None, block: str | None, only_fixed: bool
) -> None:
    """Order does not matter, each finding is judged once, lower thresholds never soften."""
    plain = VulnerabilityRule("v", alert=alert, block=block, only_fixed=only_fixed)
    strict = VulnerabilityRule("v", alert="low", block=block or "critical")
    first = judge(findings, plain, TODAY)
    assert judge(findings[::-1], plain, TODAY).action == first.action
    assert len(first.judgements) == len(findings)
    assert (first.message == "") == (first.action is Action.IGNORE)
    ranks = [Action.IGNORE, Action.ALERT, Action.BLOCK]
    for finding in findings:
        before, after = judge([finding], plain, TODAY), judge([finding], strict, TODAY)
        assert ranks.index(before.action) <= ranks.index(after.action)
        assert all(j.reasons for j in before.judgements)


def test_scopes_and_the_rule_that_is_always_there(tmp_path: Path) -> None:
    """The first rule whose scope matches; else one that alerts on everything."""
    content = {"version": 1, "rules": [
        {"kind": "vulnerability", "name": "a", "scope": {"images": "other/*"}},
        {"name": "of another kind"},
        {"kind": "vulnerability", "name": "b", "scope": {"images": "shop/*"}, "block": "high"},
    ]}  # fmt: skip
    (tmp_path / "rules.yaml").write_text(yaml.safe_dump(content))
    rules = vulnerability_rules(read_rules(tmp_path))
    assert rule_for(rules, container(), Where()).name == "b"
    assert rule_for(rules[:1], container(), Where()) is DEFAULT


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ("alert: high\n  block: low", "blocks what it does not alert on"),
        ("epss: {alert: 0.5, block: 0.1}", "blocks what it does not alert on"),
        ("epss: {alert: 2}", "less than or equal to 1"),
        ("known_exploited: prevent", "known_exploited: 'prevent'"),
        ("exceptions: [{reason: x}]", "expected 'cve' or 'package'"),
        ("exceptions: [{cve: X}]", "reason: missing"),
        ("grace_days: -1", "grace_days"),
        ("blocks: high", "did you mean 'block'?"),
    ],
)
def test_a_bad_rule_is_one_line_with_its_place(tmp_path: Path, fields: str, said: str) -> None:
    """File, line, field and what was expected."""
    path = tmp_path / "rules.yaml"
    path.write_text(f"version: 1\nrules:\n- kind: vulnerability\n  name: v\n  {fields}\n")
    with pytest.raises(RuleFileError, match=r"rules\.yaml:\d+: ") as caught:
        read_rules(path)
    assert said in str(caught.value)


def scan(store: ToldStore, day: int, *findings: Finding, **fields: Any) -> list[str]:
    """A scan on a day of January: what people are told, and the store is told of."""
    today = dt.date(2026, 1, day)
    given = VulnerabilityRule("v", **{"alert": "low", "block": "critical", **fields})
    decision = judge(store.seen("sha256:1", findings, today), given, today)
    news = store.news("sha256:1", decision.judgements)
    store.mark("sha256:1", news, today)
    return [j.finding.id for j in news]


def test_each_vulnerability_is_told_once(tmp_path: Path) -> None:
    """Not with every scan; again when it became worse; of another image for itself."""
    store = ToldStore(tmp_path / "told.db")
    quiet = replace(BASH, score=5.0)
    assert scan(store, 1, MUSL, quiet) == [MUSL.id, BASH.id]
    assert scan(store, 2, MUSL, quiet) == []
    assert scan(store, 3, MUSL, quiet, LOG4J) == [LOG4J.id]
    assert scan(store, 4, MUSL, replace(quiet, score=7.8)) == [BASH.id]
    assert scan(store, 5, MUSL, quiet) == []  # it became better
    assert scan(store, 6, replace(MUSL, exploited="2026-01-06"), quiet) == [MUSL.id]
    assert scan(store, 7, quiet, block="medium") == [BASH.id]
    store.close()
    store = ToldStore(tmp_path / "told.db")
    assert scan(store, 8, quiet, block="medium") == []
    other = judge([MUSL], DEFAULT, TODAY)
    assert len(store.news("sha256:2", other.judgements)) == 1


def test_who_was_not_told_for_certain_is_told_again(tmp_path: Path) -> None:
    """What is not marked comes again; what is ignored never does, but its first day is kept."""
    store = ToldStore(tmp_path / "told.db")
    ignoring = VulnerabilityRule("v", alert=None)
    (seen,) = store.seen("i", [MUSL], dt.date(2026, 1, 1))
    assert seen.first_seen == "2026-01-01"
    assert store.news("i", judge([seen], ignoring, TODAY).judgements) == []
    (seen,) = store.seen("i", [MUSL], dt.date(2026, 1, 9))
    assert seen.first_seen == "2026-01-01"
    decision = judge([seen], DEFAULT, TODAY)
    assert store.news("i", decision.judgements) == list(decision.judgements)
    assert store.news("i", decision.judgements) == list(decision.judgements)
    store.mark("i", decision.judgements, TODAY)
    assert store.news("i", decision.judgements) == []


def test_what_is_gone_is_forgotten(tmp_path: Path) -> None:
    """Images that are gone at once, vulnerabilities that are not found any more after a while."""
    store = ToldStore(tmp_path / "told.db")
    day = dt.date(2026, 1, 1)
    store.seen("gone", [MUSL, BASH], day)
    store.seen("here", [MUSL], day)
    store.seen("here", [BASH], day + dt.timedelta(days=1))
    assert store.forget({"here"}, day) == 2
    assert store.forget({"here"}, day + dt.timedelta(days=FORGET_DAYS + 1)) == 1
    (again,) = store.seen("here", [BASH], TODAY)
    assert again.first_seen == "2026-01-02"


def test_the_examples_of_the_documentation_are_good(tmp_path: Path) -> None:
    """Its rule is read, and says what the page says of it; so is its list of feeds."""
    page = (Path(__file__).parents[2] / "docs/vulnerabilities.md").read_text(encoding="utf-8")
    sources, rules = re.findall(r"```yaml\n(.*?)```", page, re.DOTALL)
    (tmp_path / "vulns.yaml").write_text(sources)
    feeds = read_sources(tmp_path / "vulns.yaml").feeds
    assert {"debian", "alpine-v3.20-main", "osv-PyPI", "nvd-2024", "kev", "debian-dsa"} <= {
        feed.name for feed in feeds
    }
    (tmp_path / "rules.yaml").write_text(rules)
    (found,) = vulnerability_rules(read_rules(tmp_path / "rules.yaml"))
    assert judge([MUSL], found, dt.date(2026, 12, 31)).action == "ignore"
    assert judge([MUSL], found, dt.date(2027, 1, 1)).action == "block"
