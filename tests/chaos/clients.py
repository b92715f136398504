"""Stubborn clients: a request without an answer, or with one that may change, is made again until patience ends."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Iterable, Mapping
from typing import TypeVar

import aiohttp
import msgspec

# GitHub hangs up after so many seconds.
ANSWER_WITHIN = 10.0
# Between tries, in seconds; the last one goes on for ever.
DELAYS = (0.25, 0.5, 1.0, 2.0)
# A Retry-After beyond this is not waited for: the matrix wants to know when things work again.
LONGEST_DELAY = 5.0
# For how long one request is made again: longer than any recovery, so that a slow one is a slow one and not a refusal.
PATIENCE = 180.0

Item = TypeVar("Item")


class Tries(msgspec.Struct):
    """What one request met before its answer: answers 503 and the like, none at all, and both by name."""

    unavailable: int = 0
    unanswered: int = 0
    met: dict[str, int] = {}


class Answer(msgspec.Struct, frozen=True):
    """The answer that ended a request."""

    status: int
    body: bytes


async def paced(items: Iterable[Item], rate: float) -> AsyncIterator[Item]:
    """Yield `rate` items a second, whatever becomes of those before."""
    loop = asyncio.get_running_loop()
    began = loop.time()
    for number, item in enumerate(items):
        # A steady flow is made by the clock: nothing else says when the next one is due.
        await asyncio.sleep(max(0.0, began + number / rate - loop.time()))
        yield item


async def insist(
    session: aiohttp.ClientSession,
    url: str,
    body: bytes | None,
    headers: Mapping[str, str],
    tries: Tries,
    *,
    also: frozenset[int] = frozenset(),
) -> Answer | None:
    """Post until there is an answer that more patience would not change; None when patience ends.

    Such are all below 500 but 429 and those in `also`. `tries` counts what was met meanwhile.
    """
    met: Counter[str] = Counter()
    try:
        async with asyncio.timeout(PATIENCE):
            while True:
                delay = DELAYS[min(met.total(), len(DELAYS) - 1)]
                try:
                    async with session.post(
                        url, data=body, headers=headers, timeout=aiohttp.ClientTimeout(total=ANSWER_WITHIN)
                    ) as response:
                        answer = await response.read()
                        if response.status < 500 and response.status not in {429, *also}:
                            return Answer(response.status, answer)
                        met[str(response.status)] += 1
                        tries.unavailable += 1
                        asked = response.headers.get("Retry-After", "")
                        if asked.isdecimal():
                            delay = max(delay, min(float(asked), LONGEST_DELAY))
                except (aiohttp.ClientError, OSError, TimeoutError) as error:
                    met[type(error).__name__] += 1
                    tries.unanswered += 1
                await asyncio.sleep(delay)
    except TimeoutError:
        return None
    finally:
        tries.met = dict(met)
