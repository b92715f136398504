"""The races of two writers on three replicas: one winner each time, single and batched by the same expectation."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio

from deploy.backup.streams import load, save
from deploy.positions import administrator
from deploy.prepare import prepare_broker
from services.executor.runs.purge import purge
from shared import aggregate
from shared.bus import Bus, connected
from shared.commit import Journal
from shared.envelope import new_id
from shared.errors import Conflict
from shared.health import Health
from shared.messages import RunCancelRequested, RunRequested, RunStarted, RunSucceeded, RunUsage
from shared.pull import api_request
from tests.support.cluster import Cluster, running_cluster
from tests.support.servers import Place

ROUNDS = 60


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def cluster(tmp_path_factory) -> AsyncIterator[Cluster]:
    folder: Path = tmp_path_factory.mktemp("cluster")
    async with running_cluster(folder) as formed:
        yield formed


async def request(bus: Bus) -> tuple[str, int]:
    run = new_id()
    message = RunRequested(run=run, workflow="w", version="v", input={}, requested_by="test", timeout=60.0)
    return run, await bus.publish(bus.seal(message, org="default"))


async def test_a_cancellation_and_a_claim_in_flight_have_one_winner(cluster: Cluster) -> None:
    health = Health("test")
    async with (
        connected(cluster.url("executor", 0), service="executor", health=health) as one,
        connected(cluster.url("gateway", 1), service="gateway", health=health) as two,
    ):
        for _ in range(ROUNDS):
            run, first = await request(one)
            outcomes = await asyncio.gather(
                one.append(one.seal(RunStarted(run=run, attempt=1, executor="e", tier="none"), org="default"), first),
                two.append(two.seal(RunCancelRequested(run=run, requested_by="x"), org="default"), first),
                return_exceptions=True,
            )
            assert sorted(isinstance(outcome, Conflict) for outcome in outcomes) == [False, True], outcomes


async def test_a_claim_and_an_older_claims_end_have_one_winner(cluster: Cluster) -> None:
    health = Health("test")
    async with (
        connected(cluster.url("executor", 0), service="executor", health=health) as one,
        connected(cluster.url("executor", 2), service="executor", health=health) as two,
    ):
        for _ in range(ROUNDS):
            run, first = await request(one)
            mine = one.seal(RunStarted(run=run, attempt=1, executor="e", tier="none"), org="default")
            claimed = await one.append(mine, first)
            end = RunSucceeded(run=run, attempt=1, result=None, duration_ms=1.0, usage=RunUsage())
            outcomes = await asyncio.gather(
                one.append(one.seal(end, org="default", cause=mine.envelope), claimed),
                two.append(two.seal(RunStarted(run=run, attempt=2, executor="f", tier="none"), org="default"), claimed),
                return_exceptions=True,
            )
            assert sorted(isinstance(outcome, Conflict) for outcome in outcomes) == [False, True], outcomes


async def test_sending_an_append_again_gives_the_first_sequence(cluster: Cluster) -> None:
    async with connected(cluster.url("executor", 1), service="executor", health=Health("test")) as bus:
        run, first = await request(bus)
        started = bus.seal(RunStarted(run=run, attempt=1, executor="e", tier="none"), org="default")
        sequence = await bus.append(started, first)
        assert await bus.append(started, first) == sequence
        # Another process that says the same: it did not send it, so it looks.
        other = await aggregate.append(bus.client, Journal(bus.client), started, first)
        assert other.sequence == sequence


async def test_a_purge_takes_nothing_that_is_appended_beside_it(cluster: Cluster) -> None:
    health = Health("test")
    async with (
        connected(cluster.url("executor", 0), service="executor", health=health) as one,
        connected(cluster.url("gateway", 1), service="gateway", health=health) as two,
    ):
        for _ in range(ROUNDS):
            run, first = await request(one)
            cancel = two.seal(RunCancelRequested(run=run, requested_by="x"), org="default")
            outcome, _ = await asyncio.gather(two.append(cancel, first), purge(one.client, run, first), return_exceptions=True)
            left = [stored.envelope.type async for stored in aggregate.history(one.client, "run", run)]
            # Either it came first and is still there, or the purge did, and the run is none any more to whoever expects one.
            assert left == ([] if isinstance(outcome, Conflict) else ["run.cancel_requested"]), outcome


async def test_a_backup_of_three_copies_is_restored_to_a_broker_that_stands_alone(cluster: Cluster, place: Place) -> None:
    async with administrator(cluster.url("admin")) as there, administrator(place.nats_url("admin")) as here:
        parts: list[bytes] = []
        saved = await save(there, "CATALOG", parts.append)
        assert saved["config"]["num_replicas"] == 3
        await api_request(here, "$JS.API.STREAM.DELETE.CATALOG", None)
        await load(here, saved["config"], saved["state"], parts)
    assert await prepare_broker(place.nats_url("admin")) == 1


async def test_copies_are_three_unless_told_and_never_made_fewer_by_a_start(cluster: Cluster) -> None:
    assert await prepare_broker(cluster.url("admin")) == 3
    assert await prepare_broker(cluster.url("admin"), replicas=1) == 1
    assert await prepare_broker(cluster.url("admin")) == 3


async def test_a_purged_run_is_nothing_to_expect(cluster: Cluster) -> None:
    async with connected(cluster.url("executor", 2), service="executor", health=Health("test")) as bus:
        run, first = await request(bus)
        other, sequence = await request(bus)
        await purge(bus.client, run, first)
        with pytest.raises(Conflict):
            await bus.append(bus.seal(RunStarted(run=run, attempt=1, executor="e", tier="none"), org="default"), first)
        assert await aggregate.last(bus.client, "run", run) is None
        await bus.append(bus.seal(RunStarted(run=other, attempt=1, executor="e", tier="none"), org="default"), sequence)
