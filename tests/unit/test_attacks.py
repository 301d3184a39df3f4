"""The attack set as data, and what verdicts are called."""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from sensor.errors import YamlFileError
from tests.attacks.judge import Mode, Result, Verdict, names
from tests.attacks.kept import keep, kept
from tests.attacks.page import page
from tests.attacks.table import Attack, Effect, Expected, Kind, Row, read_attacks

_ROW: dict[str, Any] = {
    "name": "id by the shell",
    "kind": "new program",
    "technique": "T1033",
    "enters": "shell",
    "command": "id",
    "names": ["/usr/bin/id"],
    "effect": {"says": "uid=0"},
    "expected": "prevented",
}


def _audit(**fields: Any) -> dict[str, Any]:
    return {
        "type": "unknown_program",
        "program": "/usr/bin/id",
        "path": "/usr/bin/id",
        "path2": "",
        "outcome": "alerted",
        "guarantee": "kill",
        **fields,
    }


def _result(mode: Mode, *audits: dict[str, Any], effect: bool, **row: Any) -> Result:
    attack = Attack("web", Row.model_validate({**_ROW, **row}))
    return Result(attack, mode, audits=list(audits), effect=effect)


def test_the_set_is_large_and_covers_every_kind() -> None:
    """At least 60 attacks, and several of each kind and on each service."""
    attacks = read_attacks()
    assert len(attacks) >= 60
    kinds = Counter(attack.row.kind for attack in attacks)
    assert set(kinds) == set(Kind)
    assert min(kinds.values()) >= 10
    assert min(Counter(attack.service for attack in attacks).values()) >= 10


def test_places_make_one_attack_each(tmp_path: Path) -> None:
    """The place and its parts are put into every text of the row."""
    (tmp_path / "web.yaml").write_text(
        "service: web\nattacks:\n"
        "- {name: 'planted in {place}', kind: new program, technique: T1105, enters: shell,\n"
        "   command: 'cd {directory}; ./{base}', names: ['{place}'], effect: {exists: '{place}'},\n"
        "   expected: prevented, places: [/tmp/x, /var/tmp/y]}\n"
    )
    first, second = read_attacks(tmp_path)
    assert first.row.command == "cd /tmp; ./x"
    assert second.row.names == ["/var/tmp/y"]
    assert second.row.effect.exists == "/var/tmp/y"
    assert second.name == "web: planted in /var/tmp/y"


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ("enters: telnet", r"web\.yaml:\d+: attacks\[0\]\.enters: 'telnet'; expected one of"),
        ("technique: T1", r"attacks\[0\]\.technique"),
        ("kind: magic", r"attacks\[0\]\.kind"),
        ("expected: missed", r"attacks\[0\]\.miss: expected an explanation"),
        ("attempt: it never works", r"expected either an effect, or an attempt"),
        ("effect: {mode: {/x: rws}}", r"octal"),
        ("places: [/tmp]", r"expected places and \{place\}"),
        ("colour: red", r"attacks\[0\]\.colour"),
        ("needs: luck", r"attacks\[0\]\.needs"),
    ],
)
def test_a_wrong_row_is_named_with_its_line(tmp_path: Path, change: str, complaint: str) -> None:
    """What a row may not say is one line with file, line and field."""
    field = change.partition(":")[0]
    lines = [
        "name: x by y", "kind: new program", "technique: T1033", "enters: shell", "command: id",
        "names: [/usr/bin/id]", "effect: {says: uid}", "expected: prevented",
    ]  # fmt: skip
    kept = [line for line in lines if not line.startswith(f"{field}:")]
    text = "\n  ".join([*kept, change])
    (tmp_path / "web.yaml").write_text(f"service: web\nattacks:\n- {text}\n")
    with pytest.raises(YamlFileError, match=complaint) as raised:
        read_attacks(tmp_path)
    assert "\n" not in str(raised.value)


def test_the_same_name_twice_is_refused(tmp_path: Path) -> None:
    """Results are found by name."""
    row = "\n  ".join(f"{key}: {value}" for key, value in {**_ROW, "effect": "{says: x}"}.items())
    (tmp_path / "web.yaml").write_text(f"service: web\nattacks:\n- {row}\n- {row}\n")
    with pytest.raises(YamlFileError, match="the name of another attack"):
        read_attacks(tmp_path)


