"""Consumes work: a handler takes one message; this module acknowledges it, delays it or buries it."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Callable, Mapping
from time import perf_counter
from typing import Any, Protocol

import msgspec
import structlog
from nats.aio.client import Client
from nats.aio.msg import Msg
from prometheus_client import Histogram

from shared import breaker, log, tracing
from shared.breaker import Breaker, Tries
from shared.commit import Journal, Refused
from shared.envelope import Envelope, Sealed, caused_id, open_envelope, open_message, rfc3339, utc_now
from shared.errors import Conflict, MillraceError, NotFound, Unavailable
from shared.health import Health
from shared.letters import GivenUp, bury
from shared.messages import Message
from shared.metrics import DURATIONS
from shared.projected import IsPast
from shared.pull import deliveries_of, sequence_of
from shared.streams import Work
from shared.suspects import Deadly, Suspects

# A message that follows another, with the discriminator that makes it that one, and its organization where that is another one.
Follows = tuple[Message, str] | tuple[Message, str, str]
# A handler takes one message, or its envelope, and yields those that follow.
Handler = Callable[[Any, Any], AsyncIterator[Any]]
Handlers = Mapping[type[Message], Handler]

# A bug is met again at once when a message comes back at once: these are seconds between tries.
BUG_DELAYS = (1.0, 5.0, 30.0, 120.0)
ABSENT_DELAYS = (0.5, 2.0, 10.0, 30.0)
UNAVAILABLE_DELAY = 2.0
# Characters of an error that `/readyz` shows.
SHOWN = 200
# Sources whose unreadable messages are counted, the first ones.
MOST_SOURCES = 1000

_log = structlog.get_logger()


class Speaker(Protocol):
    """The bus as a consumer needs it to publish and append."""

    service: str
    client: Client
    journal: Journal
    is_gone: IsPast | None

    def seal(self, message: Message, *, org: str, id: str | None = None, cause: Envelope | None = None) -> Sealed[Any]:  # noqa: A002
        """Put a message into its envelope."""

    async def publish(self, sealed: Sealed[Any]) -> int:
        """Store a message."""


def process_durations(health: Health) -> Histogram:
    """Return a new histogram `messaging.process.duration`, for all consumers of a process.

    Its name and labels are those of OpenTelemetry (opentelemetry.io/docs/specs/semconv, `messaging/messaging-metrics`);
    `error_type` is one of a few words, empty for a message that was handled.
    """
    labels = ("system", "operation_name", "destination_name", "consumer_group_name")
    return Histogram(
        "messaging_process_duration_seconds",
        "Duration of processing operation.",
        (*(f"messaging_{label}" for label in labels), "error_type"),
        buckets=DURATIONS,
        registry=health.registry,
    )


class Letters:
    """Counts dead letters: of messages that cannot be read or handled by source, for bugs by consumer. A fact of `/readyz`.

    `durations` has how long the consumers' messages took.
    """

    def __init__(self, health: Health) -> None:
        self.unreadable: Counter[str] = Counter()
        self.bugs: Counter[str] = Counter()
        self.durations = process_durations(health)
        health.state(
            "dead_letters",
            lambda: {"unreadable": dict(self.unreadable), "bugs": dict(self.bugs)},
            counters=("unreadable", "bugs"),
            labels={"unreadable": "source", "bugs": "consumer"},
        )

    def unreadable_of(self, source: str) -> None:
        """Count one that the sender's input caused."""
        if source in self.unreadable or len(self.unreadable) < MOST_SOURCES:
            self.unreadable[source] += 1


