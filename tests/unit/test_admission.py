"""The gatekeeper: what becomes of a start, who is told, and what when nobody can decide."""

from __future__ import annotations

import asyncio
import datetime as dt
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from sensor.audits.audit import Action, Audit
from sensor.audits.formats import FORMATS
from sensor.audits.text import one_line, render
from sensor.containers.container import Container, Image
from sensor.errors import ImageError, RuleFileError, RuntimeUnavailableError
from sensor.images.admission.gatekeeper import Ends, Gatekeeper
from sensor.images.admission.image_rules import Applicable, ImageRules
from sensor.images.admission.library import Library
from sensor.images.admission.start import Failure, Start
from sensor.images.cache import InventoryCache
from sensor.images.compliance.facts import HashList, ImageFacts
from sensor.images.inventory import READER
from sensor.images.package import Inventory
from sensor.images.vulns.scan import Scanner
from sensor.images.vulns.told import ToldStore
from sensor.images.worker import Request
from sensor.rules.compliance import ComplianceRule
from sensor.rules.files import read_rules
from sensor.rules.scope import Where
from sensor.rules.trusted import TrustedGroup, TrustRule, trust_rule_for, trust_rules
from sensor.rules.vulnerability import VulnerabilityRule, vulnerability_rules
from tests.unit import feeds
from tests.unit.feeds import Host, as_json
from tests.unit.test_vulns_scan import image

NOW = dt.datetime(2026, 11, 25, 12, tzinfo=dt.UTC).timestamp()
CRITICAL = VulnerabilityRule("no criticals", block="critical")
LAYERS = (f"sha256:{1:064x}", f"sha256:{2:064x}")
MUSL = "CVE-2019-14697 critical in musl 1.1.20-r4, fixed in 1.1.20-r5"


def box(number: int = 1, name: str = "web", reference: str = "shop/web") -> Container:
    """A container of image number N."""
    return Container(f"{number:064x}", "docker", name, Image(reference, "1", id=f"sha256:{number}"))


@dataclass
class Gate:
    """A gatekeeper and what it is connected to."""

    directory: Path
    host: Host
    vulnerability: VulnerabilityRule = CRITICAL
    trust: TrustRule | None = None
    compliance: ComplianceRule | None = None
    audits: list[Audit] = field(default_factory=list)
    blocked: list[tuple[str, str]] = field(default_factory=list)
    reads: list[Request] = field(default_factory=list)
    held_down: str = ""
    protected: str = ""
    details: Mapping[str, Any] | Exception | None = None
    trouble: Exception | None = None
    slow: asyncio.Event | None = None
    layers: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        self.told = ToldStore(self.directory / "told.db")
        self.cache = InventoryCache(self.directory / "images.db")
        self.keeper = self.restarted()

    def restarted(self) -> Gatekeeper:
        """As after a restart of the daemon."""
        ends = Ends(
            lambda _container: Applicable(self.trust, self.compliance, self.vulnerability),
            self.audits.append,
            lambda container, _audit, rule: self.blocked.append((container.name, rule)),
            lambda _id: self.held_down,
            lambda _container: self.protected,
        )
        library = Library(self.cache, self._image_details, self._read, self._read_both)
        scanner = Scanner(self.host.store, self.told)
        self.keeper = Gatekeeper(library, scanner, self.told, ends, lambda: NOW)
        return self.keeper

    async def _image_details(self, _container: Container) -> Mapping[str, Any] | None:
        if isinstance(self.details, Exception):
            raise self.details
        return self.details

    async def _read(self, request: Request) -> Inventory:
        self.reads.append(request)
        if self.slow is not None:
            await self.slow.wait()
        if self.trouble is not None:
            raise self.trouble
        return replace(image(), image_id=request.image_id, layers=self.layers, reader=READER)

    async def _read_both(self, request: Request, _hashes: HashList) -> tuple[Inventory, ImageFacts]:
        inventory = await self._read(request)
        return inventory, ImageFacts(inventory.image_id, keys=("/root/.ssh/id_rsa",))

    async def start(self, number: int = 1, *, held: bool = True, gate: str = "hook") -> str:
        """Start a container; why it is refused, or ""."""
        start = Start(box(number), gate, root=Path("/nowhere"), held=held)
        answer = await self.keeper.judge(start)
        assert answer.allow or answer.message
        return answer.message if not answer.allow else ""

    async def settle(self) -> None:
        """Wait for what goes on apart."""
        for _ in range(50):
            await asyncio.sleep(0)

    def said(self) -> list[tuple[str, str, str]]:
        """Type, action and outcome of every audit."""
        return [(str(a.type), str(a.action), a.outcome) for a in self.audits]


