"""Checks of images: their configuration, their history, what lies in them; and of the host."""

from __future__ import annotations

import datetime as dt
import fnmatch
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from sensor.images.compliance.check import Verdict, by_image, fails_if, not_applicable, unknown
from sensor.images.compliance.checks_privileges import is_root
from sensor.images.compliance.secrets import secret_names, secret_steps
from sensor.images.compliance.subject import Subject
from sensor.images.compliance.values import (
    listed,
    section,
    sections,
    shorten,
    text,
    texts,
)

_NO_IMAGE = "the configuration of the image is not known"
_NO_FACTS = "the files of the image were not looked at"
_NO_HISTORY = "the history of the image is not known"
# What builders write in front of a step: the classic one, BuildKit, Buildah.
_PREFIX = re.compile(
    r"^(?:RUN\s+)?(?:\|\d+ .*?(?=/bin/))?(?:/bin/(?:ba|da|a)?sh\s+-\w*c\s+)?(?:#\(nop\)\s+)?",
    re.DOTALL,
)
_SUFFIX = re.compile(r"\s*# buildkit\s*$")
_ADD = re.compile(r"ADD\s+\S")
_UPDATE_ONLY = re.compile(
    r"(?:sudo\s+)?(?:apt-get|apt|aptitude|yum|dnf|microdnf|zypper|apk|pacman)(?:\s+-\S+)*\s+"
    r"(?:update|upgrade|dist-upgrade|full-upgrade|makecache|check-update|refresh|-Sy\w*)(?:\s+-\S+)*",
)
_SET_ID = re.compile(r" \(set.*\)$")


def _config(s: Subject) -> Mapping[str, Any] | None:
    """The part of a container's defaults, in Docker's inspection or in an OCI configuration."""
    for name in ("Config", "config", "ContainerConfig"):
        if s.image.get(name) is not None:
            return section(s.image, name)
    # An image that was imported has none, and then Docker's defaults hold.
    known = {"Id", "RootFS", "rootfs", "history", "architecture", "Architecture"}
    return {} if known & set(s.image) else None


def steps(s: Subject) -> list[str] | None:
    """The steps that made the image, the first one first; None where they are not known."""
    if "History" in s.image:
        found = sections(s.image, "History")  # Docker lists the last one first
        return [_step(text(entry, "CreatedBy")) for entry in reversed(found)]
    if "history" in s.image:
        return [_step(text(entry, "created_by")) for entry in sections(s.image, "history")]
    return None


def _step(line: str) -> str:
    return _SUFFIX.sub("", _PREFIX.sub("", line.strip(), count=1)).strip()


def _user(s: Subject) -> Verdict:
    config = _config(s)
    if config is None:
        return unknown(_NO_IMAGE)
    user = text(config, "User")
    return fails_if(is_root(user), f"user: {user or 'not set, so root'}", f"user: {user}")


def _health(s: Subject) -> Verdict:
    config = _config(s)
    if config is None:
        return unknown(_NO_IMAGE)
    test = texts(config, "Healthcheck", "Test")
    return fails_if(not test or test[0] == "NONE", "disabled" if test else "none")


def _environment(s: Subject) -> Verdict:
    config = _config(s)
    if config is None:
        return unknown(_NO_IMAGE)
    found = secret_names(texts(config, "Env"))
    return fails_if(found, listed(found))


def _updates(s: Subject) -> Verdict:
    known = steps(s)
    if known is None:
        return unknown(_NO_HISTORY)
    found = [step for step in known if _UPDATE_ONLY.fullmatch(step)]
    return fails_if(found, listed(found))


def _adds(s: Subject) -> Verdict:
    known = steps(s)
    if known is None:
        return unknown(_NO_HISTORY)
    # The first step brings the root file system, and there is no other way.
    found = [step for step in known[1:] if _ADD.match(step)]
    return fails_if(found, listed(secret_free(found)))


