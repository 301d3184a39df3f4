"""Documents of odd shapes: what is wrong is said, and nothing raises."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sensor.images.compliance.check import Status
from sensor.images.compliance.judge import evaluate
from sensor.images.compliance.subject import Subject
from tests.unit.test_compliance_checks import (
    DOCKER,
    HOST,
    IMAGE,
    OCI,
    OCI_IMAGE,
    WISHES,
    changed,
    verdict,
)


@pytest.mark.parametrize(
    ("path", "value", "number", "said"),
    [
        ("HostConfig.Memory", "lots", "5.11", "HostConfig.Memory is a text; expected a number"),
        ("HostConfig", [], "5.5", "HostConfig is a list; expected an object"),
        ("Mounts", {"a": 1}, "5.6", "Mounts is an object; expected a list"),
        ("Config.Env", ["A=1", 7], "597", "Config.Env.* is a number; expected a text"),
        ("HostConfig.Privileged", "true", "5.5", "is a text; expected true or false"),
    ],
)
def test_odd_shapes_are_said(path: str, value: Any, number: str, said: str) -> None:
    """Never guessed, and never shown: the value may be a secret."""
    status, why = verdict(number, inspected=changed(DOCKER, path, value))
    assert status == "unknown"
    assert said in why


_KEYS: list[str] = sorted(
    {key for document in (DOCKER, OCI, IMAGE, OCI_IMAGE, DOCKER["HostConfig"], DOCKER["Config"],
                          OCI["process"], OCI["linux"], OCI["linux"]["resources"])
     for key in document}
)  # fmt: skip
_ODD = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8)
    | st.sampled_from(["host", "ALL", "PASSWORD=x", "/etc", "container:x", "80"]),
    lambda inner: st.lists(inner, max_size=3)
    | st.dictionaries(st.sampled_from(_KEYS) | st.text(max_size=4), inner, max_size=6),
    max_leaves=30,
)  # fmt: skip
_MAPPING = st.dictionaries(st.sampled_from(_KEYS), _ODD, max_size=12)


def _places(document: Mapping[str, Any], prefix: str = "") -> list[str]:
    found = []
    for key, value in document.items():
        if "." in key or "/" in key:
            continue
        found.append(prefix + key)
        if isinstance(value, dict):
            found += _places(value, f"{prefix}{key}.")
    return found


@settings(max_examples=150, deadline=None)
@given(_MAPPING, _MAPPING, _MAPPING)
def test_no_shape_makes_a_check_raise(
    spec: dict[str, Any], inspected: dict[str, Any], image: dict[str, Any]
) -> None:
    """Whatever JSON somebody hands over."""
    for subject in (
        Subject(spec=spec, image=image, host=HOST, wishes=WISHES),
        Subject(inspected=inspected, image=image, host=HOST, wishes=WISHES),
    ):
        for result in evaluate(subject):
            assert result.status in Status
            assert "\n" not in result.evidence


@settings(max_examples=200, deadline=None)
@given(st.data())
def test_one_odd_value_makes_no_check_raise(data: st.DataObject) -> None:
    """A document that is right but for one value reaches deeper."""
    for document, make in (
        (DOCKER, lambda d: Subject(inspected=d, host=HOST)),
        (OCI, lambda d: Subject(spec=d, host=HOST)),
        (IMAGE, lambda d: Subject(image=d, host=HOST)),
    ):
        maker: Callable[[dict[str, Any]], Subject] = make
        place = data.draw(st.sampled_from(_places(document)))
        for result in evaluate(maker(changed(document, place, data.draw(_ODD)))):
            assert result.status in Status
