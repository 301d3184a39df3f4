"""Places on loopback that alerts can really be sent to."""

from __future__ import annotations

import socket
import ssl
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any


class HttpSink:
    """An HTTP server that keeps what it was sent and answers as it is told.

    Args:
        answer: gives status, headers and body for the number of the request, from 0 on; a status
            of 0 is no answer at all.
    """

    def __init__(
        self,
        answer: Callable[[int], tuple[int, dict[str, str], bytes]] = lambda _: (200, {}, b"ok"),
    ) -> None:
        self.answer = answer
        self.requests: list[tuple[str, str, dict[str, str], bytes]] = []
        self.lock = threading.Lock()
        self.released = threading.Event()  # for requests that are not answered
        sink = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
                with sink.lock:
                    number = len(sink.requests)
                    sink.requests.append((self.command, self.path, dict(self.headers), body))
                status, headers, text = sink.answer(number)
                if status == 0:
                    sink.released.wait(30)
                    return
                self.send_response(status)
                for name, value in headers.items():
                    self.send_header(name, value)
                self.send_header("Content-Length", str(len(text)))
                self.end_headers()
                self.wfile.write(text)

            do_PUT = do_POST  # noqa: N815 - the name http.server asks for

            def log_message(self, *_: Any) -> None:
                """Say nothing."""

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.port = self._server.server_address[1]
        self.url = f"http://127.0.0.1:{self.port}"
        self._thread = threading.Thread(
            target=self._server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True
        )
        self._thread.start()

    def close(self) -> None:
        """Stop."""
        self.released.set()
        self._server.shutdown()
        self._server.server_close()


@contextmanager
def http_sink(
    answer: Callable[[int], tuple[int, dict[str, str], bytes]] = lambda _: (200, {}, b"ok"),
) -> Iterator[HttpSink]:
    """An HTTP server for a while."""
    sink = HttpSink(answer)
    try:
        yield sink
    finally:
        sink.close()


class Listener:
    """A TCP server that takes one connection after the other and keeps what it reads.

    Args:
        context: speaks TLS with it.
        silent: takes connections and never says or reads anything.
    """

    def __init__(self, context: ssl.SSLContext | None = None, *, silent: bool = False) -> None:
        self.received: list[bytes] = []
        self._context = context
        self._silent = silent
        self._held: list[socket.socket] = []
        self._socket = socket.create_server(("127.0.0.1", 0))
        self.port = self._socket.getsockname()[1]
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    def _serve(self) -> None:
        while True:
            try:
                connection, _ = self._socket.accept()
            except OSError:
                return  # closed: the end
            if self._silent:
                self._held.append(connection)
                continue
            self._read(connection)

    def _read(self, connection: socket.socket) -> None:
        data = b""
        try:
            if self._context is not None:
                connection = self._context.wrap_socket(connection, server_side=True)
            with connection:
                while part := connection.recv(65536):
                    data += part
        except OSError:
            return  # a client that does not trust us
        self.received.append(data)

    def close(self) -> None:
        """Stop."""
        self._socket.shutdown(socket.SHUT_RDWR)
        self._socket.close()
        self._thread.join(5)
        for connection in self._held:
            connection.close()


CERTIFICATE = Path(__file__).parent / "localhost.pem"  # of localhost and 127.0.0.1, till 2119


def tls_server() -> ssl.SSLContext:
    """A server with CERTIFICATE, which vouches for itself."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(CERTIFICATE)
    return context
