"""What a delivery tells of its subscriptions, whatever the batches and the order in which its messages come."""

from __future__ import annotations

import importlib.util
import json
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from itertools import permutations
from pathlib import Path
from typing import Any

import asyncpg
import msgspec
from sqlalchemy import RowMapping

import services.events
from services.events.projections import DELIVERIES
from services.events.store import EventsStore
from shared.db import Connection, open_engine
from shared.envelope import seal, utc_now
from shared.messages import EventUnroutable
from shared.pull import Delivered
from shared.statements import Statement
from tests.support.said import Said, accepted, filtered, routed, unroutable
from tests.support.servers import Place

MIGRATION = Path(services.events.__file__).parent / "migrations" / "events_0018_outcomes.py"


class Rows:
    """The rows of deliveries, as the projection of EVENTS writes them."""

    def __init__(self, connection: Connection, store: EventsStore) -> None:
        self.connection = connection
        self._apply = DELIVERIES["events"][1]()
        self._store = store
        self._made = 0

    async def statements(self, said: Sequence[Said], delivery: str) -> Sequence[Statement]:
        every = [msgspec.structs.replace(one, delivery=delivery) for one in said]
        sealed = [seal(one, service="events", org="default", now=utc_now()) for one in every]
        batch = [Delivered("event.e", one.document, at, utc_now(), {}, 0) for at, one in enumerate(sealed, 1)]
        return await self._apply(batch, "inc", self.connection)

    async def put(self, said: Sequence[Said], delivery: str = "d") -> None:
        for statement in await self.statements(said, delivery):
            await self.connection.execute(statement.sql, *statement.values)

    async def told(self, delivery: str = "d") -> RowMapping:
        row = await self._store.delivery("default", delivery)
        assert row is not None
        return row

    async def after(self, *batches: Sequence[Said]) -> RowMapping:
        """Return the row of a new delivery after batches."""
        self._made += 1
        for said in batches:
            await self.put(said, f"d{self._made}")
        return await self.told(f"d{self._made}")


@asynccontextmanager
async def rows_of(place: Place) -> AsyncIterator[Rows]:
    engine = open_engine(place.database_url("events"), service="events")
    connection = await asyncpg.connect(place.database_url("events"))
    try:
        yield Rows(connection, EventsStore(engine))
    finally:
        await connection.close()
        await engine.dispose()


def comparable(row: RowMapping) -> dict[str, Any]:
    return {name: value for name, value in row.items() if name not in {"id", "accepted", "correlation_id"}}


async def test_the_outcome_and_its_reason_do_not_depend_on_the_order(place: Place) -> None:
    cases: list[tuple[list[Said], str, str | None]] = [
        ([filtered(None)], "filtered", "None filtered"),
        ([filtered("a"), filtered("b")], "filtered", "a filtered"),
        ([filtered("a"), filtered("b", failed=True)], "filtered", "b failed"),
        ([routed("a", "r"), filtered("b")], "routed", None),
        ([routed("a", "r"), filtered("b", failed=True)], "routed", "b failed"),
        ([routed("a", "r"), filtered("b", failed=True), unroutable("c")], "unroutable", "no c"),
    ]
    async with rows_of(place) as rows:
        for messages, outcome, reason in cases:
            each = [await rows.after([accepted()], *([one] for one in order)) for order in permutations(messages)]
            assert {(one["status"], one["reason"], one["ended"]) for one in each} == {(outcome, reason, True)}
            assert all(one["subscriptions"] == each[0]["subscriptions"] for one in each)


async def test_any_division_into_batches_gives_the_same(place: Place) -> None:
    said: list[Said] = [
        *(accepted(0), unroutable("a"), routed("b", "r1"), accepted(1), routed("a", "r2", number=1), filtered("c", failed=True)),
        *(accepted(retried_by="x", skip=["b"]), filtered("a"), accepted(1, retried_by="x"), filtered("c"), unroutable("c")),
    ]
    async with rows_of(place) as rows:
        whole = comparable(await rows.after(said))
        assert (whole["status"], whole["ended"], whole["retries"]) == ("unroutable", False, 1)
        assert comparable(await rows.after(*([one] for one in said))) == whole
        for at in range(1, len(said)):
            assert comparable(await rows.after(said[:at], said[at:])) == whole


async def test_a_retry_keeps_what_it_skips_and_sets_back_the_rest(place: Place) -> None:
    async with rows_of(place) as rows:
        await rows.put([accepted(), routed("a", "r1"), unroutable("b")])
        await rows.put([accepted(retried_by="x", skip=["a"])])
        again = await rows.told()
        assert (again["status"], again["reason"], again["ended"], list(again["subscriptions"])) == ("routed", None, True, ["0/a"])
        await rows.put([routed("b", "r2")])
        assert (await rows.told())["status"] == "routed"
        await rows.put([accepted(retried_by="y")])
        everything = await rows.told()
        assert (everything["status"], everything["ended"], everything["subscriptions"]) == ("accepted", False, {})
        assert everything["retries"] == 2


async def test_a_retry_of_several_events_that_works_leaves_nothing_of_what_failed(place: Place) -> None:
    failed: list[Said] = [accepted(0), unroutable("a"), accepted(1), msgspec.structs.replace(unroutable("a"), number=1)]
    async with rows_of(place) as rows:
        await rows.put(failed)
        assert (await rows.told())["status"] == "unroutable"
        await rows.put([accepted(0, retried_by="x"), accepted(1, retried_by="x")])
        await rows.put([routed("a", "r0"), routed("a", "r1", number=1)])
        mended = await rows.told()
        assert (mended["status"], mended["reason"], mended["ended"]) == ("routed", None, True)


