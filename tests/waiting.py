"""Waiting with a deadline, for every test that has to wait for something real."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import TypeVar

Answer = TypeVar("Answer")


def wait_for(
    question: Callable[[], Answer], *, seconds: float, what: str, step: float = 0.1
) -> Answer:
    """Ask until the answer is true; return it.

    Raises:
        TimeoutError: the answer stayed false for ``seconds``; names ``what``.
    """
    deadline = time.monotonic() + seconds
    while True:
        answer = question()
        if answer:
            return answer
        if time.monotonic() > deadline:
            raise TimeoutError(f"{what}: not within {seconds:g} s; last answer: {answer!r}")
        time.sleep(step)


async def until(question: Callable[[], object], *, seconds: float = 20) -> None:
    """The same in an event loop that goes on meanwhile.

    Raises:
        TimeoutError: the answer stayed false for ``seconds``.
    """
    deadline = time.monotonic() + seconds
    while not question():
        if time.monotonic() > deadline:
            raise TimeoutError(f"not within {seconds:g} s: {question}")
        await asyncio.sleep(0.01)
