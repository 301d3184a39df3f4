"""One canonical form of paths, shared by what learns and what enforces.

A component of a path is matched in one of three ways, tried in this order:

1. exactly, byte for byte;
2. by its *class*: its canonical form, in which the volatile parts are replaced;
3. by ``*``, any one component.

The canonical form replaces runs of digits by ``<N>`` (process ids, dates, sequence numbers)
and random tokens by ``<X>`` (hashes, UUID parts, ``mkstemp`` names). ``canonical()`` below and
``component_canonical()`` in ``bpf/match.bpf.c`` are the same function; a property test runs
both on generated names.

Beside these, what a model learned of the last component alone:

* ``sed<T>``: the literal and six letters or digits, as ``mkstemp`` of the C library makes them;
* ``tmp<T8>``: the literal and eight of a to z, 0 to 9 and ``_``, as ``tempfile`` of Python does;
* ``*.log``: any name with this extension;
* ``<*>``: any name that has no extension, does not begin with a dot and is not ``authorized_keys``.

Text form of patterns: components separated by ``/``; ``<N>``, ``<X>``, ``*`` as above; a final
``**`` for everything below. A literal ``<``, ``*`` or ``\\`` is written with a backslash.
"""

from __future__ import annotations

import enum
import functools
import os
from collections.abc import Sequence
from dataclasses import dataclass

from sensor.errors import UsageError

# In class labels one byte stands for a volatile part. Names that hold these bytes
# themselves have no class form, so nobody can imitate one.
MARK_NUMBER = 0x01
MARK_RANDOM = 0x02
MARKS = bytes((MARK_NUMBER, MARK_RANDOM))

# The kernel side looks at this many bytes of a name; longer ones match exactly or by "*".
CLASS_NAME_MAX = 128
NAME_MAX = 255
DEPTH_MAX = 64

_HEX_MIN = 8
_RANDOM_MIN = 6
_RANDOM_CHANGES = 3
_RANDOM_LENGTH = 24
_RANDOM_LETTERS = 3

_LOWER, _UPPER, _DIGIT = 1, 2, 4


def _kind_of(byte: int) -> int:
    if 0x61 <= byte <= 0x7A:
        return _LOWER
    if 0x41 <= byte <= 0x5A:
        return _UPPER
    if 0x30 <= byte <= 0x39:
        return _DIGIT
    return 0


@functools.lru_cache(maxsize=16384)
def canonical(component: bytes) -> bytes | None:
    """The class label of one path component.

    Returns:
        The name with volatile parts replaced by MARK_NUMBER and MARK_RANDOM, or None when
        nothing in it is volatile, when it is longer than CLASS_NAME_MAX bytes, or when it
        holds a mark byte itself.

    A token is a maximal run of ASCII letters and digits. A token is random when it is hex of
    at least 8 digits with a decimal digit and a letter; when it has at least 6 characters
    and changes at least 3 times between lower case, upper case and digits; when it begins with
    a digit and has at most 3 letters or changes twice; or when it has at least 24 characters,
    not all digits. Otherwise
    each of its runs of digits becomes one number.
    """
    if len(component) > CLASS_NAME_MAX:
        return None
    out = bytearray()
    volatile = False
    token_start = 0  # in out
    length = changes = kinds = previous = first = letters = 0
    only_lower_hex = only_upper_hex = True
    for byte in component + b"\0":  # the terminator ends the last token
        kind = _kind_of(byte)
        if kind == 0:
            is_hex = only_lower_hex or only_upper_hex
            is_counted = first == _DIGIT and (letters <= _RANDOM_LETTERS or changes > 1)
            if _is_random(length, changes, kinds, is_counted, is_hex):
                del out[token_start:]
                out.append(MARK_RANDOM)
                volatile = True
            if byte == 0:
                break
            if byte in MARKS:
                return None
            out.append(byte)
            token_start = len(out)
            length = changes = kinds = previous = first = letters = 0
            only_lower_hex = only_upper_hex = True
            continue
        length += 1
        if previous and previous != kind:
            changes += 1
        first = first or kind
        letters += kind != _DIGIT
        if kind == _DIGIT:
            if previous != _DIGIT:
                out.append(MARK_NUMBER)
            volatile = True
        else:
            out.append(byte)
            if kind != _LOWER or byte > 0x66:
                only_lower_hex = False
            if kind != _UPPER or byte > 0x46:
                only_upper_hex = False
        kinds |= kind
        previous = kind
    return bytes(out) if volatile else None


