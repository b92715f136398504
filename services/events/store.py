"""SQL of the events service: one method, one statement, one intention."""

from __future__ import annotations

from datetime import datetime
from typing import Any

import msgspec
from sqlalchemy import RowMapping, text
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from shared.db import transaction
from shared.projection import position_of
from shared.questions import Position

DELIVERY = """
    SELECT d.id, d.org, d.source, d.received_at, d.correlation_id, d.sequence, d.type,
           CASE WHEN d.dead IS NOT NULL THEN 'dead' ELSE d.outcome END AS status, coalesce(d.dead, d.reason) AS reason,
           (SELECT coalesce(jsonb_agg(jsonb_build_object('id', r.run, 'workflow', r.workflow, 'status', r.status)
                                      ORDER BY r.requested_at, r.run), '[]')
              FROM delivery_run r WHERE r.delivery = d.id) AS runs
      FROM delivery d
"""


class Store:
    """Reads for questions; everything is limited to an organization except where an id is the address."""

    def __init__(self, engine: AsyncEngine) -> None:
        self._engine = engine

    async def source_by_id(self, id_: str) -> RowMapping | None:
        """Return a source of any organization, retired or not."""
        return await self._one("SELECT * FROM source WHERE id = :id", {"id": id_})

    async def source_named(self, org: str, name_or_id: str) -> RowMapping | None:
        """Return the live source of an organization with this name or id."""
        statement = "SELECT * FROM source WHERE org = :org AND NOT removed AND (name = :name OR id = :name)"
        return await self._one(statement, {"org": org, "name": name_or_id})

    async def sources(self, org: str, name: str | None, after: str, limit: int) -> list[RowMapping]:
        """Return live sources by name, after a name."""
        statement = """
            SELECT * FROM source WHERE org = :org AND NOT removed AND name > :after
               AND (CAST(:name AS text) IS NULL OR name = :name OR id = :name) ORDER BY name LIMIT :limit
        """
        return await self._all(statement, {"org": org, "name": name, "after": after, "limit": limit})

    async def subscriptions(self, org: str, name: str | None, after: str, limit: int) -> list[RowMapping]:
        """Return subscriptions by name, after a name."""
        statement = """
            SELECT * FROM subscription WHERE org = :org AND name > :after
               AND (CAST(:name AS text) IS NULL OR name = :name OR id = :name) ORDER BY name LIMIT :limit
        """
        return await self._all(statement, {"org": org, "name": name, "after": after, "limit": limit})

    async def delivery(self, org: str, id_: str) -> RowMapping | None:
        """Return one delivery with its runs."""
        return await self._one(DELIVERY + " WHERE d.org = :org AND d.id = :id", {"org": org, "id": id_})

    async def received_at(self, id_: str) -> datetime | None:
        """Return when a delivery was first received."""
        row = await self._one("SELECT received_at FROM delivery WHERE id = :id", {"id": id_})
        return None if row is None else row["received_at"]

    async def deliveries(
        self, org: str, status: str | None, source: str | None, before: tuple[datetime, str] | None, limit: int
    ) -> list[RowMapping]:
        """Return deliveries with their runs, newest first, before (received_at, id); one statement for all."""
        statement = (
            DELIVERY
            + """
            WHERE d.org = :org
              AND (CAST(:status AS text) IS NULL OR CASE WHEN d.dead IS NOT NULL THEN 'dead' ELSE d.outcome END = :status)
              AND (CAST(:source AS text) IS NULL OR d.source IN
                   (SELECT s.id FROM source s WHERE s.org = :org AND (s.id = :source OR s.name = :source)))
              AND (CAST(:at AS timestamptz) IS NULL OR (d.received_at, d.id) < (:at, :id))
            ORDER BY d.received_at DESC, d.id DESC LIMIT :limit
            """
        )
        at, id_ = before or (None, "")
        parameters = {"org": org, "status": status, "source": source, "at": at, "id": id_, "limit": limit}
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


async def put_source(connection: AsyncConnection, row: dict[str, Any]) -> None:
    """Make the row of a source what its last message says."""
    statement = """
        INSERT INTO source (id, key, org, name, adapter, settings, sealed, enabled, created_at, updated_at, version)
        VALUES (:id, :key, :org, :name, :adapter, :settings, :sealed, :enabled, :created_at, :updated_at, :version)
        ON CONFLICT (id) DO UPDATE SET adapter = excluded.adapter, settings = excluded.settings, sealed = excluded.sealed,
            enabled = excluded.enabled, updated_at = excluded.updated_at, version = excluded.version
    """
    encoded = {name: msgspec.json.encode(row[name]).decode() for name in ("settings", "sealed")}
    await connection.execute(text(_cast(statement, "settings", "sealed")), row | encoded)


