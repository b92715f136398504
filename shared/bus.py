"""The bus as a service sees it: handle messages, answer questions, ask them. Acks, subjects and verdicts are decided here."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from typing import Any, TypeVar
from urllib.parse import urlsplit, urlunsplit

import msgspec
import nats.errors
import nats.js.errors
import structlog
from faststream import AckPolicy
from faststream.nats import JStream, NatsBroker, NatsMessage, PullSub
from nats.aio.client import Client
from nats.aio.msg import Msg
from nats.js import JetStreamContext

from shared import aggregate, values
from shared.commit import Journal
from shared.consumer import Consumer, Handlers, Letters, give_up
from shared.durables import keep
from shared.envelope import Envelope, Sealed, seal, utc_now
from shared.errors import (
    ErrorDocument,
    Invalid,
    MillraceError,
    TooLarge,
    Unavailable,
    from_document,
    to_document,
)
from shared.messages import Logged, Message
from shared.messages.declaration import declaration_of
from shared.projection import Health
from shared.pull import inbox_prefix
from shared.questions import ASKED, Asked, Command, asked_of
from shared.questions.health import HEALTH
from shared.streams import WORK, Work

Answer = TypeVar("Answer")
Questions = Mapping[type[msgspec.Struct], Callable[[Any, Any], Awaitable[Any]]]

# Messages of one consumer that are handled at the same time: enough to hide one commit behind others.
CONCURRENCY = 64
# How often it is looked whether the client still tries to be connected.
ATTENDED_EVERY = 1.0

_log = structlog.get_logger()


class Bus:
    """One service's connection: its inbox, its journal, its handlers and answers."""

    def __init__(self, broker: NatsBroker, client: Client, service: str, health: Health) -> None:
        self._broker = broker
        self.client = client
        self.service = service
        self.journal = Journal(client)
        self._health = health

    # -- saying ---------------------------------------------------------------------------------------------------

    def seal(
        self,
        message: Message,
        *,
        org: str,
        id: str | None = None,  # noqa: A002 - the CloudEvents attribute
        cause: Envelope | None = None,
        correlation: str | None = None,
        causation: str | None = None,
    ) -> Sealed[Any]:
        """Put a message of this service into its envelope, now."""
        return seal(
            message,
            service=self.service,
            org=org,
            now=utc_now(),
            id=id,
            cause=cause,
            correlation=correlation,
            causation=causation,
        )

    async def publish(self, sealed: Sealed[Any]) -> int:
        """Store a message; returns its sequence. A creation expects to be its aggregate's first.

        Raises `Unavailable`, `Conflict`.
        """
        if declaration_of(sealed.message).creates:
            return await self.append(sealed, 0)
        return (await self.journal.publish(sealed)).sequence

    async def append(self, sealed: Sealed[Any], expected: int) -> int:
        """Store a message of an aggregate that is expected at `expected`; returns its sequence.

        Raises `Conflict`, `Unavailable`.
        """
        return (await aggregate.append(self.client, self.journal, sealed, expected)).sequence

    async def say_log(self, logged: Logged, correlation: str | None) -> None:
        """Store a record of this service's log; the sink of `shared.log` calls it."""
        await self.journal.publish(self.seal(logged, org="global", correlation=correlation))

    # -- asking ---------------------------------------------------------------------------------------------------

    async def ask(self, asked: msgspec.Struct, *, timeout: float | None = None) -> Any:
        """Ask a question or give a command; returns the declared answer.

        Raises what the owner raised, `Unavailable` when nobody answered in time, `TooLarge` for what the broker does not carry.
        """
        declared = asked_of(asked)
        if not self.client.is_connected:
            raise Unavailable("the broker is not connected")
        try:
            answer = await self._broker.request(_asking(asked), declared.subject, timeout=timeout or declared.timeout)
        except nats.errors.MaxPayloadError as error:
            raise TooLarge(f"this is larger than the {self.client.max_payload} bytes that can be asked at once") from error
        except (nats.errors.Error, TimeoutError, OSError) as error:
            raise Unavailable(f"the {declared.service} service did not answer {declared.verb!r} in time") from error
        frame = msgspec.json.decode(answer.body, type=_Frame)
        if frame.error is not None:
            raise from_document(frame.error)
        return msgspec.json.decode(frame.ok, type=declared.answer)

    # -- answering ------------------------------------------------------------------------------------------------

    def answer(self, questions: Questions, deps: Any) -> None:
        """Answer these questions and commands from `start` on."""
        every = {**questions, HEALTH[self.service]: self._how_it_is} if self.service in HEALTH else questions
        served = {asked_of(cls).subject: (asked_of(cls), cls, function) for cls, function in every.items()}
        missing = {subject for subject, (asked, _) in ASKED.items() if asked.service == self.service} - served.keys()
        if missing:
            raise TypeError(f"{self.service} does not answer {sorted(missing)}")

        async def reply(msg: NatsMessage) -> bytes:
            asked, cls, function = served[msg.raw_message.subject]
            answer = await _answered(asked, cls, function, msg.body, deps)
            if len(answer) > self.client.max_payload:
                # Unsaid, it would be waited for in vain.
                error = TooLarge(f"the answer is larger than the {self.client.max_payload} bytes that can be told at once")
                return msgspec.json.encode(_Frame(error=to_document(error)))
            return answer

        for kind in ("ask", "do"):
            self._broker.subscriber(f"{kind}.{self.service}.*", queue=self.service, max_workers=CONCURRENCY, decoder=_undecoded)(
                reply
            )

    def health_document(self) -> dict[str, Any]:
        """Return what is well with this service and what is not, by part."""
        return self._health.document()

    async def _how_it_is(self, _question: Any, _deps: Any) -> dict[str, Any]:
        return self.health_document()

    # -- handling -------------------------------------------------------------------------------------------------

    def handle(self, handlers: Handlers, deps: Any) -> None:
        """Consume this service's work with these handlers from `start` on."""
        letters = Letters(self._health)
        for work in WORK:
            if work.service != self.service or work.managed:
                continue
            self._broker.subscriber(
                work.subjects[0],
                stream=JStream(work.stream, declare=False),
                durable=work.name,
                pull_sub=PullSub(batch_size=1),
                max_workers=CONCURRENCY,
                ack_policy=AckPolicy.MANUAL,
                decoder=_undecoded,
                inbox_prefix=f"{inbox_prefix(self.service)}.".encode(),
            )(Consumer(self, work, handlers[work.messages[0]], deps, self._health, letters).take)

    async def bury(self, work: Work, msg: Msg, tries: int, error: Exception, reason: str) -> bool:
        """Store a message in DEAD, exactly as it was, and terminate it; False when the broker could not take it now."""
        return await give_up(self, work, msg, tries, error, reason)

    async def attend(self) -> None:
        """Watch the client for ever. Raises `GaveUp` when it will never be connected again: then only a new process is.

        nats-py closes itself for good on most of the errors that a broker tells, and its task that connects again ends with what it
        does not expect, such as uvloop's RuntimeError for a connection that was reset within the handshake.
        """
        while True:
            await asyncio.sleep(ATTENDED_EVERY)  # neither is told of
            trying = self.client._reconnection_task  # noqa: SLF001
            if self.client.is_closed or (not self.client.is_connected and (trying is None or trying.done())):
                raise GaveUp("the client does not try to reach the broker any more")

    async def start(self) -> None:
        """Begin to handle and to answer; when this returns the broker knows of it."""
        await self._broker.start()
        for subscriber in self._broker.subscribers:
            subscription = getattr(subscriber, "subscription", None)
            if isinstance(subscription, JetStreamContext.PullSubscription):
                subscription.fetch = _paced(subscription.fetch)  # type: ignore[method-assign, assignment]
        # The client writes the PING of a flush past subscriptions that are still in its buffer; by the second they are out.
        for _ in range(2):
            await self.client.flush()

    async def keep_durables(self) -> None:
        """See for ever that the consumers of this service's work are there."""
        await keep(self.client, [work for work in WORK if work.service == self.service])