class Consumer:
    """Handles the messages of one durable consumer.

    A message that its input makes impossible is a dead letter and nothing more. Bugs, many in a row, open the breaker: then the
    others are put off, which uses up none of their tries, and one now and then is handled, until one succeeds.
    """

    def __init__(self, bus: Speaker, work: Work, handler: Handler, deps: Any, health: Health, letters: Letters) -> None:
        self._bus = bus
        self._work = work
        self._handler = handler
        self._deps = deps
        self._health = health
        self._letters = letters
        self._breaker = Breaker(asyncio.get_running_loop().time)
        self._tries = Tries()
        self._suspects = Suspects(bus.client, work.name)
        self._part = f"consumer {work.name}"
        self._durations = letters.durations
        self._observers: dict[str, Any] = {}
        health.report(self._part, None)

    async def take(self, msg: Msg) -> None:
        """Handle one message and settle it; in a task of its own."""
        began = perf_counter()
        error = await self._take(msg)
        self._observe(error, perf_counter() - began)
        if log.is_debugging():
            _log.debug("message.handled", consumer=self._work.name, error=error, ms=log.ms_since(began))

    def _observe(self, error: str, seconds: float) -> None:
        observer = self._observers.get(error)
        if observer is None:
            labels = ("nats", "process", self._work.stream, self._work.name, error)
            observer = self._observers[error] = self._durations.labels(*labels)
        observer.observe(seconds)

    async def _take(self, msg: Msg) -> str:
        """Return the kind of the error that the message met, "" for none."""
        sequence = sequence_of(msg)
        source = msg.subject.split(".")[1]
        if not self._breaker.admits(source, tried=self._tries.of(sequence) > 0):
            await msg.nak(delay=self._breaker.hold)
            return "held"
        try:
            async with self._suspects.handling(msg):
                await self._follow(msg.data)
        except Unavailable as error:
            self._breaker.undecided()
            _log.warning("handler.unavailable", consumer=self._work.name, reason=error.detail)
            await msg.nak(delay=error.retry_after or UNAVAILABLE_DELAY)
            return "unavailable"
        except (NotFound, Conflict) as error:
            self._breaker.undecided()
            if await self._again(msg, sequence, ABSENT_DELAYS, error):
                self._letters.unreadable_of(source)
            return "absent"
        except (MillraceError, Refused) as error:
            self._breaker.undecided()
            if await self._bury(msg, sequence, self._tries.failed(sequence), error, "can never work"):
                self._letters.unreadable_of(source)
            return "unreadable"
        except Deadly as error:
            self._breaker.undecided()
            self._letters.bugs[self._work.name] += await self._bury(msg, sequence, deliveries_of(msg), error, "ends its service")
            return "deadly"
        except Exception as error:
            _log.exception("handler.failed", consumer=self._work.name, tries=self._tries.of(sequence) + 1)
            is_dead = await self._again(msg, sequence, BUG_DELAYS, error)
            self._letters.bugs[self._work.name] += is_dead
            if self._breaker.met_bug(source, is_dead=is_dead):
                self._opened(error)
            return "bug"
        except BaseException:
            self._breaker.undecided()
            raise
        else:
            self._tries.settled(sequence)
            if self._breaker.succeeded():
                self._health.report(self._part, None)
                _log.warning("consumer.goes_on", consumer=self._work.name)
            await msg.ack()
            return ""

    def _opened(self, error: Exception) -> None:
        reason = f"{type(error).__name__}: {error}"[:SHOWN]
        self._health.report(
            self._part,
            f"stopped since {rfc3339(utc_now())}, after {breaker.DEAD_IN_A_ROW} dead letters for bugs in a row ({reason}); "
            f"tries one message every {breaker.PAUSE:g} s and goes on by itself",
        )
        _log.error("consumer.stopped", consumer=self._work.name, reason=reason)

    async def _follow(self, document: bytes) -> None:
        if self._bus.is_gone is not None and await self._bus.is_gone(document):
            return
        envelope = open_envelope(document)
        structlog.contextvars.bind_contextvars(correlation_id=envelope.correlationid, message_id=envelope.id)
        if envelope.traceparent is msgspec.UNSET:
            await self._handle(envelope)
            return
        with tracing.going_on(
            envelope.traceparent,
            f"process {envelope.type}",
            "consumer",
            lambda: tracing.of_message(self._work.stream, self._work.name, envelope),
        ):
            await self._handle(envelope)

    async def _handle(self, envelope: Envelope) -> None:
        taken: Any = envelope if self._work.enveloped else open_message(envelope, self._work.messages[0])
        follows = [
            self._bus.seal(one, org=of[0] if of else envelope.org, cause=envelope, id=caused_id(envelope.id, one, discriminator))
            async for one, discriminator, *of in self._handler(taken, self._deps)
        ]
        if len(follows) == 1:
            await self._bus.publish(follows[0])
        elif follows:
            outcomes = await asyncio.gather(*(self._bus.publish(one) for one in follows), return_exceptions=True)
            for outcome in outcomes:
                if isinstance(outcome, BaseException):
                    raise outcome

    async def _again(self, msg: Msg, sequence: int, delays: tuple[float, ...], error: Exception) -> bool:
        """Put a message off, or give it up when it was put off often enough; returns whether it was given up."""
        tries = self._tries.failed(sequence)
        if tries > len(delays):
            return await self._bury(msg, sequence, tries, error, f"still failing after {tries} tries")
        await msg.nak(delay=delays[tries - 1])
        return False

    async def _bury(self, msg: Msg, sequence: int, tries: int, error: Exception, reason: str) -> bool:
        is_dead = await give_up(self._bus, self._work, msg, tries, error, reason)
        if is_dead:
            self._tries.settled(sequence)
        return is_dead


async def give_up(bus: Speaker, work: Work, msg: Msg, tries: int, error: Exception, reason: str) -> bool:
    """Store a message in DEAD, exactly as it was, and terminate it; False when the broker could not take it now."""
    sequence = sequence_of(msg)
    given_up = GivenUp(
        service=bus.service,
        consumer=work.name,
        stream=work.stream,
        sequence=sequence,
        subject=msg.subject,
        document=msg.data,
        error=f"{type(error).__name__}: {error}",
        reason=reason,
        tries=tries,
    )
    try:
        await bury(bus.journal, given_up)
    except Unavailable:
        await msg.nak(delay=UNAVAILABLE_DELAY)
        return False
    await msg.term()
    _log.error("handler.dead_letter", consumer=work.name, reason=str(error), sequence=sequence)
    return True
