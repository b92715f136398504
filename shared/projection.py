"""Projections: rows made of messages, by one active writer each, with the position in the same transaction."""

from __future__ import annotations

import asyncio
import contextlib
import functools
from collections.abc import Awaitable, Callable, Coroutine, Iterable, Mapping, Sequence
from typing import Any, NamedTuple, Protocol

import asyncpg
import msgspec
import structlog
from nats.aio.client import Client
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine

from shared import db
from shared.commit import Journal
from shared.db import Connection
from shared.envelope import Envelope, open_envelope, open_message
from shared.errors import MillraceError, Unavailable
from shared.letters import GivenUp, bury_in_place
from shared.messages.declaration import Message, class_of
from shared.pull import Delivered, OrderedReader, StreamError, api_request
from shared.questions.declaration import Position
from shared.salvage import Facts, Tally, clean, is_passing

INCARNATION = "millrace_incarnation"
ELSEWHERE = "another writer has moved the checkpoint"
# How long a writer that met trouble waits before it begins again from its checkpoint, in seconds.
PAUSE = 0.5
# Messages of this stream are dead letters already.
DEAD = "DEAD"
# Characters of an error that are logged: those of some drivers repeat the whole value.
SHOWN = 500

_log = structlog.get_logger()


class Recorded(msgspec.Struct, frozen=True):
    """A message as a projection gets it: decoded, with its place in the stream. `message` is None for an unknown type."""

    delivered: Delivered
    envelope: Envelope
    message: Message | None
    incarnation: str


class Statement(NamedTuple):
    """An INSERT, UPDATE or DELETE that returns nothing, with the values of its `$1`, `$2` …"""

    sql: str
    values: tuple[Any, ...] = ()


# What a batch, as the stream holds it (incarnation second), does to the rows: statements to be run in this order together with
# the checkpoint's move. The connection is for reading what they depend on; nobody else writes these rows.
Apply = Callable[[Sequence[Delivered], str, Connection], Awaitable[Sequence[Statement]]]
# Keeps the bytes of a message, as the stream holds it, of which nothing else can be made, in the transaction of the checkpoint.
Keep = Callable[[Delivered, str, Connection], Awaitable[None]]
# What a service's PROJECTIONS map holds: a message class and what one message does to the rows.
PerMessage = Callable[[Any, Recorded], Awaitable[Statement]]
Projections = Mapping[type[Message], PerMessage]


class Projected(msgspec.Struct, frozen=True, kw_only=True):
    """What a projection is, wherever it runs: the messages that it reads, what they do, and which rows come of them.

    `name` is unique within the service. `rows` narrows `tables` to what is this projection's own where it has a part of a table:
    a condition over `:stream`, `:incarnation` and `:first`, the first sequence that the stream still holds. `born` is for rows
    that go on when their messages are purged: the filter of the first message of each, whose key is the row's `id`; `rows` then
    are those of which nothing was purged.
    """

    name: str
    stream: str
    apply: Apply
    tables: tuple[str, ...]
    rows: str | None = None
    born: str | None = None
    filters: tuple[str, ...] = ()
    batch: int = 500
    keep: Keep | None = None
    linger: float = 0.0


class Health(Facts, Protocol):
    """Where a projection says whether it keeps up."""

    def report(self, part: str, problem: str | None) -> None:
        """Say what is wrong with `part`, or None when it is well."""

    def document(self) -> dict[str, Any]:
        """Return what is well and what is not, by part."""


def one_by_one(projections: Projections) -> Apply:
    """Return an `Apply` that gives each message to the function of its class; others are passed over."""

    async def apply(batch: Sequence[Delivered], incarnation: str, _connection: Connection) -> Sequence[Statement]:
        statements: list[Statement] = []
        for delivered in batch:
            recorded = recorded_of(delivered, incarnation)
            function = projections.get(type(recorded.message)) if recorded.message is not None else None
            if function is not None:
                statements.append(await function(recorded.message, recorded))
        return statements

    return apply


def in_batches(function: Callable[[Sequence[Recorded], Connection], Awaitable[Sequence[Statement]]]) -> Apply:
    """Return an `Apply` that gives a whole batch, decoded, to `function`; types that are unknown here are passed over."""

    async def apply(batch: Sequence[Delivered], incarnation: str, connection: Connection) -> Sequence[Statement]:
        recorded = [recorded_of(delivered, incarnation) for delivered in batch]
        return await function([one for one in recorded if one.message is not None], connection)

    return apply


class Superseded(Exception):
    """Another writer has moved the checkpoint: this one must stop and read it again."""


