"""The daemon's end of the control socket."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import socket
import struct
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

from sensor.control import protocol
from sensor.errors import ProtocolError, RoteError, StateError

_log = logging.getLogger("rote.control")
_REQUEST_SECONDS = 10.0
_SEND_SECONDS = 30.0
_CONNECTIONS_MAX = 64

Handler = Callable[[dict[str, Any]], Any]


class ControlServer:
    """Answers requests on a Unix socket, from root only.

    Args:
        path: of the socket.
        handlers: verb → function of the arguments. It may return a value, an awaitable, or an
            asynchronous iterator whose items are streamed.
        owner: the user id that may ask; the daemon's own.
    """

    def __init__(
        self, path: Path, handlers: dict[str, Handler], *, owner: int | None = None
    ) -> None:
        self._path = path
        self._handlers = handlers
        self._owner = os.geteuid() if owner is None else owner
        self._server: asyncio.AbstractServer | None = None
        self._connections = 0
        self.refused = 0  # connections from others than the owner
        self.bad_requests = 0

    async def start(self) -> None:
        """Begin to listen. A stale socket is replaced: the daemon's lock says it is stale.

        Raises:
            StateError: the socket cannot be made.
        """
        try:
            self._path.unlink(missing_ok=True)
            listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
            umask = os.umask(0o177)
            try:
                listener.bind(str(self._path))
            finally:
                os.umask(umask)
        except OSError as error:
            raise StateError(
                f"{self._path}: {error.strerror}; expected to make the control socket there"
            ) from error
        self._server = await asyncio.start_unix_server(self._serve, sock=listener)

    async def stop(self) -> None:
        """Stop listening and remove the socket."""
        if self._server is not None:
            self._server.close()
            self._path.unlink(missing_ok=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._connections += 1
        try:
            await self._answer(reader, writer)
        except (ConnectionError, TimeoutError, asyncio.IncompleteReadError):
            self.bad_requests += 1  # went away or stalled; nobody is left to tell
        finally:
            self._connections -= 1
            writer.close()
            with contextlib.suppress(ConnectionError):
                await writer.wait_closed()

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            async with asyncio.timeout(_REQUEST_SECONDS):
                header = await reader.readexactly(protocol.HEADER_BYTES)
                size = protocol.body_size(header, protocol.REQUEST_MAX)
                body = await reader.readexactly(size)
            # Only now: closing on an unread request would reset the connection, reason and all.
            self._check_peer(writer)
            request = protocol.decode(body)
            handler = self._handler(request)
            answer = handler(request.get("args") or {})
            if isinstance(answer, AsyncIterator):
                async with contextlib.aclosing(answer) as items:  # type: ignore[type-var]
                    async for item in items:
                        await self._send(writer, {"item": item})
                        if reader.at_eof():
                            return
                answer = None
            elif isinstance(answer, Awaitable):
                answer = await answer
            await self._send(writer, {"result": answer})
        except RoteError as error:
            if isinstance(error, ProtocolError):
                self.bad_requests += 1
            await self._send(writer, {"error": str(error), "code": error.exit_code})
        except (ConnectionError, TimeoutError, asyncio.IncompleteReadError):
            raise
        except Exception:  # noqa: BLE001 - logged whole, and answered
            # The daemon must outlive a mistake in a command; the log has the whole of it.
            _log.exception("a command failed")
            await self._send(
                writer, {"error": "the daemon made a mistake; its log has the details", "code": 1}
            )

    def _check_peer(self, writer: asyncio.StreamWriter) -> None:
        if self._connections > _CONNECTIONS_MAX:
            raise ProtocolError(f"control socket: more than {_CONNECTIONS_MAX} connections")
        peer = writer.get_extra_info("socket").getsockopt(
            socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i")
        )
        pid, uid, _ = struct.unpack("3i", peer)
        if uid != self._owner:
            self.refused += 1
            _log.warning("control socket: refused pid %d of user %d", pid, uid)
            raise ProtocolError(f"control socket: user {uid} may not ask; expected root")

    def _handler(self, request: dict[str, Any]) -> Handler:
        if request.get("version") != protocol.VERSION:
            raise ProtocolError(
                f"control protocol {request.get('version')!r}; this daemon speaks "
                f"{protocol.VERSION}: use the rote of the daemon's version"
            )
        verb = request.get("verb")
        handler = self._handlers.get(verb) if isinstance(verb, str) else None
        if handler is None:
            raise ProtocolError(
                f"control verb {verb!r}: expected one of {', '.join(sorted(self._handlers))}"
            )
        if not isinstance(request.get("args") or {}, dict):
            raise ProtocolError(f"control verb {verb}: args: expected a map")
        return handler

    async def _send(self, writer: asyncio.StreamWriter, message: dict[str, Any]) -> None:
        async with asyncio.timeout(_SEND_SECONDS):
            writer.write(protocol.encode(message))
            await writer.drain()
