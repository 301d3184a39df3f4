"""What learning makes of many names: patterns for what a program will write next.

Names that a program makes up are endless. Some are covered at first sight by their class
(``sensor.paths.canonical``). What the look of one name does not tell, the population of its
siblings does:

* **temporary names** (``sed<T>``, ``tmp<T8>``): a name that ends in six letters or digits, or eight
  as Python makes them, and looks random, or was renamed into place, or is one of four with the same
  beginning;
* **extensions** (``*.log``): eight names with one extension in one directory, or four that are also
  equally long and begin alike, or two such that look random; each, where there are more than 32;
* **numbers in place of hexadecimal tokens**: by chance there is no letter in them;
* **any data file** (``<*>``): twelve names without an extension;
* **fan-out directories** (``objects/*/``): hashed stores have many directories with names of one or
  two characters, and which of them is used next is chance.

All for one program, one directory and one manner of change; which directories fan out is true for
all programs. Never in a protected place, never for
the image's own files (the kernel side asks, too), never over the extensions of code: the names that
matter to an attacker are fixed names.
"""

from __future__ import annotations

import os
import posixpath
import re
from collections import defaultdict
from collections.abc import Iterable, Sequence

from sensor.events import Event, Operation, OperationClass, Origin
from sensor.models.keys import Key, Program, WriteKey
from sensor.paths import (
    MARK_NUMBER,
    MARK_RANDOM,
    MARKS,
    Label,
    Match,
    Pattern,
    extension,
    is_code,
    is_protected,
    last_labels,
    temporary_beginning,
    temporary_long_beginning,
)

SAME_BEGINNING = 4
SAME_EXTENSION = 8
SAME_TEMPLATE = 4
RANDOM_TEMPLATE = 2
_ALIKE = 2  # characters of their beginning
NO_EXTENSION = 12
IN_ALL = 32
FAN_OUT = 4  # directories with names of one or two characters
_FAN_OUT_NAME_MAX = 2
_ANY = Label(Match.ANY)
_DATA = Label(Match.DATA)
_TEMPORARY_OPERATIONS = (
    OperationClass.WRITE,
    OperationClass.REMOVE,
    OperationClass.ATTRIBUTES,
    OperationClass.LINK,
)
_Labels = tuple[Label, ...]


def temporary_keys(event: Event) -> list[WriteKey]:
    """What a program may do to its temporary files, learned from one that it renamed into place.

    ``mkstemp`` ends a name in six random letters and digits, which often look like a word that no
    lexical class covers (``sedabcdef``). A name of that form which its program gives up for another
    in the same directory is temporary. The final name stays exact.
    """
    if event.operation is not Operation.RENAME or event.origin is Origin.IMAGE:
        return []
    directory, name = posixpath.split(event.path)
    beginning = temporary_beginning(os.fsencode(name))
    if (
        beginning is None
        or _HAS_NUMBER.search(beginning)
        or posixpath.dirname(event.path2) != directory
        or is_protected(f"{directory}/")
        or is_protected(event.path)
    ):
        return []
    program = Program(event.program, event.applet)
    label = Label(Match.TEMPORARY, beginning)
    pattern = Pattern((*Pattern.exact(directory).labels, label)).text
    return [WriteKey(program, pattern, operation) for operation in _TEMPORARY_OPERATIONS]


# Words, abbreviations and numbered names; what is none of these and has six characters is random.
_ORDINARY = re.compile(rb"[A-Z]?[a-z]*[0-9]*|[A-Z]+[0-9]*")
_WORDS = re.compile(rb"[a-z]*([A-Z][a-z]+)*[0-9]*|[A-Z]+[0-9]*")
_SHORT_BEGINNING = 3
_HAS_NUMBER = re.compile(rb"[0-9]{3}")  # in front of what is made up: it varies as well


