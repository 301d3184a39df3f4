"""Files that people write: what is read, and what is said about what cannot be."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated, Any, Literal

import pytest
import yaml
from hypothesis import example, given
from hypothesis import strategies as st
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from sensor.errors import YamlFileError
from sensor.yamlfiles import explain_validation, list_yaml, parse_yaml, problems, read_yaml

NAME = Path("x.yaml")


def parse(text: str) -> Any:
    """The plain value of a text."""
    return parse_yaml(text.encode(), NAME).value


def refusal(text: str | bytes) -> str:
    """What is said about a text."""
    with pytest.raises(YamlFileError) as caught:
        parse_yaml(text if isinstance(text, bytes) else text.encode(), NAME)
    message = str(caught.value)
    assert "\n" not in message
    return message


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("no", "no"),
        ("on", "on"),
        ("y", "y"),
        ("012", "012"),
        ("1:30", "1:30"),
        ("2026-11-25", "2026-11-25"),
        ("1_000", "1_000"),
        ("true", True),
        ("~", None),
        ("", None),
        ("17", 17),
        ("-4", -4),
        ("1.5", 1.5),
        ("'17'", "17"),
        ("!!str 17", "17"),
        ("1.2.3", "1.2.3"),
        ("on: yes", {"on": "yes"}),
        ("1: a", {"1": "a"}),
        ("a: &x [1, 2]\nb: *x", {"a": [1, 2], "b": [1, 2]}),
        ("\ufeffa: 1", {"a": 1}),
    ],
)
def test_plain_words_mean_what_they_look_like(text: str, value: Any) -> None:
    """YAML 1.2, without the surprises of 1.1."""
    assert parse(text) == value


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a: 1\nb:\n  - x\na: 2\n", "x.yaml:4: a: given twice, first on line 1"),
        ("a: [1, 2\nb: 3", "x.yaml:2: not YAML"),
        ("a: 1\n--- \nb: 2", "x.yaml:2: a second document"),
        (
            "a: !!python/object/apply:os.system [id]",
            "x.yaml:1: tag !!python/object/apply:os.system",
        ),
        ("a: !!binary aGk=", "x.yaml:1: tag !!binary"),
        ("a: !!int x", "x.yaml:1: !!int: the value is none"),
        ("\n\na: *b", "x.yaml:3: alias *b: there is no &b before it"),
        ("a: &a [*a]", "x.yaml:1: alias *a: stands inside itself"),
        ("[a]: 1", "x.yaml:1: a key that is no text"),
        ("a: &a {b: 1}\nc:\n  <<: *a", "x.yaml:3: <<: merging is not supported"),
        (b"a: 1\nb: \xff", "x.yaml:2: not UTF-8"),
        ("a: 1\nb: \x07", "x.yaml:2: not YAML: a control character"),
    ],
)
def test_what_cannot_be_read_is_said_with_its_line(text: str | bytes, expected: str) -> None:
    """One line: file, line, what, expected."""
    assert refusal(text).startswith(expected)


def test_bombs_do_not_go_off() -> None:
    """Aliases of aliases, deep nesting and many values end at the limit, quickly."""
    laughs = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    laughs += [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 10)}]" for i in range(1, 30)]
    assert "more than 100000 values" in refusal("\n".join(laughs))
    assert "nested more than 50 deep" in refusal("[" * 500 + "]" * 500)
    assert "nested more than 50 deep" in refusal(
        "a: &a " + "[" * 30 + "]" * 30 + "\nb: " + "[" * 30 + "*a" + "]" * 30
    )
    assert "more than 100000 values" in refusal("[" + "x," * 100_001 + "]")
    with pytest.raises(YamlFileError):
        parse("[" * 100_000)


def test_files_that_are_none(tmp_path: Path) -> None:
    """A directory, a FIFO, a loop, a large file, nothing: each is said, none is waited for."""
    directory = tmp_path / "d.yaml"
    directory.mkdir()
    loop = tmp_path / "loop.yaml"
    loop.symlink_to(loop)
    fifo = tmp_path / "fifo.yaml"
    os.mkfifo(fifo)
    large = tmp_path / "large.yaml"
    large.write_bytes(b"# " + b"x" * 10_000_000)
    for path, text in (
        (directory, "a directory; expected a YAML file"),
        (loop, "symbolic links that lead to one another"),
        (fifo, "no regular file"),
        (large, "10000002 bytes; expected at most 1048576"),
        (tmp_path / "none.yaml", "No such file or directory"),
    ):
        with pytest.raises(YamlFileError) as caught:
            read_yaml(path)
        assert str(caught.value).startswith(f"{path}: {text}")


def test_files_of_a_directory(tmp_path: Path) -> None:
    """By name; links to files are read, what is hidden or no YAML is not."""
    for name in ("b.yaml", "a.yml", ".hidden.yaml", "b.yaml.bak", "notes.txt"):
        (tmp_path / name).write_text("a: 1")
    (tmp_path / "c.yaml").symlink_to(tmp_path / "b.yaml")
    assert [path.name for path in list_yaml(tmp_path)] == ["a.yml", "b.yaml", "c.yaml"]
    assert read_yaml(tmp_path / "c.yaml").value == {"a": 1}
    assert list_yaml(tmp_path / "b.yaml") == [tmp_path / "b.yaml"]
    assert list_yaml(tmp_path / "nowhere") == []


class _Cat(BaseModel):
    model_config = ConfigDict(extra="forbid")
    kind: Literal["cat"]
    lives: int = 9
    name: str = ""


class _Dog(BaseModel):
    model_config = ConfigDict(extra="forbid")
    kind: Literal["dog"]
    leash: bool = False


class _Zoo(BaseModel):
    model_config = ConfigDict(extra="forbid")
    version: Literal[1]
    mood: Literal["calm", "wild"] = "calm"
    animals: list[Annotated[_Cat | _Dog, Field(discriminator="kind")]] = []


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("version: 1\nanimalls: []", "x.yaml:2: animalls: unknown field; did you mean 'animals'?"),
        (
            "version: 1\nanimals:\n- kind: cat\n  livess: 3",
            "x.yaml:4: animals[0].livess: unknown field; did you mean 'lives'?",
        ),
        (
            "version: 1\nanimals:\n- kind: dog\n  zzz: 3",
            "x.yaml:4: animals[0].zzz: unknown field; expected one of kind, leash",
        ),
        (
            "version: 1\nanimals:\n- kind: cot",
            "x.yaml:3: animals[0].kind: 'cot', expected one of cat, dog; did you mean 'cat'?",
        ),
        ("version: 1\nanimals:\n- lives: 1", "x.yaml:3: animals[0].kind: missing"),
        ("mood: calm", "x.yaml:1: version: missing"),
        ("version: 2", "x.yaml:1: version: 2, expected 1"),
        (
            "version: 1\nmood: clam",
            "x.yaml:2: mood: 'clam', expected 'calm' or 'wild'; did you mean 'calm'?",
        ),
        (
            "version: 1\nanimals: [{kind: cat, lives: many}]",
            "x.yaml:2: animals[0].lives: 'many', expected a valid integer",
        ),
        (
            "version: 1\nanimals: [{kind: cat, name: 1.10}]",
            "x.yaml:2: animals[0].name: 1.1, expected text (put it in quotes)",
        ),
        ("version: 1\nanimals: 3", "x.yaml:2: animals: 3, expected a list"),
        ("[]", "x.yaml:1: a list, expected a map of fields"),
        ("", "x.yaml:1: nothing, expected a map of fields"),
    ],
)
def test_what_does_not_fit_is_said_with_line_and_field(text: str, expected: str) -> None:
    """File, line, field, what was found, what was expected, and the nearest name."""
    document = parse_yaml(text.encode(), NAME)
    with pytest.raises(ValidationError) as caught:
        _Zoo.model_validate(document.value)
    assert explain_validation(document, caught.value, _Zoo).startswith(expected)


def test_truth_values_may_be_words() -> None:
    """``no`` is text, and a field that wants a truth value takes it."""
    assert _Dog.model_validate(parse("kind: dog\nleash: yes")).leash is True
    assert _Cat.model_validate(parse("kind: cat\nname: no")).name == "no"


def test_all_problems_come_by_line() -> None:
    """The first is told with the number of others; a check shows them all."""
    document = parse_yaml(b"version: 1\nx: 1\nanimals:\n- kind: cat\n  y: 1\n", NAME)
    with pytest.raises(ValidationError) as caught:
        _Zoo.model_validate(document.value)
    assert [text.split(": ")[0] for text in problems(document, caught.value, _Zoo)] == [
        "x.yaml:2",
        "x.yaml:5",
    ]
    assert explain_validation(document, caught.value, _Zoo).endswith("(and 1 more)")


@example(value="0E0")
@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.text(st.characters(codec="ascii")),
        lambda inner: (
            st.lists(inner, max_size=4)
            | st.dictionaries(st.text("abc", min_size=1), inner, max_size=4)
        ),
        max_leaves=20,
    )
)
def test_what_is_written_is_read(value: Any) -> None:
    """Whatever PyYAML writes of plain values, quotes and all, is read back as it was."""
    text = yaml.safe_dump(value, allow_unicode=False)
    assert parse(text) == value


@given(st.binary(max_size=300))
def test_no_bytes_make_it_fail_otherwise(data: bytes) -> None:
    """Any bytes give a value or an error of ours."""
    try:
        parse_yaml(data, NAME)
    except YamlFileError as error:
        assert str(error).startswith("x.yaml")  # noqa: PT017 - either is good
