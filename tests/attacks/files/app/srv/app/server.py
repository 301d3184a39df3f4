"""A small web application with a hole: /run and /eval do what they are told."""

import contextlib
import io
import os
import sqlite3
import subprocess
import time
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from socketserver import ForkingMixIn
from urllib.parse import parse_qs, urlsplit

DATA = Path("/srv/data")
LOG = Path("/var/log/app/access.log")


def _run(*command: str) -> str:
    result = subprocess.run(command, cwd=DATA / "uploads", capture_output=True, check=False)
    return (result.stdout + result.stderr).decode(errors="replace")


def _note(text: str) -> None:
    with sqlite3.connect(DATA / "notes.db") as database:
        database.execute("CREATE TABLE IF NOT EXISTS notes (text)")
        database.execute("INSERT INTO notes VALUES (?)", (text,))


class Handler(BaseHTTPRequestHandler):
    """One request, in a process of its own."""

    def do_GET(self) -> None:
        """What visitors ask for."""
        url = urlsplit(self.path)
        query = {name: values[0] for name, values in parse_qs(url.query).items()}
        upload = DATA / "uploads" / Path(query.get("name", "")).name
        now = time.time_ns()
        match url.path:
            case "/thumbnail":
                said = _run("sh", "/usr/local/bin/thumbnail.sh", str(upload))
            case "/report":
                said = _run("python3", "/srv/app/report.py")
            case "/backup":
                backup = DATA / f"backup/backup-{now}.tar.gz"
                said = _run("tar", "-czf", str(backup), "-C", str(DATA), "uploads")
            case "/fetch":
                said = _run("curl", "-s", "-o", str(DATA / f"cache/{now}.bin"), query["url"])
            case "/rotate":
                LOG.rename(f"{LOG}.1")
                said = "rotated"
            case _:
                _note(url.path)
                said = "hello"
        self._answer(said)

    def do_PUT(self) -> None:
        """An upload, or an archive of many."""
        url = urlsplit(self.path)
        content = self.rfile.read(int(self.headers["Content-Length"]))
        if url.path == "/import":
            archive = DATA / f"cache/import-{time.time_ns()}.tar"
            archive.write_bytes(content)
            said = _run("tar", "-xPf", str(archive))
        else:
            (DATA / "uploads" / Path(parse_qs(url.query)["name"][0]).name).write_bytes(content)
            said = "kept"
        self._answer(said)

    def do_POST(self) -> None:
        """The hole."""
        text = self.rfile.read(int(self.headers["Content-Length"])).decode()
        if self.path == "/run":
            result = subprocess.run(text, shell=True, capture_output=True, check=False)
            self._answer((result.stdout + result.stderr).decode(errors="replace"))
            return
        said = io.StringIO()
        with contextlib.redirect_stdout(said):
            try:
                exec(text, {"os": os, "subprocess": subprocess})
            except (OSError, ValueError) as error:
                said.write(repr(error))
        self._answer(said.getvalue())

    def _answer(self, said: str) -> None:
        with LOG.open("a") as log:
            log.write(f"{self.command} {self.path}\n")
        self.send_response(200)
        self.end_headers()
        self.wfile.write(f"{said}\n".encode())

    def log_message(self, *_: object) -> None:
        """Nothing to standard error: the log above is enough."""


class Server(ForkingMixIn, HTTPServer):
    """A process for each request."""


Server(("", 8080), Handler).serve_forever()