class Projection:
    """Keeps one stream's rows up to date in one schema.

    Holds an advisory lock on a connection of its own, and writes through it; a second replica waits for the lock. Each batch and
    its checkpoint are one transaction that only succeeds if the checkpoint is still ours. It does not wait for the disk: after
    a power cut rows and checkpoint are older together, and what is missing is read again.

    No message stops it. A batch that cannot be taken, be it for Postgres or for a bug, is halved until the one message is found:
    that is kept cleaned, or else becomes a dead letter. Every half is committed with its checkpoint, so that whoever follows one
    that was killed goes on from there.
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
        self._name = projected.name
        self.stream = projected.stream
        self._projected = projected
        self._health = health
        self._tally = tally or Tally(health)
        self._last = -1
        self._moved = asyncio.Condition()

    async def run(self) -> None:
        """Project for ever; trouble is reported to health, waited out, and begun again from the checkpoint."""
        part = f"projection {self._name}"

        def waits() -> None:
            # Somebody else keeps the rows: what was wrong here is over, and who waits may do so for ever.
            self._health.report(part, None)

        while True:
            try:
                lock = f"{self._service}.{self._name}"
                async with db.held_lock(self._url, lock, service=self._service, waits=waits) as held:
                    await self._write(held, part)
            except (Unavailable, StreamError, Superseded) as error:
                self._health.report(part, str(error))
                _log.warning("projection.interrupted", projection=self._name, reason=str(error))
            except Exception as error:
                # A schema that does not fit, a right that is missing: no other message would fare better, and no other process.
                self._health.report(part, f"{type(error).__name__}: {error}")
                _log.exception("projection.failed", projection=self._name)
            await asyncio.sleep(PAUSE)

    async def caught_up(self, sequence: int, *, timeout: float = 2.0) -> bool:
        """Wait until the rows reflect `sequence` of the stream, here or in another replica; False when it took too long."""
        deadline = asyncio.get_running_loop().time() + timeout
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

    async def _stored(self) -> int:
        async with db.transaction(self._engine) as connection:
            found = await connection.execute(text("SELECT last_seq FROM checkpoint WHERE projection = :name"), {"name": self._name})
            return int(found.scalar() or 0)

    async def _write(self, held: db.Held, part: str) -> None:
        incarnation = await incarnation_of(self._client, self.stream)
        last = await self._begin(incarnation, held.connection)
        reader = OrderedReader(
            self._client,
            self.stream,
            filters=self._projected.filters,
            after=last,
            batch=self._projected.batch,
            linger=self._projected.linger,
        )
        await self._advance(last)
        self._health.report(part, None)
        batches = reader.batches()
        async with contextlib.aclosing(batches):
            async for batch in batches:
                if held.lost.is_set():
                    raise Superseded("the connection that holds the lock was lost")
                await self._commit(batch, incarnation, last, held.connection)
                last = batch[-1].sequence

    async def _begin(self, incarnation: str, connection: Connection) -> int:
        with db.naming_trouble():
            await connection.execute("SET synchronous_commit = off")
            await connection.execute(
                "INSERT INTO checkpoint (projection, stream, incarnation, last_seq) VALUES ($1, $2, $3, 0)"
                " ON CONFLICT (projection) DO UPDATE SET incarnation = excluded.incarnation, last_seq = 0"
                " WHERE checkpoint.incarnation <> excluded.incarnation",
                self._name,
                self.stream,
                incarnation,
            )
            return int(await connection.fetchval("SELECT last_seq FROM checkpoint WHERE projection = $1", self._name))

    async def _commit(self, batch: Sequence[Delivered], incarnation: str, last: int, connection: Connection) -> None:
        """Take a batch that follows the checkpoint `last`, whatever is in it. Raises trouble that has nothing to do with it."""
        try:
            await self._take(batch, incarnation, last, connection)
        except Exception as error:
            if connection.is_closed() or isinstance(error, Superseded) or is_passing(error):
                raise
            if len(batch) == 1:
                await self._salvage(batch[0], incarnation, last, connection)
                return
            middle = len(batch) // 2
            await self._commit(batch[:middle], incarnation, last, connection)
            await self._commit(batch[middle:], incarnation, batch[middle - 1].sequence, connection)

    async def _take(self, batch: Sequence[Delivered], incarnation: str, last: int, connection: Connection) -> None:
        sequence = batch[-1].sequence
        with db.naming_trouble():
            statements = await self._projected.apply(batch, incarnation, connection)
            await _run(connection, statements, (self._name, incarnation, last, sequence))
        await self._advance(sequence)

    async def _salvage(self, one: Delivered, incarnation: str, last: int, connection: Connection) -> None:
        """Take a message that could not be taken: as it is, for what was in its way may be over; cleaned; as bytes or dead."""
        keep = self._projected.keep
        cleaned = clean(one) if keep is None else None
        first: Exception | None = None
        for offered in (one, cleaned):
            if offered is None:
                continue
            try:
                await self._take([offered], incarnation, last, connection)
            except Exception as error:
                if connection.is_closed() or isinstance(error, Superseded) or is_passing(error):
                    raise
                first = first or error
            else:
                if first is not None:
                    self._tell(one, first, dead=False)
                return
        assert first is not None  # noqa: S101 - it was offered
        if keep is None:
            await self._bury(one, incarnation, first)
        with db.naming_trouble():
            async with connection.transaction():
                if keep is not None:
                    await keep(one, incarnation, connection)
                await _move(connection, (self._name, incarnation, last, one.sequence))
        self._tell(one, first, dead=keep is None)
        await self._advance(one.sequence)

    async def _bury(self, one: Delivered, incarnation: str, error: Exception) -> None:
        if self.stream == DEAD:
            return  # it is there for ever, and a letter about each letter would never end
        given_up = GivenUp(
            service=self._service,
            consumer=f"{self._service}.{self._name}",
            stream=self.stream,
            sequence=one.sequence,
            subject=one.subject,
            document=one.data,
            error=f"{type(error).__name__}: {error}",
            reason="no row can be made of it",
            tries=1,
        )
        await bury_in_place(self._journal, given_up, incarnation)

    def _tell(self, one: Delivered, error: Exception, *, dead: bool) -> None:
        is_new = self._tally.note(self._name, one, error, dead=dead)
        _log.error(
            "projection.dead" if dead else "projection.salvaged",
            projection=self._name,
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


def started(
    every: Iterable[Projected],
    start: Callable[[Coroutine[Any, Any, None], str], None],
    *,
    client: Client,
    engine: AsyncEngine,
    url: str,
    service: str,
    health: Health,
) -> dict[str, Projection]:
    """Have a service's projections run by `start`, which takes what to run and its name; return them by their own names."""
    tally = Tally(health)
    made = {
        one.name: Projection(client=client, engine=engine, url=url, service=service, projected=one, health=health, tally=tally)
        for one in every
    }
    for name, projection in made.items():
        start(projection.run(), f"projection {name}")
    return made


