"""SQL of the events service: one method, one statement, one intention."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any, Literal

import msgspec
from sqlalchemy import RowMapping, text
from sqlalchemy.ext.asyncio import AsyncEngine

from shared.checkpoint import position_of
from shared.db import Connection, transaction
from shared.questions import Position
from shared.runs import ENDED, ENDING
from shared.statements import Statement

# The outcome of a retry outweighs that it was given up before.
STATUS = "CASE WHEN d.dead IS NOT NULL AND d.outcome = 'accepted' THEN 'dead' ELSE d.outcome END"
DELIVERY = f"""
    SELECT d.id, d.org, d.source, d.received_at, d.correlation_id, d.sequence, d.emitted, d.type, d.retried_by, d.subscriptions,
           {STATUS} AS status,
           CASE WHEN d.outcome = 'accepted' THEN coalesce(d.dead, d.reason) ELSE d.reason END AS reason,
           (SELECT coalesce(jsonb_agg(jsonb_build_object('id', r.run, 'workflow', r.workflow, 'status', r.status)
                                      ORDER BY r.requested_at, r.run), '[]')
              FROM delivery_run r WHERE r.delivery = d.id) AS runs
      FROM delivery d
"""


class EventsStore:
    """Reads for questions; everything is limited to an organization except where an id is the address."""

    def __init__(self, engine: AsyncEngine) -> None:
        self._engine = engine

    async def delivery(self, org: str, id_: str) -> RowMapping | None:
        """Return one delivery with its runs."""
        return await self._one(DELIVERY + " WHERE d.org = :org AND d.id = :id", {"org": org, "id": id_})

    async def emitted(self, org: str, delivery: str, most: int) -> RowMapping:
        """Return `delivery` and `emitted` of this delivery of an organization, null where there is none yet.

        `unrouted` counts the events that were emitted in the organization within an hour and wait to be routed, up to `most`.
        """
        statement = """
            SELECT d.id AS delivery, d.emitted,
                   (SELECT count(*) FROM (SELECT FROM delivery w
                      WHERE w.org = :org AND w.outcome = 'accepted' AND w.emitted IS NOT NULL AND w.dead IS NULL
                        AND w.received_at > now() - interval '1 hour' LIMIT :most) AS waiting) AS unrouted
              FROM (SELECT) AS one LEFT JOIN delivery d ON d.id = :delivery AND d.org = :org
        """
        found = await self._one(statement, {"org": org, "delivery": delivery, "most": most})
        assert found is not None  # noqa: S101 - there is one row, whatever is not there
        return found

    async def counted_in_chain(self, org: str, chain: str) -> tuple[int, int]:
        """Return how many events the runs of a chain have emitted, and how many runs were started by runs of it."""
        row = await self._one("SELECT events, runs FROM chain WHERE org = :org AND id = :id", {"org": org, "id": chain})
        return (0, 0) if row is None else (int(row["events"]), int(row["runs"]))

    async def received_at(self, id_: str) -> datetime | None:
        """Return when a delivery was first received."""
        row = await self._one("SELECT received_at FROM delivery WHERE id = :id", {"id": id_})
        return None if row is None else row["received_at"]

    async def deliveries(
        self,
        org: str,
        status: str | None,
        source: str | None,
        prefix: str | None,
        before: tuple[datetime, str] | None,
        limit: int,
    ) -> list[RowMapping]:
        """Return deliveries with their runs, newest first, before (received_at, id); one statement for all."""
        statement = (
            DELIVERY
            + f"""
            WHERE d.org = :org
              AND (CAST(:status AS text) IS NULL OR {STATUS} = :status)
              AND (CAST(:source AS text) IS NULL OR d.source IN
                   (SELECT s.id FROM resource s WHERE s.noun = 'source' AND s.org = :org AND :source IN (s.id, s.name)))
              AND (CAST(:prefix AS text) IS NULL OR starts_with(d.id, :prefix))
              AND (CAST(:at AS timestamptz) IS NULL OR (d.received_at, d.id) < (:at, :id))
            ORDER BY d.received_at DESC, d.id DESC LIMIT :limit
            """
        )
        at, id_ = before or (None, "")
        parameters = {
            "org": org, "status": status, "source": source, "prefix": prefix, "at": at, "id": id_, "limit": limit,
        }  # fmt: skip
        return await self._all(statement, parameters)

    async def position(self, stream: str) -> Position:
        """Return how far the rows have come in a stream."""
        return await position_of(self._engine, stream)

    async def _one(self, statement: str, parameters: dict[str, Any]) -> RowMapping | None:
        async with transaction(self._engine) as connection:
            return (await connection.execute(text(statement), parameters)).mappings().first()

    async def _all(self, statement: str, parameters: dict[str, Any]) -> list[RowMapping]:
        async with transaction(self._engine) as connection:
            return list((await connection.execute(text(statement), parameters)).mappings().all())


# -- writes, by the projections -----------------------------------------------------------------------------------------------


def note_deliveries(rows: Sequence[dict[str, Any]]) -> Statement:
    """Make sure that deliveries have their rows, each with the `sequence` of its webhook."""
    statement = """
        INSERT INTO delivery (id, org, source, received_at, correlation_id, sequence)
        SELECT * FROM unnest($1::text[], $2::text[], $3::text[], $4::timestamptz[], $5::text[], $6::bigint[])
        ON CONFLICT (id) DO UPDATE SET sequence = coalesce(excluded.sequence, delivery.sequence)
    """
    return Statement(statement, tuple(_columns(rows, statement)))


async def routings(connection: Connection, deliveries: Sequence[str]) -> dict[str, dict[str, Any]]:
    """Return the routing of these deliveries so far, as `put_routings` takes it."""
    statement = """
        SELECT id, org, source, received_at, correlation_id, type, retried_by, outcome, reason, emitted, subscriptions
          FROM delivery WHERE id = ANY($1)
    """
    rows = (dict(row) for row in await connection.fetch(statement, deliveries))
    return {row["id"]: row | {"subscriptions": msgspec.json.decode(row["subscriptions"])} for row in rows}


def put_routings(rows: Sequence[dict[str, Any]]) -> Statement:
    """Write how deliveries were routed; one statement for all of them."""
    statement = """
        INSERT INTO delivery (id, org, source, received_at, correlation_id, type, retried_by, outcome, reason, emitted,
                              subscriptions)
        SELECT id, org, source, received_at, correlation_id, type, retried_by, outcome, reason, emitted,
               CAST(subscriptions AS jsonb)
          FROM unnest($1::text[], $2::text[], $3::text[], $4::timestamptz[], $5::text[], $6::text[], $7::text[],
                      $8::text[], $9::text[], $10::bigint[], $11::text[])
            AS given (id, org, source, received_at, correlation_id, type, retried_by, outcome, reason, emitted, subscriptions)
        ON CONFLICT (id) DO UPDATE SET type = excluded.type, retried_by = excluded.retried_by, outcome = excluded.outcome,
            reason = excluded.reason, emitted = excluded.emitted, subscriptions = excluded.subscriptions
    """
    encoded = [row | {"subscriptions": _json(row["subscriptions"])} for row in rows]
    return Statement(statement, tuple(_columns(encoded, statement)))


def count_in_chains(what: Literal["events", "runs"], counts: Mapping[tuple[str, str], int]) -> Statement:
    """Add to the counts of chains, by organization and id."""
    statement = f"""
        INSERT INTO chain (org, id, {what}) SELECT * FROM unnest($1::text[], $2::text[], $3::bigint[])
        ON CONFLICT (org, id) DO UPDATE SET {what} = chain.{what} + excluded.{what}
    """
    # In one order: two projections write to the same rows.
    keys = sorted(counts)
    return Statement(statement, ([org for org, _ in keys], [id_ for _, id_ in keys], [counts[key] for key in keys]))


def note_dead(row: dict[str, Any]) -> Statement:
    """Record that a delivery's message became a dead letter: `dead` is the reason."""
    statement = """
        INSERT INTO delivery (id, org, source, received_at, correlation_id, dead) VALUES ($1, $2, $3, $4, $5, $6)
        ON CONFLICT (id) DO UPDATE SET dead = excluded.dead
    """
    return Statement(statement, tuple(_values(row, statement)))


