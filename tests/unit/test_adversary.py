"""What a model would let an attacker plant."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from sensor.cli.model_admission import admission_json, admission_lines
from sensor.events import OperationClass
from sensor.models.adversary import admission, example, model_admission, writable_directories
from sensor.models.keys import Program, WriteKey
from sensor.models.model import Evidence, Model
from sensor.paths import Label, Match, Pattern, generalise
from tests.unit.builders import IMAGE

WRITE, REMOVE, RENAME = OperationClass.WRITE, OperationClass.REMOVE, OperationClass.RENAME


def model(*patterns: str, operation: OperationClass = WRITE) -> Model:
    """A model whose program changes these patterns."""
    found = Model("m", 1, IMAGE, "")
    for pattern in patterns:
        found.add(WriteKey(Program("/bin/serve"), pattern, operation), Evidence(0, 0))
    return found


def test_a_model_of_exact_names_admits_nothing() -> None:
    """Two thousand paths and more are tried even on a model of two keys."""
    tried = model_admission(model("/run/serve.pid", "/var/log/serve.log"))
    assert tried.tried >= 2000
    assert (tried.admitted, tried.granted, tried.outside, tried.protected) == (0, (), (), ())


def test_what_is_learned_by_name_is_not_held_against_the_model() -> None:
    """A service that writes authorized_keys by design does so; that is no hole."""
    assert model_admission(model("/root/.ssh/authorized_keys")).protected == ()


def test_a_granted_directory_is_found_and_counted_apart() -> None:
    """Any name goes in it, so nothing there is a surprise, but it counts in the whole."""
    tried = model_admission(model("/srv/spool/*"))
    assert tried.granted == ("/srv/spool",)
    assert tried.admitted > 50
    assert tried.outside == ()
    assert 0 < tried.share < 1
    assert tried.tried_outside < tried.tried


def test_below_a_subtree_everything_is_granted() -> None:
    """Two stars at the end reach as deep as anybody likes."""
    assert "/opt/data" in model_admission(model("/opt/**", "/opt/data/x")).granted


def test_code_in_a_wide_pattern_is_a_protected_path_admitted() -> None:
    """A wildcard over a protected directory is the worst that generalising can do."""
    tried = admission([], lambda path: path.startswith("/etc/cron.d/"))
    assert "/etc/cron.d/evil" in tried.protected
    assert "/etc/cron.d" in tried.granted


def test_a_class_that_takes_an_imitation_is_a_hole_outside() -> None:
    """The imitation differs from what was learned in its extension only."""
    tried = admission(["/data/dump-7.rdb"], lambda path: path.startswith("/data/dump-"))
    assert "/data/dump-7.elf" in tried.outside
    assert tried.granted == ()
    assert tried.share_outside == len(tried.outside) / tried.tried_outside


def test_only_what_brings_a_name_about_counts() -> None:
    """To remove any file of a directory plants nothing; to rename one into it does."""
    assert model_admission(model("/srv/*", operation=REMOVE)).admitted == 0
    assert model_admission(model("/srv/*", operation=RENAME)).granted == ("/srv",)


def test_of_very_many_directories_some_are_tried() -> None:
    """A hash fan-out would take minutes; the first and the last part are among them."""
    directories = writable_directories(f"/data/{n:05}/file" for n in range(5000))
    assert len(directories) == 400
    assert min(directories) == "/data/00000"
    assert max(directories) > "/data/04900"


def test_the_answer_is_shown_to_people_and_programs() -> None:
    """Both say the same numbers and name the same places."""
    tried = model_admission(model("/srv/*"))
    lines = admission_lines(tried)
    assert str(tried.tried) in lines[0]
    assert "  any name in /srv" in lines
    shown = admission_json(tried)
    assert shown["granted"] == ["/srv"]
    assert shown["tried"] == tried.tried


_NAMES = st.from_regex(rb"[a-z0-9._-]{1,12}", fullmatch=True).filter(lambda n: n.strip(b"."))
_LABELS = st.one_of(
    st.just(Label(Match.ANY)), _NAMES.map(lambda name: generalise("/" + name.decode()).labels[0])
)
_LAST = st.one_of(
    _LABELS,
    st.just(Label(Match.SUBTREE)),
    st.just(Label(Match.DATA)),
    _NAMES.map(lambda name: Label(Match.TEMPORARY, name)),
    st.from_regex(rb"\.[a-z0-9]{1,8}", fullmatch=True).map(lambda e: Label(Match.EXTENSION, e)),
)


@given(st.lists(_LABELS, max_size=4), _LAST)
def test_an_example_of_a_pattern_matches_it(directory: list[Label], last: Label) -> None:
    """Else the directories that are tried would not be those that the model writes to."""
    pattern = Pattern((*directory, last))
    assert pattern.matches(example(pattern))
