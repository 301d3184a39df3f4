"""YAML files that people write: read within limits, and every complaint names file, line and field.

Read as YAML 1.2 understands plain words, so that the surprises of 1.1 do not happen: ``no`` and
``on`` are text (a field that wants a truth value still takes them), ``012`` and ``1:30`` are text,
dates are text, keys are always text. Only plain values; no object is ever made from a tag.
"""

from __future__ import annotations

import difflib
import errno
import inspect
import os
import re
import stat
import typing
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ValidationError

from sensor.errors import YamlFileError

BYTES_MAX = 1 << 20
NODES_MAX = 100_000  # with aliases expanded
DEPTH_MAX = 50
_SHOWN_MAX = 60
_LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # in C where PyYAML was built with it
_INT = re.compile(r"[-+]?(?:0|[1-9][0-9]*)")
# With a point, as YAML 1.1 has it too: 0E0 may be the beginning of a digest.
_FLOAT = re.compile(r"[-+]?(?:\.[0-9]+|(?:0|[1-9][0-9]*)\.[0-9]*)(?:[eE][-+]?[0-9]+)?")
_WORDS = {
    "": None, "~": None, "null": None, "Null": None, "NULL": None,
    "true": True, "True": True, "TRUE": True, "false": False, "False": False, "FALSE": False,
}  # fmt: skip
_TAG = "tag:yaml.org,2002:"
_SCALAR_TAGS = {_TAG + name for name in ("str", "int", "float", "bool", "null")}

Loc = tuple[str | int, ...]


@dataclass(slots=True)
class _Node:
    """A value and where it stands; what aliases repeat is shared, not copied."""

    line: int
    value: Any = None  # a scalar, a list of nodes, or a map: key → node
    key_lines: dict[str, int] = field(default_factory=dict)
    size: int = 1  # nodes, aliases expanded
    height: int = 1
    is_open: bool = False  # not read to its end

    def plain(self) -> Any:
        """The value without places."""
        if isinstance(self.value, dict):
            return {key: node.plain() for key, node in self.value.items()}
        if isinstance(self.value, list):
            return [node.plain() for node in self.value]
        return self.value


@dataclass(frozen=True, slots=True)
class Document:
    """What a file says, and where it says it."""

    path: Path
    value: Any = field(repr=False)  # it may hold secrets
    _root: _Node = field(repr=False)

    def line_of(self, loc: Sequence[str | int]) -> int:
        """The line of a field.

        Args:
            loc: keys and indices from the top. Parts that are not in the file are passed over:
                a missing field is where its map is.

        Returns:
            Its line, from 1 on; of a field of a map the line of its key.
        """
        return self._walk(loc)[0]

    def name_of(self, loc: Sequence[str | int]) -> str:
        """A field as people write it, ``channels[0].url``; the last part need not be there."""
        return self._walk(loc)[1]

    def _walk(self, loc: Sequence[str | int]) -> tuple[int, str]:
        node, line, name = self._root, self._root.line, ""
        for i, part in enumerate(loc):
            if isinstance(node.value, dict) and part in node.value:
                line, node = node.key_lines[str(part)], node.value[part]
            elif isinstance(node.value, list) and isinstance(part, int) and part < len(node.value):
                node = node.value[part]
                line = node.line
            elif i + 1 < len(loc) or isinstance(part, int):
                continue  # pydantic's own: the branch of a union, a validator
            name += f"[{part}]" if isinstance(part, int) else f".{part}" if name else part
        return line, name

    def error(self, loc: Sequence[str | int], text: str) -> YamlFileError:
        """An error to raise about a field: ``FILE:LINE: FIELD: TEXT``."""
        line, name = self._walk(loc)
        return YamlFileError(f"{self.path}:{line}: {name + ': ' if name else ''}{text}")