@pytest.fixture
def gate(tmp_path: Path) -> Gate:
    """Alpine's database and NVD's: musl is critical."""
    host = Host(tmp_path)
    host.put(as_json(feeds.SECDB), "main.json")
    host.put(as_json(feeds.NVD), "nvd-2019.json")
    return Gate(tmp_path, host)


async def test_a_start_is_refused_with_rule_reason_and_counts(gate: Gate) -> None:
    """Each try is an audit; what was found is told once."""
    message = await gate.start()
    assert message == f"blocked by rule 'no criticals': 1 vulnerability [critical:1]: {MUSL}"
    assert await gate.start() == message
    assert gate.said() == [("vulnerable_image", "block", "denied")] * 2
    assert [("new" in audit.extra) for audit in gate.audits] == [True, False]
    assert len(gate.reads) == 1
    assert gate.audits[0].extra["new"] == "CVE-2019-14697 (musl, critical)"
    assert gate.keeper.tally.refused == 2


async def test_an_exception_lets_it_start(gate: Gate, tmp_path: Path) -> None:
    """As a rule file says it."""
    path = tmp_path / "rules.yaml"
    path.write_text(
        yaml.safe_dump(
            {"version": 1, "rules": [
                {"kind": "vulnerability", "name": "v", "block": "critical", "exceptions": [
                    {"cve": "CVE-2019-14697", "reason": "not reachable"}]}]}
        )
    )  # fmt: skip
    (gate.vulnerability,) = vulnerability_rules(read_rules(path))
    assert await gate.start() == ""
    assert gate.audits == []


async def test_who_only_alerts_lets_nobody_wait(gate: Gate) -> None:
    """The image is read meanwhile, and what it has is told once, also after a restart."""
    gate.vulnerability = VulnerabilityRule("told")
    gate.slow = asyncio.Event()
    assert await gate.start() == ""
    assert gate.audits == []
    gate.slow.set()
    await gate.settle()
    assert gate.said() == [("vulnerable_image", "alert", "observed")]
    gate.restarted()
    assert await gate.start() == ""
    await gate.settle()
    assert len(gate.audits) == 1


async def test_two_starts_at_once_read_and_tell_once(gate: Gate) -> None:
    """Of one image; replicas come together."""
    gate.vulnerability = VulnerabilityRule("told")
    await asyncio.gather(*(gate.start() for _ in range(5)))
    await gate.settle()
    assert len(gate.reads) == 1
    assert len(gate.audits) == 1


async def test_without_a_gate_it_is_blocked_once_it_runs(gate: Gate) -> None:
    """As the last resort."""
    assert await gate.start(held=False, gate="events") == ""
    await gate.settle()
    assert gate.blocked == [("web", "no criticals")]
    assert gate.said() == [("vulnerable_image", "block", "observed")]


async def test_what_ran_before_is_told_of_and_goes_on(gate: Gate) -> None:
    """A rule that comes late, a new advisory: the service is not taken down for it."""
    gate.details = {"GraphDriver": {"Data": {"UpperDir": "/x", "LowerDir": ""}}}
    await gate.keeper.rescan(box(), {})
    assert gate.blocked == []
    (audit,) = gate.audits
    assert audit.remarks == ("it runs already; its next start would be refused",)
    await gate.keeper.rescan(box(), {})
    assert len(gate.audits) == 1


@pytest.mark.parametrize("allow", [True, False])
async def test_what_cannot_be_read_is_decided_by_the_rule(gate: Gate, *, allow: bool) -> None:
    """An image removed meanwhile, say."""
    gate.vulnerability = replace(CRITICAL, allow_on_error=allow)
    gate.trouble = ImageError("shop/web:1: removed while it was read")
    message = await gate.start()
    expected = "blocked by rule 'no criticals': its image cannot be judged: " + str(gate.trouble)
    assert message == ("" if allow else expected)
    outcome = ("alert", "observed") if allow else ("block", "denied")
    assert gate.said() == [("admission_failed", *outcome)]
    assert gate.keeper.tally.failed == 1


async def test_what_one_rule_cannot_judge_keeps_no_other_from_refusing(gate: Gate) -> None:
    """And each rule fails as it says itself."""
    gate.trouble = ImageError("shop/web:1: cannot be read")
    nobody = TrustRule(
        "ours only", groups=(TrustedGroup(images=("ours/*",)),), untrusted=Action.BLOCK,
        allow_on_error=False,
    )  # fmt: skip
    gate.trust = nobody
    assert "of no trusted group" in await gate.start()
    gate.trust = replace(nobody, groups=(TrustedGroup(images=("shop/*",)),))
    assert await gate.start() == ""  # the other's error, and that one allows
    gate.vulnerability = replace(CRITICAL, allow_on_error=False)
    assert "cannot be read" in await gate.start()
    gate.vulnerability = VulnerabilityRule("told")
    assert await gate.start() == ""
    assert "cannot be read" in gate.keeper.tally.last_error
    assert [a.type for a in gate.audits] == [
        "untrusted_image", "admission_failed", "admission_failed",
    ]  # fmt: skip


