"""Feeds of vulnerabilities: what each kind says, and what becomes of bad ones."""

from __future__ import annotations

import bz2
import contextlib
import gzip
import io
import lzma
import tarfile
import tempfile
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sensor.errors import BadInputError, FeedError, StateError, UsageError
from sensor.images.package import Distribution, Package
from sensor.images.vulns import importer
from sensor.images.vulns.advisory import Record, Status
from sensor.images.vulns.feeds import files, kinds
from sensor.images.vulns.feeds import osv as osv_module
from sensor.images.vulns.feeds.kinds import kind_of
from sensor.images.vulns.importer import import_feed
from sensor.images.vulns.known import known_of
from sensor.images.vulns.severity import Severity
from sensor.images.vulns.store import VulnStore
from tests.unit import feeds
from tests.unit.feeds import BUSTER, Host, as_json, as_zip, osv

SAMPLES: dict[str, tuple[str, bytes]] = {
    "debian-list": ("DSA.list", feeds.DSA.encode()),
    "secdb": ("main.json", as_json(feeds.SECDB)),
    "debian-tracker": ("data.json", as_json(feeds.TRACKER)),
    "nvd": ("nvdcve-2.0-2019.json", as_json(feeds.NVD)),
    "kev": ("kev.json", as_json(feeds.KEV)),
    "epss": ("epss.csv", feeds.EPSS.encode()),
    "debsecan": ("buster", feeds.DEBSECAN_PACKED),
    "osv": ("all.zip", as_zip({"GHSA.json": as_json(feeds.GHSA), "A.json": as_json(feeds.ALSA)})),
}


@pytest.fixture
def host(tmp_path: Path) -> Host:
    """An empty store."""
    return Host(tmp_path)


@pytest.mark.parametrize("kind", list(SAMPLES))
def test_every_kind_is_recognised_and_twice_is_once(host: Host, kind: str) -> None:
    """By content, plain or packed; the same bytes again change nothing but the age."""
    name, content = SAMPLES[kind]
    done = host.put(content, name, release="buster" if kind == "debsecan" else "")
    assert (done.kind, done.unchanged) == (kind, False)
    assert done.records > 0
    before, generation = host.everything(), host.store.generation
    again = host.put(content, name, release="buster" if kind == "debsecan" else "")
    assert (again.feed, again.records, again.unchanged) == (done.feed, done.records, True)
    assert (host.everything(), host.store.generation) == (before, generation)
    assert not list(host.directory.glob("*.stage*"))
    host.store.remove_feed(done.feed)
    assert not any(host.everything())


@pytest.mark.parametrize("pack", [gzip.compress, bz2.compress, lzma.compress, zlib.compress])
def test_packed_or_not_is_the_same(host: Host, pack: Callable[[bytes], bytes]) -> None:
    """Whatever a mirror makes of a file."""
    name, content = SAMPLES["secdb"]
    host.put(content, name)
    plain = host.everything()
    host.put(pack(content), name)
    assert host.everything() == plain


def test_debian_lists(host: Host) -> None:
    """A fix for each release; the day of the advisory is the day of the fix."""
    assert host.put(feeds.DSA).feed == "debian-dsa"
    found = host.match([Package("deb", "libapt-pkg5.0", "1.8.2", "apt", "1.8.2")], BUSTER)
    assert [(f.id, f.package, f.fixed, f.fixed_since, f.installed) for f in found] == [
        ("CVE-2020-27350", "apt", "1.8.2.2", "2020-12-09", ("libapt-pkg5.0",))
    ]
    assert host.of("deb", "apt", "1.8.2.2") == []
    (first, second) = host.match([Package("deb", "xen", "4.11-1")], BUSTER)
    assert {first.id, second.id} == {"CVE-2022-23824", "CVE-2022-42331"}
    assert (first.status, first.fixed) == (Status.END_OF_LIFE, "")


