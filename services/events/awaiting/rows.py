"""The rows of waits for events, which follow from RUNS, and of events that may answer one, which are work to be done."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from datetime import datetime
from typing import Any

import msgspec
from sqlalchemy import ARRAY, BigInteger, Text, any_, delete, select
from sqlalchemy.ext.asyncio import AsyncEngine

from services.events.awaiting.plan import OpenWait, patterns_of
from services.events.tables import awaited_event, delivery_woken, event_wait
from shared.messages import EventAccepted, RunEventMatched, RunResumed, RunStepCompleted, RunWaiting
from shared.projected import Recorded
from shared.runs import RunEnd
from shared.statements import Compiled, Statement, given, inserted, parameter
from shared.values import moment_of

_W, _A = event_wait.c, awaited_event.c
_GONE = given(_W.run, _W.name, _W.ordinal)
_DELETE = Compiled(delete(event_wait).where(_W.run == _GONE.c.run, _W.name == _GONE.c.name, _W.ordinal == _GONE.c.ordinal))
_OF_RUNS = Compiled(delete(event_wait).where(_W.run == any_(parameter("runs", ARRAY(Text)))))
_WOKEN = Compiled(inserted(delivery_woken, *delivery_woken.c.keys()).on_conflict_do_nothing())
_EVENTS = Compiled(
    select(_A.event, _A.sequence).where(_A.org == parameter("org")).order_by(_A.sequence).limit(parameter("limit", BigInteger))
)
_DONE = Compiled(delete(awaited_event).where(_A.event == any_(parameter("events", ARRAY(Text)))))
# A wait that is not new keeps its row, and is not looked at again.
_INSERT = """
    WITH new AS (
        INSERT INTO event_wait (run, name, ordinal, org, source, type, path, value, expression, variables, since)
        SELECT run, name, ordinal, org, source, type, path, value, expression, variables::jsonb, since
          FROM unnest($1::text[], $2::text[], $3::bigint[], $4::text[], $5::text[], $6::text[], $7::text[], $8::text[], $9::text[],
                      $10::text[], $11::timestamptz[])
            AS g(run, name, ordinal, org, source, type, path, value, expression, variables, since)
        ON CONFLICT DO NOTHING RETURNING run, name, ordinal, org)
    INSERT INTO new_wait (run, name, ordinal, org) SELECT run, name, ordinal, org FROM new ON CONFLICT DO NOTHING
"""
_NEW = """
    SELECT n.run, n.name, n.ordinal, n.org, w.source, w.type, w.path, w.value, w.expression, w.variables, w.since
      FROM new_wait AS n LEFT JOIN event_wait AS w USING (run, name, ordinal)
     WHERE n.org = $1 LIMIT $2
"""
# A run whose waits are others now keeps the rows of those that it still has: they were looked at.
_KEEP_ONLY = """
    DELETE FROM event_wait AS w USING unnest($1::text[]) AS g(run)
     WHERE w.run = g.run
       AND NOT EXISTS (SELECT FROM unnest($2::text[], $3::text[], $4::bigint[], $5::timestamptz[]) AS k(run, name, ordinal, since)
                        WHERE k.run = w.run AND k.name = w.name AND k.ordinal = w.ordinal AND k.since = w.since)
"""
# Of an event one row, where anybody waits for any of its source and type.
_NOTE = """
    INSERT INTO awaited_event (event, org, sequence)
    SELECT DISTINCT g.event, g.org, g.sequence
      FROM unnest($1::text[], $2::text[], $3::bigint[], $4::text[], $5::text[]) AS g(event, org, sequence, source, type)
     WHERE EXISTS (SELECT FROM event_wait AS w WHERE w.source = g.source AND w.type = g.type)
    ON CONFLICT DO NOTHING
"""
_WHOSE = """
    SELECT org FROM awaited_event UNION SELECT org FROM new_wait UNION ALL SELECT NULL WHERE EXISTS (SELECT FROM event_wait)
