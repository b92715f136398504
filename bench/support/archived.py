"""An archive of millions of rows: made by the archive's own code, and copied within the database to the wanted number."""

from __future__ import annotations

import random
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path

import asyncpg
from sqlalchemy.dialects import postgresql
from sqlalchemy.schema import CreateIndex

from deploy.credentials import load_or_create
from deploy.postgres import SUPERUSER, EmbeddedPostgres
from deploy.prepare import prepare_database
from services.logs import partitions
from services.logs.domain import Row, StreamPosition, row_of
from services.logs.lines import split
from services.logs.store import insert
from services.logs.tables import message
from shared.db import Connection, open_engine
from shared.envelope import seal
from shared.messages import LineChunk, Lines, Logged, Message, RunError, RunFailed, RunRequested, RunUsage

DAYS = 3
ORG = "acme"
# Rows that the archive's code makes; each copy has a number of its own in its data and among its words.
MADE = 2000
PORTION = 100_000
PATIENCE = 1800.0
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


@asynccontextmanager
async def database(folder: Path) -> AsyncIterator[tuple[str, str]]:
    """Run Postgres in a folder; give the address for the archive's role, and for the administrator."""
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


async def filled(folder: Path, url: str, admin: str, rows: int) -> datetime:
    """Fill the archive up to so many rows, over the last days; return the time of the newest.

    Indexes are built when all rows are there. Where it was ended before, it goes on: portion by portion, index by index.
    """
    begun, done = folder / "begun", folder / "filled"
    if not begun.exists():
        begun.write_text(datetime.now(UTC).isoformat())
    until = datetime.fromisoformat(begun.read_text())
    if done.exists():
        return until
    engine = open_engine(url, service="logs")
    for day in range(DAYS + 2):
        await partitions.make(engine, (until - timedelta(days=day)).date())
    await engine.dispose()
    connection = await asyncpg.connect(admin)
    try:
        await connection.execute("SET search_path = logs; SET synchronous_commit = off; SET maintenance_work_mem = '1GB'")
        await _copied(connection, rows, until)
        for index in sorted(message.indexes, key=lambda one: str(one.name)):
            made = CreateIndex(index, if_not_exists=True).compile(dialect=postgresql.dialect())  # type: ignore[no-untyped-call]
            await connection.execute(str(made), timeout=PATIENCE)
        await connection.execute("VACUUM ANALYZE message", timeout=PATIENCE)
    finally:
        connection.terminate()
    done.touch()
    return until


async def _copied(connection: Connection, rows: int, until: datetime) -> None:
    """Copy what is missing of so many rows, without indexes meanwhile."""
    first = await connection.fetchval("SELECT coalesce(max(seq) + 1, 0) FROM message WHERE incarnation = 'copies'")
    if first >= rows:
        return
    for index in message.indexes:
        await connection.execute(f"DROP INDEX IF EXISTS {index.name}")
    made = _rows(until)
    statement = insert(made)
    await connection.execute(statement.sql, *statement.values)
    await connection.execute(
        "CREATE TEMP TABLE made AS"
        " SELECT *, row_number() OVER (ORDER BY seq, line) - 1 AS place FROM message WHERE incarnation = 'made'"
    )
    await connection.execute("CREATE INDEX ON made (place); ANALYZE made")
    for start in range(first, rows, PORTION):
        last = min(rows, start + PORTION) - 1
        await connection.execute(_COPY, until, float(rows), float(DAYS), start, last, len(made), timeout=PATIENCE)


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
    for number, one in enumerate(_messages(chance)):
        time_ = until - timedelta(days=DAYS + 1)
        org = ORG if chance.random() < 0.8 else "other"
        document = seal(one, service="executor", org=org, now=time_).document
        rows += [row for row in split(row_of(StreamPosition("RUNS", "made", number + 1, time_, "s"), document)) if row.line >= 0]
    return rows
