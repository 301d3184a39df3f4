"""What people see of a model: the sentence, the curve, the figures, the page for a browser."""

from __future__ import annotations

import html
from html.parser import HTMLParser

import orjson
import pytest

from sensor.cli import model_html, model_page
from sensor.events import Actor, OperationClass, Origin
from sensor.models.incidence import Counts, Incidence, Trial
from sensor.models.keys import ExecKey, Key, Program, WriteKey
from sensor.models.model import Evidence, Model, ModelState, Transition
from tests.unit.builders import IMAGE

SERVE = Program("/bin/serve")
NS = 1_800_000_000 * 10**9
VOID = ("meta", "path")


def some_model(*more: Key) -> Model:
    """An active model after a day's dry run."""
    start = ExecKey(Program(""), SERVE, Origin.IMAGE, Actor.SERVICE)
    tool = ExecKey(SERVE, Program("/bin/busybox", "ls"), Origin.IMAGE, Actor.PROBE)
    data = WriteKey(SERVE, "/var/lib/web/temp-<N>.rdb", OperationClass.WRITE)
    log = WriteKey(SERVE, "/var/log/web.log", OperationClass.ATTRIBUTES)
    keys = {key: Evidence(NS, NS, 3, 2, 2) for key in (start, tool, data, log, *more)}
    counts = Incidence(
        starts=3,
        units=[3000, 1500, 750],
        keys={
            start: Counts(0, 3),
            tool: Counts(1, 0, [900, 700, 500]),
            data: Counts(1, 0, [1, 1, 1]),
            log: Counts(1, 0, [4, 2, 2]),
        },
        curve=[(1, 1), (40, 3), (700, 4)],
    )
    return Model(
        "sha256:ab~cd", 1, IMAGE, "s", ModelState.ACTIVE, keys=keys, incidence=counts,
        trial=Trial(1441, 1441.0, 0, 0.0, 3), created_ns=NS, last_used_ns=NS + 3 * 86400 * 10**9,
        history=[Transition(NS, "m", "dry-run", "active", "nothing new")],
    )  # fmt: skip