def _is_random(length: int, changes: int, kinds: int, is_counted: bool, is_hex: bool) -> bool:
    if is_counted and kinds != _DIGIT:
        return True
    if length >= _RANDOM_LENGTH and kinds != _DIGIT:
        return True
    if is_hex and length >= _HEX_MIN and kinds & _DIGIT and kinds != _DIGIT:
        return True
    return length >= _RANDOM_MIN and changes >= _RANDOM_CHANGES


class Match(enum.IntEnum):
    """How one label of a pattern matches a component."""

    EXACT = 0
    CLASS = 1
    ANY = 2
    SUBTREE = 3  # only as the last label
    # Of the last component, and learned only:
    TEMPORARY = 5  # the name and six letters or digits
    EXTENSION = 6  # any name with the extension ``name``
    DATA = 7  # any name without an extension
    TEMPORARY_LONG = 9  # the name and eight of a to z, 0 to 9, _


LAST_ONLY = frozenset({Match.TEMPORARY, Match.TEMPORARY_LONG, Match.EXTENSION, Match.DATA})


@dataclass(frozen=True, slots=True, order=True)
class Label:
    """One component of a pattern; ``name`` is the literal, the class label, or empty.

    Of temporary names it is the literal beginning, of EXTENSION the extension with its dot.
    """

    match: Match
    name: bytes = b""

    def covers(self, other: Label) -> bool:
        """Whether every component that matches ``other`` would match this one too."""
        if self == other:
            return True
        if self.match is Match.ANY:
            return other.match is not Match.SUBTREE
        if other.match is Match.EXACT:
            if self.match is Match.CLASS:
                return canonical(other.name) == self.name
            return self in last_labels(other.name)
        if other.match not in (Match.CLASS, Match.TEMPORARY, Match.TEMPORARY_LONG):
            return False
        if other.match is not Match.CLASS and b"." in other.name:
            return False  # what follows the last dot is made up
        # What such names have in common says whether they have an extension, and which.
        return self in last_labels(other.name)


_ANY = Label(Match.ANY)
_SUBTREE = Label(Match.SUBTREE)


_DATA = Label(Match.DATA)
_TEMPORARY_TAIL = 6
_TEMPORARY_LONG_TAIL = 8
_PYTHONS = frozenset(b"abcdefghijklmnopqrstuvwxyz0123456789_")
_EXTENSION_MAX = 16


def temporary_beginning(name: bytes) -> bytes | None:
    """What stands before six letters or digits at a name's end; None: it is no such name."""
    beginning, tail = name[:-_TEMPORARY_TAIL], name[-_TEMPORARY_TAIL:]
    if not beginning or not (tail.isalnum() and tail.isascii()):
        return None
    return beginning


def temporary_long_beginning(name: bytes) -> bytes | None:
    """What stands before eight of a to z, 0 to 9 and ``_``; None: it is no such name."""
    beginning, tail = name[:-_TEMPORARY_LONG_TAIL], name[-_TEMPORARY_LONG_TAIL:]
    return beginning if beginning and _PYTHONS.issuperset(tail) else None


def extension(name: bytes) -> bytes | None:
    """A name's last dot and what follows, of 2 to 16 bytes, not at the name's beginning."""
    at = name.rfind(b".")
    return name[at:] if at > 0 and 2 <= len(name) - at <= _EXTENSION_MAX else None


def is_code(name: bytes) -> bool:
    """Whether a name is that of code, by its end (``name_is_code()`` in bpf/verdict.bpf.c)."""
    return name.endswith(_CODE_ENDS)


def last_labels(name: bytes) -> tuple[Label, ...]:
    """The labels for last components only that match a name."""
    labels: list[Label] = []
    if (end := extension(name)) is not None:
        labels.append(Label(Match.EXTENSION, end))
    elif not name.startswith(b".") and name != b"authorized_keys":
        labels.append(_DATA)
    if (beginning := temporary_beginning(name)) is not None:
        labels.append(Label(Match.TEMPORARY, beginning))
    if (beginning := temporary_long_beginning(name)) is not None:
        labels.append(Label(Match.TEMPORARY_LONG, beginning))
    return tuple(labels)


def split(path: str) -> tuple[bytes, ...]:
    """The components of an absolute path, as bytes; the root has none."""
    return tuple(part for part in os.fsencode(path).split(b"/") if part)


def _escape(name: bytes) -> str:
    text = os.fsdecode(name)
    for special in ("\\", "<", "*"):
        text = text.replace(special, "\\" + special)
    return text


