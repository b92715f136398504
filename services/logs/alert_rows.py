"""The rows of saved searches, and of whether they find more than they may."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

import msgspec
from sqlalchemy import ARRAY, RowMapping, Text, any_, delete, func, literal, or_, select, tuple_, update
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncConnection

from services.logs.tables import alert, resource
from shared.db import Connection
from shared.statements import Compiled, parameter

_LIVE = (resource.c.noun == "search", ~resource.c.removed)
_COUNTED = (*_LIVE, resource.c.spec["alert_above"].as_string().is_not(None), resource.c.spec["enabled"].as_string() != "false")

_CALLED = or_(resource.c.name == parameter("name"), resource.c.id == parameter("name"))
_QUERY = Compiled(
    select(resource.c.spec["q"].as_string().label("q")).where(*_LIVE, resource.c.org == parameter("org"), _CALLED).limit(1)
)


class Looked(msgspec.Struct, frozen=True, kw_only=True):
    """Whether a search of a version finds too much, at a time, and the message that says so, as JSON."""

    id: str
    org: str
    version: int
    above: bool
    since: datetime
    raised: str | None


async def query_of(connection: Connection, org: str, name: str) -> str | None:
    """Return the query of an organization's saved search, by its name or its id; None: there is none."""
    found = await _QUERY(org=org, name=name).fetch(connection)
    return found[0]["q"] if found else None


async def counted(connection: AsyncConnection) -> list[RowMapping]:
    """Return the saved searches of all organizations that are counted."""
    columns = (resource.c[name] for name in ("id", "org", "name", "spec", "version"))
    return list((await connection.execute(select(*columns).where(*_COUNTED).order_by(resource.c.id))).mappings())


async def record(connection: AsyncConnection, looked: Looked) -> None:
    """Write whether a search finds too much, where that has changed, or the search has; with the message that says so."""
    made = insert(alert).values(msgspec.structs.asdict(looked))
    new = made.excluded
    kept = {name: new[name] for name in ("version", "above", "since")} | {"raised": func.coalesce(new.raised, alert.c.raised)}
    is_other = tuple_(alert.c.above, alert.c.version).is_distinct_from(tuple_(new.above, new.version))
    await connection.execute(made.on_conflict_do_update(index_elements=["id"], set_=kept, where=is_other))


async def forget_others(connection: AsyncConnection) -> None:
    """Forget those that are counted no more, except for messages that are still to be said."""
    others = alert.c.id.not_in(select(resource.c.id).where(*_COUNTED))
    await connection.execute(delete(alert).where(alert.c.raised.is_(None), others))


async def unannounced(connection: AsyncConnection) -> list[RowMapping]:
    """Return the messages that are to be said: `id` of the search, `org`, `raised`."""
    statement = select(alert.c.id, alert.c.org, alert.c.raised).where(alert.c.raised.is_not(None))
    return list((await connection.execute(statement.order_by(alert.c.since, alert.c.id))).mappings())


async def announced(connection: AsyncConnection, id_: str, raised: str) -> None:
    """Record that a message was said."""
    await connection.execute(update(alert).where(alert.c.id == id_, alert.c.raised == raised).values(raised=None))


async def states(connection: AsyncConnection, ids: Sequence[str]) -> dict[str, RowMapping]:
    """Return `above` and `since` of those of these searches that are counted."""
    statement = select(alert.c.id, alert.c.above, alert.c.since).where(alert.c.id == any_(literal(list(ids), ARRAY(Text))))
    return {row["id"]: row for row in (await connection.execute(statement)).mappings()}
