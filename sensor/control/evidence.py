"""What the verbs on the control socket do that take and keep evidence."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import asdict
from typing import Any

from sensor.control.blocking import Find, one_of
from sensor.control.server import Handler
from sensor.responses.evidence.collect import Collector
from sensor.responses.evidence.store import IndexEntry

_BEAT_SECONDS = 1.0


def evidence_handlers(collector: Collector, find: Find) -> dict[str, Handler]:
    """Verb → handler.

    Args:
        collector: takes evidence, and knows the store.
        find: containers of this host by what a person typed.
    """
    store = collector.store

    async def collect(args: dict[str, Any]) -> AsyncIterator[dict[str, Any]]:
        """Steps as they are taken, ``{"step": …}``, then ``{"pack": …}``."""
        container = one_of(await find(str(args.get("name", ""))), str(args.get("name", "")))
        steps: asyncio.Queue[str] = asyncio.Queue()
        task = asyncio.create_task(
            collector.collect(
                container,
                reason=str(args.get("reason") or "on request"),
                filesystem=bool(args.get("filesystem")),
                say=steps.put_nowait,
            )
        )
        try:
            while not task.done():
                step = asyncio.create_task(steps.get())
                await asyncio.wait(
                    {task, step}, timeout=_BEAT_SECONDS, return_when=asyncio.FIRST_COMPLETED
                )
                if step.done():
                    yield {"step": step.result()}
                else:
                    step.cancel()
                    yield {}  # notices a reader that has gone
            yield {"pack": asdict(await task)}
        finally:
            task.cancel()  # of no effect when it is done

    def shown(args: dict[str, Any]) -> dict[str, Any]:
        entry = store.get(str(args.get("id", "")))
        return {**_row(entry), "path": str(store.path(entry.id))}

    def prune(args: dict[str, Any]) -> list[dict[str, Any]]:
        removed = store.prune(
            () if args.get("force") else collector.kept(),
            newest=args.get("newest"),
            before=args.get("before"),
        )
        return [_row(entry) for entry in removed]

    return {
        "evidence.list": lambda _: [_row(entry) for entry in store.entries()],
        "evidence.show": shown,
        "evidence.place": lambda _: str(store.directory),
        "evidence.collect": collect,
        "evidence.prune": prune,
    }


def _row(entry: IndexEntry) -> dict[str, Any]:
    return {**asdict(entry), "audits": list(entry.audits), "missing": list(entry.missing)}
