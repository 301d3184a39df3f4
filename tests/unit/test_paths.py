"""The canonical form and the path trie."""

from __future__ import annotations

import os

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sensor.errors import UsageError
from sensor.models.trie import PathTrie
from sensor.paths import Label, Match, Pattern, canonical, generalise, is_protected, split


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("temp-38.rdb", "temp-<N>.rdb"),
        ("access.log-20261123", "access.log-<N>"),
        ("sedffKiZm", "<X>"),
        ("tmp.UQog282xxT", "tmp.<X>"),
        ("ccAb12Cd.s", "<X>.s"),
        ("pgsql_tmp41.0", "pgsql_tmp<N>.<N>"),
        ("deadbeef01", "<X>"),
        ("0c9d2f6e-1b2a-4f1e-9c3d-5a6b7c8d9e0f", "<X>-<X>-<X>-<X>-<X>"),
        ("node1", "node<N>"),
        ("access.log", "access.log"),
        ("PG_VERSION", "PG_VERSION"),
        ("a<b", "a\\<b"),
    ],
)
def test_canonical_examples(name: str, text: str) -> None:
    """Numbers and random tokens are replaced, words stay."""
    assert generalise("/" + name).text == "/" + text


def test_canonical_refuses_marks_and_long_names() -> None:
    """A name cannot imitate a class, and an over-long one has none."""
    assert canonical(b"temp-\x01.rdb") is None
    assert canonical(b"a1" + b"\x02") is None
    assert canonical(b"1" * 129) is None
    assert canonical(b"1" * 128) == b"\x01"


component = st.one_of(
    st.text("ab1X.-_", min_size=1, max_size=12).map(os.fsencode),
    st.binary(min_size=1, max_size=20).map(
        lambda b: b.replace(b"/", b"a").replace(b"\0", b"b"),
    ),
).filter(lambda b: b not in (b".", b".."))
paths = st.lists(component, min_size=1, max_size=6).map(lambda p: os.fsdecode(b"/" + b"/".join(p)))


@given(paths)
def test_generalised_pattern_matches_its_path(path: str) -> None:
    """What was learned from a path matches that path: learner and matcher agree."""
    assert generalise(path).matches(path)
    assert Pattern.exact(path).matches(path)


@given(paths)
def test_text_form_round_trips(path: str) -> None:
    """Every pattern reads back from its text."""
    for pattern in (generalise(path), Pattern.exact(path)):
        assert Pattern.parse(pattern.text) == pattern


small = st.lists(st.sampled_from([b"a", b"a1", b"a22", b"b", b"7", b"x7y"]), min_size=1, max_size=4)


@st.composite
def patterns(draw: st.DrawFn) -> Pattern:
    """Patterns over few names, so that they overlap often."""
    labels = []
    for part in draw(small):
        how = draw(st.sampled_from(list(Match)[:3]))
        if how is Match.ANY:
            labels.append(Label(Match.ANY))
        elif how is Match.CLASS and (form := canonical(part)):
            labels.append(Label(Match.CLASS, form))
        else:
            labels.append(Label(Match.EXACT, part))
    if draw(st.integers(0, 5)) == 0:
        labels.append(Label(Match.SUBTREE))
    return Pattern(tuple(labels))


@given(st.lists(patterns(), max_size=12), st.lists(small, max_size=10))
def test_trie_equals_trying_each_pattern(known: list[Pattern], probes: list[list[bytes]]) -> None:
    """The walk without backtracking finds exactly the patterns that match."""
    trie: PathTrie[int] = PathTrie()
    for i, pattern in enumerate(known):
        trie.insert(pattern, i)
    for probe in probes:
        expected = {i for i, p in enumerate(known) if p.matches_components(probe)}
        assert trie.walk(probe) == expected


@pytest.mark.parametrize("text", ["a/b", "/a/**/b", "/a<b", "/x*", "/a\\"])
def test_parse_refuses(text: str) -> None:
    """A pattern that cannot be meant is refused with its text."""
    with pytest.raises(UsageError, match="pattern"):
        Pattern.parse(text)


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("/usr/bin/x", True),
        ("/etc/passwd", True),
        ("/home/u/.ssh/authorized_keys", True),
        ("/var/lib/x/libevil.so.1", True),
        ("/srv/shell.php", True),
        ("/var/log/nginx/access.log", False),
        ("/usr/share/x", False),
        ("/etcetera/passwd", False),
    ],
)
def test_protected(path: str, expected: bool) -> None:
    """Places that change what runs or who may enter."""
    assert is_protected(path) is expected


def test_split_ignores_empty_components() -> None:
    """Double slashes do not make components."""
    assert split("//a///b/") == (b"a", b"b")
