"""Search over archived messages: what matches, in which order, whose, page by page."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from typing import Any

import asyncpg
import msgspec
import pytest
import pytest_asyncio

from services.logs import counts, partitions, questions, scope, selecting
from services.logs import cursor as cursors
from services.logs.counts import count_by_time, count_by_value
from services.logs.cursor import Cursor
from services.logs.domain import StreamPosition, row_of
from services.logs.lines import split
from services.logs.query import parse
from services.logs.questions import search
from services.logs.scope import ArchiveDeps, open_archive
from services.logs.selection import Selection
from services.logs.store import insert
from shared.db import Connection, reading
from shared.envelope import seal
from shared.errors import Invalid, Malformed, Unavailable
from shared.messages import EventAccepted, LineChunk, Lines, Logged, Message, RunError, RunFailed, RunRequested, RunUsage
from shared.questions import Page
from shared.questions.logs import CountByTime, CountByValue, LogPage, Search
from tests.support.inside import bus_of, eventually, running
from tests.support.servers import Place

NOW = datetime(2026, 11, 20, 12, 0, tzinfo=UTC)


class Archive:
    """Archived messages with chosen times, and a clock that stands still."""

    def __init__(self, url: str, deps: ArchiveDeps, connection: Connection) -> None:
        self.url = url
        self.deps = deps
        self.connection = connection
        self._seq = 0

    async def add(self, message: Message, *, ago: float = 60, org: str = "acme", **more: Any) -> str:
        self._seq += 1
        time = NOW - timedelta(seconds=ago)
        sealed = seal(message, service="executor", org=org, now=time, **more)
        place = StreamPosition("RUNS", "inc", self._seq, time, "subject")
        statement = insert(split(row_of(place, sealed.document)))
        await self.connection.execute(statement.sql, *statement.values)
        return sealed.envelope.id

    async def find(self, q: str = "", **more: Any) -> LogPage:
        page = Page(limit=more.pop("limit", 100), cursor=more.pop("cursor", None))
        return await search(Search(org=more.pop("org", "acme"), q=q, page=page, **more), self.deps)

    async def ids(self, q: str = "", **more: Any) -> list[str]:
        return [item.id for item in (await self.find(q, **more)).items]


@pytest_asyncio.fixture
async def archive(place: Place) -> AsyncIterator[Archive]:
    url = place.database_url("logs")
    engine = open_archive(url)
    connection = await asyncpg.connect(url)
    yield Archive(url, ArchiveDeps(engine, lambda: NOW), connection)
    await connection.close()
    await engine.dispose()


def event(data: Any) -> EventAccepted:
    return EventAccepted(
        source="s1", source_name="github", event="e1", delivery="d1", type="push", data=data, headers={}, received_at="t"
    )


def requested(run: str) -> RunRequested:
    return RunRequested(run=run, workflow="sync-tickets", version="v", input={}, requested_by="test", timeout=60.0)


def failed(run: str, message: str) -> RunFailed:
    return RunFailed(run=run, attempt=1, reason="error", error=RunError("ValueError", message), duration_ms=1.0, usage=RunUsage())


async def test_the_language_finds_what_it_says(archive: Archive) -> None:
    data = {"ref": "refs/heads/main", "n": 5, "x": 10.0, "labels": ["bug", "p1"], "deep": {"flag": True}, "none": None}
    one = await archive.add(event(data), ago=50, correlation="c1")
    two = await archive.add(failed("r2", "rate limit exceeded for Zoë"), ago=40)
    three = await archive.add(requested("r3"), ago=30)
    chunk = LineChunk(
        run="r3", workflow="w", attempt=1, chunk=1,
        lines=[Lines(time="t", level="warning", message="tickets.fetched", fields={"who": "ann@example.org"})],
    )  # fmt: skip
    four = await archive.add(chunk, ago=20)
    expected = {
        "": [one, two, three, four],
        "zoë": [two],
        '"rate limit"': [two],
        '"limit rate"': [],
        "limit rate": [two],
        "exce*": [two],
        "fetched": [four],
        "tickets.fetched": [four],
        "ann@example.org": [four],
        "ann": [four],
        "sync-tickets": [three],
        "-rate": [one, three, four],
        "run:*": [two, three, four],
        "-run:*": [one],
        "-run:r3": [one, two],
        "workflow:w": [four],
        "workflow:sync*": [three],
        "-workflow:*": [one, two],
        "attempt:1": [two, four],
        "run:r3": [three, four],
        "run:r*": [two, three, four],
        "level:>=warning": [two, four],
        "level:WARN": [four],
        "type:run.*": [two, three],
        "type:run.failed OR type:run.requested": [two, three],
        "(type:run.failed OR type:line.logged) level:error": [two],
        "data.data.ref:refs/heads/main": [one],
        "data.data.ref:refs/*": [one],
        "data.data.n:5": [one],
        "data.data.n:5.0": [one],
        "data.data.n:>=5": [one],
        "data.data.n:>5": [],
        "data.data.n:[1 TO 5]": [one],
        "data.data.x:10": [one],
        "data.data.labels:bug": [one],
        "data.data.labels.1:p1": [one],
        "data.data.deep.flag:true": [one],
        "data.data.ref:>refs": [one],
        "data.data.deep:*": [one],
        "data.data.none:*": [],
        "-data.data.n:5": [two, three, four],
        "correlation_id:c1": [one],
        f"id:{three}": [three],
        "seq:[2 TO 3]": [two, three],
        "seq:3": [three],
        "message:LIMIT": [two],
        "stream:RUNS service:executor": [one, two, three, four],
        "org:other": [],
        "!!!": [],
        "'": [],
        "\\:*": [],
    }
    found = {q: await archive.ids(q, order="asc") for q in expected}
    assert found == expected


def said(message: str, *, level: str = "info", time: str = "2026-11-20T11:59:30.5Z", **fields: Any) -> Lines:
    return Lines(time=time, level=level, message=message, fields=fields)


async def test_a_line_is_found_by_what_its_author_gave_and_shown_with_it(archive: Archive) -> None:
    one = said("posted", status=200, ok=True, took=1.5, tags=["a", "b"], request={"path": "/x", "headers": {"n": 1}})
    two = said("refused", level="error", time="2026-11-20T11:59:31Z", status="403", ok=False, **{"http.status": 403, "größe": "XL"})
    chunk = await archive.add(LineChunk(run="r1", workflow="pr-summary", attempt=2, chunk=1, lines=[one, two]), ago=20)
    await archive.add(Logged(service="gateway", level="info", event="posted", fields={"status": 200}), ago=10)
    first, second = (1, "posted"), (2, "refused")
    service = (None, "posted status=200")
    expected = {
        "fields.status:200": [first, service],
        "fields.status:200 workflow:*": [first],
        "data.status:200": [first],
        "data.status:200.0": [first],
        "fields.status:403": [second],
        "fields.status:>=200": [first, second, service],
        "fields.took:[1 TO 2]": [first],
        "fields.ok:true": [first],
        "fields.ok:false": [second],
        "fields.tags:b": [first],
        "fields.request.path:/x": [first],
        "fields.request.path:/*": [first],
        "fields.request.headers.n:<2": [first],
        "data.request.headers.n:1": [first],
        "fields.http.status:403": [second],
        "fields.größe:XL": [second],
        "fields.nothing:*": [],
        "workflow:pr-summary": [first, second],
        "workflow:pr-summary level:error": [second],
        "attempt:2 run:r1 type:line.logged": [first, second],
        "posted -fields.status:404": [first, service],
        "refused": [second],
        f"id:{chunk}": [first, second],
    }
    found = {q: [(item.line, item.message) for item in (await archive.find(q, order="asc")).items] for q in expected}
    assert found == expected
    [item] = (await archive.find("fields.status:200 workflow:*")).items
    assert (item.level, item.run, item.workflow, item.attempt, item.line) == ("info", "r1", "pr-summary", 2, 1)
    assert (item.time, item.org, item.id) == ("2026-11-20T11:59:30.500000Z", "acme", chunk)
    assert item.fields == msgspec.json.decode(item.data)["fields"]
    assert item.fields == {
        "status": 200, "ok": True, "took": 1.5, "tags": ["a", "b"], "request": {"path": "/x", "headers": {"n": 1}},
    }  # fmt: skip


@pytest.mark.parametrize("order", ["asc", "desc"])
async def test_pages_hold_every_line_once_in_the_order_in_which_they_were_said(archive: Archive, order: str) -> None:
    for number in range(3):
        given = [said(f"{number}.{n}") for n in range(5)]
        await archive.add(LineChunk(run="r", workflow="w", attempt=1, chunk=number, lines=given))
    seen: list[str] = []
    cursor = None
    while True:
        page = await archive.find("run:r", limit=4, cursor=cursor, order=order)
        seen += [item.message for item in page.items]
        cursor = page.next_cursor
        if cursor is None:
            break
    # Those of one moment are told apart by where the stream has their chunk, and in a chunk follow each other.
    assert sorted(seen) == [f"{number}.{n}" for number in range(3) for n in range(5)]
    for number in range(3):
        of_chunk = [text for text in seen if text.startswith(f"{number}.")]
        assert of_chunk == sorted(of_chunk, reverse=order == "desc")


async def test_an_organization_finds_its_own_and_the_platform_everything(archive: Archive) -> None:
    mine = await archive.add(requested("r1"), ago=3)
    theirs = await archive.add(requested("r2"), ago=2, org="other")
    assert await archive.ids() == [mine]
    assert await archive.ids("org:other") == []
    assert await archive.ids("org:other OR org:acme OR *") == [mine]
    assert await archive.ids(everything=True) == [theirs, mine]
    assert await archive.ids("org:other", everything=True) == [theirs]


async def test_the_chain_of_a_run_is_found_by_the_run_within_its_organization(archive: Archive) -> None:
    first = await archive.add(event({}), ago=50, correlation="c1")
    asked = await archive.add(requested("r1"), ago=40, correlation="c1")
    other = await archive.add(requested("r2"), ago=30, correlation="c2")
    foreign = await archive.add(requested("r3"), ago=20, org="other", correlation="c3")
    assert await archive.ids("why:r1") == [asked, first]
    assert await archive.ids("why:r1 type:event.*") == [first]
    assert await archive.ids("-why:r1") == [other]
    assert await archive.ids("why:r1 OR why:r2") == [other, asked, first]
    assert await archive.ids("why:r3") == []
    assert await archive.ids("why:r3", everything=True) == [foreign]
    assert await archive.ids("why:nobody") == []


async def test_counts_by_time_cover_the_range_in_round_steps_and_stay_within_the_organization(archive: Archive) -> None:
    for ago in (0, 10, 3000, 3590):
        await archive.add(requested("r1"), ago=ago)
    await archive.add(failed("r1", "x"), ago=3000)
    await archive.add(requested("r2"), ago=3000, org="other")
    found = await count_by_time(CountByTime(org="acme", since="now-1h", bars=13), archive.deps)
    assert (found.since, found.until, found.step, found.count) == (
        "2026-11-20T11:00:00.000000Z", "2026-11-20T12:00:00.000000Z", 300.0, 5,
    )  # fmt: skip
    assert len(found.items) == 13
    counts = {bar.time[11:16]: bar.levels for bar in found.items if bar.count}
    assert counts == {"11:00": {"info": 1}, "11:10": {"info": 1, "error": 1}, "11:55": {"info": 1}, "12:00": {"info": 1}}
    assert (await count_by_time(CountByTime(org="acme", q="level:error", bars=2), archive.deps)).count == 1
    assert (await count_by_time(CountByTime(org="global", everything=True), archive.deps)).count == 6
    with pytest.raises(Invalid, match="bars"):
        await count_by_time(CountByTime(org="acme", bars=1), archive.deps)
    # As long as the calendar is: a bar may begin before that does, and end after it.
    for bars in (2, 7, 1000):
        whole = CountByTime(org="acme", since="0001-01-02T00:00:00Z", until="9999-12-30T00:00:00Z", bars=bars)
        found = await count_by_time(whole, archive.deps)
        assert (found.count, len(found.items) <= bars) == (5, True)


async def test_counts_by_time_read_an_index_alone_and_sort_nothing(archive: Archive) -> None:
    await archive.add(requested("r1"))
    asked: list[Any] = []
    async with reading(archive.deps.engine) as connection:
        connection.add_query_logger(asked.append)
    assert (await count_by_time(CountByTime(org="acme"), archive.deps)).count == 1
    await asyncio.sleep(0)  # the driver tells its loggers in the next turn of the loop
    async with archive.connection.transaction():
        # Of a few rows any plan is as good: these are taken where there is no other.
        for other in ("seqscan", "bitmapscan", "sort"):
            await archive.connection.execute(f"SET LOCAL enable_{other} = off")
        plan = "\n".join(row[0] for row in await archive.connection.fetch(f"EXPLAIN {asked[0].query}", *asked[0].args))
    assert "Index Only Scan" in plan, plan
    assert not re.search("Sort|Seq Scan|Bitmap", plan), plan


async def test_counts_by_value_name_the_most_frequent_of_any_field(archive: Archive, monkeypatch: pytest.MonkeyPatch) -> None:
    for number in range(5):
        await archive.add(event({"n": number // 2, "s": "x"}), ago=100 - number)
    await archive.add(failed("r1", "x"), ago=200)
    await archive.add(failed("r1", "x"), org="other")
    asked = CountByValue(org="acme", fields=["level", "data.data.n", "run", "workflow"], values=2)
    found = await count_by_value(asked, archive.deps)
    assert {one.field: [(value.value, value.count) for value in one.values] for one in found.items} == {
        "level": [("info", 5), ("error", 1)], "data.data.n": [("0", 2), ("1", 2)], "run": [("r1", 1)], "workflow": [],
    }  # fmt: skip
    assert (found.counted, found.complete) == (6, True)
    monkeypatch.setattr(counts, "SAMPLE", 2)
    found = await count_by_value(asked, archive.deps)
    assert (found.counted, found.complete) == (2, False)
    nothing = await count_by_value(CountByValue(org="acme", q="nowhere", fields=["level"]), archive.deps)
    assert (nothing.counted, nothing.complete, nothing.items[0].values) == (0, True, [])
    for wrong in ([], ["level"] * 11, ["colour"], ["level'"], ["data."], [""]):
        with pytest.raises(Invalid, match=r"fields|expected"):
            await count_by_value(CountByValue(org="acme", fields=wrong), archive.deps)


async def test_a_search_reads_only_the_partitions_of_its_time(place: Place, archive: Archive) -> None:
    for days in range(0, 42, 6):
        await partitions.make(archive.deps.engine, NOW.date() - timedelta(days=days))
    named = {partitions.name_of((NOW - timedelta(days=ago)).date()) for ago in (0, 1)}
    selection = Selection("acme", parse("failed level:error"))
    async with reading(archive.deps.engine) as connection:
        plan = await selecting.plan(connection, selection, NOW - timedelta(hours=20), NOW)
    assert set(re.findall(r"message_(?:[0-9]{8}|default)(?= )", plan)) == named
    assert len(await archive.connection.fetch("SELECT FROM pg_inherits WHERE inhparent = 'message'::regclass")) > 30


async def test_data_comes_back_as_written_and_the_item_names_everything(archive: Archive) -> None:
    id_ = await archive.add(event({"z": 1, "a": 2.50, "text": "nul\x00"}), correlation="c9")
    item = (await archive.find()).items[0]
    assert (item.id, item.stream, item.seq, item.type, item.org) == (id_, "RUNS", 1, "event.accepted", "acme")
    assert (item.time, item.correlation_id, item.run) == ("2026-11-20T11:59:00.000000Z", "c9", None)
    assert b'"data":{"z":1,"a":2.5,"text":"nul\\ufffd"}' in bytes(item.data)


async def test_the_range_of_times_is_the_last_day_unless_said(archive: Archive) -> None:
    old = await archive.add(requested("r1"), ago=25 * 3600)
    new = await archive.add(requested("r2"), ago=60)
    assert await archive.ids() == [new]
    assert await archive.ids(since="now-2d") == [new, old]
    assert await archive.ids(since="now-2d", until="now-1d") == [old]
    assert await archive.ids(since="2026-11-19T00:00:00Z", order="asc") == [old, new]


@pytest.mark.parametrize("order", ["asc", "desc"])
async def test_pages_hold_every_row_once_in_order_also_when_rows_arrive_between(archive: Archive, order: str) -> None:
    ids = [await archive.add(requested(f"r{n}"), ago=100 - n // 3) for n in range(20)]
    seen: list[str] = []
    cursor = None
    while True:
        page = await archive.find("sync-tickets", limit=7, cursor=cursor, order=order)
        seen += [item.id for item in page.items]
        cursor = page.next_cursor
        if cursor is None:
            break
        # `until` is frozen at page one: what comes after it belongs to another search.
        await archive.add(requested("late"), ago=-5)
    assert seen == (ids if order == "asc" else ids[::-1])


async def test_a_cursor_of_another_search_is_refused(archive: Archive) -> None:
    for n in range(3):
        await archive.add(requested(f"r{n}"))
    cursor = (await archive.find("sync-tickets", limit=1)).next_cursor
    others: list[dict[str, Any]] = [{"q": "other"}, {"org": "other"}, {"order": "asc"}, {"since": "now-1h"}, {"everything": True}]
    for other in others:
        with pytest.raises(Malformed):
            await archive.find(**{"q": "sync-tickets", "cursor": cursor, **other})
    with pytest.raises(Malformed):
        await archive.find(cursor="nonsense")
    own = cursors.fingerprint("", "acme", "False", "desc", "", "", "", "")
    whole = Cursor(time=0, stream="RUNS", seq=1, since=0, until=0, order="desc", query=own)
    assert (await archive.find(cursor=cursors.written(whole))).items == []
    forged: list[dict[str, Any]] = [
        {"seq": 2**63},
        {"seq": -1},
        {"stream": "A\0"},
        {"stream": ""},
        {"time": 10**18},
        {"until": -(10**17)},
    ]
    for one in forged:
        with pytest.raises(Malformed):
            await archive.find(cursor=cursors.written(msgspec.structs.replace(whole, **one)))


async def test_large_rows_end_a_page_early_and_none_is_lost(archive: Archive) -> None:
    ids = [await archive.add(event({"text": "y" * 300_000}), ago=100 - n) for n in range(8)]
    seen: list[str] = []
    cursor = None
    pages = 0
    while True:
        page = await archive.find(limit=100, cursor=cursor, order="asc")
        assert sum(len(bytes(item.data)) for item in page.items) <= questions.PAGE_BYTES
        seen += [item.id for item in page.items]
        pages += 1
        cursor = page.next_cursor
        if cursor is None:
            break
    assert seen == ids
    assert pages > 1


async def test_what_does_not_fit_is_invalid(archive: Archive) -> None:
    no_time = {"since": "now", "until": "now-1h"}
    for wrong in ({"limit": 0}, {"limit": 1001}, {"order": "up"}, {"since": "x"}, {"q": "(("}, no_time):
        with pytest.raises(Invalid):
            await archive.find(**wrong)


async def test_a_page_takes_a_bounded_number_of_statements(archive: Archive) -> None:
    for n in range(30):
        await archive.add(requested(f"r{n}"))
    seen: list[str] = []
    async with reading(archive.deps.engine) as connection:
        connection.add_query_logger(lambda record: seen.append(record.query))
    assert len(await archive.ids(limit=30)) == 30
    await asyncio.sleep(0)  # the driver tells its loggers in the next turn of the loop
    assert len(seen) == 1


async def test_a_search_is_planned_for_the_words_that_it_has_however_often_it_is_asked(archive: Archive) -> None:
    for number in range(10):
        await archive.ids(f"w{number}")
    async with reading(archive.deps.engine) as connection:
        prepared = "SELECT sum(custom_plans), sum(generic_plans) FROM pg_prepared_statements WHERE statement LIKE $1"
        assert tuple(await connection.fetchrow(prepared, "%tsv @@%")) == (10, 0)


async def test_a_search_that_takes_too_long_is_answered_so(archive: Archive, monkeypatch: pytest.MonkeyPatch) -> None:
    document = seal(requested("r"), service="executor", org="acme", now=NOW).document
    statement = insert([row_of(StreamPosition("RUNS", "inc", 1000 + n, NOW, "s"), document) for n in range(5000)])
    await archive.connection.execute(statement.sql, *statement.values)
    monkeypatch.setattr(scope, "SECONDS", 0.03)
    engine = open_archive(archive.url)
    asked = Search(org="acme", q=" OR ".join(f"data.a.b.c:>{n}" for n in range(50)))
    with pytest.raises(Unavailable, match="narrow"):
        await search(asked, ArchiveDeps(engine, lambda: NOW))
    await engine.dispose()


async def test_the_gateway_finds_a_line_that_the_service_has_archived(place: Place) -> None:
    async with running(place, "logs"), bus_of(place, "executor") as executor, bus_of(place, "gateway") as gateway:
        chunk = LineChunk(
            run="r1", workflow="w", attempt=1, chunk=1, lines=[Lines(time="t", level="info", message="hello from the run")]
        )
        await executor.publish(executor.seal(chunk, org="acme"))
        await executor.publish(executor.seal(Logged(service="executor", level="info", event="other", fields={}), org="acme"))

        async def found() -> LogPage | None:
            page: LogPage = await gateway.ask(Search(org="acme", q='"hello from"'))
            return page if page.items else None

        page = await eventually(found)
        assert isinstance(page, LogPage)
        assert [item.run for item in page.items] == ["r1"]
        assert page.items[0].message == "hello from the run"
        with pytest.raises(Invalid, match="position 3"):
            await gateway.ask(Search(org="acme", q="a )"))