def test_debian_tracker_keeps_every_status(host: Host) -> None:
    """Fixed, open, ignored, end of life, undetermined, never affected."""
    done = host.put(as_json(feeds.TRACKER))
    assert done.feed == "debian"
    assert host.problems("debian") == [
        "bash CVE-2019-18276: release 'hamm' is not known",
        "bash CVE-2020-0001: expected a map with 'releases'",
    ]
    known = known_of(host.store, "cve-2019-18276")
    assert known is not None
    assert {(row["ecosystem"], row["status"], row["severity"]) for row in known["affected"]} == {
        ("Debian:10", "open", "negligible"),
        ("Debian:11", "ignored", "low"),
        ("Debian:8", "end-of-life", "unknown"),
        ("Debian:sid", "undetermined", "unknown"),
    }
    assert host.of("deb", "bash", "5.0-4") == ["CVE-2019-18276"]
    assert host.of("deb", "prototypejs", "1.6.0.1-1") == ["CVE-2008-7220"]
    sid = Distribution("debian", "", "sid")
    assert not host.match([Package("deb", "prototypejs", "1.0-1")], sid)
    assert not host.match([Package("deb", "bash", "5.0-4")], sid)


def test_who_knows_that_a_package_is_not_affected_is_believed(host: Host) -> None:
    """The tracker looks at each package; a list that is older does not."""
    host.put(
        "[01 Jan 2020] DSA-1-1 x - security update\n\t{CVE-2020-9999}\n\t[buster] - x 2.0-1\n",
        "DSA.list",
    )
    assert host.of("deb", "x", "1.0-1") == ["CVE-2020-9999"]
    release = {"status": "resolved", "fixed_version": "0", "urgency": "low"}
    host.put(as_json({"x": {"CVE-2020-9999": {"releases": {"buster": release}}}}), "tracker")
    assert host.of("deb", "x", "1.0-1") == []


def test_debsecan(host: Host) -> None:
    """Below the fixed version, and none of the others; of binary packages nothing is said."""
    done = host.put(feeds.DEBSECAN_PACKED, "buster", release="buster")
    assert (done.feed, done.skipped) == ("debsecan-buster", 2)
    vulnerable = {
        v: host.of("deb", "bash", v) for v in ("5.0-4", "5.0-4+deb10u1", "5.0-5", "5.0-7")
    }
    assert {v for v, ids in vulnerable.items() if ids} == {"5.0-4", "5.0-5"}
    (finding,) = host.match([Package("deb", "open", "1.0-2")], BUSTER)
    assert (finding.status, finding.vendor_severity) == (Status.OPEN, Severity.HIGH)
    assert host.of("deb", "open", "1.0-1") == []
    with pytest.raises(FeedError, match=r"release ''; expected one of .*bookworm"):
        host.put(feeds.DEBSECAN_PACKED, "of-none")
    with pytest.raises(FeedError, match="ends in the middle"):
        host.put(feeds.DEBSECAN[:150], "cut", release="buster", kind="debsecan")


def test_alpine(host: Host) -> None:
    """Below the version that has the fix; what was never affected; ids as people write them."""
    done = host.put(as_json(feeds.SECDB))
    assert done.feed == "alpine-v3.9-main"
    assert host.of("apk", "musl", "1.1.20-r4") == ["CVE-2019-14697"]
    assert host.of("apk", "musl", "1.1.20-r5") == []
    assert set(host.of("apk", "openssl", "1.1.1b-r1")) == {
        "CVE-2019-1547", "CVE-2019-1549", "CVE-2019-1563",
    }  # fmt: skip
    assert host.of("apk", "ansible", "2.7.2-r0") == ["CVE-2018-16859"]
    assert host.of("apk", "xen", "4.10.0-r0") == ["CVE-2018-15470"]
    known = known_of(host.store, "XSA-272")
    assert known is not None
    assert known["also"] == ["CVE-2018-15470"]
    assert host.problems(done.feed) == [
        "packages[3] xen: version '4.10-1-r1': not an Alpine version",
        "packages[3] xen 4.11.0-r0: 'no id': expected a CVE",
    ]


def test_alpine_as_it_once_was_and_wolfi(host: Host) -> None:
    """YAML with a map of packages; a database that has no releases."""
    text = (
        "---\ndistroversion: v3.9\nreponame: main\narchs:\n  - x86_64\npackages:\n  - pkg:\n"
        "      name: musl\n      secfixes:\n        1.1.20-r5:\n          - CVE-2019-14697\n"
    )
    assert host.put(text, "main.yaml").feed == "alpine-v3.9-main"
    assert host.of("apk", "musl", "1.1.20-r4") == ["CVE-2019-14697"]
    wolfi = {
        "apkurl": "{{urlprefix}}", "urlprefix": "https://packages.wolfi.dev", "reponame": "os",
        "packages": [{"pkg": {"name": "curl", "secfixes": {
            "8.4.0-r0": ["CVE-2023-38545 GHSA-7xw9-w465-6x72"]}}}],
    }  # fmt: skip
    assert host.put(as_json(wolfi), "security.json").feed == "wolfi"
    (finding,) = host.match([Package("apk", "curl", "8.3.0-r1")], Distribution("wolfi"))
    assert (finding.id, finding.fixed) == ("CVE-2023-38545", "8.4.0-r0")