async def retire_source(connection: AsyncConnection, id_: str, at: datetime, version: int) -> None:
    """Mark a source as retired; its id goes on answering 410."""
    statement = "UPDATE source SET removed = true, enabled = false, updated_at = :at, version = :version WHERE id = :id"
    await connection.execute(text(statement), {"id": id_, "at": at, "version": version})


async def put_subscription(connection: AsyncConnection, row: dict[str, Any]) -> None:
    """Make the row of a subscription what its last message says."""
    statement = """
        INSERT INTO subscription (id, key, org, name, source, source_name, event, workflow, filter, input, enabled,
                                  created_at, updated_at, version)
        VALUES (:id, :key, :org, :name, :source, :source_name, :event, :workflow, :filter, :input, :enabled,
                :created_at, :updated_at, :version)
        ON CONFLICT (id) DO UPDATE SET source = excluded.source, source_name = excluded.source_name, event = excluded.event,
            workflow = excluded.workflow, filter = excluded.filter, input = excluded.input, enabled = excluded.enabled,
            updated_at = excluded.updated_at, version = excluded.version
    """
    encoded = None if row["input"] is None else msgspec.json.encode(row["input"]).decode()
    await connection.execute(text(_cast(statement, "input")), row | {"input": encoded})


async def remove_subscription(connection: AsyncConnection, id_: str) -> None:
    """Forget a subscription."""
    await connection.execute(text("DELETE FROM subscription WHERE id = :id"), {"id": id_})


async def note_delivery(connection: AsyncConnection, row: dict[str, Any]) -> None:
    """Make sure that a delivery has its row; `sequence` is that of its webhook, once known."""
    statement = """
        INSERT INTO delivery (id, org, source, received_at, correlation_id, sequence)
        VALUES (:id, :org, :source, :received_at, :correlation_id, :sequence)
        ON CONFLICT (id) DO UPDATE SET sequence = coalesce(excluded.sequence, delivery.sequence)
    """
    await connection.execute(text(statement), row)


async def begin_routing(connection: AsyncConnection, delivery: str, type_: str, retried_by: str | None) -> None:
    """Note an accepted event; the first one of a retry sets the outcome back."""
    statement = """
        UPDATE delivery SET type = :type, retried_by = :retried_by,
            outcome = CASE WHEN retried_by IS DISTINCT FROM :retried_by THEN 'accepted' ELSE outcome END,
            reason = CASE WHEN retried_by IS DISTINCT FROM :retried_by THEN NULL ELSE reason END
        WHERE id = :id
    """
    await connection.execute(text(statement), {"id": delivery, "type": type_, "retried_by": retried_by})


async def note_outcome(connection: AsyncConnection, delivery: str, outcome: str, reason: str | None) -> None:
    """Note how an event was routed; of several outcomes the one that needs a person counts: unroutable, routed, filtered."""
    statement = """
        UPDATE delivery SET outcome = :outcome, reason = CAST(:reason AS text) WHERE id = :id
           AND array_position(ARRAY['accepted', 'filtered', 'routed', 'unroutable'], :outcome)
             > array_position(ARRAY['accepted', 'filtered', 'routed', 'unroutable'], outcome)
    """
    await connection.execute(text(statement), {"id": delivery, "outcome": outcome, "reason": reason})


async def note_dead(connection: AsyncConnection, delivery: str, reason: str) -> None:
    """Note that a delivery's message became a dead letter."""
    await connection.execute(text("UPDATE delivery SET dead = :reason WHERE id = :id"), {"id": delivery, "reason": reason})


async def note_run(connection: AsyncConnection, row: dict[str, Any]) -> None:
    """Note a run that a delivery asked for."""
    statement = """
        INSERT INTO delivery_run (run, delivery, workflow, status, requested_at)
        VALUES (:run, :delivery, :workflow, 'queued', :requested_at) ON CONFLICT (run) DO NOTHING
    """
    await connection.execute(text(statement), row)


async def note_run_status(connection: AsyncConnection, run: str, status: str) -> None:
    """Note the status of a run, if a delivery asked for it."""
    await connection.execute(text("UPDATE delivery_run SET status = :status WHERE run = :run"), {"run": run, "status": status})


def _cast(statement: str, *names: str) -> str:
    for name in names:
        statement = statement.replace(f":{name},", f"CAST(:{name} AS jsonb),")
    return statement
