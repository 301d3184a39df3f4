"""Updating feeds: what is configured, conditional requests, broken downloads, proxies, mirrors."""

from __future__ import annotations

import gzip
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from sensor.errors import DownloadError, UsageError, YamlFileError
from sensor.images.vulns import download
from sensor.images.vulns.download import fetch, make_opener
from sensor.images.vulns.feeds.kinds import READERS
from sensor.images.vulns.sources import KNOWN, Sources, known_feed, read_sources
from sensor.images.vulns.update import Outcome, select, update
from tests.unit import feeds
from tests.unit.feeds import Host, as_json


@dataclass
class Mirror:
    """A server of feeds on loopback that can misbehave."""

    files: dict[str, bytes] = field(default_factory=dict)
    requests: list[tuple[str, dict[str, str]]] = field(default_factory=list)
    cut: int | None = None  # bytes after which an answer breaks off
    status: int = 0  # instead of an answer
    redirect: str = ""
    packed: bool = False
    url: str = ""

    def answer(self, request: BaseHTTPRequestHandler) -> None:
        """Serve one request."""
        path = request.path
        self.requests.append((path, dict(request.headers.items())))
        if self.status or self.redirect:
            request.send_response(self.status or 302)
            if self.redirect:
                request.send_header("Location", self.redirect)
            request.send_header("Content-Length", "0")
            request.end_headers()
            return
        content = self.files.get(path)
        if content is None:
            request.send_error(404)
            return
        if self.packed:
            content = gzip.compress(content, mtime=0)
        tag = f'"{len(content)}-{hash(content)}"'
        if request.headers.get("If-None-Match") == tag:
            request.send_response(304)
            request.end_headers()
            return
        begin = 0
        if request.headers.get("If-Range") == tag:
            begin = int(request.headers["Range"].removeprefix("bytes=").removesuffix("-"))
        request.send_response(206 if begin else 200)
        request.send_header("ETag", tag)
        request.send_header("Content-Length", str(len(content) - begin))
        if self.packed:
            request.send_header("Content-Encoding", "gzip")
        request.end_headers()
        request.wfile.write(content[begin:][: self.cut])
        if self.cut is not None:
            request.close_connection = True


