"""A process that reads a key of a cache many times at once: `python -m tests.support.cache_reader URL READERS SECONDS LEASE FRESH`.

For each line that comes it reads as often as it is told, and says so: `work ATTEMPT` whenever it works the answer out, which takes
some seconds, and in the end `read` with the number of its readers that had each answer.
"""

from __future__ import annotations

import asyncio
import os
import sys
import time
from collections import Counter

import msgspec

from shared.bus import connected
from shared.cache import Cache, Terms, Worked
from shared.errors import MillraceError
from shared.health import Health
from tests.support.contender import say


async def read(url: str, readers: int, seconds: float, lease: int, fresh: float) -> None:
    """Read for each line that comes."""
    terms = Terms(fresh=fresh, stale=0, limit=120)
    loop, lines = asyncio.get_running_loop(), asyncio.StreamReader()
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(lines), sys.stdin)

    async def work(attempt: str) -> Worked:
        say(f"work {attempt}")
        await asyncio.sleep(seconds)
        return Worked(msgspec.Raw(msgspec.json.encode(attempt)), time.time())

    async def one(cache: Cache) -> str:
        try:
            return bytes((await cache.get("default", "options", terms, work, wait=120)).value).decode()
        except MillraceError as error:
            return error.detail

    async with connected(url, service="gateway", health=Health("gateway")) as bus:
        cache = Cache(bus.client, "gateway", "read", Health("gateway"), lease=lease)
        say(f"ready {os.getpid()}")
        while await lines.readline():
            found = Counter(await asyncio.gather(*(one(cache) for _ in range(readers))))
            say("read " + msgspec.json.encode(found).decode())
        await cache.close()


if __name__ == "__main__":
    asyncio.run(read(sys.argv[1], int(sys.argv[2]), float(sys.argv[3]), int(sys.argv[4]), float(sys.argv[5])))
