"""Rules: files and their faults, scopes, order, and what they lead to in the loop."""

from __future__ import annotations

import hashlib
import os
import subprocess
from itertools import pairwise
from pathlib import Path
from typing import Any

import jsonschema
import orjson
import pytest
import yaml

from sensor.audits.audit import Action, Audit, AuditType
from sensor.containers.registry import ContainerChange
from sensor.errors import BadInputError, UsageError
from sensor.events import Actor, Detection, EventFlag, Operation, Origin
from sensor.kernel.port import ContainerFlag
from sensor.models.arguments import exec_key
from sensor.models.keys import Program
from sensor.models.model import Evidence
from sensor.rules.detection import HARD, SOFT
from sensor.rules.explain import chosen, explain
from sensor.rules.files import RuleSet, read_rules
from sensor.rules.keeper import RuleKeeper
from sensor.rules.policy import DEFAULT, Policy
from sensor.rules.replay import replay
from sensor.rules.rule import Rule
from sensor.rules.schema import json_schema
from sensor.rules.scope import Where
from sensor.testing import ReplayKernel
from tests.unit.builders import CGROUP, IMAGE, change, container, execution
from tests.unit.stories import LEARN_SECONDS, Story, session

BOMB = "a: &a [x,x,x,x,x,x,x,x,x,x]\n" + "".join(
    f"{new}: &{new} [{','.join([f'*{old}'] * 10)}]\n" for old, new in pairwise("abcdef")
)


def read(directory: Path, *rules: dict[str, Any]) -> RuleSet:
    """Rules, written to a file and read again; they fit the published schema."""
    content = {"version": 1, "rules": list(rules)}
    jsonschema.validate(content, json_schema())
    (directory / "rules.yaml").write_text(yaml.safe_dump(content))
    return read_rules(directory / "rules.yaml")


def policy(directory: Path, *rules: dict[str, Any]) -> Policy:
    """A policy of such rules."""
    return Policy(rules=read(directory, *rules).rules)


def story(directory: Path, *rules: dict[str, Any]) -> Story:
    """A host that can deny, with such rules."""
    return Story(directory, ReplayKernel(guarantee="deny"), policy(directory, *rules))


def outcomes(story: Story) -> list[tuple[AuditType, Action, str]]:
    """What became of each deviation."""
    return [(audit.type, audit.action, audit.outcome) for audit in story.recorded()]


@pytest.mark.parametrize(
    ("text", "place", "expected"),
    [
        ("rules: []", ":1: ", "version: missing"),
        ("version: 2\nrules: []", ":1: ", "expected 1"),
        ("version: 1\nruls: []", ":2: ", "did you mean 'rules'?"),
        (
            "version: 1\nrules:\n- name: x\n  proceses: {}",
            ":4: ",
            "did you mean 'processes'?",
        ),
        (
            "version: 1\nrules:\n- name: x\n  processes:\n    unknown_program: prvent",
            ":5: ",
            "did you mean 'prevent'?",
        ),
        (
            "version: 1\nrules:\n- name: x\n  filesystem:\n    deny: [/tmp/*.sh]",
            ":5: ",
            "a whole component '*'",
        ),
        (
            "version: 1\nrules:\n- name: x\n  processes:\n    deny: [{sha256: abc}]",
            ":5: ",
            "64 hexadecimal digits",
        ),
        ("version: 1\nrules:\n- kind: contaner\n  name: x", ":3: ", "did you mean 'container'?"),
        ("version: 1\nrules:\n- name: default", ":3: ", "built in"),
        (
            "version: 1\nrules:\n- name: x\n- name: x",
            ":4: ",
            "is the name of another rule",
        ),
        ("version: 1\nrules: [", "", ""),
        (BOMB, "", ""),
    ],
)
def test_a_bad_file_is_one_line_with_its_place(
    tmp_path: Path, text: str, place: str, expected: str
) -> None:
    """File, line, field, what was expected, and the nearest valid name."""
    path = tmp_path / "bad.yaml"
    path.write_text(text)
    with pytest.raises(BadInputError) as caught:
        read_rules(tmp_path)
    message = str(caught.value)
    assert message.startswith(str(path) + place)
    assert expected in message
    assert "\n" not in message