def _label_text(label: Label) -> str:
    if label.match is Match.ANY:
        return "*"
    if label.match is Match.SUBTREE:
        return "**"
    if label.match is Match.DATA:
        return "<*>"
    if label.match is Match.EXTENSION:
        return f"*{_escape(label.name)}"
    if label.match is Match.TEMPORARY:
        return f"{_escape(label.name)}<T>"
    if label.match is Match.TEMPORARY_LONG:
        return f"{_escape(label.name)}<T8>"
    if label.match is Match.EXACT:
        return _escape(label.name)
    parts: list[str] = []
    literal = bytearray()
    for byte in label.name:
        if byte in MARKS:
            parts.append(_escape(bytes(literal)))
            literal.clear()
            parts.append("<N>" if byte == MARK_NUMBER else "<X>")
        else:
            literal.append(byte)
    parts.append(_escape(bytes(literal)))
    return "".join(parts)


def _parse_label(text: str, whole: str, *, plain: bool = True) -> Label:
    if text == "*":
        return _ANY
    if text == "**":
        return _SUBTREE
    if not plain and (label := _parse_last(text, whole)) is not None:
        return label
    out = bytearray()
    is_class = False
    i = 0
    while i < len(text):
        char = text[i]
        if char == "\\":
            if i + 1 == len(text):
                raise UsageError(f"pattern {whole!r}: a backslash must be followed by a character")
            out += os.fsencode(text[i + 1])
            i += 2
        elif text.startswith(("<N>", "<X>"), i):
            out.append(MARK_NUMBER if text[i + 1] == "N" else MARK_RANDOM)
            is_class = True
            i += 3
        elif char in "<*":
            raise UsageError(
                f"pattern {whole!r}: {char!r} at component {text!r}; expected <N>, <X>, a whole "
                f"component '*', a final '**', or a backslash before a literal {char!r}"
            )
        else:
            out += os.fsencode(char)
            i += 1
    if len(out) > NAME_MAX:
        raise UsageError(f"pattern {whole!r}: component {text!r} is longer than {NAME_MAX} bytes")
    return Label(Match.CLASS if is_class else Match.EXACT, bytes(out))


def _parse_last(text: str, whole: str) -> Label | None:
    """A label of the last component that only models hold; None: it is none."""
    if text == "<*>":
        return _DATA
    if text.startswith("*."):
        return Label(Match.EXTENSION, _parse_label(text[1:], whole).name)
    for end, match in (("<T>", Match.TEMPORARY), ("<T8>", Match.TEMPORARY_LONG)):
        if text.endswith(end) and len(text) > len(end):
            return Label(match, _parse_label(text.removesuffix(end), whole).name)
    return None


@dataclass(frozen=True, slots=True, order=True)
class Pattern:
    """A path pattern, component by component."""

    labels: tuple[Label, ...]

    @classmethod
    def exact(cls, path: str) -> Pattern:
        """The pattern that matches this path only."""
        return cls(tuple(Label(Match.EXACT, part) for part in split(path)))

    @classmethod
    def parse(cls, text: str, *, plain: bool = False) -> Pattern:
        """Read the text form.

        Args:
            text: the pattern.
            plain: what people write: labels that only models hold are refused.

        Raises:
            UsageError: not absolute, ``**`` or a label for last components before the end, or a
                stray ``<`` or ``*``.
        """
        if not text.startswith("/"):
            raise UsageError(f"pattern {text!r}: expected an absolute path")
        labels = tuple(_parse_label(part, text, plain=plain) for part in _split_text(text))
        if _SUBTREE in labels[:-1]:
            raise UsageError(f"pattern {text!r}: '**' may only stand at the end")
        for label in labels[:-1]:
            if label.match in LAST_ONLY:
                raise UsageError(
                    f"pattern {text!r}: {_label_text(label)!r} may only stand at the end"
                )
        return cls(labels)

    @property
    def text(self) -> str:
        """The text form; ``Pattern.parse`` reads it back."""
        return "/" + "/".join(_label_text(label) for label in self.labels)

    @property
    def is_exact(self) -> bool:
        """Whether it matches one path only."""
        return all(label.match is Match.EXACT for label in self.labels)

    def covers(self, other: Pattern) -> bool:
        """Whether every path that matches ``other`` matches this one too."""
        own, their = self.labels, other.labels
        if own and own[-1].match is Match.SUBTREE:
            own = own[:-1]
            if len(their) <= len(own):
                return False
            their = their[: len(own)]
        if len(own) != len(their) or _SUBTREE in their:
            return False
        return all(mine.covers(label) for mine, label in zip(own, their, strict=True))

    def matches(self, path: str) -> bool:
        """Whether an absolute path matches."""
        return self.matches_components(split(path))

    def matches_components(self, components: Sequence[bytes]) -> bool:
        """Whether a path, given as its components, matches."""
        labels = self.labels
        if labels and labels[-1].match is Match.SUBTREE:
            labels = labels[:-1]
            if len(components) <= len(labels):
                return False
            components = components[: len(labels)]
        if len(components) != len(labels):
            return False
        return all(
            label.match is Match.ANY
            or (label.match is Match.EXACT and label.name == part)
            or (label.match is Match.CLASS and canonical(part) == label.name)
            or (label.match in LAST_ONLY and label in last_labels(part))
            for label, part in zip(labels, components, strict=True)
        )


