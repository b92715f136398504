"""The search of the archive among millions of rows, each question beside the bare SQL that a person would write for it.

Messages of services and lines of runs are made by the archive's own code, and copied within the database, with values of their own,
to the wanted number: over three days, of two organizations. A question is asked as the service answers it, from its text to the
items of its answer; the SQL is run by the driver, and its rows are fetched. Both see the same indexes, in turns, at the same times.
"""

from __future__ import annotations

import random
import secrets
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, NamedTuple

import asyncpg
import click

from bench.support import outcome
from bench.support.outcome import BenchError, Outcome, percentile
from deploy.credentials import load_or_create
from deploy.postgres import SUPERUSER, EmbeddedPostgres
from deploy.prepare import prepare_database
from services.logs import partitions, questions, scope
from services.logs.counts import count_by_time, count_by_value
from services.logs.domain import Row, StreamPosition, row_of
from services.logs.lines import split
from services.logs.scope import ArchiveDeps
from services.logs.store import insert
from shared.db import open_engine
from shared.envelope import rfc3339, seal
from shared.messages import LineChunk, Lines, Logged, Message, RunError, RunFailed, RunRequested, RunUsage
from shared.questions import Page
from shared.questions.logs import CountByTime, CountByValue, Search

ROWS = 2_000_000
DAYS = 3
# Rows that the archive's code makes; each copy has a number of its own in its data and among its words.
MADE = 2000
PORTION = 100_000
PAGE = 100
CALLS, SLOW_CALLS = 40, 5
WANTED = 1.5
ORG = "acme"
_COLUMNS = (
    "time, stream, seq, type, level, service, org, run, correlation_id, causation_id, id, message, workflow, line, document,"
    " CASE WHEN line > 0 THEN CAST(data AS text) END AS data"
)
_COPY = """
    INSERT INTO message (time, stream, incarnation, seq, id, type, level, service, org, key, run, correlation_id, causation_id,
                         message, data, document, said_at, tsv, workflow, line)
    SELECT n.at, one.stream, 'copies', n.number, 'copy-' || n.number, one.type, one.level, one.service, one.org, one.key, one.run,
           one.correlation_id, one.causation_id, one.message,
           CASE WHEN one.line > 0 THEN jsonb_set(one.data, '{fields,number}', to_jsonb(n.number))
                ELSE jsonb_set(one.data, '{number}', to_jsonb(n.number)) END,
           one.document, n.at, one.tsv || CAST(n.number || ':1' AS tsvector), one.workflow, one.line
      FROM (SELECT number, $1::timestamptz - number * (interval '1 day' * $3) / $2 AS at
              FROM generate_series($4::bigint, $5::bigint) AS number) AS n
      JOIN made AS one ON one.place = n.number % $6
"""
_RANGE = "org = $1 AND time >= $2 AND time <= $3 AND line >= 0"
_NEWEST = f"SELECT {_COLUMNS} FROM message WHERE {_RANGE} AND {{}} ORDER BY time DESC, stream DESC, seq DESC LIMIT {PAGE + 1}"


class Compared(NamedTuple):
    """A question, and the SQL that answers it, for the moment `until`."""

    asked: Callable[[str, str], Awaitable[Any]]
    sql: tuple[str, ...]
    calls: int = CALLS


def _messages(chance: random.Random) -> list[Message]:
    made: list[Message] = []
    for number in range(MADE):
        run, workflow = f"run-{number % 500}", f"flow-{number % 20}"
        kind = chance.random()
        if kind < 0.5:
            level = chance.choices(["info", "warning", "error"], [90, 8, 2])[0]
            status = chance.choice([200, 200, 200, 201, 404, 500])
            fields = {"status": status, "path": f"/orders/{number % 40}", "took": chance.random()}
            said = chance.choice(["order posted", "order fetched", "retrying"])
            line = Lines(time="t", level=level, message=said, fields=fields)
            made.append(LineChunk(run=run, workflow=workflow, attempt=1, chunk=1, lines=[line]))
        elif kind < 0.75:
            asked = RunRequested(run=run, workflow=workflow, version="v", input={"n": number}, requested_by="t", timeout=1.0)
            made.append(asked)
        elif kind < 0.755:
            error = RunError("ValueError", "no such ticket")
            made.append(RunFailed(run=run, attempt=1, reason="error", error=error, duration_ms=1.0, usage=RunUsage()))
        else:
            served = {"path": f"/hooks/{number}", "status": 202}
            made.append(Logged(service="gateway", level="info", event="request.served", fields=served))
    return made


def _rows(until: datetime) -> list[Row]:
    chance = random.Random(3)
    rows: list[Row] = []
    for number, message in enumerate(_messages(chance)):
        time_ = until - timedelta(days=DAYS + 1)
        org = ORG if chance.random() < 0.8 else "other"
        document = seal(message, service="executor", org=org, now=time_).document
        rows += [row for row in split(row_of(StreamPosition("RUNS", "made", number + 1, time_, "s"), document)) if row.line >= 0]
    return rows


