"""Our hook in an OCI runtime's config.json: there once, and nothing else changed."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sensor.errors import BadInputError
from sensor.images.admission.bundle import SPEC_MAX, RuntimeHook, insert

HOOK = RuntimeHook("/usr/lib/rote/gate", ("--socket", "/run/rote/gate.sock"), 12)
OURS = {"path": HOOK.path, "args": [HOOK.path, *HOOK.arguments], "timeout": 12}

_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner),
    max_leaves=10,
)
_entries = st.fixed_dictionaries({"path": st.text(min_size=1, max_size=20)})
_stages = st.none() | st.lists(_entries, max_size=3)
_hooks = st.none() | st.fixed_dictionaries(
    {}, optional={"prestart": _stages, "createRuntime": _stages, "poststop": _stages}
)
_others = st.dictionaries(st.text(max_size=8).filter(lambda s: s.casefold() != "hooks"), _values)


@st.composite
def specs(draw: st.DrawFn) -> dict[str, Any]:
    """What a config.json may say, its members in any order."""
    spec = {**draw(_others), "ociVersion": "1.0.2"}
    if draw(st.booleans()):
        spec["hooks"] = draw(_hooks)
    return dict(draw(st.permutations(list(spec.items()))))


@given(specs(), st.sampled_from([None, 1, "\t"]), st.booleans())
def test_the_hook_comes_first_and_the_rest_stays(
    spec: dict[str, Any], indent: int | str | None, ascii_only: bool
) -> None:
    """Read as JSON, the result is the old one and the hook; a second time nothing is to do."""
    data = json.dumps(spec, indent=indent, ensure_ascii=ascii_only).encode(errors="surrogatepass")
    new = insert(data, HOOK)
    assert new is not None
    expected = dict(spec)
    hooks = dict(expected.get("hooks") or {})
    hooks["createRuntime"] = [OURS, *(hooks.get("createRuntime") or [])]
    expected["hooks"] = hooks
    assert json.loads(new) == expected
    assert insert(new, HOOK) is None
    assert len(new) > len(data)  # it can be written over the old one


@given(specs(), st.data())
def test_a_part_is_never_taken_for_the_whole(spec: dict[str, Any], data: st.DataObject) -> None:
    """Who reads while it is written gets a part."""
    whole = json.dumps(spec).encode()
    part = whole[: data.draw(st.integers(0, len(whole) - 1))]
    with pytest.raises(BadInputError):
        insert(part, HOOK)


def test_every_other_byte_stays() -> None:
    """Numbers and names that Python would write otherwise, spaces, escapes."""
    text = '{ "ociVersion" : "1.0.2",\n"linux":{"l":18446744073709551615,"f":1.50e+3,"a":1,"a":2},'
    text += '"x":"\\u0041\\/" }\n'
    new = insert(text.encode(), HOOK)
    assert new is not None
    stages = f'"hooks":{{"createRuntime":[{HOOK.text}]}},'
    assert new.decode().replace(stages, "", 1) == text


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "expected JSON"),
        ("[]", "no object"),
        ("{}", "no ociVersion"),
        ('{"ociVersion":"1"} x', "more after its end"),
        ('{"ociVersion":"1",}', "no name"),
        ('{"ociVersion" "1"}', "no value"),
        ('{"ociVersion":"1" "a":2}', "no comma"),
        ('{"ociVersion":NaN}', "NaN is not JSON"),
        ('{"ociVersion":"1","hooks":[]}', "hooks: expected an object"),
        ('{"ociVersion":"1","hooks":{"createRuntime":{}}}', "expected a list"),
        ('{"ociVersion":"1","hooks":{},"hooks":{}}', "more than once"),
        ('{"ociVersion":"1","Hooks":{}}', "spelled otherwise"),
        ('{"ociVersion":"1","hook\u017f":{}}', "spelled otherwise"),
        ('{"ociVersion":"1","hooks":{"createruntime":[]}}', "spelled otherwise"),
        ('{"ociVersion":"1","x":' + "[" * 100_000, "not as deep"),
    ],
)
def test_what_cannot_be_changed_safely_is_refused(text: str, words: str) -> None:
    """What is no JSON, or what Go would read otherwise than we do."""
    with pytest.raises(BadInputError, match=words):
        insert(text.encode(), HOOK)


def test_too_large_and_not_utf_8_is_refused() -> None:
    """Neither takes time."""
    with pytest.raises(BadInputError, match="at most"):
        insert(b" " * (SPEC_MAX + 1), HOOK)
    with pytest.raises(BadInputError, match="expected JSON"):
        insert(b'{"ociVersion":"\xff"}', HOOK)


def test_a_hook_of_ours_with_other_arguments_counts() -> None:
    """What base_runtime_spec put there is not called twice."""
    spec = {"ociVersion": "1", "hooks": {"createRuntime": [{"path": "/x"}, {"path": HOOK.path}]}}
    assert insert(json.dumps(spec).encode(), HOOK) is None