def test_files_that_are_none_are_said(tmp_path: Path) -> None:
    """A directory, a loop of links, and a file beyond all measure."""
    (tmp_path / "a.yaml").mkdir()
    with pytest.raises(BadInputError, match=r"a\.yaml"):
        read_rules(tmp_path)
    (tmp_path / "a.yaml").rmdir()
    (tmp_path / "a.yaml").symlink_to("a.yaml")
    with pytest.raises(BadInputError, match=r"a\.yaml"):
        read_rules(tmp_path)
    (tmp_path / "a.yaml").unlink()
    (tmp_path / "a.yaml").write_bytes(b"#" * (10 << 20))
    with pytest.raises(BadInputError, match=r"a\.yaml"):
        read_rules(tmp_path)


def test_a_bad_file_leaves_the_rules_that_hold(tmp_path: Path) -> None:
    """All or nothing; the reason stays to be seen until the files are good again."""
    keeper = RuleKeeper(tmp_path, Policy())
    (tmp_path / "10-a.yaml").write_text("version: 1\nrules: [{name: a}]")
    keeper.reload()
    assert not keeper.changed()
    (tmp_path / "20-b.yaml").write_text("version: 1\nrules: [{name: b, tpyo: 1}]")
    assert keeper.changed()
    with pytest.raises(BadInputError):
        keeper.reload()
    assert [rule.name for rule in keeper.policy.rules] == ["a"]
    assert "20-b.yaml" in keeper.error
    (tmp_path / "20-b.yaml").write_text("version: 1\nrules: [{name: b}]")
    keeper.reload()
    assert [rule.name for rule in keeper.policy.rules] == ["a", "b"]
    assert not keeper.error
    os.utime(tmp_path / "10-a.yaml", (1, 1))
    assert keeper.changed()


def test_other_kinds_parse(tmp_path: Path) -> None:
    """Vulnerability and compliance rules are kept for who judges images."""
    found = read(
        tmp_path,
        {"kind": "vulnerability", "name": "v", "block": "critical", "exceptions": [
            {"cve": "CVE-2026-1", "reason": "not reachable", "expires": "2027-01-01"}]},
        {"kind": "compliance", "name": "c", "template": "cis-docker", "checks": {"5.4": "block"}},
    )  # fmt: skip
    assert [rule.kind for rule in found.image_rules] == ["vulnerability", "compliance"]
    assert not found.rules


@pytest.mark.parametrize(
    ("scope", "matches"),
    [
        ({}, True),
        ({"images": "shop/*"}, True),
        ({"images": ["shop/*", "!shop/web*"]}, False),
        ({"images": ["!other/*"]}, True),
        ({"containers": "web", "images": "other"}, False),
        ({"labels": {"tier": "front*"}}, True),
        ({"labels": {"tier": "!front"}}, False),
        ({"labels": {"absent": "*"}}, False),
        ({"labels": {"absent": "!x"}}, True),
        ({"namespaces": "prod"}, False),
        ({"hosts": "node-*", "clusters": "eu"}, True),
        ({"hosts": "!node-1"}, False),
    ],
)
def test_scopes(tmp_path: Path, scope: dict[str, Any], matches: bool) -> None:
    """All fields must hold; "!" excludes; a label that is missing matches nothing but exclusion."""
    (rule,) = read(tmp_path, {"name": "x", "scope": scope}).rules
    who = container(labels={"tier": "front"})
    assert rule.scope.matches(who, Where("node-1", "eu")) is matches


