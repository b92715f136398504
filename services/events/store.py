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

# What a retry made of it says more than that it was given up before.
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
# What an organization sees of integrations: its own ones, and of the platform's those whose names it has not taken itself.
SEEN = "SELECT DISTINCT ON (name) * FROM integration WHERE org IN (:org, 'global') "


class EventsStore:
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

    async def subscriptions_of(self, source: str) -> int:
        """Return how many subscriptions a source has."""
        row = await self._one("SELECT count(*) AS n FROM subscription WHERE source = :source", {"source": source})
        return int(row["n"]) if row is not None else 0

    async def sources_of(self, org: str) -> int:
        """Return how many live sources an organization has."""
        row = await self._one("SELECT count(*) AS n FROM source WHERE org = :org AND NOT removed", {"org": org})
        return int(row["n"]) if row is not None else 0

    async def seen_integration(self, org: str, name: str) -> RowMapping | None:
        """Return the integration that an organization means by a name: its own one, else the platform's."""
        return await self._one(SEEN + "AND name = :name ORDER BY name, org = :org DESC", {"org": org, "name": name})

    async def integrations(self, org: str, name: str | None, after: str, limit: int, *, own: bool) -> list[RowMapping]:
        """Return the integrations that an organization sees, or just its own ones, by name, after a name."""
        statement = (
            SEEN
            + """
            AND name > :after AND (CAST(:name AS text) IS NULL OR name = :name) AND (org = :org OR NOT :own)
            ORDER BY name, org = :org DESC LIMIT :limit
            """
        )
        return await self._all(statement, {"org": org, "name": name, "after": after, "limit": limit, "own": own})

    async def mapping(self, org: str, integration: str) -> RowMapping | None:
        """Return the integration that an organization means by a name, with the organization's mapping, null where there is none.

        The columns of the mapping are as they are called, `config_schema`, `provider` and `seen_org` the integration's.
        """
        statement = f"""
            SELECT m.*, i.config_schema, i.provider, i.org AS seen_org
              FROM ({SEEN} AND name = :name ORDER BY name, org = :org DESC) i
              LEFT JOIN mapping m ON m.integration = i.name AND m.org = :org
        """
        return await self._one(statement, {"org": org, "name": integration})

    async def mappings(self, org: str | None, integration: str, after: str, limit: int) -> list[RowMapping]:
        """Return the mappings of an integration as `mapping` does, by organization, after one.

        With `org` that organization's alone; else, of the platform's integration, those of all who have none of their own.
        """
        statement = """
            SELECT m.*, i.config_schema, i.provider
              FROM mapping m
              JOIN LATERAL (SELECT * FROM integration i WHERE i.name = m.integration AND i.org IN (m.org, 'global')
                             ORDER BY i.org = m.org DESC LIMIT 1) i ON true
             WHERE m.integration = :name AND m.org > :after
               AND CASE WHEN CAST(:org AS text) IS NULL THEN i.org = 'global' ELSE m.org = :org END
             ORDER BY m.org LIMIT :limit
        """
        return await self._all(statement, {"org": org, "name": integration, "after": after, "limit": limit})

    async def delivery(self, org: str, id_: str) -> RowMapping | None:
        """Return one delivery with its runs."""
        return await self._one(DELIVERY + " WHERE d.org = :org AND d.id = :id", {"org": org, "id": id_})

    async def topic(self, org: str, name_or_id: str, delivery: str, most: int) -> RowMapping | None:
        """Return the live source of an organization with this name or id.

        `delivery` and `emitted` are those of this delivery, null where there is none yet. `unrouted` counts the events that were
        emitted in the organization within an hour and wait to be routed, up to `most`.
        """
        statement = """
            SELECT s.id, s.name, s.adapter, s.enabled, d.id AS delivery, d.emitted,
                   (SELECT count(*) FROM (SELECT FROM delivery w
                      WHERE w.org = :org AND w.outcome = 'accepted' AND w.emitted IS NOT NULL AND w.dead IS NULL
                        AND w.received_at > now() - interval '1 hour' LIMIT :most) AS waiting) AS unrouted
              FROM source s LEFT JOIN delivery d ON d.id = :delivery AND d.org = s.org
             WHERE s.org = :org AND NOT s.removed AND (s.name = :name OR s.id = :name)
        """
        return await self._one(statement, {"org": org, "name": name_or_id, "delivery": delivery, "most": most})

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
                   (SELECT s.id FROM source s WHERE s.org = :org AND (s.id = :source OR s.name = :source)))
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


