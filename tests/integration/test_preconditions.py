"""If-Match: of two who demand the same version one wins and the other is told, on whatever replica they are served."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from shared.errors import NotFound, PreconditionFailed
from tests.support.inside import bus_of, running
from tests.support.resources import removing
from tests.support.river import river
from tests.support.servers import Place

ROUNDS = 10
SOURCE = {"adapter": "github", "settings": {"secret": "s"}}
CONNECTION = {"grant": "token", "token": "t-1"}
SUBSCRIPTION = {"source": "repo", "event": "push", "workflow": "greet"}


class Api:
    """One gateway's API."""

    def __init__(self, session: aiohttp.ClientSession) -> None:
        self._session = session

    async def __call__(self, method: str, path: str, body: Any = None, **headers: str) -> tuple[int, str]:
        """Return the status and the tag of the answer."""
        given = {name.replace("_", "-"): value for name, value in headers.items()}
        data = body if isinstance(body, bytes) else None
        async with self._session.request(
            method, f"/api/v1{path}", data=data, json=None if data is not None else body, headers=given
        ) as response:
            await response.read()
            return response.status, response.headers.get("ETag", "")


@asynccontextmanager
async def api(place: Place) -> AsyncIterator[Api]:
    async with (
        running(place, "gateway", MILLRACE_PORT="0") as runtime,
        aiohttp.ClientSession(
            base_url=runtime.health.document()["url"],
            headers={"Authorization": f"Bearer {place.credentials.admin_key}"},
        ) as session,
    ):
        yield Api(session)


INTEGRATION = {"config_schema": {"type": "object"}}
ENTITIES: list[tuple[str, dict[str, Any], dict[str, Any]]] = [
    ("/sources/race", SOURCE, {"enabled": False}),
    ("/subscriptions/race", SUBSCRIPTION, {"enabled": False}),
    ("/integrations/race", INTEGRATION, {"description": "changed"}),
    ("/integrations/halo/mappings/default", {"config": {"a": 1}}, {"entity_id": "7"}),
    ("/connections/race", CONNECTION, {"token": "t-2"}),
]


@asynccontextmanager
async def owners(place: Place) -> AsyncIterator[Api]:
    """Two replicas of each owner: no lock of a process decides, the broker does."""
    async with AsyncExitStack() as stack:
        for service in ("events", "events", "oauth", "oauth"):
            await stack.enter_async_context(running(place, service))
        call = await stack.enter_async_context(api(place))
        assert (await call("PUT", "/sources/repo", SOURCE))[0] == 200
        assert (await call("PUT", "/integrations/halo", INTEGRATION))[0] == 200
        yield call


async def test_a_change_and_a_deletion_of_one_version_do_not_both_happen(place: Place) -> None:
    async with owners(place) as call:
        for (path, body, change), number in itertools.product(ENTITIES, range(ROUNDS)):
            _, tag = await call("PUT", path, body)
            put = call("PUT", path, body | change, If_Match=tag)
            delete = call("DELETE", path, If_Match=tag)
            first, second = (put, delete) if number % 2 else (delete, put)
            statuses = sorted(status for status, _ in await asyncio.gather(first, second))
            assert statuses in ([200, 412], [204, 412]), path
            gone = statuses[0] == 204
            assert (await call("GET", path))[0] == (404 if gone else 200)


async def test_a_deletion_of_another_version_deletes_nothing(place: Place) -> None:
    async with owners(place) as call:
        for path, body, change in ENTITIES:
            _, old = await call("PUT", path, body)
            _, new = await call("PUT", path, body | change)
            assert old != new, path
            for tag in (old, '"0"', '"nonsense"', "W/garbage"):
                assert (await call("DELETE", path, If_Match=tag))[0] == 412
            assert (await call("GET", path)) == (200, new)
            assert (await call("DELETE", path, If_Match=new))[0] == 204
            assert (await call("DELETE", path))[0] == 404
            assert (await call("PUT", path, body))[0] == 200
            assert (await call("DELETE", path, If_Match="*"))[0] == 204


async def test_a_file_is_changed_or_deleted_by_one_of_those_who_demand_one_version(place: Place, data: Path) -> None:
    path = "/workspace/files/notes.txt"
    async with river(place, data), running(place, "executor", MILLRACE_DATA=str(data / "other")), api(place) as call:
        for number in range(ROUNDS // 2):
            status, tag = await call("PUT", path, f"first {number}".encode())
            assert status == 200
            answers = await asyncio.gather(
                call("PUT", path, f"second {number}".encode(), If_Match=tag),
                call("DELETE", path, If_Match=tag),
                call("PUT", path, f"third {number}".encode(), If_Match=tag),
            )
            assert sorted(status for status, _ in answers) == [200, 412, 412]


async def test_a_deletion_that_is_told_again_is_done_once(place: Place) -> None:
    async with running(place, "events"), bus_of(place, "gateway") as bus, api(place) as call:
        await call("PUT", "/sources/repo", SOURCE)
        await call("PUT", "/subscriptions/sub", SUBSCRIPTION)
        for noun, name in (("subscription", "sub"), ("source", "repo")):
            command = removing(noun, name)
            first, again = [await bus.ask(command) for _ in range(2)]
            assert (first.changes["enabled"], again.changes) == ((True, None), {})
            with pytest.raises(NotFound):
                await bus.ask(removing(noun, name))
            with pytest.raises(PreconditionFailed):
                await bus.ask(removing(noun, name, expected=7))
