"""A durable consumer that an operator deleted is made again by its owner; what waited is taken, and nothing is lost."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, cast

import pytest
from nats.aio.msg import Msg

from deploy.prepare import prepare_broker
from services.executor.runs.supervisor import Runs
from services.executor.runs.worker import Worker
from shared import durables, tasks
from shared.bus import Bus
from shared.envelope import new_id
from shared.messages import EventAccepted, Message, RunRequested, WebhookReceived
from shared.pull import StreamError, api_request
from shared.streams import WORK, work_of_runs
from tests.support.inside import bus_of, eventually
from tests.support.servers import Place


@pytest.fixture(autouse=True)
def looked_at_often(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(durables, "LOOKED_AT_EVERY", 0.1)


def received() -> WebhookReceived:
    return WebhookReceived(
        source="s", delivery=new_id(), adapter="hmac", received_at="", method="POST", query=[], headers=[], body_base64=""
    )  # fmt: skip


async def delete(place: Place, stream: str, consumer: str) -> None:
    async with bus_of(place, "admin") as admin:
        await api_request(admin.client, f"$JS.API.CONSUMER.DELETE.{stream}.{consumer}", None)


async def floor(bus: Bus, stream: str, consumer: str) -> int:
    try:
        info = await api_request(bus.client, f"$JS.API.CONSUMER.INFO.{stream}.{consumer}", None)
    except StreamError:
        return -1
    return int(info["ack_floor"]["stream_seq"])


@asynccontextmanager
async def kept(bus: Bus) -> AsyncIterator[None]:
    keeping = {asyncio.create_task(bus.keep_durables())}
    try:
        yield
    finally:
        await tasks.end(keeping)


async def until_looked_at(bus: Bus, stream: str, consumer: str, sequence: int) -> None:
    async def there() -> bool:
        return await floor(bus, stream, consumer) >= sequence

    await eventually(there)
    await asyncio.sleep(0.3)  # three looks: nobody tells of one


async def test_handlers_go_on_where_they_were_when_their_consumer_was_deleted(place: Place) -> None:
    seen: list[str] = []

    async def note(message: WebhookReceived, _deps: Any) -> AsyncIterator[tuple[Message, str]]:
        seen.append(message.delivery)
        return
        yield

    async def nothing(_message: EventAccepted, _deps: Any) -> AsyncIterator[tuple[Message, str]]:
        return
        yield

    async with bus_of(place, "events") as events, bus_of(place, "gateway") as gateway:
        others = {work.messages[0]: nothing for work in WORK if work.service == "events"}
        events.handle(others | {WebhookReceived: note}, None)
        await events.start()
        async with kept(events):
            before, after = [received() for _ in range(3)], [received() for _ in range(3)]
            last = [await gateway.publish(gateway.seal(one, org="default")) for one in before][-1]
            await until_looked_at(events, "WEBHOOKS", "events-parse", last)
            for one in after:  # deleted more than once, and each time under way
                await delete(place, "WEBHOOKS", "events-parse")
                await gateway.publish(gateway.seal(one, org="default"))

                async def arrived(one: WebhookReceived = one) -> bool:
                    return one.delivery in seen

                await eventually(arrived)
        assert set(seen) == {one.delivery for one in (*before, *after)}
        # What had been acknowledged is not begun anew.
        assert seen[:3] == [one.delivery for one in before]
        assert not set(seen[3:]) & {one.delivery for one in before}
        await prepare_broker(place.nats_url("admin"))
        assert await floor(events, "WEBHOOKS", "events-parse") >= last


async def test_an_executor_goes_on_when_its_consumers_were_deleted(place: Place) -> None:
    begun: list[str] = []

    class Recording:
        async def work(self, msg: Msg) -> None:
            begun.append(msg.subject.split(".")[1])
            await msg.ack()

    async def ask(gateway: Bus, priority: str) -> str:
        run = new_id()
        asked: dict[str, Any] = {"run": run, "workflow": "w", "version": "v", "requested_by": "test", "timeout": 60.0}
        await gateway.publish(gateway.seal(RunRequested(**asked, priority=priority), org="default"))
        return run

    async with bus_of(place, "gateway") as gateway, bus_of(place, "executor") as executor, kept(executor):
        working = {asyncio.create_task(Worker(executor.client, cast("Runs", Recording()), 8, work_of_runs()).run())}
        try:
            wanted = [await ask(gateway, "normal")]

            async def all_begun() -> bool:
                return set(begun) == set(wanted)

            await eventually(all_begun)
            for priority in ("high", "normal", "low"):
                await delete(place, "RUNS", f"executor-runs-{priority}")
            wanted += [await ask(gateway, priority) for priority in ("high", "normal", "low")]
            await eventually(all_begun)
        finally:
            await tasks.end(working)


async def test_one_that_was_never_looked_at_begins_at_the_beginning(place: Place) -> None:
    async with bus_of(place, "gateway") as gateway, bus_of(place, "events") as events:
        await delete(place, "WEBHOOKS", "events-parse")
        await gateway.publish(gateway.seal(received(), org="default"))
        async with kept(events):

            async def waits() -> bool:
                try:
                    info = await api_request(events.client, "$JS.API.CONSUMER.INFO.WEBHOOKS.events-parse", None)
                except StreamError:
                    return False
                return bool(info["num_pending"] == 1)

            await eventually(waits)