def test_only_the_first_rule_that_matches_counts(tmp_path: Path) -> None:
    """Later ones add nothing, and the shipped default alerts on everything."""
    rules = policy(
        tmp_path,
        {"name": "web", "scope": {"containers": "web"}},
        {"name": "all", "processes": {"default": "prevent"}},
    )
    assert rules.rule(container()).action(Detection.UNKNOWN_PROGRAM) is Action.ALERT
    assert rules.rule(container("db")).action(Detection.UNKNOWN_PROGRAM) is Action.PREVENT
    assert Policy().rule(container()) is DEFAULT
    assert all(DEFAULT.action(d) is Action.ALERT for d in Detection if d)
    assert [row["counts"][:3] for row in chosen(container("db"), rules)] == ["no:", "yes"]


def test_each_kind_of_deviation_has_its_action(tmp_path: Path) -> None:
    """What is prevented is refused by the kernel; what is ignored is not told."""
    host = story(
        tmp_path,
        {
            "name": "web",
            "processes": {
                "unknown_program": "alert",
                "unknown_parent": "prevent",
                "memory_program": "prevent",
                "setuid_program": "prevent",
            },
            "filesystem": {"unknown_write": "ignore", "protected_write": "prevent"},
        },
    )
    host.learn(execution("/bin/tool"), execution("/bin/other"))
    host.happen(
        execution("/bin/new"),
        execution("/bin/tool", "/bin/other"),
        execution("/memfd:x", origin=Origin.MEMORY),
        execution("/bin/su", flags=EventFlag.SETUID),
        change("/srv/data"),
        change("/etc/passwd"),
    )
    assert outcomes(host) == [
        (AuditType.UNKNOWN_PROGRAM, Action.ALERT, "observed"),
        (AuditType.UNKNOWN_PARENT, Action.PREVENT, "denied"),
        (AuditType.MEMORY_PROGRAM, Action.PREVENT, "denied"),
        (AuditType.SETUID_PROGRAM, Action.PREVENT, "denied"),
        (AuditType.PROTECTED_WRITE, Action.PREVENT, "denied"),
    ]
    assert {audit.rule for audit in host.recorded()} == {"web"}


def test_what_a_rule_allows_is_silent_in_the_kernel(tmp_path: Path) -> None:
    """By path, by pattern and by name; but neither elsewhere nor written at run time."""
    host = story(
        tmp_path,
        {
            "name": "web",
            "processes": {
                "default": "prevent",
                "allow": ["/opt/*/tool", "jq", {"path": "/plugins/**", "added": True}],
            },
            "filesystem": {
                "default": "prevent",
                "allow": ["/data/**", {"path": "/log", "by": "/bin/serve"}],
            },
        },
    )
    host.learn(execution("/bin/tool"))
    assert not host.happen(
        execution("/opt/x/tool"),
        execution("/usr/bin/jq"),
        execution("/plugins/a/b", origin=Origin.ADDED),
        change("/data/a/b"),
        change("/log"),
        change("/data/c", "/opt/x/tool"),
    )
    assert host.happen(
        execution("/opt/x/tool", origin=Origin.ADDED),
        execution("/opt/x/y/tool"),
        execution("/usr/bin/jq", "", actor=Actor.SESSION),
        change("/data"),
        change("/log", "/bin/tool"),
    ) == 5  # fmt: skip
    assert {outcome for _, _, outcome in outcomes(host)} == {"denied", "observed"}


def test_what_a_rule_denies_is_refused_though_the_model_knows_it(tmp_path: Path) -> None:
    """Also while the model still learns, and it is never learned."""
    host = story(
        tmp_path,
        {
            "name": "web",
            "processes": {"deny": ["nc", "/opt/**"]},
            "filesystem": {"deny": ["/data/secret/**", {"path": "/x", "by": "/bin/tool"}]},
        },
    )
    host.start()
    host.happen(execution("/bin/busybox", applet="nc"), execution("/opt/a"))
    host.happen(change("/data/<N>/x".replace("<N>", "12")), change("/data/secret/1"))
    host.happen(change("/x"), change("/x", "/bin/tool"))
    denied = [
        (AuditType.DENIED_PROGRAM, Action.PREVENT, "denied"),
        (AuditType.DENIED_PROGRAM, Action.PREVENT, "denied"),
        (AuditType.DENIED_PATH, Action.PREVENT, "denied"),
        (AuditType.DENIED_PATH, Action.PREVENT, "denied"),
    ]
    assert outcomes(host) == denied
    model = host.models.all()[0]
    assert not any("nc" in str(key) or "secret" in str(key) for key in model.keys)