def test_whose_packages_they_are_may_stand_behind_them(host: Host) -> None:
    """Order means nothing in JSON."""
    behind = {"packages": feeds.SECDB["packages"], "distroversion": "edge", "reponame": "testing"}
    host.put(as_json(behind), "main.json", name="edge", kind="secdb")
    edge = Distribution("alpine", "3.21.0_alpha20240923")
    (finding,) = host.match([Package("apk", "musl", "1.1.20-r4")], edge)
    assert finding.ecosystem == "Alpine:edge"


def test_osv(host: Host) -> None:
    """Several intervals in a record, errata of a distribution, YAML, severities."""
    host.put(SAMPLES["osv"][1], "all.zip")
    core = "org.apache.logging.log4j:log4j-core"
    vulnerable = ("2.0-beta9", "2.0", "2.3", "2.4", "2.12.1", "2.13.0", "2.14.1")
    good = ("1.2.17", "2.0-beta8", "2.3.1", "2.3.2", "2.12.2", "2.15.0", "2.17.1")
    assert [v for v in (*vulnerable, *good) if host.of("maven", core, v)] == list(vulnerable)
    (finding,) = host.match([Package("maven", core, "2.14.1")])
    assert (finding.id, finding.fixed, finding.score, finding.vendor_severity) == (
        "CVE-2021-44228", "2.15.0", 10.0, Severity.CRITICAL,
    )  # fmt: skip
    found = host.match(
        [Package("rpm", "java-21-openjdk", "1:21.0.4.0.7-1.el8")], Distribution("almalinux", "8.10")
    )
    assert {(f.id, f.vendor_severity, f.fixed_since) for f in found} == {
        ("CVE-2024-21208", Severity.MEDIUM, "2024-10-16"),
        ("CVE-2024-21210", Severity.MEDIUM, "2024-10-16"),
    }
    assert host.put(feeds.PYSEC, "PYSEC-2022-43012.yaml").kind == "osv"
    assert host.of("pypi", "setuptools", "65.5.0") == ["CVE-2022-40897"]
    assert host.of("pypi", "setuptools", "65.5.1") == []


def test_osv_as_a_directory_and_a_tar_file(host: Host) -> None:
    """As it lies in a repository."""
    tree = host.directory / "dump"
    (tree / "deep").mkdir(parents=True)
    (tree / "deep" / "GHSA.json").write_bytes(as_json(feeds.GHSA))
    (tree / "PYSEC.yaml").write_text(feeds.PYSEC)
    (tree / "README.md").write_text("no record")
    (tree / "link.json").symlink_to("deep/GHSA.json")
    done = import_feed(host.store, tree)
    assert (done.feed, done.records, done.skipped) == ("osv-dump", 2, 0)
    everything = host.everything()
    archive = host.directory / "dump.tar.xz"
    with tarfile.open(archive, "w:xz") as file:
        file.add(tree, arcname="dump")
    import_feed(host.store, archive, name="osv-dump")
    assert host.everything() == everything


