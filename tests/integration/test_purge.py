"""Ended runs leave the bus when their time has come, and only when everybody has read them; nothing brings them back to life."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

import aiohttp
import asyncpg
import msgspec
import pytest
from sqlalchemy.ext.asyncio import AsyncEngine

from services.executor import store
from services.executor.runs import run_state
from services.executor.runs.claim import AlreadyEnded, Claim, fold
from services.executor.runs.concurrency import ConcurrencySlots
from services.executor.runs.dispatch import DispatchedRun, take
from services.executor.runs.purge import LOCK, Purger, purge
from services.executor.workspaces.bundles import Bundles
from shared import aggregate, db
from shared.blobs import Blobs
from shared.bus import Bus
from shared.envelope import new_id, open_message, rfc3339, utc_now
from shared.errors import Conflict, Unavailable
from shared.messages import RunCancelRequested, RunRequested, RunStarted, RunSucceeded, RunUsage
from shared.pull import api_request
from shared.questions.runs import ListLines, ListRuns
from shared.runs import RUN_SHARDS
from tests.support.inside import bus_of, eventually, running
from tests.support.river import Outside, river, uncompiled
from tests.support.servers import Place

KEPT = timedelta(hours=24)
WORKFLOWS = b"""
import os
import time

from millrace import log, workflow


@workflow(name="note")
def note(folder: str) -> str:
    with open(f"{folder}/noted", "a") as file:
        file.write("x")
    log.info("noted")
    return "done"


@workflow(name="hold")
def hold(folder: str) -> str:
    deadline = time.monotonic() + 60
    while not os.path.exists(f"{folder}/go") and time.monotonic() < deadline:
        time.sleep(0.01)
    return "held"
"""


class Deps(msgspec.Struct, frozen=True):
    bus: Bus
    engine: AsyncEngine
    database_url: str
    bundles: Bundles
    bodies: Blobs
    concurrency: ConcurrencySlots
    store: store.ExecutorStore
    name: str = "late"

    def purger(self, *, later: timedelta = KEPT + timedelta(hours=1), pause: float = 60.0) -> Purger:
        """Return a purger whose clock is so much ahead."""
        return Purger(self, kept=KEPT, now=lambda: utc_now() + later, pause=pause)

    async def begin(self) -> list[tuple[str, int]]:
        async with db.transaction(self.engine) as connection:
            return await store.begin_purge(connection, before=utc_now() + timedelta(hours=1), up_to=[2**62] * RUN_SHARDS, limit=100)


@asynccontextmanager
async def replica(place: Place, data: Path) -> AsyncIterator[Deps]:
    """What a replica of the executor has for purging."""
    url = place.database_url("executor")
    engine = db.open_engine(url, service="executor")
    async with bus_of(place, "executor") as bus:
        bundles = Bundles(data / "late", Blobs(bus.client, "workspace"), compile_=uncompiled)
        await bundles.start()
        yield Deps(bus, engine, url, bundles, Blobs(bus.client, "bodies"), ConcurrencySlots(engine), store.ExecutorStore(engine))
    await engine.dispose()


@asynccontextmanager
async def house(place: Place, data: Path) -> AsyncIterator[tuple[Outside, Deps]]:
    """The events and executor services with the workflows above; the archive is up to each test."""
    async with river(place, data) as outside, replica(place, data) as deps:
        assert (await outside.put_file("workflows.py", WORKFLOWS)).problems == []
        yield outside, deps


async def ended(outside: Outside, folder: Path, workflow: str = "note", **fields: Any) -> str:
    """Return a run whose end is in the rows: purging goes by them."""
    run = await outside.request(workflow, input={"folder": str(folder)}, **fields)
    await outside.recorded(run)
    return run


async def purge_all(purger: Purger, count: int) -> None:
    """Purge until so many runs are gone: the archive and the rows follow the bus a moment later."""
    gone = 0

    async def all_of_them() -> bool:
        nonlocal gone
        gone += await purger.round()
        return gone >= count

    await eventually(all_of_them)
    assert gone == count


async def marks(deps: Deps) -> dict[str, str]:
    async with db.transaction(deps.engine) as connection:
        rows = await connection.exec_driver_sql("SELECT id, on_bus FROM run")
        return {row.id: row.on_bus for row in rows}


async def test_a_run_is_purged_after_its_time_and_not_before(place: Place, data: Path, shared_folder: Path) -> None:
    async with house(place, data) as (outside, deps), running(place, "logs"):
        run = await ended(outside, shared_folder)
        held = await outside.request("hold", input={"folder": str(shared_folder)})
        await outside.run(held, "running")
        types = await outside.types(run)
        await purge_all(deps.purger(), 1)
        assert (await outside.types(run), types[-1]) == ([], "run.succeeded")
        assert await outside.types(held) == ["run.requested", "run.started"]
        later = await ended(outside, shared_folder)
        for _ in range(3):
            assert await deps.purger(later=KEPT - timedelta(hours=1)).round() == 0
        assert await outside.types(later) == types
        (shared_folder / "go").touch()
        await outside.run(held, "succeeded")
        await purge_all(deps.purger(), 2)
        assert await marks(deps) == dict.fromkeys((run, held, later), "gone")


async def test_a_purged_run_is_shown_as_before(place: Place, data: Path, shared_folder: Path) -> None:
    async with house(place, data) as (outside, deps), running(place, "logs"):
        run = await ended(outside, shared_folder)
        before = await outside.run(run, "succeeded")
        await purge_all(deps.purger(), 1)
        assert await outside.run(run, "succeeded") == before
        assert (await outside.bus.ask(ListRuns(org="default"))).items == [before]

        async def lines() -> Any:
            return (await outside.bus.ask(ListLines(org="default", id=run))).items

        assert [item.line.message for item in await eventually(lines)] == ["noted"]


async def test_nothing_is_purged_that_the_archive_has_not_passed(place: Place, data: Path, shared_folder: Path) -> None:
    async with house(place, data) as (outside, deps):
        early = await ended(outside, shared_folder)
        with pytest.raises(Unavailable):
            await deps.purger().round()
        assert await marks(deps) == {early: "whole"}
        async with running(place, "logs"):
            await purge_all(deps.purger(), 1)
        late = await ended(outside, shared_folder)
        # An archive that answers and does not move: somebody else has its writer's lock.
        async with (
            db.held_lock(place.database_url("logs"), "logs.archive-runs", service="logs"),
            running(place, "logs"),
        ):
            assert await deps.purger().round() == 0
            assert (await outside.types(late))[-1] == "run.succeeded"
        async with running(place, "logs"):
            await purge_all(deps.purger(), 1)
        assert await outside.types(late) == []


async def test_nothing_is_purged_that_the_deliveries_have_not_passed(place: Place, data: Path, shared_folder: Path) -> None:
    async with house(place, data) as (outside, deps):
        run = await ended(outside, shared_folder)
    async with (
        running(place, "logs"),
        db.held_lock(place.database_url("events"), "events.runs", service="events"),
        running(place, "events"),
        replica(place, data) as deps,
    ):
        async with db.transaction(deps.engine) as connection:
            (last_seq,) = (await connection.exec_driver_sql("SELECT last_seq FROM run")).one()
        await set_back(place, last_seq - 1)
        assert await deps.purger().round() == 0
        await set_back(place, last_seq)
        await purge_all(deps.purger(), 1)
        assert await marks(deps) == {run: "gone"}


async def set_back(place: Place, sequence: int) -> None:
    """Put the events service's rows of runs where they would stand if it had been stopped then."""
    connection = await asyncpg.connect(place.database_url("admin"))
    try:
        await connection.execute("UPDATE events.checkpoint SET last_seq = $1 WHERE projection = 'runs'", sequence)
    finally:
        await connection.close()


