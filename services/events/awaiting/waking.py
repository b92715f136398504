"""Lets events answer the runs that wait for them.

The rows say what is to be done: events whose source and type somebody waits for, and waits of which no earlier events have been
looked at. An event is in EVENTS before its waits are looked for among the rows, and a wait is among the rows before its earlier
events are looked for in EVENTS: of two that belong together at least one finds the other. Found twice, or by two replicas, it is
one answer: the executor decides, by the run's own messages. What was cut off is found again.

Each organization is served by itself, some at a time, a bounded number of events and waits in each turn.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Sequence
from contextlib import AbstractAsyncContextManager
from typing import Any, Protocol

import msgspec
import structlog
from sqlalchemy.ext.asyncio import AsyncEngine

from services.events import domain
from services.events.awaiting import plan, rows
from services.events.awaiting.plan import Occurred, OpenWait
from services.events.awaiting.recent import RecentEvents
from shared import aggregate, tasks
from shared.blobs import Blobs
from shared.bus import Bus
from shared.envelope import derived_id
from shared.errors import MillraceError, NotFound, Unavailable
from shared.expressions.pool import Expressions, Trouble
from shared.messages import EventAccepted
from shared.pull import StreamError
from shared.questions.runs import AnswerWait, WaitAnswered

# Organizations that are served at a time, and events and waits of one in a turn.
AT_ONCE = 4
MOST_EVENTS, MOST_WAITS, MOST_CANDIDATES = 200, 1000, 2000
# Answers under way at a time: the executor looks at each run, at eight of them at the same time.
ANSWERS = 8
# Messages that are read from the bus at a time.
READS = 16
# Looks that are left out after one that found nobody waiting.
RESTS = 9
# Seconds until what could not be done is tried again.
AGAIN = 1.0
_log = structlog.get_logger()


class WakingDeps(Protocol):
    """Dependencies of the looks."""

    bus: Bus
    bodies: Blobs
    engine: AsyncEngine
    expressions: Expressions

    def room_for(self, reference: str | None) -> AbstractAsyncContextManager[Any]:
        """Return a context within which the data at `reference` may be held in memory."""


class Waker:
    """Looks for what is to be done; one replica at a time does."""

    def __init__(self, deps: WakingDeps) -> None:
        self._deps = deps
        self._recent = RecentEvents(deps.bus.client, self._occurred)
        self._places = asyncio.Semaphore(AT_ONCE)
        self._answers = asyncio.Semaphore(ANSWERS)
        self._reads = asyncio.Semaphore(READS)
        self._rests = 0
        self._serving: dict[str, asyncio.Task[None]] = {}

    async def once(self) -> int:
        """Begin to serve those who are not served yet; returns how many. Raises `Unavailable`."""
        if self._rests:
            self._rests -= 1
            return 0
        whose, is_waited = await rows.organizations(self._deps.engine)
        self._rests = 0 if is_waited else RESTS
        found = [org for org in whose if org not in self._serving]
        for org in found:
            task = self._serving[org] = asyncio.create_task(self._serve(org))
            task.add_done_callback(lambda _, org=org: self._serving.pop(org))  # type: ignore[misc]
        return len(found)

    async def close(self) -> None:
        """End what is under way."""
        await tasks.end(list(self._serving.values()))

    async def _serve(self, org: str) -> None:
        try:
            goes_on = True
            while goes_on:
                async with self._places:
                    goes_on = await self.turn(org)
        except (MillraceError, StreamError) as error:
            _log.warning("waits.interrupted", org=org, reason=str(error))
            await asyncio.sleep(AGAIN)
        except Exception:
            _log.exception("waits.interrupted", org=org)
            await asyncio.sleep(AGAIN)

    async def turn(self, org: str) -> bool:
        """Look at some events and at some waits of an organization; returns whether there were any. Raises `Unavailable`."""
        engine = self._deps.engine
        noted = await rows.events(engine, org, MOST_EVENTS)
        new, waits = await rows.new_waits(engine, org, MOST_WAITS)
        if noted:
            await self._wake(noted)
            await rows.forget(engine, [event for event, _ in noted])
        if new:
            await asyncio.gather(*(self._look_back(source, waits) for source in {one.source for one in waits}))
            await rows.looked(engine, new)
        return bool(noted or new)

    async def _wake(self, noted: Sequence[tuple[str, int]]) -> None:
        """Let some events answer the waits that are there."""
        found = await asyncio.gather(*(self._at(sequence) for _, sequence in noted))
        occurred = [one for one in found if one is not None]
        kinds = {(one.event.source, pattern) for one in occurred for pattern in plan.patterns_of(one.event.type)}
        paths = await rows.paths(self._deps.engine, kinds) if kinds else {}
        sought: list[rows.Sought] = []
        for number, one in enumerate(occurred):
            for pattern in plan.patterns_of(one.event.type):
                for path in paths.get((one.event.source, pattern), ()):
                    value = plan.value_at(one.document, path)
                    if value is not None:
                        sought.append((number, one.event.source, pattern, path, value))
        after: str | None = ""
        while sought and after is not None:
            candidates = await rows.candidates(self._deps.engine, sought, after, MOST_CANDIDATES)
            after = candidates[-1][1].run if len(candidates) >= MOST_CANDIDATES else None
            await self._answer((wait, occurred[number]) for number, wait in candidates)

    async def _look_back(self, source: str, waits: Sequence[OpenWait]) -> None:
        """Let events that came before waits of a source answer them."""
        mine = [one for one in waits if one.source == source]
        by_value: dict[tuple[str, str, str], list[OpenWait]] = {}
        for one in mine:
            by_value.setdefault((one.type, one.path, one.value), []).append(one)
        paths = {(one.type, one.path) for one in mine}
        pairs: list[tuple[OpenWait, Occurred]] = []
        since = min(one.since for one in mine)
        async for occurred in self._recent.since(source, since):
            for pattern in plan.patterns_of(occurred.event.type):
                for path in (path for type_, path in paths if type_ == pattern):
                    value = plan.value_at(occurred.document, path)
                    found = by_value.get((pattern, path, value), ()) if value is not None else ()
                    pairs += [(wait, occurred) for wait in found]
            if len(pairs) >= MOST_CANDIDATES:
                await self._answer(pairs)
                pairs = []
        await self._answer(pairs)

    async def _answer(self, pairs: Iterable[tuple[OpenWait, Occurred]]) -> None:
        """Let events answer waits, those of each run in order. Raises `Unavailable` where one was not to be had."""
        by_run = plan.in_order([pair for pair in pairs if pair[0].since <= pair[1].at])
        await asyncio.gather(*(self._answer_run(of) for of in by_run.values()))

    async def _answer_run(self, pairs: Sequence[tuple[OpenWait, Occurred]]) -> None:
        closed: set[tuple[str, int]] = set()
        taken: set[str] = set()
        for wait, occurred in pairs:
            if wait.key in closed or occurred.event.event in taken or not await self._fits(wait, occurred):
                continue
            async with self._answers:
                try:
                    told: WaitAnswered = await self._deps.bus.ask(answer_of(wait, occurred))
                except Unavailable:
                    raise
                except MillraceError as error:
                    # It would be refused each time, and others wait behind it.
                    _log.warning("wait.not_answered", run=wait.run, wait=wait.name, reason=error.detail)
                    continue
            if told.is_taken:
                taken.add(occurred.event.event)
            if not told.is_open:
                closed.add(wait.key)

    async def _fits(self, wait: OpenWait, occurred: Occurred) -> bool:
        """Return whether the expression of a wait is true of an event: one without a value is not. Raises `Unavailable`."""
        if wait.expression is None:
            return True
        try:
            value = await self._deps.expressions.value(wait.org, wait.expression, wait.variables | {"event": occurred.document})
        except Trouble:
            return False
        return value is True

    async def _at(self, sequence: int) -> Occurred | None:
        async with self._reads:
            stored = await aggregate.stored_at(self._deps.bus.client, "EVENTS", sequence)
        return None if stored is None else await self._occurred(stored)

    async def _occurred(self, stored: aggregate.Stored) -> Occurred | None:
        """Return the event that a message is about; None for other messages, and for one whose data are gone."""
        event = stored.message()
        if not isinstance(event, EventAccepted):
            return None
        data = event.data
        if event.data_ref is not None:
            try:
                async with self._deps.room_for(event.data_ref):
                    data = msgspec.json.decode(await self._deps.bodies.read(event.data_ref))
            except NotFound:
                return None
        return Occurred(sequence=stored.sequence, at=stored.envelope.time, event=event, document=domain.event_document(event, data))


def answer_of(wait: OpenWait, occurred: Occurred) -> AnswerWait:
    """Return the command that has an event answer a wait: the same whenever it is given."""
    event, document = occurred.event, occurred.document
    if event.data_ref is not None:
        size = len(msgspec.json.encode(document["data"]))
        document = document | {"data": {"$ref": event.data_ref, "bytes": size}}
    return AnswerWait(
        id=derived_id(event.event, "answer", wait.run, wait.name, str(wait.ordinal)),
        org=wait.org,
        actor=f"event:{event.event}",
        run=wait.run,
        name=wait.name,
        ordinal=wait.ordinal,
        event=event.event,
        delivery=event.delivery,
        number=event.number,
        result=document,
    )