async def test_events_of_one_delivery_are_kept_apart_and_the_first_time_of_a_retry_counts(place: Place) -> None:
    def late(at: str, number: int = 0) -> EventUnroutable:
        return msgspec.structs.replace(unroutable("b"), retry_at=f"2026-01-0{at}T00:00:00.000000Z", tries=1, number=number)

    async with rows_of(place) as rows:
        await rows.put([accepted(0), accepted(1), routed("a", "r0"), routed("a", "r1", number=1), late("3"), late("2", 1)])
        told = await rows.told()
        assert told["retry_at"].day == 2
        assert told["subscriptions"]["0/b"] | {"reason": ""} == {
            "subscription": "b", "name": None, "workflow": "w", "status": "unroutable", "reason": "", "run": None, "tries": 1,
            "retry_at": "2026-01-03T00:00:00.000000Z",
        }  # fmt: skip
        await rows.put([accepted(1, retried_by="x")])
        again = await rows.told()
        assert (sorted(again["subscriptions"]), again["retry_at"].day, again["ended"]) == (["0/a", "0/b"], 3, False)


async def test_an_outcome_costs_the_same_however_many_there_are(place: Place) -> None:
    async def cost(rows: Rows, delivery: str) -> tuple[int, int]:
        """Return the bytes that one more outcome is given with, and the pages that it reads and writes."""
        given = pages = 0
        for statement in await rows.statements([routed("more", "r")], delivery):
            given += len(str(statement.values))
            found = await rows.connection.fetchval(f"EXPLAIN (ANALYZE, BUFFERS, FORMAT JSON) {statement.sql}", *statement.values)
            plan = json.loads(found)[0]["Plan"]
            pages += plan["Shared Hit Blocks"] + plan["Shared Read Blocks"]
        return given, pages

    async with rows_of(place) as rows:
        for delivery, number in (("few", 2), ("many", 3000)):
            await rows.put([accepted(), *(routed(f"s{one}", f"{delivery}{one}") for one in range(number))], delivery)
        for table in ("delivery", "delivery_event", "delivery_outcome"):
            await rows.connection.execute(f"VACUUM ANALYZE {table}")
        few, many = await cost(rows, "few"), await cost(rows, "many")
        assert many[0] <= few[0] + 20
        assert many[1] <= 2 * few[1], (few, many)
        assert len((await rows.told("many"))["subscriptions"]) == 3001


async def test_what_an_earlier_version_kept_in_the_rows_of_deliveries_is_taken_over(place: Place) -> None:
    spec = importlib.util.spec_from_file_location("migration", MIGRATION)
    assert spec is not None
    assert spec.loader is not None
    migration = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(migration)
    taken = {"subscription": "a", "name": "n", "workflow": "w", "status": "routed", "reason": None, "run": "r"}
    later = taken | {"status": "unroutable", "reason": "no w", "run": None, "retry_at": "2026-01-02T00:00:00Z", "tries": 2}
    none = dict.fromkeys(taken) | {"status": "filtered", "reason": "none"}
    connection = await asyncpg.connect(place.database_url("admin"))
    try:
        await connection.execute("CREATE SCHEMA earlier; SET search_path = earlier")
        await connection.execute("CREATE TABLE delivery (id text, subscriptions jsonb, events jsonb)")
        made = {str(number): {"event": f"e{number}", "type": "push"} for number in (0, 1, 10)}
        subscriptions = {"0/a": taken, "0/b": later, "10/": none}
        await connection.execute(
            "INSERT INTO delivery VALUES ('d', $1, $2), ('e', '{}', '{}')", *map(json.dumps, (subscriptions, made))
        )
        await connection.execute("CREATE TABLE registration (source text, org text, state jsonb)")
        states = [{"due_at": "2026-01-02T00:00:00Z"} | more for more in ({}, {"not_before": "2026-01-03T00:00:00Z"})]
        await connection.execute("INSERT INTO registration VALUES ('s', 'o', $1), ('t', 'o', $2)", *map(json.dumps, states))
        for statement in migration.STATEMENTS:
            await connection.execute(statement)
        outcomes = await connection.fetch("SELECT * FROM delivery_outcome ORDER BY number, subscription")
        names = ("delivery", "number", "subscription", "name", "workflow", "status", "reason", "run", "tries")
        assert [tuple(one[name] for name in names) for one in outcomes] == [
            ("d", 0, "a", "n", "w", "routed", None, "r", 0),
            ("d", 0, "b", "n", "w", "unroutable", "no w", None, 2),
            ("d", 10, "", None, None, "filtered", "none", None, 0),
        ]
        assert [one["retry_at"] and one["retry_at"].isoformat() for one in outcomes] == [None, "2026-01-02T00:00:00+00:00", None]
        events = await connection.fetch("SELECT number, event, type, answered FROM delivery_event ORDER BY number")
        assert [tuple(one) for one in events] == [(0, "e0", "push", True), (1, "e1", "push", False), (10, "e10", "push", True)]
        looks = await connection.fetch("SELECT look_at FROM registration ORDER BY source")
        assert [one["look_at"].day for one in looks] == [2, 3]
    finally:
        await connection.execute("DROP SCHEMA IF EXISTS earlier CASCADE")
        await connection.close()
