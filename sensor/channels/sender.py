"""What a channel's own code does, and how its blocking parts are kept from holding up others."""

from __future__ import annotations

import asyncio
import contextlib
import os
import ssl
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol, TypeVar

from sensor.audits.formats import escape
from sensor.channels.files import ChannelConfig
from sensor.channels.message import Message
from sensor.channels.secrets import Secret, Url, shown
from sensor.errors import DeliveryError, SecretError

T = TypeVar("T")
_ERROR_MAX = 300


class Sender(Protocol):
    """Delivers the messages of one channel, one at a time."""

    async def send(self, message: Message) -> str:
        """Deliver; returns when the other side has it. May be cancelled.

        Returns:
            What was wrong all the same, or nothing.

        Raises:
            DeliveryError: it was not taken.
            SecretError: a secret is missing.
        """

    async def close(self) -> None:
        """Let go of connections."""


class Worker:
    """Runs blocking calls of one channel in a thread that nobody waits for at the end.

    The threads of asyncio's own pool are waited for when the daemon stops, and a pool is full
    after a few calls that hang.
    """

    def __init__(self) -> None:
        self._thread: threading.Thread | None = None

    async def run(self, function: Callable[[], T], *, abort: Callable[[], None] | None = None) -> T:
        """Call in a thread.

        Args:
            function: what may block.
            abort: makes it return, called when the caller is cancelled.

        Raises:
            DeliveryError: the call before this one still hangs.
        """
        if self._thread is not None and self._thread.is_alive():
            self._thread.join(0.05)
            if self._thread.is_alive():
                raise DeliveryError("the attempt before still hangs")
        loop = asyncio.get_running_loop()
        future: asyncio.Future[T] = loop.create_future()

        def finish(result: T | None, error: BaseException | None) -> None:
            if future.done():
                return
            if error is not None:
                future.set_exception(error)
            else:
                future.set_result(result)  # type: ignore[arg-type]

        def work() -> None:
            result, problem = None, None
            try:
                result = function()
            except Exception as error:  # noqa: BLE001 - raised where it is awaited
                problem = error
            with contextlib.suppress(RuntimeError):  # the loop is closed: nobody waits any more
                loop.call_soon_threadsafe(finish, result, problem)

        self._thread = threading.Thread(target=work, name="rote-channel", daemon=True)
        self._thread.start()
        try:
            return await future
        except asyncio.CancelledError:
            if abort is not None:
                abort()
            raise


def tls_context(ca_file: Path | None) -> ssl.SSLContext:
    """A context that verifies certificate and name.

    Args:
        ca_file: whom to trust; the system's authorities where there is none.

    Raises:
        DeliveryError: the file cannot be used.
    """
    try:
        return ssl.create_default_context(cafile=str(ca_file) if ca_file else None)
    except (OSError, ssl.SSLError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise DeliveryError(f"{ca_file}: {reason}; expected certificates as PEM") from error


def reason(error: BaseException) -> str:
    """Why something of the network failed, in a few words."""
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"TLS: {error.verify_message}"
    if isinstance(error, ssl.SSLError):
        return f"TLS: {error.reason or error}"
    if isinstance(error, TimeoutError):
        return "no answer in time"
    if isinstance(error, OSError) and error.errno is not None and error.errno > 0:
        return os.strerror(error.errno)  # asyncio puts addresses into the text of its own
    if isinstance(error, OSError) and error.strerror:
        return error.strerror  # of looking up a name
    return str(error) or type(error).__name__


def masked(text: str, channel: ChannelConfig) -> str:
    """A line to show: without the secrets of the channel, without control characters, short."""
    for value in _hidden(channel):
        text = text.replace(value[0], value[1])
    text = escape(text)
    return text if len(text) <= _ERROR_MAX else text[:_ERROR_MAX] + "…"


def _hidden(channel: ChannelConfig) -> list[tuple[str, str]]:
    found = []
    for secret in channel.secrets():
        with contextlib.suppress(SecretError):  # what cannot be read cannot be shown either
            found.append((secret.read(), "***"))
    url: Any = getattr(channel, "url", None)
    if isinstance(url, Url):
        whole = url.read()
        found.append((whole, channel.target()))
        path = whole.partition("://")[2].partition("/")[2]
        found += [(path, "…")] if len(path) > 3 else []
    return found


def read_address(address: Url | Secret) -> str:
    """The whole address.

    Raises:
        SecretError: it is not there.
    """
    return address.read().strip()


__all__ = [
    "Sender", "Worker", "masked", "read_address", "reason", "shown", "tls_context",
]  # fmt: skip
