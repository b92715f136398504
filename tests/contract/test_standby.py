"""A primary and its standby: what was committed is there whichever of them dies."""

from __future__ import annotations

import asyncio
import os
import signal
import tempfile
from collections.abc import AsyncIterator
from pathlib import Path

import asyncpg
import pytest_asyncio

from deploy.folder import claim
from deploy.postgres import SETTINGS, SUPERUSER
from deploy.standby import PostgresPair
from shared.addresses import writable
from tests.chaos.installation import children_of
from tests.support.inside import eventually
from tests.support.places import open_folder
from tests.support.servers import UNSYNCED

PASSWORD = "of-the-pair"
FOLLOWERS = "SELECT sync_state FROM pg_stat_replication"


class Running:
    """A pair on a data folder, and a client of it."""

    def __init__(self, pair: PostgresPair) -> None:
        self.pair = pair
        self.url = pair.url(SUPERUSER, PASSWORD, "postgres")

    async def ask(self, statement: str) -> object:
        """Return the first value that a statement gives, on the server that writes."""
        connection = await asyncpg.connect(self.url, timeout=10, command_timeout=30)
        try:
            return await connection.fetchval(statement)
        finally:
            await connection.close()

    async def tried(self, statement: str) -> object:
        """Ask; None while no server that writes is to be had."""
        try:
            return await self.ask(statement)
        except (OSError, asyncpg.PostgresError, asyncpg.InterfaceError, TimeoutError):
            return None

    async def in_step(self) -> None:
        """Wait until the standby has every commit."""

        async def follows() -> bool:
            # The pair has to have seen it, too: only then is the standby promoted.
            return await self.tried(FOLLOWERS) == "sync" and self.pair._in_step

        await eventually(follows)

    async def kill(self, node: int) -> None:
        """Kill a server, and wait for the next one of the same number."""
        supervised = self.pair.programs[f"postgres-{node}"]
        before = supervised.state.pid
        assert before is not None
        os.kill(before, signal.SIGKILL)

        async def is_another() -> bool:
            return supervised.state.pid not in {None, before}

        await eventually(is_another)


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def running() -> AsyncIterator[Running]:
    with open_folder() as data, tempfile.TemporaryDirectory(prefix="mr-pg-") as sockets, claim(data / "data") as folder:
        Path(sockets).chmod(0o755)
        pair = PostgresPair(folder=folder, sockets=Path(sockets), password=PASSWORD, settings=SETTINGS | UNSYNCED)
        try:
            await pair.start()
            yield Running(pair)
        finally:
            await pair.stop(20)


async def test_the_address_of_several_servers_leads_to_the_one_that_writes(running: Running) -> None:
    assert "target_session_attrs=read-write" in running.url
    assert writable(running.url) == {}
    assert await running.ask("SELECT pg_is_in_recovery()") is False


async def test_what_was_committed_is_there_after_each_failover_and_the_one_that_died_follows(running: Running) -> None:
    await running.ask("CREATE TABLE IF NOT EXISTS kept (n serial PRIMARY KEY)")
    acknowledged: list[object] = []
    stop = asyncio.Event()

    async def write() -> None:
        while not stop.is_set():
            if (number := await running.tried("INSERT INTO kept DEFAULT VALUES RETURNING n")) is not None:
                acknowledged.append(number)

    writing = asyncio.create_task(write())
    try:
        for _ in range(2):
            await running.in_step()
            primary, count = running.pair.primary, len(acknowledged)
            await running.kill(primary)
            assert running.pair.primary != primary

            async def goes_on(count: int = count) -> bool:
                return len(acknowledged) > count

            await eventually(goes_on)
            await running.in_step()
    finally:
        stop.set()
        await writing
    there = await running.ask("SELECT array_agg(n) FROM kept")
    assert isinstance(there, list)
    assert set(acknowledged) <= set(there)


async def test_without_its_standby_the_primary_works_on_and_is_no_other(running: Running) -> None:
    await running.in_step()
    primary = running.pair.primary
    standby = running.pair.programs[f"postgres-{3 - primary}"].state.pid
    assert standby is not None
    # It says nothing and ends no connection, as a machine that stands still.
    stopped = [standby, *children_of(standby)]
    for pid in stopped:
        os.kill(pid, signal.SIGSTOP)
    try:
        await running.ask("CREATE TABLE IF NOT EXISTS alone (n int)")
    finally:
        for pid in stopped:
            os.kill(pid, signal.SIGCONT)
    await running.in_step()
    await running.kill(3 - primary)
    assert await eventually(lambda: running.tried("SELECT 1")) == 1
    assert running.pair.primary == primary
    await running.in_step()


async def test_both_that_die_at_once_come_back_with_all(running: Running) -> None:
    await running.in_step()
    number = await running.ask("INSERT INTO kept DEFAULT VALUES RETURNING n")
    pids = [supervised.state.pid for supervised in running.pair.programs.values()]
    for pid in pids:
        assert pid is not None
        os.kill(pid, signal.SIGKILL)
    await running.in_step()
    assert await running.ask(f"SELECT count(*) FROM kept WHERE n = {number}") == 1
    assert {supervised.state.pid for supervised in running.pair.programs.values()}.isdisjoint(pids)


async def test_a_standby_that_has_not_all_is_not_promoted(running: Running) -> None:
    await running.in_step()
    primary = running.pair.primary
    running.pair._in_step = False
    await running.kill(primary)
    assert running.pair.primary == primary
    await running.in_step()
