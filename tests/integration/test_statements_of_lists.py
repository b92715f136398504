"""What a list costs the database: as many statements for many items as for one, counted on the wire."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Any

from shared import tasks
from tests.integration.test_gateway import gateway
from tests.support.inside import eventually, running
from tests.support.pooler import Pooler
from tests.support.river import sandbox_settings
from tests.support.servers import Place

MANY = 30
# Fewer than a pool has connections: nobody is refused.
AT_ONCE = 4
# Of one try the services' own work may be a part, of the least of several it is not.
TRIES = 5
# A resource of each owner and kind of table, by the plural in its path.
KINDS: dict[str, dict[str, Any]] = {
    "sources": {"adapter": "topic", "settings": {}},
    "schedules": {"every": 3600, "workflow": "none"},
    "integrations": {"config_schema": {"type": "object"}},
    "variables": {"value": 1},
    "secrets": {"value": "a secret"},
}
FILES = "workspace/files"
LISTS = (*KINDS, "deliveries", FILES)


async def test_a_list_of_many_takes_as_many_statements_as_one_of_one(place: Place, data: Path) -> None:
    async with contextlib.AsyncExitStack() as stack:
        poolers = []
        for service in ("events", "oauth", "executor"):
            pooler = await stack.enter_async_context(Pooler(place.database_url(service)))
            poolers.append(pooler)
            pooled = pooler.url(place.database_url(service))
            given = {"MILLRACE_DATA": str(data / "executor"), **sandbox_settings()} if service == "executor" else {}
            await stack.enter_async_context(running(place, service, MILLRACE_POOLED_DATABASE_URL=pooled, **given))
        client = await stack.enter_async_context(gateway(place))

        async def fill(first: int, end: int) -> None:
            for plural, body in KINDS.items():
                made = await tasks.each(
                    AT_ONCE,
                    range(first, end),
                    lambda number, plural=plural, body=body: client("PUT", f"/api/v1/{plural}/n{number:03}", json=body),
                )
                assert {one.status for one in made} == {200}, (plural, made[0].body)
            for number in range(first, end):
                # Each of a source of its own, whose name the list shows.
                event = await client("POST", f"/api/v1/sources/n{number:03}/events", json={"type": "a.b"})
                stored = await client("PUT", f"/api/v1/{FILES}/f{number:03}.txt", data=b"text")
                assert (event.status, stored.status) == (202, 200), (event.body, stored.body)
            await eventually(lambda: listed("deliveries", end))

        async def listed(path: str, count: int) -> bool:
            return len((await client("GET", f"/api/v1/{path}?limit={MANY}")).json["items"]) == count

        async def cost(plural: str, count: int) -> int:
            found = []
            for _ in range(TRIES):
                before = sum(pooler.executed for pooler in poolers)
                got = await client("GET", f"/api/v1/{plural}?limit={MANY}")
                found.append(sum(pooler.executed for pooler in poolers) - before)
                assert (got.status, len(got.json["items"])) == (200, count), plural
            return min(found)

        async def served() -> bool:
            return [(await client("GET", f"/api/v1/{plural}")).status for plural in LISTS] == [200] * len(LISTS)

        await eventually(served)
        await fill(0, 1)
        of_one = {path: await cost(path, 1) for path in LISTS}
        await fill(1, MANY)
        assert {path: await cost(path, MANY) for path in LISTS} == of_one
        assert of_one.pop("schedules") == 2  # and how far each has come
        assert set(of_one.values()) == {1}
