"""The ordered reader behind projections, registries and blobs: a stream in order, each message exactly once.

nats-py's own ordered consumer is a push consumer that is re-made by timers, which costs certainty here.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator, AsyncIterator
from datetime import datetime
from typing import Any, Literal

import nats.errors
from nats.aio.client import Client
from nats.aio.msg import Msg

from shared.client import unique_name
from shared.lingering import Lingering
from shared.pull import HEARTBEAT, Delivered, Inbox, api_request, delivered, pull, status_of

_NANO = 1_000_000_000

Start = Literal["all", "new", "last_per_subject"]


class OrderedReader:
    """Reads a stream in order from a sequence, each message exactly once, through reconnects and lost consumers.

    One ephemeral consumer at a time; a gap in its own sequence, missed heartbeats or a vanished consumer make a new one that
    starts after the last message handed out; of `last_per_subject` at the beginning where the stream was made anew. Messages within
    the time of `lingering` are handed out together. With `headers_only` they come without their data, for readers that only need to
    know that there are any. With `heartbeats` an empty batch comes now and then while no message does.
    """

    def __init__(
        self,
        client: Client,
        stream: str,
        *,
        filters: tuple[str, ...] = (),
        after: int | None = None,
        start: Start = "all",
        since: datetime | None = None,
        batch: int = 500,
        lingering: Lingering | None = None,
        headers_only: bool = False,
        heartbeats: bool = False,
    ) -> None:
        self._client = client
        self._stream = stream
        self._headers_only = headers_only
        self._heartbeats = heartbeats
        self._filters = filters
        self._after = after
        self._start = start
        self._since = since
        self._made: str | None = None
        self.batch = batch
        self._lingering = lingering
        self.pending_at_start: int | None = None
        self.created = asyncio.Event()

    async def batches(self) -> AsyncGenerator[list[Delivered], None]:
        """Yield messages in order as they arrive, an empty list only as a heartbeat; for ever.

        Raises `Unavailable` when the consumer cannot be made: the caller decides how long to go on trying, by calling this again.
        """
        self.pending_at_start = None
        self.created.clear()
        while True:
            async with Inbox(self._client) as inbox:
                consumer = await self._create()
                try:
                    async for batch in self._read(inbox, consumer):
                        if batch:
                            self._after = batch[-1].sequence
                        yield batch
                finally:
                    await self._delete(consumer)

    async def _read(self, inbox: Inbox, consumer: str) -> AsyncIterator[list[Delivered]]:
        """Keep one pull at the server, and yield what comes of it; returns when the consumer is lost.

        The server shares what it delivers among all pulls that wait, so of several none would be used up. The one ends by its last
        message, by a status, or with the inbox when heartbeats are missed: there is no fourth way to lose it.
        """
        expected = 1
        left = await self._pull(inbox, consumer)
        while arrived := await inbox.take(2 * HEARTBEAT):
            if self._lingering is not None and arrived[0].data:
                # No more than are asked for can come.
                await self._lingering.gather(arrived, inbox.take, min(left, self.batch // 2))
            batch: list[Delivered] = []
            lost = False
            for msg in arrived:
                status = status_of(msg)
                if status == "100":
                    continue
                if status is not None:
                    if msg.subject != inbox.subject:
                        continue  # the end of a pull that was used up, which newer servers report as well
                    # The pull has ended (408 expired, 409 limit reached or consumer gone): the next one shows which. 503 means no
                    # responders: the consumer is gone, with a broker that was restarted while no pull waited.
                    left = 0
                    gone = status == "409" and "onsumer" in (msg.headers or {}).get("Description", "")
                    lost = lost or gone or status == "503"
                    continue
                if self._consumer_sequence(msg) != expected:
                    lost = True
                    break
                expected += 1
                left -= 1
                batch.append(delivered(msg))
            if not left and not lost:
                # Before the caller takes its time with the batch: the server delivers meanwhile.
                left = await self._pull(inbox, consumer)
            if batch or self._heartbeats:
                yield batch
            if lost:
                return

    async def _pull(self, inbox: Inbox, consumer: str) -> int:
        await pull(self._client, self._stream, consumer, inbox.renew(), self.batch)
        return self.batch

    @staticmethod
    def _consumer_sequence(msg: Msg) -> int:
        tokens = msg.reply.split(".")
        return int(tokens[8 if len(tokens) >= 11 else 6])

    async def _create(self) -> str:
        if self._start == "new" and self._after is None:
            # Fixed once, so that nothing is missed when the consumer has to be made again.
            info = await api_request(self._client, f"$JS.API.STREAM.INFO.{self._stream}", None)
            self._after = int(info["state"]["last_seq"])
        elif self._start == "last_per_subject":
            made = str((await api_request(self._client, f"$JS.API.STREAM.INFO.{self._stream}", None))["created"])
            if self._made not in {None, made}:
                # Its sequences begin anew: what was handed out is no place in it.
                self._after = None
            self._made = made
        name = unique_name()
        config: dict[str, Any] = {
            "name": name,
            "ack_policy": "none",
            "max_deliver": 1,
            "mem_storage": True,
            "num_replicas": 1,
            "inactive_threshold": int(60 * _NANO),
            "replay_policy": "instant",
        }
        if self._headers_only:
            config["headers_only"] = True
        if self._after is not None:
            config |= {"deliver_policy": "by_start_sequence", "opt_start_seq": self._after + 1}
        elif self._since is not None:
            config |= {"deliver_policy": "by_start_time", "opt_start_time": self._since.isoformat()}
        else:
            config["deliver_policy"] = self._start
        if len(self._filters) == 1:
            config["filter_subject"] = self._filters[0]
        elif self._filters:
            config["filter_subjects"] = list(self._filters)
        elif self._start == "last_per_subject" and self._after is None:
            config["filter_subject"] = ">"
        subject = f"$JS.API.CONSUMER.CREATE.{self._stream}.{name}"
        if "filter_subject" in config:
            subject = f"{subject}.{config['filter_subject']}"
        answer = await api_request(self._client, subject, {"stream_name": self._stream, "config": config})
        if self.pending_at_start is None:
            self.pending_at_start = int(answer.get("num_pending", 0))
            self.created.set()
        return name

    async def _delete(self, consumer: str) -> None:
        # Best effort: the server forgets an unused consumer by itself after its inactive threshold.
        if self._client.is_connected:
            with contextlib.suppress(nats.errors.Error):
                await self._client.publish(f"$JS.API.CONSUMER.DELETE.{self._stream}.{consumer}", b"")
