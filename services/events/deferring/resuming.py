"""Has the events of deferred webhooks made once the code of their adapters can be asked. One replica at a time does it.

Nothing is remembered that has to be right. A webhook waits by its delivery's row, until `event.resumed` is on disk behind all its
events, or its dead letter. Cut off anywhere it is tried again, and makes events with the same ids.
"""

from __future__ import annotations

import asyncio
from collections import Counter, OrderedDict
from collections.abc import Callable
from datetime import timedelta
from functools import partial
from time import monotonic
from typing import Any, Protocol

import msgspec
import structlog
from sqlalchemy import RowMapping
from sqlalchemy.ext.asyncio import AsyncEngine

from services.events.deferring import rows
from services.events.deferring.rows import NOTHING, WaitedFor
from services.events.parsing import ParsingDeps, accepted_of
from services.events.sandboxed import AdapterLost, AdapterUnavailable
from shared import aggregate, tasks
from shared.adapters import CustomAdapters
from shared.aggregate import Stored
from shared.bus import Bus
from shared.commit import Refused
from shared.envelope import caused_id, open_message, utc_now
from shared.errors import MillraceError, Unavailable
from shared.leader import lead
from shared.letters import GivenUp, bury
from shared.messages import EventResumed, WebhookReceived
from shared.pull import StreamError
from shared.streams import BULK_LANES, WORK

# Not that of a projection, which is made of the service and its name.
LOCK = "events.deferring"
PAUSE = 2.0
# Seconds between looks for adapters that are waited for.
LOOKED_EVERY = 0.5
# Adapters whose webhooks are tried at a time: in all, and of one organization.
MOST, EACH = 32, 2
# Webhooks of one adapter that are tried at a time, once one was read.
AT_ONCE = 2
# Seconds after which others have their turn.
TURN = 10.0
FETCHED = 100
# Adapters that are read from the rows at a time.
ROUND = 1000
# Webhooks in a row with which the code is lost until it rests: it is that, and none of them.
LOST_IN_A_ROW = 3
# Seconds that an adapter rests after an obstacle; each time twice as long. Another version is asked at once.
RESTS = (1.0, 30.0)
# Seconds until a webhook that the code was lost with is tried again, others in between; after the last it is given up.
LOST_DELAYS = (30.0, 60.0, 120.0, 300.0)
# Less than the bus keeps webhooks: a dead letter is kept for ever.
GIVEN_UP_AFTER = timedelta(days=5)
# Webhooks that had their end here, whose rows may not show it yet.
REMEMBERED = 10_000
_PARSE = next(work for work in WORK if work.messages[0] is WebhookReceived)

_log = structlog.get_logger()


class ResumingDeps(ParsingDeps, Protocol):
    """Dependencies of resuming."""

    bus: Bus
    engine: AsyncEngine
    database_url: str


class _Rest(msgspec.Struct):
    """Until when an adapter rests, for how long, and which version it was."""

    until: float
    seconds: float
    version: str | None


class _Lost(msgspec.Struct):
    """How often a version was lost with a webhook, and from when on it is tried again."""

    times: int
    again_at: float
    version: str | None


class _Turn:
    """One adapter's turn: what hinders it, and how many webhooks in a row it was lost with."""

    def __init__(self, version: str | None) -> None:
        self.version = version
        self.obstacle: AdapterUnavailable | None = None
        self.lost = 0
        self.has_read = False


