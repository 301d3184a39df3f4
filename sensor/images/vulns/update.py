"""Bringing the store up to date: every configured feed, one after the other."""

from __future__ import annotations

import time
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from pathlib import Path

from sensor.errors import RoteError, UsageError
from sensor.images.vulns.download import Received, fetch, make_opener
from sensor.images.vulns.importer import Imported, Progress, import_feed
from sensor.images.vulns.sources import Source, Sources
from sensor.images.vulns.store import VulnStore


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of one feed.

    Attributes:
        feed: its name.
        imported: None when it could not be updated.
        error: why not; one line.
        seconds: how long it took.
    """

    feed: str
    imported: Imported | None
    error: str = ""
    seconds: float = 0.0


def select(sources: Sources, names: Collection[str]) -> tuple[Source, ...]:
    """The configured feeds of these names; all when none is given.

    Raises:
        UsageError: one is not configured.
    """
    known = {source.name: source for source in sources.feeds}
    for name in names:
        if name not in known:
            listed = ", ".join(known) or "none"
            raise UsageError(f"feed {name!r}: not configured; expected one of: {listed}")
    return tuple(source for source in sources.feeds if not names or source.name in names)


def update(
    store: VulnStore,
    sources: Sources,
    feeds: Iterable[Source],
    *,
    progress: Progress | None = None,
    received: Received | None = None,
) -> Iterable[Outcome]:
    """Update feeds. One that fails keeps what it said before, and the others go on.

    Args:
        store: where to.
        sources: proxy and certificates.
        feeds: which.
        progress: is told how far an import is.
        received: is told how far a download is.

    Yields:
        What became of each, when it is done.

    Raises:
        DownloadError: the configured certificates cannot be used.
    """
    opener = make_opener(sources)
    directory = store.path.parent / "vulns-downloads"
    for source in feeds:
        began = time.monotonic()
        known = store.feed(source.name) or store.add_feed(source.name, source.kind, source.place)
        store.update_feed(source.name, stale_seconds=source.stale_seconds)
        try:
            if source.file is not None:
                imported = _import(store, source, source.file, progress)
            else:
                same = known.source == source.place
                fetched = fetch(
                    opener,
                    source.url,
                    directory / source.name,
                    etag=known.etag if same else "",
                    last_modified=known.last_modified if same else "",
                    timeout=sources.timeout,
                    received=received,
                )
                if fetched.file is None:
                    store.update_feed(source.name, checked_ns=time.time_ns(), error="")
                    imported = Imported(
                        source.name, source.kind, known.records, known.skipped, unchanged=True
                    )
                else:
                    try:
                        imported = _import(store, source, fetched.file, progress)
                    finally:
                        fetched.file.unlink(missing_ok=True)
                    store.update_feed(
                        source.name, etag=fetched.etag, last_modified=fetched.last_modified
                    )
        except RoteError as error:
            store.update_feed(source.name, error=str(error))
            yield Outcome(source.name, None, str(error), time.monotonic() - began)
        else:
            yield Outcome(source.name, imported, seconds=time.monotonic() - began)


def _import(store: VulnStore, source: Source, path: Path, progress: Progress | None) -> Imported:
    return import_feed(
        store,
        path,
        name=source.name,
        kind=source.kind,
        release=source.release,
        source=source.place,
        progress=progress,
    )
