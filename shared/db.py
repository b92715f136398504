"""Postgres: one bounded pool per process, transactions whose failures are named, direct connections for locks."""

from __future__ import annotations

import asyncio
import contextlib
import os
import ssl
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any, TypeAlias, cast
from urllib.parse import unquote, urlsplit
from weakref import WeakKeyDictionary

import asyncpg
import msgspec
from prometheus_client import CollectorRegistry
from prometheus_client.metrics_core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector
from sqlalchemy import AsyncAdaptedQueuePool
from sqlalchemy.exc import DBAPIError, InterfaceError, OperationalError
from sqlalchemy.exc import TimeoutError as PoolTimeout
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, create_async_engine
from sqlalchemy.util import greenlet_spawn

from shared import tracing
from shared.addresses import writable
from shared.config import POOL_WAIT, STATEMENT_WAIT, Settings
from shared.errors import MillraceError, Unavailable
from shared.health import Health

# Five services of one machine stay far below Postgres' default of 100 connections.
POOL_SIZE = 8
CONNECT_WAIT = 5.0
# Seconds between two tries to give a session its niceness, which the kernel takes once in a tenth of a second from all users.
AGAIN_AFTER, TRIES = 0.15, 100
# A connection of the driver itself, without a pool.
Connection: TypeAlias = "asyncpg.Connection[asyncpg.Record]"

# SQLSTATE classes that mean "the server is not there for us now": connection exceptions, operator intervention, no resources.
FULL = "the disk of the database is full: it stores nothing until there is room"
_PASSING = ("08", "57P", "53", "25006")
# Statements of this process that were not answered in time, by this side's bound or by the server's, since its start.
TROUBLE: Counter[str] = Counter()
# Of spans: statements are not shown, whose texts are made of what is asked for.
_SPAN: dict[str, tracing.Value] = {"db.system.name": "postgresql"}
_CANCELLED = asyncpg.QueryCanceledError.sqlstate


class CountingPool(AsyncAdaptedQueuePool):
    """A pool that counts who waits for a connection, and who has waited in vain."""

    waiting = 0
    timeouts = 0

    def _do_get(self) -> Any:
        self.waiting += 1
        try:
            return super()._do_get()
        except PoolTimeout:
            self.timeouts += 1
            raise
        finally:
            self.waiting -= 1


class _PoolMetrics(Collector):
    """Collects the figures of pools as OpenTelemetry names them (opentelemetry.io/docs/specs/semconv/database/database-metrics)."""

    def __init__(self) -> None:
        self.engines: dict[str, AsyncEngine] = {}

    def collect(self) -> Iterator[Metric]:
        of, prefix = "db_client_connection_pool_name", "db_client_connection"
        count = GaugeMetricFamily(f"{prefix}_count", "Connections of the pool, by state.", labels=(of, f"{prefix}_state"))
        most = GaugeMetricFamily(f"{prefix}_max", "Connections that the pool may have open.", labels=(of,))
        pending = GaugeMetricFamily(f"{prefix}_pending_requests", "Requests that wait for a connection.", labels=(of,))
        timeouts = CounterMetricFamily(f"{prefix}_timeouts", "Requests that got no connection in time.", labels=(of,))
        for name, engine in self.engines.items():
            pool: Any = engine.pool
            count.add_metric((name, "used"), pool.checkedout())
            count.add_metric((name, "idle"), pool.checkedin())
            most.add_metric((name,), pool.size())
            pending.add_metric((name,), pool.waiting)
            timeouts.add_metric((name,), pool.timeouts)
        yield from (count, most, pending, timeouts)


# A name of a metric is to be in a registry once, for all pools.
_collected: WeakKeyDictionary[CollectorRegistry, _PoolMetrics] = WeakKeyDictionary()


def engine_of(settings: Settings, health: Health, *, service: str, size: int = POOL_SIZE) -> AsyncEngine:
    """Return the engine of a service as its settings have it, with `size` connections unless they say. `/readyz` shows its use."""
    pool = settings.pool
    url = pool.url or settings.database_url
    engine = open_engine(
        url,
        service=service,
        pool_size=pool.size or size,
        wait=pool.wait,
        statement=pool.statement,
        registry=health.registry,
    )
    kept: Any = engine.pool
    health.state("connections", lambda: {"size": kept.size(), "in_use": kept.checkedout()})
    return engine


