"""A feed into the store: recognised, read in steps, and taken over at once or not at all."""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from sensor.errors import FeedError, UsageError
from sensor.images.vulns.feeds.files import digest_of
from sensor.images.vulns.feeds.kinds import REPORTS, default_name, kind_of, reader_of
from sensor.images.vulns.stage import Stage
from sensor.images.vulns.store import VulnStore

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:+-]{0,99}")
_SAVE_SECONDS = 2.0
_SHOW_SECONDS = 0.2
Progress = Callable[[str, int], None]  # a feed, and how many units of it are read


@dataclass(frozen=True, slots=True)
class Imported:
    """What became of an import.

    Attributes:
        feed: its name.
        kind: its kind.
        records: that are in the store.
        skipped: that could not be used; ``VulnStore.problems`` lists them.
        unchanged: the very same bytes were there already, and nothing was done.
        resumed: units that an earlier, interrupted import had read.
    """

    feed: str
    kind: str
    records: int
    skipped: int
    unchanged: bool = False
    resumed: int = 0


def import_feed(
    store: VulnStore,
    path: Path,
    *,
    name: str = "",
    kind: str = "",
    release: str = "",
    source: str = "",
    progress: Progress | None = None,
) -> Imported:
    """Import a file or directory. Twice the same is once; interrupted, it goes on the next time.

    Args:
        store: where to.
        path: what.
        name: of the feed; "" makes one of what it is.
        kind: a name of ``kinds.READERS``; "": as its content says.
        release: of the distribution, for kinds that do not say so themselves.
        source: where it comes from, for people; "": the path.
        progress: is told now and then how far it is.

    Raises:
        FeedError: it cannot be used as a whole; what the feed said before holds.
        StateError: the store cannot be written, or another process imports.
        UsageError: name or kind are none.
    """
    kind = kind or kind_of(path)
    if kind in REPORTS:
        raise FeedError(f"{path}: a report of {kind}; expected a feed")
    reader = reader_of(kind)
    name = name or default_name(path, kind, release)
    if not _NAME.fullmatch(name):
        raise UsageError(f"feed {name!r}: expected letters, digits and any of . _ : + -")
    with store.importing():
        digest = digest_of(path)
        known = store.feed(name)
        identity = f"{kind} {release} {digest}"
        if known is not None and known.digest == identity:
            store.update_feed(name, checked_ns=time.time_ns(), error="", source=source or str(path))
            return Imported(name, kind, known.records, known.skipped, unchanged=True)
        file = store.path.with_name(f"{store.path.stem}-{name}.stage")
        stage = Stage(file, identity)
        resumed = stage.units
        saved = shown = time.monotonic()
        try:
            for unit in reader(path, release, stage.units):
                stage.add(unit)
                now = time.monotonic()
                if now - saved > _SAVE_SECONDS:
                    stage.save()
                    saved = now
                if progress is not None and now - shown > _SHOW_SECONDS:
                    progress(name, stage.units)
                    shown = now
            _check(stage, path, kind)
            stage.finish()
        except FeedError:
            stage.discard()  # the same bytes would fail again
            raise
        except BaseException:
            stage.close()  # what was saved is gone on with
            raise
        feed = store.add_feed(name, kind, source or str(path))
        store.merge(feed, file, digest=identity, records=stage.records, skipped=stage.skipped)
        stage.discard()
    return Imported(name, kind, stage.records, stage.skipped, resumed=resumed)


def _check(stage: Stage, path: Path, kind: str) -> None:
    """A feed that says nothing at all is none; most likely it is an error page."""
    if stage.records == 0:
        problem = f", and {stage.skipped} that could not be used" if stage.skipped else ""
        raise FeedError(f"{path}: no records{problem}; expected a feed of kind {kind}")
