"""The commands' end of the control socket."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from sensor.control import protocol
from sensor.errors import NotRootError, NotRunningError, ProtocolError, RoteError

_SECONDS = 30.0


class RemoteError(RoteError):
    """The daemon answered with an error; message and exit code are its own."""

    def __init__(self, message: str, code: int) -> None:
        super().__init__(message)
        self.exit_code = code


class Client:
    """Asks the daemon.

    Args:
        path: of its socket.
    """

    def __init__(self, path: Path) -> None:
        self._path = path

    def ask(self, verb: str, /, *, within: float = _SECONDS, **args: Any) -> Any:
        """The answer to one request.

        Args:
            verb: what to do.
            within: seconds that the daemon may take.
            args: of the verb.

        Raises:
            NotRunningError: no daemon answers.
            NotRootError: the socket is not ours to use.
            RemoteError: the daemon refuses, with its reason.
        """
        with self._connect(within) as connection:
            self._request(connection, verb, args)
            return self._read(connection)["result"]

    def stream(self, verb: str, /, **args: Any) -> Iterator[Any]:
        """The items of an answer that goes on; ends when the daemon ends it.

        Raises:
            NotRunningError: no daemon answers, or it stopped meanwhile.
        """
        with self._connect(None) as connection:
            self._request(connection, verb, args)
            while True:
                message = self._read(connection)
                if "item" not in message:
                    return
                yield message["item"]

    def _connect(self, seconds: float | None) -> socket.socket:
        connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        connection.settimeout(seconds)
        try:
            connection.connect(str(self._path))
        except PermissionError as error:
            connection.close()
            raise NotRootError(f"{self._path}: permission denied; rote must run as root") from error
        except OSError as error:
            connection.close()
            raise NotRunningError(
                f"{self._path}: no daemon answers ({error.strerror}); start one: rote run"
            ) from error
        return connection

    def _request(self, connection: socket.socket, verb: str, args: dict[str, Any]) -> None:
        message = {"version": protocol.VERSION, "verb": verb, "args": args}
        try:
            connection.sendall(protocol.encode(message))
        except OSError as error:
            raise NotRunningError(f"{self._path}: {error.strerror}") from error

    def _read(self, connection: socket.socket) -> dict[str, Any]:
        header = self._exactly(connection, protocol.HEADER_BYTES)
        size = protocol.body_size(header, protocol.ANSWER_MAX)
        message = protocol.decode(self._exactly(connection, size))
        if "error" in message:
            raise RemoteError(str(message["error"]), int(message.get("code", 1)))
        if "item" not in message and "result" not in message:
            raise ProtocolError(f"{self._path}: expected an answer of the daemon")
        return message

    def _exactly(self, connection: socket.socket, size: int) -> bytes:
        data = bytearray()
        while len(data) < size:
            try:
                part = connection.recv(min(size - len(data), 1 << 20))
            except TimeoutError as error:
                raise NotRunningError(
                    f"{self._path}: the daemon did not answer within "
                    f"{connection.gettimeout() or 0:.0f} s"
                ) from error
            except OSError as error:
                raise NotRunningError(f"{self._path}: {error.strerror}") from error
            if not part:
                raise NotRunningError(f"{self._path}: the daemon closed the connection")
            data += part
        return bytes(data)