def test_a_denial_comes_and_goes_with_the_rules(tmp_path: Path) -> None:
    """Rules change while a container runs; what the model knows comes back."""
    host = story(tmp_path)
    host.learn(execution("/bin/tool"), change("/data/1"))
    assert not host.happen(execution("/bin/tool"))
    host.pipeline.set_policy(
        policy(
            tmp_path,
            {
                "name": "web",
                "processes": {"deny": ["/bin/tool"]},
                "filesystem": {"deny": ["/data/**"]},
            },
        )
    )
    assert host.happen(execution("/bin/tool"), change("/data/2")) == 2
    assert [kind for kind, _, _ in outcomes(host)] == [
        AuditType.DENIED_PROGRAM,
        AuditType.DENIED_PATH,
    ]
    host.pipeline.set_policy(Policy())
    assert not host.happen(execution("/bin/tool"), change("/data/3"))


def test_arguments_are_judged_when_they_are_known(tmp_path: Path) -> None:
    """The program runs; with the arguments that a rule denies it is killed, and said so."""
    host = story(
        tmp_path,
        {
            "name": "web",
            "processes": {
                "default": "prevent",
                "deny": [{"path": "/bin/tool", "args": "*--evil*"}],
                "allow": [{"name": "curl", "args": "https://shop/*"}],
            },
        },
    )
    host.learn(execution("/bin/tool"))
    host.happen(
        execution("/bin/tool", argv=("tool", "--good")),
        execution("/usr/bin/curl", argv=("curl", "https://shop/x")),
    )
    assert not host.recorded()
    now = int(host.now * 1e9)
    host.happen(
        execution("/bin/tool", argv=("tool", "-x", "--evil=1"), pid=7, time_ns=now),
        execution("/usr/bin/curl", argv=("curl", "https://evil"), pid=8, time_ns=now),
    )
    assert outcomes(host) == [
        (AuditType.DENIED_PROGRAM, Action.PREVENT, "killed"),
        (AuditType.UNKNOWN_PROGRAM, Action.PREVENT, "killed"),
    ]
    assert [call["pid"] for call in host.kernel.called("kill")] == [7, 8]


def test_a_digest_denies_whatever_the_name(tmp_path: Path) -> None:
    """The file is read when it runs."""
    digest = hashlib.sha256(Path("/bin/sleep").read_bytes()).hexdigest()
    host = story(tmp_path, {"name": "web", "processes": {"deny": [{"sha256": digest}]}})
    host.learn(execution("/bin/tool"))
    process = subprocess.Popen(["/bin/sleep", "60"])
    try:
        host.happen(execution("/tmp/renamed", pid=process.pid, origin=Origin.IMAGE))
    finally:
        process.kill()
        process.wait(10)
    assert [kind for kind, _, _ in outcomes(host)] == [AuditType.DENIED_PROGRAM]


def test_a_digest_denies_what_the_model_knows(tmp_path: Path) -> None:
    """It is looked up when the container runs, also when its model was loaded before."""
    path = str(Path("/bin/sleep").resolve())
    digest = hashlib.sha256(Path(path).read_bytes()).hexdigest()
    host = story(
        tmp_path,
        {"name": "web", "processes": {"default": "prevent", "deny": [{"sha256": digest}]}},
    )
    model = host.learn(execution("/bin/tool"))
    host.stop()
    model.add(exec_key(execution(path)), Evidence(1, 1))
    host.pipeline.reload_model(model)
    host.pipeline.on_container(ContainerChange("created", 0, container()))
    second = container("second", pid=os.getpid(), cgroup_id=CGROUP + 1)
    host.start(container())  # of a process that is not there, so nothing can be read
    host.start(second)
    numbers = {number for number, _ in host.kernel.watched.values()}
    assert len(numbers) == 1
    for cgroup in (CGROUP, CGROUP + 1):
        assert host.happen(execution(path, pid=os.getpid(), cgroup_id=cgroup)) == 1
        assert outcomes(host)[-1] == (AuditType.DENIED_PROGRAM, Action.PREVENT, "denied")
        assert not host.happen(execution("/bin/tool", cgroup_id=cgroup))