def _looks_random(name: bytes, beginning: bytes) -> bool:
    """Whether a name is that of ``mkstemp`` already by its looks."""
    return _is_set_off(beginning) and _ORDINARY.fullmatch(name[len(beginning) :]) is None


def _looks_like_pythons(name: bytes, beginning: bytes) -> bool:
    """The same of ``tempfile`` of Python: no other makes such a thing of letters and digits."""
    tail = name[len(beginning) :]
    return _is_set_off(beginning) and re.search(rb"[0-9_][a-z]", tail) is not None


def _is_set_off(beginning: bytes) -> bool:
    return len(beginning) <= _SHORT_BEGINNING or not beginning[-1:].isalnum()


def _is_hex(name: bytes | None) -> bool:
    """Whether all letters and digits of a name are hexadecimal digits of one case."""
    token = re.sub(rb"[^A-Za-z0-9]", b"", name or b"x")
    return re.fullmatch(rb"[0-9a-f]+|[0-9A-F]+", token) is not None


class _Siblings:
    """Names that one program gave to one kind of change in one directory."""

    __slots__ = ("beginnings", "by_extension", "by_length")

    def __init__(self) -> None:
        self.by_extension: dict[bytes, set[Label]] = defaultdict(set)
        self.by_length: dict[tuple[bytes, int], set[bytes]] = defaultdict(set)
        self.beginnings: dict[Label, set[bytes]] = defaultdict(set)

    def add(self, name: bytes | None, label: Label) -> list[Label]:
        """Count a name (None: only its class is known); the wider labels that follow."""
        wider: list[Label] = []
        end = extension(label.name)
        if end is not None and not is_code(end) and not set(end) & set(MARKS):
            same = self.by_extension[end]
            same.add(label)
            alike = self.by_length[end, len(name or b"")]
            alike.add(name or label.name)
            if len(same) >= SAME_EXTENSION or _is_template(alike, end):
                wider.append(Label(Match.EXTENSION, end))
        elif _DATA in last_labels(label.name):
            self.by_extension[b""].add(label)
            if len(self.by_extension[b""]) >= NO_EXTENSION:
                wider.append(_DATA)
        if sum(map(len, self.by_extension.values())) > IN_ALL:
            wider += [Label(Match.EXTENSION, end) for end in self.by_extension if end]
        return wider + (self._temporary(name) if name is not None else [])

    def _temporary(self, name: bytes) -> list[Label]:
        found: list[Label] = []
        for match, beginning, looks in (
            (Match.TEMPORARY, temporary_beginning(name), _looks_random),
            (Match.TEMPORARY_LONG, temporary_long_beginning(name), _looks_like_pythons),
        ):
            if beginning is None or _HAS_NUMBER.search(beginning):
                continue
            label = Label(match, beginning)
            tails = self.beginnings[label]
            tails.add(name)
            if len(tails) >= SAME_BEGINNING or looks(name, beginning):
                found.append(label)
        return found


def _is_template(names: set[bytes], end: bytes) -> bool:
    """Whether names of one length and extension are alike as ``mkstemps`` makes them."""
    alike: dict[bytes, list[bytes]] = defaultdict(list)
    for name in names:
        if len(name) - len(end) > _ALIKE:
            alike[name[:_ALIKE]].append(name)
    return any(
        len(group) >= SAME_TEMPLATE or sum(map(_stem_looks_random, group)) >= RANDOM_TEMPLATE
        for group in alike.values()
    )


def _stem_looks_random(name: bytes) -> bool:
    stem = name.partition(b".")[0]
    beginning = temporary_beginning(stem)
    if beginning is None or not _is_set_off(beginning):
        return False
    return _WORDS.fullmatch(stem[len(beginning) :]) is None  # ChangeLog.txt is not made up


