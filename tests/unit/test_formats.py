"""Every form of every kind of audit keeps to its schema."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import jsonschema
import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sensor.audits.audit import Action, Audit, AuditType, Guarantee, Sensor, Severity, Step
from sensor.audits.formats import FORMATS, one_line, render, to_ecs, to_falco, to_json, to_ocsf
from sensor.audits.mitre import TACTICS, TECHNIQUES, tactics, technique_name
from sensor.audits.native import audit_schema
from sensor.audits.parts import ImageName, ProgramName, acting, image_name, program_name
from sensor.events import Operation, Origin
from tests.unit.schemas import ecs_errors, falco_errors, ocsf_errors

ROOT = Path(__file__).parents[2]
VALIDATOR = jsonschema.Draft202012Validator(audit_schema())
EVIL = "/data/\udcff\n\x1b[31m\u202e#x"
_PROCESS = (
    AuditType.UNKNOWN_PROGRAM, AuditType.UNKNOWN_PARENT, AuditType.CHANGED_PROGRAM,
    AuditType.MEMORY_PROGRAM, AuditType.EXEC_SESSION, AuditType.SETUID_PROGRAM,
    AuditType.DENIED_PROGRAM,
)  # fmt: skip
_FILES = (
    AuditType.UNKNOWN_WRITE, AuditType.PROTECTED_WRITE, AuditType.UNRESOLVED_OBJECT,
    AuditType.DENIED_PATH,
)  # fmt: skip


def audit_of(kind: AuditType, **values: Any) -> Audit:
    """A full audit of a type, as its sensor would make it."""
    defaults: dict[str, Any] = {
        "time_ns": 1_790_000_000_123_456_789,
        "last_ns": 1_790_000_060_123_456_789,
        "host": "node-1",
        "container_id": "ab" * 32,
        "container_name": "web",
        "image": "registry:5000/shop/web:1.2",
        "sensor": Sensor.SELF,
        "type": kind,
        "severity": Severity.HIGH,
        "model_id": "sha256:" + "a" * 64 + "~0123456789ab",
        "model_state": "active",
        "action": Action.BLOCK,
        "guarantee": Guarantee.DENY,
        "runtime": "docker",
        "id": 7,
        "sequence": 9,
        "hash": "c" * 64,
    }
    acts = {
        "program": "/bin/busybox#wget",
        "parents": ("/bin/busybox#sh", "/usr/sbin/nginx"),
        "argv": ("wget", "http://x y/", EVIL),
        "cwd": "/srv",
        "uid": 33,
        "gid": 33,
        "pid": 4711,
        "origin": "image",
        "technique": ("T1105", "T1053.003"),
        "remarks": ("the path is not whole",),
    }
    if kind in _PROCESS:
        defaults |= acts | {"sensor": Sensor.PROCESS, "operation": "exec", "path": "/bin/busybox"}
    elif kind in _FILES:
        defaults |= acts | {"sensor": Sensor.FILESYSTEM, "operation": "create", "path": "/etc/x"}
    else:
        defaults |= {
            "steps": (
                Step("freeze", "done", "", 0.0123456),
                Step("stop", "failed", "no answer\n" + EVIL, 10.0),
            ),
            "extra": {"by": "root", "cause": EVIL},
        }
    return Audit(**{**defaults, **values})


AUDITS = [
    *(pytest.param(audit_of(kind), id=str(kind)) for kind in AuditType),
    pytest.param(audit_of(AuditType.UNKNOWN_PROGRAM, count=1, last_ns=0), id="once"),
    pytest.param(audit_of(AuditType.UNKNOWN_PROGRAM, count=5), id="five times"),
    pytest.param(
        audit_of(AuditType.CHANGED_PROGRAM, path=EVIL, program=EVIL, extra={"sha256": "d" * 64}),
        id="odd bytes, with a hash",
    ),
    pytest.param(
        audit_of(AuditType.UNKNOWN_WRITE, path=EVIL, path2="/b", operation="rename"), id="rename"
    ),
    pytest.param(
        audit_of(AuditType.UNKNOWN_WRITE, program="", parents=(), argv=(), path="/"), id="bare"
    ),
    pytest.param(
        audit_of(
            AuditType.EXEC_SESSION,
            namespace="shop",
            pod="web-0",
            pod_container="w",
            actor="session",
        ),
        id="pod",
    ),
    pytest.param(
        audit_of(AuditType.RULES_CHANGED, container_id="", container_name="", image="", steps=()),
        id="of the host",
    ),
    pytest.param(
        audit_of(AuditType.EVENTS_LOST, extra={}, steps=(), rule="", model_id=""), id="empty"
    ),
    *(
        pytest.param(audit_of(AuditType.DENIED_PATH, outcome=outcome, errno=13), id=outcome)
        for outcome in ("denied", "killed", "would-alert", "would-block")
    ),
    *(
        pytest.param(audit_of(AuditType.UNKNOWN_WRITE, operation=op.name.lower()), id=op.name)
        for op in Operation
    ),
    *(pytest.param(audit_of(AuditType.EXEC_SESSION, severity=s), id=s.name) for s in Severity),
    pytest.param(audit_of(AuditType.EXEC_SESSION, image="sha256:" + "e" * 64), id="no image name"),
]


def check(audit: Audit) -> None:
    """Hold every form of an audit against its schema."""
    native = to_json(audit)
    VALIDATOR.validate(native)
    assert ocsf_errors(to_ocsf(audit)) == []
    assert to_ocsf(audit)["unmapped"]["rote"] == native
    assert ecs_errors(to_ecs(audit), "rote") == []
    assert falco_errors(to_falco(audit), "rote.") == []
    for shape in FORMATS.values():
        text = orjson.dumps(shape(audit)).decode()  # raises for what is no UTF-8
        assert "\\u001b" not in text
        assert "\\n" not in text.replace("\\\\n", "")


@pytest.mark.parametrize("audit", AUDITS)
def test_every_form_keeps_to_its_schema(audit: Audit) -> None:
    """Unknown, missing, wrongly typed or wrongly valued attributes are mistakes."""
    check(audit)
    assert "\x1b" not in one_line(audit) + render(audit)


_TEXT = st.text(st.characters(codec="utf-8"), max_size=30) | st.sampled_from(
    ["", "/", "//", "#", "a#b", "/a#b/", ":", "@", "a:b@c", EVIL, "\udcff"]
)
_TEXTS = st.lists(_TEXT, max_size=4).map(tuple)


@settings(max_examples=150, deadline=None)
@given(
    st.builds(
        audit_of,
        st.sampled_from(AuditType),
        sensor=st.sampled_from(Sensor),
        severity=st.sampled_from(Severity),
        action=st.sampled_from(Action),
        guarantee=st.sampled_from(Guarantee),
        operation=st.sampled_from(["", *(op.name.lower() for op in Operation)]),
        origin=st.sampled_from([origin.name.lower() for origin in Origin]),
        outcome=st.sampled_from(["observed", "denied", "killed", "would-prevent"]),
        technique=st.lists(st.sampled_from(sorted(TECHNIQUES)), max_size=3).map(tuple),
        host=_TEXT.filter(bool),
        container_id=_TEXT,
        container_name=_TEXT,
        image=_TEXT,
        model_id=_TEXT,
        rule=_TEXT,
        program=_TEXT,
        parents=_TEXTS,
        argv=_TEXTS,
        path=_TEXT,
        path2=_TEXT,
        cwd=_TEXT,
        pod=_TEXT,
        namespace=_TEXT,
        pid=st.integers(0, 1 << 22),
        uid=st.integers(0, (1 << 32) - 1),
        count=st.integers(1, 1 << 40),
        extra=st.dictionaries(_TEXT, _TEXT, max_size=3),
    )
)
def test_no_text_breaks_a_form(audit: Audit) -> None:
    """Whatever a container calls things, what comes out is valid."""
    check(audit)


def test_the_published_schema_is_current() -> None:
    """docs/audit.schema.json is what scripts/gen-docs makes, and is a schema."""
    text = (ROOT / "docs/audit.schema.json").read_text(encoding="utf-8")
    assert json.loads(text) == audit_schema(), "run scripts/gen-docs"
    jsonschema.Draft202012Validator.check_schema(audit_schema())


def test_the_schema_refuses_what_is_not_ours() -> None:
    """A schema that takes anything would prove nothing."""
    good = to_json(audit_of(AuditType.UNKNOWN_WRITE))
    for change in (
        {"new": 1}, {"severity": "bad"}, {"count": 0}, {"time": "yesterday"}, {"hash": "x"},
        {"technique": ["x"]}, {"steps": [{"step": "x"}]}, {"extra": {"x": 1}},
    ):  # fmt: skip
        with pytest.raises(jsonschema.ValidationError):
            VALIDATOR.validate({**good, **change})
    del good["outcome"]
    with pytest.raises(jsonschema.ValidationError):
        VALIDATOR.validate(good)


def test_the_checkers_find_mistakes() -> None:
    """What they are silent about is right: each kind of mistake is one they name."""
    audit = audit_of(AuditType.UNKNOWN_PROGRAM)
    finding = to_ocsf(audit)
    change: dict[str, Any]
    for change, message in (
        ({"nonsense": 1}, "unknown attribute"),
        ({"severity_id": 17}, "not in the enum"),
        ({"severity": "Info"}, "is not 'High'"),
        ({"count": "1"}, "is no integer_t"),
        ({"is_alert": 1}, "is no boolean_t"),
        ({"device": {"type_id": 1}}, "at_least_one"),
        ({"device": {"hostname": "h"}}, "type_id: required"),
        ({"finding_info": {"title": "x"}}, "uid: required"),
        ({"evidences": {}}, "expected an array"),
        ({"evidences": [{"actor": {}}]}, "not in the trimmed copy"),
        ({"cloud": {}}, "its profile"),
        ({"type_uid": 200402}, "type_uid"),
    ):
        assert any(message in error for error in ocsf_errors({**finding, **change})), message
    document = to_ecs(audit)
    for path, value, message in (
        ("event.nonsense", 1, "no field"),
        ("event.kind", "nonsense", "not allowed"),
        ("event.severity", "1", "is no long"),
        ("event.category", "file", "array"),
        ("event.type", ["protocol"], "not expected with"),
        ("event.start", "now", "no date"),
    ):
        outer, inner = path.split(".")
        wrong = {**document, outer: {**document[outer], inner: value}}
        assert any(message in error for error in ecs_errors(wrong, "rote")), message
    alert = to_falco(audit)
    for change, message in (
        ({"nonsense": 1}, "not of Falco"),
        ({"rule": ""}, "rule: missing"),
        ({"priority": "High"}, "priority"),
        ({"time": "now"}, "time"),
        ({"tags": ["b", "a"]}, "set"),
        ({"output_fields": {"proc.nonsense": 1}}, "no field"),
        ({"output_fields": {"proc.pid": "1"}}, "is no integer"),
        ({"output_fields": {"rote.steps": []}}, "plain value"),
    ):
        assert any(message in error for error in falco_errors({**alert, **change}, "rote."))


def test_ocsf_says_what_was_done() -> None:
    """Denied, killed, told of and only noted are told apart; a kill is no denial."""
    kind = AuditType.UNKNOWN_WRITE
    for values, expected in (
        ({"outcome": "denied"}, (2, 2, True)),
        ({"outcome": "killed"}, (99, 99, True)),
        ({"outcome": "observed"}, (3, 19, True)),
        ({"outcome": "would-alert"}, (3, 15, False)),
        ({"outcome": "observed", "severity": Severity.INFO}, (3, 17, False)),
    ):
        found = to_ocsf(audit_of(kind, **values))
        shown = (found["action_id"], found["disposition_id"], found["is_alert"])
        assert shown == expected, values
    isolated = to_ocsf(audit_of(AuditType.CONTAINER_QUARANTINED))
    assert (isolated["action_id"], isolated["disposition"]) == (2, "Isolated")
    assert [s["step"] for s in isolated["evidences"][0]["data"]["steps"]] == ["freeze", "stop"]


def test_ocsf_says_who_and_where() -> None:
    """Analytic, attack, container, process and parent are where a reader of OCSF looks."""
    found = to_ocsf(audit_of(AuditType.UNKNOWN_PROGRAM, extra={"sha256": "d" * 64}))
    analytic = found["finding_info"]["analytic"]
    assert (analytic["type_id"], analytic["related_analytics"][0]["name"]) == (4, "default")
    by_rule = to_ocsf(audit_of(AuditType.DENIED_PATH, rule="no shells"))
    assert by_rule["finding_info"]["analytic"]["type_id"] == 1
    assert by_rule["policy"] == {"name": "no shells"}
    transfer, cron = found["finding_info"]["attacks"]
    assert transfer["tactic"] == {"uid": "TA0011", "name": "Command and Control"}
    assert cron["technique"] == {"uid": "T1053", "name": "Scheduled Task/Job"}
    assert cron["sub_technique"] == {"uid": "T1053.003", "name": "Cron"}
    evidence = found["evidences"][0]
    assert evidence["container"]["image"] == {
        "uid": "sha256:" + "a" * 64,
        "name": "registry:5000/shop/web",
        "tag": "1.2",
    }
    process = evidence["process"]
    assert (process["name"], process["file"]["path"]) == ("wget", "/bin/busybox")
    assert process["file"]["hashes"][0]["value"] == "d" * 64
    assert process["parent_process"]["name"] == "sh"
    assert [p["name"] for p in process["ancestry"]] == ["sh", "nginx"]
    renamed = to_ocsf(audit_of(AuditType.UNKNOWN_WRITE, path="/a", path2="/b", operation="rename"))
    assert [e["file"]["path"] for e in renamed["evidences"]] == ["/a", "/b"]


def test_ecs_and_falco_say_who_and_where() -> None:
    """The fields that rules for other sensors look at hold what they hold there."""
    audit = audit_of(AuditType.DENIED_PATH, outcome="denied", pod="web-0", namespace="shop")
    ecs = to_ecs(audit)
    assert ecs["event"]["type"] == ["creation", "denied"]
    assert (ecs["event"]["outcome"], ecs["event"]["kind"]) == ("failure", "alert")
    assert ecs["process"]["parent"]["executable"] == "/bin/busybox"
    assert ecs["container"]["image"]["name"] == "registry:5000/shop/web"
    assert ecs["orchestrator"]["resource"] == {"type": "pod", "name": "web-0"}
    assert ecs["threat"]["technique"]["subtechnique"]["id"] == ["T1053.003"]
    falco = to_falco(audit)
    fields = falco["output_fields"]
    assert (falco["priority"], falco["rule"], falco["source"]) == ("Error", "default", "rote")
    assert (fields["container.id"], fields["fd.name"]) == ("abababababab", "/etc/x")
    assert (fields["proc.name"], fields["proc.pname"]) == ("wget", "sh")
    assert falco["uuid"] == to_falco(audit)["uuid"]
    assert falco["uuid"] != to_falco(audit_of(AuditType.DENIED_PATH, id=8))["uuid"]


@pytest.mark.parametrize("shape", FORMATS.values(), ids=FORMATS)
def test_every_form_carries_the_chain(shape: Any) -> None:
    """Whoever got an audit can check the chain against it later."""
    text = orjson.dumps(shape(audit_of(AuditType.UNKNOWN_WRITE))).decode()
    assert "c" * 64 in text
    assert '"sequence":9' in text.replace('"rote.sequence"', '"sequence"')


def test_names_come_apart() -> None:
    """Images and programs, with ports, digests, applets and odd names."""
    for text, image in (
        ("nginx:1.25", ("nginx", "1.25", "")),
        ("host:5000/a/b", ("host:5000/a/b", "", "")),
        ("host:5000/a:1@sha256:ab", ("host:5000/a", "1", "sha256:ab")),
        ("sha256:ab", ("", "", "sha256:ab")),
        ("", ("", "", "")),
    ):
        assert image_name(text) == ImageName(*image)
    for text, program in (
        ("/bin/busybox#sh", ("/bin/busybox", "sh")),
        ("/bin/nc", ("/bin/nc", "nc")),
        ("/a#b/c", ("/a#b/c", "c")),
        ("/#x", ("/#x", "#x")),
        ("/", ("/", "/")),
    ):
        assert program_name(text) == ProgramName(*program)
    # An execution has the path by itself, so that a "#" in it does no harm.
    odd = audit_of(AuditType.UNKNOWN_PROGRAM, path="/tmp/a#b", program="/tmp/a#b")
    assert acting(odd)[0] == ProgramName("/tmp/a#b", "a#b")


@pytest.mark.parametrize("technique", TECHNIQUES)
def test_every_technique_has_its_tactics(technique: str) -> None:
    """A technique without tactics or without its parent's name is forgotten in mitre.py."""
    assert tactics(technique)
    assert all(tactic in TACTICS for tactic in tactics(technique))
    assert technique_name(technique.partition(".")[0])