def test_osv_details(host: Host) -> None:
    """Withdrawn, without an end, the last that is affected, single versions, bugfix notices."""
    records = {
        "withdrawn": osv("W-1", "npm", "a", [{"introduced": "0"}], withdrawn="2024-01-01"),
        "open": osv("O-1", "npm", "a", [{"introduced": "2.0.0"}]),
        "last": osv("L-1", "npm", "b", [{"introduced": "0"}, {"last_affected": "1.2.3"}]),
        "single": as_json({"id": "S-1", "affected": [
            {"package": {"ecosystem": "npm", "name": "c"}, "versions": ["1.0.0", "1.0.2"]}]}),
        "commits": as_json({"id": "C-1", "affected": [{"ranges": [{"type": "GIT"}]}]}),
        "bugfix": osv("ALBA-1", "AlmaLinux:8", "d", [{"introduced": "0"}, {"fixed": "2-1"}],
                      summary="d bug fix and enhancement update"),
        "unordered": osv("U-1", "npm", "e", [{"fixed": "3.0.0"}, {"introduced": "1.0.0"},
                                             {"fixed": "2.0.0"}, {"introduced": "2.5.0"}]),
        "ubuntu": osv("UBUNTU-CVE-2024-1234", "Ubuntu:22.04:LTS", "f", [{"introduced": "0"}],
                      upstream=["CVE-2024-1234"], severity=[{"type": "Ubuntu", "score": "medium"}]),
    }  # fmt: skip
    host.put(as_zip({f"{name}.json": data for name, data in records.items()}), "all.zip")
    assert [v for v in ("1.9.9", "2.0.0", "9.0.0") if host.of("npm", "a", v)] == ["2.0.0", "9.0.0"]
    assert [v for v in ("0.0.1", "1.2.3", "1.2.4") if host.of("npm", "b", v)] == ["0.0.1", "1.2.3"]
    assert [v for v in ("1.0.0", "1.0.1", "1.0.2") if host.of("npm", "c", v)] == ["1.0.0", "1.0.2"]
    assert host.of("rpm", "d", "1-1") == []
    versions = ("0.9.0", "1.0.0", "2.0.0", "2.5.0", "3.0.0")
    assert [v for v in versions if host.of("npm", "e", v)] == ["1.0.0", "2.5.0"]
    (finding,) = host.match([Package("deb", "f", "1.0")], Distribution("ubuntu", "22.04"))
    assert (finding.id, finding.vendor_severity) == ("CVE-2024-1234", Severity.MEDIUM)


def test_two_feeds_about_one_vulnerability_make_one_finding(host: Host) -> None:
    """With the names of both, also where there is no CVE."""
    events = [{"introduced": "0"}, {"fixed": "2.0"}]
    records = {
        "1.json": osv("PYSEC-1", "PyPI", "x", events, aliases=["GHSA-1"]),
        "2.json": osv("GHSA-1", "PyPI", "X", events, aliases=["PYSEC-1"]),
    }
    host.put(as_zip(records), "all.zip")
    (finding,) = host.match([Package("pypi", "x", "1.0")])
    assert (finding.id, set(finding.advisories)) == ("GHSA-1", {"PYSEC-1", "GHSA-1"})


def test_facts_about_cves(host: Host) -> None:
    """NVD's own score before others', the first English text, KEV and EPSS beside it."""
    for kind in ("secdb", "nvd", "epss"):
        host.put(SAMPLES[kind][1], SAMPLES[kind][0])
    (finding,) = host.match([Package("apk", "musl", "1.1.20-r4")], feeds.ALPINE)
    assert (finding.score, finding.scored_by, finding.severity) == (
        9.8, "nvd@nist.gov", Severity.CRITICAL,
    )  # fmt: skip
    assert finding.summary == "musl libc through 1.1.23 has an x87 stack adjustment imbalance"
    assert (finding.published, finding.epss, finding.exploited) == ("2019-08-06", 0.02312, "")
    assert host.problems("nvd-2019") == ["vulnerabilities[2]: expected 'cve' with an 'id'"]
    assert host.problems("epss") == [
        "line 5: expected CVE,PROBABILITY,PERCENTILE",
        "line 6: expected a CVE and numbers from 0 to 1",
    ]
    host.put(SAMPLES["kev"][1])
    kev = known_of(host.store, "CVE-2021-44228")
    assert kev is not None
    assert (kev["exploited"], kev["ransomware"], kev["epss"]) == ("2021-12-10", True, 0.94358)
    assert host.problems("kev") == ["vulnerabilities[2]: expected 'cveID' with a CVE"]


def test_the_newest_of_several_scores_counts(host: Host) -> None:
    """NVD's feed of changes stands beside those of the years."""
    host.put(SAMPLES["nvd"][1], "2019.json")
    changed = orjson.loads(SAMPLES["nvd"][1])
    cve = changed["vulnerabilities"][0]["cve"]
    cve["lastModified"] = "2025-01-01T00:00:00"
    cve["metrics"]["cvssMetricV31"][1]["cvssData"]["baseScore"] = 5.0
    host.put(as_json(changed), "modified.json")
    known = known_of(host.store, "CVE-2019-14697")
    assert known is not None
    assert known["score"] == 5.0


