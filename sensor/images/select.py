"""Which files of an image tell of packages: by their names, before anything is opened."""

from __future__ import annotations

import enum

_OS_RELEASE = frozenset({
    "os-release", "alpine-release", "debian_version", "redhat-release", "centos-release",
    "system-release",
})  # fmt: skip
_RPM = frozenset({"rpmdb.sqlite", "rpmdb.sqlite-wal", "Packages.db", "Packages"})
_METADATA = frozenset({"METADATA", "PKG-INFO", "RECORD"})
ARCHIVES_OF_JAVA = (".jar", ".war", ".ear", ".par", ".sar", ".hpi", ".jpi")
_EXECUTE = 0o111
KEY_MAX = 64 << 10  # bytes of a private key with its certificates
_KEY_SUFFIXES = (".pem", ".key", ".ppk", "_rsa", "_dsa", "_ecdsa", "_ed25519", ".rsa", ".pk8")
_KEY_PLACES = frozenset({".ssh", "private", "secrets", "certs", "keys", "ssl", "tls", "pki"})
_NO_KEYS = (".pub", ".crt", ".cer", ".txt", ".py", ".pyc", ".h", ".html", ".md", ".gz", ".so")


class Tells(enum.Enum):
    """What a file tells of."""

    NOTHING = enum.auto()
    DISTRIBUTION = enum.auto()  # its name, or its database of packages
    PYTHON = enum.auto()
    NODE = enum.auto()
    JAVA = enum.auto()
    CARGO_LOCK = enum.auto()
    BINARY = enum.auto()  # perhaps: a compiled program or library may say what it is made of


def tells(path: str, mode: int) -> Tells:
    """What an ordinary file tells of.

    Args:
        path: in the image, without a leading slash.
        mode: permission bits.
    """
    directory, _, name = path.rpartition("/")
    if name in _METADATA or name.endswith(".egg-info"):
        if name.endswith(".egg-info") or directory.endswith(
            (".dist-info", ".egg-info", "EGG-INFO")
        ):
            return Tells.PYTHON
    elif name == "package.json":
        if _is_module(directory):
            return Tells.NODE
    elif name.endswith(ARCHIVES_OF_JAVA):
        return Tells.JAVA
    elif name == "Cargo.lock":
        return Tells.CARGO_LOCK
    elif name in _OS_RELEASE or _is_database(directory, name):
        return Tells.DISTRIBUTION
    if mode & _EXECUTE or name.endswith(".so") or ".so." in name:
        return Tells.BINARY
    return Tells.NOTHING


def _is_module(directory: str) -> bool:
    """Whether a directory is one of Node's: node_modules/NAME or node_modules/@SCOPE/NAME."""
    parent, _, _ = directory.rpartition("/")
    place = parent.rpartition("/")
    if place[2].startswith("@"):
        place = place[0].rpartition("/")
    return place[2] == "node_modules"


def _is_database(directory: str, name: str) -> bool:
    if directory.endswith("dpkg/status.d"):
        return True
    if directory.endswith("dpkg/info"):
        return name.endswith((".list", ".md5sums"))
    if name == "status":
        return directory.endswith("dpkg")
    if name == "installed":
        return directory.endswith("apk/db")
    return name in _RPM


def may_hold_key(path: str) -> bool:
    """Whether a file may hold a private key, by its name and where it lies.

    Args:
        path: in the image, without a leading slash.
    """
    directory, _, name = path.rpartition("/")
    lower = name.lower()
    if lower.endswith(_KEY_SUFFIXES) or lower == "identity":
        return True
    return directory.rpartition("/")[2].lower() in _KEY_PLACES and not lower.endswith(_NO_KEYS)
