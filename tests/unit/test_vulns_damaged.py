"""Feeds and reports in which one value is wrong: skipped or refused, never worse."""

from __future__ import annotations

import contextlib
import copy
import tempfile
from pathlib import Path
from typing import Any

import orjson
from hypothesis import given
from hypothesis import strategies as st

from sensor.errors import BadInputError
from sensor.images.vulns.feeds.kinds import READERS
from sensor.images.vulns.importer import import_feed
from sensor.images.vulns.reports import keep_report, kept_report, read_report
from sensor.images.vulns.store import VulnStore
from tests.unit import feeds
from tests.unit.test_vulns_match import GRYPE, TRIVY

FEEDS: dict[str, list[Any]] = {
    "osv": [feeds.GHSA, feeds.ALSA],
    "debian-tracker": [feeds.TRACKER],
    "secdb": [feeds.SECDB],
    "nvd": [feeds.NVD],
    "kev": [feeds.KEV],
}
JUNK: st.SearchStrategy[Any] = st.sampled_from(
    [None, True, 7, -1.5, "", "x", "CVE-2020-1234", "\u0000", [], {}, [1], [None], ["x"], {"a": 1},
     {"": ""}, [[]], 10**30, "9" * 300]
)  # fmt: skip


def places(value: Any, at: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Every place in plain values."""
    inner: list[tuple[Any, Any]] = []
    if isinstance(value, dict):
        inner = list(value.items())
    elif isinstance(value, list):
        inner = list(enumerate(value))
    return [at, *(place for key, item in inner for place in places(item, (*at, key)))]


def damaged(value: Any, place: tuple[Any, ...], junk: Any) -> bytes:
    """The same as JSON, with something else at one place."""
    if not place:
        return orjson.dumps(_plain(junk))
    value = copy.deepcopy(value)
    inside = value
    for key in place[:-1]:
        inside = inside[key]
    inside[place[-1]] = _plain(junk)
    return orjson.dumps(value)


def _plain(junk: Any) -> Any:
    return float(junk) if isinstance(junk, int) and abs(junk) > 2**60 else junk


@given(data=st.data(), kind=st.sampled_from(list(FEEDS)), junk=JUNK)
def test_a_feed_with_one_wrong_value(data: st.DataObject, kind: str, junk: Any) -> None:
    """It is imported as far as it can be, or refused by name; and can be imported again."""
    sample = data.draw(st.sampled_from(FEEDS[kind]))
    content = damaged(sample, data.draw(st.sampled_from(places(sample))), junk)
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory, "feed.json")
        path.write_bytes(content)
        store = VulnStore(Path(directory, "vulns.db"))
        with contextlib.suppress(BadInputError):
            done = import_feed(store, path, kind=kind, name="feed")
            assert done.records > 0
            assert len(store.problems("feed")) == done.skipped
            assert import_feed(store, path, kind=kind, name="feed").unchanged
        for unit in _units(kind, path):
            assert isinstance(unit, list)
        store.close()


def _units(kind: str, path: Path) -> list[Any]:
    found: list[Any] = []
    with contextlib.suppress(BadInputError):
        found += READERS[kind](path, "", 0)
    return found


@given(data=st.data(), sample=st.sampled_from([TRIVY, GRYPE]), junk=JUNK)
def test_a_report_with_one_wrong_value(data: st.DataObject, sample: Any, junk: Any) -> None:
    """It is read as far as it can be, kept and read again, or refused by name."""
    content = damaged(sample, data.draw(st.sampled_from(places(sample))), junk)
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory, "report.json")
        path.write_bytes(content)
        with contextlib.suppress(BadInputError):
            report = read_report(path)
            store = VulnStore(Path(directory, "vulns.db"))
            keep_report(store, report)
            kept = kept_report(store, report.image_id)
            assert kept is not None
            assert kept.findings == report.findings
            store.close()
