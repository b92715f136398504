"""Puts messages on disk: the one small interface between a message and the stream that keeps it.

`Journal.publish` for facts without expectations, `Journal.append` for an aggregate's. After a return the message is on disk;
after `Unavailable` it may or may not be: sending the same message again is safe, because its id is the same.

The broker syncs every commit to disk, which costs about as much for one message as for hundreds. So messages for a stream are
gathered while earlier commits are under way, and go as one JetStream atomic batch (NATS ADR-50): one commit, many acks.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import OrderedDict
from typing import Any

import msgspec
import structlog
from nats.aio.client import Client

from shared import tracing
from shared.batching import Batcher, PendingMessage
from shared.client import count_error
from shared.deadlines import Deadlines
from shared.envelope import CONTENT_TYPE, Sealed
from shared.errors import Unavailable
from shared.messages.declaration import declaration_of
from shared.sending import Outgoing, send_batch, send_one

# nats-server server/errors.json: a stale expectation on one server, and the same found by the leader of a replicated stream.
WRONG_LAST_SEQUENCE = (10071, 10164)
# Seconds that a caller waits: below the 2 s within which a sender of webhooks is answered 503.
ACK_TIMEOUT = 1.7
# Most that may wait for one stream while the broker does not answer; more is refused at once, so that memory stays bounded.
WAITING_MESSAGES = 20_000
WAITING_BYTES = 64 * 1024 * 1024
# Up to so many messages go one by one, without waiting for each other: an atomic batch costs the broker as much as some
# single commits (docs/performance.md).
FEW = 4
# Turns of the event loop until the client has written to the operating system: its task for a commit, its flusher.
TURNS_TO_WRITE = 2
# Room for the headers of one message.
HEADERS_BYTES = 512
# Acks that are remembered to answer repeated ids, which would fail a whole batch: about 20 MB when full.
REMEMBERED = 100_000

_log = structlog.get_logger()


class Ack(msgspec.Struct, frozen=True, gc=False):
    """A message is on disk at `sequence`; `duplicate` when the stream knew its id already."""

    sequence: int
    duplicate: bool = False


class Stale(Exception):
    """The aggregate has moved on since the expected sequence; nothing was stored, or it was by an earlier sending."""


class Refused(Exception):
    """The broker refused a message for a reason that trying again does not change."""


class Pending(Outgoing):
    """A message on its way, and the callers that wait for its verdict."""

    waiting: list[asyncio.Future[Ack]]

    @property
    def wanted(self) -> bool:
        """Return whether a caller still waits for the verdict."""
        return any(not waiter.done() for waiter in self.waiting)


def outgoing_of(client: Client, sealed: Sealed[Any], expected: int | None) -> Outgoing:
    """Return a message as it goes to the broker. Raises `Refused` for one that the broker does not take."""
    envelope, declared = sealed.envelope, declaration_of(sealed.message)
    if len(sealed.document) + HEADERS_BYTES > client.max_payload:
        # The server would cut the connection, and with it all other messages in flight.
        raise Refused(f"{envelope.type} has {len(sealed.document)} bytes, more than the broker takes")
    headers = {"Nats-Msg-Id": envelope.id, "Content-Type": CONTENT_TYPE}
    if expected is not None:
        headers["Nats-Expected-Last-Subject-Sequence"] = str(expected)
        headers["Nats-Expected-Last-Subject-Sequence-Subject"] = declared.aggregate(envelope.subject)
    if envelope.traceparent is not msgspec.UNSET:
        # For subscribers that are not ours: our own read the envelope.
        headers["traceparent"] = envelope.traceparent
    headers |= sealed.message.broker_headers()
    return Outgoing(declared.subject(sealed.message, envelope.subject), sealed.document, headers)


class Journal:
    """Writes messages to their streams, one coalescer per stream, and per shard of one."""

    def __init__(self, client: Client) -> None:
        self._client = client
        self._coalescers: dict[str, Coalescer] = {}

    async def publish(self, sealed: Sealed[Any], *, timeout: float = ACK_TIMEOUT) -> Ack:
        """Store a message whose id is all that it needs. Raises `Unavailable` (unknown or not stored), `Refused`."""
        return await self._coalescer(sealed).commit(sealed, None, timeout)

    async def append(self, sealed: Sealed[Any], expected: int, *, timeout: float = ACK_TIMEOUT) -> Ack:
        """Store a message of an aggregate if its last message is at `expected` (0: has none).

        Raises `Stale` when it is not, also for a duplicate that this process did not send; `Unavailable` when unknown;
        `Refused`. Callers want `shared.aggregate.append`, which folds on `Stale`.
        """
        return await self._coalescer(sealed).commit(sealed, expected, timeout)

    def _coalescer(self, sealed: Sealed[Any]) -> Coalescer:
        stream = declaration_of(sealed.message).stream_of(sealed.envelope.subject)
        found = self._coalescers.get(stream)
        if found is None:
            found = self._coalescers[stream] = Coalescer(self._client, stream)
        return found


class Coalescer:
    """Gathers the messages that wait for one stream into atomic batches and gives each its verdict."""

    def __init__(self, client: Client, stream: str) -> None:
        self._client = client
        self._stream = stream
        self._batcher: Batcher[Pending] = Batcher()
        self._pending: dict[str, Pending] = {}
        self._acked: OrderedDict[str, Ack] = OrderedDict()
        # Ids that were sent and of which no verdict came: only for these is "duplicate" the success of an append.
        self._unknown: OrderedDict[str, None] = OrderedDict()
        self._tasks: set[asyncio.Task[None]] = set()
        self._scheduled = False
        self._deadlines = Deadlines()
        self._bystanders: list[asyncio.Future[None]] = []

    async def commit(self, sealed: Sealed[Any], expected: int | None, timeout: float) -> Ack:
        """Have a message stored; an id that is under way or was acknowledged lately shares the first one's outcome."""
        id_ = sealed.envelope.id
        known = self._acked.get(id_)
        if known is not None:
            await self._turn(timeout)
            if sealed.span is not None:
                sealed.span.finish()
            return Ack(known.sequence, duplicate=True)
        pending = self._pending.get(id_)
        first = pending is None
        if pending is None:
            pending = self._accept(sealed, expected)
        waiter: asyncio.Future[Ack] = asyncio.get_running_loop().create_future()
        pending.waiting.append(waiter)
        self._deadlines.watch(waiter, timeout)
        if sealed.span is None:
            ack = await waiter
        else:
            with tracing.within(sealed.span):
                ack = await waiter
        return ack if first else Ack(ack.sequence, duplicate=True)

    async def _turn(self, timeout: float) -> None:
        """Wait for the end of a commit, if one is under way.

        Answered at once, a sender that repeats a message would get more turns than senders that wait for the disk.
        """
        if self._batcher.flying:
            turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            self._bystanders.append(turn)
            self._deadlines.watch(turn, timeout)
            with contextlib.suppress(Unavailable):
                await turn

    def _accept(self, sealed: Sealed[Any], expected: int | None) -> Pending:
        if not self._client.is_connected:
            # The client would buffer and store it later, after this refusal.
            raise Unavailable("the broker is not connected")
        outgoing = outgoing_of(self._client, sealed, expected)
        if len(self._batcher) >= WAITING_MESSAGES or self._batcher.waiting_bytes >= WAITING_BYTES:
            raise Unavailable("too much waits for the broker")
        id_, aggregate = sealed.envelope.id, declaration_of(sealed.message).aggregate(sealed.envelope.subject)
        pending = Pending(outgoing.subject, outgoing.document, outgoing.headers, [])
        self._pending[id_] = pending
        self._batcher.offer(PendingMessage(id_, aggregate, expected is not None, len(sealed.document) + HEADERS_BYTES, pending))
        self._schedule()
        return pending

    def _schedule(self) -> None:
        """Send after this turn of the loop: messages that arrive in the same turn go together."""
        if not self._scheduled:
            self._scheduled = True
            asyncio.get_running_loop().call_soon(self._send)

    def _send(self) -> None:
        self._scheduled = False
        while batch := self._batcher.take():
            task = asyncio.create_task(self._carry(batch))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _carry(self, batch: list[PendingMessage[Pending]]) -> None:
        acks: list[tuple[PendingMessage[Pending], Ack]] = []
        try:
            wanted = [offer for offer in batch if offer.bearer.wanted]
            for offer in batch:
                if not offer.bearer.wanted:
                    self._settle(offer, Unavailable("nobody waits for it any more"))
            if len(wanted) > FEW:
                acks = await self._together(wanted)
            elif len(wanted) == 1:
                await self._alone(wanted[0])
            else:
                await asyncio.gather(*(self._alone(offer) for offer in wanted))
        except Exception as error:
            _log.exception("commit.failed", stream=self._stream)
            for offer in batch:
                self._settle(offer, Unavailable(f"the message could not be sent: {type(error).__name__}"))
        self._batcher.done(batch)
        if len(self._batcher):
            # Waiting messages leave before the callers that waited run: the broker works while they do.
            self._send()
            for _ in range(TURNS_TO_WRITE):
                await asyncio.sleep(0)
        for offer, ack in acks:
            self._settle(offer, ack)
        bystanders, self._bystanders = self._bystanders, []
        for bystander in bystanders:
            if not bystander.done():
                bystander.set_result(None)

    async def _together(self, batch: list[PendingMessage[Pending]]) -> list[tuple[PendingMessage[Pending], Ack]]:
        """Send one atomic batch and return its acks, which are still to be passed on.

        A batch that the broker refuses is sent one by one, each for a verdict of its own; passed on, and not returned.
        """
        try:
            first = await send_batch(self._client, [offer.bearer for offer in batch])
        except Unavailable as error:
            count_error(self._client)
            for offer in batch:
                self._remember_unknown(offer)
                self._settle(offer, Unavailable(error.detail))
            return []
        if first is None:
            await asyncio.gather(*(self._alone(offer) for offer in batch))
            return []
        return [(offer, Ack(first + number)) for number, offer in enumerate(batch)]

    async def _alone(self, offer: PendingMessage[Pending]) -> None:
        try:
            answer = await send_one(self._client, offer.bearer)
        except Unavailable as error:
            count_error(self._client)
            self._remember_unknown(offer)
            self._settle(offer, error)
        else:
            self._settle(offer, self._verdict(offer, answer))

    def _verdict(self, offer: PendingMessage[Pending], answer: dict[str, Any]) -> Ack | Exception:
        refusal = answer.get("error")
        if refusal is None:
            duplicate = bool(answer.get("duplicate", False))
            if duplicate and offer.expects and offer.id not in self._unknown:
                # Another process sent this id first. A fold shows whether it is the message of this aggregate.
                return Stale("the id is known, and this process did not send it")
            return Ack(int(answer["seq"]), duplicate)
        description = refusal.get("description", str(refusal.get("err_code")))
        if refusal.get("err_code") in WRONG_LAST_SEQUENCE:
            return Stale(description)
        count_error(self._client)
        if int(refusal.get("code", 500)) >= 500:
            return Unavailable(f"the broker cannot take messages now: {description}")
        return Refused(f"the broker refused {offer.bearer.subject}: {description}")

    def _settle(self, offer: PendingMessage[Pending], verdict: Ack | Exception) -> None:
        self._pending.pop(offer.id, None)
        if isinstance(verdict, Ack):
            self._unknown.pop(offer.id, None)
            self._acked[offer.id] = verdict
            if len(self._acked) > REMEMBERED:
                self._acked.popitem(last=False)
        for waiter in offer.bearer.waiting:
            if waiter.done():
                continue
            if isinstance(verdict, Ack):
                waiter.set_result(verdict)
            else:
                waiter.set_exception(verdict)

    def _remember_unknown(self, offer: PendingMessage[Pending]) -> None:
        self._unknown[offer.id] = None
        if len(self._unknown) > REMEMBERED:
            self._unknown.popitem(last=False)
