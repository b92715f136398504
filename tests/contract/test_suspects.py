"""A message that ends the process that handles it is given up, over restarts; one that is put off for long is not."""

from __future__ import annotations

import asyncio
from contextlib import AbstractAsyncContextManager
from typing import Any

import msgspec
import pytest

from shared import suspects
from shared.durables import bring
from shared.errors import Unavailable
from shared.streams import WORK
from tests.contract.test_handling import Yields, dead_letters, events_of, filtered, handling, received
from tests.support.dying import DEADLY
from tests.support.inside import bus_of, eventually
from tests.support.programs import module
from tests.support.servers import Place

PARSE = next(work for work in WORK if work.name == "events-parse")


def process(place: Place) -> AbstractAsyncContextManager[asyncio.subprocess.Process]:
    return module("tests.support.dying", place.nats_url("events"), stderr=asyncio.subprocess.DEVNULL)


async def test_a_message_that_ends_its_process_is_buried_and_those_in_hand_with_it_are_not(place: Place) -> None:
    async with bus_of(place, "admin") as admin, bus_of(place, "gateway") as gateway:
        await bring(admin.client, msgspec.structs.replace(PARSE, ack_wait=0.5))
        for source in ("a", "b", DEADLY, "c"):
            await gateway.publish(gateway.seal(received(source), org="default"))
        deaths = 0

        async def settled() -> bool:
            handled = [await events_of(admin, source) for source in ("a", "b", "c")]
            return all(handled) and bool(await dead_letters(place))

        async def survived() -> bool:
            async with process(place) as one:
                ended = asyncio.create_task(one.wait())
                over = asyncio.create_task(eventually(settled))
                await asyncio.wait((ended, over), return_when=asyncio.FIRST_COMPLETED)
                over.cancel()
                await asyncio.gather(over, return_exceptions=True)
                return one.returncode is None

        while not await survived():
            deaths += 1
            assert deaths <= 1 + suspects.DEATHS
        # Unsuspected once, then so often as a suspect.
        assert deaths == 1 + suspects.DEATHS
        [letter] = await dead_letters(place)
        assert letter.subject == f"webhook.{DEADLY}.received"
        assert (letter.reason, letter.tries > suspects.DEATHS) == ("ends its service", True)
        assert f"ended {suspects.DEATHS} times in a row while this message was handled" in letter.error
        for source in ("a", "b", "c"):
            assert await events_of(admin, source) == ["handled"]


async def test_a_message_that_was_put_off_often_is_handled_by_the_next_process(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(suspects, "UNSUSPICIOUS", 1)
    async with bus_of(place, "admin") as admin:
        await bring(admin.client, msgspec.structs.replace(PARSE, ack_wait=0.5))
    tries, goal = 0, 10

    async def away(_message: Any, _deps: Any) -> Yields:
        nonlocal tries
        tries += 1
        raise Unavailable("the database is away", retry_after=0.01)
        yield _message, "never"

    async def back(message: Any, _deps: Any) -> Yields:
        yield filtered(message, "one"), "one"

    async def put_off() -> bool:
        return tries >= goal

    async with handling(place, away) as (_, gateway):
        await gateway.publish(gateway.seal(received(), org="default"))
        await eventually(put_off)
    # As often as deaths would be too many.
    for _ in range(suspects.DEATHS + 1):
        goal = tries + 5
        async with handling(place, away):
            await eventually(put_off)
    async with handling(place, back) as (events, _):

        async def done() -> bool:
            return await events_of(events) == ["one"]

        await eventually(done)
    assert await dead_letters(place) == []


async def test_the_count_of_deaths_is_each_consumer_s_own(place: Place) -> None:
    async with bus_of(place, "events") as events:
        other = suspects.Suspects(events.client, "executor-runs-normal")
        with pytest.raises(Unavailable):
            await other._begin(1)
