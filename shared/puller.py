"""The standing pull behind work: messages of a durable consumer, taken in batches and handled a bounded number at a time."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Coroutine
from typing import Any

import nats.errors
import structlog
from nats.aio.client import Client
from nats.aio.msg import Msg
from nats.aio.subscription import Subscription

from shared import tasks
from shared.bounded import BoundedTasks, TaskQueue
from shared.client import drain, subscribe
from shared.pull import HEARTBEAT, pull, sequence_of, status_of

# Pause before the next pull where the server did not serve the last one: its consumer is gone, or it is only just starting.
PAUSE = 1.0
# Pause between looks at whether a pull was lost: to a connection that was made anew, or with a server that shows no heartbeat.
LOOKED_AT_EVERY = 0.5

_log = structlog.get_logger()


class Puller:
    """Has the messages of a durable consumer handled, `at_once` of them at the same time, in the order of `queue`.

    Up to `fetched` are in hand, those that wait for their turn included; no more are asked for, however long they take. A message
    that is delivered again while it is in hand is not handled twice at once. None are asked for while `admits` answers False; it is
    asked about twice a second. One pull at a time waits at the server: more would
    share the deliveries, and each would wait for the rest of its batch until it expires.
    """

    def __init__(
        self,
        client: Client,
        stream: str,
        consumer: str,
        handle: Callable[[Msg], Coroutine[Any, Any, None]],
        *,
        at_once: int,
        fetched: int,
        queue: TaskQueue[Msg],
        admits: Callable[[], bool] = lambda: True,
    ) -> None:
        self._client = client
        self._stream = stream
        self._consumer = consumer
        self._fetched = fetched
        self._admits = admits
        self._tasks = BoundedTasks(handle, at_once, queue, self._freed)
        self._in_hand: set[int] = set()
        self._inbox = client.new_inbox()
        self._subscription: Subscription | None = None
        self._asking: asyncio.Task[None] | None = None
        self._wanted = asyncio.Event()
        # The pull that waits: its number, its messages that are to come, whether any came; when anything was heard of it last.
        self._number = 0
        self._outstanding = 0
        self._served = False
        self._heard = 0.0
        self._paused_until = 0.0

    @property
    def in_hand(self) -> int:
        """Return how many messages were taken and are not settled."""
        return len(self._in_hand)

    async def start(self) -> None:
        """Begin to pull."""
        # A name for each pull, so that the end of one that was taken for lost is not taken for that of the next.
        self._subscription = await subscribe(self._client, f"{self._inbox}.*", self._arrived)
        self._asking = asyncio.create_task(self._keep_asking())

    async def drain(self, within: float) -> None:
        """Pull no more, let what has begun end within so many seconds, and give back the rest."""
        if self._asking is not None:
            await tasks.end([self._asking])
        if self._subscription is not None:
            await drain(self._client, self._subscription)
        for msg in await self._tasks.drain(within):
            with contextlib.suppress(nats.errors.Error):
                await msg.nak()

    def _arrived(self, msg: Msg) -> None:
        self._heard = self._now()
        status = status_of(msg)
        if status is None:
            self._served = True
            self._outstanding = max(0, self._outstanding - 1)
            sequence = sequence_of(msg)
            if sequence not in self._in_hand:
                self._in_hand.add(sequence)
                self._tasks.offer(msg)
        elif status != "100" and msg.subject == self._reply:
            self._outstanding = 0
            if status != "408" and not self._served:
                self._paused_until = self._now() + PAUSE
        self._see()

    def _freed(self, msg: Msg) -> None:
        self._in_hand.discard(sequence_of(msg))
        self._see()

    def _see(self) -> None:
        if not self._outstanding and self._room():
            self._wanted.set()

    def _room(self) -> int:
        """Return how many to ask for: none until there is something to gain, so that a slow handler makes no small batches."""
        room = max(0, self._fetched - len(self._in_hand))
        return room if room >= self._fetched // 4 or not self._tasks.waiting else 0

    async def _keep_asking(self) -> None:
        connection = -1
        while True:
            self._wanted.clear()
            if not self._client.is_connected or connection != (connection := self._client.stats["reconnects"]):
                # What waited for a connection that is gone may never come.
                self._outstanding = 0
            elif self._outstanding and self._now() > self._heard + 2 * HEARTBEAT:
                self._outstanding = 0
            if self._client.is_connected and not self._outstanding and self._now() >= self._paused_until:
                await self._ask()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(LOOKED_AT_EVERY):
                    await self._wanted.wait()

    async def _ask(self) -> None:
        room = self._room()
        if not room or not self._admits():
            return
        self._number += 1
        self._outstanding, self._served, self._heard = room, False, self._now()
        try:
            await pull(self._client, self._stream, self._consumer, self._reply, room)
        except nats.errors.Error as error:
            self._outstanding, self._paused_until = 0, self._now() + PAUSE
            _log.warning("pull.not_sent", consumer=self._consumer, reason=f"{type(error).__name__}: {error}")

    @property
    def _reply(self) -> str:
        return f"{self._inbox}.{self._number}"

    @staticmethod
    def _now() -> float:
        return asyncio.get_running_loop().time()
