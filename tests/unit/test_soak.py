"""Comparing generalisers on recorded runs, and the tables made of it."""

from __future__ import annotations

import gzip
import json
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from sensor.errors import BadInputError
from sensor.events import EventKind, Operation, OperationClass, Origin
from sensor.models.files import key_text
from sensor.models.keys import Program, WriteKey
from sensor.testing import load_events, save_events
from tests.soak import traces
from tests.soak.compare import compare, table
from tests.soak.convert import load_foreign
from tests.soak.generalisers import Exact, Ours, Threshold
from tests.soak.page import write_section
from tests.soak.record import strip
from tests.soak.report import Report, keep, load
from tests.soak.report import table as soak_table
from tests.soak.traces import Run, Trace
from tests.unit.builders import change, execution

RECORDED = ("memcached", "redis")


@pytest.mark.parametrize("service", RECORDED)
def test_ours_gives_no_more_false_keys_than_exact_paths(service: str) -> None:
    """The point of generalising, on real runs; and it must not open a protected place."""
    trace = traces.load(service, *traces.paths_of(traces.OWN, service))
    results = {result.generaliser: result for result in compare(trace)}
    ours, exact = results[Ours.name], results[Exact.name]
    assert len(exact.writes) >= len(ours.writes)
    assert len(exact.executions) >= len(ours.executions)
    assert ours.admission.protected == ()
    assert ours.admission.tried >= 2000
    assert exact.admission.admitted == 0


def test_numbers_in_names_are_new_to_exact_paths_only() -> None:
    """A process id in a temporary name: the least that a generaliser has to see through."""
    trace = Trace(
        "made up",
        Run([execution("/bin/serve", ""), change("/data/temp-7.rdb")]),
        Run([execution("/bin/serve", ""), change("/data/temp-4711.rdb")]),
    )
    new = {result.generaliser: len(result.writes) for result in compare(trace)}
    assert new["exact"] == 1
    assert new["ours"] == 0


def test_a_program_written_at_run_time_is_no_false_execution() -> None:
    """No generaliser may learn it, so it says nothing about any."""
    built = execution("/src/prog", origin=Origin.ADDED)
    results = compare(Trace("build", Run([built]), Run([built])))
    assert [result.executions for result in results] == [[], [], [], []]


def run(*paths: str) -> Run:
    """A run of one program that writes these."""
    return Run([change(path) for path in paths])


def test_a_threshold_opens_a_directory_with_one_name_too_many() -> None:
    """Three names are learned; with the fourth any is known, to that program."""
    few, many = Threshold(3), Threshold(3)
    few.learn(run("/d/a", "/d/b", "/d/c"))
    many.learn(run("/d/a", "/d/b", "/d/c", "/d/e"))
    assert [few.admits("/d/x"), many.admits("/d/x"), many.admits("/d/x/y")] == [False, True, False]
    assert len(few.novel(run("/d/a", "/d/x"))) == 1
    assert many.novel(run("/d/a", "/d/x")) == {}
    assert len(many.novel(Run([change("/d/x", program="/bin/other")]))) == 1
    assert few.keys() == 3
    assert many.keys() == 1


def test_what_lies_below_folded_directories_is_merged() -> None:
    """So a file that was written in one of them is known in all."""
    wide = Threshold(3)
    wide.learn(run("/d/1/log", "/d/2/log", "/d/3/pid", "/d/4/log", "/d/5/pid"))
    assert [wide.admits("/d/9/log"), wide.admits("/d/9/pid"), wide.admits("/d/9/x")] == [
        True,
        True,
        False,
    ]
    assert wide.keys() == 2


def test_a_second_learning_run_adds_to_the_first() -> None:
    """Ours learns from several containers."""
    with closing(Ours()) as ours:
        ours.learn(run("/d/a"))
        ours.learn(run("/d/b"))
        assert ours.novel(run("/d/a", "/d/b")) == {}
        assert ours.model is not None
        assert ours.model.runs == 2


