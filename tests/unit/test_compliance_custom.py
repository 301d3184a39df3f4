"""Checks of one's own really run, without privileges, and end whatever they do."""

from __future__ import annotations

import json
import os
import stat
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from sensor.errors import BadInputError
from sensor.images.compliance import custom, jail
from sensor.images.compliance.check import Status, Verdict
from sensor.images.compliance.custom import CustomCheck, read_custom_checks
from sensor.images.compliance.facts import ImageFacts
from sensor.images.compliance.judge import evaluate
from sensor.images.compliance.subject import Subject
from tests.waiting import wait_for

SUBJECT = Subject("web", spec={"process": {"env": ["A=1"]}}, facts=ImageFacts("sha256:1"))
ROOT = os.geteuid() == 0
as_root = pytest.mark.usefixtures("root")


@pytest.fixture
def root() -> None:
    """Who has no privileges cannot lose them."""
    if not ROOT:
        pytest.fail("losing privileges needs root: run scripts/test as root")


@pytest.fixture
def place() -> Iterator[Path]:
    """A directory that others may enter, as /etc/rote/checks.d is."""
    with tempfile.TemporaryDirectory(prefix="rote-checks-") as name:
        path = Path(name)
        path.chmod(0o755)
        yield path


def write(
    directory: Path, script: str, name: str = "one", meta: str = "", mode: int = 0o755
) -> Path:
    """A program with what it is about beside it."""
    program = directory / name
    program.write_text(script if script.startswith("#!") else f"#!/bin/sh\n{script}\n")
    program.chmod(mode)
    (directory / f"{name}.yaml").write_text(
        meta or "id: 9001\ntitle: not so\nseverity: high\nremedy: mend it\ntime_limit: 5\n"
    )
    return program


def ask(directory: Path, script: str, seconds: float = 5.0) -> Verdict:
    """Write it, read it, run it."""
    write(directory, script)
    (found,) = read_custom_checks(directory)
    return CustomCheck(found.check, found.program, seconds).run(SUBJECT)


@pytest.mark.parametrize(
    ("script", "status", "evidence"),
    [
        ("echo all is well; exit 0", Status.PASS, "all is well"),
        ("echo; echo not so; echo more; exit 1", Status.FAIL, "not so"),
        ("exit 1", Status.FAIL, ""),
        ("echo why >&2; exit 7", Status.UNKNOWN, "error: exit status 7; expected 0 or 1: why"),
        ("kill -KILL $$; exit 0", Status.UNKNOWN, "error: ended by SIGKILL"),
        ("printf 'a\\033[31mb\\n'; exit 1", Status.FAIL, "a\\x1b[31mb"),
        ("echo DB_PASSWORD=hunter2; exit 1", Status.FAIL, "DB_PASSWORD=***"),
        ("exec 0<&-; exit 0", Status.PASS, ""),
    ],
)
def test_what_a_program_says(place: Path, script: str, status: Status, evidence: str) -> None:
    """Exit status and first line are all there is to it."""
    found = ask(place, script, 3.0)
    assert found.status is status
    assert found.error == (status is Status.UNKNOWN)
    if evidence:
        assert found.evidence == evidence


def test_it_is_told_the_subject(place: Path) -> None:
    """As JSON on standard input, whole."""
    script = (
        "#!/usr/bin/python3\nimport json, sys\nseen = json.load(sys.stdin)\n"
        "print(seen['name'], seen['spec']['process']['env'], seen['facts']['image_id'])\n"
        "sys.exit(1)\n"
    )
    found = ask(place, script)
    assert found == Verdict(Status.FAIL, "web ['A=1'] sha256:1")
    large = Subject("x", spec={"process": {"env": ["A=" + "x" * 4_000_000]}})
    (check,) = read_custom_checks(place)
    broken = check.run(large)  # it asked for facts that there are none of
    assert (broken.status, "Traceback" in broken.evidence) == (Status.FAIL, True)
    write(place, "wc -c; exit 1")
    (check,) = read_custom_checks(place)
    assert int(check.run(large).evidence) > 4_000_000


@as_root
def test_it_has_no_privileges(place: Path) -> None:
    """No user of root's, no capabilities, no way to new ones, no network, no environment."""
    write(place, "grep -E '^(Uid|Gid|Groups|Cap|NoNewPrivs)' /proc/self/status")
    (check,) = read_custom_checks(place)
    code, out, _ = custom._run(check.program, b"{}", 5.0)
    status = dict(line.split(":", 1) for line in out.decode().splitlines())
    user = [str(jail.USER)] * 4
    assert (code, status["Uid"].split(), status["Gid"].split()) == (0, user, user)
    assert status["Groups"].split() == []
    for name in ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"):
        assert int(status[name], 16) == 0, name
    assert status["NoNewPrivs"].strip() == "1"
    script = (
        "#!/usr/bin/python3\nimport json, os\n"
        "net = [line.split(':')[0].strip() for line in open('/proc/self/net/dev') if ':' in line]\n"
        "print(json.dumps({'env': sorted(os.environ), 'pid': os.getpid(), 'net': net}))\n"
    )
    write(place, script)
    code, out, _ = custom._run(check.program, b"{}", 5.0)
    told = json.loads(out)
    assert (code, told["pid"], told["net"]) == (0, 2, ["lo"])
    assert set(told["env"]) <= {"PATH", "LANG", "LC_CTYPE"}
    write(place, "cat /etc/shadow >/dev/null 2>&1 && exit 1; echo kept; exit 0")
    assert check.run(SUBJECT) == Verdict(Status.PASS, "kept")


