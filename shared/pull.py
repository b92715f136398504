"""Pulling from JetStream: the ordered reader behind projections, registries and blobs, and the puller behind work.

nats-py's own pull waits out its deadline for a batch to fill and its ordered consumer is a push consumer that is re-made by
timers; both cost latency or certainty here. This is the wire protocol of the JetStream API (docs.nats.io, "JetStream wire API").
"""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterator, Iterator, Mapping
from datetime import UTC, datetime
from types import TracebackType
from typing import Any, Literal, Self

import msgspec
import nats.errors
from nats.aio.client import Client
from nats.aio.msg import Msg
from nats.aio.subscription import Subscription

from shared.client import count_error, subscribe, unique_name
from shared.errors import Unavailable
from shared.lingering import Lingering
from shared.messages.log import SERVICES
from shared.values import FIRST, LAST

# The server sends a heartbeat this often while a pull waits; after two missed ones the pull counts as lost.
HEARTBEAT = 2.0
# Time that a pull waits at the server before it is sent again.
EXPIRES = 20.0
# A batch holds at most so many bytes on its way to us: bounds a reader's memory for messages of any size.
PULL_BYTES = 8 * 1024 * 1024
_NANO = 1_000_000_000

Start = Literal["all", "new", "last_per_subject"]


# The header of a message that was put back: its incarnation, sequence and time (RFC 3339) when it was stored first.
ORIGIN = "Millrace-Origin"
_ORIGIN = ORIGIN.encode()


class Delivered(msgspec.Struct, frozen=True):
    """One message as the stream holds it: `sequence` and store `time` are the stream's; `pending` counts those behind it.

    The time of one that was put back from the archive is that of its first storing.
    """

    subject: str
    data: bytes
    sequence: int
    time: datetime
    headers: Mapping[str, str]
    pending: int


class _Headers(Mapping[str, str]):
    """The headers of a message, read when somebody looks at them: few readers do, and it takes as long as all else of a message."""

    __slots__ = ("_msg",)

    def __init__(self, msg: Msg) -> None:
        self._msg = msg

    def __getitem__(self, name: str) -> str:
        return (self._msg.headers or {})[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._msg.headers or {})

    def __len__(self) -> int:
        return len(self._msg.headers or {})


def delivered(msg: Msg) -> Delivered:
    """Return a JetStream message with the facts in its reply subject (`$JS.ACK…`, 9 or more tokens)."""
    tokens = msg.reply.split(".")
    # $JS.ACK.<stream>.<consumer>.<delivered>.<stream seq>.<consumer seq>.<time ns>.<pending>; newer servers add two in front.
    offset = 2 if len(tokens) >= 11 else 0
    sequence = int(tokens[5 + offset])
    return Delivered(
        subject=msg.subject,
        data=msg.data,
        sequence=sequence,
        time=_origin(msg, sequence) or datetime.fromtimestamp(int(tokens[7 + offset]) / _NANO, UTC),
        headers=_Headers(msg),
        pending=int(tokens[8 + offset]),
    )


def _origin(msg: Msg, sequence: int) -> datetime | None:
    """Return when a message was stored first that was put back at its sequence; None for any other, whatever its header says."""
    # Headers are not read for it: few messages have one, and reading takes as long as all else.
    if _ORIGIN not in getattr(msg, "head", _ORIGIN):
        return None
    _, _, said = (msg.headers or {}).get(ORIGIN, "").partition(" ")
    number, _, moment = said.partition(" ")
    if number != str(sequence):
        return None
    try:
        found = datetime.fromisoformat(moment)
    except ValueError:
        return None
    return found if found.tzinfo is not None and FIRST <= found <= LAST else None


def sequence_of(msg: Msg) -> int:
    """Return the sequence of a JetStream message in its stream; without all else that `delivered` reads."""
    tokens = msg.reply.split(".")
    return int(tokens[7 if len(tokens) >= 11 else 5])


def deliveries_of(msg: Msg) -> int:
    """Return how often a durable consumer has delivered a message, this time included."""
    tokens = msg.reply.split(".")
    return int(tokens[6 if len(tokens) >= 11 else 4])


