"""What an attacker could plant under a model's nose: the check on patterns that became too wide.

A list of paths that nobody should write: in every directory that the model's programs write to,
and in the places that attackers like, names that attackers like, and names that imitate what was
learned there under another extension. A path is *admitted* when some program of the model may bring
it about by writing, renaming or linking. What was learned by its exact name is no candidate: the
service does that itself.

A directory in which any name is admitted, even one that nobody would make up, is *granted*. What
is admitted there was decided for the directory, so it is counted apart.
"""

from __future__ import annotations

import posixpath
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from sensor.events import OperationClass
from sensor.models.keys import WriteKey
from sensor.models.model import Model
from sensor.paths import MARK_NUMBER, MARK_RANDOM, Label, Match, Pattern, is_protected

# What brings a name about.
PLANTING = OperationClass.WRITE | OperationClass.RENAME | OperationClass.LINK | OperationClass.MKNOD

_NAMES = """\
evil .x ... sh bash nc kworker miner xmrig backdoor a.out payload shell update core implant.elf
dropper.bin a.so libc.so.6 preload.so hook.ko shell.php c99.php .htaccess cmd.jsp x.phtml x.cgi
run.sh install.sh x.py sitecustomize.py x.pyc x.pl x.rb x.js a.jar authorized_keys id_rsa
.bashrc .profile x.service x.timer x.conf x.desktop crontab root e2scrub_all php logrotate
0hourly passwd shadow sudoers ld.so.preload hosts nginx.conf my.cnf data.tar.gz loot.zip
dump.sql note.txt README.locked shell.php.jpg image.png pipe socket.sock tmp 1 x1 evil-1.2
"""
_PLACES = """\
/ /bin /boot /dev/shm /etc /etc/cron.d /etc/cron.daily /etc/ld.so.conf.d /etc/logrotate.d
/etc/nginx/conf.d /etc/pam.d /etc/profile.d /etc/sudoers.d /etc/systemd/system /home /home/user
/home/user/.ssh /lib /lib/systemd/system /lib/x86_64-linux-gnu /opt /root /root/.ssh /run /sbin
/srv /tmp /usr/bin /usr/lib /usr/lib/cgi-bin /usr/local/bin /usr/local/lib /usr/sbin /usr/share
/var/backups /var/lib /var/log /var/spool/cron/crontabs /var/tmp /var/www/html
"""
_EXTENSIONS = (".php", ".sh", ".so", ".py", ".service", ".elf")
# No program makes up such names; where one is admitted, any is.
_PROBES = ("Quux zebra", "quux+zebra.qzx")
_IMITATIONS = 4  # learned names that are imitated in each directory
_DIRECTORIES = 400  # of those written to; more are thinned out evenly

Admits = Callable[[str], bool]


@dataclass(frozen=True, slots=True)
class Admission:
    """How many of the paths are admitted, and which.

    ``protected`` are those in protected places: what the model should never admit.
    """

    tried: int
    admitted: int
    granted: tuple[str, ...]  # directories, as they were tried
    tried_outside: int  # of granted directories
    outside: tuple[str, ...]  # admitted there
    protected: tuple[str, ...]  # admitted, anywhere

    @property
    def share(self) -> float:
        """Of all paths, how much is admitted: 0 to 1."""
        return self.admitted / self.tried

    @property
    def share_outside(self) -> float:
        """The same outside of granted directories."""
        return len(self.outside) / self.tried_outside if self.tried_outside else 0.0


def admission(written: Iterable[str], admits: Admits) -> Admission:
    """Try the list.

    Args:
        written: absolute paths that the service wrote; they say where to try, and are not tried.
        admits: whether some program may bring a path about.
    """
    known = set(written)
    directories = writable_directories(known)
    tried = admitted = tried_outside = 0
    granted: list[str] = []
    outside: list[str] = []
    protected: list[str] = []
    for directory in sorted({*directories, *_PLACES.split()}):
        is_granted = all(admits(posixpath.join(directory, probe)) for probe in _PROBES)
        if is_granted:
            granted.append(directory)
        for path in _planted(directory, directories.get(directory, ())):
            if path in known:
                continue
            tried += 1
            tried_outside += not is_granted
            if not admits(path):
                continue
            admitted += 1
            if not is_granted:
                outside.append(path)
            if is_protected(path):
                protected.append(path)
    return Admission(
        tried, admitted, tuple(granted), tried_outside, tuple(outside), tuple(protected)
    )


def model_admission(model: Model) -> Admission:
    """Try the list on a model. Where to try follows from its patterns."""

    def admits(path: str) -> bool:
        return any(operation & PLANTING for _, operation in model.changers(path))

    written = {example(Pattern.parse(k.pattern)) for k in model.keys if isinstance(k, WriteKey)}
    return admission(written, admits)


def writable_directories(written: Iterable[str]) -> dict[str, list[str]]:
    """The directories of these paths, with the names that were written there."""
    found: dict[str, list[str]] = {}
    for path in sorted(written):
        directory, name = posixpath.split(path)
        found.setdefault(directory or "/", []).append(name)
    names = list(found)
    step = len(names) / _DIRECTORIES
    if step <= 1:
        return found
    return {names[int(i * step)]: found[names[int(i * step)]] for i in range(_DIRECTORIES)}


def _planted(directory: str, learned: Iterable[str]) -> list[str]:
    names = dict.fromkeys(_NAMES.split())
    for name in list(learned)[:_IMITATIONS]:
        stem = posixpath.splitext(name)[0]
        names.update(dict.fromkeys(f"{stem}{extension}" for extension in _EXTENSIONS))
        names.update(dict.fromkeys((f"{name}.php", f".{name}", f"{name}~", f"x{name}")))
    return [posixpath.join(directory, name) for name in names]


def example(pattern: Pattern) -> str:
    """A path that a pattern matches."""
    parts = [_example(label) for label in pattern.labels]
    return "/" + "/".join(parts)


def _example(label: Label) -> str:
    if label.match in (Match.ANY, Match.SUBTREE, Match.DATA):
        return "any"
    name = label.name
    if label.match is Match.TEMPORARY:
        name += b"k7Qx2Z"
    elif label.match is Match.EXTENSION:
        name = b"any" + name
    elif label.match is Match.CLASS:
        # One digit: with more the token around it might be a long one, and those are random.
        name = name.replace(bytes((MARK_NUMBER,)), b"4")
        name = name.replace(bytes((MARK_RANDOM,)), b"4f1e9c0d2b")
    return name.decode(errors="surrogateescape")
