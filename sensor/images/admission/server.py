"""The gate's end in the daemon: asked by hooks, answers ``allow`` or ``deny: MESSAGE``.

One connection a start, each answered by itself, so that none waits for another. The question is
``rote-gate 1 BYTES GATE`` and a line break, then the runtime's state as it gave it to the hook.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import re
import socket
import struct
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

from sensor.containers.container import Container
from sensor.containers.runtime import Gated
from sensor.errors import BadInputError, RoteError, StateError
from sensor.images.admission.facts import Facts, State, parse_state
from sensor.images.admission.start import Answer, Failure, Judge, Start

_log = logging.getLogger("rote.gate")
_HEAD = re.compile(rb"rote-gate 1 (\d{1,7})(?: ([a-z]{1,16}))?\n")
_STATE_MAX = 1 << 20
_QUESTION_SECONDS = 5.0
_MARGIN_SECONDS = 0.5
_MESSAGE_MAX = 2000
_BACKLOG = 512


@dataclass(slots=True)
class Counts:
    """What became of starts since the daemon began."""

    asked: int = 0
    allowed: int = 0
    refused: int = 0
    undecided: int = 0  # in time; what a rule, or the default, says was answered
    malformed: int = 0
    strangers: int = 0  # others than root
    gone: int = 0  # the hook was, before the answer
    held: int = 0  # now
    slowest_seconds: float = 0.0  # of being held
    all_seconds: float = 0.0


class GateServer:
    """Holds starts until they are judged.

    Args:
        path: of the socket.
        facts: who a container is.
        judge: decides.
        failure: what counts for a container that nobody decides about; None for a question that
            names none.
        admitted: told of what may go on, before it does; puts its model into the kernel.
        owner: the user that may ask; the daemon's own.
    """

    def __init__(
        self,
        path: Path,
        facts: Facts,
        judge: Judge,
        failure: Callable[[Container | None], Failure],
        admitted: Callable[[Container, int], object],
        *,
        owner: int | None = None,
    ) -> None:
        self._path = path
        self._facts = facts
        self._judge = judge
        self._failure = failure
        self._admitted = admitted
        self._owner = os.geteuid() if owner is None else owner
        self._server: asyncio.AbstractServer | None = None
        self.counts = Counts()

    async def start(self) -> None:
        """Begin to listen.

        Raises:
            StateError: the socket cannot be made.
        """
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
        umask = os.umask(0o177)
        try:
            self._path.unlink(missing_ok=True)
            listener.bind(str(self._path))
        except OSError as error:
            listener.close()
            raise StateError(
                f"{self._path}: {error.strerror}; expected to make the gate's socket there"
            ) from error
        finally:
            os.umask(umask)
        self._server = await asyncio.start_unix_server(
            self._serve, sock=listener, backlog=_BACKLOG, limit=_STATE_MAX
        )

    async def stop(self) -> None:
        """Stop listening. What is held then is answered by what was chosen for no answer."""
        if self._server is not None:
            self._server.close()
            self._path.unlink(missing_ok=True)

    def status(self) -> dict[str, object]:
        """For `rote status`."""
        return asdict(self.counts)

    async def ask_about(self, bundle: Path) -> Answer:
        """May the container of a bundle run? For a gate in this process; it holds the start."""
        self.counts.asked += 1
        self.counts.held += 1
        try:
            return await self._decide(State(bundle.name, 0, str(bundle)), "fanotify", os.getpid())
        finally:
            self.counts.held -= 1

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        began = time.monotonic()
        self.counts.held += 1
        try:
            pid, uid, _ = struct.unpack(
                "3i",
                writer.get_extra_info("socket").getsockopt(
                    socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i")
                ),
            )
            if uid != self._owner:
                self.counts.strangers += 1
                _log.warning("gate: pid %d of user %d may not ask; expected root", pid, uid)
                return
            answer = await self._answer(reader, pid)
            if answer is None:
                self.counts.gone += 1
                return
            await _send(writer, answer)
        except (ConnectionError, TimeoutError):
            self.counts.gone += 1
        finally:
            self.counts.held -= 1
            took = time.monotonic() - began
            self.counts.slowest_seconds = max(self.counts.slowest_seconds, took)
            self.counts.all_seconds += took
            writer.close()
            with contextlib.suppress(ConnectionError):
                await writer.wait_closed()

    async def _answer(self, reader: asyncio.StreamReader, asker: int) -> Answer | None:
        """The answer to one question; None: whoever asked has gone."""
        self.counts.asked += 1
        try:
            state, gate = await _question(reader)
        except (BadInputError, asyncio.IncompleteReadError, TimeoutError, ValueError) as error:
            self.counts.malformed += 1
            why = str(error) or "it did not arrive whole in time"
            return self._undecided(None, f"pid {asker} asked what is no question: {why}")
        judging = asyncio.create_task(self._decide(state, gate, asker))
        leaving = asyncio.create_task(reader.read(1))
        try:
            await asyncio.wait({judging, leaving}, return_when=asyncio.FIRST_COMPLETED)
            if not judging.done():
                _log.info("gate: start of %s was given up while it was judged", state.id[:12])
                return None
            return judging.result()
        finally:
            for task in (judging, leaving):
                task.cancel()
            await asyncio.gather(judging, leaving, return_exceptions=True)

    async def _decide(self, state: State, gate: str, asker: int) -> Answer:
        try:
            start, runtime = await self._facts.start(state, gate, asker)
        except RoteError as error:
            return self._undecided(None, f"container {state.id[:12]}: {error}")
        if runtime is not None:
            runtime.hold(start.container)
        try:
            answer = await self._judged(start)
            if answer.allow:
                self._let_go_on(start, runtime)
        finally:
            if runtime is not None:
                runtime.release(start.container.id)
        return answer

    async def _judged(self, start: Start) -> Answer:
        container = start.container
        failure = self._failure(container)
        name = container.name or container.short_id
        try:
            # The judge keeps the time itself, and says so in an audit; this is for its mistakes.
            async with asyncio.timeout(failure.seconds + _MARGIN_SECONDS):
                answer = await self._judge(start)
        except TimeoutError:
            return self._undecided(container, f"{name}: not decided within {failure.seconds:g} s")
        except RoteError as error:
            return self._undecided(container, f"{name}: {error}")
        except Exception:  # noqa: BLE001 - logged whole, and the start is answered
            _log.exception("gate: the judge made a mistake")
            return self._undecided(container, f"{name}: the judge made a mistake; see the log")
        if answer.allow:
            self.counts.allowed += 1
        else:
            self.counts.refused += 1
            _log.info("gate: refused %s (%s): %s", name, container.image.reference, answer.message)
        return answer

    def _let_go_on(self, start: Start, runtime: Gated | None) -> None:
        container = start.container
        # Known by its spec alone it would count as another one than its runtime will name.
        if runtime is None or not container.pid:
            return
        try:
            self._admitted(container, container.pid)
        except RoteError as error:
            _log.error("gate: %s: %s; its runtime's event counts", container.short_id, error)

    def _undecided(self, container: Container | None, why: str) -> Answer:
        failure = self._failure(container)
        self.counts.undecided += 1
        rule = f"rule {failure.rule}" if failure.rule else "no rule says otherwise"
        what = "it goes on" if failure.allow else "it is refused"
        _log.warning("gate: %s; %s: %s", why, what, rule)
        return Answer(failure.allow, f"nobody decided about this start ({why}); {what}: {rule}")


async def _question(reader: asyncio.StreamReader) -> tuple[State, str]:
    async with asyncio.timeout(_QUESTION_SECONDS):
        line = await reader.readline()
        head = _HEAD.fullmatch(line)
        if head is None:
            raise BadInputError(f"{line[:60]!r}: expected rote-gate 1, bytes and the gate")
        size = int(head[1])
        if size > _STATE_MAX:
            raise BadInputError(f"a state of {size} bytes; expected {_STATE_MAX} at most")
        return parse_state(await reader.readexactly(size)), (head[2] or b"hook").decode()


async def _send(writer: asyncio.StreamWriter, answer: Answer) -> None:
    text = "allow"
    if not answer.allow:
        words = "".join(c if c.isprintable() else " " for c in answer.message)
        text = f"deny: {' '.join(words.split()) or 'refused'}"[:_MESSAGE_MAX]
    async with asyncio.timeout(_QUESTION_SECONDS):
        writer.write(text.encode() + b"\n")
        await writer.drain()
