"""What images consist of: known from an earlier reading, or read apart, each one once."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, Mapping
from typing import Any, TypeVar

from sensor.containers.container import Container
from sensor.errors import ImageError, RuntimeUnavailableError
from sensor.images.admission.judge_compliance import Contents
from sensor.images.admission.start import Start
from sensor.images.cache import InventoryCache
from sensor.images.compliance.facts import HashList, ImageFacts
from sensor.images.package import Inventory
from sensor.images.worker import Request, read_apart, read_image_apart

_NEVER = "0001-01-01"  # when a container of Docker's started that never did
_AT_ONCE = 2
_DESCRIPTIONS_MAX = 256  # some 10 kB each
Details = Callable[[Container], Awaitable[Mapping[str, Any] | None]]
Read = Callable[[Request], Awaitable[Inventory]]
ReadBoth = Callable[[Request, HashList], Awaitable[tuple[Inventory, ImageFacts]]]
T = TypeVar("T")


class Library:
    """The images of one host.

    A reading goes on when nobody waits for it any more: the next start finds it done.

    Args:
        cache: of what was read.
        details: a runtime's inspection of a container's image; None where it has none. It may
            raise RuntimeUnavailableError.
        read: reads an image.
        read_both: the same, with the facts for compliance.
    """

    def __init__(
        self,
        cache: InventoryCache,
        details: Details,
        read: Read = read_apart,
        read_both: ReadBoth = read_image_apart,
    ) -> None:
        self._cache = cache
        self._details = details
        self._read = read
        self._read_both = read_both
        self._under_way: dict[str, asyncio.Task[Any]] = {}
        self._descriptions: dict[str, Mapping[str, Any]] = {}
        self._turns = asyncio.Semaphore(_AT_ONCE)

    async def contents(self, start: Start, hashes: HashList) -> Contents:
        """The same, with the facts for compliance and the runtime's description of the image.

        Args:
            start: of the container.
            hashes: of malware.

        Raises:
            ImageError: it cannot be read.
            StateError: the cache cannot be.
        """
        image = start.container.image.id
        inventory = self._cache.get(image) if image else None
        facts = self._cache.get_facts(image, hashes.id) if image else None
        if inventory is None or facts is None:
            read: tuple[Inventory, ImageFacts] = await self._once(
                f"{image or start.container.id} {hashes.id}", self._take_both(start, hashes)
            )
            inventory, facts = read
        return Contents(inventory, facts, await self._description(start.container))

    async def _description(self, container: Container) -> Mapping[str, Any]:
        """The runtime's description of an image; it does not change under its id either."""
        known = self._descriptions.get(container.image.id)
        if known is not None:
            return known
        try:
            found = await self._details(container) or {}
        except RuntimeUnavailableError:
            return {}  # checks that need it say that they do not know
        if found and container.image.id:
            if len(self._descriptions) >= _DESCRIPTIONS_MAX:
                self._descriptions.pop(next(iter(self._descriptions)))
            self._descriptions[container.image.id] = found
        return found

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
        return await self._once(image or start.container.id, self._take(start))

    async def _once(self, key: str, work: Coroutine[Any, Any, T]) -> T:
        task = self._under_way.get(key)
        if task is None:
            task = asyncio.create_task(work, name=f"read {key[:19]}")
            self._under_way[key] = task
            task.add_done_callback(lambda done: self._done(key, done))
        else:
            work.close()
        result: T = await asyncio.shield(task)
        return result

    def _done(self, key: str, task: asyncio.Task[Any]) -> None:
        self._under_way.pop(key, None)
        if not task.cancelled():
            task.exception()  # whoever waited has it; if nobody did, nobody misses it

    async def _take(self, start: Start) -> Inventory:
        request = await self._request(start)
        async with self._turns:
            inventory = await self._read(request)
        self._cache.put(inventory)
        return inventory

    async def _take_both(self, start: Start, hashes: HashList) -> tuple[Inventory, ImageFacts]:
        request = await self._request(start)
        async with self._turns:
            inventory, facts = await self._read_both(request, hashes)
        self._cache.put(inventory)
        self._cache.put_facts(facts)
        return inventory, facts

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