def test_one_that_hangs_is_ended(place: Path) -> None:
    """With what it started, which the file would show."""
    found = ask(place, "sleep 1000 & sleep 1000", 0.3)
    assert found == Verdict(Status.UNKNOWN, "error: ended after 0.3 s", error=True)


@as_root
def test_what_it_starts_ends_with_it(place: Path) -> None:
    """Also what left its session and its group."""
    marker = f"31{time.monotonic_ns() % 10**7}"
    ask(place, f"setsid sleep {marker} >/dev/null 2>&1 </dev/null & exit 0")
    ask(place, f"setsid sh -c 'setsid sleep {marker}' & sleep {marker}", 0.3)
    wait_for(
        lambda: not any(marker in _read(p) for p in Path("/proc").glob("[0-9]*/cmdline")),
        seconds=10,
        what="the end of what it started",
    )


def _read(path: Path) -> str:
    try:
        return path.read_bytes().decode(errors="replace")
    except OSError:
        return ""  # ended meanwhile


def test_one_that_floods_is_ended(place: Path) -> None:
    """Its output is not kept."""
    found = ask(place, "yes")
    assert found == Verdict(Status.UNKNOWN, "error: more than 64 kB of output", error=True)
    assert "more than 64 kB" in ask(place, "yes >&2").evidence


@as_root
def test_one_that_forks_without_end(place: Path) -> None:
    """Its processes are counted, and end with it."""
    found = ask(place, "f() { f | f & f; }; f 2>/dev/null; sleep 9", 1.0)
    assert found.error
    wait_for(
        lambda: not any(_user(p) == jail.USER for p in Path("/proc").glob("[0-9]*")),
        seconds=10,
        what="the end of what it started",
    )


def _user(path: Path) -> int:
    try:
        return path.stat().st_uid
    except OSError:
        return -1


def test_memory_and_files_have_an_end(place: Path) -> None:
    """A gigabyte is not to be had."""
    script = "#!/usr/bin/python3\nx = bytearray(1 << 30)\n"
    found = ask(place, script)
    assert (found.status, found.error) == (Status.FAIL, False)  # Python's own exit status
    write(place, f"dd if=/dev/zero of={place}/big bs=1M count=9 2>/dev/null; exit 0")
    place.chmod(0o777)
    (check,) = read_custom_checks(place)
    check.run(SUBJECT)
    big = place / "big"
    assert not big.exists() or big.stat().st_size <= 1 << 20


def test_one_that_cannot_be_started(place: Path) -> None:
    """An interpreter that is not there; one that only root may read."""
    assert "cannot be started: No such file" in ask(place, "#!/no/such/thing\n").evidence
    if ROOT:
        program = write(place, "exit 0")
        program.chmod(0o700)
        (check,) = read_custom_checks(place)
        assert "cannot be started: Permission denied" in check.run(SUBJECT).evidence


def test_they_are_among_the_results(place: Path) -> None:
    """Like any other check."""
    write(place, "echo bad; exit 1")
    write(place, "exit 0", "two", "id: no-shell\ntitle: a shell\nseverity: low\n")
    found = {r.check.id: r for r in evaluate(SUBJECT, read_custom_checks(place))}
    assert (found["9001"].status, found["9001"].evidence) == (Status.FAIL, "bad")
    assert found["9001"].check.remedy == "mend it"
    assert found["no-shell"].status is Status.PASS


@pytest.mark.parametrize(
    ("meta", "said"),
    [
        ("id: '5.4'\ntitle: x\nseverity: low\n", "'5.4' is not for one's own"),
        ("id: 5.4\ntitle: x\nseverity: low\n", "put it in quotes"),
        ("id: 17\ntitle: x\nseverity: low\n", "expected a number from 9000 on"),
        ("id: 9001\nseverity: low\n", "title"),
        ("id: 9001\ntitle: x\nseverity: bad\n", "severity"),
        ("id: 9001\ntitle: x\nseverity: low\ntimelimit: 3\n", "did you mean 'time_limit'"),
        ("id: 9001\ntitle: x\nseverity: low\ntime_limit: 900\n", "time_limit"),
        ("id: [\n", "one.yaml"),
    ],
)
def test_what_is_wrong_beside_a_program_is_said(place: Path, meta: str, said: str) -> None:
    """One line with the file, the line and what was expected."""
    write(place, "exit 0", meta=meta)
    with pytest.raises(BadInputError) as caught:
        read_custom_checks(place)
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


def test_what_is_wrong_with_a_program_is_said(place: Path) -> None:
    """Before anything runs."""
    assert read_custom_checks(place / "none") == ()
    program = write(place, "exit 0", mode=0o644)
    for mode, said in ((0o644, "is not executable"), (0o757, "everybody may change it")):
        program.chmod(mode)
        with pytest.raises(BadInputError, match=said):
            read_custom_checks(place)
    program.chmod(0o755)
    (place / "one.yaml").rename(place / "other.yaml")
    with pytest.raises(BadInputError, match=r"there is no one\.yaml beside it"):
        read_custom_checks(place)
    program.unlink()
    with pytest.raises(BadInputError, match="there is no program other beside it"):
        read_custom_checks(place)
    (place / "other.yaml").unlink()
    write(place, "exit 0")
    write(place, "exit 0", "two")
    with pytest.raises(BadInputError, match="id 9001 is that of"):
        read_custom_checks(place)
    (place / "three").mkdir()
    with pytest.raises(BadInputError, match="no ordinary file"):
        read_custom_checks(place)
    with pytest.raises(BadInputError, match="expected a directory"):
        read_custom_checks(program)


def test_the_jail_stands_alone() -> None:
    """It is started by its path and must import nothing of ours."""
    text = custom._JAIL.read_text()
    assert "from sensor" not in text
    assert stat.S_ISREG(custom._JAIL.stat().st_mode)
