"""Has turns taken at the registrations of sources, by one replica at a time: the leader.

It is woken by changes of sources, integrations, mappings and connections, by what senders say, and by the nearest time at which
something is due. A sender that hangs holds up the turns of its own organization only, and few of them.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import Counter
from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Protocol

import structlog
from sqlalchemy.ext.asyncio import AsyncEngine

from services.events.registrations import plan, rows
from services.events.registrations.rows import Watched
from services.events.registrations.turn import Turn, TurnDeps, state_of
from shared import aggregate, tasks
from shared.envelope import open_envelope, open_message, utc_now
from shared.errors import Invalid, MillraceError, Unavailable
from shared.leader import lead
from shared.messages import Message
from shared.ordered_reader import OrderedReader
from shared.organizations import PLATFORM
from shared.owners.rows import ResourceRows
from shared.projection import Projection
from shared.pull import Delivered, StreamError
from shared.resources.declaration import ResourceChanged, ResourceRemoved

# Not that of a projection, which is made of the service and its name.
LOCK = "events.registering"
PAUSE = 2.0
# Turns at a time, in all and of one organization: each may wait for its sender for some times 30 s.
MOST, EACH = 64, 4
# Sources that one look finds by their time.
FOUND = 200
# Seconds: wakings within the first are one; after the last everything is looked at once more, in case that one was lost.
TOGETHER, SWEEP = 0.05, 300.0
# After a turn that could not be recorded, or found nothing of what its row says is due: the row is behind.
REST = timedelta(seconds=5)
# Seconds of one turn, which asks a sender several times: a slow one, or one of many pages, keeps its place no longer.
TURN = 180.0
_CATALOG = ("source", "integration", "mapping", "registration")

_log = structlog.get_logger()


class RegistrarDeps(TurnDeps, Protocol):
    """Dependencies of registering."""

    engine: AsyncEngine
    database_url: str
    resources: ResourceRows
    catalog: Projection
    registered: Projection


class Registrar:
    """Keeps registrations as their sources want them. Safe to use from several replicas."""

    def __init__(self, deps: RegistrarDeps, *, now: Callable[[], datetime] = utc_now) -> None:
        self._deps = deps
        self._now = now
        self._woken = asyncio.Event()
        # Organizations of which something changed that a turn may have failed for, and the sources to be looked at for it.
        self._changed: set[str] = set()
        self._hurried: dict[str, str] = {}
        # Sources of which something changed, and those that are due whatever their rows say, with their organizations.
        self._looked_at: dict[str, str] = {}
        # When everything was looked at for the last time.
        self._swept: datetime | None = None
        self._taking: dict[str, tuple[str, asyncio.Task[None]]] = {}
        self._resting: dict[str, datetime] = {}

    async def run(self) -> None:
        """Register for ever; an obstacle is logged, once, and waited out."""
        await lead(
            self._term,
            url=self._deps.database_url,
            service="events",
            lock=LOCK,
            pause=PAUSE,
            first=0.0,
            interrupted="registering.interrupted",
        )

    async def _term(self) -> int:
        """Lead for ever. Raises `Unavailable`."""
        # Since the leader before something may have changed that left no trace.
        self._changed, self._swept = {PLATFORM}, None
        self._woken.set()
        client = self._deps.bus.client
        after = [await aggregate.newest(client, *_CATALOG), await aggregate.newest(client, "connection")]
        following = [
            asyncio.create_task(self._follow("CATALOG", _CATALOG, after[0])),
            asyncio.create_task(self._follow("CONNECTIONS", ("connection",), after[1])),
        ]
        try:
            while True:
                self._woken.clear()
                left = await self._round()
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(min(max(left, 0.0), SWEEP)):
                        await self._woken.wait()
                await asyncio.sleep(TOGETHER)
        finally:
            await tasks.end([*following, *(task for _, task in self._taking.values())])
            self._taking.clear()

    async def _follow(self, stream: str, nouns: tuple[str, ...], after: int) -> None:
        """Wake for messages of these nouns, for ever, once their rows are written."""
        while True:
            batches = OrderedReader(
                self._deps.bus.client, stream, filters=tuple(f"{noun}.>" for noun in nouns), after=after
            ).batches()
            try:
                async with contextlib.aclosing(batches):
                    async for batch in batches:
                        await self._take_notice(batch)
                        after = batch[-1].sequence
                        self._woken.set()
            except (Unavailable, StreamError) as error:
                _log.warning("registering.interrupted", reason=str(error))
            await asyncio.sleep(PAUSE)

    async def _take_notice(self, batch: list[Delivered]) -> None:
        last: dict[str, int] = {}
        looked_at: dict[str, str] = {}
        for one in batch:
            noun = one.subject.partition(".")[0]
            last["registration" if noun == "registration" else "resource"] = one.sequence
            with contextlib.suppress(Invalid):
                envelope = open_envelope(one.data)
                if noun == "registration":
                    looked_at[envelope.subject] = envelope.org
                elif noun == "source":
                    message: Message = open_message(envelope)
                    if isinstance(message, ResourceChanged | ResourceRemoved):
                        looked_at[message.id] = envelope.org
                else:
                    self._changed.add(envelope.org)
            if noun == "connection":
                last.pop("resource")
        if "resource" in last:
            await self._deps.catalog.caught_up(last["resource"])
        if "registration" in last:
            await self._deps.registered.caught_up(last["registration"])
        self._looked_at |= looked_at

    async def _round(self) -> float:
        """Begin the turns that are due; return in how many seconds the next one is. Raises `Unavailable`."""
        changed, self._changed = self._changed, set()
        looked_at, self._looked_at = self._looked_at, {}
        now = self._now()
        self._resting = {id_: until for id_, until in self._resting.items() if until > now}
        busy = Counter(org for org, _ in self._taking.values())
        try:
            found, nearest = await self._read(now, changed, looked_at | self._hurried, busy)
        except Unavailable:
            self._changed |= changed
            self._looked_at = looked_at | self._looked_at
            raise
        # Those for which there is no room now: the end of a turn wakes.
        self._looked_at = {id_: org for id_, org in looked_at.items() if busy[org] >= EACH} | self._looked_at
        self._hurried = {id_: org for id_, org in self._hurried.items() if busy[org] >= EACH or id_ in found}
        for one in found.values():
            if one.org in changed or PLATFORM in changed:
                self._hurried[one.id] = one.org
            at = max(plan.due_at(one.state, one.version, now, hurried=one.id in self._hurried), self._resting.get(one.id, now))
            if at > now:
                nearest = min(nearest, at)
                if one.id in self._resting:
                    self._looked_at[one.id] = one.org
                continue
            # Its row may not say that it is due: it is looked at until it is not.
            self._looked_at[one.id] = one.org
            if one.id not in self._taking and busy[one.org] < EACH and len(self._taking) < MOST:
                busy[one.org] += 1
                self._begin(one)
        return (nearest - now).total_seconds()

    async def _read(
        self, now: datetime, changed: set[str], looked_at: dict[str, str], busy: Counter[str]
    ) -> tuple[dict[str, Watched], datetime]:
        """Return by id what may be due, and when to look again: seldom everything, else what the rows or changes say."""
        sweep = timedelta(seconds=SWEEP)
        if PLATFORM in changed or self._swept is None or now >= self._swept + sweep:
            every = {one.id: one for one in await rows.watched(self._deps.engine)}
            self._swept = now
            return every, now + sweep
        found, nearest = await rows.due(
            self._deps.engine,
            now,
            FOUND,
            sources=[id_ for id_, org in looked_at.items() if busy[org] < EACH],
            orgs=changed,
            besides=self._taking.keys() | self._resting.keys(),
            without=[org for org, number in busy.items() if number >= EACH],
        )
        return {one.id: one for one in found}, min(one for one in (nearest, self._swept + sweep) if one is not None)

    def _begin(self, one: Watched) -> None:
        hurried = one.id in self._hurried
        self._hurried.pop(one.id, None)
        task = asyncio.create_task(self._take(one, hurried=hurried))
        self._taking[one.id] = one.org, task

        def ended(_task: asyncio.Task[None]) -> None:
            self._taking.pop(one.id, None)
            self._woken.set()

        task.add_done_callback(ended)

    async def _take(self, one: Watched, *, hurried: bool) -> None:
        now = self._now()
        try:
            async with asyncio.timeout(TURN):
                recorded = await self.look_at(one.id, one.org, hurried=hurried)
            if not recorded and plan.due_at(one.state, one.version, now) <= now:
                self._resting[one.id] = now + REST
        except TimeoutError:
            self._rest(one, f"a turn of it took longer than {TURN:g} s")
        except (MillraceError, StreamError) as error:
            self._rest(one, str(error))
        except Exception:
            _log.exception("registration.bug", org=one.org, source=one.id)
            self._rest(one, "a bug")

    def _rest(self, one: Watched, reason: str) -> None:
        _log.warning("registration.interrupted", org=one.org, source=one.id, reason=reason)
        self._resting[one.id] = self._now() + REST

    async def look_at(self, id_: str, org: str, *, hurried: bool = False) -> bool:
        """Take one turn at a source; return whether it recorded anything. Raises `Conflict`, `Unavailable`."""
        stored, sequence = await aggregate.present(self._deps.bus.client, "registration", id_)
        found = await self._deps.resources.by_id("source", id_)
        source = None
        if found is not None and not found[1] and found[0].spec.enabled and "registration" in found[0].spec.settings:
            source = found[0]
        last = state_of(stored)
        turn = Turn(self._deps, id_=id_, org=org, source=source, last=last, sequence=sequence, now=self._now)
        try:
            await turn.take(hurried=hurried)
        finally:
            if turn.sequence != sequence:
                await self._deps.registered.caught_up(turn.sequence)
        return turn.sequence != sequence
