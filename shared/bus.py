"""The bus as a service sees it: messages to handle, questions to ask or answer."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Iterable
from functools import partial
from typing import Any, TypeVar

from nats.aio.client import Client
from nats.aio.msg import Msg

from shared import aggregate
from shared.asking import Answering, Questions, ask
from shared.bounded import Turns
from shared.circuits import Circuits
from shared.commit import Journal
from shared.connection import attend, connected_broker
from shared.consumer import Consumer, Handlers, Letters
from shared.durables import WorkBacklog, keep, lag
from shared.envelope import Envelope, Sealed, seal, utc_now
from shared.health import Health
from shared.messages import Logged, Message
from shared.messages.declaration import declaration_of
from shared.metrics import exposition
from shared.projected import IsPast
from shared.puller import Puller
from shared.questions import ASKED, Command, Question, asked_of
from shared.questions.health import HEALTH, METRICS, Exposition
from shared.sharding import agreed, check
from shared.streams import RUN_READERS, WORK, Work

# Messages of one consumer that are handled at the same time. Most of them wait for a commit: half of them fill one while the
# other half's is under way, so twice as many are half as many commits.
CONCURRENCY = 128
# Questions, and as many commands, that are answered at the same time unless a service wants more; half of them of one organization,
# which is more than the code of its adapters is asked for at a time.
ANSWERED = 64
# Messages of one consumer that are in hand, those that wait for their turn included: the next are here before the last are done.
FETCHED = 2 * CONCURRENCY
# Seconds that what is handled has to end when the service does.
DRAIN = 5.0
A = TypeVar("A")


class Bus:
    """One service's connection: its inbox, its journal, its handlers and answers."""

    def __init__(self, client: Client, service: str, health: Health) -> None:
        self.client = client
        self.service = service
        self.journal = Journal(client)
        self._health = health
        self._taking: list[Puller | Answering] = []
        self._circuits: Circuits | None = None
        # Whether a document is of an organization that is being removed, or was: no work is done for one.
        self.is_gone: IsPast | None = None

    # -- publishing -----------------------------------------------------------------------------------------------

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

    async def publish_log(self, logged: Logged, correlation: str | None) -> None:
        """Store a record of this service's log; the sink of `shared.log` calls it."""
        await self.journal.publish(self.seal(logged, org="global", correlation=correlation))

    # -- asking ---------------------------------------------------------------------------------------------------

    async def ask(self, asked: Question[A] | Command[A], *, timeout: float | None = None) -> A:
        """Ask a question or give a command, and return the declared answer.

        Raises the owner's error, `Unavailable` without an answer in time, `TooLarge` for more than the broker carries.
        """
        if self._circuits is None:
            return await ask(self.client, asked, timeout=timeout)
        return await self._circuits.ask(asked, timeout=timeout)

    def guard(self, circuits: Circuits) -> None:
        """Have questions go through circuits from now on: this service answers people, who wait for each of them."""
        self._circuits = circuits

    # -- answering ------------------------------------------------------------------------------------------------

    def answer(self, questions: Questions, deps: Any, *, at_once: int = ANSWERED) -> None:
        """Answer these questions and commands from `start` on: `at_once` questions, and half as many of one organization."""
        every = dict(questions)
        if self.service in HEALTH:
            every |= {HEALTH[self.service]: self._how_it_is, METRICS[self.service]: self._measured}
        served = {asked_of(cls).subject: (cls, function) for cls, function in every.items()}
        missing = {subject for subject, (asked, _) in ASKED.items() if asked.service == self.service} - served.keys()
        if missing:
            raise TypeError(f"{self.service} does not answer {sorted(missing)}")

        for kind, most in (("ask", at_once), ("do", ANSWERED)):
            self._taking.append(Answering(self.client, self.service, kind, served, deps, at_once=most, each=most // 2))

    def health_document(self) -> dict[str, Any]:
        """Return the health of this service, by part."""
        return self._health.document()

    async def _how_it_is(self, _question: Any, _deps: Any) -> dict[str, Any]:
        return self.health_document()

    async def _measured(self, _question: Any, _deps: Any) -> Exposition:
        return Exposition(exposition(self._health).decode())

    # -- handling -------------------------------------------------------------------------------------------------

    def handle(self, handlers: Handlers, deps: Any, *, admits: Callable[[Work], bool] = lambda _: True) -> None:
        """Consume this service's work with these handlers from `start` on; more of some work only while `admits` says so of it."""
        letters = Letters(self._health)
        for work in WORK:
            if work.service != self.service or work.managed:
                continue
            handle = Consumer(self, work, handlers[work.messages[0]], deps, self._health, letters).take
            # The key of what is handled: the source, of webhooks and of events.
            queue = Turns[Msg](lambda msg: msg.subject.split(".", 2)[1])
            self._taking.append(
                Puller(
                    self.client,
                    work.stream,
                    work.name,
                    handle,
                    at_once=CONCURRENCY,
                    fetched=FETCHED,
                    queue=queue,
                    admits=partial(admits, work),
                )
            )

    async def attend(self) -> None:
        """Watch the client for ever. Raises `GaveUp` when it will never be connected again: then only a new process is.

        A broker that has read a new configuration connects its clients anew: `ConfigError` where there are more shards by then.
        """
        await attend(self.client, partial(check, self.client) if self.service in RUN_READERS else None)

    async def start(self) -> None:
        """Begin to handle and to answer; when this returns the broker knows of it."""
        for one in self._taking:
            await one.start()
        # The client writes the PING of a flush past subscriptions that are still in its buffer; by the second they are out.
        for _ in range(2):
            await self.client.flush()

    async def drain(self) -> None:
        """Take nothing more, and let what was taken end; what does not end in time is given back."""
        await asyncio.gather(*(one.drain(DRAIN) for one in self._taking))
        self._taking.clear()

    async def keep_durables(self, also: Iterable[Work] = ()) -> None:
        """See for ever that the consumers of this service's work are there, and some more; what waits is the fact `consumers`."""
        backlogs: dict[str, WorkBacklog] = {}
        self._health.state("consumers", lambda: lag(backlogs), labels=dict.fromkeys(("waiting", "in_work", "age_s"), "consumer"))
        await keep(self.client, [*(work for work in WORK if work.service == self.service), *also], backlogs)


@contextlib.asynccontextmanager
async def connected(url: str, *, service: str, health: Health) -> AsyncIterator[Bus]:
    """Connect to the broker for the block, and go on reconnecting; drains at the end.

    Raises OSError or nats' errors when the first connection fails, `ConfigError` where the streams have another number of shards.
    """
    async with connected_broker(url, service=service, health=health) as broker:
        if service in RUN_READERS:
            await agreed(broker.connection, health)
        bus = Bus(broker.connection, service, health)
        try:
            yield bus
        finally:
            await bus.drain()