class Inbox:
    """A subscription of our own whose messages are taken in batches; closes with the block.

    `event`, if given, is set at every arrival: one waiter can watch several inboxes with `arrived`.
    """

    def __init__(self, client: Client, event: asyncio.Event | None = None) -> None:
        self._client = client
        self._arrived: deque[Msg] = deque()
        self._event = event or asyncio.Event()
        self._subscription: Subscription | None = None
        self._name = client.new_inbox()
        self._number = 0

    @property
    def subject(self) -> str:
        """The address of the inbox, as `renew` has it now."""
        return f"{self._name}.{self._number}"

    def renew(self) -> str:
        """Return another address. Messages to the earlier ones still arrive; only the server's own show which one they were for."""
        self._number += 1
        return self.subject

    async def __aenter__(self) -> Self:
        self._subscription = await subscribe(self._client, f"{self._name}.*", self._take)
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if self._subscription is not None and not self._client.is_closed:
            with contextlib.suppress(nats.errors.Error):
                await self._subscription.unsubscribe()

    def _take(self, msg: Msg) -> None:
        self._arrived.append(msg)
        self._event.set()

    async def take(self, timeout: float) -> list[Msg]:
        """Return everything that has arrived, waiting up to `timeout` seconds for the first; empty when nothing came."""
        if not self._arrived:
            self._event.clear()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(timeout):
                    await self._event.wait()
        return self.arrived()

    def arrived(self) -> list[Msg]:
        """Return everything that has arrived, without waiting."""
        taken = list(self._arrived)
        self._arrived.clear()
        return taken


async def pull(client: Client, stream: str, consumer: str, inbox: str, batch: int, *, no_wait: bool = False) -> None:
    """Ask the server for up to `batch` messages of a pull consumer, to be sent to `inbox`."""
    request: dict[str, Any] = {"batch": batch, "max_bytes": PULL_BYTES}
    if no_wait:
        request["no_wait"] = True
    else:
        request |= {"expires": int(EXPIRES * _NANO), "idle_heartbeat": int(HEARTBEAT * _NANO)}
    await client.publish(f"$JS.API.CONSUMER.MSG.NEXT.{stream}.{consumer}", json.dumps(request).encode(), reply=inbox)


def status_of(msg: Msg) -> str | None:
    """Return the status code of a message without data from the server (`100` heartbeat, `408` expired …), else None."""
    # A message of a stream may be empty and have any headers, and has an address for its acknowledgement.
    if msg.data or not msg.headers or msg.reply.startswith("$JS.ACK."):
        return None
    return msg.headers.get("Status")


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


# nats-server server/errors.json: no message found. An answer like any other.
NO_MESSAGE = 10037


async def api_request(client: Client, subject: str, body: Any, *, wait: float = 5.0) -> dict[str, Any]:
    """Ask the JetStream API. Raises `Unavailable` when it does not answer, `StreamError` when it refuses."""
    if not client.is_connected:
        # The client would buffer the request, and no answer would come.
        raise Unavailable("the broker is not connected")
    try:
        msg = await client.request(subject, json.dumps(body).encode() if body is not None else b"", timeout=wait)
    except (nats.errors.Error, TimeoutError, OSError) as error:
        count_error(client)
        raise Unavailable(f"the broker did not answer {subject.split('.')[2:4]}: {type(error).__name__}") from error
    answer: dict[str, Any] = json.loads(msg.data)
    if "error" in answer:
        code = answer["error"].get("err_code", 0)
        if code != NO_MESSAGE:
            count_error(client)
        raise StreamError(code, answer["error"].get("description", "unknown"))
    return answer


class StreamError(Exception):
    """The JetStream API refused; `code` is its `err_code` (nats-server `server/errors.json`)."""

    def __init__(self, code: int, description: str) -> None:
        super().__init__(f"{description} ({code})")
        self.code = code
        self.description = description


def inbox_prefix(service: str) -> str:
    """Return where answers to a service are sent; its user may subscribe to no other inbox."""
    if service not in SERVICES:
        return "_INBOX"
    return f"_INBOX_{service}"