def _split_text(text: str) -> list[str]:
    return [part for part in text.split("/") if part]


def generalise(path: str, *, keep: int = 0) -> Pattern:
    """The pattern of a path with its volatile components as classes.

    Args:
        path: an absolute path.
        keep: how many leading components stay literal whatever they look like.
    """
    labels: list[Label] = []
    for i, part in enumerate(split(path)):
        form = canonical(part) if i >= keep else None
        labels.append(
            Label(Match.EXACT, part) if form is None else Label(Match.CLASS, form),
        )
    return Pattern(tuple(labels))


# Places where a write changes what runs or who may enter (learning.md 3.3, rule 6a). What is
# written here is learned by its exact name only.
_PROTECTED_TREES = (
    "/bin", "/sbin", "/lib", "/lib32", "/lib64", "/libx32", "/usr/bin", "/usr/sbin", "/usr/lib",
    "/usr/lib32", "/usr/lib64", "/usr/libexec", "/usr/local/bin", "/usr/local/sbin",
    "/usr/local/lib", "/usr/local/lib64", "/boot", "/root", "/var/spool/cron", "/var/www/cgi-bin",
    "/etc/pam.d", "/etc/security", "/etc/ssh", "/etc/ssl", "/etc/systemd", "/etc/apt",
    "/etc/logrotate.d", "/etc/profile.d", "/etc/sudoers.d", "/etc/ld.so.conf.d", "/etc/init.d",
    "/etc/cron.d", "/etc/cron.hourly", "/etc/cron.daily", "/etc/cron.weekly", "/etc/cron.monthly",
    "/etc/update-motd.d", "/etc/alternatives", "/etc/udev", "/etc/modprobe.d", "/etc/binfmt.d",
    "/proc/sys", "/sys",
)  # fmt: skip
_BELOW_PROTECTED = tuple(tree + "/" for tree in _PROTECTED_TREES)
_PROTECTED_FILES = (
    "/etc/passwd", "/etc/shadow", "/etc/group", "/etc/gshadow", "/etc/sudoers", "/etc/subuid",
    "/etc/subgid", "/etc/ld.so.preload", "/etc/ld.so.conf", "/etc/ld.so.cache", "/etc/crontab",
    "/etc/anacrontab", "/etc/inittab", "/etc/profile", "/etc/bash.bashrc", "/etc/environment",
    "/etc/nsswitch.conf", "/etc/hosts.allow", "/etc/hosts.deny", "/etc/rc.local", "/etc/shells",
)  # fmt: skip
_PROTECTED_HOME = (".ssh", ".bashrc", ".bash_profile", ".bash_login", ".profile", ".config")
_PROTECTED_SUFFIXES = (
    ".php", ".phtml", ".jsp", ".py", ".pl", ".cgi", ".sh", ".so", ".ko", ".service", ".timer",
)  # fmt: skip
_CODE_ENDS = tuple(map(os.fsencode, _PROTECTED_SUFFIXES))


def is_protected(path: str) -> bool:
    """Whether a write to this path may change what runs or who may enter.

    Programs, libraries, accounts, SSH keys, cron, ld.so configuration, start-up files, and
    code by its extension anywhere.
    """
    if path in _PROTECTED_FILES or path.endswith(_PROTECTED_SUFFIXES) or ".so." in path:
        return True
    if path in _PROTECTED_TREES or path.startswith(_BELOW_PROTECTED):
        return True
    parts = path.split("/")
    if "authorized_keys" in parts[-1] or ".ssh" in parts:
        return True
    return len(parts) > 3 and parts[1] == "home" and parts[3] in _PROTECTED_HOME


def protected_patterns() -> tuple[Pattern, ...]:
    """The protected places as patterns, for the kernel.

    All of ``is_protected`` but what no pattern can say: code by its extension, which the kernel
    side knows by itself, versioned libraries, and SSH's files in homes elsewhere.
    """
    trees = [*_PROTECTED_TREES, *(f"/home/*/{name}" for name in _PROTECTED_HOME)]
    texts = [*_PROTECTED_FILES, *trees, *(f"{tree}/**" for tree in trees)]
    return tuple(Pattern.parse(text) for text in texts)
