"""Who asks for the same thing over HTTP again and again, on connections that are kept, and waits for each answer."""

from __future__ import annotations

import asyncio
import time
from collections import deque

import msgspec

from bench.support.connection import Connection, Post
from bench.support.outcome import BenchError

WITHIN = 90.0


class Answer(msgspec.Struct, frozen=True):
    """One answer: when it was asked for and when it came, in seconds of a clock of this process."""

    body: bytes
    asked: float
    answered: float

    @property
    def milliseconds(self) -> float:
        """Return how long it took."""
        return (self.answered - self.asked) * 1000


class Callers:
    """Calls one endpoint; any status but `expected` is an error."""

    def __init__(self, post: Post, expected: int) -> None:
        self._post = post
        self._encoded = post.encoded()
        self._expected = expected
        self._free: deque[tuple[Connection, list[asyncio.Future[bytes]]]] = deque()

    async def call(self) -> Answer:
        """Call once. Raises `BenchError`."""
        connection, waiting = self._free.popleft() if self._free else await self._opened()
        answer: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()
        waiting.append(answer)
        asked = time.perf_counter()
        connection.send(self._encoded)
        try:
            async with asyncio.timeout(WITHIN):
                body = await answer
        except TimeoutError as error:
            raise BenchError(f"{self._post.url} was not answered within {WITHIN:g} s") from error
        answered = time.perf_counter()
        self._free.append((connection, waiting))
        return Answer(body, asked, answered)

    async def many(self, count: int, in_flight: int) -> list[Answer]:
        """Call so many times, so many at a time."""
        left = count
        answers: list[Answer] = []

        async def keep_calling() -> None:
            nonlocal left
            while left > 0:
                left -= 1
                answers.append(await self.call())

        async with asyncio.TaskGroup() as group:
            for _ in range(in_flight):
                group.create_task(keep_calling())
        return answers

    def close(self) -> None:
        """Close all connections."""
        for connection, _ in self._free:
            connection.close()
        self._free.clear()

    async def _opened(self) -> tuple[Connection, list[asyncio.Future[bytes]]]:
        waiting: list[asyncio.Future[bytes]] = []

        def answered(status: int, body: bytes) -> None:
            answer = waiting.pop()
            if answer.done():
                return
            if status == self._expected:
                answer.set_result(body)
            else:
                answer.set_exception(BenchError(f"{self._post.url} was answered {status}: {body[:500].decode(errors='replace')}"))

        def lost() -> None:
            # One that nobody uses is closed after a while.
            self._free = deque(one for one in self._free if one[1] is not waiting)
            for answer in waiting:
                if not answer.done():
                    answer.set_exception(BenchError(f"{self._post.url}: the connection was closed"))

        return await Connection.open(self._post.url, answered, lost), waiting
