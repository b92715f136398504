"""The number of shards is written by preparation, grows only while nothing is in them, and nobody works with another one."""

from __future__ import annotations

import asyncio
import os
import sys

import asyncpg
import pytest

from deploy.errors import StartError
from deploy.positions import administrator
from deploy.prepare import prepare_broker
from deploy.sharding import info_of
from shared.bus import connected
from shared.config import ConfigError
from shared.health import Health
from shared.messages import RunRequested
from shared.messages.shards import VARIABLE, shard_in_sql, shard_of
from shared.runs import RUN_SHARDS
from shared.sharding import shards_in
from tests.support.inside import bus_of
from tests.support.programs import output
from tests.support.servers import Place

ANOTHER = RUN_SHARDS + 2
_PREPARE = """
import asyncio, sys
from deploy.errors import StartError
from deploy.prepare import prepare_broker
try:
    asyncio.run(prepare_broker(sys.argv[1]))
except StartError as error:
    sys.exit(str(error))
"""


async def prepared(place: Place, shards: int) -> tuple[int, str]:
    """Prepare the broker for so many shards, by another process; return its exit code and what it said."""
    environment = os.environ | {VARIABLE: str(shards)}
    return await output(sys.executable, "-c", _PREPARE, place.nats_url("admin"), environment=environment)


async def test_their_number_grows_while_nothing_is_in_them(place: Place) -> None:
    assert await prepared(place, ANOTHER) == (0, "")
    wanted = rf"{VARIABLE} is {RUN_SHARDS}, and the stream RUNS is made for {ANOTHER}: set it to {ANOTHER}"
    with pytest.raises(StartError, match=wanted):
        await prepare_broker(place.nats_url("admin"))
    with pytest.raises(StartError, match=wanted):
        async with administrator(place.nats_url("admin")):
            pass
    with pytest.raises(ConfigError, match=wanted.replace(" is", ": is", 1)):
        async with connected(place.nats_url("executor"), service="executor", health=Health("executor")):
            pass
    # Once more by the same number: nothing is to be done.
    assert await prepared(place, ANOTHER) == (0, "")


async def test_who_is_connected_anew_looks_again(place: Place) -> None:
    async with bus_of(place, "executor") as bus:
        attending = asyncio.create_task(bus.attend())
        assert await prepared(place, ANOTHER) == (0, "")
        await bus.client.force_reconnect()
        async with asyncio.timeout(60):
            with pytest.raises(ConfigError, match=f"made for {ANOTHER}"):
                await attending


async def test_it_does_not_change_while_runs_are_in_them(place: Place) -> None:
    async with bus_of(place, "events") as bus:
        asked = RunRequested(run="r1", workflow="w", version="v", requested_by="t", timeout=60.0)
        await bus.publish(bus.seal(asked, org="acme"))
    code, said = await prepared(place, ANOTHER)
    assert (code, "1 messages of runs are." in said) == (1, True), said
    async with administrator(place.nats_url("admin")) as admin:
        first = await info_of(admin, "RUNS")
        assert first is not None
        assert shards_in(first["config"]) == RUN_SHARDS
        assert await info_of(admin, f"RUNS-{ANOTHER - 1}") is None


async def test_a_number_that_is_none_is_refused(place: Place) -> None:
    assert await prepared(place, 17) == (1, f"{VARIABLE} must be from 1 to 16.\n")


async def test_the_database_finds_the_same_shard(place: Place) -> None:
    connection = await asyncpg.connect(place.database_url("logs"))
    try:
        keys = [f"run-{number}" for number in range(200)]
        asked = f"SELECT array_agg({shard_in_sql('id', 7)} ORDER BY n) FROM unnest($1::text[]) WITH ORDINALITY AS k(id, n)"
        assert await connection.fetchval(asked, keys) == [shard_of(key, 7) for key in keys]
    finally:
        await connection.close()