def test_an_audit_must_name_the_program_or_path() -> None:
    """Another program, or another type than the row asks for, is no catch."""
    row = Row.model_validate(_ROW)
    assert names(row, _audit())
    assert not names(row, _audit(program="/usr/bin/dash", path="/usr/bin/dash"))
    assert names(row, _audit(program="/usr/bin/dash", path="/x", path2="/usr/bin/id"))
    typed = Row.model_validate({**_ROW, "types": ["changed_program"]})
    assert not names(typed, _audit())
    assert names(typed, _audit(type="changed_program"))


@pytest.mark.parametrize(
    ("mode", "audits", "effect", "answers", "verdict"),
    [
        (Mode.ALERT, [{}], True, True, Verdict.CAUGHT),
        (Mode.ALERT, [], True, True, Verdict.MISSED),
        (Mode.ALERT, [{"program": "/x", "path": "/x"}], True, True, Verdict.MISSED),
        (Mode.ALERT, [{}], False, True, Verdict.BROKEN),
        (Mode.PREVENT, [{"outcome": "killed"}], False, True, Verdict.KILLED),
        (Mode.PREVENT, [{"outcome": "denied"}], False, True, Verdict.REFUSED),
        (Mode.PREVENT, [{"outcome": "killed"}], False, False, Verdict.DOWN),
        (Mode.PREVENT, [{"outcome": "killed"}], True, True, Verdict.CAUGHT),
        (Mode.PREVENT, [], True, True, Verdict.MISSED),
        (Mode.PREVENT, [], False, True, Verdict.MISSED),
    ],
)
def test_verdicts(
    mode: Mode, audits: list[dict[str, Any]], effect: bool, answers: bool, verdict: Verdict
) -> None:
    """Prevented means: told, without effect, and the service still answers."""
    result = _result(mode, *(_audit(**fields) for fields in audits), effect=effect)
    result.answers = answers
    assert result.verdict is verdict


@pytest.mark.parametrize("expected", list(Expected))
def test_only_what_is_explained_may_be_missed(expected: Expected) -> None:
    """A miss is good only where the table says why, a catch always."""
    miss = "because" if expected is Expected.MISSED else ""
    missed = _result(Mode.ALERT, effect=True, expected=expected, miss=miss)
    caught = _result(Mode.ALERT, _audit(), effect=True, expected=expected, miss=miss)
    assert missed.is_good("kill") is (expected is Expected.MISSED)
    assert caught.is_good("kill")
    assert caught.is_better is (expected is Expected.MISSED)


def test_where_hooks_deny_being_seen_is_not_enough() -> None:
    """What tracepoints only see must be refused where the guarantee is deny."""
    seen = _result(Mode.PREVENT, _audit(), effect=True, expected="seen")
    assert seen.is_good("kill")
    assert not seen.is_good("deny")


def test_what_is_done_again_takes_the_place_of_what_was_kept(tmp_path: Path) -> None:
    """Results come back as they were; attacks that the table no longer has do not."""
    first = _result(Mode.ALERT, _audit(), effect=True)
    other = _result(Mode.ALERT, effect=True, name="another one")
    keep([first, other], tmp_path)
    again = _result(Mode.ALERT, effect=True)
    again.said = "something else"
    keep([again], tmp_path)
    assert kept([first.attack, other.attack], tmp_path) == [again, other]
    assert kept([other.attack], tmp_path) == [other]


def test_a_gap_is_no_failure_and_its_end_is_said() -> None:
    """A row may say what should be and why it is not yet."""
    gap = {"expected": "prevented", "miss": "not yet"}
    assert _result(Mode.ALERT, effect=True, **gap).is_good("kill")
    closed = _result(Mode.ALERT, _audit(), effect=True, **gap)
    assert closed.is_good("kill")
    assert closed.is_better


def test_the_page_explains_every_miss() -> None:
    """Verdicts by kind, and the reason of each miss."""
    results = [
        _result(Mode.ALERT, _audit(), effect=True),
        _result(Mode.ALERT, effect=True, name="reading", expected="missed", miss="not observed"),
    ]
    results[0].before = [_audit(program="/usr/sbin/d", path="/run/d.pid.abcdef")]
    text = page(results)
    assert "| web | /usr/sbin/d | /run | 1 |" in text
    assert "| new program | 2 | 1 caught, 1 missed |" in text
    assert re.search(r"\| web: reading \| new program \| T1033 \| not observed \|", text)
    assert Effect().is_empty
