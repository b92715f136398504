"""Pulls from JetStream and asks its API, by the wire protocol (docs.nats.io, "JetStream wire API").

`ordered_reader` and `puller` stand on it: nats-py's own pull waits out its deadline for a batch to fill, which costs latency.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections import deque
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from types import TracebackType
from typing import Any, Self

import msgspec
import nats.errors
from nats.aio.client import Client
from nats.aio.msg import Msg
from nats.aio.subscription import Subscription

from shared.client import count_error, subscribe
from shared.errors import Unavailable
from shared.messages.log import SERVICES
from shared.values import FIRST, LAST

# The server sends a heartbeat this often while a pull waits; after two missed ones the pull counts as lost.
HEARTBEAT = 2.0
# Time that a pull waits at the server before it is sent again.
EXPIRES = 20.0
# A batch holds at most so many bytes on its way to us: bounds a reader's memory for messages of any size.
PULL_BYTES = 8 * 1024 * 1024
_NANO = 1_000_000_000

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
