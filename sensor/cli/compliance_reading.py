"""What the commands of `rote compliance` look at: containers, images, files that describe them."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from sensor.cli.images_reading import engine_at, is_there, opened_cache
from sensor.containers.container import Container, Image
from sensor.containers.docker import container_from_inspect, split_reference
from sensor.errors import BadInputError, ImageError, RuntimeUnavailableError, UsageError
from sensor.images.compliance.facts import HashList, ImageFacts, read_hash_list, take_both
from sensor.images.compliance.subject import HostFacts, Subject, parse_object, read_host_facts
from sensor.images.compliance.updates import pending_updates
from sensor.images.sources import ImageFiles, image_details, open_details, open_image

if TYPE_CHECKING:
    from sensor.containers.docker import DockerRuntime
    from sensor.images.cache import InventoryCache

_CONTAINER = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*")
_FILE_MAX = 64 << 20  # bytes of a config.json or an inspection; real ones have some kilobytes


@dataclass(frozen=True, slots=True)
class Asked:
    """What a person wants checked."""

    names: tuple[str, ...] = ()
    every: bool = False
    spec: Path | None = None
    inspected: Path | None = None
    engine: str | None = None
    malware: Path | None = None
    quick: bool = False


@dataclass(frozen=True, slots=True)
class Looked:
    """A subject, and who it is for the scopes of rules."""

    subject: Subject
    container: Container


def subjects(context: Any, /, asked: Asked) -> list[Looked]:
    """What a person wants checked, with all that is known of it.

    Args:
        context: of the command.
        asked: what is wanted.

    Raises:
        UsageError: nothing is named.
        BadInputError: a file is not what it should be.
        ImageError: there is no container and no image of this name.
        RuntimeUnavailableError: the engine does not answer.
    """
    if not (asked.names or asked.every or asked.spec or asked.inspected):
        raise UsageError("name containers or images, or give --all, --spec or --inspect")
    hashes = HashList() if asked.malware is None else read_hash_list(asked.malware)
    host = replace(read_host_facts(), security_updates=pending_updates())
    with opened_cache(context) as cache:
        reader = _Reader(host, hashes, cache, quick=asked.quick)
        found = list(_of_files(asked, host))
        rest = [name for name in asked.names if not is_there(Path(name))]
        found += [reader.of_archive(Path(name)) for name in asked.names if name not in rest]
        if rest or asked.every:
            found += asyncio.run(_of_engine(asked, rest, reader))
    return found


def _of_files(asked: Asked, host: HostFacts) -> Iterator[Looked]:
    spec = inspected = None
    if asked.spec is not None:
        spec = _read(asked.spec, "an OCI runtime's config.json")
        if not any(name in spec for name in ("ociVersion", "process", "linux", "root")):
            raise BadInputError(
                f"{asked.spec}: has neither process nor linux nor root; expected an OCI runtime's "
                "config.json"
            )
    if asked.inspected is not None:
        inspected = _read(asked.inspected, "what `docker inspect CONTAINER` prints")
        if not isinstance(inspected.get("HostConfig"), Mapping):
            raise BadInputError(
                f"{asked.inspected}: has no HostConfig; expected what `docker inspect CONTAINER` "
                "prints"
            )
    if spec is None and inspected is None:
        return
    name = str(asked.inspected or asked.spec)
    said = str((inspected or {}).get("Name") or "").lstrip("/")
    container_id = str((inspected or {}).get("Id") or "")
    config = (inspected or {}).get("Config")
    reference = config.get("Image") if isinstance(config, Mapping) else ""
    reference = reference if isinstance(reference, str) else ""
    subject = Subject(
        name=said or name,
        container_id=container_id,
        reference=reference,
        spec=spec or {},
        inspected=inspected or {},
        host=host,
    )
    image_name, tag = split_reference(reference)
    yield Looked(subject, Container(container_id, "file", said, Image(image_name, tag)))


def _read(path: Path, expected: str) -> dict[str, Any]:
    try:
        if path.is_file() and path.stat().st_size > _FILE_MAX:
            raise BadInputError(f"{path}: more than {_FILE_MAX >> 20} MB; expected {expected}")
        data = path.read_bytes()
    except OSError as error:
        raise BadInputError(f"{path}: {error.strerror}; expected {expected}") from error
    return parse_object(data, str(path), expected)


async def _of_engine(asked: Asked, names: Sequence[str], reader: _Reader) -> list[Looked]:
    engine = engine_at(asked.engine)
    if engine is None:
        what = f"{names[0]}: no such file, and n" if names else "N"
        raise RuntimeUnavailableError(f"{what}either Docker nor Podman answers here")
    try:
        wanted = [*names, *(await engine.container_ids() if asked.every else ())]
        found = [await _of_name(engine, name, reader, listed=name not in names) for name in wanted]
    finally:
        await engine.close()
    return [looked for looked in found if looked is not None]


async def _of_name(
    engine: DockerRuntime, name: str, reader: _Reader, *, listed: bool
) -> Looked | None:
    # Anything else would be another path of the engine's interface.
    details = await engine.details(name) if _CONTAINER.fullmatch(name) else None
    if details is not None:
        return await _of_container(engine, details, reader)
    if listed:
        return None  # removed since it was listed
    try:
        image = await image_details(engine, name)
    except ImageError as error:
        raise ImageError(
            f"{name}: neither a file nor a container or image of {engine.name}; expected one of "
            "these"
        ) from error
    image, facts = await reader.of_engine(engine, image, name)
    known = str(image.get("Id") or "")
    subject = Subject(
        name=name, image_id=known, reference=name, image=image, facts=facts, host=reader.host
    )
    image_name, tag = split_reference(name)
    return Looked(subject, Container("", engine.name, "", Image(image_name, tag, id=known)))


async def _of_container(engine: DockerRuntime, details: dict[str, Any], reader: _Reader) -> Looked:
    image_id = str(details.get("Image") or "")
    image = await engine.image_details(image_id) if image_id else None
    facts = None
    reference = str((details.get("Config") or {}).get("Image") or "")
    if image is not None:
        image, facts = await reader.of_engine(engine, image, reference or image_id)
    name, tag = split_reference(reference)
    container = container_from_inspect(details, Image(name, tag, id=image_id), engine.name)
    subject = Subject(
        name=container.name or container.short_id,
        container_id=container.id,
        image_id=image_id,
        reference=reference,
        inspected=details,
        image=image or {},
        facts=facts,
        host=reader.host,
    )
    return Looked(subject, container)


class _Reader:
    """Images with what lies in them, each read once."""

    def __init__(
        self, host: HostFacts, hashes: HashList, cache: InventoryCache | None, *, quick: bool
    ) -> None:
        self.host = host
        self._hashes = hashes
        self._cache = cache
        self._quick = quick
        self._known: dict[str, tuple[dict[str, Any], ImageFacts | None]] = {}

    async def of_engine(
        self, engine: DockerRuntime, details: dict[str, Any], reference: str
    ) -> tuple[dict[str, Any], ImageFacts | None]:
        """The inspection of an image with its history, and what lies in it."""
        image_id = str(details.get("Id") or "")
        if image_id not in self._known:
            full = {**details, "History": await engine.image_history(image_id)}
            facts = self._kept(image_id)
            if facts is None and not self._quick:
                try:
                    with await open_details(engine, details, reference) as files:
                        facts = self._take(files)
                except ImageError as error:
                    click.echo(f"rote: {reference}: files not looked at: {error}", err=True)
            self._known[image_id] = full, facts
        return self._known[image_id]

    def of_archive(self, path: Path) -> Looked:
        """An image in an archive or a directory."""
        with open_image(path) as files:
            facts = self._kept(files.image_id)
            if facts is None and not self._quick:
                facts = self._take(files)
            known = files.image_id
            reference = files.reference if files.image_id else ""
            subject = Subject(
                name=str(path),
                image_id=known,
                reference=reference,
                image=dict(files.config),
                facts=facts,
                host=self.host,
            )
        name, tag = split_reference(reference)
        return Looked(subject, Container("", "file", "", Image(name, tag, id=known)))

    def _kept(self, image_id: str) -> ImageFacts | None:
        if self._cache is None or not image_id:
            return None
        return self._cache.get_facts(image_id, self._hashes.id)

    def _take(self, files: ImageFiles) -> ImageFacts:
        inventory, facts = take_both(files, self._hashes)
        if self._cache is not None:
            self._cache.put(inventory)
            self._cache.put_facts(facts)
        return facts
