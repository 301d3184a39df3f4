"""What is known of CVEs whatever they are in: NVD's scores, KEV, EPSS."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import ijson
import orjson

from sensor.errors import FeedError
from sensor.images.vulns.advisory import (
    CveFacts,
    Exploited,
    Likelihood,
    Problem,
    Record,
    find_cves,
)
from sensor.images.vulns.feeds.files import json_errors, open_feed, read_whole

# Where NVD keeps scores, those first that are believed first.
_METRICS = ("cvssMetricV31", "cvssMetricV30", "cvssMetricV40", "cvssMetricV2")


def read_nvd(path: Path, release: str, skip: int) -> Iterator[list[Record]]:  # noqa: ARG001
    """Read a JSON 2.0 feed or answer of NVD, a CVE at a time.

    Args:
        path: the file.
        release: not asked for.
        skip: so many CVEs are passed over.

    Raises:
        FeedError: it is no JSON, or ends in the middle.
    """
    stream, reader = open_feed(path)
    with reader, json_errors(path, "expected NVD's feed of version 2.0"):
        items = ijson.items(reader, "vulnerabilities.item", use_float=True)
        for i, item in enumerate(items):
            stream.mark()
            if i >= skip:
                yield [_cve(item, f"vulnerabilities[{i}]")]


def _cve(item: Any, place: str) -> Record:
    cve = item.get("cve") if isinstance(item, dict) else None
    if not isinstance(cve, dict) or not find_cves(str(cve.get("id", ""))):
        return Problem(place, "expected 'cve' with an 'id'")
    score, vector, source = _best_metric(cve.get("metrics"))
    texts = cve.get("descriptions")
    english = (
        str(text.get("value", ""))
        for text in (texts if isinstance(texts, list) else [])
        if isinstance(text, dict) and text.get("lang") == "en"
    )
    return CveFacts(
        cve=str(cve["id"]),
        score=score,
        vector=vector,
        scored_by=source,
        published=str(cve.get("published") or "")[:10],
        modified=str(cve.get("lastModified") or ""),
        summary=next(english, ""),
    )


def _best_metric(metrics: Any) -> tuple[float | None, str, str]:
    """Score, vector and whose it is: of NVD before that of others, by the version of CVSS."""
    if not isinstance(metrics, dict):
        return None, "", ""
    for kind in _METRICS:
        found = metrics.get(kind)
        listed = [m for m in found if isinstance(m, dict)] if isinstance(found, list) else []
        for metric in sorted(listed, key=lambda m: m.get("type") != "Primary"):
            data = metric.get("cvssData")
            if isinstance(data, dict) and isinstance(data.get("baseScore"), (int, float)):
                vector = str(data.get("vectorString", ""))
                return float(data["baseScore"]), vector, str(metric.get("source", ""))
    return None, "", ""


def read_kev(path: Path, release: str, skip: int) -> Iterator[list[Record]]:  # noqa: ARG001
    """Read the catalogue of known exploited vulnerabilities; of some megabytes.

    Args:
        path: the file.
        release: not asked for.
        skip: so many entries are passed over.

    Raises:
        FeedError: it is no JSON, or not the catalogue.
    """
    try:
        value = orjson.loads(read_whole(path))
    except orjson.JSONDecodeError as error:
        raise FeedError(
            f"{path}: line {error.lineno}: not JSON: {error.msg}; expected the whole catalogue"
        ) from error
    listed = value.get("vulnerabilities") if isinstance(value, dict) else None
    if not isinstance(listed, list):
        raise FeedError(f"{path}: no 'vulnerabilities'; expected the catalogue (KEV)")
    for i, entry in enumerate(listed):
        if i < skip:
            continue
        cves = find_cves(str(entry.get("cveID", ""))) if isinstance(entry, dict) else ()
        if not cves:
            yield [Problem(f"vulnerabilities[{i}]", "expected 'cveID' with a CVE")]
            continue
        ransomware = str(entry.get("knownRansomwareCampaignUse", "")).lower() == "known"
        added, due = str(entry.get("dateAdded", "")), str(entry.get("dueDate", ""))
        yield [Exploited(cves[0], added, due, ransomware)]


def read_epss(path: Path, release: str, skip: int) -> Iterator[list[Record]]:  # noqa: ARG001
    """Read the day's scores, a line at a time.

    Args:
        path: the file.
        release: not asked for.
        skip: so many lines are passed over.
    """
    stream, reader = open_feed(path)
    done = 0
    with reader:
        for number, raw in enumerate(iter(lambda: reader.readline(4096), b""), 1):
            stream.mark()
            line = raw.decode("utf-8", "replace").strip()
            if not line or line.startswith(("#", "cve,")):
                continue
            done += 1
            if done > skip:
                yield [_epss_line(line, f"line {number}")]


def _epss_line(line: str, place: str) -> Record:
    parts = line.split(",")
    try:
        cve, probability, percentile = parts[0], float(parts[1]), float(parts[2])
    except (IndexError, ValueError):
        return Problem(place, "expected CVE,PROBABILITY,PERCENTILE")
    if not find_cves(cve) or not (0 <= probability <= 1 and 0 <= percentile <= 1):
        return Problem(place, "expected a CVE and numbers from 0 to 1")
    return Likelihood(cve, probability, percentile)
