"""The hash chain: whatever is done to the database by hand is shown; what the store does is not."""

from __future__ import annotations

import logging
import os
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sensor.audits.audit import Audit
from sensor.audits.chain import Kind
from sensor.audits.head import Head, HeadKeeper, head_path, parse_head, read_head
from sensor.audits.query import AuditQuery
from sensor.audits.store import AuditStore, pack_audit
from sensor.audits.verify import Verification, verify
from sensor.errors import StateError, UsageError
from tests.unit.builders import change, execution
from tests.unit.test_audits import make

START = 10**18
COPY = (
    "INSERT INTO audits SELECT {new}, time_ns, last_ns, count, container_id, container_name, "
    "image, type, action, severity, path, path2, content, rule, sequence, base FROM audits "
    "WHERE id = {old}"
)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A database with 8 audits, of which the third was counted twice; closed."""
    path = tmp_path / "audits.db"
    store = AuditStore(path)
    for i in range(8):
        store.add_many([make(change(f"/f{i}", time_ns=START + i))])
    for i in (100, 200):
        store.add_many([make(change("/f2", time_ns=START + i))])
    store.close()
    assert verify(path).good
    return path


def tamper(path: Path, *statements: str) -> Verification:
    """Change a closed database by hand, and look at it."""
    with sqlite3.connect(path) as db:
        for statement in statements:
            db.execute(statement)
    db.close()
    return verify(path)


def test_numbers_and_hashes_come_with_audits(path: Path) -> None:
    """Each audit carries the newest entry about it, and so a head to check against."""
    with sqlite3.connect(path) as db:
        hashes = dict(db.execute("SELECT sequence, hash FROM chain"))
    store = AuditStore(path)
    audits = store.query(AuditQuery())
    assert [(a.id, a.sequence, a.count) for a in audits][:4] == [
        (1, 1, 1), (2, 2, 1), (3, 10, 3), (4, 4, 1),
    ]  # fmt: skip
    assert [bytes.fromhex(a.hash) for a in audits] == [hashes[a.sequence] for a in audits]
    (fresh,) = store.add_many([make(change("/new", time_ns=START))])
    assert store.head == Head(11, bytes.fromhex(fresh.hash))
    assert store.get(fresh.id) == fresh
    store.close()
    heads = [parse_head(f"{a.sequence}:{a.hash}") for a in [*audits, fresh]]
    found = verify(path, heads)
    assert found.problems == []
    assert (found.audits, found.entries, found.first, found.head) == (9, 11, 1, heads[-1])


@pytest.mark.parametrize(
    ("statement", "message"),
    [
        ("UPDATE audits SET content = x'80' WHERE id = 4", "sequence 4: audit 4 was changed"),
        ("UPDATE audits SET type = 'exec_session' WHERE id = 4", "sequence 4: audit 4 was changed"),
        ("UPDATE audits SET path = x'2f' WHERE id = 4", "sequence 4: audit 4 was changed"),
        ("UPDATE audits SET rule = 'x' WHERE id = 4", "sequence 4: audit 4 was changed"),
        ("UPDATE audits SET time_ns = 1 WHERE id = 4", "sequence 4: audit 4 was changed"),
        ("UPDATE audits SET count = 2 WHERE id = 3", "sequence 10: audit 3 says 2 times"),
        ("UPDATE audits SET count = 'x' WHERE id = 3", "sequence 10: audit 3 says x times"),
        ("UPDATE audits SET last_ns = 1 WHERE id = 3", "sequence 10: audit 3 says 3 times"),
        (
            "UPDATE audits SET count=1, last_ns=time_ns, sequence=3 WHERE id=3",
            "sequence 10: audit 3 was put back to an earlier state",
        ),
        ("UPDATE audits SET sequence = 99 WHERE id = 3", "audit 3: no entry"),
        ("UPDATE audits SET sequence = 5 WHERE id = 4", "audit 4: no entry"),
        ("UPDATE audits SET base = 5 WHERE id = 4", "audit 4: no entry"),
        ("UPDATE audits SET base = 9 WHERE id = 3", "audit 3: no entry"),
        ("DELETE FROM audits WHERE id = 4", "sequence 4: audit 4 is missing"),
        ("DELETE FROM audits", "sequence 1: audit 1 is missing"),
        ("UPDATE audits SET id = 99 WHERE id = 4", "sequence 4: audit 4 is missing"),
        ("DELETE FROM chain WHERE sequence = 4", "sequence 4 to 4: missing (1 entries)"),
        ("DELETE FROM chain WHERE sequence < 4", "sequence 1 to 3: missing (3 entries)"),
        ("DELETE FROM chain WHERE sequence > 8", "sequence 9 to 10: missing"),
        ("DELETE FROM chain", "sequence 1 to 10: missing"),
        ("UPDATE chain SET last_ns = 1 WHERE sequence = 9", "sequence 9: its hash does not fit"),
        ("UPDATE chain SET times = 'x' WHERE sequence = 9", "sequence 9: its hash does not fit"),
        ("UPDATE chain SET content = 7 WHERE sequence = 9", "sequence 9: its hash does not fit"),
        ("UPDATE chain SET kind = 9 WHERE sequence = 9", "sequence 9: kind 9 is none of ours"),
        ("UPDATE chain SET hash = x'00' WHERE sequence = 9", "sequence 10: its hash does not fit"),
        ("UPDATE anchor SET hash = zeroblob(32)", "sequence 1: its hash does not fit"),
        ("UPDATE anchor SET through = 9", "no entry says that they were pruned"),
        ("DELETE FROM anchor", "the anchor, where the chain begins, was removed"),
        (
            COPY.format(new=99, old=1),
            "audit 99: no entry",
        ),
        (
            "INSERT INTO chain SELECT 11, 2, 3, 4, 5, content, hash FROM chain WHERE sequence = 9",
            "sequence 11: its hash does not fit",
        ),
    ],
)
def test_what_was_changed_is_named(path: Path, statement: str, message: str) -> None:
    """A change, removal, insertion or move of a row or an entry is shown with its number."""
    found = tamper(path, statement)
    assert not found.good
    assert any(message in problem for problem in found.problems), found.problems


def test_swapping_two_is_shown(path: Path) -> None:
    """Neither audits nor entries can change places."""
    swap = "UPDATE {0} SET {1} = CASE {1} WHEN 4 THEN -5 WHEN 5 THEN -4 END WHERE {1} IN (4, 5)"
    back = "UPDATE {0} SET {1} = -{1} WHERE {1} < 0"
    for table, column, message in (
        ("audits", "id", "sequence 4: audit 4 was changed"),
        ("chain", "sequence", "sequence 4: its hash does not fit"),
    ):
        statements = [swap.format(table, column), back.format(table, column)]
        found = tamper(path, *statements)
        assert any(message in problem for problem in found.problems), found.problems
        assert tamper(path, *statements).good  # and back again


def test_making_the_chain_anew_is_shown_by_a_head_from_elsewhere(
    path: Path, tmp_path: Path
) -> None:
    """Who can write everything can forge everything, but no head that others hold."""
    head = verify(path).head
    store = AuditStore(path)
    audits = store.query(AuditQuery())
    store.close()
    path.unlink()
    head_path(path).unlink()
    forged = AuditStore(path)
    for audit in audits[:-1]:
        audit.id = 0
        forged.add_many([audit])
    forged.close()
    assert verify(path).good  # nothing in it is wrong
    found = verify(path, [head])
    assert [p.partition(":")[0] for p in found.problems] == [f"sequence 8 to {head.sequence}"]
    early = Head(3, head.hash)
    assert "sequence 3: its hash is not" in verify(path, [early]).problems[0]
    assert tmp_path in path.parents


def test_a_cut_end_stays_shown_after_the_daemon_started_again(path: Path) -> None:
    """The daemon records what it finds, so that its own new entries do not hide it."""
    with sqlite3.connect(path) as db:
        db.execute("DELETE FROM audits WHERE id > 6")
        db.execute("DELETE FROM chain WHERE sequence > 6")
        db.execute("UPDATE audits SET count=1, last_ns=time_ns, sequence=3 WHERE id=3")
    store = AuditStore(path)
    store.add_many([make(change(f"/g{i}")) for i in range(20)])
    store.close()
    found = verify(path)
    assert found.wrong == 1
    assert "sequence 7: on " in found.problems[0]
    assert "the database ended at sequence 6 when the daemon started" in found.problems[0]


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda head: head.unlink(), "is missing"),
        (lambda head: head.write_text("garbage"), "damaged"),
        (lambda head: head.write_text(f"3:{'0' * 64}\n"), "sequence 3 was not what had been noted"),
    ],
)
def test_a_spoilt_head_file_is_shown_before_and_after_a_start(
    path: Path, spoil: Callable[[Path], None], message: str
) -> None:
    """A missing, damaged or wrong file is a problem; the daemon records it and notes anew."""
    spoil(head_path(path))
    assert verify(path).wrong == 1
    AuditStore(path).close()
    found = verify(path)
    assert [message in problem for problem in found.problems] == [True]
    assert read_head(path) == found.head


def test_a_change_under_a_running_daemon_is_recorded(
    path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """The store remembers its head, so a database that was put back is noticed at once."""
    store = AuditStore(path)
    with sqlite3.connect(path) as db:
        db.execute("DELETE FROM chain WHERE sequence > 9")
    with caplog.at_level(logging.ERROR, "rote.audits"):
        store.add_many([make(change("/g"))])
    store.close()
    assert "changed by somebody else" in caplog.text
    assert any("the daemon's last entry was 10:" in problem for problem in verify(path).problems)


def test_pruning_is_no_change(path: Path) -> None:
    """The old end may go; the chain says what went, and the rest is checked as before."""
    heads = [parse_head(f"{a.sequence}:{a.hash}") for a in AuditStore(path).query(AuditQuery())]
    store = AuditStore(path)
    assert store.prune(keep_rows=3) == 5  # the third, counted last, goes as well
    assert store.prune(keep_rows=3) == 0
    (repeat,) = store.add_many([make(change("/f2", time_ns=START + 300))])
    assert (repeat.id, repeat.count) == (9, 1)  # nothing that is gone is counted on
    store.close()
    found = verify(path, heads[5:])
    assert found.problems == []
    assert (found.audits, found.pruned, found.first) == (4, 5, 6)
    assert found.pruned_ns > 0
    assert "sequence 1: pruned" in verify(path, heads[:1]).problems[0]
    again = AuditStore(path)
    again.prune(keep_rows=1)
    again.close()
    assert (verify(path).problems, verify(path).pruned) == ([], 8)


def test_pruning_by_age_stops_at_what_is_young(path: Path) -> None:
    """The third audit happened again later, so what follows it stays with it."""
    store = AuditStore(path)
    assert store.prune(older_than_ns=START + 150) == 2
    assert store.prune(older_than_ns=START + 10**9) == 6
    store.close()
    assert (verify(path).problems, verify(path).audits) == ([], 0)


@pytest.mark.parametrize(
    ("statement", "message"),
    [
        (
            COPY.format(new=3, old=7),
            "audit 3: it was pruned, and is there again",
        ),
        ("UPDATE anchor SET removed = 0", "does not begin where this pruning left it"),
        ("UPDATE anchor SET through = 7", "does not begin where this pruning left it"),
        ("DELETE FROM chain WHERE kind = 5", "missing"),
    ],
)
def test_false_pruning_is_shown(path: Path, statement: str, message: str) -> None:
    """A beginning that no entry speaks of was not made by pruning."""
    store = AuditStore(path)
    store.prune(keep_rows=3)
    store.close()
    found = tamper(path, statement)
    assert any(message in problem for problem in found.problems), found.problems


def test_cutting_the_old_end_by_hand_is_shown(path: Path) -> None:
    """Rows, entries and the anchor may all be moved along; the entry about it is not there."""
    found = tamper(
        path,
        "UPDATE anchor SET sequence=4, through=4, removed=4, "
        "hash=(SELECT hash FROM chain WHERE sequence=4)",
        "DELETE FROM audits WHERE id <= 4",
        "DELETE FROM chain WHERE sequence <= 4",
    )
    assert found.problems == ["sequence 1 to 4: missing; no entry says that they were pruned"]


def test_repeats_without_end_do_not_grow_the_chain(tmp_path: Path) -> None:
    """Beyond twice the audits the chain is shortened; kept audits are carried, none is lost."""
    store = AuditStore(tmp_path / "a.db")
    store.add_many([make(change(f"/f{i}", time_ns=START)) for i in range(10)])
    for i in range(100):
        store.add_many([make(change("/f3", time_ns=START + i))])
    store.prune(keep_rows=20)
    store.add_many([make(change("/f3", time_ns=START + 200))])
    store.close()
    found = verify(tmp_path / "a.db")
    assert (found.problems, found.audits, found.pruned) == ([], 10, 0)
    assert 40 <= found.entries <= 60
    reader = AuditStore(tmp_path / "a.db", read_only=True)
    assert [a.count for a in reader.query(AuditQuery(path="/f3"))] == [102]
    reader.close()
    for statement in (
        "UPDATE audits SET severity = 1 WHERE id = 2",
        "DELETE FROM audits WHERE id = 2",
    ):
        assert any("audit 2" in p for p in tamper(tmp_path / "a.db", statement).problems)


def test_carrying_does_not_make_a_change_right(tmp_path: Path) -> None:
    """What was changed by hand before its entry was shortened away is still shown."""
    path = tmp_path / "a.db"
    store = AuditStore(path)
    store.add_many([make(change(f"/f{i}", time_ns=START)) for i in range(5)])
    for i in range(100):
        store.add_many([make(change("/f3", time_ns=START + i))])
    store.close()
    with sqlite3.connect(path) as db:
        db.execute("UPDATE audits SET severity = 1 WHERE id = 2")
        db.execute("UPDATE audits SET count = 7 WHERE id = 4")
    store = AuditStore(path)
    store.prune(keep_rows=10)
    store.close()
    problems = verify(path).problems
    assert any("audit 2 was changed" in problem for problem in problems)
    assert any("audit 4 says 7 times" in problem for problem in problems)


_STEPS = st.lists(
    st.tuples(st.just("add"), st.lists(st.integers(0, 6), min_size=1, max_size=5))
    | st.tuples(st.just("keep"), st.integers(1, 8))
    | st.tuples(st.just("age"), st.integers(0, 20))
    | st.tuples(st.just("restart"), st.none()),
    max_size=25,
)


@settings(max_examples=40, deadline=None)
@given(_STEPS)
def test_nothing_the_store_does_is_a_problem(
    tmp_path_factory: pytest.TempPathFactory, steps: list[tuple[str, object]]
) -> None:
    """Adding, counting, pruning, shortening and starting again, in any order."""
    path = tmp_path_factory.mktemp("chain") / "a.db"
    store = AuditStore(path)
    moment = START
    for verb, value in steps:
        moment += 7 * 10**9
        if verb == "add":
            assert isinstance(value, list)
            store.add_many([make(change(f"/f{i}", time_ns=moment)) for i in value])
        elif verb == "restart":
            store.close()
            store = AuditStore(path)
        elif verb == "keep":
            store.prune(keep_rows=int(str(value)))
        else:
            store.prune(older_than_ns=moment - int(str(value)) * 10**9)
    head, count = store.head, store.count()
    store.close()
    found = verify(path, [head])
    assert (found.problems, found.audits, found.head) == ([], count, head)


_WRITER = """
import sys
from pathlib import Path
from sensor.audits.head import HeadKeeper
from sensor.audits.store import AuditStore
from tests.unit.builders import change
from tests.unit.test_audits import make
store = AuditStore(Path(sys.argv[1]))
keeper = HeadKeeper(store)
i = 0
while True:
    i += 1
    store.add_many([make(change(f"/f{i % 50}")), make(change(f"/g{i}"))])
    if i % 20 == 0:
        store.prune(keep_rows=60)
        keeper.tick()
    print(store.head, flush=True)