def secret_free(lines: Sequence[str]) -> list[str]:
    """Steps as they may be shown: of one with a secret only that it has one."""
    return [hidden[0] if (hidden := secret_steps([line])) else line for line in lines]


def _history(s: Subject) -> Verdict:
    known = steps(s)
    if known is None:
        return unknown(_NO_HISTORY)
    found = secret_steps(known)
    return fails_if(found, listed(found, 3))


def _by_facts(pick: Callable[[Subject], Verdict]) -> Callable[[Subject], Verdict]:
    def look(s: Subject) -> Verdict:
        return unknown(_NO_FACTS) if s.facts is None else pick(s)

    return look


def _in_part(s: Subject, found: Sequence[str]) -> Verdict | None:
    """When nothing was found but not all was looked at, nobody knows."""
    assert s.facts is not None
    if found or s.facts.complete:
        return None
    first = next((str(w) for w in s.facts.warnings), "time ran out")
    return unknown(f"nothing found, but not all was read: {shorten(first)}")


def _set_ids(s: Subject) -> Verdict:
    assert s.facts is not None
    allowed = s.wishes.setuid_allowed
    found = [entry for entry in s.facts.set_ids if _SET_ID.sub("", entry) not in allowed]
    return _in_part(s, found) or fails_if(found, listed(found))


def _keys(s: Subject) -> Verdict:
    assert s.facts is not None
    return _in_part(s, s.facts.keys) or fails_if(s.facts.keys, listed(s.facts.keys))


def _altered(s: Subject) -> Verdict:
    assert s.facts is not None
    if not s.facts.expected:
        return not_applicable("no database of packages that says what their files should be")
    right = f"{s.facts.compared} programs as they were delivered"
    return _in_part(s, s.facts.altered) or fails_if(s.facts.altered, listed(s.facts.altered), right)


def _malware(s: Subject) -> Verdict:
    assert s.facts is not None
    if not s.facts.hash_list:
        return not_applicable("no list of hashes is given")
    return _in_part(s, s.facts.malware) or fails_if(s.facts.malware, listed(s.facts.malware))


def _age(s: Subject) -> Verdict:
    if not s.wishes.image_days:
        return not_applicable("no age is set from which an image is old")
    created = text(s.image, "Created") or text(s.image, "created")
    try:
        day = dt.date.fromisoformat(created[:10])
    except ValueError:
        return unknown("when the image was made is not known")
    if day.year < 2010:
        return unknown(f"the image says it was made on {day}, as reproducible builds do")
    today = s.wishes.today or dt.datetime.now(dt.UTC).date()
    days = (today - day).days
    return fails_if(days > s.wishes.image_days, f"made on {day}, {days} days ago", f"made on {day}")


def _trusted(s: Subject) -> Verdict:
    globs = s.wishes.trusted_images
    if not globs:
        return not_applicable("nothing is said of which images are trusted")
    names = [s.reference, s.reference.partition("@")[0], s.image_id]
    names += texts(s.image, "RepoTags") + texts(s.image, "RepoDigests")
    names = [name for name in names if name]
    if not names:
        return unknown("the image has no name")
    known = [n for n in names if any(fnmatch.fnmatchcase(n, glob) for glob in globs)]
    return fails_if(not known, f"{shorten(names[0])} matches none of {listed(globs)}", *known[:1])


def _host(s: Subject) -> Verdict:
    pending = s.host.security_updates
    if pending is None:
        return unknown("which security updates are pending is not known")
    return fails_if(pending, f"{len(pending)} pending: {listed(pending, 3)}")


by_image("4.1", _user)
by_image("4.6", _health)
by_image("4.7", _updates)
by_image("4.8", _by_facts(_set_ids))
by_image("4.9", _adds)
by_image("4.10", _history)
by_image("420", _age)
by_image("422", _by_facts(_malware))
by_image("423", _trusted)
by_image("424", _environment)
by_image("425", _by_facts(_keys))
by_image("448", _by_facts(_altered))
by_image("449", _host)
