"""The writer of a projection: one active per projection, with the position in the same transaction."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable, Coroutine, Iterable, Mapping, Sequence
from datetime import timedelta
from typing import Any

import asyncpg
import msgspec
import structlog
from nats.aio.client import Client
from sqlalchemy.ext.asyncio import AsyncEngine

from shared import checkpoint, db, tracing
from shared.checkpoint import CheckpointMoved
from shared.commit import Journal
from shared.db import Connection
from shared.envelope import utc_now
from shared.errors import MillraceError, Unavailable
from shared.health import Health
from shared.letters import GivenUp, bury_in_place
from shared.lingering import Lingering
from shared.messages.shards import in_shard, shard_of
from shared.observing import Observer
from shared.ordered_reader import OrderedReader
from shared.projected import IsPast, Projected, traces_of, without
from shared.pull import NO_MESSAGE, Delivered, StreamError, api_request
from shared.runs import RUN_SHARDS
from shared.salvage import Tally, clean, is_passing
from shared.statements import Copy, Statement

INCARNATION = "millrace_incarnation"
# Seconds that a writer waits after an error before it begins again from its checkpoint.
PAUSE = 0.5
# Seconds for which a checkpoint may stay behind messages that changed no rows: read again, they change none either.
BEHIND_FOR = 1.0
# Messages of this stream are dead letters already.
DEAD = "DEAD"
# Messages that were stored longer ago are no part of what goes on: rows are made anew of them.
FRESH = timedelta(hours=1)
# Characters of an error that are logged: those of some drivers repeat the whole value.
SHOWN = 500

_log = structlog.get_logger()


class Projection:
    """Keeps one stream's rows up to date in one schema.

    Holds an advisory lock on a connection of its own, and writes through it; a second replica waits for the lock. Each batch and
    its checkpoint are one transaction that only succeeds if the checkpoint is still ours. It does not wait for the disk: after
    a power cut rows and checkpoint are older together, and the missing messages are read again.

    No message stops it. A batch that cannot be taken, be it for Postgres or for a bug, is halved until the one message is found:
    that is kept cleaned, or else becomes a dead letter. Every half is committed with its checkpoint, so that the successor of a
    killed process goes on from there.
    """

    def __init__(
        self,
        *,
        client: Client,
        engine: AsyncEngine,
        url: str,
        service: str,
        projected: Projected,
        health: Health,
        tally: Tally | None = None,
    ) -> None:
        self._client = client
        self._journal = Journal(client)
        self._engine = engine
        self._url = url
        self._service = service
        self.name = projected.name
        self.stream = projected.stream
        self._projected = projected
        self._health = health
        self._tally = tally or Tally(health)
        self._lingering = Lingering(projected.linger, projected.prompt)
        self._last = -1
        # The sequence of the stored checkpoint while it is behind, and since when it is.
        self._behind: int | None = None
        self._behind_since = 0.0
        self._moved = asyncio.Condition()

    async def run(self) -> None:
        """Project for ever; trouble is reported to health, waited out, and begun again from the checkpoint."""
        part = f"projection {self.name}"

        def waits() -> None:
            # Another replica keeps the rows: the trouble here is over, and this one may wait for ever.
            self._last = -1
            self._health.report(part, None)

        while True:
            try:
                lock = f"{self._service}.{self.name}"
                async with db.held_lock(self._url, lock, service=self._service, waits=waits) as held:
                    await self._write(held, part)
            except (Unavailable, StreamError, CheckpointMoved) as error:
                self._health.report(part, str(error))
                _log.warning("projection.interrupted", projection=self.name, reason=str(error))
            except Exception as error:
                # A schema that does not fit, a right that is missing: no other message would fare better, and no other process.
                self._health.report(part, f"{type(error).__name__}: {error}")
                _log.exception("projection.failed", projection=self.name)
            await asyncio.sleep(PAUSE)

    @property
    def position(self) -> int:
        """Return the sequence up to which the rows reflect the stream; -1 before this process writes, or while another does."""
        return self._last

    async def caught_up(self, sequence: int, *, timeout: float = 2.0) -> bool:
        """Wait until the rows reflect `sequence` of the stream, here or in another replica; False when it took too long."""
        deadline = asyncio.get_running_loop().time() + timeout
        with self._lingering.hurried():
            while self._last < sequence:
                remaining = deadline - asyncio.get_running_loop().time()
                if remaining <= 0:
                    return False
                async with self._moved:
                    with contextlib.suppress(TimeoutError):
                        # The writer may live in another replica: look at the shared checkpoint now and then.
                        async with asyncio.timeout(min(remaining, 0.02 if self._last < 0 else 0.25)):
                            await self._moved.wait_for(lambda: self._last >= sequence)
                if self._last < sequence and await self._stored() >= sequence:
                    return True
            return True

    async def is_level(self, *, timeout: float = 10.0) -> bool:
        """Return whether the rows reflect, within so many seconds, all that is there now. Raises `Unavailable`."""
        newest = 0
        for subjects in self._projected.filters or (">",):
            try:
                request = {"last_by_subj": subjects}
                found = await api_request(self._client, f"$JS.API.STREAM.MSG.GET.{self.stream}", request)
            except StreamError as error:
                if error.code != NO_MESSAGE:
                    raise
            else:
                newest = max(newest, int(found["message"]["seq"]))
        return await self.caught_up(newest, timeout=timeout)

    async def _stored(self) -> int:
        async with db.transaction(self._engine) as connection:
            return await checkpoint.stored(connection, self.name)

    async def _write(self, held: db.HeldLock, part: str) -> None:
        incarnation = await incarnation_of(self._client, self.stream)
        last = await self._begin(incarnation, held.connection)
        reader = OrderedReader(
            self._client,
            self.stream,
            filters=self._projected.filters,
            after=last,
            batch=self._projected.batch,
            lingering=self._lingering,
            heartbeats=True,
        )
        await self._advance(last)
        self._health.report(part, None)
        batches = reader.batches()
        async with contextlib.aclosing(batches):
            async for batch in batches:
                if held.lost.is_set():
                    raise CheckpointMoved("the connection that holds the lock was lost")
                if batch:
                    await self._commit(batch, incarnation, last, held.connection)
                    last = batch[-1].sequence
                elif self._behind is not None:
                    with db.naming_trouble():
                        await self._move([], incarnation, last, last, held.connection)

    async def _begin(self, incarnation: str, connection: Connection) -> int:
        self._behind = None
        with db.naming_trouble():
            await connection.execute("SET synchronous_commit = off")
            return await checkpoint.begin(connection, self.name, self.stream, incarnation)

    async def _commit(self, batch: Sequence[Delivered], incarnation: str, last: int, connection: Connection) -> None:
        """Take any batch that follows the checkpoint `last`. Raises trouble that has nothing to do with its content."""
        try:
            await self._take(batch, incarnation, last, connection)
        except Exception as error:
            if connection.is_closed() or isinstance(error, CheckpointMoved) or is_passing(error):
                raise
            if len(batch) == 1:
                await self._salvage(batch[0], incarnation, last, connection)
                return
            middle = len(batch) // 2
            await self._commit(batch[:middle], incarnation, last, connection)
            await self._commit(batch[middle:], incarnation, batch[middle - 1].sequence, connection)

    async def _take(self, batch: Sequence[Delivered], incarnation: str, last: int, connection: Connection) -> None:
        sequence = batch[-1].sequence
        begun = time.time_ns() if tracing.is_on() and self._projected.tables else None
        with db.naming_trouble():
            statements = await self._projected.apply(batch, incarnation, connection)
            if statements or not self._may_stay_behind(last):
                await self._move(statements, incarnation, last, sequence, connection)
        await self._advance(sequence)
        if begun is not None and statements:
            self._trace(batch, begun)

    def _trace(self, batch: Sequence[Delivered], begun: int) -> None:
        attributes: dict[str, tracing.Value] = {
            "db.system.name": "postgresql",
            "db.namespace": self._service,
            "messaging.system": "nats",
            "messaging.operation.name": "process",
            "messaging.operation.type": "process",
            "messaging.destination.name": self.stream,
            "messaging.consumer.group.name": f"{self._service}.{self.name}",
            "messaging.batch.message_count": len(batch),
        }
        tracing.wrote(traces_of(batch, utc_now() - FRESH), "write", begun, attributes)

    def _may_stay_behind(self, last: int) -> bool:
        now = asyncio.get_running_loop().time()
        if self._behind is None:
            self._behind, self._behind_since = last, now
        return now - self._behind_since < BEHIND_FOR

    async def _move(
        self, statements: Sequence[Statement | Copy], incarnation: str, last: int, to: int, connection: Connection
    ) -> None:
        """Run statements and move the checkpoint from `last`, or from the earlier place where it was left."""
        stored = last if self._behind is None else self._behind
        await checkpoint.run(connection, statements, (self.name, incarnation, stored, to))
        self._behind = None

    async def _salvage(self, one: Delivered, incarnation: str, last: int, connection: Connection) -> None:
        """Take a message that failed: as it is, because the obstacle may be gone; else cleaned; else as bytes or dead."""
        keep = self._projected.keep
        cleaned = clean(one) if keep is None else None
        first: Exception | None = None
        for offered in (one, cleaned):
            if offered is None:
                continue
            try:
                await self._take([offered], incarnation, last, connection)
            except Exception as error:
                if connection.is_closed() or isinstance(error, CheckpointMoved) or is_passing(error):
                    raise
                first = first or error
            else:
                if first is not None:
                    self._report(one, first, dead=False)
                return
        assert first is not None  # noqa: S101 - it was offered
        if keep is None:
            await self._bury(one, incarnation, first)
        with db.naming_trouble():
            async with connection.transaction():
                if keep is not None:
                    await keep(one, incarnation, connection)
                await self._move([], incarnation, last, one.sequence, connection)
        self._report(one, first, dead=keep is None)
        await self._advance(one.sequence)

    async def _bury(self, one: Delivered, incarnation: str, error: Exception) -> None:
        if self.stream == DEAD:
            return  # it is there for ever, and a letter about each letter would never end
        given_up = GivenUp(
            service=self._service,
            consumer=f"{self._service}.{self.name}",
            stream=self.stream,
            sequence=one.sequence,
            subject=one.subject,
            document=one.data,
            error=f"{type(error).__name__}: {error}",
            reason="no row can be made of it",
            tries=1,
        )
        await bury_in_place(self._journal, given_up, incarnation)

    def _report(self, one: Delivered, error: Exception, *, dead: bool) -> None:
        is_new = self._tally.note(self.name, one, error, dead=dead)
        _log.error(
            "projection.dead" if dead else "projection.salvaged",
            projection=self.name,
            stream=self.stream,
            sequence=one.sequence,
            subject=one.subject,
            reason=f"{type(error).__name__}: {error}"[:SHOWN],
            # Once is enough to find a bug by.
            exc_info=error if is_new and not isinstance(error, asyncpg.PostgresError | MillraceError) else None,
        )

    async def _advance(self, sequence: int) -> None:
        async with self._moved:
            self._last = sequence
            self._moved.notify_all()


class Shards:
    """The projections of the shards of RUNS with one name, each of which has the rows of its own runs."""

    def __init__(self, name: str, projections: Mapping[str, Projection]) -> None:
        self.each = [projections[in_shard(name, shard)] for shard in range(RUN_SHARDS)]

    def of(self, run: str) -> Projection:
        """Return the one that has a run's rows; sequences of the run are those of its stream."""
        return self.each[shard_of(run, RUN_SHARDS)]

    async def caught_up(self, run: str, sequence: int) -> None:
        """Wait, for a while, for a run's rows up to a sequence, and for all that was said of others before this call."""
        own = self.of(run)
        await asyncio.gather(own.caught_up(sequence), *(one.is_level(timeout=2.0) for one in self.each if one is not own))


