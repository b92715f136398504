"""The locks that one attempt holds: leases that this process renews, and that end with the attempt, however that ends."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from shared import tasks
from shared.errors import Conflict, MillraceError, TooLarge
from shared.locks import LockLost, Locks

# Locks that one attempt may hold or wait for at a time.
MOST = 16


class HeldLocks:
    """The locks of one attempt, by the numbers that its child gave them. Its creator must `close` it."""

    def __init__(self, locks: Locks, org: str) -> None:
        self._locks = locks
        self._org = org
        self._held: dict[int, asyncio.Task[None]] = {}
        self._bound: asyncio.Timeout | None = None
        self._lost: LockLost | None = None

    @asynccontextmanager
    async def guard(self) -> AsyncIterator[None]:
        """Cancel the block when one of the locks is lost, and raise `LockLost` from it then."""
        try:
            async with asyncio.timeout(None) as self._bound:
                yield
        except TimeoutError:
            if self._lost is None or not self._bound or not self._bound.expired():
                raise
            raise self._lost from None

    async def hold(self, number: int, name: str, wait: float) -> dict[str, Any]:
        """Hold a lock of the organization; returns its fence. Raises `Conflict` where it is not free in time, `Unavailable`."""
        if number in self._held or len(self._held) >= MOST:
            raise TooLarge(f"one attempt holds, and waits for, {MOST} locks at a time at most")
        got: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        self._held[number] = asyncio.create_task(self._hold(name, wait, got))
        try:
            return {"fence": await got}
        except MillraceError:
            await self.free(number)
            raise

    async def free(self, number: int) -> None:
        """Give a lock back, or wait for it no more; when this returns the next one may have it."""
        if (held := self._held.pop(number, None)) is not None:
            await tasks.end([held])

    async def close(self) -> None:
        """Give all of them back."""
        held, self._held = list(self._held.values()), {}
        await tasks.end(held)

    async def _hold(self, name: str, wait: float, got: asyncio.Future[int]) -> None:
        try:
            async with self._locks.hold(f"of {self._org}: {name}", wait=wait) as fence:
                if got.cancelled():
                    return
                got.set_result(fence)
                await asyncio.Event().wait()
        except MillraceError as error:
            if isinstance(error, Conflict):
                # Its author knows the lock by another name.
                error = Conflict(f"the lock {name!r} was not free within {wait:g} s")
            if not got.done():
                got.set_exception(error)
            elif isinstance(error, LockLost) and self._bound is not None:
                self._lost = LockLost(f"the lock {name!r} was lost: its lease ended before the work")
                self._bound.reschedule(asyncio.get_running_loop().time())