def put_source(row: dict[str, Any]) -> Statement:
    """Make the row of a source what its last message says."""
    statement = """
        INSERT INTO source (id, key, org, name, adapter, settings, sealed, enabled, integration, created_at, updated_at, version)
        VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12)
        ON CONFLICT (id) DO UPDATE SET adapter = excluded.adapter, settings = excluded.settings, sealed = excluded.sealed,
            enabled = excluded.enabled, integration = excluded.integration, updated_at = excluded.updated_at,
            version = excluded.version
    """
    encoded = {name: _json(row[name]) for name in ("settings", "sealed")}
    return Statement(statement, tuple(_values(row | encoded, statement)))


def retire_source(id_: str, at: datetime, version: int) -> Statement:
    """Mark a source as retired; its id goes on answering 410."""
    statement = "UPDATE source SET removed = true, enabled = false, updated_at = $2, version = $3 WHERE id = $1"
    return Statement(statement, (id_, at, version))


def put_subscription(row: dict[str, Any]) -> Statement:
    """Make the row of a subscription what its last message says."""
    statement = """
        INSERT INTO subscription (id, key, org, name, source, source_name, event, workflow, filter, input, enabled, created_at,
                                  updated_at, version)
        VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14)
        ON CONFLICT (id) DO UPDATE SET source = excluded.source, source_name = excluded.source_name, event = excluded.event,
            workflow = excluded.workflow, filter = excluded.filter, input = excluded.input, enabled = excluded.enabled,
            updated_at = excluded.updated_at, version = excluded.version
    """
    encoded = {"input": None if row["input"] is None else _json(row["input"])}
    return Statement(statement, tuple(_values(row | encoded, statement)))


def remove_subscription(id_: str) -> Statement:
    """Forget a subscription."""
    return Statement("DELETE FROM subscription WHERE id = $1", (id_,))


def put_integration(row: dict[str, Any]) -> Statement:
    """Make the row of an integration what its last message says."""
    statement = """
        INSERT INTO integration (id, key, org, name, description, config_schema, provider, created_at, updated_at, version)
        VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10)
        ON CONFLICT (id) DO UPDATE SET description = excluded.description, config_schema = excluded.config_schema,
            provider = excluded.provider, updated_at = excluded.updated_at, version = excluded.version
    """
    return Statement(statement, tuple(_values(row | {"config_schema": _json(row["config_schema"])}, statement)))


def remove_integration(id_: str) -> Statement:
    """Forget an integration; its mappings stay."""
    return Statement("DELETE FROM integration WHERE id = $1", (id_,))


def put_mapping(row: dict[str, Any]) -> Statement:
    """Make the row of a mapping what its last message says."""
    statement = """
        INSERT INTO mapping (id, key, org, integration, config, entity_id, connection, created_at, updated_at, version)
        VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10)
        ON CONFLICT (id) DO UPDATE SET config = excluded.config, entity_id = excluded.entity_id,
            connection = excluded.connection, updated_at = excluded.updated_at, version = excluded.version
    """
    return Statement(statement, tuple(_values(row | {"config": _json(row["config"])}, statement)))


def remove_mapping(id_: str) -> Statement:
    """Forget a mapping."""
    return Statement("DELETE FROM mapping WHERE id = $1", (id_,))


def note_deliveries(rows: Sequence[dict[str, Any]]) -> Statement:
    """Make sure that deliveries have their rows, each with the `sequence` of its webhook."""
    statement = """
        INSERT INTO delivery (id, org, source, received_at, correlation_id, sequence)
        SELECT * FROM unnest($1::text[], $2::text[], $3::text[], $4::timestamptz[], $5::text[], $6::bigint[])
        ON CONFLICT (id) DO UPDATE SET sequence = coalesce(excluded.sequence, delivery.sequence)
    """
    return Statement(statement, tuple(_columns(rows, statement)))


async def routings(connection: Connection, deliveries: Sequence[str]) -> dict[str, dict[str, Any]]:
    """Return what is known of the routing of these deliveries, as `put_routings` takes it."""
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
    """Note that a delivery's message became a dead letter: `dead` says why."""
    statement = """
        INSERT INTO delivery (id, org, source, received_at, correlation_id, dead) VALUES ($1, $2, $3, $4, $5, $6)
        ON CONFLICT (id) DO UPDATE SET dead = excluded.dead
    """
    return Statement(statement, tuple(_values(row, statement)))


def note_runs(rows: Sequence[dict[str, Any]]) -> Statement:
    """Note runs that deliveries asked for."""
    statement = """
        INSERT INTO delivery_run (run, delivery, workflow, requested_at, status)
        SELECT * FROM unnest($1::text[], $2::text[], $3::text[], $4::timestamptz[], $5::text[]) ON CONFLICT (run) DO NOTHING
    """
    return Statement(statement, tuple(_columns(rows, statement)))


def note_run_statuses(statuses: dict[str, str]) -> Statement:
    """Note the status of each of these runs that a delivery asked for, as `shared.runs.status_after` says."""
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
