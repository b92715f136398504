"""Ends asyncio tasks for certain, and does the same for many things some at a time."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable
from typing import Any, TypeVar

_ASKED_EVERY = 0.25

A = TypeVar("A")
B = TypeVar("B")


async def end(tasks: Iterable[asyncio.Task[Any]]) -> None:
    """Cancel tasks and return when all have ended, however they did.

    Cancels again and again: `asyncio.wait_for` of Python 3.11, which nats-py uses, loses a cancellation that meets an answer.
    """
    pending = set(tasks)
    while pending:
        for task in pending:
            task.cancel()
        _, pending = await asyncio.wait(pending, timeout=_ASKED_EVERY)


async def each(at_once: int, items: Iterable[A], work: Callable[[A], Awaitable[B]]) -> list[B]:
    """Return the results of `work` for each item, in order, `at_once` at a time. Raises the first error of them."""
    left, found = list(items), list[B]()
    while left:
        now, left = left[:at_once], left[at_once:]
        found += await asyncio.gather(*map(work, now))
    return found
