"""What a list costs the database: as many statements for a hundred items as for one, counted on the wire."""

from __future__ import annotations

import contextlib
from typing import Any

from shared import tasks
from tests.integration.test_gateway import gateway
from tests.support.inside import eventually, running
from tests.support.pooler import Pooler
from tests.support.servers import Place

MANY = 100
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


async def test_a_list_of_a_hundred_takes_as_many_statements_as_one_of_one(place: Place) -> None:
    async with contextlib.AsyncExitStack() as stack:
        poolers = []
        for service in ("events", "oauth"):
            pooler = await stack.enter_async_context(Pooler(place.database_url(service)))
            poolers.append(pooler)
            pooled = pooler.url(place.database_url(service))
            await stack.enter_async_context(running(place, service, MILLRACE_POOLED_DATABASE_URL=pooled))
        client = await stack.enter_async_context(gateway(place))

        async def fill(first: int, end: int) -> None:
            for plural, body in KINDS.items():
                made = await tasks.each(
                    AT_ONCE,
                    range(first, end),
                    lambda number, plural=plural, body=body: client("PUT", f"/api/v1/{plural}/n{number:03}", json=body),
                )
                assert {one.status for one in made} == {200}, (plural, made[0].body)

        async def cost(plural: str, count: int) -> int:
            found = []
            for _ in range(TRIES):
                before = sum(pooler.executed for pooler in poolers)
                got = await client("GET", f"/api/v1/{plural}?limit={MANY}")
                found.append(sum(pooler.executed for pooler in poolers) - before)
                assert (got.status, len(got.json["items"])) == (200, count), plural
            return min(found)

        async def served() -> bool:
            return [(await client("GET", f"/api/v1/{plural}")).status for plural in KINDS] == [200] * len(KINDS)

        await eventually(served)
        await fill(0, 1)
        of_one = {plural: await cost(plural, 1) for plural in KINDS}
        await fill(1, MANY)
        assert {plural: await cost(plural, MANY) for plural in KINDS} == of_one
        assert max(of_one.values()) <= 3