class Generaliser:
    """Finds the wider keys that follow from the keys of one model.

    Args:
        keys: what the model knows already.
    """

    def __init__(self, keys: Iterable[Key] = ()) -> None:
        self._siblings: dict[tuple[Program, _Labels, int], _Siblings] = defaultdict(_Siblings)
        # directory → names of directories in it below which something is changed
        self._below: dict[_Labels, set[bytes]] = defaultdict(set)
        self._fans: set[_Labels] = set()
        self._waiting: dict[_Labels, list[tuple[bytes | None, WriteKey]]] = defaultdict(list)
        for key in keys:
            if isinstance(key, WriteKey):
                self._note_fans(key)
                self.add(key)

    def _note_fans(self, key: WriteKey) -> None:
        labels = Pattern.parse(key.pattern).labels
        for i, label in enumerate(labels[:-1]):
            if label == _ANY:
                self._fans.add(labels[:i])

    def add(self, key: WriteKey, exact: WriteKey | None = None) -> list[WriteKey]:
        """Count one learned key; the wider keys that follow from it, if any.

        Args:
            key: as it was learned.
            exact: the same, as it happened; None when only the key is left of it.
        """
        labels = Pattern.parse(key.pattern).labels
        if len(labels) < 2 or labels[-1].match not in (Match.EXACT, Match.CLASS):
            return []
        if is_protected(key.pattern) or (exact is not None and is_protected(exact.pattern)):
            return []
        whole = Pattern.parse(exact.pattern).labels if exact is not None else labels
        names = tuple(map(_literal, whole))
        directory, wider = self._fan_out(names, labels, key)
        return wider + self._widen(names[-1], directory, labels[-1], key)

    def _widen(
        self, name: bytes | None, directory: _Labels, last: Label, key: WriteKey
    ) -> list[WriteKey]:
        if is_protected(Pattern(directory).text):
            return []
        if name is None and last.match is Match.EXACT:
            name = last.name
        found = self._siblings[key.program, directory, int(key.operation)].add(name, last)
        if any(label.match is Match.ANY for label in directory):
            found.append(last)  # the same name in all of the directories
        if last.name.count(bytes([MARK_RANDOM])) == 1 and _is_hex(name):
            number = last.name.replace(bytes([MARK_RANDOM]), bytes([MARK_NUMBER]))
            found.append(Label(Match.CLASS, number))
        return [
            WriteKey(key.program, Pattern((*directory, label)).text, key.operation)
            for label in found
        ]

    def _fan_out(
        self, names: Sequence[bytes | None], labels: _Labels, key: WriteKey
    ) -> tuple[_Labels, list[WriteKey]]:
        """The directory with fan-outs as ``*``, and what becomes known when one is recognised."""
        directory: list[Label] = []
        wider: list[WriteKey] = []
        for i, label in enumerate(labels[:-1]):
            place = tuple(directory)
            name = names[i]
            if place not in self._fans and name is not None and i >= 2 and _may_fan_out(name):
                self._below[place].add(name)
                self._waiting[place].append((names[-1], key))
                if self._is_fan(place):
                    self._fans.add(place)
                    wider += self._again(place, i)
            directory.append(_ANY if place in self._fans else label)
        return tuple(directory), wider

    def _is_fan(self, place: _Labels) -> bool:
        names = self._below[place]
        return (
            len(names) >= FAN_OUT
            and len({len(name) for name in names}) == 1
            and not is_protected(Pattern(place).text)
        )

    def _again(self, place: _Labels, at: int) -> list[WriteKey]:
        """What was learned below the directories of a fan-out holds in all of them."""
        wider: list[WriteKey] = []
        for name, key in self._waiting.pop(place):
            labels = Pattern.parse(key.pattern).labels
            directory = (*place, _ANY, *labels[at + 1 : -1])
            wider += self._widen(name, directory, labels[-1], key)
        return wider


def _literal(label: Label) -> bytes | None:
    return label.name if label.match is Match.EXACT else None


def _may_fan_out(name: bytes) -> bool:
    return len(name) <= _FAN_OUT_NAME_MAX and name.isalnum()