def list_yaml(path: Path) -> list[Path]:
    """The YAML files of a directory by name, hidden ones left out; of a file itself.

    Args:
        path: what is not there has no files.

    Raises:
        YamlFileError: the directory cannot be read.
    """
    try:
        if not path.is_dir():
            return [path] if path.exists() or path.is_symlink() else []
        return sorted(
            file
            for file in path.iterdir()
            if file.suffix in (".yaml", ".yml") and not file.name.startswith(".")
        )
    except OSError as error:
        raise YamlFileError(f"{path}: {_reason(error)}; expected a directory of *.yaml") from error


def read_yaml(path: Path) -> Document:
    """Read one file.

    Args:
        path: a regular file, or a symbolic link to one.

    Raises:
        YamlFileError: it cannot be read, is beyond a limit, or is no YAML; one line with the place.
    """
    return parse_yaml(_read(path), path)


def parse_yaml(data: bytes, path: Path) -> Document:
    """Read what a file holds; see ``read_yaml``.

    Args:
        data: its bytes.
        path: how to call it.
    """
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise YamlFileError(f"{path}:{line}: not UTF-8; expected YAML as UTF-8 text") from error
    try:
        root = _Builder(path).build(yaml.parse(text, Loader=_LOADER))
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line = mark.line + 1 if mark else 1
        raise YamlFileError(f"{path}:{line}: not YAML: {error.problem or error.context}") from error
    except yaml.reader.ReaderError as error:
        line = text.count("\n", 0, error.position) + 1
        raise YamlFileError(
            f"{path}:{line}: not YAML: a control character; expected text"
        ) from error
    return Document(path, root.plain(), root)


def _read(path: Path) -> bytes:
    try:
        # Without waiting: a FIFO that nobody writes to would hold us up for ever.
        fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        try:
            status = os.fstat(fd)
            if not stat.S_ISREG(status.st_mode):
                kind = "a directory" if stat.S_ISDIR(status.st_mode) else "no regular file"
                raise YamlFileError(f"{path}: {kind}; expected a YAML file")
            if status.st_size > BYTES_MAX:
                raise YamlFileError(f"{path}: {status.st_size} bytes; expected at most {BYTES_MAX}")
            data = os.read(fd, BYTES_MAX + 1)  # of a regular file all of it at once
        finally:
            os.close(fd)
    except OSError as error:
        raise YamlFileError(f"{path}: {_reason(error)}; expected a YAML file") from error
    if len(data) > BYTES_MAX:
        raise YamlFileError(
            f"{path}: it grows while it is read; expected at most {BYTES_MAX} bytes"
        )
    return data


def _reason(error: OSError) -> str:
    if error.errno == errno.ELOOP:
        return "symbolic links that lead to one another"
    return error.strerror or str(error)


