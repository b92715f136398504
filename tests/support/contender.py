"""A process that takes one lock again and again: `python -m tests.support.contender URL NAME LEASE`.

Prints `held FENCE` when it has the lock and frees it when a line comes; prints `lost` and ends when its lease ends before.
"""

from __future__ import annotations

import asyncio
import sys

from shared.bus import connected
from shared.locks import LockLost, Locks
from shared.service import Health


def say(line: str) -> None:
    """Write a line at once."""
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


async def contend(url: str, name: str, lease: int) -> None:
    """Take the lock for each line that comes, and say so."""
    loop, lines = asyncio.get_running_loop(), asyncio.StreamReader()
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(lines), sys.stdin)
    async with connected(url, service="executor", health=Health("executor")) as bus:
        locks, more = Locks(bus.client, "executor", lease=lease), True
        while more:
            try:
                async with locks.hold(name, wait=60) as fence:
                    say(f"held {fence}")
                    more = bool(await lines.readline())
            except LockLost:
                say("lost")
                more = False


if __name__ == "__main__":
    asyncio.run(contend(sys.argv[1], sys.argv[2], int(sys.argv[3])))