@pytest.mark.parametrize("kind", [kind for kind in SAMPLES if kind not in ("epss", "debian-list")])
def test_a_feed_that_ends_in_the_middle_changes_nothing(host: Host, kind: str) -> None:
    """What it said before holds; the message names the file and what was expected."""
    name, content = SAMPLES[kind]
    release = "buster" if kind == "debsecan" else ""
    host.put(content, name, kind=kind, release=release)
    before = host.everything()
    with pytest.raises(FeedError, match=f"{name}.*expected") as caught:
        host.put(content[: len(content) * 2 // 3], name, kind=kind, release=release)
    assert "\n" not in str(caught.value)
    assert host.everything() == before
    assert not list(host.directory.glob("*.stage*"))


@pytest.mark.parametrize("pack", [gzip.compress, bz2.compress, lzma.compress])
def test_a_pack_that_ends_in_the_middle(host: Host, pack: Callable[[bytes], bytes]) -> None:
    """Also where every line is whole in itself."""
    content = pack(feeds.DSA.encode() * 50)
    host.put(content, "DSA.list")
    before = host.everything()
    with pytest.raises(FeedError, match=r"DSA\.list: ends in the middle"):
        host.put(content[: len(content) // 2], "DSA.list", kind="debian-list")
    assert host.everything() == before


def test_a_bomb_is_refused(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    """As gzip, as zip, and as a text without an end; what was there holds."""
    monkeypatch.setattr(files, "_RATIO_FREE", 1 << 20)
    monkeypatch.setattr(files, "RECORD_MAX", 1 << 20)
    line = b"CVE-2021-44228,0.9,0.9\n"
    bomb = gzip.compress(b"cve,epss,percentile\n" + line * 500_000)
    with pytest.raises(FeedError, match=r"expands to more than \d+ MiB, \d+ times its size"):
        host.put(bomb, "epss.csv.gz")
    endless = b'{"CVE-2020-1": "' + b"a" * (3 << 20) + b'"}'
    with pytest.raises(FeedError, match="a record of more than 1 MiB"):
        host.put(endless, "endless.json", kind="debian-tracker")
    members = {f"{i}.json": b" " * (1 << 20) for i in range(64)}
    with pytest.raises(FeedError, match=r"entry \d+ .*: expands to more than"):
        host.put(as_zip(members), "all.zip")
    huge = as_zip({"huge.json": b" " * (2 << 20), "good.json": as_json(feeds.GHSA)})
    done = host.put(huge, "osv.zip")
    assert (done.records, done.skipped) == (1, 1)
    assert host.problems(done.feed)[0].startswith("huge.json: ")


def test_damaged_members_are_skipped_and_listed(host: Host) -> None:
    """Of a zip file whose list of contents is whole."""
    buffer = io.BytesIO(as_zip({"good.json": as_json(feeds.GHSA), "bad.json": as_json(feeds.ALSA)}))
    with zipfile.ZipFile(buffer) as archive:
        where = archive.getinfo("bad.json").header_offset
    data = bytearray(buffer.getvalue())
    data[where + 60] ^= 0xFF
    done = host.put(bytes(data), "all.zip")
    assert (done.records, done.skipped) == (1, 1)
    assert host.problems(done.feed)[0].startswith("bad.json: damaged")


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b'{"id": "X-1", "affected": [', "not JSON"),
        (b'["affected"]', "no OSV record"),
        (osv("X-1", "Packagist", "a", [{"introduced": "0"}]), "'Packagist' are not compared"),
        (osv("X-1", "npm", "a", [{"introduced": "x"}]), "introduced 'x': not a semantic version"),
        (osv("X-1", "npm", "a", [], severity=[{"type": "CVSS_V3", "score": "CVSS:3.1/AV:X"}]), ""),
    ],
)
def test_a_bad_record_is_skipped_and_listed(host: Host, content: bytes, said: str) -> None:
    """With its place; the rest is kept."""
    done = host.put(as_zip({"bad.json": content, "good.json": as_json(feeds.GHSA)}), "all.zip")
    assert done.records == 1
    assert done.skipped == len(host.problems(done.feed)) == (1 if said else 0)
    if said:
        (problem,) = host.problems(done.feed)
        assert problem.startswith("bad.json: ")
        assert said in problem


@pytest.mark.parametrize(
    "content", [b"", b"<html>404</html>", b"{}", b"\x00" * 100, b"%PDF-1.7", b"[1,2]", b"a: b\n"]
)
def test_what_is_no_feed_is_said(host: Host, content: bytes) -> None:
    """An error page, most likely."""
    with pytest.raises(BadInputError, match="expected"):
        host.put(content, "page")
    assert host.store.feeds() == []
    (host.directory / "empty").mkdir()
    with pytest.raises(FeedError, match=r"expected OSV records"):
        kind_of(host.directory / "empty")


@given(content=st.binary(max_size=300), kind=st.sampled_from(list(kinds.READERS)))
def test_any_bytes_are_refused_or_read(content: bytes, kind: str) -> None:
    """Nothing but our own errors comes of a feed, whatever is in it."""
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory, "feed.json")
        path.write_bytes(content)
        with contextlib.suppress(BadInputError):
            for unit in kinds.READERS[kind](path, "buster", 0):
                assert isinstance(unit, list)


class Interrupted(BaseException):
    """What a signal makes of an import."""


def test_an_interrupted_import_goes_on(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is seen before the end; then it is the same as without the break."""
    records = {
        f"{i}.json": osv(f"X-{i}", "npm", f"p{i}", [{"introduced": "0"}, {"fixed": "2.0.0"}])
        for i in range(50)
    }
    content = as_zip(records)
    monkeypatch.setattr(importer, "_SAVE_SECONDS", 0.0)
    read: list[int] = []

    def breaking(path: Path, release: str, skip: int) -> object:
        for i, unit in enumerate(osv_module.read_osv(path, release, skip)):
            read.append(skip + i)
            if len(read) == 31:
                raise Interrupted
            yield unit

    monkeypatch.setitem(kinds.READERS, "osv", breaking)
    with pytest.raises(Interrupted):
        host.put(content, "all.zip")
    assert host.store.feeds() == []
    assert not any(host.everything())
    done = host.put(content, "all.zip")
    assert (done.records, done.resumed) == (50, 30)
    assert read == [*range(31), *range(30, 50)]
    resumed = host.everything()
    other = Host(host.directory / "other")
    other.put(content, "all.zip")
    assert resumed == other.everything()


def test_what_was_begun_of_other_bytes_is_thrown_away(
    host: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A newer file begins anew."""
    monkeypatch.setattr(importer, "_SAVE_SECONDS", 0.0)

    def breaking(path: Path, release: str, skip: int) -> object:
        yield from list(osv_module.read_osv(path, release, skip))[:1]
        raise Interrupted

    with monkeypatch.context() as patched:
        patched.setitem(kinds.READERS, "osv", breaking)
        with pytest.raises(Interrupted):
            host.put(SAMPLES["osv"][1], "all.zip")
    newer = as_zip({"p.json": osv("X-1", "npm", "p", [{"introduced": "0"}])})
    done = host.put(newer, "all.zip")
    assert (done.records, done.resumed) == (1, 0)
    assert host.of("npm", "p", "1.0.0") == ["X-1"]


def test_one_import_at_a_time(host: Host) -> None:
    """The second is told of the first."""
    with host.store.importing(), pytest.raises(StateError, match="another process imports"):
        host.put(feeds.DSA)


def test_names_and_kinds(host: Host) -> None:
    """A feed's name is part of a file's name; a kind that is none is said with the nearest."""
    with pytest.raises(UsageError, match=r"feed '\.\./x'"):
        import_feed(host.store, _file(host, feeds.DSA), name="../x")
    with pytest.raises(UsageError, match="did you mean 'secdb'"):
        import_feed(host.store, _file(host, feeds.DSA), kind="secbd")


def _file(host: Host, content: str) -> Path:
    path = host.directory / "file"
    path.write_text(content)
    return path


def test_a_store_that_is_none_is_said(tmp_path: Path) -> None:
    """Damaged, or of a later version; with what to do."""
    (tmp_path / "vulns.db").write_bytes(b"no database" * 100)
    with pytest.raises(StateError, match="run `rote vulns update` again"):
        VulnStore(tmp_path / "vulns.db")
    store = VulnStore(tmp_path / "other.db")
    store.db.execute("PRAGMA user_version=99")
    store.close()
    with pytest.raises(StateError, match="later Rote"):
        VulnStore(tmp_path / "other.db")


def test_records_are_counted_by_what_they_are() -> None:
    """The types that readers yield are those that the stage takes."""
    assert {kind.__name__ for kind in Record.__args__} == {
        "Advisory", "CveFacts", "Exploited", "Likelihood", "Problem",
    }  # fmt: skip