class _Builder:
    """Makes nodes from events, within the limits, before anything large is made."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._count = 0
        self._anchors: dict[str, _Node] = {}

    def build(self, events: Iterator[yaml.Event]) -> _Node:
        root: _Node | None = None
        for event in events:
            if isinstance(event, yaml.DocumentStartEvent):
                if root is not None:
                    raise self._error(event, "a second document; expected one in a file")
                self._anchors.clear()
            elif isinstance(event, yaml.NodeEvent):
                root = self._node(event, events, 1)
        return root or _Node(1)

    def _node(self, event: yaml.Event, events: Iterator[yaml.Event], depth: int) -> _Node:
        line = _line(event)
        if isinstance(event, yaml.AliasEvent):
            node = self._alias(event)
            self._check(event, node.size, depth + node.height - 1)
            return node
        assert isinstance(event, (yaml.ScalarEvent, yaml.CollectionStartEvent))
        self._check(event, 1, depth)
        node = _Node(line, is_open=True)
        if event.anchor:
            self._anchors[event.anchor] = node
        if isinstance(event, yaml.ScalarEvent):
            node.value = self._scalar(event)
        elif isinstance(event, yaml.SequenceStartEvent):
            self._check_tag(event, {_TAG + "seq"})
            node.value = []
            for item in _until(events, yaml.SequenceEndEvent):
                self._adopt(node, self._node(item, events, depth + 1))
        else:
            self._check_tag(event, {_TAG + "map"})
            node.value = {}
            for item in _until(events, yaml.MappingEndEvent):
                key = self._key(item, node)
                child = self._node(next(events), events, depth + 1)
                self._adopt(node, child, key)
        node.is_open = False
        return node

    @staticmethod
    def _adopt(node: _Node, child: _Node, key: str | None = None) -> None:
        if key is None:
            node.value.append(child)
        else:
            node.value[key] = child
        node.size += child.size
        node.height = max(node.height, child.height + 1)

    def _alias(self, event: yaml.Event) -> _Node:
        assert isinstance(event, yaml.AliasEvent)
        name = str(event.anchor)
        node = self._anchors.get(name)
        if node is None:
            raise self._error(event, f"alias *{name}: there is no &{name} before it")
        if node.is_open:
            raise self._error(event, f"alias *{name}: stands inside itself")
        return node

    def _key(self, event: yaml.Event, parent: _Node) -> str:
        if not isinstance(event, yaml.ScalarEvent):
            raise self._error(event, "a key that is no text; expected name: value")
        key = event.value
        if key == "<<" and not event.style:
            raise self._error(event, "<<: merging is not supported; write the fields out")
        if key in parent.value:
            raise self._error(
                event, f"{_cut(key)}: given twice, first on line {parent.key_lines[key]}"
            )
        parent.key_lines[key] = _line(event)
        return key

    def _scalar(self, event: yaml.ScalarEvent) -> Any:
        tag, text = event.tag, event.value
        self._check_tag(event, _SCALAR_TAGS)
        if tag in ("!", _TAG + "str") or (event.style and tag is None):  # in quotes
            return text
        value = _plain(text)
        kinds = {"int": int, "float": (int, float), "bool": bool, "null": type(None)}
        if tag is not None and not isinstance(value, kinds[tag.removeprefix(_TAG)]):  # type: ignore[arg-type]
            raise self._error(event, f"!!{tag.removeprefix(_TAG)}: the value is none")
        return value

    def _check_tag(
        self, event: yaml.ScalarEvent | yaml.CollectionStartEvent, known: set[str]
    ) -> None:
        if event.tag not in (None, "!") and event.tag not in known:
            shown = event.tag.replace(_TAG, "!!")
            raise self._error(event, f"tag {_cut(shown)}: expected plain values, without tags")

    def _check(self, event: yaml.Event, size: int, depth: int) -> None:
        self._count += size
        if self._count > NODES_MAX:
            raise self._error(event, f"more than {NODES_MAX} values, with aliases expanded")
        if depth > DEPTH_MAX:
            raise self._error(event, f"nested more than {DEPTH_MAX} deep")

    def _error(self, event: yaml.Event, text: str) -> YamlFileError:
        return YamlFileError(f"{self._path}:{_line(event)}: {text}")


def _line(event: yaml.Event) -> int:
    return event.start_mark.line + 1 if event.start_mark else 1


def _until(events: Iterator[yaml.Event], end: type[yaml.Event]) -> Iterator[yaml.Event]:
    for event in events:
        if isinstance(event, end):
            return
        yield event


def _plain(text: str) -> Any:
    if text in _WORDS:
        return _WORDS[text]
    if len(text) <= 40 and _INT.fullmatch(text):
        return int(text)
    if len(text) <= 40 and _FLOAT.fullmatch(text):
        return float(text)
    return text


def nearest(word: str, known: Iterable[str]) -> str:
    """``; did you mean 'x'?`` for the known word that is most like this one, or nothing."""
    found = difflib.get_close_matches(word, list(known), n=1, cutoff=0.6)
    return f"; did you mean {found[0]!r}?" if found else ""


def explain_validation(
    document: Document, error: ValidationError, model: type[BaseModel] | None = None
) -> str:
    """What is wrong with a file, in one line: the first problem, and how many more there are.

    Args:
        document: what was validated.
        error: what pydantic found.
        model: what was expected; with it unknown fields come with the nearest known name.
    """
    first, *more = problems(document, error, model)
    return first + (f" (and {len(more)} more)" if more else "")


def problems(
    document: Document, error: ValidationError, model: type[BaseModel] | None = None
) -> list[str]:
    """Every problem as ``FILE:LINE: FIELD: WHAT, expected …``, by line.

    What a file holds in fields that are unknown, or were refused by a validator, is not shown: it
    may be a secret.
    """
    found = []
    for detail in error.errors(include_url=False):
        loc, text = _explain(detail, model)
        found.append((document.line_of(loc), str(document.error(loc, text))))
    return [text for _, text in sorted(found, key=lambda item: item[0])]


def _explain(detail: Any, model: type[BaseModel] | None) -> tuple[Loc, str]:
    loc, kind, context = detail["loc"], detail["type"], detail.get("ctx", {})
    shown = _shown(detail["input"])
    message = detail["msg"].removeprefix("Value error, ").removeprefix("Assertion failed, ")
    if kind == "missing":
        return loc, "missing; it must be given"
    if kind == "extra_forbidden":
        known = sorted(_fields_at(model, loc[:-1])) if model else []
        expected = f"; expected one of {', '.join(known)}" if known else ""
        return loc, "unknown field" + (nearest(str(loc[-1]), known) or expected)
    if kind in ("union_tag_invalid", "union_tag_not_found"):
        where = (*loc, str(context["discriminator"]).strip("'"))
        if kind == "union_tag_not_found":
            return where, "missing; it must be given"
        tags = [tag.strip(" '") for tag in str(context["expected_tags"]).split(",")]
        tag = str(context["tag"])
        return where, f"{_cut(repr(tag))}, expected one of {', '.join(tags)}{nearest(tag, tags)}"
    if kind in ("literal_error", "enum"):
        known = re.findall(r"'([^']*)'", str(context["expected"]))
        text = f"{shown}, expected {context['expected']}"
        return loc, text + (
            nearest(detail["input"], known) if isinstance(detail["input"], str) else ""
        )
    if kind == "string_type":
        quote = (
            "" if isinstance(detail["input"], (dict, list, type(None))) else " (put it in quotes)"
        )
        return loc, f"{shown}, expected text{quote}"
    if kind in ("value_error", "assertion_error"):
        return loc, message  # says itself what it may
    if kind in ("list_type", "tuple_type", "set_type"):
        return loc, f"{shown}, expected a list"
    if kind in ("model_type", "model_attributes_type", "dict_type"):
        return loc, f"{shown}, expected a map of fields"
    return loc, f"{shown}, {message[:1].lower()}{message[1:]}".replace(
        "input should be", "expected"
    )


def _shown(value: Any) -> str:
    if isinstance(value, dict):
        return "a map"
    if isinstance(value, (list, tuple)):
        return "a list"
    return "nothing" if value is None else _cut(repr(value))


def _cut(text: str) -> str:
    text = text if text.isprintable() else ascii(text)
    return text if len(text) <= _SHOWN_MAX else text[:_SHOWN_MAX] + "…"


def _fields_at(model: type[BaseModel], loc: Loc) -> set[str]:
    """The names of the fields that may stand at a place."""
    models = [model]
    for part in loc:
        if isinstance(part, int):
            continue
        inner = [
            found
            for candidate in models
            for name, info in candidate.model_fields.items()
            if part in (name, info.alias)
            for found in _models_in(info.annotation)
        ]
        # What is no field is the branch of a union, or a key of a map.
        models = inner or [m for m in models if _is_branch(m, part)] or models
    return {
        info.alias or name for candidate in models for name, info in candidate.model_fields.items()
    }


def _is_branch(model: type[BaseModel], tag: str) -> bool:
    return any(
        tag in typing.get_args(info.annotation)
        for info in model.model_fields.values()
        if typing.get_origin(info.annotation) is typing.Literal
    )


def _models_in(annotation: Any) -> list[type[BaseModel]]:
    if inspect.isclass(annotation) and issubclass(annotation, BaseModel):
        return [annotation]
    return [found for part in typing.get_args(annotation) for found in _models_in(part)]