def test_an_allowed_session_may_do_anything_and_is_recorded(tmp_path: Path) -> None:
    """Until its time is over; then who came in by it is killed."""
    host = story(
        tmp_path,
        {
            "name": "web",
            "processes": {"default": "prevent"},
            "filesystem": {"default": "prevent"},
            "sessions": {"exec_session": "prevent"},
        },
    )
    host.learn(execution("/bin/tool"))
    host.happen(session())
    assert outcomes(host)[-1] == (AuditType.EXEC_SESSION, Action.PREVENT, "denied")
    host.pipeline.allow_session(container(), seconds=60, reason="ticket 7")
    assert host.kernel.watched[CGROUP][1] & ContainerFlag.SESSIONS
    host.happen(session(), session("/bin/vi", "/bin/sh"), change("/etc/x", actor=Actor.SESSION))
    audits = host.recorded()[-3:]
    assert {audit.outcome for audit in audits} == {"observed"}
    assert all("ticket 7" in " ".join(audit.remarks) for audit in audits)
    host.wait(61)
    assert not host.kernel.watched[CGROUP][1] & ContainerFlag.SESSIONS
    assert [a.type for a in host.recorded()][-1] is AuditType.SESSION_ENDED
    host.happen(session("/bin/ed", "/bin/sh"))
    assert outcomes(host)[-1][2] == "denied"


@pytest.mark.parametrize(("seconds", "reason"), [(0, "x"), (60, " "), (86401, "x")])
def test_a_session_wants_a_time_and_a_reason(tmp_path: Path, seconds: int, reason: str) -> None:
    """Neither endless nor for nothing."""
    host = story(tmp_path)
    host.start()
    with pytest.raises(UsageError, match="session"):
        host.pipeline.allow_session(container(), seconds=seconds, reason=reason)


def test_block_is_asked_for_once_the_audit_is_stored(tmp_path: Path) -> None:
    """Not in learning, not in a dry run; the operation itself is refused as well."""
    host = story(tmp_path, {"name": "web", "processes": {"default": "block"}})
    asked: list[tuple[str, str, Audit]] = []
    host.pipeline.on_block = lambda who, rule, audit: asked.append((who.name, rule.name, audit))
    host.start()
    host.happen(execution("/bin/tool"))
    host.wait(LEARN_SECONDS)
    host.happen(execution("/bin/late"))
    assert not asked
    assert host.recorded()[-1].outcome == "would-block"
    host.wait(LEARN_SECONDS)
    host.wait(3 * LEARN_SECONDS)
    host.happen(execution("/bin/evil"))
    ((name, rule, audit),) = asked
    assert (name, rule, audit.outcome) == ("web", "web", "denied")
    assert audit.id


def test_a_blocked_container_may_do_nothing(tmp_path: Path) -> None:
    """Its start is refused by a model that knows nothing."""
    host = story(tmp_path)
    host.pipeline.is_blocked = lambda container_id: container_id == container().id
    host.pipeline.expect_again(container())
    (told,) = host.kernel.called("expect")
    assert told["mode"].prevent
    assert told["model"]