def _paced(fetch: Callable[..., Awaitable[Any]]) -> Callable[..., Awaitable[Any]]:
    """Return a `fetch` that takes its time to fail once the client is closed: FastStream tries again at once, and for ever.

    Without any wait in between, nothing else would ever run in this process, not even its end. The same while the consumer is
    missing, which is made again (`shared.durables`): what the server says of it would end FastStream's task.
    """

    async def paced(*args: Any, **kwargs: Any) -> Any:
        try:
            return await fetch(*args, **kwargs)
        except nats.errors.ConnectionClosedError:
            await asyncio.sleep(ATTENDED_EVERY)
            raise
        except nats.js.errors.Error as error:
            await asyncio.sleep(ATTENDED_EVERY)
            raise nats.errors.TimeoutError from error

    return paced


class GaveUp(Exception):
    """The client of the broker has given up for good."""


class _Frame(msgspec.Struct):
    """What an answer looks like on the wire: one of the two."""

    ok: msgspec.Raw = msgspec.Raw(b"null")
    error: ErrorDocument | None = None


def _asking(asked: msgspec.Struct) -> bytes:
    try:
        return msgspec.json.encode(asked)
    except (UnicodeEncodeError, RecursionError) as error:
        raise Invalid(f"{type(asked).__name__} holds what JSON cannot: {error}") from error


