"""What the verbs on the control socket do that take containers out of service and back."""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable
from typing import Any

from sensor.containers.container import Container
from sensor.control.server import Handler
from sensor.errors import UsageError
from sensor.responses.block import Blocker
from sensor.responses.blocked import BlockCause, Blocked, BlockState
from sensor.responses.quarantine import Quarantine, Quarantined

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*")  # as runtimes permit them

# Finds what a person may mean: a name, an id or the beginning of one.
Find = Callable[[str], Awaitable[list[Container]]]


def block_handlers(blocker: Blocker, quarantine: Quarantine, find: Find) -> dict[str, Handler]:
    """Verb → handler.

    Args:
        blocker: blocks and unblocks.
        quarantine: cuts off and releases.
        find: containers of this host by what a person typed.
    """

    async def block(args: dict[str, Any]) -> dict[str, Any]:
        container = one_of(await find(_text(args, "name")), _text(args, "name"))
        grace = args.get("grace")
        blocked = await blocker.block(
            container,
            BlockCause(_text(args, "reason")),
            grace_seconds=None if grace is None else float(grace),
            with_evidence=bool(args.get("evidence", True)),
        )
        return shown(blocked)

    async def unblock(args: dict[str, Any]) -> dict[str, Any]:
        blocked, policy = await blocker.unblock(_recorded(args).id, start=bool(args.get("start")))
        return shown(blocked) | {"policy": [policy.result, policy.detail]}

    def _recorded(args: dict[str, Any]) -> Blocked:
        name = _text(args, "name")
        records = blocker.records()
        held = [r for r in records if r.state is not BlockState.UNBLOCKED]
        found = _matching([r.container for r in held], name)
        if not found:
            found = _matching([r.container for r in records], name)
        container = one_of(found, name, where="blocked", see="rote blocked list")
        return next(r for r in records if r.id == container.id)

    def blocked_list(args: dict[str, Any]) -> list[dict[str, Any]]:
        return [
            shown(blocked)
            for blocked in blocker.records()
            if args.get("all") or blocked.state is not BlockState.UNBLOCKED
        ]

    async def cut(args: dict[str, Any]) -> dict[str, Any]:
        container = one_of(await find(_text(args, "name")), _text(args, "name"))
        entry = await quarantine.quarantine(
            container, str(args.get("mode") or "links"), _text(args, "reason")
        )
        return shown_quarantine(entry)

    async def release(args: dict[str, Any]) -> dict[str, Any]:
        name = _text(args, "name")
        known = [entry.container for entry in quarantine.records()]
        container = one_of(
            _matching(known, name), name, where="in quarantine", see="rote quarantined"
        )
        entry, remarks = await quarantine.release(container.id)
        return shown_quarantine(entry) | {"remarks": list(remarks)}

    return {
        "block": block,
        "unblock": unblock,
        "blocked.list": blocked_list,
        "blocked.show": lambda args: shown(_recorded(args)),
        "quarantine": cut,
        "release": release,
        "quarantined.list": lambda _: [shown_quarantine(e) for e in quarantine.records()],
    }


def one_of(
    found: list[Container], name: str, *, where: str = "running", see: str = "rote containers"
) -> Container:
    """The one container that a person means.

    Raises:
        UsageError: there is none, or more than one.
    """
    if not found:
        raise UsageError(f"container {name!r}: none of that name or id is {where}; see: {see}")
    if len(found) > 1:
        names = ", ".join(sorted(f"{c.name or '(no name)'} ({c.short_id})" for c in found)[:5])
        raise UsageError(f"container {name!r}: {len(found)} fit: {names}; give more of the id")
    return found[0]


def _matching(containers: list[Container], name: str) -> list[Container]:
    """Those with that name or id; if none, those whose id begins so."""
    exact = [c for c in containers if name in (c.id, c.name)]
    return exact or [c for c in containers if c.id.startswith(name)]


def finder(
    running: Callable[[], list[Container]],
    ask: Callable[[str], Awaitable[Container | None]],
) -> Find:
    """Looks among the containers that run, then asks the runtimes for one that does not.

    Args:
        running: all known containers.
        ask: a runtime's answer for a name, an id or the beginning of one.
    """

    async def find(name: str) -> list[Container]:
        found = _matching(running(), name)
        if found or not _NAME.fullmatch(name):
            return found
        other = await ask(name)
        return [other] if other is not None else []

    return find


def shown(blocked: Blocked) -> dict[str, Any]:
    """A blocked container as plain values."""
    values = blocked.to_values()
    container = values.pop("container")
    policy = blocked.restart_policy
    return values | {
        "id": blocked.id,
        "name": container["name"],
        "image": blocked.container.image.reference,
        "runtime": container["runtime"],
        "namespace": container["namespace"],
        "pod": container["pod"],
        "restart_policy": str(policy) if policy is not None else "",
        "steps": [
            {"name": s.name, "result": s.result, "detail": s.detail, "seconds": s.seconds}
            for s in blocked.steps
        ],
    }


def shown_quarantine(entry: Quarantined) -> dict[str, Any]:
    """A container in quarantine as plain values."""
    return {
        "id": entry.container.id,
        "name": entry.container.name,
        "image": entry.container.image.reference,
        "runtime": entry.container.runtime,
        "state": str(entry.state),
        "mode": entry.mode,
        "reason": entry.reason,
        "rule": entry.rule,
        "since": entry.since,
        "links": entry.describe(),
        "notes": list(entry.notes),
    }


def _text(args: dict[str, Any], name: str) -> str:
    text = args.get(name)
    if not isinstance(text, str) or not text.strip():
        raise UsageError(f"{name}: expected a text that is not empty")
    return text.strip()