def note_runs(rows: Sequence[dict[str, Any]]) -> Statement:
    """Record runs that deliveries asked for."""
    statement = """
        INSERT INTO delivery_run (run, delivery, workflow, requested_at, status)
        SELECT * FROM unnest($1::text[], $2::text[], $3::text[], $4::timestamptz[], $5::text[]) ON CONFLICT (run) DO NOTHING
    """
    return Statement(statement, tuple(_columns(rows, statement)))


def note_run_statuses(statuses: dict[str, str]) -> Statement:
    """Record the status of each of these runs that a delivery asked for, by `shared.runs.status_after`."""
    statement = """
        UPDATE delivery_run SET status = given.status FROM unnest($1::text[], $2::text[]) AS given (run, status)
         WHERE delivery_run.run = given.run AND (delivery_run.status <> ALL($3) OR given.status = ANY($4))
    """
    return Statement(statement, (list(statuses), list(statuses.values()), list(ENDING), list(ENDED)))


def _names(statement: str) -> list[str]:
    """Return the columns that an INSERT names, in order."""
    return [name.strip() for name in statement.partition("(")[2].partition(")")[0].split(",")]


def _values(row: dict[str, Any], statement: str) -> list[Any]:
    return [row[name] for name in _names(statement)]


def _columns(rows: Sequence[dict[str, Any]], statement: str) -> list[list[Any]]:
    return [[row[name] for row in rows] for name in _names(statement)]


def _json(value: Any) -> str:
    return msgspec.json.encode(value).decode()