# A projection's name, the stream's incarnation, the sequence that the checkpoint must be at, and the one that it moves to.
_Move = tuple[str, str, int, int]
_MOVE = (
    "UPDATE checkpoint SET last_seq = ${3}, updated_at = now() WHERE projection = ${0} AND incarnation = ${1} AND last_seq = ${2}"
)


async def _run(connection: Connection, statements: Sequence[Statement], position: _Move) -> None:
    """Run statements and move the checkpoint, all or nothing. Raises `Superseded` when it is elsewhere."""
    if len(statements) == 1:
        # One statement is a transaction by itself, in a quarter of the round trips.
        try:
            await connection.fetchval(_with_move(statements[0].sql, len(statements[0].values)), *statements[0].values, *position)
        except asyncpg.DivisionByZeroError as error:
            raise Superseded(ELSEWHERE) from error
        return
    async with connection.transaction():
        for statement in statements:
            await connection.execute(statement.sql, *statement.values)
        await _move(connection, position)


async def _move(connection: Connection, position: _Move) -> None:
    if await connection.execute(_MOVE.format(1, 2, 3, 4), *position) != "UPDATE 1":
        raise Superseded(ELSEWHERE)


@functools.cache
def _with_move(sql: str, values: int) -> str:
    """Return one statement that does `sql` and moves the checkpoint; it fails by a division by zero when that is elsewhere."""
    move = _MOVE.format(*range(values + 1, values + 5))
    return f"WITH moved AS ({move} RETURNING 1), changed AS ({sql}) SELECT 1 / count(*) FROM moved"  # noqa: S608 - all ours


async def position_of(engine: AsyncEngine, stream: str, *, projection: str | None = None) -> Position:
    """Return how far all projections of a schema have come in a stream, or one of them: sequence 0 when one has not begun with it.

    Only projections without filters tell: a filtered one stands at the last message that concerned it, and is not to be among
    those that are asked. The rows are on disk. Raises `Unavailable`.
    """
    statement = (
        "SELECT min(incarnation) AS low, max(incarnation) AS high, min(last_seq) AS last FROM checkpoint"
        " WHERE stream = :stream AND projection = coalesce(:projection, projection)"
    )
    async with db.transaction(engine) as connection:
        row = (await connection.execute(text(statement), {"stream": stream, "projection": projection})).one()
        # Projections do not wait for the disk. With this commit, which does, what they committed before is on it as well.
        await connection.execute(text("SELECT pg_logical_emit_message(true, 'position', '')"))
    if row.low is None or row.low != row.high:
        return Position("", 0)
    return Position(row.low, row.last)


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


def recorded_of(delivered: Delivered, incarnation: str) -> Recorded:
    """Decode a delivered message. Raises `Invalid` for what is no envelope, or holds no message of its type."""
    envelope = open_envelope(delivered.data)
    message: Message | None = None if class_of(envelope.type) is None else open_message(envelope)
    return Recorded(delivered, envelope, message, incarnation)