async def test_a_killed_purge_is_taken_up_wherever_it_was(place: Place, data: Path, shared_folder: Path) -> None:
    async with house(place, data) as (outside, deps), running(place, "logs"):
        marked, purged = [await ended(outside, shared_folder) for _ in range(2)]

        async def both() -> bool:
            return len(await deps.begin()) == 2

        await eventually(both)
        last = dict(await deps.begin())
        await purge(deps.bus.client, purged, last[purged])
        # Killed here: one was only marked, the other purged and never marked as gone.
        assert await marks(deps) == {marked: "going", purged: "going"}
        assert (await outside.types(marked) != [], await outside.types(purged)) == (True, [])
        untouched = await ended(outside, shared_folder)
        await purge_all(deps.purger(later=KEPT - timedelta(hours=1)), 0)
        await purge_all(deps.purger(), 3)
        assert [await outside.types(run) for run in (marked, purged, untouched)] == [[], [], []]
        assert set((await marks(deps)).values()) == {"gone"}
        # Again is harmless, for those who come after somebody faster, too.
        assert await deps.purger().round() == 0
        await purge(deps.bus.client, purged, last[purged])
        assert (await outside.run(purged, "succeeded")).result == "done"


async def test_of_two_replicas_one_purges_and_the_other_follows(place: Place, data: Path, shared_folder: Path) -> None:
    async with house(place, data) as (outside, deps), replica(place, data) as other, running(place, "logs"):
        first = asyncio.create_task(deps.purger(pause=0.05).run())
        one = await ended(outside, shared_folder)

        async def gone(run: str) -> None:
            async def marked() -> bool:
                return (await marks(deps))[run] == "gone"

            await eventually(marked)

        await gone(one)
        second = asyncio.create_task(other.purger(pause=0.05).run())
        await eventually(lambda: locks(place, granted=1, waiting=1))
        two = await ended(outside, shared_folder)
        await gone(two)
        assert await locks(place, granted=1, waiting=1)
        first.cancel()
        await asyncio.wait([first])
        three = await ended(outside, shared_folder)
        await gone(three)
        second.cancel()
        await asyncio.wait([second])


