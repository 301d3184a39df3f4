"""Compliance rules: what they make of failed checks, and what files may say."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from sensor.audits.audit import Action
from sensor.errors import RuleFileError, UsageError
from sensor.images.compliance.check import Status
from sensor.images.compliance.judge import Result, decide, unnamed
from sensor.rules.checks import CHECKS, CIS, LEVELS, NIST, PCI, Check, check_id
from sensor.rules.compliance import (
    DEFAULT,
    TEMPLATES,
    ComplianceRule,
    compliance_rules,
    rule_for,
    template_checks,
    template_text,
)
from sensor.rules.files import read_rules
from sensor.rules.schema import json_schema
from sensor.rules.scope import Where
from tests.unit.builders import container


def rule(directory: Path, **fields: Any) -> ComplianceRule:
    """A rule, written to a file and read again; it fits the published schema."""
    content = {"version": 1, "rules": [{"kind": "compliance", "name": "c", **fields}]}
    jsonschema.validate(content, json_schema())
    (directory / "rules.yaml").write_text(yaml.safe_dump(content))
    (found,) = compliance_rules(read_rules(directory / "rules.yaml"))
    return found


def results(**statuses: str) -> list[Result]:
    """By id; "5_5" for 5.5."""
    return [
        Result(CHECKS[number.replace("_", ".").lstrip("n")], Status(status))
        for number, status in statuses.items()
    ]


FAILED = results(n5_5="fail", n5_32="fail", n5_11="fail", n5_8="fail", n5_4="pass", n5_2="unknown")


def actions(found: ComplianceRule) -> dict[str, str]:
    """What each leads to."""
    return {r.check.id: str(action) for r, action in decide(FAILED, found).results}


def test_without_a_rule_the_worse_half_alerts() -> None:
    """Critical and high; what passed or is not known leads to nothing."""
    found = decide(FAILED, DEFAULT)
    assert found.action is Action.ALERT
    assert [r.check.id for r in found.alerting] == ["5.32", "5.5"]
    assert found.blocking == ()
    assert [r.check.id for r in found.unknown] == ["5.2"]
    assert found.text == (
        "2 failed checks [critical: 1, high: 1]: 5.32 runtime's socket mounted, 5.5 runs privileged"
    )
    assert found.message == f"alert of rule 'default': {found.text}"
    assert decide(results(n5_4="pass"), DEFAULT).text == ""


def test_single_checks_severities_and_the_rest(tmp_path: Path) -> None:
    """The nearest saying counts."""
    found = rule(
        tmp_path, default="alert", severity={"high": "block", "low": "ignore"},
        checks={"5.8": "block", "531": "ignore"}, message="ask ops", on_error="deny",
        time_limit="3s",
    )  # fmt: skip
    assert actions(found) == {
        "5.5": "block", "5.8": "block", "5.11": "alert", "5.32": "ignore", "5.4": "ignore",
        "5.2": "ignore",
    }  # fmt: skip
    decision = decide(FAILED, found)
    assert decision.message == (
        "blocked by rule 'c': 2 failed checks [high: 1, low: 1]: 5.5 runs privileged, "
        "5.8 publishes a privileged port - ask ops"
    )
    assert decision.counts == {"high": 1, "low": 1, "medium": 1}
    assert (found.allow_on_error, found.time_limit) == (False, 3.0)


def test_a_template_says_which_checks_count(tmp_path: Path) -> None:
    """Others are ignored unless something is said of them."""
    plain = rule(tmp_path, template="pci-dss")
    assert actions(plain)["5.11"] == "ignore"
    assert actions(plain)["5.8"] == "alert"
    harder = rule(tmp_path, template="pci-dss", severity={"high": "block"}, checks={"5.5": "alert"})
    assert harder.effect(CHECKS["5.10"]) is Action.BLOCK
    assert harder.effect(CHECKS["5.5"]) is Action.ALERT
    assert harder.effect(CHECKS["5.21"]) is Action.IGNORE  # high, but not in the template
    others = rule(tmp_path, template="pci-dss", default="block")
    assert others.effect(CHECKS["5.21"]) is Action.BLOCK
    assert others.effect(CHECKS["5.8"]) is Action.ALERT


@pytest.mark.parametrize("name", TEMPLATES)
def test_a_template_is_a_rule_file(name: str, tmp_path: Path) -> None:
    """It can be copied and used; it has the checks that its standard asks for, and no other."""
    (tmp_path / "t.yaml").write_text(template_text(name))
    (found,) = compliance_rules(read_rules(tmp_path))
    assert found.name == name
    standard = {"cis-docker": CIS, "nist-800-190": NIST, "pci-dss": PCI}[name]
    expected = {c.id for c in CHECKS.values() if standard in {s for s, _ in c.standards}}
    assert set(template_checks(name)) == set(found.checks) == expected
    named = rule(tmp_path, template=name)
    assert all(found.effect(c) is named.effect(c) for c in CHECKS.values())


def test_there_is_no_other_template() -> None:
    """The nearest is named."""
    with pytest.raises(UsageError, match="did you mean 'cis-docker'"):
        template_text("cis-doker")
    with pytest.raises(UsageError, match="expected one of: cis-docker"):
        template_text("../checks")


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"checks": {"5.44": "block"}}, "'5.44' is no check; did you mean '5.4'"),
        ({"checks": {"8999": "block"}}, "for one's own a number from 9000 on"),
        ({"checks": {"5.5": "prevent"}}, "checks.5.5"),
        ({"checks": {"5.5": "block", "54": "alert"}}, "check 5.5 is named twice"),
        ({"template": "cis"}, "template"),
        ({"severity": {"hihg": "block"}}, "severity"),
        ({"time_limit": "2h"}, "time_limit"),
    ],
)
def test_mistakes_are_said_with_their_line(
    tmp_path: Path, fields: dict[str, Any], said: str
) -> None:
    """One line that names the file."""
    content = {"version": 1, "rules": [{"kind": "compliance", "name": "c", **fields}]}
    path = tmp_path / "rules.yaml"
    path.write_text(yaml.safe_dump(content))
    with pytest.raises(RuleFileError) as caught:
        read_rules(path)
    assert said in str(caught.value)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_checks_of_ones_own_are_taken_by_name(tmp_path: Path) -> None:
    """And those that were not loaded are told."""
    found = rule(tmp_path, checks={"9001": "block", "no-shell": "alert"})
    own = Result(Check("9001", "", "low", "x"), Status.FAIL, "y")
    assert decide([own], found).action is Action.BLOCK
    assert unnamed(found, [own]) == ("no-shell",)


def test_an_own_check_that_ends_in_an_error(tmp_path: Path) -> None:
    """Counts as failed only where what cannot be judged is refused."""
    broken = Result(Check("9001", "", "low", "x"), Status.UNKNOWN, "error: y", error=True)
    for on_error, action in (("allow", Action.IGNORE), ("deny", Action.BLOCK)):
        found = rule(tmp_path, checks={"9001": "block"}, on_error=on_error)
        assert decide([broken], found).action is action


def test_the_first_rule_whose_scope_matches(tmp_path: Path) -> None:
    """Else the built-in one."""
    content = {
        "version": 1,
        "rules": [
            {"kind": "compliance", "name": "a", "scope": {"containers": "db*"}},
            {"kind": "vulnerability", "name": "v"},
            {"kind": "compliance", "name": "b", "scope": {"containers": "web*"}},
        ],
    }
    (tmp_path / "r.yaml").write_text(yaml.safe_dump(content))
    rules = compliance_rules(read_rules(tmp_path))
    assert [found.name for found in rules] == ["a", "b"]
    assert rule_for(rules, container(name="web-1"), Where()).name == "b"
    assert rule_for(rules, container(name="x"), Where()) is DEFAULT


def test_names_of_checks() -> None:
    """By id, by alias, in small letters."""
    assert (check_id("5525"), check_id("x1"), check_id("5.6w")) == ("5.26", "X1", "5.6w")
    for wrong in ("", "5.", "UPPER", "-x", "a" * 65, "critical", "8999"):
        with pytest.raises(ValueError, match="is no check"):
            check_id(wrong)


@given(
    st.lists(st.sampled_from(sorted(CHECKS)), unique=True, min_size=1),
    st.dictionaries(st.sampled_from(LEVELS), st.sampled_from(["ignore", "alert", "block"])),
    st.sampled_from([None, "ignore", "alert", "block"]),
)
def test_the_action_is_the_hardest(
    failed: list[str], severity: dict[str, str], default: str | None
) -> None:
    """And every result is there once."""
    found = ComplianceRule(
        "c", severity={k: Action(v) for k, v in severity.items()},
        default=None if default is None else Action(default),
    )  # fmt: skip
    decision = decide([Result(CHECKS[number], Status.FAIL) for number in failed], found)
    assert len(decision.results) == len(failed)
    assert bool(decision.blocking) == (decision.action is Action.BLOCK)
    assert bool(decision.blocking or decision.alerting) == bool(decision.text)
    assert sum(decision.counts.values()) == len(decision.blocking) + len(decision.alerting)
