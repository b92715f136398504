"""A crowd of clients who hold on: every stream of a revoked key ends, the others go on, and uploads that dribble hurt nobody."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack
from typing import Any

import pytest

from services.gateway import watching
from services.gateway.config import MAX_CONNECTIONS
from shared.questions.logs import TailLogs, TailPage
from tests.integration.test_gateway import BODY, answering, gateway, source
from tests.integration.test_gateway_doors import FORGED, post, raw
from tests.integration.test_keys import ended, following, made
from tests.support.inside import eventually
from tests.support.servers import Place

KEYS, OTHERS, UPLOADS = 40, 10, 50


async def tail(_asked: TailLogs, _deps: Any) -> TailPage:
    """Have nothing to tell."""
    return TailPage(items=[], position="1", dropped=0, more=False)


async def test_every_stream_of_a_crowd_ends_with_its_key_and_no_other(place: Place) -> None:
    async with (
        gateway(place) as client,
        source(place, client) as (id_, _),
        answering(place, "logs", {TailLogs: tail}),
        AsyncExitStack() as crowd,
    ):
        length = f"Content-Length: {len(BODY)}"
        for _ in range(UPLOADS):
            await crowd.enter_async_context(raw(client, post(id_, FORGED, length) + BODY[:1]))
        keys = [await made(client, f"k{number}") for number in range(KEYS)]
        stays = (await made(client, "stays"))["key"]
        streams = [await crowd.enter_async_context(following(client, key["key"])) for key in keys]
        others = [await crowd.enter_async_context(following(client, stays)) for _ in range(OTHERS)]
        revoked = [await client("DELETE", f"/api/v1/keys/{key['name']}?org=acme") for key in keys]
        assert {got.status for got in revoked} == {204}
        await asyncio.gather(*map(ended, streams))
        assert (await client.hook(id_)).status == 202
        assert all(one.connection is not None for one in others)


async def test_one_organization_has_half_of_the_streams_and_leaves_some_to_others(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(watching, "OF_CONNECTIONS", MAX_CONNECTIONS // 4)
    async with gateway(place) as client, answering(place, "logs", {TailLogs: tail}), AsyncExitStack() as crowd:
        mine, theirs = [(await made(client, "ci", org=org))["key"] for org in ("acme", "globex")]
        path = f"{client.url}/api/v1/logs/tail"

        async def status(key: str) -> int:
            async with client.session.get(path, headers={"Authorization": f"Bearer {key}"}) as response:
                return response.status

        for _ in range(2):
            await crowd.enter_async_context(following(client, mine))
        assert (await status(mine), await status(theirs)) == (503, 200)

        async def another() -> bool:
            return await status(theirs) == 200

        # Whoever leaves makes room.
        await eventually(another)