"""


def test_kill_between_any_two_writes_leaves_a_good_chain(tmp_path: Path) -> None:
    """Rows and entries are one transaction: SIGKILL never leaves one without the other."""
    path = tmp_path / "audits.db"
    for round_number in range(4):
        with subprocess.Popen(
            [sys.executable, "-c", _WRITER, str(path)], stdout=subprocess.PIPE, text=True
        ) as writer:
            assert writer.stdout is not None
            shown = [writer.stdout.readline() for _ in range(15 + 17 * round_number)]
            os.kill(writer.pid, signal.SIGKILL)
            shown.extend(writer.stdout.readlines())
        last = [line for line in shown if line.endswith("\n")][-1]
        found = verify(path, [parse_head(last)])
        assert found.problems == []


def old_database(path: Path, audits: list[Audit]) -> None:
    """A database as version 1 wrote it."""
    with sqlite3.connect(path) as db:
        db.executescript(
            """
            CREATE TABLE audits (
                id INTEGER PRIMARY KEY AUTOINCREMENT, time_ns INTEGER NOT NULL,
                last_ns INTEGER NOT NULL, count INTEGER NOT NULL, container_id TEXT NOT NULL,
                container_name TEXT NOT NULL, image TEXT NOT NULL, type TEXT NOT NULL,
                action TEXT NOT NULL, severity INTEGER NOT NULL, path BLOB NOT NULL,
                path2 BLOB NOT NULL, content BLOB NOT NULL
            );
            CREATE INDEX audits_last ON audits (last_ns);
            CREATE INDEX audits_container ON audits (container_id, id);
            PRAGMA user_version=1;
            """
        )
        for audit in audits:
            db.execute(
                "INSERT INTO audits (time_ns, last_ns, count, container_id, container_name, image, "
                "type, action, severity, path, path2, content) VALUES (?,?,?,?,?,?,?,?,?,?,?,?)",
                (
                    audit.time_ns, audit.last_ns, audit.count, audit.container_id,
                    audit.container_name, audit.image, str(audit.type), str(audit.action),
                    int(audit.severity), os.fsencode(audit.path), os.fsencode(audit.path2),
                    pack_audit(audit),
                ),
            )  # fmt: skip
    db.close()


def test_a_database_of_version_1_is_taken_over(tmp_path: Path) -> None:
    """Its audits stay as they are, are chained from then on, and are marked as taken over."""
    path = tmp_path / "audits.db"
    audits = [make(change(f"/f{i}", time_ns=START + i), rule=f"r{i % 3}") for i in range(2500)]
    old_database(path, audits)
    with pytest.raises(StateError, match="taken over when the daemon starts"):
        AuditStore(path, read_only=True)
    with pytest.raises(StateError, match="schema version 1"):
        verify(path)
    store = AuditStore(path)
    stored = store.query(AuditQuery(limit=0))
    assert [a.path for a in stored] == [a.path for a in audits]
    assert [a.sequence for a in stored] == list(range(1, 2501))
    assert len(store.query(AuditQuery(rule="r1", limit=0))) == 833
    (counted,) = store.add_many([make(change("/f2499", time_ns=START + 2500), rule="r0")])
    assert (counted.id, counted.count, counted.sequence) == (2500, 2, 2501)
    store.close()
    found = verify(path)
    assert (found.problems, found.taken_over, found.entries) == ([], 2500, 2501)
    assert (
        "audit 9 was changed" in tamper(path, "UPDATE audits SET severity=1 WHERE id=9").problems[0]
    )


def test_taking_over_is_all_or_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An error half-way leaves the old database as it was."""
    path = tmp_path / "audits.db"
    old_database(path, [make(change(f"/f{i}")) for i in range(3)])

    def full(_: object) -> bytes:
        raise sqlite3.OperationalError("database or disk is full")

    with monkeypatch.context() as patch:
        patch.setattr("sensor.audits.store.row_digest", full)
        with pytest.raises(StateError, match="disk is full"):
            AuditStore(path)
    with sqlite3.connect(path) as db:
        assert db.execute("PRAGMA user_version").fetchone() == (1,)
        assert db.execute("SELECT count(*) FROM sqlite_master WHERE name='chain'").fetchone() == (
            0,
        )
    db.close()
    AuditStore(path).close()
    assert verify(path).good


