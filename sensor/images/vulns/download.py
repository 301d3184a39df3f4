"""Fetching a feed: only when it is another one, going on where an earlier try broke off."""

from __future__ import annotations

import http.client
import socket
import ssl
import urllib.error
import urllib.request
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass
from email.message import Message
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import orjson

from sensor import __version__
from sensor.errors import DownloadError
from sensor.images.vulns.sources import Sources

DOWNLOAD_MAX = 4 << 30
_CHUNK = 1 << 18
Received = Callable[[int, int], None]  # bytes so far, and of how many; 0: nobody said


@dataclass(frozen=True, slots=True)
class Fetched:
    """What became of a request.

    Attributes:
        file: where it lies; None when it is the one we have.
        etag: what to ask by the next time; "" without.
        last_modified: the same.
    """

    file: Path | None
    etag: str = ""
    last_modified: str = ""


class _NoDowngrade(urllib.request.HTTPRedirectHandler):
    """Follows redirections, but never from https to http."""

    def redirect_request(  # noqa: PLR0917 - the library's
        self, req: urllib.request.Request, fp: Any, code: int, msg: str, headers: Any, newurl: str
    ) -> urllib.request.Request | None:
        parts = urlsplit(newurl)
        if parts.scheme not in ("http", "https") or (
            urlsplit(req.full_url).scheme == "https" and parts.scheme != "https"
        ):
            fp.close()
            raise DownloadError(f"{req.full_url}: sends us to {newurl}; expected https")
        return super().redirect_request(req, fp, code, msg, headers, newurl)


def make_opener(sources: Sources) -> urllib.request.OpenerDirector:
    """What requests are made with.

    Raises:
        DownloadError: the file of certificates cannot be used.
    """
    try:
        context = ssl.create_default_context(cafile=sources.ca_file)
    except OSError as error:  # ssl's own errors are of this kind too
        raise DownloadError(
            f"{sources.ca_file}: {error.strerror or error}; expected certificates (PEM)"
        ) from error
    proxies: dict[str, str] | None = None  # the environment's
    if sources.proxy:
        scheme = {} if sources.proxy == "none" else dict.fromkeys(("http", "https"), sources.proxy)
        proxies = scheme
    return urllib.request.build_opener(
        urllib.request.ProxyHandler(proxies),
        urllib.request.HTTPSHandler(context=context),
        _NoDowngrade(),
    )


def fetch(
    opener: urllib.request.OpenerDirector,
    url: str,
    target: Path,
    *,
    etag: str = "",
    last_modified: str = "",
    timeout: float = 60.0,
    received: Received | None = None,
) -> Fetched:
    """Fetch a file.

    Args:
        opener: see ``make_opener``.
        url: http or https.
        target: where it is put; until it is whole, beside that with ``.part`` behind the name.
        etag: of the one we have.
        last_modified: of the one we have.
        timeout: seconds without a byte.
        received: is told now and then how far it is.

    Raises:
        DownloadError: one line with the address and what the other side said. What has come so
            far is kept for the next time where the server can go on.
    """
    part = target.with_name(target.name + ".part")
    note = target.with_name(target.name + ".part.json")
    request = urllib.request.Request(url, headers=_headers(etag, last_modified))  # noqa: S310
    if begun := _begun(part, note, url):
        size, validator = begun
        request.add_header("Range", f"bytes={size}-")
        request.add_header("If-Range", validator)
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with closing(opener.open(request, timeout=timeout)) as answer:
            found = Fetched(
                target, answer.headers.get("ETag", ""), answer.headers.get("Last-Modified", "")
            )
            resumed = answer.status == 206 and begun is not None
            if not resumed:
                _note(note, url, found, answer.headers)
            with part.open("ab" if resumed else "wb") as file:
                _receive(answer, file, url, begun[0] if resumed and begun else 0, received)
        part.replace(target)
        note.unlink(missing_ok=True)
    except urllib.error.HTTPError as error:
        with error:
            if error.code == 304:
                return Fetched(None, etag, last_modified)
            if error.code == 416:  # what is there is not what is asked for: begin anew
                part.unlink(missing_ok=True)
                note.unlink(missing_ok=True)
            raise DownloadError(f"{url}: HTTP {error.code} {error.reason}") from error
    except (urllib.error.URLError, http.client.HTTPException, OSError) as error:
        raise DownloadError(f"{url}: {_reason(error)}") from error
    return found


def _headers(etag: str, last_modified: str) -> dict[str, str]:
    # What comes packed is kept packed; the reader of the feed unpacks it.
    headers = {"User-Agent": f"rote/{__version__}", "Accept-Encoding": "gzip"}
    if etag:
        headers["If-None-Match"] = etag
    if last_modified:
        headers["If-Modified-Since"] = last_modified
    return headers


def _begun(part: Path, note: Path, url: str) -> tuple[int, str] | None:
    """How much of a file is there, and by what to know that it still is the same one."""
    try:
        known = orjson.loads(note.read_bytes())
        size = part.stat().st_size
    except (OSError, ValueError):
        return None
    if not isinstance(known, dict) or known.get("url") != url or not known.get("validator"):
        return None
    return (size, str(known["validator"])) if size else None


def _note(note: Path, url: str, found: Fetched, headers: Message) -> None:
    # A weak tag says nothing of the bytes.
    validator = "" if found.etag.startswith("W/") else found.etag
    if not validator and not headers.get("Content-Encoding"):
        validator = found.last_modified
    note.write_bytes(orjson.dumps({"url": url, "validator": validator}))


def _receive(
    answer: http.client.HTTPResponse, file: Any, url: str, begun: int, received: Received | None
) -> None:
    length = answer.headers.get("Content-Length", "")
    whole = begun + int(length) if length.isdigit() else 0
    done = begun
    while data := answer.read(_CHUNK):
        file.write(data)
        done += len(data)
        if max(done, whole) > DOWNLOAD_MAX:
            raise DownloadError(f"{url}: more than {DOWNLOAD_MAX >> 30} GiB; expected a feed")
        if received is not None:
            received(done, whole)
    if whole and done < whole:
        raise DownloadError(f"{url}: broke off after {done} of {whole} bytes; try again to go on")


def _reason(error: BaseException) -> str:
    if isinstance(error, DownloadError):
        return str(error)
    if isinstance(error, urllib.error.URLError) and isinstance(error.reason, BaseException):
        return _reason(error.reason)
    if isinstance(error, socket.gaierror):
        return f"no such host: {error.strerror}"
    if isinstance(error, TimeoutError):
        return "does not answer in time"
    if isinstance(error, http.client.IncompleteRead):
        return f"broke off after {len(error.partial)} bytes"
    if isinstance(error, OSError):
        return error.strerror or str(error)
    return f"not HTTP: {type(error).__name__}"