class Page(HTMLParser):
    """A page taken apart; what is not closed where it was opened is an error."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str | None]] = []
        self.texts: list[str] = []
        self.feed(text)
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """See ``HTMLParser``."""
        self.tags.append(tag)
        self.attributes += attrs
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        """See ``HTMLParser``."""
        if tag in VOID:
            return
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        """See ``HTMLParser``."""
        self.texts.append(data)


def test_the_sentence_says_how_sure_it_is() -> None:
    """State, since when, what is expected, what is promised, and what that rests on."""
    text = model_page.sentence(some_model())
    assert text.startswith("shop/web:1.2 is active since 20")
    assert "(nothing new); expected 0" in text
    assert "new keys a day, at most 3 with 95% confidence" in text
    assert text.endswith("basis 1,441 quiet minutes in 3 runs.")


def test_the_sentence_of_a_model_that_was_wrong() -> None:
    """Minutes with something new are told apart; kinds that do not converge are named."""
    model = some_model()
    model.trial = Trial(1441, 1441.0, 2, 2.0, 1)
    model.unsettled = frozenset({"writes"})
    text = model_page.sentence(model)
    assert "basis 1,439 quiet minutes and 2 with something new in 1 run;" in text
    assert text.endswith("; writes do not converge and are only told.")


def test_without_a_dry_run_nothing_is_promised() -> None:
    """A model that learns expects, and promises nothing; what it lacks is said."""
    model = some_model()
    model.state, model.trial = ModelState.LEARNING, Trial()
    model.incidence.starts = 1
    assert "nothing is promised yet" in model_page.sentence(model)
    assert "starts seen from the beginning: 1 of 2" in model_page.lacking(model)
    assert model_page.as_json(model)["max_false_alarms_per_day"] is None


def test_the_curve_rises_to_the_last_column() -> None:
    """As wide as there is room; the top is the number of keys, the end that of units."""
    lines = list(model_page.curve(some_model()))
    assert lines[0].startswith("4 ┤")
    assert lines[0].endswith("█")
    assert lines[-1].split() == ["0", "1,503", "units"]
    bottom = lines[-3].partition("┤")[2]
    assert len(bottom) == 60
    heights = ["".join(row.partition("┤")[2].ljust(60)[i] for row in lines[:8]) for i in range(60)]
    filled = [column.count("█") for column in heights]
    assert filled == sorted(filled)


def test_a_curve_of_few_units_and_of_none() -> None:
    """Neither is an error."""
    model = some_model()
    model.incidence = Incidence()
    assert "nothing can be foretold before two minutes" in model_page.sentence(model)
    assert model_page.as_json(model)["expected_per_day"] is None
    assert list(model_page.curve(model)) == ["No unit is over yet: nothing to draw."]
    model.incidence.add_start([next(iter(model.keys))])
    assert next(model_page.curve(model)) == "1 ┤█"
    assert list(model_page.curve(model))[-1].split() == ["0", "1", "units"]
    assert Page(model_html.page(model)).tags.count("svg") == 1


def test_figures_by_stratum() -> None:
    """What was counted, and what follows; the two other grids beside it."""
    rows = {row["stratum"]: row for row in model_page.figures(some_model())}
    assert set(rows) == {"exec-startup", "exec-steady", "write-startup", "write-steady"}
    writes = rows["write-steady"]
    assert (writes["units"], writes["keys"], writes["once"], writes["twice"]) == (1500, 2, 1, 1)
    assert writes["coverage"] == pytest.approx(1 - 1 / 3 * 1499 / 1501, abs=1e-5)
    assert {"expected_30s", "expected_60s", "expected_120s"} <= writes.keys()
    assert rows["exec-startup"]["units"] == 3


def test_json_holds_the_same_numbers() -> None:
    """Scripts get what people see."""
    values = orjson.loads(orjson.dumps(model_page.as_json(some_model())))
    assert values["max_false_alarms_per_day"] == pytest.approx(2.99, abs=0.01)
    assert values["basis"] == {
        "units": 1441, "effective_units": 1441.0, "novel_units": 0, "runs": 3,
    }  # fmt: skip
    assert values["curve"][-1] == {"units": 1503, "keys": 4}
    assert values["span_seconds"] == 3 * 86400
    assert [key["minute_units"] for key in values["keys"]] == [0, 700, 1, 2]
    assert values["history"][0]["cause"] == "nothing new"


def test_the_page_is_whole_and_loads_nothing() -> None:
    """No scripts, no addresses, tags closed in order; everything that is known is on it."""
    page = Page(model_html.page(some_model()))
    assert not {"script", "link", "img", "iframe", "object", "form", "a"} & set(page.tags)
    assert not {name for name, _ in page.attributes if name in ("src", "href") or name[:2] == "on"}
    assert {"svg", "table", "h1"} <= set(page.tags)
    text = "".join(page.texts)
    for expected in (
        "1,441 quiet minutes in 3 runs", "(runtime)", "/bin/busybox#ls", "[image, probe]",
        "/var/lib/web/temp-<N>.rdb", "/lib/web/temp-<N>.rdb", "seen in 700 minutes",
        "dry-run", "weekly job", "1,503 units",
    ):  # fmt: skip
        assert expected in text, expected


HOSTILE = "/tmp/<script>alert('x')</script>\"&\x1b[31m\n\udcff<img src=x onerror=y>"


def test_a_hostile_name_is_no_markup() -> None:
    """Whoever is in a container chooses names; on the page they are text, whole and printable."""
    program = Program(HOSTILE, "<b>applet")
    pattern = HOSTILE.replace("<", "\\<")
    model = some_model(
        ExecKey(SERVE, program, Origin.IMAGE, Actor.SERVICE),
        ExecKey(SERVE, Program("/bin/sh"), Origin.IMAGE, Actor.SERVICE, shape=HOSTILE),
        WriteKey(program, pattern, OperationClass.WRITE),
    )
    model.sessions = {ExecKey(program, program, Origin.ADDED, Actor.SESSION): Evidence(NS, NS)}
    model.novelties = {WriteKey(program, pattern, OperationClass.REMOVE): Evidence(NS, NS)}
    model.history.append(Transition(NS, "m", "<i>", "active", f"because {HOSTILE}"))
    model.image = type(IMAGE)("<u>image", HOSTILE)
    text = model_html.page(model)
    page = Page(text)
    plain = Page(model_html.page(some_model()))
    assert set(page.tags) == set(plain.tags)
    assert not {name for name, _ in page.attributes} - {name for name, _ in plain.attributes}
    assert "\x1b" not in text
    assert "\udcff" not in text
    assert text.encode("utf-8")
    shown = html.unescape(text)
    assert "<script>alert('x')</script>" in shown
    assert "\\x1b[31m\\x0a\\xff" in shown
    for line in model_page.page(model):
        assert line.isprintable()


def test_programs_in_a_ring_and_a_long_chain_are_shown_once() -> None:
    """Nobody can make the page endless, or deeper than it can be built."""
    ring = [
        ExecKey(Program(a), Program(b), Origin.IMAGE, Actor.SERVICE)
        for a, b in (("/r/a", "/r/b"), ("/r/b", "/r/a"), ("/bin/serve", "/bin/serve"))
    ]
    chain = [
        ExecKey(Program(f"/c/{i}"), Program(f"/c/{i + 1}"), Origin.IMAGE, Actor.SERVICE)
        for i in range(3000)
    ]
    text = "".join(Page(model_html.page(some_model(*ring, *chain))).texts)
    assert text.count("see above") == 2
    assert "/c/3000" in text


def test_directories_with_one_thing_in_them_are_one_line() -> None:
    """The tree of written paths shows where things branch."""
    text = model_html.page(some_model())
    assert "<li>/var<ul>" in text.replace("\n", "")
    assert "<li>/log/web.log <small>/bin/serve: attributes</small>" in text