def test_the_table_has_a_line_for_each_generaliser_and_each_service() -> None:
    """And its columns fit its head."""
    first = Trace("one", run("/d/a"), run("/d/b"))
    second = Trace("two", Run([]), Run([execution("/bin/x")]))
    text = table([*compare(first), *compare(second)])
    for part in text.strip().split("\n\n"):
        assert len({line.count("|") for line in part.splitlines()}) == 1
    for name in ("| exact |", "| siblings > 50 |", "| siblings > 3 |", "| ours |", "| one |"):
        assert name in text
    assert "0 + 1 exec." in text


def fanotify(path: Path, *rows: dict[str, Any]) -> Path:
    """A trace as the fanotify tracer writes it."""
    with gzip.open(path, "wt") as file:
        file.writelines(json.dumps({"t": n, "pid": 7, **row}) + "\n" for n, row in enumerate(rows))
    return path


def test_a_fanotify_trace_becomes_events(tmp_path: Path) -> None:
    """Scripts, programs that had ended, deleted names, and what was written before it ran."""
    path = fanotify(
        tmp_path / "s.L.jsonl.gz",
        {"k": "x", "exe": "/", "path": "/entry.sh", "pp": "/usr/bin/runc"},
        {"k": "x", "exe": "/", "path": "/usr/bin/dash", "pp": "/usr/bin/runc"},
        {"k": "w", "exe": "/usr/bin/dash", "path": "/etc/app.conf"},
        {"k": "w", "exe": "/usr/bin/dash", "path": "/tmp/x (deleted)"},
        {"k": "h", "exe": "?", "path": "/tmp/prog"},
        {"k": "w", "exe": "?", "path": "/tmp/lost", "pid": 99},
        {"k": "x", "exe": "/usr/bin/dash", "path": "/tmp/prog", "pid": 8},
    )
    script, shell, config, deleted, held, built = load_foreign(path)
    assert (script.operation, shell.operation) == (Operation.SCRIPT, Operation.EXEC)
    assert (script.program, script.kind) == ("", EventKind.EXEC)
    assert (config.origin, deleted.origin) == (Origin.IMAGE, Origin.ADDED)
    assert deleted.path == "/tmp/x"
    assert held.program == "/usr/bin/dash"
    assert (built.path, built.origin) == ("/tmp/prog", Origin.ADDED)


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (b"no gzip", "gzip"),
        (gzip.compress(b"{"), "line 1"),
        (gzip.compress(b'{"t": 1}\n'), "expected an object with t, k, pid, exe and path"),
    ],
)
def test_a_broken_fanotify_trace_is_refused(tmp_path: Path, content: bytes, expected: str) -> None:
    """The message names the file and what was expected."""
    path = tmp_path / "s.L.jsonl.gz"
    path.write_bytes(content)
    with pytest.raises(BadInputError, match=expected) as caught:
        load_foreign(path)
    assert str(path) in str(caught.value)


def test_recorded_runs_are_found_by_folder_or_file(tmp_path: Path) -> None:
    """Both forms; a run without its second is named."""
    for path in traces.paths_of(tmp_path, "redis"):
        save_events(path, [change("/data/x")])
    for letter in "LT":
        fanotify(tmp_path / f"nginx.{letter}.jsonl.gz")
    assert [name for name, _, _ in traces.find([tmp_path])] == ["nginx", "redis"]
    ((name, learn, judge),) = traces.find([tmp_path / "redis.learn.events.gz"])
    assert traces.load(name, learn, judge).judge.events[0].path == "/data/x"
    judge.unlink()
    with pytest.raises(BadInputError, match=r"redis\.judge"):
        traces.find([tmp_path])
    with pytest.raises(BadInputError, match="scripts/soak record"):
        traces.find([tmp_path / "nginx.T.jsonl.gz"])


