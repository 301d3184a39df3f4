"""Audits: made, scrubbed, stored, found, shown."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sensor.audits.audit import Action, Audit, AuditType, Guarantee
from sensor.audits.formats import escape, one_line, render, row, to_json
from sensor.audits.query import AuditQuery, parse_time
from sensor.audits.record import audit_from_event
from sensor.audits.scrub import scrub_argv
from sensor.audits.store import AuditStore
from sensor.errors import StateError, UsageError
from sensor.events import Actor, Event, Operation, Origin, WalkEnd
from sensor.rules.detection import audit_type, detect
from tests.unit.builders import change, container, execution


def make(event: Event | None = None, **values: Any) -> Audit:
    """An audit of an event."""
    options: dict[str, Any] = {
        "model_id": "m",
        "model_state": "active",
        "rule": "default",
        "action": Action.ALERT,
        "guarantee": Guarantee.DETECT,
        "host": "h",
    }
    event = event or execution("/bin/nc")
    kind = audit_type(event, detect(event, known_program=values.pop("known_program", False)))
    return audit_from_event(event, container(), kind, **{**options, **values})


@pytest.fixture
def store(tmp_path: Path) -> Iterator[AuditStore]:
    """An empty store."""
    made = AuditStore(tmp_path / "audits.db")
    yield made
    made.close()


@pytest.mark.parametrize(
    ("event", "known", "expected"),
    [
        (execution("/bin/nc"), False, AuditType.UNKNOWN_PROGRAM),
        (execution("/bin/nc"), True, AuditType.UNKNOWN_PARENT),
        (execution("/tmp/x", origin=Origin.ADDED), False, AuditType.CHANGED_PROGRAM),
        (execution("/dev/shm/x", origin=Origin.TMPFS), False, AuditType.CHANGED_PROGRAM),
        (execution("/memfd:x", origin=Origin.MEMORY), False, AuditType.MEMORY_PROGRAM),
        (execution("/bin/sh", "", actor=Actor.SESSION), False, AuditType.EXEC_SESSION),
        (execution("/x", walk_end=WalkEnd.DETACHED), False, AuditType.UNRESOLVED_OBJECT),
        (change("/srv/x"), False, AuditType.UNKNOWN_WRITE),
        (change("/etc/passwd"), False, AuditType.PROTECTED_WRITE),
        (
            change("/tmp/x", operation=Operation.RENAME, path2="/etc/ld.so.preload"),
            False,
            AuditType.PROTECTED_WRITE,
        ),
        (change("/x", walk_end=WalkEnd.OTHER_NAMESPACE), False, AuditType.UNRESOLVED_OBJECT),
    ],
)
def test_types(event: Event, known: bool, expected: AuditType) -> None:
    """Each kind of deviation has its name."""
    assert make(event, known_program=known).type is expected


def test_fields_and_techniques() -> None:
    """An audit says who, what, where and which technique it shows."""
    event = execution("/usr/bin/curl", "/bin/sh", argv=("curl", "http://x"), uid=33, cwd="/srv")
    audit = make(event, parents=("/bin/serve",))
    assert audit.program == "/usr/bin/curl"
    assert audit.parents == ("/bin/sh", "/bin/serve")
    assert audit.technique == ("T1105",)
    assert (audit.uid, audit.cwd, audit.image) == (33, "/srv", "shop/web:1.2")
    assert make(change("/home/u/.ssh/authorized_keys")).technique == ("T1098.004",)
    assert make(event, would=True).outcome == "would-alert"


@pytest.mark.parametrize(
    ("argv", "secret"),
    [
        (("app", "--password=hunter2"), "hunter2"),
        (("app", "--password", "hunter2"), "hunter2"),
        (("mysql", "-phunter2"), "hunter2"),
        (("sshpass", "-p", "hunter2", "ssh"), "hunter2"),
        (("sh", "-c", "DB_PASSWORD=hunter2 ./run"), "hunter2"),
        (("curl", "https://u:hunter2@host/x"), "hunter2"),
        (("curl", "-H", "Authorization: Bearer abcdef123456"), "abcdef123456"),
        (("aws", "AKIAABCDEFGHIJKLMNOP"), "AKIAABCDEFGHIJKLMNOP"),
        (("x", "eyJhbGciOiJI.eyJzdWIiOiIx.c2lnbmF0dXJl"), "eyJzdWIiOiIx"),
        (("x", "--api-key=abc123xyz"), "abc123xyz"),
    ],
)
def test_secrets_do_not_survive(argv: tuple[str, ...], secret: str) -> None:
    """What is known to be a secret is masked, the rest of the command stays."""
    scrubbed = scrub_argv(argv)
    assert secret not in " ".join(scrubbed)
    assert "***" in " ".join(scrubbed)
    assert scrubbed[0] == argv[0]


@pytest.mark.parametrize(
    "argv",
    [("ps", "-p", "1"), ("nc", "-p", "80", "host"), ("ls", "-la", "/etc/passwd"), ("tar", "-x")],
)
def test_ordinary_commands_stay(argv: tuple[str, ...]) -> None:
    """Nothing is masked without a reason."""
    assert scrub_argv(argv) == argv


@given(st.lists(st.text(max_size=200), max_size=80))
def test_scrubbing_never_fails(argv: list[str]) -> None:
    """Any command line comes out bounded."""
    assert len(scrub_argv(argv)) <= 65


def test_repeats_are_counted(store: AuditStore) -> None:
    """The same deviation within the window is one audit with first and last time."""
    first = make(execution("/bin/nc", time_ns=10**18))
    later = [make(execution("/bin/nc", time_ns=10**18 + i * 10**9)) for i in (1, 50)]
    other = make(execution("/bin/id", time_ns=10**18))
    assert [a.count for a in store.add_many([first])] == [1]
    stored = store.add_many([*later, other])
    assert [(a.program, a.count) for a in stored] == [("/bin/nc", 3), ("/bin/id", 1)]
    again = store.add_many([make(execution("/bin/nc", time_ns=10**18 + 200 * 10**9))])
    assert again[0].count == 1
    rows = store.query(AuditQuery())
    assert [(a.count, a.last_ns - a.time_ns) for a in rows] == [(3, 50 * 10**9), (1, 0), (1, 0)]


def test_counting_goes_on_after_a_restart(tmp_path: Path) -> None:
    """A new daemon counts on where the old one stopped."""
    path = tmp_path / "a.db"
    first = AuditStore(path)
    first.add_many([make(execution("/bin/nc", time_ns=10**18))])
    first.close()
    second = AuditStore(path)
    assert second.add_many([make(execution("/bin/nc", time_ns=10**18 + 5))])[0].count == 2
    second.close()


def test_odd_paths_round_trip(store: AuditStore) -> None:
    """Any bytes a file name may have come back as they were."""
    path = "/data/\udcff\n\x1b[31m"
    store.add_many([make(change(path))])
    found = store.query(AuditQuery(path="/data/*"))
    assert [a.path for a in found] == [path]


def test_filters(store: AuditStore) -> None:
    """Each filter narrows; a follower's filter agrees with the database's."""
    store.add_many(
        [
            make(execution("/bin/nc", time_ns=10**18)),
            make(change("/srv/x", time_ns=2 * 10**18)),
            make(change("/etc/passwd", time_ns=3 * 10**18)),
        ]
    )
    for options, expected in (
        ({"container": "web"}, 3),
        ({"container": "web-0"}, 3),
        ({"container": "w*"}, 3),
        ({"container": "x"}, 0),
        ({"image": "shop/*"}, 3),
        ({"type": "unknown_write"}, 1),
        ({"action": "block"}, 0),
        ({"severity": "high"}, 2),
        ({"path": "/etc/*"}, 1),
        ({"since": "1800000000"}, 2),
        ({"until": "1800000000"}, 1),
        ({"limit": 1}, 1),
    ):
        query = AuditQuery.from_options(options)
        found = store.query(query)
        assert len(found) == expected, options
        if "limit" not in options:
            assert [a.id for a in store.query(AuditQuery()) if query.matches(a)] == [
                a.id for a in found
            ]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"type": "x"}, "unknown_program"),
        ({"since": "yesterday"}, "expected an age"),
        ({"severity": "bad"}, "critical"),
    ],
)
def test_wrong_filters_say_what_is_right(options: dict[str, str], message: str) -> None:
    """A wrong value is answered with the right ones."""
    with pytest.raises(UsageError, match=message):
        AuditQuery.from_options(options)


def test_times() -> None:
    """Ages, ISO times and seconds are all taken."""
    assert abs(parse_time("1h30m") - (time.time_ns() - 5400 * 10**9)) < 10**9
    assert parse_time("2026-11-23T00:00:00+00:00") == 1795392000 * 10**9
    assert parse_time("12") == 12 * 10**9


def test_nothing_from_inside_reaches_the_terminal_raw() -> None:
    """Control characters in names and arguments are escaped in every form for people."""
    evil = "/x\n\x1b]0;owned\x07\u202e"
    audit = make(change(evil, argv=(evil,)))
    for text in (one_line(audit), *row(audit), render(audit).replace("\n", "")):
        assert escape(text) == text
    assert "\x1b" not in orjson.dumps(to_json(audit)).decode()


def test_a_corrupt_database_is_named(tmp_path: Path) -> None:
    """A damaged store is an error with its file; it is not deleted."""
    path = tmp_path / "audits.db"
    path.write_bytes(b"garbage " * 4096)
    with pytest.raises(StateError, match=r"audits\.db"):
        AuditStore(path)
    assert path.stat().st_size == 32768


_WRITER = """
import sys
from pathlib import Path
from sensor.audits.store import AuditStore
from tests.unit.test_audits import make
from tests.unit.builders import change
store = AuditStore(Path(sys.argv[1]))
i = 0
while True:
    i += 1
    for audit in store.add_many([make(change(f"/f{i}"))]):
        print(audit.id, audit.path, flush=True)
