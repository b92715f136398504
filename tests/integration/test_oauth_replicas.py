"""Several processes of the service share connections: one request for each token, whatever happens to any of them."""

from __future__ import annotations

import asyncio

import pytest
from aiohttp import web

from shared.errors import Unavailable
from tests.support.connections import asking_processes, oauth_process
from tests.support.inside import eventually
from tests.support.oauth_provider import Asked
from tests.support.servers import Place

ROTATIONS = 12


async def test_01_two_replicas_refresh_at_once_with_one_request_and_the_family_lives(place: Place) -> None:
    async with asking_processes(place, 2) as (it, _):
        await it.authorize()
        for number in range(ROTATIONS):
            await it.expire()
            found = await asyncio.gather(*(it.patient() for _ in range(20)))
            assert len(set(found)) == 1
            assert len(it.provider.asked) == number + 2
        assert it.provider.is_alive()


@pytest.mark.parametrize("grace", [True, False])
async def test_05_a_replica_killed_between_the_answer_and_its_storing_leaves_nothing_silent(place: Place, *, grace: bool) -> None:
    async with asking_processes(place, 1) as (it, processes):
        await it.authorize()
        await it.expire()
        it.provider.grace = grace
        rotated = asyncio.Event()

        async def kills(asked: Asked) -> web.StreamResponse:
            it.provider.usual(asked)
            processes[0].kill()
            await processes[0].wait()
            rotated.set()
            return web.Response()

        it.provider.faults = [kills]
        lost = asyncio.create_task(it.given())
        await rotated.wait()
        lost.cancel()
        row = await it.row("until = now()")
        assert row["attempting"]
        async with oauth_process(place):

            async def is_settled() -> bool:
                try:
                    await it.given()
                except Unavailable:
                    await it.row("not_before = NULL")
                return (await it.shown()).status == ("healthy" if grace else "needs_reauthorization")

            async def answers() -> bool:
                try:
                    await it.shown()
                except Unavailable:
                    return False
                return True

            await eventually(answers)
            await eventually(is_settled)