def test_compressed_events_come_back(tmp_path: Path) -> None:
    """Also the same bytes twice, so that a recording that did not change is no change."""
    events = [change("/data/x"), execution("/bin/\udcff")]
    one, two = tmp_path / "one.gz", tmp_path / "two.gz"
    save_events(one, events)
    save_events(two, events)
    assert load_events(one) == events
    assert one.read_bytes() == two.read_bytes()
    one.write_bytes(one.read_bytes()[:-9])
    with pytest.raises(BadInputError, match="expected recorded events"):
        load_events(one)


def test_a_recording_says_nothing_about_its_host() -> None:
    """Times begin at 0 and processes at 1; who is whose child can still be told."""
    events = [
        execution("/bin/a", pid=9000, tid=9000, parent_pid=1, exec_id=1 << 40),
        change("/d/x", pid=9000, tid=9001, parent_pid=1, exec_id=1 << 40),
    ]
    first, second = strip(events)
    assert first.time_ns == 0
    assert first.pid == second.pid != second.tid
    assert max(first.pid, second.tid, first.exec_id, first.cgroup_id) < 10
    assert second.time_ns == events[1].time_ns - events[0].time_ns


def audit(**values: Any) -> dict[str, object]:
    """One audit as `rote audits list` shows it, as far as it matters here."""
    defaults = {
        "type": "unknown_write", "sensor": "filesystem", "program": "/bin/serve",
        "operation": "open_write", "path": "/data/x", "path2": "", "parents": [],
    }  # fmt: skip
    return {**defaults, **values}


def test_audits_are_counted_by_what_they_say(tmp_path: Path) -> None:
    """Twice the same is two alarms and one false key; built programs are counted apart."""
    report = Report("web", judged_minutes=2.0)
    report.take_audits(
        [
            audit(),
            audit(),
            audit(path="/usr/bin/x", type="protected_write"),
            audit(type="unknown_program", sensor="process", path="/bin/id"),
            audit(type="changed_program", sensor="process", path="/src/prog"),
        ]
    )
    assert (len(report.writes), len(report.protected), len(report.executions)) == (1, 1, 1)
    assert len(report.run_time_programs) == 1
    assert (report.actual, report.alarms_per_hour) == (3, 150.0)
    kept = tmp_path / "results.json"
    keep([report, Report("broken", failure="why")], kept)
    keep([Report("web", judged_minutes=1.0)], kept)
    assert [r.service for r in load(kept)] == ["web", "broken"]
    assert load(kept)[0].actual == 0
    rows = json.loads(kept.read_text())
    kept.write_text(json.dumps([*rows, {"service": "old", "gone": 1}]))
    assert [r.service for r in load(kept)] == ["web", "broken"]
    lines = soak_table([report]).splitlines()
    assert len({line.count("|") for line in lines}) == 1
    assert len(soak_table(load(kept)).splitlines()) == 3


def test_names_that_differ_in_a_number_are_one_false_key() -> None:
    """As the model would have learned them."""
    program = Program("/usr/sbin/logrotate")
    removes = [
        WriteKey(program, f"/var/log/<N>/{name}.gz", OperationClass.REMOVE) for name in ("a", "b")
    ]
    report = Report("cron", judged_minutes=2.0)
    report.take_audits(
        audit(path=f"/var/log/{n}/{key.pattern[-4:]}", keys=[key_text(key)])
        for n in range(5)
        for key in removes
    )
    assert len(report.writes) == 2
    assert report.alarms == 10


def test_only_the_marked_part_of_the_page_is_replaced(tmp_path: Path) -> None:
    """People write the rest."""
    page = tmp_path / "page.md"
    page.write_text("before\n<!-- soak -->\nold\n<!-- /soak -->\nafter\n")
    write_section("soak", "| new |\n", page)
    assert page.read_text() == "before\n<!-- soak -->\n| new |\n<!-- /soak -->\nafter\n"
    with pytest.raises(BadInputError, match="<!-- other -->"):
        write_section("other", "", page)