def test_hits_and_replay(tmp_path: Path) -> None:
    """What rules decided is counted; what others would have done is told beforehand."""
    host = story(tmp_path, {"name": "web"})
    host.learn(execution("/bin/tool"))
    host.happen(execution("/bin/a"), execution("/bin/nc"), change("/etc/passwd"), change("/srv/x"))
    hit = host.pipeline.hits.of("web")
    assert hit.count == 4
    assert hit.detections == {"unknown_program": 2, "protected_write": 1, "unknown_write": 1}
    other = policy(
        tmp_path,
        {
            "name": "new",
            "processes": {"unknown_program": "block", "deny": ["nc"], "allow": ["/bin/a"]},
            "filesystem": {"protected_write": "prevent", "unknown_write": "ignore"},
        },
    )
    found = replay(host.recorded(), other, {})
    assert dict(found.by_action) == {"silent": 1, "prevent": 2, "ignore": 1}
    assert dict(found.by_rule) == {"new": 4}


def test_explain_names_the_rule_and_the_key(tmp_path: Path) -> None:
    """Known by a key, allowed or denied by an entry, or novel with the action."""
    rules = policy(
        tmp_path,
        {
            "name": "web",
            "processes": {"default": "prevent", "deny": ["nc"], "allow": ["/opt/**"]},
        },
    )
    host = Story(tmp_path, ReplayKernel(guarantee="deny"), rules)
    model = host.learn(execution("/bin/tool"))
    rule = rules.rule(container())

    def told(path: str) -> tuple[str, str]:
        answer = explain(path, model, rule, by="/bin/serve")[0]
        return answer.verdict, answer.why

    assert told("/bin/tool")[0] == "known"
    assert "/bin/serve" in told("/bin/tool")[1]
    assert told("/opt/x") == ("known", "rule web allows /opt/**")
    assert told("/usr/bin/nc") == ("denied", "rule web denies name nc")
    assert told("/bin/evil")[0] == "novel"


def test_a_script_is_denied_by_its_path(tmp_path: Path) -> None:
    """Whatever its interpreter is."""
    rule = read(tmp_path, {"name": "x", "processes": {"deny": ["/app/evil.sh"]}}).rules[0]
    event = execution("/app/evil.sh", operation=Operation.SCRIPT)
    assert rule.lists.denies(event, lambda _: "")
    assert Rule("x").fingerprint == ""
    assert rule.fingerprint
    assert Program("/a", "b") != Program("/a")
    assert IMAGE.reference == "shop/web:1.2"


ROOT = Path(__file__).parents[2]


def test_the_documentation_is_current(tmp_path: Path) -> None:
    """The published schema is what is checked by; the example is a good file."""
    published = orjson.loads((ROOT / "docs/rules.schema.json").read_bytes())
    assert published == orjson.loads(orjson.dumps(json_schema())), "run scripts/gen-docs"
    page = (ROOT / "docs/rules.md").read_text()
    example = page.split("```yaml\n")[1].split("```")[0]
    (tmp_path / "example.yaml").write_text(example)
    (rule,) = read_rules(tmp_path).rules
    assert rule.action(Detection.MEMORY_PROGRAM) is Action.BLOCK
    for detection in Detection:
        assert not detection or f"`{detection.name.lower()}`" in page


def test_a_rule_may_be_made_to_tell_only() -> None:
    """What refuses or blocks is told instead; what is ignored stays so, and all else is kept."""
    actions = {
        Detection.UNKNOWN_WRITE: Action.BLOCK,
        Detection.UNKNOWN_PARENT: Action.IGNORE,
        Detection.UNKNOWN_PROGRAM: Action.PREVENT,
    }
    rule = Rule("x", actions=actions)
    softer = rule.only_telling(SOFT)
    assert softer.action(Detection.UNKNOWN_WRITE) is Action.ALERT
    assert softer.action(Detection.UNKNOWN_PARENT) is Action.IGNORE
    assert softer.action(Detection.UNKNOWN_PROGRAM) is Action.PREVENT
    assert rule.action(Detection.UNKNOWN_WRITE) is Action.BLOCK
    assert softer.only_telling(SOFT) is softer
    assert not SOFT & HARD