def test_a_later_version_is_refused(path: Path) -> None:
    """What a later Rote wrote is not touched."""
    with sqlite3.connect(path) as db:
        db.execute("PRAGMA user_version=3")
    db.close()
    for read_only in (False, True):
        with pytest.raises(StateError, match="later Rote"):
            AuditStore(path, read_only=read_only)


def test_verifying_while_a_daemon_writes(path: Path) -> None:
    """One state is looked at; what is added meanwhile does not matter."""
    store = AuditStore(path)
    for i in range(5):
        store.add_many([make(change(f"/n{i}"))])
        store.note_head()
        assert verify(path, [store.head]).problems == []
    store.close()


def test_the_keeper_notes_and_logs(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """The file follows the head; the log gets it now and then, and at the end."""
    store = AuditStore(path)
    keeper = HeadKeeper(store, log_seconds=100)
    with caplog.at_level(logging.INFO, "rote.audits"):
        keeper.tick(0.0)
        store.add_many([make(change("/g1"))])
        keeper.tick(50.0)
        assert read_head(path) == store.head
        assert len(caplog.messages) == 1
        keeper.tick(100.0)
        keeper.tick(250.0)  # it did not move
        assert len(caplog.messages) == 2
        store.add_many([make(change("/g2"))])
        keeper.close()
    assert str(store.head) in caplog.messages[-1]
    assert len(caplog.messages) == 3
    assert head_path(path).stat().st_mode & 0o777 == 0o600
    store.close()


def test_a_head_that_cannot_be_noted_is_said_once(
    path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A full disk does not end the daemon, nor fill its log."""
    store = AuditStore(path)
    keeper = HeadKeeper(store)

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    store.add_many([make(change("/g1"))])
    with monkeypatch.context() as patch, caplog.at_level(logging.ERROR, "rote.audits"):
        patch.setattr("sensor.audits.head.os.fsync", full)
        for second in range(3):
            keeper.tick(float(second))
    assert [message for message in caplog.messages if "No space left" in message] == [
        f"{head_path(path)}: No space left on device; an earlier head stays there"
    ]
    assert sorted(p.name for p in path.parent.iterdir() if "head" in p.name) == ["audits.head"]
    keeper.tick(4.0)
    assert read_head(path) == store.head
    store.close()


@pytest.mark.parametrize("text", ["", "1", "1:ab", "x:" + "0" * 64, "-1:" + "0" * 64])
def test_a_wrong_head_says_what_is_right(text: str) -> None:
    """Only SEQUENCE:HASH is a head."""
    with pytest.raises(UsageError, match="SEQUENCE:HASH"):
        parse_head(text)


def test_many_problems_are_counted_and_some_shown(path: Path) -> None:
    """A database that was emptied is not listed row by row."""
    store = AuditStore(path)
    store.add_many([make(change(f"/h{i}")) for i in range(500)])
    store.close()
    found = tamper(path, "UPDATE audits SET severity = 1")
    assert (found.wrong, len(found.problems)) == (508, 50)


def test_queries_by_rule_and_time_use_the_index(path: Path) -> None:
    """Replaying the last days reads those days only, one audit after the other."""
    store = AuditStore(path)
    store.add_many([make(execution("/bin/nc", time_ns=START + 10**15), rule="no shells")])
    query = AuditQuery.from_options({"rule": "no *", "since": str(START // 10**9 + 1000)})
    assert [a.program for a in store.stream(query)] == ["/bin/nc"]
    assert [a.program for a in store.query(query)] == ["/bin/nc"]
    assert [a.id for a in store.stream(AuditQuery()) if query.matches(a)] == [9]
    where, values = query.where()
    plan = store._db.execute(f"EXPLAIN QUERY PLAN SELECT id FROM audits WHERE {where}", values)
    assert "audits_last" in str(plan.fetchall())
    store.close()


def test_the_numbers_of_kinds_never_change() -> None:
    """They are part of every hash."""
    assert [(kind.name, int(kind)) for kind in Kind] == [
        ("ADDED", 1), ("COUNTED", 2), ("TAKEN_OVER", 3), ("CARRIED", 4), ("PRUNED", 5),
        ("BROKEN", 6),
    ]  # fmt: skip