@pytest.mark.parametrize("allow", [True, False])
async def test_time_is_limited_and_the_reading_goes_on(gate: Gate, *, allow: bool) -> None:
    """Late, what was let go is blocked; what was refused is refused by the next try at once."""
    gate.vulnerability = replace(CRITICAL, allow_on_error=allow, time_limit=0.05)
    gate.slow = asyncio.Event()
    message = await gate.start()
    assert ("not judged within 0.05 s" in message) is not allow
    gate.slow.set()
    await gate.settle()
    assert gate.said()[0][0] == "admission_failed"
    assert gate.blocked == ([("web", "no criticals")] if allow else [])
    assert MUSL in await gate.start()
    assert len(gate.reads) == 1


async def test_without_advisories_a_rule_that_blocks_cannot_decide(tmp_path: Path) -> None:
    """Nothing known is not the same as nothing wrong."""
    gate = Gate(tmp_path, Host(tmp_path), replace(CRITICAL, allow_on_error=False))
    assert "there are no advisories" in await gate.start()
    assert gate.reads == []
    gate.vulnerability = VulnerabilityRule("told")
    assert await gate.start() == ""
    await gate.settle()
    assert gate.said() == [("admission_failed", "block", "denied")]


async def test_the_blocked_are_refused_whatever_their_image_is(gate: Gate) -> None:
    """And nobody has to look at it."""
    gate.held_down = "blocked: by hand; let it run again with: rote unblock web"
    assert await gate.start() == gate.held_down
    assert gate.reads == []


async def test_the_protected_always_start(gate: Gate) -> None:
    """And are told of."""
    gate.protected = "protected"
    assert await gate.start() == ""
    await gate.settle()
    assert gate.blocked == []
    assert gate.said() == [("vulnerable_image", "block", "observed")]


async def test_an_image_that_nobody_trusts(gate: Gate) -> None:
    """By name, by digest, by the layers that it is built on; asked only where they matter."""
    ours = TrustedGroup("ours", images=("registry.example/*",))
    gate.trust = TrustRule("ours only", groups=(ours,), untrusted=Action.BLOCK)
    gate.vulnerability = VulnerabilityRule("told", alert=None)
    expected = "blocked by rule 'ours only': image shop/web:1 is of no trusted group (ours)"
    assert await gate.start() == expected
    assert gate.said() == [("untrusted_image", "block", "denied")]
    assert await gate.start() == expected
    gate.trust = replace(gate.trust, groups=(TrustedGroup(digests=frozenset({"sha256:1"})),))
    assert await gate.start() == ""
    base = TrustedGroup("base", bases=(LAYERS,))
    gate.trust = replace(gate.trust, groups=(base,), allow_on_error=False)
    gate.cache.remove("sha256:1")
    assert "its layers are not known" in await gate.start()
    for layers, refused in (((*LAYERS, "sha256:3"), False), (LAYERS[:1], True), (LAYERS, False)):
        gate.cache.remove("sha256:1")
        gate.layers = layers
        assert bool(await gate.start()) is refused, layers


async def test_layers_come_before_the_root_and_a_used_root_is_not_the_image(gate: Gate) -> None:
    """What a container changed must not count as what its image brings."""
    gate.details = {"GraphDriver": {"Data": {"UpperDir": "/x", "LowerDir": ""}}}
    await gate.start()
    assert gate.reads[-1].details == gate.details
    for details in (None, {"GraphDriver": None}, RuntimeUnavailableError("docker: no answer")):
        gate.details = details
        gate.cache.remove("sha256:1")
        await gate.start()
        assert (gate.reads[-1].root, gate.reads[-1].image_id) == ("/nowhere", "sha256:1")
        gate.cache.remove("sha256:1")
        used = {"State": {"StartedAt": "2026-11-25T10:00:00Z"}}
        await gate.keeper.judge(
            Start(box(), "hook", inspected=used, root=Path("/nowhere"), held=True)
        )
        assert gate.reads[-1].image_id == ""


async def test_failed_checks_are_told_once_and_keep_it_from_starting(gate: Gate) -> None:
    """By the container's configuration and by what its image holds."""
    gate.vulnerability = VulnerabilityRule("told", alert=None)
    gate.compliance = ComplianceRule(
        "cis", checks={"5.5": Action.BLOCK, "425": Action.ALERT}, default=Action.IGNORE
    )
    assert await gate.start() == ""
    (audit,) = gate.audits
    assert (audit.type, audit.action, audit.severity) == ("compliance_failed", "alert", 4)
    assert "425" in audit.extra["found"]
    assert "/root/.ssh/id_rsa" in audit.extra["found"]
    privileged = {"HostConfig": {"Privileged": True}, "Config": {}}
    start = Start(box(), "hook", inspected=privileged, root=Path("/nowhere"), held=True)
    answer = await gate.keeper.judge(start)
    assert not answer.allow
    assert answer.message.startswith("blocked by rule 'cis': 1 failed check [high: 1]: 5.5 ")
    told = gate.audits[-1]
    assert (told.outcome, told.extra["checks"]) == ("denied", "5.5 425")
    assert "425" not in told.extra["found"]  # that was told before
    assert len(gate.reads) == 1


