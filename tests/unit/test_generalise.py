"""What learning makes of many names."""

from __future__ import annotations

import string

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sensor.events import Operation, OperationClass, Origin
from sensor.models.generalise import Generaliser, temporary_keys
from sensor.models.keys import Program, WriteKey
from sensor.paths import Pattern, generalise, is_protected
from tests.unit.builders import change

SERVE = Program("/bin/serve")


def learned(*paths: str, generaliser: Generaliser | None = None) -> set[str]:
    """The wider patterns that follow from paths that one program wrote."""
    generaliser = generaliser or Generaliser()
    found: set[str] = set()
    for path in paths:
        exact = WriteKey(SERVE, Pattern.exact(path).text, OperationClass.WRITE)
        key = WriteKey(SERVE, generalise(path).text, OperationClass.WRITE)
        found |= {wider.pattern for wider in generaliser.add(key, exact)}
    return found


@pytest.mark.parametrize(
    ("paths", "patterns"),
    [
        pytest.param(["/srv/d/tmp_obj_WFmsEE"], {"/srv/d/tmp_obj_<T>"}, id="looks random"),
        pytest.param(["/srv/d/sedfdtNuP"], {"/srv/d/sed<T>"}, id="short beginning"),
        pytest.param(
            ["/run/apache2.pid.xsAFAQ"], {"/run/apache2.pid.<T>"}, id="a digit in the name"
        ),
        pytest.param(["/run/tmppyd9d_ji"], {"/run/tmp<T8>"}, id="made by Python"),
        pytest.param(["/tmp/wgunicorn-lb6u9o_6"], {"/tmp/wgunicorn-<T8>"}, id="by Python, too"),
        pytest.param(["/srv/d/client_header"], set(), id="a word is not random"),
        pytest.param(["/srv/d/Makefile"], set(), id="nor a capitalised one"),
        pytest.param(
            [f"/srv/d/mail-{tail}" for tail in ("abcdef", "ghijkl", "mnopqr", "stuvwx")],
            {"/srv/d/mail-<T>"},
            id="four words with one beginning",
        ),
        pytest.param(
            [f"/srv/d/mail-{tail}" for tail in ("abcdef", "ghijkl", "mnopqr")], set(), id="three"
        ),
        pytest.param(
            [f"/srv/d/{letter * 5}.log" for letter in "abcdefgh"], {"/srv/d/*.log"}, id="extension"
        ),
        pytest.param([f"/srv/d/{'x' * n}.log" for n in range(1, 8)], set(), id="seven"),
        pytest.param(
            [f"/srv/d/cc{tail}.cdtor.o" for tail in ("jldEEW", "hnqKbm", "ndwCXf", "lADKqq")],
            {"/srv/d/*.o"},
            id="made by one template",
        ),
        pytest.param(
            [f"/srv/d/cc{tail}.res" for tail in ("rnpLSr", "eYZIMq")],
            {"/srv/d/*.res"},
            id="two that look random",
        ),
        pytest.param(
            [f"/srv/d/{name}.txt" for name in ("ChangeLog", "ChangeSet")],
            set(),
            id="two words with capitals",
        ),
        pytest.param(
            [f"/srv/d/{letter * 4}" for letter in "abcdefghijkl"], {"/srv/d/<*>"}, id="data files"
        ),
        pytest.param(
            [f"/srv/d/{name}.{end}" for name in "abcd" for end in
             ("aa", "bb", "cc", "dd", "ee", "ff", "gg", "hh", "ii")],
            {f"/srv/d/*.{end}" for end in
             ("aa", "bb", "cc", "dd", "ee", "ff", "gg", "hh", "ii")},
            id="many of many kinds",
        ),
        pytest.param(
            [f"/srv/d/{part}/fixed" for part in ("5f", "8a", "cd", "bf")],
            {"/srv/d/*/fixed"},
            id="fan-out",
        ),
        pytest.param(
            [f"/srv/d/{part}/fixed" for part in ("log", "cache", "data", "www")],
            set(),
            id="directories with names of their own",
        ),
        pytest.param(["/srv/q/10A2302F06"], {"/srv/q/<N>"}, id="by chance without a letter"),
        pytest.param([f"/srv/d/{'x' * n}.php" for n in range(1, 20)], set(), id="code"),
        pytest.param([f"/etc/cron.d/{'x' * n}" for n in range(1, 20)], set(), id="protected"),
        pytest.param(["/etc/ssh/sedaBcDeF"], set(), id="temporary in a protected place"),
    ],
)  # fmt: skip
def test_what_follows_from_siblings(paths: list[str], patterns: set[str]) -> None:
    """Each rule fires where it should, and not one step earlier."""
    assert learned(*paths) == patterns


