"""What several wire formats take apart in the same way."""

from __future__ import annotations

import re
from typing import NamedTuple

from sensor.audits.audit import Audit, AuditType, Sensor
from sensor.audits.text import escape

_SHA256 = re.compile(r"[0-9a-f]{64}")
_BY_RULE = (AuditType.DENIED_PROGRAM, AuditType.DENIED_PATH)


class ImageName(NamedTuple):
    """An image reference in its parts; what it does not say is empty."""

    name: str
    tag: str
    digest: str


def image_name(reference: str) -> ImageName:
    """The parts of "registry:5000/name:tag@sha256:…", escaped."""
    if reference.startswith("sha256:"):  # an image that has no name
        return ImageName("", "", escape(reference))
    rest, _, digest = reference.partition("@")
    name, colon, tag = rest.rpartition(":")
    if not colon or "/" in tag:  # no tag; a colon before a slash belongs to a port
        name, tag = rest, ""
    return ImageName(escape(name), escape(tag), escape(digest))


def image_id(audit: Audit) -> str:
    """The image's digest: of its reference, or the one its model is keyed by; else empty."""
    digest = image_name(audit.image).digest
    if digest:
        return digest
    key = audit.extra.get("image_id") or audit.model_id.partition("~")[0]
    return escape(key) if key.startswith("sha256:") else ""


class ProgramName(NamedTuple):
    """A program in its parts, escaped."""

    path: str
    name: str  # the applet of a multi-call program, else the last component of the path


def program_name(program: str) -> ProgramName:
    """The parts of "/bin/busybox#sh".

    A file whose own name has a "#" is cut there as well: an audit's text does not tell the two
    apart. Our own fields keep the whole.
    """
    path, mark, applet = program.rpartition("#")
    if not mark or "/" in applet or not path.rpartition("/")[2]:
        path, applet = program, ""
    return ProgramName(escape(path), escape(applet) or file_name(path))


def file_name(path: str) -> str:
    """The last component, escaped; of the root and of names without one the whole."""
    return escape(path.rstrip("/").rpartition("/")[2] or path)


def acting(audit: Audit) -> tuple[ProgramName | None, ProgramName | None]:
    """The process that acted and its parent, as far as they are known.

    For an execution the process is the program that now runs. Its path is the audit's own, so that
    no "#" in it is taken for an applet.
    """
    if not audit.of_event:
        return None, None
    process = program_name(audit.program) if audit.program else None
    if audit.sensor is Sensor.PROCESS and audit.path:
        _, _, applet = audit.program.removeprefix(audit.path).partition("#")
        process = ProgramName(escape(audit.path), escape(applet) or file_name(audit.path))
    above = ancestors(audit)
    return process, above[0] if above else None


def ancestors(audit: Audit) -> list[ProgramName]:
    """The programs above the acting one, nearest first."""
    return [program_name(parent) for parent in audit.parents if parent]


def program_hash(audit: Audit) -> str:
    """SHA-256 of what was executed, where evidence was taken (``extra["sha256"]``); else empty."""
    found = audit.extra.get("sha256", "")
    return found if _SHA256.fullmatch(found) else ""


def by_rule(audit: Audit) -> bool:
    """Whether a rule alone decided, and not what was learned."""
    return audit.type in _BY_RULE or not audit.of_event


def is_alert(audit: Audit) -> bool:
    """Whether somebody should look: not what a dry run would have done, nor plain information."""
    return audit.severity > 1 and not audit.outcome.startswith("would-")
