"""Pulling work: only when a sandbox is free, the higher priority first, without waiting in line for nothing."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Sequence
from contextlib import AsyncExitStack

import nats.errors
import structlog
from nats.aio.client import Client
from nats.aio.msg import Msg

from services.executor.runs.supervisor import GIVING_BACK, Runs
from shared import tasks
from shared.pull import EXPIRES, HEARTBEAT, Inbox, delivered, pull, status_of
from shared.streams import Work

# Time for the empty answer to a pull that does not wait.
ANSWER = 2.0
# A drain lets runs end by themselves for so long before it gives them back.
DRAIN = 3.0
_log = structlog.get_logger()


def in_turns(served: Sequence[Work]) -> list[list[Work]]:
    """Return the work in the orders in which it is asked for, one after the other: of the shards of one kind each is first once.

    Else those behind the first would get nothing as long as there is a backlog in it.
    """
    kinds = list(dict.fromkeys(work.first for work in served))
    shards = 1 + max((work.shard for work in served), default=0)
    return [sorted(served, key=lambda work: (kinds.index(work.first), (work.shard - first) % shards)) for first in range(shards)]


class Worker:
    """Keeps up to `slots` runs going, of the work that is `served`, the most urgent first.

    While all is idle a pull waits at the server for each of its consumers, so that work arrives at once; when a slot frees under
    load they are asked in order.
    """

    def __init__(self, client: Client, runs: Runs, slots: int, served: Sequence[Work], *, drain: float = DRAIN) -> None:
        """`drain`: seconds for which runs may go on once this executor is to stop."""
        self._client = client
        self._served = served
        self._turns = itertools.cycle(in_turns(served))
        self._drain = drain
        self._runs = runs
        self._slots = slots
        self._tasks: set[asyncio.Task[None]] = set()
        self._changed = asyncio.Event()
        self._is_leaving = False
        self.began = asyncio.Event()
        """Set when a run begins where none went on."""
        self._waiting: dict[str, float] = {}

    @property
    def taken(self) -> int:
        """Return how many slots are in use."""
        return len(self._tasks)

    @property
    def free(self) -> int:
        """Return how many more runs may begin."""
        return self._slots - len(self._tasks)

    def resize(self, slots: int) -> None:
        """Have so many slots from now on; what goes on in more of them ends by itself."""
        if not self._is_leaving:
            self._slots = slots
            self._changed.set()

    async def leave(self) -> None:
        """Begin nothing more, and let runs end for as long as the executor may take to stop; others get what comes.

        All else goes on meanwhile: runs can be cancelled, and projections go on.
        """
        self.resize(0)
        self._is_leaving = True
        if self._tasks and self._drain > DRAIN:
            await asyncio.wait(self._tasks, timeout=self._drain - DRAIN)

    async def run(self) -> None:
        """Pull and start work until cancelled."""
        async with AsyncExitStack() as stack:
            inboxes: dict[str, Inbox] = {}
            for work in self._served:
                inboxes[work.name] = await stack.enter_async_context(Inbox(self._client, self._changed))
            asking = await stack.enter_async_context(Inbox(self._client))
            await self._pull(inboxes, asking)

    async def drain(self) -> None:
        """Let runs end for a moment, and give back the rest; no more may begin."""
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=min(self._drain, DRAIN))
        for task in self._tasks:
            task.cancel()
        # Once: giving a run back takes its time, and a second cancellation would cut it off.
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=2 * GIVING_BACK)
        await tasks.end(self._tasks)

    async def _pull(self, inboxes: dict[str, Inbox], asking: Inbox) -> None:
        backlog = True
        while True:
            self._changed.clear()
            if self.free > 0 and backlog:
                backlog = await self._ask_in_order(asking)
                continue
            if self.free > 0:
                await self._wait_at_server(inboxes)
            await self._take_late(asking)
            for work in self._served:
                for msg in inboxes[work.name].arrived():
                    status = status_of(msg)
                    if status == "100":
                        self._waiting[work.name] = self._now() + 2 * HEARTBEAT
                        continue
                    self._waiting.pop(work.name, None)
                    if status == "503":
                        # No responders: a broker that has only just started, or whose consumer is gone.
                        self._waiting[work.name] = self._now() + HEARTBEAT
                    if status is not None:
                        continue
                    backlog = backlog or delivered(msg).pending > 0
                    await self._start_or_return(msg)
            if self.free > 0 and backlog:
                continue
            await self._until_changed()
            # A slot that was freed under load is offered in the order of priorities.
            backlog = backlog or self.free == 1

    async def _ask_in_order(self, asking: Inbox) -> bool:
        """Ask for as much as is free, without waiting; returns whether there may be more."""
        for work in next(self._turns):
            await self._take_late(asking)
            wanted = self.free
            if wanted <= 0:
                return True
            await pull(self._client, work.stream, work.name, asking.subject, wanted, no_wait=True)
            got = 0
            while got < wanted:
                answers = await asking.take(ANSWER)
                messages = [msg for msg in answers if status_of(msg) is None]
                for msg in messages:
                    await self._start_or_return(msg)
                got += len(messages)
                if len(messages) < len(answers) or not answers:
                    break
            if got >= wanted:
                return True
        return False

    async def _take_late(self, asking: Inbox) -> None:
        """Take the answer to a pull that was given up: dropped, no worker would get it until its acknowledgement wait is over."""
        for msg in asking.arrived():
            if status_of(msg) is None:
                await self._start_or_return(msg)

    async def _wait_at_server(self, inboxes: dict[str, Inbox]) -> None:
        """See that one pull for each consumer waits at the server; one that shows no heartbeat is taken for lost."""
        for work in self._served:
            if self._waiting.get(work.name, 0.0) < self._now():
                await pull(self._client, work.stream, work.name, inboxes[work.name].subject, 1)
                self._waiting[work.name] = self._now() + 2 * HEARTBEAT

    async def _until_changed(self) -> None:
        try:
            async with asyncio.timeout(2 * HEARTBEAT if self.free > 0 else EXPIRES):
                await self._changed.wait()
        except TimeoutError:
            return

    async def _start_or_return(self, msg: Msg) -> None:
        if self.free <= 0:
            # Arrived for a slot that is taken by now: another executor may have one.
            try:
                await msg.nak()
            except nats.errors.Error as error:
                _log.warning("work.not_returned", reason=str(error))
            return
        if not self._tasks:
            self.began.set()
        task = asyncio.create_task(self._runs.work(msg))
        self._tasks.add(task)
        task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        self._changed.set()
        if not task.cancelled() and task.exception() is not None:
            _log.error("work.failed", exc_info=task.exception())

    @staticmethod
    def _now() -> float:
        return asyncio.get_running_loop().time()