async def locks(place: Place, *, granted: int, waiting: int) -> bool:
    """Say whether so many hold and wait for the lock of purging, this test's executor among neither."""
    connection = await asyncpg.connect(place.database_url("admin"))
    try:
        rows = await connection.fetch(
            "SELECT l.granted FROM pg_locks l, (SELECT hashtextextended($1, 0) AS key) k"
            " WHERE l.locktype = 'advisory' AND l.database = (SELECT oid FROM pg_database WHERE datname = current_database())"
            " AND l.classid::bigint = (k.key >> 32) & 4294967295 AND l.objid::bigint = k.key & 4294967295",
            LOCK,
        )
    finally:
        await connection.close()
    return sorted(row["granted"] for row in rows) == [False] * waiting + [True] * granted


async def test_a_request_that_comes_again_after_the_purge_runs_nothing(place: Place, data: Path, shared_folder: Path) -> None:
    long_ago = rfc3339(utc_now() - timedelta(hours=25))
    async with house(place, data) as (outside, deps), running(place, "logs"):
        run = await ended(outside, shared_folder, delivery=new_id(), received_at=long_ago)
        said = [one.envelope async for one in aggregate.history(outside.bus.client, "run", run)]
        await purge_all(deps.purger(), 1)
        again = open_message(said[0], RunRequested)
        # Nothing on the bus knows this run any more: the append succeeds, as it would from a handler that is told again.
        sequence = await outside.bus.publish(outside.bus.seal(again, org="default", id=new_id()))

        async def settled() -> bool:
            asked = "$JS.API.CONSUMER.INFO.RUNS.executor-runs-normal"
            info = await api_request(deps.bus.client, asked, None)
            return info["ack_floor"]["stream_seq"] >= sequence and info["num_ack_pending"] == 0

        await eventually(settled)
        assert await outside.types(run) == ["run.requested"]
        assert (shared_folder / "noted").read_text() == "x"
        assert (await outside.run(run, "succeeded")).result == "done"
        await purge_all(deps.purger(), 1)
        assert await outside.types(run) == []


async def test_whoever_holds_a_purged_run_says_nothing_more_of_it(place: Place, data: Path, shared_folder: Path) -> None:
    async with house(place, data) as (outside, deps), running(place, "logs"):
        run = await ended(outside, shared_folder)
        stored = [one async for one in aggregate.history(outside.bus.client, "run", run)]
        await purge_all(deps.purger(), 1)
        request, started = stored[0], stored[1].envelope
        # A work message that was pulled before the purge and is carried on after it.
        state = run_state.evolve(None, request.envelope, open_message(request.envelope, RunRequested), request.sequence)
        assert state is not None
        with pytest.raises(AlreadyEnded):
            await take(DispatchedRun(request.envelope, request.sequence, state, {}), deps, "none")
        assert await fold(deps.bus, run) is None
        held = Claim(deps.bus, state, started, open_message(started, RunStarted), stored[1].sequence)
        with pytest.raises(AlreadyEnded):
            await held.end(RunSucceeded(run=run, attempt=1, result="late", duration_ms=1.0, usage=RunUsage()))
        cancel = RunCancelRequested(run=run, requested_by="test")
        with pytest.raises(Conflict):
            await outside.bus.append(outside.bus.seal(cancel, org="default"), stored[-1].sequence)
        assert await outside.types(run) == []


async def test_the_api_treats_a_purged_run_as_the_ended_run_that_it_is(place: Place, data: Path, shared_folder: Path) -> None:
    async with (
        house(place, data) as (outside, deps),
        running(place, "logs"),
        running(place, "gateway", MILLRACE_PORT="0") as runtime,
        aiohttp.ClientSession(
            base_url=runtime.health.document()["url"],
            headers={"Authorization": f"Bearer {place.credentials.admin_key}", "Idempotency-Key": "k-1"},
        ) as session,
    ):

        async def call(method: str, path: str, body: Any = None) -> tuple[int, Any]:
            async with session.request(method, f"/api/v1{path}", json=body) as response:
                return response.status, await response.json()

        body = {"input": {"folder": str(shared_folder)}}
        status, asked = await call("POST", "/workflows/note/runs", body)
        assert status == 202
        before = await outside.run(asked["id"], "succeeded")
        await purge_all(deps.purger(), 1)
        assert (await call("GET", f"/runs/{before.id}"))[1]["result"] == "done"
        assert (await call("POST", f"/runs/{before.id}/cancel"))[0] == 409
        status, same = await call("POST", "/workflows/note/runs", body)
        assert (status, same["id"], same["result"]) == (200, before.id, "done")
        assert await outside.types(before.id) == []
        status, rerun = await call("POST", f"/runs/{before.id}/rerun")
        assert (status, rerun["id"] != before.id) == (202, True)
        await outside.run(rerun["id"], "succeeded")
        assert (shared_folder / "noted").read_text() == "xx"