class DeferredWebhooks:
    """Tries deferred webhooks. `adapters` are asked for nothing else, so that those that come meanwhile take no place of theirs."""

    def __init__(self, deps: ResumingDeps, adapters: CustomAdapters, *, now: Callable[[], float] = monotonic) -> None:
        self._deps = deps
        self._adapters = adapters
        self._now = now
        self._found: list[WaitedFor] = []
        self._after = NOTHING
        self._taking: dict[WaitedFor, asyncio.Task[None]] = {}
        self._served: dict[WaitedFor, float] = {}
        self._rests: dict[WaitedFor, _Rest] = {}
        self._lost: OrderedDict[str, _Lost] = OrderedDict()
        self._ended: OrderedDict[str, None] = OrderedDict()

    def fact(self) -> dict[str, Any]:
        """Return how many adapters are waited for, and how many of them rest, as `/readyz` and `/metrics` show it."""
        return {"adapters": len(self._found), "resting": sum(one in self._rests for one in self._found)}

    async def run(self) -> None:
        """Resume for ever; an obstacle is logged, once, and waited out."""
        await lead(
            self._term,
            url=self._deps.database_url,
            service="events",
            lock=LOCK,
            pause=PAUSE,
            first=0.0,
            interrupted="deferring.interrupted",
        )

    async def _term(self) -> int:
        """Lead for ever. Raises `Unavailable`."""
        try:
            while True:
                await self._round()
                await asyncio.sleep(LOOKED_EVERY)
        finally:
            await tasks.end(self._taking.values())
            self._taking.clear()

    async def _round(self) -> None:
        """Begin the turns of adapters that do not rest, those first that had none for longest."""
        found = self._found = await rows.waited_for(self._deps.engine, self._after, ROUND)
        self._after = found[-1] if len(found) == ROUND else NOTHING
        if self._after == NOTHING and len(found) < ROUND:
            self._rests = {one: rest for one, rest in self._rests.items() if one in set(found)}
            self._served = {one: at for one, at in self._served.items() if one in set(found)}
        busy = Counter(one.org for one in self._taking)
        for one in sorted(found, key=lambda one: self._served.get(one, 0.0)):
            if len(self._taking) >= MOST:
                return
            if one in self._taking or busy[one.org] >= EACH or self._is_resting(one):
                continue
            busy[one.org] += 1
            self._served[one] = self._now()
            task = self._taking[one] = asyncio.create_task(self._take(one))
            task.add_done_callback(partial(self._taken, one))

    def _taken(self, one: WaitedFor, _task: asyncio.Task[None]) -> None:
        self._taking.pop(one, None)

    def _is_resting(self, one: WaitedFor) -> bool:
        rest = self._rests.get(one)
        return rest is not None and self._now() < rest.until and rest.version == self._version(one)

    def _version(self, one: WaitedFor) -> str | None:
        found = self._adapters.find(*one)
        return None if found is None else found.version

    async def _take(self, one: WaitedFor) -> None:
        """Try the webhooks of an adapter, the oldest first, until something hinders all of them."""
        turn, until = _Turn(self._version(one)), self._now() + TURN
        after = None
        try:
            while found := await rows.waiting(self._deps.engine, one, after, FETCHED):
                left = [row for row in found if self._is_due(row["id"], turn.version)]
                while left and turn.obstacle is None and self._now() < until:
                    # One alone shows how it is.
                    number = AT_ONCE if turn.has_read and not turn.lost else 1
                    for outcome in await asyncio.gather(*(self._try(row, turn) for row in left[:number]), return_exceptions=True):
                        if outcome is not None:
                            raise outcome
                    del left[:number]
                if turn.obstacle is not None or self._now() >= until or len(found) < FETCHED:
                    break
                after = (found[-1]["received_at"], found[-1]["id"])
        except (MillraceError, StreamError) as error:
            turn.obstacle = AdapterUnavailable(str(error))
        except Exception as error:
            _log.exception("deferred.failed", org=one.org, adapter=one.adapter)
            turn.obstacle = AdapterUnavailable(f"{type(error).__name__}: {error}")
        if turn.obstacle is None:
            self._rests.pop(one, None)
            return
        before = self._rests.get(one)
        longer = 2 * before.seconds if before is not None and not turn.has_read and before.version == turn.version else RESTS[0]
        seconds = min(RESTS[1], longer)
        self._rests[one] = _Rest(self._now() + max(seconds, min(turn.obstacle.retry_after or 0.0, RESTS[1])), seconds, turn.version)
        _log.info("deferred.rests", org=one.org, adapter=one.adapter, reason=turn.obstacle.detail, seconds=seconds)

    def _is_due(self, delivery: str, version: str | None) -> bool:
        lost = self._lost.get(delivery)
        if lost is not None and lost.version != version:
            del self._lost[delivery]
            lost = None
        return delivery not in self._ended and (lost is None or lost.again_at <= self._now())

    async def _try(self, row: RowMapping, turn: _Turn) -> None:
        """Make the events of a webhook. Raises `Unavailable`."""
        stored = await aggregate.stored_at(self._deps.bus.client, "WEBHOOKS", row["sequence"])
        if stored is None:
            # It stays where it is, for people to see.
            self._end(row["id"])
            _log.error("deferred.gone", delivery=row["id"])
            return
        if row["received_at"] < utc_now() - GIVEN_UP_AFTER:
            await self._bury(row, stored, "it has waited for its adapter for too long", "nobody repaired it")
            return
        try:
            await self._resume(stored)
        except AdapterLost as error:
            await self._count_lost(row, stored, error, turn)
        except AdapterUnavailable as error:
            turn.obstacle = error
        except Unavailable:
            raise
        except (MillraceError, Refused) as error:
            turn.has_read, turn.lost = True, 0
            await self._bury(row, stored, f"{type(error).__name__}: {error}", "can never work")
        except Exception as error:
            # A bug that one webhook meets keeps none behind it waiting, either.
            _log.exception("deferred.bug", delivery=row["id"])
            await self._count_lost(row, stored, AdapterLost(f"{type(error).__name__}: {error}"), turn)
        else:
            turn.has_read, turn.lost = True, 0
            self._end(row["id"])

    async def _resume(self, stored: Stored) -> None:
        webhook, cause, bus = open_message(stored.envelope, WebhookReceived), stored.envelope, self._deps.bus
        events = [event async for event in accepted_of(webhook, self._deps, retry=None, adapters=self._adapters)]
        # Nobody waits for those that come at once after a repair as for a webhook of just now.
        made = [(msgspec.structs.replace(event, lane=event.lane or BULK_LANES[0]), event.event) for event in events]
        resumed = EventResumed(source=webhook.source, delivery=webhook.delivery, adapter=webhook.adapter)
        for message, discriminator in (*made, (resumed, "resumed")):
            id_ = caused_id(cause.id, message, discriminator)
            await bus.publish(bus.seal(message, org=cause.org, cause=cause, id=id_))

    async def _count_lost(self, row: RowMapping, stored: Stored, error: AdapterLost, turn: _Turn) -> None:
        turn.lost += 1
        if turn.lost >= LOST_IN_A_ROW:
            turn.obstacle = error
        before = self._lost.pop(row["id"], None)
        times = 1 if before is None else before.times + 1
        if times > len(LOST_DELAYS):
            await self._bury(row, stored, error.detail, f"still failing after {times} tries", times)
            return
        self._lost[row["id"]] = _Lost(times, self._now() + LOST_DELAYS[times - 1], turn.version)
        if len(self._lost) > REMEMBERED:
            self._lost.popitem(last=False)

    async def _bury(self, row: RowMapping, stored: Stored, error: str, reason: str, tries: int = 1) -> None:
        given_up = GivenUp(
            service="events",
            consumer=_PARSE.name,
            stream="WEBHOOKS",
            sequence=stored.sequence,
            subject=stored.subject,
            document=stored.document,
            error=error,
            reason=reason,
            tries=tries,
        )
        await bury(self._deps.bus.journal, given_up)
        self._end(row["id"])
        _log.error("handler.dead_letter", consumer=_PARSE.name, reason=error, sequence=stored.sequence)

    def _end(self, delivery: str) -> None:
        self._lost.pop(delivery, None)
        self._ended[delivery] = None
        if len(self._ended) > REMEMBERED:
            self._ended.popitem(last=False)
