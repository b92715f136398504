"""Pulling work from a broker that is slow to answer."""

from __future__ import annotations

import asyncio
from typing import Any, cast

import pytest
from nats.aio.msg import Msg

from services.executor.runs import worker
from services.executor.runs.supervisor import Runs
from services.executor.runs.worker import Worker
from shared.envelope import new_id
from shared.messages import RunRequested
from shared.streams import work_of_runs
from tests.support.inside import bus_of, eventually
from tests.support.servers import Place


class Recording:
    """Stands where runs do: notes what is begun, and ends it at once."""

    def __init__(self) -> None:
        self.begun: list[str] = []

    async def work(self, msg: Msg) -> None:
        self.begun.append(msg.subject.split(".")[1])
        await msg.ack()


async def test_work_that_arrives_after_its_pull_was_given_up_is_begun_all_the_same(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(worker, "ANSWER", 0.0)  # every answer is late
    async with bus_of(place, "gateway") as gateway, bus_of(place, "executor") as executor:
        wanted = [new_id() for _ in range(20)]
        for run in wanted:
            asked: dict[str, Any] = {"run": run, "workflow": "w", "version": "v", "requested_by": "test", "timeout": 60.0}
            await gateway.publish(gateway.seal(RunRequested(**asked), org="default"))
        runs = Recording()
        pulling = asyncio.create_task(Worker(executor.client, cast("Runs", runs), 8, work_of_runs()).run())

        async def all_begun() -> bool:
            return len(runs.begun) >= len(wanted)

        try:
            # Well below the 30 s after which what was dropped would come again.
            await eventually(all_begun)
        finally:
            pulling.cancel()
            await asyncio.gather(pulling, return_exceptions=True)
    assert sorted(runs.begun) == sorted(wanted)