async def _answered(
    asked: Asked, cls: type[msgspec.Struct], function: Callable[[Any, Any], Awaitable[Any]], body: bytes, deps: Any
) -> bytes:
    try:
        question = await values.aside(values.decode, body, cls, size=len(body))
        correlation = question.id if isinstance(question, Command) else None
        with structlog.contextvars.bound_contextvars(question=asked.subject, command_id=correlation):
            return msgspec.json.encode(_Frame(ok=msgspec.Raw(msgspec.json.encode(await function(question, deps)))))
    except MillraceError as error:
        return msgspec.json.encode(_Frame(error=to_document(error)))
    except Exception:
        _log.exception("question.failed", subject=asked.subject)
        return msgspec.json.encode(_Frame(error=ErrorDocument("error", f"{asked.subject} failed; see the log of {asked.service}")))


async def _undecoded(msg: Any) -> Any:
    """Leave a body as it is: decoding belongs to the verdicts of this module."""
    return msg


@contextlib.asynccontextmanager
async def connected(url: str, *, service: str, health: Health) -> AsyncIterator[Bus]:
    """Connect to the broker for the block, and go on reconnecting; drains at the end.

    Raises OSError or nats' errors when the first connection fails.
    """
    stopping = asyncio.Event()

    async def disconnected() -> None:
        if stopping.is_set():
            return
        health.report("broker", "not connected")
        _log.warning("broker.disconnected")

    async def reconnected() -> None:
        health.report("broker", None)
        _log.info("broker.reconnected")

    async def failed(error: Exception) -> None:
        _log.warning("broker.error", reason=f"{type(error).__name__}: {error}")

    broker = NatsBroker(
        url,
        name=f"millrace-{service}",
        inbox_prefix=inbox_prefix(service).encode(),
        apply_types=False,
        logger=None,
        connect_timeout=5,
        reconnect_time_wait=0.25,  # type: ignore[arg-type]  # nats-py sleeps so many seconds
        max_reconnect_attempts=-1,
        ping_interval=5,
        max_outstanding_pings=2,
        disconnected_cb=disconnected,
        reconnected_cb=reconnected,
        error_cb=failed,
        drain_timeout=5,
        graceful_timeout=5,
    )
    await broker.connect()
    health.report("broker", None)
    try:
        yield Bus(broker, broker.connection, service, health)
    finally:
        stopping.set()
        with contextlib.suppress(nats.errors.Error, TimeoutError):
            async with asyncio.timeout(8):
                await broker.stop()


def without_password(url: str) -> str:
    """Return `url` as it may be shown."""
    parts = urlsplit(url)
    if parts.password is None:
        return url
    return urlunsplit(parts._replace(netloc=f"{parts.username}:…@{parts.netloc.rpartition('@')[2]}"))