async def test_a_mistake_of_ours_is_counted(gate: Gate) -> None:
    """Where nobody waits for an answer, too."""
    gate.trouble = ZeroDivisionError("ours")
    assert await gate.start(held=False, gate="events") == ""
    await gate.settle()
    assert gate.keeper.tally.failed == 1
    assert "ZeroDivisionError" in gate.keeper.tally.last_error


@pytest.mark.parametrize("allow", [True, False])
async def test_a_check_that_would_refuse_and_is_not_known(gate: Gate, *, allow: bool) -> None:
    """No inspection says whether it is privileged: refused, or let go and told once."""
    gate.vulnerability = VulnerabilityRule("told", alert=None)
    gate.compliance = ComplianceRule(
        "cis", checks={"5.5": Action.BLOCK}, default=Action.IGNORE, allow_on_error=allow
    )
    message = await gate.start()
    assert ("not known: 5.5" in message) is not allow
    assert await gate.start() == message
    told = [("compliance_failed", "alert", "observed")]
    assert gate.said() == (told if allow else [("admission_failed", "block", "denied")] * 2)


def test_every_format_shows_what_was_found(gate: Gate) -> None:
    """For people and for machines."""
    asyncio.run(_refused(gate))
    (audit,) = gate.audits
    assert MUSL in one_line(audit)
    assert "rote models accept" not in render(audit)
    for form in FORMATS.values():
        assert "CVE-2019-14697" in str(form(audit))


async def _refused(gate: Gate) -> None:
    await gate.start()


def test_trust_rules_as_files_say_them(tmp_path: Path) -> None:
    """The first whose scope matches; none where nobody said anything."""
    path = tmp_path / "rules.yaml"
    digest = "a" * 64
    path.write_text(
        yaml.safe_dump(
            {"version": 1, "rules": [
                {"kind": "trust", "name": "tests", "scope": {"containers": "ci-*"},
                 "trusted": [{"images": "*"}], "untrusted": "ignore"},
                {"kind": "trust", "name": "prod", "scope": {"containers": "p-*"},
                 "trusted": [{"name": "n", "digests": [digest], "base_layers": [[digest]]}],
                 "untrusted": "block", "on_error": "deny", "time_limit": "3s", "message": "m"},
            ]}
        )
    )  # fmt: skip
    rules = trust_rules(read_rules(path))
    where = Where()
    all_rules = ImageRules.of(read_rules(path))
    prod = trust_rule_for(rules, box(name="p-1"), where)
    assert prod is not None
    assert (prod.name, prod.may_block, prod.allow_on_error, prod.time_limit, prod.message) == (
        "prod", True, False, 3.0, "m",
    )  # fmt: skip
    assert prod.groups == (
        TrustedGroup("n", (), frozenset({f"sha256:{digest}"}), ((f"sha256:{digest}",),)),
    )
    assert trust_rule_for(rules, box(name="other"), where) is None
    assert all_rules.strictest == Failure(allow=False, seconds=3.0, rule="prod")
    found = all_rules.applicable(box(name="p-1"), where)
    assert found.failure.allow is False
    assert found.failure.seconds == 3.0
    assert found.failure.rule == "prod"


@pytest.mark.parametrize(
    ("entry", "expected"),
    [
        ({"trusted": []}, "trusted"),
        ({"trusted": [{"name": "x"}]}, "expected 'images', 'digests' or 'base_layers'"),
        ({"trusted": [{"digests": ["sha256:12"]}]}, "expected sha256: and 64 hexadecimal digits"),
        ({"trusted": [{"images": "*"}], "untrusted": "prevent"}, "untrusted"),
        ({"trusted": [{"images": "*"}], "time_limit": "2h"}, "time_limit"),
        ({"trusted": [{"images": "*"}], "on_error": "maybe"}, "on_error"),
    ],
)
def test_bad_trust_rules_name_the_field(
    tmp_path: Path, entry: dict[str, Any], expected: str
) -> None:
    """One line with the file."""
    path = tmp_path / "rules.yaml"
    path.write_text(yaml.safe_dump({"version": 1, "rules": [
        {"kind": "trust", "name": "t", **entry}]}))  # fmt: skip
    with pytest.raises(RuleFileError, match=expected) as error:
        read_rules(path)
    assert str(path) in str(error.value)
    assert "\n" not in str(error.value)