def open_engine(
    url: str,
    *,
    service: str,
    pool: str | None = None,
    pool_size: int = POOL_SIZE,
    wait: float = POOL_WAIT,
    statement: float = STATEMENT_WAIT,
    registry: CollectorRegistry | None = None,
    settings: Mapping[str, str] | None = None,
) -> AsyncEngine:
    """Return an engine for `url` (`postgresql://user:password@host/database`); nothing connects yet. Times are in seconds.

    `registry` gets the metrics of its pool, under the name `pool`, or else of the service. `settings` are those of the server
    for each of its sessions: set once, they cost a statement nothing. Without them nothing of a session outlives its transaction,
    so that `url` may be that of a pooler that gives each transaction another one, if it knows prepared statements by name.
    """
    engine = create_async_engine(
        "postgresql+asyncpg://",
        # The driver reads the URL itself, which may name several servers.
        async_creator=partial(
            asyncpg.connect,
            url,
            timeout=CONNECT_WAIT,
            command_timeout=statement,
            server_settings={"application_name": f"millrace-{service}", **(settings or {})},
            **writable(url),
        ),
        poolclass=CountingPool,
        pool_size=pool_size,
        max_overflow=0,
        pool_timeout=wait,
        pool_recycle=1800,
        # Errors reach logs; customers' data must not reach them that way.
        hide_parameters=True,
        json_serializer=lambda value: msgspec.json.encode(value).decode(),
        json_deserializer=msgspec.json.decode,
    )
    if registry is not None:
        if registry not in _collected:
            _collected[registry] = _PoolMetrics()
            registry.register(_collected[registry])
        _collected[registry].engines[pool or service] = engine
    return engine


@contextlib.asynccontextmanager
async def transaction(engine: AsyncEngine) -> AsyncIterator[AsyncConnection]:
    """One transaction: committed at the end of the block, rolled back by an error. Raises `Unavailable` for passing trouble."""
    with naming_trouble(), tracing.span("transaction", "client", _SPAN):
        async with engine.begin() as connection:
            yield connection


@contextlib.asynccontextmanager
async def reading(engine: AsyncEngine) -> AsyncIterator[Connection]:
    """A connection of the pool as the driver has it: each statement in the block is a transaction of its own, and one round trip.

    What goes wrong ends the connection, unless it is an error of ours. Raises `Unavailable` for passing trouble.
    """
    with naming_trouble(), tracing.span("read", "client", _SPAN):
        # Without the engine's own connection around it, which takes as long again.
        try:
            pooled = await engine.raw_connection()
            while (driver := cast("Connection", pooled.driver_connection)).is_closed():
                # It was ended in the pool, as all are when the database is started again.
                await greenlet_spawn(pooled.invalidate)
                pooled = await engine.raw_connection()
        except engine.dialect.loaded_dbapi.Error as error:
            raise error.__cause__ or error from None
        try:
            yield driver
        except MillraceError:
            raise
        except BaseException:
            # The pool learns of it from nobody else, and would give it out again.
            await greenlet_spawn(pooled.invalidate)
            raise
        finally:
            await greenlet_spawn(pooled.close)