def started(
    every: Iterable[Projected],
    start: Callable[[Coroutine[Any, Any, None], str], None],
    client: Client,
    engine: AsyncEngine,
    url: str,
    health: Health,
    is_past: IsPast | None = None,
) -> dict[str, Projection]:
    """Have a service's projections run by `start`, which takes a coroutine and its name; return them by their own names.

    No row is made of what `is_past`.
    """
    every, tally = list(every), Tally(health)
    if is_past is not None:
        every = [msgspec.structs.replace(one, apply=without(one.apply, is_past)) for one in every]
    filters = {one.name: one.filters for one in every}
    made = {
        one.name: Projection(
            client=client, engine=engine, url=url, service=health.service, projected=one, health=health, tally=tally
        )
        for one in every
    }
    for name, projection in made.items():
        start(projection.run(), f"projection {name}")
    start(Observer(client, engine, made, filters, health).watch(), "observing")
    return made


async def incarnation_of(client: Client, stream: str) -> str:
    """Return the id that `prepare` wrote into the stream's metadata. Raises `Unavailable` while there is no such stream."""
    try:
        info = await api_request(client, f"$JS.API.STREAM.INFO.{stream}", None)
    except StreamError as error:
        raise Unavailable(f"stream {stream}: {error.description}") from error
    metadata: dict[str, str] = info["config"].get("metadata") or {}
    if INCARNATION not in metadata:
        raise Unavailable(f"stream {stream} was not made by deploy.prepare: it has no {INCARNATION}")
    return metadata[INCARNATION]
