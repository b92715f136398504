"""The archive over HTTP: each route shows an organization what is its own, and the platform's key everything if it asks for it."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta
from typing import Any
from urllib.parse import quote

import aiohttp
import asyncpg
import pytest

from services.gateway.api import export
from services.logs.domain import StreamPosition, row_of
from services.logs.lines import split
from services.logs.store import insert
from shared.db import Connection
from shared.envelope import new_id, seal, utc_now
from shared.errors import Unavailable
from shared.messages import Audited, Message, RunRequested
from shared.questions.logs import LogPage
from tests.integration.test_gateway import Client, gateway
from tests.support.inside import running
from tests.support.servers import Place

# Each route, and how many rows its answer is about.
ROUTES = ("/api/v1/logs", "/api/v1/audit", "/api/v1/logs/histogram", "/api/v1/logs/facets", "/api/v1/logs/export")


class Archived:
    """The gateway, and rows in the archive."""

    def __init__(self, client: Client, connection: Connection) -> None:
        self.client = client
        self.connection = connection
        self._seq = 0

    async def add(self, *messages: Message, org: str = "default", stream: str = "RUNS", ago: float = 60) -> None:
        rows = []
        for message in messages:
            self._seq += 1
            time = utc_now() - timedelta(seconds=ago)
            sealed = seal(message, service="executor", org=org, now=time)
            rows += split(row_of(StreamPosition(stream, "inc", self._seq, time, "s"), sealed.document))
        statement = insert(rows)
        await self.connection.execute(statement.sql, *statement.values)

    async def get(self, path: str, *, status: int = 200, **query: Any) -> Any:
        asked = "&".join(f"{name}={quote(str(value))}" for name, value in query.items())
        answer = await self.client("GET", f"{path}?{asked}")
        assert answer.status == status, answer.body
        if status == 200 and path.endswith("export"):
            return {"items": [json.loads(line) for line in answer.body.decode().splitlines()]}
        return answer.json

    async def count(self, path: str, **query: Any) -> int:
        found = await self.get(path, **query)
        return int(found.get("count", found.get("counted", len(found["items"]))))


def requested(workflow: str) -> RunRequested:
    return RunRequested(run=new_id(), workflow=workflow, version="v", input={}, requested_by="test", timeout=60.0)


@asynccontextmanager
async def archived(place: Place) -> AsyncIterator[Archived]:
    async with running(place, "logs"), gateway(place) as client:
        connection = await asyncpg.connect(place.database_url("logs"))
        try:
            yield Archived(client, connection)
        finally:
            await connection.close()


async def test_each_route_shows_an_organization_its_own(place: Place) -> None:
    async with archived(place) as archive:
        given = {"default": 1, "acme": 2, "other": 4}
        for org, number in given.items():
            await archive.add(*(requested(f"w{n}") for n in range(number)), org=org)
            said = Audited(category="run", verb="cancel", actor="a", target="t", outcome="ok")
            await archive.add(*(said for _ in range(number)), org=org, stream="AUDIT")
        for path in ROUTES:
            # Rows of the test's own: services log and are audited meanwhile.
            q = "(t -type:audit.search)" if path == "/api/v1/audit" else "workflow:*"
            found = {org: await archive.count(path, q=q, org=org) for org in (*given, "nobody", "*")}
            assert found == {**given, "nobody": 0, "*": 7}, path
            # What a query says of organizations selects among what is seen, and shows no more.
            assert await archive.count(path, q=f"org:other ({q})", org="acme") == 0, path
            everything = f"({q} OR org:other OR *) -type:audit.search"
            assert await archive.count(path, q=everything, org="acme", **{"from": "now-1h"}) in range(2, 5), path
            without = await archive.client("GET", path, headers={})
            assert without.status == 401, path


async def test_a_mistake_is_named_with_its_place(place: Place) -> None:
    async with archived(place) as archive:
        for path in ROUTES:
            problem = await archive.get(path, q="a (b", status=422)
            assert "position 5" in problem["detail"]
            assert problem["errors"][0]["path"] == "q"
            assert (await archive.get(path, q="t) OR (*", status=422))["errors"][0]["path"] == "q"
            assert (await archive.get(path, status=422, **{"from": "yesterday"}))["errors"][0]["path"] == "from"


async def test_counts_over_http(place: Place) -> None:
    async with archived(place) as archive:
        await archive.add(requested("a"), requested("a"), requested("b"))
        found = await archive.get("/api/v1/logs/facets", q="workflow:*", fields="workflow, level")
        assert found["items"] == [
            {"field": "workflow", "values": [{"value": "a", "count": 2}, {"value": "b", "count": 1}]},
            {"field": "level", "values": [{"value": "info", "count": 3}]},
        ]
        # Members of the data are parameters, as parts of the query are.
        fields = "data.workflow,data.version,fields.nothing"
        for q in ("workflow:*", "data.version:v", "workflow:a OR data.workflow:b", "-type:run.started requested", "stream:RUNS"):
            found = await archive.get("/api/v1/logs/facets", q=q, fields=fields)
            assert [[(one["value"], one["count"]) for one in item["values"]] for item in found["items"]] == [
                [("a", 2), ("b", 1)],
                [("v", 3)],
                [],
            ], q
        bars = await archive.get("/api/v1/logs/histogram", q="workflow:*", bars=10, **{"from": "now-10m"})
        assert [bar["count"] for bar in bars["items"] if bar["count"]] == [3]
        assert json.dumps(await archive.get("/api/v1/logs/facets", fields="colour", status=422)).count("colour")


async def test_an_export_is_the_whole_search_and_goes_on_where_it_broke_off(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(export, "MOST_ITEMS", 100)
    path = "/api/v1/logs/export"
    async with archived(place) as archive:
        await archive.add(*(requested(f"w{number}") for number in range(250)))
        await archive.add(requested('=cmd|"x"'), requested("later"), ago=30)
        query = {"q": "workflow:*", "from": "now-1h"}
        whole = (await archive.get(path, **query))["items"]
        assert [one["workflow"] for one in whole] == [*(f"w{number}" for number in range(250)), '=cmd|"x"', "later"]
        searched = (await archive.get("/api/v1/logs", limit=1000, order="asc", **query))["items"]
        assert [{name: one[name] for name in searched[0]} for one in whole] == searched
        marks = [number for number, one in enumerate(whole) if "next_cursor" in one]
        assert marks == [99, 199]
        for mark in marks:
            rest = (await archive.get(path, **query, cursor=whole[mark]["next_cursor"]))["items"]
            assert [one["id"] for one in rest] == [one["id"] for one in whole[mark + 1 :]]
        assert (await archive.get(path, q="other", cursor=whole[99]["next_cursor"], status=400))["errors"][0]["path"] == "cursor"
        answer = await archive.client("GET", f"{path}?q=workflow:*&format=csv&order=desc")
        assert answer.headers["Content-Type"] == "text/csv; charset=utf-8"
        assert answer.headers["Content-Encoding"] == "gzip"
        cells = list(csv.DictReader(io.StringIO(answer.body.decode())))
        assert [one["workflow"] for one in cells[:3]] == ["later", '\'=cmd|"x"', "w249"]
        assert [one["next_cursor"] != "" for one in cells].count(True) == 2
        assert json.loads(cells[0]["data"])["workflow"] == "later"
        rest = await archive.client("GET", f"{path}?q=workflow:*&format=csv&order=desc&cursor={cells[199]['next_cursor']}")
        assert [row[12] for row in csv.reader(io.StringIO(rest.body.decode()))] == [one["id"] for one in cells[200:]]


async def test_an_export_outlives_a_service_that_is_away_and_breaks_off_where_it_stays_so(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(export, "MOST_ITEMS", 2)
    monkeypatch.setattr(export, "PAUSE", 0.01)
    asked = export._page
    away = {"left": 3}

    async def away_sometimes(call: Any, cursor: str | None) -> LogPage:
        if cursor is not None and away["left"] > 0:
            away["left"] -= 1
            raise Unavailable("away")
        return await asked(call, cursor)

    monkeypatch.setattr(export, "_page", away_sometimes)
    async with archived(place) as archive:
        await archive.add(*(requested(f"w{number}") for number in range(5)))
        assert await archive.count("/api/v1/logs/export", q="workflow:*") == 5
        away["left"] = 1000
        with pytest.raises(aiohttp.ClientError):
            await archive.client("GET", "/api/v1/logs/export?q=workflow:*")