@contextlib.contextmanager
def naming_trouble() -> Any:
    """Turn the drivers' errors for a database that is away or exhausted into `Unavailable`; bugs pass as they are."""
    try:
        yield
    except PoolTimeout as error:
        raise Unavailable("all database connections are in use") from error
    except asyncpg.DiskFullError as error:
        raise Unavailable(FULL) from error
    except asyncpg.QueryCanceledError:
        TROUBLE["statement_timeouts"] += 1
        raise
    except DBAPIError as error:
        if isinstance(error, OperationalError | InterfaceError):
            raise Unavailable("the database cannot be reached") from error
        state = str(getattr(error.orig, "sqlstate", "") or "")
        if state == _CANCELLED:
            TROUBLE["statement_timeouts"] += 1
        if state == asyncpg.DiskFullError.sqlstate:
            raise Unavailable(FULL) from error
        if error.connection_invalidated or state.startswith(_PASSING):
            raise Unavailable("the database cannot be reached") from error
        raise
    except (
        asyncpg.PostgresConnectionError,
        asyncpg.CannotConnectNowError,
        asyncpg.InsufficientResourcesError,
        asyncpg.AdminShutdownError,
        asyncpg.CrashShutdownError,
        asyncpg.InterfaceError,
        # The driver's own confusion when a connection is cut in the middle of a statement.
        asyncpg.InternalClientError,
        ConnectionError,
        FileNotFoundError,
        # As of a certificate that has expired.
        ssl.SSLError,
    ) as error:
        raise Unavailable("the database cannot be reached") from error
    except TimeoutError as error:
        TROUBLE["statement_timeouts"] += 1
        raise Unavailable("the database did not answer in time") from error


@contextlib.contextmanager
def ending(connection: Connection) -> Iterator[asyncio.Event]:
    """An event that is set when a connection of the driver ends within the block: what waits for the connection may never learn."""
    ended = asyncio.Event()

    def tell(_connection: object) -> None:
        ended.set()

    connection.add_termination_listener(tell)
    try:
        yield ended
    finally:
        if not connection.is_closed():
            connection.remove_termination_listener(tell)


class HeldLock(msgspec.Struct, frozen=True):
    """An advisory lock that is held: `lost` is set when `connection`, and with it the lock, is gone."""

    connection: Connection
    lost: asyncio.Event


@contextlib.asynccontextmanager
async def held_lock(url: str, name: str, *, service: str, waits: Callable[[], None] = lambda: None) -> AsyncIterator[HeldLock]:
    """Hold the advisory lock `name` on a connection of its own for the block; waits until it is free.

    `waits` is called while another session holds it: the database is there, and it may take for ever.

    A direct connection: a pooler in transaction mode would hand the lock to another client. It may be used within the block;
    its writes are then never made without the lock. On this machine the database's process gives way as this one does.
    """
    with naming_trouble():
        connection = await asyncpg.connect(
            url,
            timeout=CONNECT_WAIT,
            **writable(url),
            # Waiting for a lock is no slow statement: under the role's timeout a second replica would fail again and again.
            server_settings={"application_name": f"millrace-{service}-lock", "statement_timeout": "0"},
        )
    giving_way = asyncio.create_task(_give_way(connection.get_server_pid(), urlsplit(url).username or ""))
    try:
        with ending(connection) as lost:
            with naming_trouble():
                if not await connection.fetchval("SELECT pg_try_advisory_lock(hashtextextended($1, 0))", name):
                    waits()
                    await connection.execute("SELECT pg_advisory_lock(hashtextextended($1, 0))", name)
                await connection.execute(f"SET statement_timeout = {int(STATEMENT_WAIT * 1000)}")
            yield HeldLock(connection, lost)
    finally:
        giving_way.cancel()
        connection.terminate()


async def _give_way(backend: int, user: str) -> None:
    """Have the process that serves a connection let others go first as much as this process does, where it is one of this machine.

    Postgres makes a session of each such process, and kernels that group processes by session weigh it as a whole. Where the right
    is missing, or the process is elsewhere, nothing changes.
    """
    niceness = os.getpriority(os.PRIO_PROCESS, 0)
    process = Path("/proc", str(backend))
    if niceness <= 0:
        return
    with contextlib.suppress(OSError):
        # The same number may be another program's, with a database elsewhere.
        if not (process / "cmdline").read_bytes().startswith(f"postgres: {unquote(user)} ".encode()):
            return
        os.setpriority(os.PRIO_PROCESS, backend, niceness)
        for _ in range(TRIES):
            try:
                (process / "autogroup").write_text(str(niceness))
            except BlockingIOError:
                await asyncio.sleep(AGAIN_AFTER)
            else:
                return