@pytest.fixture
def mirror() -> Iterator[Mirror]:
    """Such a server."""
    made = Mirror()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            made.answer(self)

        def log_message(self, *_: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    made.url = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    yield made
    server.shutdown()
    server.server_close()
    thread.join()


@pytest.fixture
def host(tmp_path: Path) -> Host:
    """An empty store."""
    return Host(tmp_path)


def configured(directory: Path, text: str) -> Sources:
    """What a file says."""
    path = directory / "vulns.yaml"
    path.write_text(f"version: 1\n{text}\n")
    return read_sources(path)


def run(host: Host, sources: Sources, *names: str) -> list[Outcome]:
    """An update."""
    return list(update(host.store, sources, select(sources, names)))


def test_only_what_is_another_one_is_fetched(host: Host, mirror: Mirror) -> None:
    """The first time all of it; then a question; then all of it again when it changed."""
    mirror.files["/kev.json"] = as_json(feeds.KEV)
    sources = configured(host.directory, f"feeds: [{{name: kev, url: '{mirror.url}/kev.json'}}]")
    (first,) = run(host, sources)
    assert first.imported is not None
    assert (first.imported.records, first.imported.unchanged) == (2, False)
    before = host.store.feed("kev")
    (second,) = run(host, sources)
    assert second.imported is not None
    assert second.imported.unchanged
    after = host.store.feed("kev")
    assert before is not None
    assert after is not None
    assert after.checked_ns > before.checked_ns
    assert after.imported_ns == before.imported_ns
    assert "If-None-Match" in mirror.requests[1][1]
    mirror.files["/kev.json"] = as_json(
        {**feeds.KEV, "vulnerabilities": feeds.KEV["vulnerabilities"][:1]}
    )
    (third,) = run(host, sources)
    assert third.imported is not None
    assert (third.imported.records, third.imported.unchanged) == (1, False)
    assert list((host.directory / "vulns-downloads").iterdir()) == []


def test_what_comes_packed_is_read(host: Host, mirror: Mirror) -> None:
    """Servers pack what they send; the feed is the same."""
    mirror.files["/DSA"], mirror.packed = feeds.DSA.encode(), True
    sources = configured(host.directory, f"feeds: [{{name: debian-dsa, url: '{mirror.url}/DSA'}}]")
    (done,) = run(host, sources)
    assert done.error == ""
    assert host.of("deb", "dpkg", "1.19.7") == ["CVE-2022-1664"]


def test_a_download_that_broke_off_is_gone_on_with(host: Host, mirror: Mirror) -> None:
    """From where it was, if it still is the same file; what the feed said holds meanwhile."""
    content = mirror.files["/DSA"] = (feeds.DSA * 20).encode()
    sources = configured(
        host.directory, f"feeds: [{{name: dsa, kind: debian-list, url: '{mirror.url}/DSA'}}]"
    )
    mirror.cut = 1000
    (broken,) = run(host, sources)
    assert broken.imported is None
    assert broken.error == (
        f"{mirror.url}/DSA: broke off after 1000 of {len(content)} bytes; try again to go on"
    )
    feed = host.store.feed("dsa")
    assert feed is not None
    assert (feed.error, feed.checked_ns) == (broken.error, 0)
    mirror.cut = None
    (done,) = run(host, sources)
    assert done.imported is not None
    assert mirror.requests[1][1]["Range"] == "bytes=1000-"
    whole = host.everything()
    feed = host.store.feed("dsa")
    assert feed is not None
    assert feed.error == ""
    other = Host(host.directory / "other")
    other.put(content, "DSA")
    assert whole == other.everything()


def test_a_file_that_changed_meanwhile_is_begun_anew(host: Host, mirror: Mirror) -> None:
    """Never the beginning of one and the end of another."""
    mirror.files["/DSA"], mirror.cut = (feeds.DSA * 20).encode(), 1000
    sources = configured(
        host.directory, f"feeds: [{{name: dsa, kind: debian-list, url: '{mirror.url}/DSA'}}]"
    )
    run(host, sources)
    mirror.files["/DSA"], mirror.cut = feeds.DSA.encode(), None
    (done,) = run(host, sources)
    assert done.imported is not None
    assert done.imported.records == 4


def test_one_that_fails_does_not_stop_the_others(host: Host, mirror: Mirror) -> None:
    """It keeps what it said, and the reason is kept with it."""
    mirror.files["/kev"], mirror.files["/epss"] = as_json(feeds.KEV), feeds.EPSS.encode()
    sources = configured(
        host.directory,
        f"feeds:\n- {{name: kev, url: '{mirror.url}/kev'}}\n"
        f"- {{name: epss, url: '{mirror.url}/epss'}}",
    )
    assert [outcome.error for outcome in run(host, sources)] == ["", ""]
    mirror.files["/kev"] = b"<html>maintenance</html>"
    mirror.files["/epss"] = feeds.EPSS.replace("0.94", "0.95").encode()
    first, second = run(host, sources)
    assert "line 1: not JSON" in first.error
    assert second.imported is not None
    assert not second.imported.unchanged
    feed = host.store.feed("kev")
    assert feed is not None
    assert (feed.records, feed.error) == (2, first.error)
    del mirror.files["/kev"]
    assert run(host, sources, "kev")[0].error == f"{mirror.url}/kev: HTTP 404 Not Found"


@pytest.mark.parametrize(
    ("behaviour", "said"),
    [
        ({"status": 503}, "HTTP 503"),
        ({"redirect": "ftp://127.0.0.1/x"}, "sends us to ftp"),
        ({"redirect": "file:///etc/passwd"}, "file:///etc/passwd"),
    ],
)
def test_servers_that_misbehave(
    host: Host, mirror: Mirror, behaviour: dict[str, Any], said: str
) -> None:
    """One line with the address."""
    for name, value in behaviour.items():
        setattr(mirror, name, value)
    with pytest.raises(DownloadError, match=said) as caught:
        fetch(make_opener(Sources()), f"{mirror.url}/x", host.directory / "x")
    assert str(caught.value).startswith(f"{mirror.url}/x: ")


def test_nobody_there_and_more_than_anybody_has(
    host: Host, mirror: Mirror, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A port without a server; a file beyond the limit."""
    with pytest.raises(DownloadError, match=r"127\.0\.0\.1:1/x: Connection refused"):
        fetch(make_opener(Sources()), "http://127.0.0.1:1/x", host.directory / "x")
    mirror.files["/x"] = b"x" * 1000
    monkeypatch.setattr(download, "DOWNLOAD_MAX", 999)
    with pytest.raises(DownloadError, match="expected a feed"):
        fetch(make_opener(Sources()), f"{mirror.url}/x", host.directory / "x")


def test_a_redirection_is_followed(host: Host, mirror: Mirror) -> None:
    """As most feeds have one."""
    target = Mirror()
    target.files["/there"] = b"x"
    mirror.files["/there"] = b"content"

    original = mirror.answer

    def answer(request: BaseHTTPRequestHandler) -> None:
        mirror.redirect = f"{mirror.url}/there" if request.path == "/here" else ""
        original(request)

    mirror.answer = answer  # type: ignore[method-assign]
    found = fetch(make_opener(Sources()), f"{mirror.url}/here", host.directory / "x")
    assert found.file is not None
    assert found.file.read_bytes() == b"content"


def test_by_a_proxy(host: Host, mirror: Mirror) -> None:
    """The proxy is asked for the whole address."""
    mirror.files["http://feeds.invalid/kev.json"] = as_json(feeds.KEV)
    sources = configured(
        host.directory,
        f"proxy: '{mirror.url}'\nfeeds: [{{name: kev, url: 'http://feeds.invalid/kev.json'}}]",
    )
    (done,) = run(host, sources)
    assert done.error == ""
    assert mirror.requests[0][0] == "http://feeds.invalid/kev.json"


def test_by_a_mirror(host: Host, mirror: Mirror) -> None:
    """Known feeds are looked for below the mirror, by host and path of their own addresses."""
    own = known_feed("kev")[0].url.removeprefix("https:/")
    mirror.files[f"/feeds{own}"] = as_json(feeds.KEV)
    sources = configured(host.directory, f"mirror: '{mirror.url}/feeds'\nfeeds: [kev]")
    (done,) = run(host, sources)
    assert done.error == ""


def test_from_a_file(host: Host) -> None:
    """For hosts without a network; twice the same is once."""
    path = host.directory / "kev.json"
    path.write_bytes(as_json(feeds.KEV))
    sources = configured(host.directory, f"feeds: [{{name: kev, file: {path}, stale_after: 30d}}]")
    assert [outcome.error for outcome in run(host, sources)] == [""]
    (again,) = run(host, sources)
    assert again.imported is not None
    assert again.imported.unchanged
    feed = host.store.feed("kev")
    assert feed is not None
    assert feed.stale_seconds == 30 * 86400
    path.unlink()
    (gone,) = run(host, sources)
    assert "No such file" in gone.error


def test_known_feeds() -> None:
    """All of https, of kinds there are; names stand for one or several."""
    stands_for = {"YEAR": "2024", "vRELEASE": "v3.20", "ECOSYSTEM": "npm", "CODENAME": "sid"}
    names = [":".join(stands_for.get(part, part) for part in name.split(":")) for name in KNOWN]
    for name in names:
        found = known_feed(name)
        assert found, name
        assert all(s.url.startswith("https://") and s.kind in READERS for s in found)
    assert [s.name for s in known_feed("alpine:3.20")] == [
        "alpine-v3.20-main", "alpine-v3.20-community",
    ]  # fmt: skip
    assert known_feed("osv:Rocky Linux")[0].url.endswith("/Rocky%20Linux/all.zip")
    assert known_feed("nvd")[0].name == "nvd-2002"
    assert known_feed("debsecan:bookworm")[0].release == "bookworm"
    assert known_feed("nothing") == known_feed("osv") == ()


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("feeds: [kevv]", "did you mean 'kev'?"),
        ("feeds: [{name: x, url: 'ftp://x/y', kind: osv}]", "expected http://"),
        ("feeds: [{name: x, url: 'https://x/y'}]", "kind: missing"),
        ("feeds: [{name: x, file: rel.json, kind: osv}]", "a path from the root on"),
        ("feeds: [{name: nvd, url: 'https://x/y'}]", "stands for"),
        ("feeds: [{name: x, file: /a, url: 'https://x/y', kind: osv}]", "not both"),
        ("feeds: [kev, kev]", "stands there twice"),
        ("feed: [kev]", "did you mean 'feeds'?"),
        ("stale_after: soon", "duration 'soon'"),
        ("proxy: proxy.example", "expected http://"),
    ],
)
def test_a_bad_file_is_one_line_with_its_place(tmp_path: Path, text: str, said: str) -> None:
    """File, line, field, what was expected."""
    with pytest.raises(YamlFileError, match=r"vulns\.yaml:2: ") as caught:
        configured(tmp_path, text)
    assert said in str(caught.value)


def test_what_is_not_configured(host: Host) -> None:
    """No file configures nothing; a name that is not there is said; so are certificates."""
    assert read_sources(host.directory / "absent.yaml") == Sources()
    sources = configured(host.directory, "feeds: [kev]")
    with pytest.raises(UsageError, match="'epss': not configured; expected one of: kev"):
        select(sources, ["epss"])
    with pytest.raises(DownloadError, match="expected certificates"):
        make_opener(Sources(ca_file=host.directory / "absent.pem"))