"""
# The paths that waits of a source and pattern have, one after the other through the index: however many waits there are.
_PATHS = """
    WITH RECURSIVE found AS (
        SELECT g.source, g.type, (SELECT min(w.path) FROM event_wait AS w WHERE w.source = g.source AND w.type = g.type) AS path
          FROM unnest($1::text[], $2::text[]) AS g(source, type)
        UNION ALL
        SELECT f.source, f.type,
               (SELECT min(w.path) FROM event_wait AS w WHERE w.source = f.source AND w.type = f.type AND w.path > f.path)
          FROM found AS f WHERE f.path IS NOT NULL)
    SELECT source, type, path FROM found WHERE path IS NOT NULL
"""
_CANDIDATES = """
    SELECT g.number, w.run, w.name, w.ordinal, w.org, w.source, w.type, w.path, w.value, w.expression, w.variables, w.since
      FROM unnest($1::bigint[], $2::text[], $3::text[], $4::text[], $5::text[]) AS g(number, source, type, path, value)
      JOIN event_wait AS w ON w.source = g.source AND w.type = g.type AND w.path = g.path AND w.value = g.value
     WHERE w.run > $6
     ORDER BY w.run LIMIT $7
"""
_LOOKED = """
    DELETE FROM new_wait AS n USING unnest($1::text[], $2::text[], $3::bigint[]) AS g(run, name, ordinal)
     WHERE n.run = g.run AND n.name = g.name AND n.ordinal = g.ordinal
"""
_COUNT = """
    SELECT count(*) AS n FROM (SELECT FROM event_wait WHERE source = $1 AND type = $2 AND path = '' LIMIT $3) AS found
