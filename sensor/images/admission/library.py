"""What images consist of: known from an earlier reading, or read apart, each one once."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from sensor.containers.container import Container
from sensor.errors import ImageError, RuntimeUnavailableError
from sensor.images.admission.start import Start
from sensor.images.cache import InventoryCache
from sensor.images.package import Inventory
from sensor.images.worker import Request, read_apart

_NEVER = "0001-01-01"  # when a container of Docker's started that never did
_AT_ONCE = 2
Details = Callable[[Container], Awaitable[Mapping[str, Any] | None]]
Read = Callable[[Request], Awaitable[Inventory]]


class Library:
    """The images of one host.

    A reading goes on when nobody waits for it any more: the next start finds it done.

    Args:
        cache: of what was read.
        details: a runtime's inspection of a container's image; None where it has none. It may
            raise RuntimeUnavailableError.
        read: reads an image.
    """

    def __init__(self, cache: InventoryCache, details: Details, read: Read = read_apart) -> None:
        self._cache = cache
        self._details = details
        self._read = read
        self._under_way: dict[str, asyncio.Task[Inventory]] = {}
        self._turns = asyncio.Semaphore(_AT_ONCE)

    async def inventory(self, start: Start) -> Inventory:
        """What a container's image consists of.

        Raises:
            ImageError: it cannot be read.
            StateError: the cache cannot be.
        """
        image = start.container.image.id
        found = self._cache.get(image) if image else None
        if found is not None:
            return found
        key = image or start.container.id
        task = self._under_way.get(key)
        if task is None:
            task = asyncio.create_task(self._take(start), name=f"read {key[:19]}")
            self._under_way[key] = task
            task.add_done_callback(lambda done: self._done(key, done))
        return await asyncio.shield(task)

    def _done(self, key: str, task: asyncio.Task[Inventory]) -> None:
        self._under_way.pop(key, None)
        if not task.cancelled():
            task.exception()  # whoever waited has it; if nobody did, nobody misses it

    async def _take(self, start: Start) -> Inventory:
        request = await self._request(start)
        async with self._turns:
            inventory = await self._read(request)
        self._cache.put(inventory)
        return inventory

    async def _request(self, start: Start) -> Request:
        """Where to read it: the layers of the image itself, where they are to be had."""
        container = start.container
        reference = container.image.reference
        trouble = ""
        try:
            details = await self._details(container)
        except RuntimeUnavailableError as error:
            details, trouble = None, f": {error}"
        layers = ((details or {}).get("GraphDriver") or {}).get("Data") or {}
        if details is not None and layers.get("UpperDir"):
            return Request(details=dict(details), reference=reference)
        root = start.root
        if root is None and container.pid and not container.host_mount_namespace:
            return Request(root=f"/proc/{container.pid}/root", reference=reference)
        if root is None:
            raise ImageError(
                f"{reference or container.short_id}: neither its layers nor its root can be "
                f"found{trouble}"
            )
        image = container.image.id if start.held and not _ran_before(start) else ""
        return Request(root=str(root), image_id=image, reference=reference)

    async def close(self) -> None:
        """End what is under way."""
        tasks = list(self._under_way.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def _ran_before(start: Start) -> bool:
    """Whether the container may have changed what its image brought."""
    began = str((start.inspected.get("State") or {}).get("StartedAt") or "")
    return bool(began) and not began.startswith(_NEVER)
