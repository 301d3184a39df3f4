"""An image read in a process of its own: it takes a second, and what it reads may be hostile.

The daemon's loop goes on meanwhile. The worker may use so much memory and time and no more; what
becomes of it is either an inventory, with the facts for compliance where they are asked for, or one
line.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import resource
import sys
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import msgpack
import orjson

from sensor.errors import ImageError, RoteError
from sensor.images.archive import open_image
from sensor.images.cache import pack, pack_facts, unpack, unpack_facts
from sensor.images.compliance.facts import HashList, ImageFacts, hash_list, take_both
from sensor.images.inventory import take_inventory
from sensor.images.package import Inventory
from sensor.images.sources import ImageFiles, open_layers, open_root

MEMORY_MAX = 1 << 30  # bytes of address space; 80,000 files and 1,500 packages take 30 MB
_GRACE_SECONDS = 10.0  # for starting, and for writing down what was found when time is over
_NICE = 5  # programs of containers come first
_GOOD, _BAD = b"+", b"-"


@dataclass(frozen=True, slots=True)
class Request:
    """What is to be read.

    Attributes:
        archive: path of an archive or a directory, or "".
        root: path of a merged root, or "".
        details: else, Docker's inspection of an image or a container in layers of overlay2.
        image: which image of an archive.
        image_id: of a merged root.
        reference: what a person calls it.
        seconds: when this time is over the rest is left out.
        facts: whether the facts for compliance are wanted as well.
        hashes: of malware, for these: what each is.
    """

    archive: str = ""
    root: str = ""
    details: Mapping[str, Any] = field(default_factory=dict)
    image: str = ""
    image_id: str = ""
    reference: str = ""
    seconds: float = 600.0
    facts: bool = False
    hashes: Mapping[str, str] = field(default_factory=dict)


async def read_apart(request: Request) -> Inventory:
    """Read an image in a process of its own.

    Raises:
        ImageError: it cannot be opened, or the worker ended without an answer.
    """
    return unpack(await _ask(request))


async def read_image_apart(
    request: Request,
    hashes: HashList = HashList(),  # noqa: B008 - frozen
) -> tuple[Inventory, ImageFacts]:
    """Read an image and the facts for compliance in one process of its own, in one walk.

    Args:
        request: what is to be read.
        hashes: of malware.

    Raises:
        ImageError: it cannot be opened, or the worker ended without an answer.
    """
    answer = await _ask(replace(request, facts=True, hashes=dict(hashes.names)))
    try:
        inventory, facts = msgpack.unpackb(answer)
    except (ValueError, TypeError) as error:
        raise ImageError(f"{_name(request)}: not read: the worker's answer is damaged") from error
    return unpack(inventory), unpack_facts(facts)


async def _ask(request: Request) -> bytes:
    worker = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "sensor.images.worker"),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.DEVNULL,
        start_new_session=True,  # Ctrl-C is for the daemon to deal with
        env={**os.environ, "PYTHONDONTWRITEBYTECODE": "1"},
    )
    try:
        async with asyncio.timeout(request.seconds + _GRACE_SECONDS):
            answer, _ = await worker.communicate(orjson.dumps(asdict(request)))
    except TimeoutError:
        raise ImageError(f"{_name(request)}: not read within {request.seconds:.0f} s") from None
    finally:
        if worker.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                worker.kill()
            await worker.wait()
    if answer[:1] == _GOOD:
        return answer[1:]
    if answer[:1] == _BAD:
        raise ImageError(answer[1:].decode(errors="replace"))
    raise ImageError(f"{_name(request)}: not read: the worker ended with {worker.returncode}")


def _name(request: Request) -> str:
    return request.reference or request.archive or request.root or "image"


def _open(request: Request) -> ImageFiles:
    if request.archive:
        return open_image(Path(request.archive), request.image)
    if request.root:
        return open_root(Path(request.root), request.image_id, request.reference)
    files = open_layers(request.details, request.reference)
    if files is None:
        raise ImageError(f"{_name(request)}: its layers are no directories of overlay2")
    return files


def _answer(data: bytes) -> bytes:
    request = Request(**orjson.loads(data))
    try:
        with _open(request) as files:
            if not request.facts:
                return _GOOD + pack(take_inventory(files, request.seconds))
            inventory, facts = take_both(files, hash_list(request.hashes), request.seconds)
            both: bytes = msgpack.packb([pack(inventory), pack_facts(facts)])
            return _GOOD + both
    except RoteError as error:
        return _BAD + str(error).encode(errors="replace")
    except MemoryError:
        # What there is of it is free again by now.
        text = f"{_name(request)}: not read: takes more than {MEMORY_MAX >> 20} MB of memory"
        return _BAD + text.encode(errors="replace")


def main() -> None:
    """Answer the one request on standard input."""
    os.nice(_NICE)
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_MAX, MEMORY_MAX))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    sys.stdout.buffer.write(_answer(sys.stdin.buffer.read()))
    sys.stdout.buffer.flush()


if __name__ == "__main__":
    main()