"""

# (run, name, ordinal).
WaitId = tuple[str, str, int]
# (number of the event, source, pattern, path, value) of which waits may be there.
Sought = tuple[int, str, str, str, str]


def wait_statements(batch: Sequence[Recorded]) -> list[Statement]:
    """Return what messages of runs change about waits for events, and about what deliveries have woken."""
    waits: dict[str, dict[tuple[str, int], dict[str, Any]]] = {}
    over: dict[tuple[str, str, int], None] = {}
    ended: dict[str, None] = {}
    woken: list[dict[str, Any]] = []
    for at in batch:
        message, run = at.message, at.envelope.subject
        gone: list[tuple[str, int]] = []
        if isinstance(message, RunWaiting):
            if message.waits or message.blocked_on != "retry":
                waits[run] = {(one.name, one.ordinal): _row(at, run, one) for one in message.waits if one.awaited is not None}
        elif isinstance(message, RunEventMatched):
            gone = [(message.name, message.ordinal)]
            woken.append(_woken(at, message))
        elif isinstance(message, RunResumed):
            gone = [(one.name, one.ordinal) for one in message.resolved if one.kind == "event"]
        elif isinstance(message, RunStepCompleted) and message.kind == "event":
            gone = [(message.name, message.ordinal)]
        elif isinstance(message, RunEnd):
            ended[run] = None
            waits.pop(run, None)
        for key in gone:
            waits.get(run, {}).pop(key, None)
            over[run, *key] = None
    statements = []
    if waits:
        kept = [one for of in waits.values() for one in of.values()]
        keys = ([one[name] for one in kept] for name in ("run", "name", "ordinal", "since"))
        statements.append(Statement(_KEEP_ONLY, (list(waits), *keys)))
        if kept:
            statements.append(Statement(_INSERT, tuple([one[name] for one in kept] for name in kept[0])))
    if over:
        statements.append(_DELETE.of({"run": run, "name": name, "ordinal": ordinal} for run, name, ordinal in over))
    if ended:
        statements.append(_OF_RUNS(runs=list(ended)))
    return [*statements, _WOKEN.of(woken)] if woken else statements


def event_statements(accepted: Sequence[tuple[Recorded, EventAccepted]]) -> list[Statement]:
    """Return what notes the events of a batch that runs may wait for."""
    rows = [
        (message.event, at.envelope.org, at.delivered.sequence, message.source, pattern)
        for at, message in accepted
        for pattern in patterns_of(message.type)
    ]
    return [Statement(_NOTE, tuple(list(column) for column in zip(*rows, strict=True)))] if rows else []


async def organizations(engine: AsyncEngine) -> tuple[list[str], bool]:
    """Return those of which events or waits are to be looked at, and whether anybody waits. Raises `Unavailable`, as all here."""
    found = [row["org"] for row in await Statement(_WHOSE).read(engine)]
    return [org for org in found if org is not None], bool(found)


async def events(engine: AsyncEngine, org: str, limit: int) -> list[tuple[str, int]]:
    """Return events that may answer a wait, each with its sequence, in their order."""
    return [(row["event"], row["sequence"]) for row in await _EVENTS(org=org, limit=limit).read(engine)]


async def forget(engine: AsyncEngine, done: Collection[str]) -> None:
    """Forget events that have been looked at."""
    await _DONE(events=list(done)).read(engine)


async def new_waits(engine: AsyncEngine, org: str, limit: int) -> tuple[list[WaitId], list[OpenWait]]:
    """Return waits of which no earlier events have been looked at, and those among them that are still open."""
    found = await Statement(_NEW, (org, limit)).read(engine)
    ids = [(row["run"], row["name"], row["ordinal"]) for row in found]
    return ids, [_wait(row) for row in found if row["source"] is not None]


async def looked(engine: AsyncEngine, waits: Collection[WaitId]) -> None:
    """Record that the events before these waits have been looked at."""
    await Statement(_LOOKED, tuple(list(column) for column in zip(*waits, strict=True))).read(engine)


async def paths(engine: AsyncEngine, of: Collection[tuple[str, str]]) -> dict[tuple[str, str], list[str]]:
    """Return the paths at which waits of these sources and patterns demand a value."""
    found: dict[tuple[str, str], list[str]] = {}
    for row in await Statement(_PATHS, ([one for one, _ in of], [one for _, one in of])).read(engine):
        found.setdefault((row["source"], row["type"]), []).append(row["path"])
    return found


async def candidates(engine: AsyncEngine, sought: Sequence[Sought], after: str, limit: int) -> list[tuple[int, OpenWait]]:
    """Return waits that events may answer, each with the number of the event, in the order of their runs after one."""
    columns = tuple(list(column) for column in zip(*sought, strict=True))
    return [(row["number"], _wait(row)) for row in await Statement(_CANDIDATES, (*columns, after, limit)).read(engine)]


async def number_of_open(engine: AsyncEngine, source: str, pattern: str, most: int) -> int:
    """Return how many waits of a source and a pattern demand no value, counted up to `most`."""
    return int((await Statement(_COUNT, (source, pattern, most)).read(engine))[0]["n"])


def _row(at: Recorded, run: str, wait: Any) -> dict[str, Any]:
    event = wait.awaited
    return {
        "run": run,
        "name": wait.name,
        "ordinal": wait.ordinal,
        "org": at.envelope.org,
        "source": event.source,
        "type": event.type,
        "path": event.path,
        "value": event.value,
        "expression": event.where,
        "variables": msgspec.json.encode(event.values).decode(),
        "since": _moment(event.since, at),
    }


def _moment(text: str, at: Recorded) -> datetime:
    try:
        return moment_of(text)
    except (ValueError, OverflowError):
        return at.envelope.time


def _woken(at: Recorded, message: RunEventMatched) -> dict[str, Any]:
    return {
        "run": message.run,
        "name": message.name,
        "ordinal": message.ordinal,
        "org": at.envelope.org,
        "delivery": message.delivery,
        "number": message.number,
        "woken_at": at.envelope.time,
    }


def _wait(row: Any) -> OpenWait:
    return OpenWait(**{name: row[name] for name in OpenWait.__struct_fields__})
