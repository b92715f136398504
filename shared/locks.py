"""Locks over all processes: leases on the bus, renewed while the work runs, given in the order of asking, each with a fence.

A lock is a subject of the bucket `locks`: whoever stores its message first holds it, and the broker forgets the message when its
holder stops renewing it. Whoever finds it taken stores a ticket beside it, and watches: places in the queue are the tickets'
sequences. The queue is a courtesy; who holds the lock is decided by compare-and-set alone. Of those who wait in one process only
the first is in that queue, since each in it hears of each: the others wait for it in the order in which they came.

A lease cannot keep a process that stood still from going on for a moment when it wakes. What needs more compares fences: each
holder's is higher than those of all before it, so that a store which remembers the highest can refuse the others
(https://martin.kleppmann.com/2016/02/08/how-to-do-distributed-locking.html).
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import math
import uuid
from collections.abc import AsyncIterator
from weakref import WeakValueDictionary

import msgspec
import nats.errors
from nats.aio.client import Client

from shared import tasks
from shared.errors import Conflict, MillraceError, Unavailable
from shared.expiring import MARKED, REQUEST, Expiring
from shared.ordered_reader import OrderedReader
from shared.pull import Delivered, StreamError
from shared.streams import LOCKS

# Seconds that a lease lasts without being renewed; whole ones, as the broker's time to live has them.
LEASE = 10
# Of these, the last part in which nobody relies on it: clocks of two machines do not run alike.
MARGIN = 0.1
# Seconds that each waiter has, when its turn has come, before the next one tries.
GRACE = 0.25
_STREAM = f"KV_{LOCKS}"


class LockLost(Unavailable):
    """The lease ended while the work ran: the work was cancelled, since somebody else may hold the lock."""


class _Lease(msgspec.Struct):
    """A lease as it stands on the bus: its holder's token, and the lock's name for people who look."""

    token: str
    name: str
    seconds: int


class _Held(msgspec.Struct):
    """A lock that was taken: the sequence of its newest message, and until when at first, by the clock of the event loop."""

    subject: str
    lease: _Lease
    fence: int
    sequence: int
    until: float


class Locks:
    """The locks of one service; `lease` in whole seconds."""

    def __init__(self, client: Client, service: str, *, lease: int = LEASE) -> None:
        self._client = client
        self._messages = Expiring(client, LOCKS)
        self._service = service
        self._lease = lease
        self._here: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()

    @contextlib.asynccontextmanager
    async def hold(self, name: str, *, wait: float) -> AsyncIterator[int]:
        """Hold the lock `name` within the block, which is given the fence: a number higher than that of every holder before.

        Raises `Conflict` where the lock is not free within `wait` seconds, `Unavailable` where the broker does not tell, and
        `LockLost` where the lease ends before the block does; the block is cancelled then.
        """
        here = self._here.setdefault(name, asyncio.Lock())
        until = asyncio.get_running_loop().time() + wait
        try:
            async with asyncio.timeout_at(until):
                await here.acquire()
        except TimeoutError as error:
            raise _not_free(name, wait) from error
        try:
            async with self._held(name, wait, until) as fence:
                yield fence
        finally:
            here.release()

    @contextlib.asynccontextmanager
    async def _held(self, name: str, wait: float, until: float) -> AsyncIterator[int]:
        held = await self._acquire(name, wait, until)
        bound = asyncio.timeout_at(held.until)
        try:
            async with bound:
                renewing = asyncio.create_task(self._renew(held, bound))
                try:
                    yield held.fence
                finally:
                    await tasks.end([renewing])
        except TimeoutError as error:
            if not bound.expired():
                raise
            raise LockLost(f"the lock {name!r} was lost: its lease ended before the work") from error
        finally:
            await self._free(held)

    async def _acquire(self, name: str, wait: float, until: float) -> _Held:
        lease = _Lease(token=uuid.uuid4().hex, name=name, seconds=self._lease)
        encoded = base64.urlsafe_b64encode(name.encode()).decode().rstrip("=")
        key = f"$KV.{LOCKS}.{self._service}.{encoded}"
        begun = asyncio.get_running_loop().time()
        with contextlib.suppress(Unavailable):  # the queue finds out whether it was stored
            if (held := await self._take(f"{key}.held", lease, 0)) is not None:
                return held
        queue = _Queue(self._client, key, lease.token)
        reading = asyncio.create_task(queue.read())
        try:
            await self._messages.put(queue.ticket, b"", seconds=math.ceil(wait) + self._lease)
            return await self._wait(queue, lease, begun, until)
        except TimeoutError as error:
            if queue.trouble is not None:
                raise Unavailable(f"the lock {name!r} cannot be had: {queue.trouble}") from error
            raise _not_free(name, wait) from error
        finally:
            await tasks.end([reading])
            # Nobody waits for these: tickets of the dead cost the others `GRACE` once.
            with contextlib.suppress(nats.errors.Error, OSError):
                for ticket in queue.passed:
                    await self._client.publish(ticket, b"", headers={"KV-Operation": "DEL", "Nats-TTL": f"{MARKED}s"})

    async def _wait(self, queue: _Queue, lease: _Lease, tried: float, deadline: float) -> _Held:
        """Return the lock when it is had, which was `tried` before. Raises `TimeoutError` at the deadline, and one more try."""
        loop = asyncio.get_running_loop()
        again = 0.0
        while True:
            queue.news.clear()
            if queue.holder is not None and queue.holder.token == lease.token:
                # The answer to an attempt was lost, which was stored.
                return _Held(queue.subject, lease, queue.sequence, queue.sequence, tried + self._safe)
            due = max(queue.due(), again)
            if queue.complete and due <= (now := loop.time()):
                tried, again = now, now + GRACE
                with contextlib.suppress(Unavailable):
                    # The mark that it is free, or the lease that ended, may be forgotten or not.
                    for expected in {queue.sequence, 0} if queue.holder is None else {0}:
                        if (held := await self._take(queue.subject, lease, expected)) is not None:
                            queue.passed += queue.ahead()
                            return held
            elif (timeout := (min(due, deadline) if queue.complete else deadline + REQUEST) - loop.time()) <= 0:
                raise TimeoutError
            else:
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(timeout):
                        await queue.news.wait()

    @property
    def _safe(self) -> float:
        return self._lease * (1 - MARGIN)

    async def _take(self, subject: str, lease: _Lease, expected: int) -> _Held | None:
        begun = asyncio.get_running_loop().time()
        sequence = await self._messages.put(subject, msgspec.json.encode(lease), seconds=self._lease, expected=expected)
        return None if sequence is None else _Held(subject, lease, sequence, sequence, begun + self._safe)

    async def _renew(self, held: _Held, bound: asyncio.Timeout) -> None:
        """Renew a lease again and again; where it is lost, the time of the block ends."""
        loop = asyncio.get_running_loop()
        document = msgspec.json.encode(held.lease)
        pause = self._lease / 3
        while True:
            await asyncio.sleep(pause)
            pause, begun = self._lease / 3, loop.time()
            # A broker that is away for less than the lease is long disturbs nobody.
            with contextlib.suppress(Unavailable):
                renewed = await self._messages.put(held.subject, document, seconds=self._lease, expected=held.sequence)
                if renewed is not None:
                    held.sequence = renewed
                    bound.reschedule(begun + self._safe)
                elif (newest := await self._newest(held)) is not None:
                    # An attempt before was stored, and its answer lost.
                    held.sequence, pause = newest, 0
                else:
                    bound.reschedule(loop.time())
                    return

    async def _newest(self, held: _Held) -> int | None:
        """Return the sequence of the lock's newest message if that is still this holder's."""
        sequence, document = await self._messages.get(held.subject)
        lease = _lease_of(document)
        return sequence if lease is not None and lease.token == held.lease.token else None

    async def _free(self, held: _Held) -> None:
        """Give a lock back; one that is not ours any more stays as it is. A broker that is away frees it in time."""
        with contextlib.suppress(MillraceError):
            await self._messages.remove(held.subject, expected=held.sequence)


class _Queue:
    """What a waiter sees of a lock: its holder and the tickets. `news` is set at every change."""

    def __init__(self, client: Client, key: str, token: str) -> None:
        self._client = client
        self._key = key
        self.subject = f"{key}.held"
        self.ticket = f"{key}.queue.{token}"
        self.news = asyncio.Event()
        self.complete = False
        self.holder: _Lease | None = None
        self.sequence = 0
        self.trouble: str | None = None
        # Tickets to take back at the end: the own one, and those of waiters who did not come in their turn.
        self.passed = [self.ticket]
        self._free_at = 0.0
        self._place = math.inf
        self._tickets: dict[str, int] = {}

    def ahead(self) -> list[str]:
        """Return the tickets before the own one."""
        return [ticket for ticket, sequence in self._tickets.items() if sequence < self._place]

    def due(self) -> float:
        """Return when it is this waiter's turn, unless there is news, by the clock of the event loop."""
        return self._free_at + GRACE * len(self.ahead())

    async def read(self) -> None:
        """Follow the lock for ever, also where the broker goes and comes back."""
        while True:
            reader = OrderedReader(self._client, _STREAM, filters=(f"{self._key}.>",), start="last_per_subject")
            try:
                batches = reader.batches()
                async with contextlib.aclosing(batches):
                    async for batch in batches:
                        for one in batch:
                            self._take(one)
                        # Since the own ticket is stored there is always one message.
                        self.complete = self.complete or self._place < math.inf
                        self.trouble = None
                        self.news.set()
            except (Unavailable, StreamError) as error:
                self.trouble = str(error)
            await asyncio.sleep(GRACE)

    def _take(self, one: Delivered) -> None:
        if one.subject != self.subject:
            if "KV-Operation" in one.headers:
                self._tickets.pop(one.subject, None)
            elif one.subject == self.ticket:
                self._place = one.sequence
            else:
                self._tickets[one.subject] = one.sequence
            return
        now = asyncio.get_running_loop().time()
        self.sequence, self.holder = one.sequence, _lease_of(one.data)
        self._free_at = now if self.holder is None else now + self.holder.seconds


def _not_free(name: str, wait: float) -> Conflict:
    return Conflict(f"the lock {name!r} was not free within {wait:g} s")


def _lease_of(document: bytes) -> _Lease | None:
    try:
        return msgspec.json.decode(document, type=_Lease)
    except msgspec.MsgspecError:
        return None