"""


def test_kill_loses_nothing_that_was_shown(tmp_path: Path) -> None:
    """Whatever was printed before SIGKILL is in the database."""
    path = tmp_path / "audits.db"
    for round_number in range(3):
        with subprocess.Popen(
            [sys.executable, "-c", _WRITER, str(path)], stdout=subprocess.PIPE, text=True
        ) as writer:
            assert writer.stdout is not None
            shown = [writer.stdout.readline() for _ in range(20 + 30 * round_number)]
            os.kill(writer.pid, signal.SIGKILL)
            shown.extend(writer.stdout.readlines())
        store = AuditStore(path)
        stored = {f"{a.id} {a.path}\n" for a in store.query(AuditQuery(limit=0))}
        store.close()
        assert {line for line in shown if line.endswith("\n")} <= stored


def _fill(path: Path) -> None:
    """Write until there is no room left."""
    with contextlib.suppress(OSError), path.open("wb", buffering=0) as file:
        while file.write(bytes(4096)):
            pass


def test_a_full_disk_keeps_audits_and_says_so() -> None:
    """While nothing can be written audits wait, in order; afterwards they are all there."""
    if os.geteuid() != 0:
        pytest.fail("mounting a small file system needs root: run scripts/test as root")
    with tempfile.TemporaryDirectory() as directory:
        subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1M", "t", directory], check=True)
        try:
            store = AuditStore(Path(directory) / "audits.db")
            ballast = Path(directory) / "ballast"
            _fill(ballast)
            audits = [make(change(f"/f{i}" + "x" * 3000)) for i in range(20)]
            with pytest.raises(StateError, match=r"audits\.db"):
                store.add_many(audits)
            assert store.pending == 20
            ballast.unlink()
            assert len(store.add_many([])) == 20
            assert store.pending == 0
            assert store.count() == 20
            store.close()
        finally:
            subprocess.run(["umount", directory], check=True)
