"""The search of the archive among millions of rows, each question beside the bare SQL that a person would write for it.

A question is asked as the service answers it, from its text to the items of its answer; the SQL is run by the driver on a
connection of its own, and its rows are fetched. Both see the same indexes, in turns, at the same times.

Ten million rows take a while to make: with `--keep` the folder stays, and a later call goes on where one was ended, or measures.
"""

from __future__ import annotations

import random
import re
import secrets
import time
from collections.abc import Awaitable, Callable
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any, NamedTuple

import aiohttp
import asyncpg
import click

from bench.support import outcome
from bench.support.archived import DAYS, ORG, database, filled
from bench.support.outcome import BenchError, Outcome, percentile
from bench.support.running import whole
from services.logs import questions, scope, selecting
from services.logs.counts import count_by_time, count_by_value
from services.logs.query import parse
from services.logs.scope import ArchiveDeps, open_archive
from services.logs.selection import Selection
from shared.db import Connection
from shared.envelope import rfc3339
from shared.questions import Page
from shared.questions.logs import CountByTime, CountByValue, Search

ROWS = 2_000_000
PAGE = 100
CALLS, SLOW_CALLS = 40, 10
WANTED = 1.5
_COLUMNS = (
    "time, stream, seq, type, level, service, org, run, correlation_id, causation_id, id, message, workflow, line, document,"
    " CASE WHEN line > 0 THEN CAST(data AS text) END AS data"
)
_RANGE = "org = $1 AND time >= $2 AND time <= $3 AND line >= 0"
_NEWEST = f"SELECT {_COLUMNS} FROM message WHERE {_RANGE} AND {{}} ORDER BY time DESC, stream DESC, seq DESC LIMIT {PAGE + 1}"


class Measured(NamedTuple):
    """How many milliseconds each question took, and its SQL, call by call."""

    taken: dict[str, list[float]]
    bare: dict[str, list[float]]


class Compared(NamedTuple):
    """A question, and the SQL that answers it, for the moment `until`."""

    asked: Callable[[str, str], Awaitable[Any]]
    sql: tuple[str, ...]
    calls: int = CALLS


def _compared(deps: ArchiveDeps, chance: random.Random, rows: int) -> dict[str, Compared]:
    def searched(q: Callable[[], str]) -> Callable[[str, str], Awaitable[Any]]:
        async def asked(since: str, until: str) -> Any:
            found = await questions.search(Search(org=ORG, q=q(), since=since, until=until, page=Page(limit=PAGE)), deps)
            return found.items

        return asked

    def found(condition: str) -> tuple[str, ...]:
        return (_NEWEST.format(condition),)

    def number() -> int:
        return chance.randrange(rows)

    fields = ["level", "type", "workflow", "fields.status"]
    texts = ["level", "type", "workflow", "data #>> '{fields,status}'"]
    of_sample = f"SELECT * FROM message WHERE {_RANGE} ORDER BY time DESC, stream DESC, seq DESC LIMIT 100000"

    async def bars(since: str, until: str) -> Any:
        return (await count_by_time(CountByTime(org=ORG, since=since, until=until), deps)).items

    async def facets(since: str, until: str) -> Any:
        return (await count_by_value(CountByValue(org=ORG, since=since, until=until, fields=fields), deps)).items

    return {
        "page": Compared(searched(lambda: ""), found("true")),
        "common_word": Compared(searched(lambda: "order"), found("tsv @@ 'order'::tsquery")),
        "phrase": Compared(searched(lambda: '"order posted"'), found("tsv @@ 'order <-> posted'::tsquery")),
        "rare_word": Compared(searched(lambda: str(number())), found("tsv @@ {number}::tsquery")),
        "missing_word": Compared(searched(lambda: "nowhere"), found("tsv @@ 'nowhere'::tsquery")),
        "two_words": Compared(searched(lambda: "ticket valueerror"), found("tsv @@ 'ticket & valueerror'::tsquery")),
        "level": Compared(searched(lambda: "level:error"), found("level = 'error'")),
        "rare_type": Compared(searched(lambda: "type:run.failed"), found("type = 'run.failed'")),
        "workflow": Compared(searched(lambda: "workflow:flow-7"), found("workflow = 'flow-7'")),
        "run": Compared(searched(lambda: "run:run-7"), found("run = 'run-7'")),
        "common_field": Compared(searched(lambda: "fields.status:500"), found('data @> \'{"fields": {"status": 500}}\'')),
        "compared_field": Compared(
            searched(lambda: "fields.status:>=500"),
            found("(jsonb_typeof(data #> '{fields,status}') = 'number' AND (data #>> '{fields,status}')::numeric >= 500)"),
        ),
        "rare_field": Compared(searched(lambda: f"data.number:{number()}"), found("tsv @@ {number}::tsquery AND data::text <> ''")),
        "histogram": Compared(
            bars,
            (f"SELECT date_bin('2 hours', time, to_timestamp(0)), level, count(*) FROM message WHERE {_RANGE} GROUP BY 1, 2",),
            SLOW_CALLS,
        ),
        "facets": Compared(
            facets,
            tuple(f"SELECT {text}, count(*) FROM ({of_sample}) AS s GROUP BY 1 ORDER BY 2 DESC LIMIT 10" for text in texts),
            SLOW_CALLS,
        ),
    }


