"""What an event costs when few and when very many runs wait for others: each run for an invoice of its own, of one source and type.

Events are looked for among the waits by the events service's own looks; who answers for the executor only counts. The limit is what
an event costs when a hundred wait.
"""

from __future__ import annotations

import asyncio
import random
import time
from contextlib import AbstractAsyncContextManager, nullcontext
from pathlib import Path
from typing import Any

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine

from bench.support import outcome
from bench.support.outcome import BenchError, Outcome
from services.events.awaiting import plan, rows
from services.events.awaiting.waking import MOST_EVENTS, Waker
from shared.asking import Answering
from shared.blobs import Blobs
from shared.bus import Bus
from shared.db import open_engine, reading
from shared.envelope import new_id, rfc3339, utc_now
from shared.expressions.pool import Expressions, evaluating
from shared.health import Health
from shared.messages import AwaitedEvent, EventAccepted, RunWaiting, Wait
from shared.projected import Recorded
from shared.pull import Delivered
from shared.questions.runs import AnswerWait, WaitAnswered
from tests.support.inside import bus_of
from tests.support.servers import Place, running_servers

FEW, MANY = 100, 100_000
ORG, SOURCE, WHERE = "default", "shop", "event.data.id == invoice"
# Messages that a projection takes together.
BATCH = 500


class Deps:
    """What a `Waker` needs."""

    def __init__(self, bus: Bus, engine: AsyncEngine, expressions: Expressions) -> None:
        """Hold them."""
        self.bus = bus
        self.bodies = Blobs(bus.client, "bodies")
        self.engine = engine
        self.expressions = expressions

    def room_for(self, _reference: str | None) -> AbstractAsyncContextManager[Any]:
        """Return a context of no effect."""
        return nullcontext()


async def measure(_folder: Path, seconds: float) -> Outcome:
    """Measure with few and with many waits, in places of their own, each for half of the time."""
    async with running_servers() as servers:
        figures = {}
        for waits in (FEW, MANY):
            async with servers.place() as place:
                figures[waits] = await _costs(place, waits, seconds / 2)
    (noted_few, few), (noted_many, many) = figures[FEW], figures[MANY]
    return Outcome(
        name="waits",
        figure=many,
        unit="ms/event",
        limit=few,
        ratio=many / few,
        more={
            f"ms for each event that one of {FEW:,} waits": few,
            f"ms for each event that one of {MANY:,} waits": many,
            "ratio": many / few,
            f"of that, ms to note it among {FEW:,}": noted_few,
            f"of that, ms to note it among {MANY:,}": noted_many,
        },
    )


async def _costs(place: Place, waits: int, seconds: float) -> tuple[float, float]:
    """Return the milliseconds that it takes to note an event, and to note and to match it, where so many wait."""
    answered: list[str] = []

    async def answer(command: AnswerWait, _deps: object) -> WaitAnswered:
        answered.append(command.result["data"]["id"])
        return WaitAnswered(is_taken=True, is_open=False)

    engine = open_engine(place.database_url("events"), service="events")
    served = {"do.executor.answer_wait": (AnswerWait, answer)}
    try:
        async with (
            bus_of(place, "events") as bus,
            bus_of(place, "executor") as executor,
            evaluating(Health("events")) as expressions,
        ):
            answering = Answering(executor.client, "executor", "do", served, None, at_once=64, each=64)
            await answering.start()
            await executor.client.flush()
            await _waiting(engine, bus, waits)
            waker = Waker(Deps(bus, engine, expressions))
            drawn = random.Random(waits)
            noted = matched = 0.0
            await _turn(waker, engine, await _accepted(bus, ["in_0"]))  # what is done at first is done once
            events, until = 0, time.monotonic() + seconds
            while time.monotonic() < until:
                # No wait is answered twice in a turn.
                ids = [f"in_{one}" for one in drawn.sample(range(waits), min(FEW, MOST_EVENTS))]
                batch = await _accepted(bus, ids)
                answered.clear()
                began = time.monotonic()
                noted += await _turn(waker, engine, batch)
                matched += time.monotonic() - began
                events += len(ids)
                if sorted(answered) != sorted(ids):
                    raise BenchError(f"{len(answered)} answers to {len(ids)} events, or others than those that wait for them")
            await answering.drain(5)
    finally:
        await engine.dispose()
    return 1000 * noted / events, 1000 * matched / events


async def _turn(waker: Waker, engine: AsyncEngine, batch: list[tuple[Recorded, EventAccepted]]) -> float:
    """Note events and have them answer; returns the seconds of the first."""
    began = time.monotonic()
    async with reading(engine) as connection:
        for statement in rows.event_statements(batch):
            await statement.run(connection)
    noted = time.monotonic() - began
    await waker.turn(ORG)
    return noted


async def _waiting(engine: AsyncEngine, bus: Bus, waits: int) -> None:
    """Have so many runs wait."""
    since = rfc3339(utc_now())
    for first in range(0, waits, BATCH):
        batch = []
        for number in range(first, min(first + BATCH, waits)):
            event = AwaitedEvent(
                source=SOURCE,
                source_name=SOURCE,
                type="invoice.paid",
                since=since,
                where=WHERE,
                values={"invoice": f"in_{number}"},
                path="data.id",
                value=str(plan.canonical(f"in_{number}")),
            )
            wait = Wait(kind="event", name="invoice.paid from shop", ordinal=0, position=0, awaited=event)
            message = RunWaiting(run=f"run-{number}", attempt=1, blocked_on="event", waits=[wait])
            batch.append(_recorded(bus, message, number + 1))
        async with reading(engine) as connection:
            for statement in rows.wait_statements(batch):
                await statement.run(connection)
    async with engine.begin() as connection:
        await connection.execute(text("TRUNCATE new_wait"))
        await connection.execute(text("ANALYZE event_wait"))


async def _accepted(bus: Bus, ids: list[str]) -> list[tuple[Recorded, EventAccepted]]:
    """Put an event for each id on the bus."""

    async def publish(id_: str) -> tuple[Recorded, EventAccepted]:
        message = EventAccepted(
            source=SOURCE,
            source_name=SOURCE,
            event=new_id(),
            delivery=new_id(),
            type="invoice.paid",
            headers={},
            received_at=rfc3339(utc_now()),
            data={"id": id_, "sum": 7, "customer": {"name": "A", "mail": "a@example.com"}},
        )
        sequence = await bus.publish(bus.seal(message, org=ORG))
        return _recorded(bus, message, sequence), message

    return list(await asyncio.gather(*(publish(one) for one in ids)))


def _recorded(bus: Bus, message: Any, sequence: int) -> Recorded:
    sealed = bus.seal(message, org=ORG)
    return Recorded(Delivered("", sealed.document, sequence, utc_now(), {}, 0), sealed.envelope, message, "bench")


if __name__ == "__main__":
    outcome.command(measure, seconds=12, about=__doc__ or "")()