async def _filled(url: str, rows: int, until: datetime) -> None:
    made = _rows(until)
    connection = await asyncpg.connect(url)
    await connection.execute("SET search_path = logs; SET synchronous_commit = off")
    statement = insert(made)
    await connection.execute(statement.sql, *statement.values)
    await connection.execute("CREATE TEMP TABLE made AS SELECT *, row_number() OVER (ORDER BY seq, line) - 1 AS place FROM message")
    await connection.execute("CREATE INDEX ON made (place); ANALYZE made")
    for first in range(0, rows, PORTION):
        last = min(rows, first + PORTION) - 1
        await connection.execute(_COPY, until, float(rows), float(DAYS), first, last, len(made), timeout=600)
    await connection.execute("VACUUM ANALYZE message", timeout=600)
    await connection.close()


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


@asynccontextmanager
async def _database(folder: Path) -> AsyncIterator[tuple[str, str]]:
    """Run Postgres; give the address for the archive's role, and for the administrator."""
    credentials = load_or_create(folder / "credentials.json", None)
    # A socket's path is short.
    with tempfile.TemporaryDirectory(prefix="mr-") as sockets:
        postgres = EmbeddedPostgres(
            folder=folder / "postgres",
            sockets=Path(sockets),
            pidfile=folder / "postgres.pid",
            log=folder / "postgres.log",
            password=credentials.postgres_admin,
        )
        await postgres.start()
        try:
            await postgres.create_database("bench")
            admin = postgres.url(SUPERUSER, credentials.postgres_admin, "bench")
            await prepare_database(admin, credentials)
            yield postgres.url("millrace_logs", credentials.postgres["logs"], "bench"), admin
        finally:
            await postgres.stop(10.0)


async def measure(folder: Path, rows: int) -> Outcome:
    """Measure among so many rows."""
    until = datetime.now(UTC)
    async with _database(folder) as (url, admin):
        engine = open_engine(url, service="logs")
        connection = await asyncpg.connect(url)
        try:
            for day in range(DAYS + 2):
                await partitions.make(engine, (until - timedelta(days=day)).date())
            began = time.perf_counter()
            await _filled(admin, rows, until)
            filled = time.perf_counter() - began
            taken, bare, slowest = await _measured(ArchiveDeps(engine, lambda: until), connection, rows, until)
        finally:
            await connection.close()
            await engine.dispose()
    return _outcome(rows, filled, taken, bare, slowest)


async def _measured(
    deps: ArchiveDeps, connection: asyncpg.Connection[Any], rows: int, until: datetime
) -> tuple[dict[str, list[float]], dict[str, list[float]], float]:
    chance = random.Random(secrets.randbits(32))
    since = until - timedelta(days=DAYS)
    taken: dict[str, list[float]] = {}
    bare: dict[str, list[float]] = {}
    for name, one in _compared(deps, chance, rows).items():
        taken[name], bare[name] = [], []
        # The first calls of each meet cold caches.
        for call in range(one.calls + 2):
            moment = until - timedelta(seconds=chance.random() * 3600)
            began = time.perf_counter()
            found = await one.asked(rfc3339(since), rfc3339(moment))
            asked = time.perf_counter()
            for sql in one.sql:
                await connection.fetch(sql.replace("{number}", f"'{chance.randrange(rows)}'"), ORG, since, moment)
            done = time.perf_counter()
            if not found and name not in {"missing_word", "rare_word", "rare_field"}:
                raise BenchError(f"{name} found nothing")
            if call >= 2:
                taken[name].append((asked - began) * 1000)
                bare[name].append((done - asked) * 1000)
    return taken, bare, max(map(max, taken.values()))


def _outcome(rows: int, filled: float, taken: dict[str, list[float]], bare: dict[str, list[float]], slowest: float) -> Outcome:
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
            "filled_in_s": filled,
            "rows_per_s": rows / filled,
            "p95_ms": {name: asked for name, (asked, _) in p95.items()},
            "p95_ms_of_sql": {name: of_sql for name, (_, of_sql) in p95.items()},
            "ratio_of_p95": ratios,
            "above_wanted": [name for name, ratio in ratios.items() if ratio > WANTED],
            "slowest_answer_ms": slowest,
            "time_out_ms": scope.SECONDS * 1000,
        },
    )


@click.command()
@click.option("--json", "as_json", is_flag=True, help="Print the figures as one line of JSON last.")
@click.option("--rows", default=ROWS, show_default=True, help="How many rows the archive is to have.")
def main(*, as_json: bool, rows: int) -> None:
    """Fill the archive, and measure what searching it takes beside bare SQL."""
    raise SystemExit(outcome.main(lambda folder, _seconds: measure(folder, rows), seconds=0, as_json=as_json))


if __name__ == "__main__":
    main()