async def measure(folder: Path, kept: Path, rows: int) -> Outcome:
    """Measure among so many rows, which are in the folder `kept`."""
    way = await _way(folder / "stack")
    async with database(kept) as (url, admin):
        began = time.perf_counter()
        until = await filled(kept, url, admin, rows)
        seconds = time.perf_counter() - began
        engine = open_archive(url)
        connection = await asyncpg.connect(url)
        try:
            partitions = await _partitions(connection, until)
            measured = await _measured(ArchiveDeps(engine, lambda: until), connection, rows, until)
        finally:
            await connection.close()
            await engine.dispose()
    return _outcome(rows, measured, {"filled_in_s": seconds, "partitions": partitions, "http_and_bus_ms": way})


async def _way(data: Path) -> dict[str, float]:
    """Return what the way to the service and back takes, of a query that it refuses before it asks the database."""
    taken: list[float] = []
    async with (
        whole(data) as stack,
        aiohttp.ClientSession(headers={"Authorization": f"Bearer {stack.ready['admin_key']}"}) as session,
    ):
        for _ in range(5 * CALLS):
            began = time.perf_counter()
            async with session.get(stack.ready["url"] + "/api/v1/logs", params={"q": "(("}) as response:
                if response.status != 422:
                    raise BenchError(f"a query that cannot be read was answered {response.status}")
                await response.read()
            taken.append((time.perf_counter() - began) * 1000)
    return {"p50": percentile(taken, 50), "p95": percentile(taken, 95)}


async def _partitions(connection: Connection, until: datetime) -> dict[str, int]:
    """Return how many partitions there are, and how many of them the plan of a search of one hour reads."""
    plan = await selecting.plan(connection, Selection(ORG, parse("order")), until - timedelta(hours=1), until)
    there = await connection.fetchval("SELECT count(*) FROM pg_inherits WHERE inhparent = 'message'::regclass")
    return {"there": there, "read_for_an_hour": len(set(re.findall(r"message_(?:[0-9]{8}|default)(?= )", plan)))}


async def _measured(deps: ArchiveDeps, connection: Connection, rows: int, until: datetime) -> Measured:
    chance = random.Random(secrets.randbits(32))
    since = until - timedelta(days=DAYS)
    taken: dict[str, list[float]] = {}
    bare: dict[str, list[float]] = {}
    for name, one in _compared(deps, chance, rows).items():
        taken[name], bare[name] = [], []

        async def ask(moment: datetime, name: str = name, one: Compared = one) -> float:
            began = time.perf_counter()
            found = await one.asked(rfc3339(since), rfc3339(moment))
            ended = time.perf_counter()
            if not found and name not in {"missing_word", "rare_word", "rare_field"}:
                raise BenchError(f"{name} found nothing")
            return (ended - began) * 1000

        async def query(moment: datetime, one: Compared = one) -> float:
            began = time.perf_counter()
            for sql in one.sql:
                await connection.fetch(sql.replace("{number}", f"'{chance.randrange(rows)}'"), ORG, since, moment)
            return (time.perf_counter() - began) * 1000

        # The first calls of each meet cold caches; of the others each goes first half of the time, since it warms the other's.
        for call in range(-2, one.calls):
            moment = until - timedelta(seconds=chance.random() * 3600)
            if call % 2:
                asked, queried = await ask(moment), await query(moment)
            else:
                queried, asked = await query(moment), await ask(moment)
            if call >= 0:
                taken[name].append(asked)
                bare[name].append(queried)
        said = f"{name}: p95 {percentile(taken[name], 95):.2f} ms, of its SQL {percentile(bare[name], 95):.2f} ms"
        click.echo(f"{said}; p50 {percentile(taken[name], 50):.2f}, {percentile(bare[name], 50):.2f}", err=True)
    return Measured(taken, bare)


def _outcome(rows: int, measured: Measured, more: dict[str, Any]) -> Outcome:
    taken, bare = measured
    p95 = {name: (percentile(taken[name], 95), percentile(bare[name], 95)) for name in taken}
    ratios = {name: asked / of_sql for name, (asked, of_sql) in p95.items()}
    worst = max(ratios, key=lambda name: ratios[name])
    return Outcome(
        name="logs",
        figure=p95[worst][0],
        unit=f"ms, p95 of the question that is the furthest above its SQL ({worst})",
        limit=p95[worst][1],
        ratio=ratios[worst],
        more={
            "rows": rows,
            **more,
            "p95_ms": {name: asked for name, (asked, _) in p95.items()},
            "p95_ms_of_sql": {name: of_sql for name, (_, of_sql) in p95.items()},
            "ratio_of_p95": ratios,
            "ratio_of_p50": {name: percentile(taken[name], 50) / percentile(bare[name], 50) for name in taken},
            "above_wanted": [name for name, ratio in ratios.items() if ratio > WANTED],
            "slowest_answer_ms": max(map(max, taken.values())),
            "time_out_ms": scope.SECONDS * 1000,
        },
    )


@click.command()
@click.option("--json", "as_json", is_flag=True, help="Print the figures as one line of JSON last.")
@click.option("--rows", default=ROWS, show_default=True, help="How many rows the archive is to have.")
@click.option("--keep", type=click.Path(path_type=Path), help="The folder in which the archive stays for later calls.")
def main(*, as_json: bool, rows: int, keep: Path | None) -> None:
    """Fill the archive, and measure what searching it takes beside bare SQL."""

    async def measured(folder: Path, _seconds: float) -> Outcome:
        kept = (keep or folder).absolute() / str(rows)
        kept.mkdir(mode=0o711, parents=True, exist_ok=True)
        return await measure(folder, kept, rows)

    raise SystemExit(outcome.main(measured, seconds=0, as_json=as_json))


if __name__ == "__main__":
    main()