def test_a_fan_out_holds_for_all_programs_and_names_below_it() -> None:
    """Which directory comes next is chance, whoever writes; the rest of the path is kept."""
    generaliser = Generaliser()
    learned(*(f"/srv/o/{part}/tmp_obj_aBcDeF" for part in ["0", "1", "2"]), generaliser=generaliser)
    found = learned("/srv/o/7/tmp_obj_xYzAbC", "/srv/o/8/plain", generaliser=generaliser)
    assert {"/srv/o/*/tmp_obj_<T>", "/srv/o/*/plain"} <= found
    other = Program("/bin/other")
    exact = WriteKey(other, "/srv/o/3/own", OperationClass.WRITE)
    assert [key.pattern for key in generaliser.add(exact, exact)] == ["/srv/o/*/own"]


def test_what_was_found_is_found_again_from_the_keys_alone() -> None:
    """A daemon that starts again has the keys and not the names."""
    keys = [
        WriteKey(SERVE, f"/srv/d/{letter * 5}.log", OperationClass.WRITE) for letter in "abcdefg"
    ]
    fan = WriteKey(SERVE, "/srv/o/*/x", OperationClass.WRITE)
    generaliser = Generaliser([*keys, fan])
    assert learned("/srv/d/last.log", generaliser=generaliser) == {"/srv/d/*.log"}
    assert learned("/srv/o/q/y", generaliser=generaliser) == {"/srv/o/*/y"}


def test_a_name_that_is_renamed_into_place_is_temporary() -> None:
    """`ln -sf` and `sed -i`: whatever letters chance gives them."""
    event = change(
        "/srv/d/CuqvxqFI", operation=Operation.RENAME, path2="/srv/d/link", origin=Origin.ADDED
    )
    keys = temporary_keys(event)
    assert {key.pattern for key in keys} == {"/srv/d/Cu<T>"}
    assert {key.operation for key in keys} >= {
        OperationClass.WRITE, OperationClass.REMOVE, OperationClass.LINK,
    }  # fmt: skip
    assert Pattern.parse("/srv/d/Cu<T>").matches("/srv/d/Cuabcdef")
    assert not Pattern.parse("/srv/d/Cu<T>").matches("/srv/d/Cuabcde")
    elsewhere = change("/srv/d/CuqvxqFI", operation=Operation.RENAME, path2="/srv/e/link")
    assert temporary_keys(elsewhere) == []


_NAME = st.text(string.ascii_letters + string.digits + "._-+", min_size=1, max_size=30)
_PLACE = st.sampled_from(
    ["/srv/data", "/tmp", "/etc", "/etc/cron.d", "/usr/lib", "/var/www/html", "/root/.ssh"]
)


@given(st.lists(st.tuples(_PLACE, _NAME), min_size=1, max_size=60))
def test_nothing_protected_is_ever_opened(written: list[tuple[str, str]]) -> None:
    """Whatever is written: no wider key matches code, or lies in a protected place."""
    paths = [f"{place}/{name}" for place, name in written if name.strip(".")]
    planted = ("evil.php", "x.so", "run.sh", "unit.service", "authorized_keys")
    for text in learned(*paths):
        pattern = Pattern.parse(text)
        assert not is_protected(text.rpartition("/")[0] + "/")
        for place in ("/srv/data", "/tmp", "/etc", "/etc/cron.d", "/usr/lib", "/var/www/html"):
            for name in planted[:4]:
                assert not pattern.matches(f"{place}/{name}")


@given(st.lists(_NAME, min_size=1, max_size=60))
def test_wider_keys_match_what_they_follow_from(names: list[str]) -> None:
    """Each wider pattern matches the last path that was written, or a sibling of it."""
    generaliser = Generaliser()
    paths: list[str] = []
    for name in names:
        if not name.strip("."):
            continue
        paths.append(f"/srv/d/{name}")
        for wider in learned(paths[-1], generaliser=generaliser):
            number = "<N>" in wider
            assert number or any(Pattern.parse(wider).matches(path) for path in paths)
