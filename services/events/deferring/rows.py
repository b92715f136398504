"""The rows of deferred webhooks, which are those of their deliveries."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import NamedTuple

from sqlalchemy import RowMapping, select, text, tuple_
from sqlalchemy.ext.asyncio import AsyncEngine

from services.events.tables import DEFERRED, delivery
from shared.db import transaction

_D = delivery.c
# A step of the index for each, however many webhooks they have.
_WAITED_FOR = f"""
    WITH RECURSIVE waited AS (
        (SELECT org, deferred_for FROM delivery
          WHERE {DEFERRED} AND (org, deferred_for) > (:org, :adapter) ORDER BY org, deferred_for LIMIT 1)
        UNION ALL
        SELECT next.* FROM waited, LATERAL (
            SELECT org, deferred_for FROM delivery
             WHERE {DEFERRED} AND (delivery.org, delivery.deferred_for) > (waited.org, waited.deferred_for)
             ORDER BY org, deferred_for LIMIT 1) AS next)
    SELECT org, deferred_for FROM waited LIMIT :limit
"""  # noqa: S608 - a constant of the tables


class WaitedFor(NamedTuple):
    """An adapter, by the organization of the sources and its name, for which webhooks wait."""

    org: str
    adapter: str


NOTHING = WaitedFor("", "")


async def waited_for(engine: AsyncEngine, after: WaitedFor, limit: int) -> list[WaitedFor]:
    """Return the adapters for which webhooks wait, in order, after one."""
    async with transaction(engine) as connection:
        found = await connection.execute(text(_WAITED_FOR), {"org": after.org, "adapter": after.adapter, "limit": limit})
        return [WaitedFor(*row) for row in found]


async def waiting(engine: AsyncEngine, one: WaitedFor, after: tuple[datetime, str] | None, limit: int) -> Sequence[RowMapping]:
    """Return the deliveries that wait for an adapter after (received_at, id), the oldest first: these and their `sequence`."""
    statement = (
        select(_D.id, _D.received_at, _D.sequence)
        .where(DEFERRED, _D.org == one.org, _D.deferred_for == one.adapter, _D.sequence.is_not(None))
        .order_by(_D.received_at, _D.id)
        .limit(limit)
    )
    if after is not None:
        statement = statement.where(tuple_(_D.received_at, _D.id) > after)
    async with transaction(engine) as connection:
        return (await connection.execute(statement)).mappings().all()
