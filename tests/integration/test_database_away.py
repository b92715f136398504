"""The database is exhausted, or away: requests are refused in time with `Retry-After`, and all goes on by itself afterwards."""

from __future__ import annotations

import asyncio
import contextlib
import re
from collections.abc import AsyncIterator

import asyncpg
import pytest

from shared.health import Health
from tests.integration.test_gateway import Client, Got, gateway
from tests.support.inside import eventually, running
from tests.support.pooler import Pooler
from tests.support.servers import Place

# A list that each owner answers from its rows, and a table that it reads for it.
LISTS = {
    "oauth": ("/api/v1/variables", "oauth.resource"),
    "events": ("/api/v1/dead-letters", "events.dead_letter"),
    "logs": ("/api/v1/searches", "logs.resource"),
}
# Whoever waits gets a connection.
PATIENT = {"MILLRACE_POOL_WAIT_MS": "60000"}
# Connections of each service.
SIZE = 2


@pytest.fixture
async def healths() -> dict[str, Health]:
    """The health of each service, by name."""
    return {}


@pytest.fixture
async def client(place: Place, healths: dict[str, Health]) -> AsyncIterator[Client]:
    async with contextlib.AsyncExitStack() as stack:
        for service in LISTS:
            more = {"MILLRACE_POOL_SIZE": str(SIZE), "MILLRACE_POOL_WAIT_MS": "200"}
            healths[service] = (await stack.enter_async_context(running(place, service, **more))).health
        made = await stack.enter_async_context(gateway(place))
        await eventually(lambda: all_served(made))
        yield made


async def all_served(client: Client) -> bool:
    """Return whether every list is answered."""
    return [(await client("GET", path)).status for path, _ in LISTS.values()] == [200] * len(LISTS)


async def test_who_finds_no_connection_is_told_so_and_all_are_served_once_there_is_room(
    place: Place, client: Client, healths: dict[str, Health]
) -> None:
    holder = await asyncpg.connect(place.database_url("admin"))
    waiting: set[asyncio.Task[Got]] = set()
    try:
        held = holder.transaction()
        await held.start()
        for _, table in LISTS.values():
            await holder.execute(f"LOCK TABLE {table} IN ACCESS EXCLUSIVE MODE")
        for service, (path, table) in LISTS.items():
            # So many wait for the lock as requests may have connections: the loops of a service have one for a moment only.
            async def full(path: str = path, table: str = table) -> bool:
                held_up: int = await holder.fetchval(
                    "SELECT count(*) FROM pg_locks WHERE relation = $1::text::regclass AND NOT granted", table
                )
                if held_up < SIZE:
                    waiting.add(asyncio.create_task(client("GET", path)))
                return held_up == SIZE

            await eventually(full)
            refused = await asyncio.gather(*(client("GET", path) for _ in range(5)))
            assert {(one.status, one.headers["Retry-After"]) for one in refused} == {(503, "2")}, service
            assert {one.json["detail"] for one in refused} == {"all database connections are in use"}
            assert (await client("GET", "/readyz")).json["services"][service]["connections"] == {"size": SIZE, "in_use": SIZE}
        await held.rollback()
    finally:
        await holder.close()
    assert {(await one).status for one in waiting} <= {200, 503}
    await eventually(lambda: all_served(client))


async def test_a_database_that_goes_away_is_named_and_served_again_when_it_is_back(
    place: Place, client: Client, healths: dict[str, Health]
) -> None:
    async with place.database_away():
        for path, _ in LISTS.values():

            async def refused(path: str = path) -> bool:
                got = await client("GET", path)
                assert got.status in {200, 503}, got
                return got.status == 503 and got.headers["Retry-After"] == "2" and "database" in got.json["detail"]

            await eventually(refused)

        async def told() -> bool:
            said = (await client("GET", "/readyz")).json
            parts = [said["services"][service]["parts"] for service in LISTS]
            named = all(any("database" in (part["detail"] or "") for part in one.values()) for one in parts)
            return named and set(LISTS) <= set(said["degraded"])

        await eventually(told)
        # What needs no database is served.
        assert (await client("GET", "/healthz")).status == 200
    await eventually(lambda: all_served(client))

    async def well() -> bool:
        return all(healths[service].ready for service in LISTS)

    await eventually(well)


# Of a session, and gone or another client's in the next transaction; `SET LOCAL` and locks of a transaction are not.
OF_SESSION = re.compile(
    r"^\s*(SET\s+(?!LOCAL)|LISTEN|UNLISTEN|DISCARD|PREPARE|EXECUTE|RESET|LOAD|CREATE\s+(LOCAL\s+|GLOBAL\s+)?TEMP)"
    r"|pg_(try_)?advisory_(lock|unlock)|set_config\([^)]*false\)|WITH HOLD",
    re.IGNORECASE,
)


async def test_a_pooler_may_give_each_transaction_another_session(place: Place) -> None:
    async with contextlib.AsyncExitStack() as stack:
        # One for each role, as every pooler has them.
        poolers = [await stack.enter_async_context(Pooler(place.database_url(service))) for service in LISTS]
        for service, pooler in zip(LISTS, poolers, strict=True):
            # Its locks are held on connections that lead to the database itself.
            pooled = pooler.url(place.database_url(service))
            await stack.enter_async_context(running(place, service, MILLRACE_POOLED_DATABASE_URL=pooled, **PATIENT))
        client = await stack.enter_async_context(gateway(place))
        await eventually(lambda: all_served(client))
        for turn in range(3):
            changed = await asyncio.gather(
                *(client("PUT", f"/api/v1/variables/v{n}", json={"value": turn * n}) for n in range(10)),
                *(client("PUT", f"/api/v1/sources/s{n}", json={"adapter": "topic", "settings": {}}) for n in range(10)),
                *(client("GET", path) for path, _ in LISTS.values() for _ in range(5)),
            )
            assert {one.status for one in changed} == {200}
        listed = (await client("GET", "/api/v1/variables")).json["items"]
        assert {one["name"]: one["value"] for one in listed} == {f"v{n}": 2 * n for n in range(10)}
        assert [service for service, pooler in zip(LISTS, poolers, strict=True) if not pooler.switched] == []
    assert [one for pooler in poolers for one in pooler.queries if OF_SESSION.search(one)] == []
