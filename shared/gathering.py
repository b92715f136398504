"""Reads together what several ask for at the same time: one read for all that wait, begun after the last of them has asked."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Collection, Hashable, Mapping
from typing import Generic, TypeVar

from shared import tasks
from shared.errors import Unavailable

K = TypeVar("K", bound=Hashable)
V = TypeVar("V")


class Gathered(Generic[K, V]):
    """Values by key, as they are after they were asked for: no read that began before a question answers it.

    One read is under way at a time; who asks meanwhile waits for the next, which reads each key once. Its creator must `close` it.
    """

    def __init__(self, read: Callable[[Collection[K]], Awaitable[Mapping[K, V]]], *, within: float) -> None:
        """Read by `read`, which has so many seconds: one that hangs must not hold up for ever those who ask next."""
        self._read = read
        self._within = within
        self._waiting: dict[K, list[asyncio.Future[V | None]]] = {}
        self._reading: asyncio.Task[None] | None = None

    async def of(self, key: K) -> V | None:
        """Return the value of a key, None where there is none. Raises what the read has raised, `Unavailable` without an answer."""
        answer: asyncio.Future[V | None] = asyncio.get_running_loop().create_future()
        self._waiting.setdefault(key, []).append(answer)
        if self._reading is None:
            self._reading = asyncio.create_task(self._go_on())
        return await answer

    async def close(self) -> None:
        """End what is under way; who waits for it is cancelled."""
        if self._reading is not None:
            await tasks.end([self._reading])

    async def _go_on(self) -> None:
        asked: dict[K, list[asyncio.Future[V | None]]] = {}
        try:
            while self._waiting:
                asked, self._waiting = self._waiting, {}
                await self._answer(asked)
        finally:
            self._reading = None
            for answers in (*asked.values(), *self._waiting.values()):
                for answer in answers:
                    answer.cancel()  # which does nothing to those that are there

    async def _answer(self, asked: Mapping[K, list[asyncio.Future[V | None]]]) -> None:
        found: Mapping[K, V] = {}
        failure: Exception | None = None
        try:
            async with asyncio.timeout(self._within):
                found = await self._read(asked.keys())
        except TimeoutError:
            failure = Unavailable("there was no answer in time")
        except Exception as error:
            failure = error
        for key, answers in asked.items():
            for answer in answers:
                if answer.done():
                    continue
                if failure is None:
                    answer.set_result(found.get(key))
                else:
                    answer.set_exception(failure)
