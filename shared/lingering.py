"""Waits a little for further messages before a batch is handed out: it costs about as much as one message alone."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Iterator, Sequence

from nats.aio.msg import Msg

# Seconds after a message of a key in which its prompt one is expected. A run that takes longer, because it sleeps perhaps, does so
# whether the system is busy or not.
EXPECTED_FOR = 1.0


class Lingering:
    """The pause of a reader in which further messages may join the batch: up to `seconds`.

    A message of a type in `prompt`, the last one of its key, ends the pause at once where none is expected of another key: a run
    that goes on alone is handed out when it has ended, and under load the messages of many are, whichever came in time.
    """

    def __init__(self, seconds: float, prompt: frozenset[str] = frozenset()) -> None:
        self._seconds = seconds
        self._prompt = prompt
        # The time of the last message of each key of which a prompt one is expected, the oldest first.
        self._expected: dict[str, float] = {}
        self._hurried = 0
        self._hurry = asyncio.Event()

    @contextlib.contextmanager
    def hurried(self) -> Iterator[None]:
        """End the pause, and make none during the block: a caller waits for messages that are there already."""
        self._hurried += 1
        self._hurry.set()
        try:
            yield
        finally:
            self._hurried -= 1
            if not self._hurried:
                self._hurry.clear()

    async def gather(self, arrived: list[Msg], take: Callable[[float], Awaitable[list[Msg]]], most: int) -> None:
        """Add to `arrived` the messages that come in time, up to about `most`; `take` waits so many seconds for one."""
        loop = asyncio.get_running_loop()
        until = loop.time() + self._seconds
        seen = 0
        while True:
            self._note(arrived[seen:], loop.time())
            seen = len(arrived)
            left = until - loop.time()
            if left <= 0 or self._hurried or seen >= most or (self._prompt and not self._expected):
                return
            if len(self._expected) != 1:
                # No single message would end the pause.
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(left):
                        await self._hurry.wait()
                left = 0.0
            arrived += await take(left)

    def _note(self, came: Sequence[Msg], now: float) -> None:
        if not self._prompt:
            return
        for msg in came:
            noun, _, rest = msg.subject.partition(".")
            key, _, rest = rest.partition(".")
            self._expected.pop(key, None)
            # The noun without the number of a shard.
            if msg.data and f"{noun.partition('-')[0]}.{rest.partition('.')[0]}" not in self._prompt:
                self._expected[key] = now
        while self._expected and self._expected[first := next(iter(self._expected))] < now - EXPECTED_FOR:
            del self._expected[first]
