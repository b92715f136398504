"""The rows of held events and their groups, which follow from the messages of EVENTS alone."""

from __future__ import annotations

from collections.abc import AsyncIterator, Collection, Mapping, Sequence
from contextlib import asynccontextmanager
from datetime import datetime, timedelta
from typing import Any

import msgspec
from sqlalchemy import ARRAY, Text, and_, any_, delete, func, select
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from services.events.holding.plan import MOST_AT_ONCE, Group, Held, HeldEvents
from services.events.tables import delivery, delivery_run, held, held_group, resource
from shared.db import Connection, transaction
from shared.messages import EventFiltered, EventHeld, EventRouted, EventUnroutable
from shared.owners.rows import resource_of
from shared.projected import Recorded
from shared.resources.subscription import SubscriptionEntry
from shared.statements import Compiled, Statement, given, inserted, overwriting, parameter

_H, _G, _D, _R, _RUN = held.c, held_group.c, delivery.c, resource.c, delivery_run.c
_ORDER = (_H.received_at, _H.delivery, _H.number, _H.event)
_NEWEST_FIRST = tuple(column.desc() for column in _ORDER)
_FIELDS = tuple(_H[name] for name in Held.__struct_fields__)
_INSERT = Compiled(inserted(held, *_H.keys()).on_conflict_do_nothing())
_ENDED = given(_H.event, _H.subscription)
_DELETE = Compiled(delete(held).where(_H.event == _ENDED.c.event, _H.subscription == _ENDED.c.subscription))
_GROUPS = Compiled(
    select(_H.run_org, _G.id).distinct().where(_H.held_group == _G.id, _G.run == any_(parameter("runs", ARRAY(Text))))
)
_PUT_GROUP = Compiled(overwriting(inserted(held_group, *_G.keys()), "run", "delivery", "number", "free_at", "released_at"))


@asynccontextmanager
async def locked(engine: AsyncEngine, group: str) -> AsyncIterator[AsyncConnection]:
    """Hold the lock of a group, in a transaction, for the block. Raises `Unavailable`."""
    async with transaction(engine) as connection:
        await connection.execute(select(func.pg_advisory_xact_lock(func.hashtextextended(group, 3))))
        yield connection


async def read(connection: AsyncConnection, group: str, latest: int | None = None) -> tuple[Group, HeldEvents] | None:
    """Return a group and its held events, up to the sequence `latest` where one is given; None where it holds none."""
    mine = _H.held_group == group if latest is None else and_(_H.held_group == group, _H.sequence <= latest)
    first = (await connection.execute(select(*_FIELDS).where(mine).order_by(*_ORDER).limit(MOST_AT_ONCE))).mappings().all()
    if not first:
        return None
    newest = (await connection.execute(select(*_FIELDS).where(mine).order_by(*_NEWEST_FIRST).limit(1))).mappings().one()
    row = (await connection.execute(select(held_group).where(_G.id == group))).mappings().first()
    found = Group() if row is None else Group(**{name: row[name] for name in Group.__struct_fields__})
    return found, HeldEvents(first=[Held(**one) for one in first], newest=Held(**newest))


async def spanned(connection: AsyncConnection, group: str, waiting: HeldEvents) -> HeldEvents:
    """Return a group's held events with the times and the places of all of them, which are read for that."""
    times = (func.min(_H.held_at), func.max(_H.held_at), func.min(_H.sequence), func.max(_H.sequence))
    found = (await connection.execute(select(*times).where(_H.held_group == group))).one()
    return msgspec.structs.replace(waiting, **dict(zip(("since", "until", "earliest", "latest"), found, strict=True)))


async def at(connection: AsyncConnection, group: str, sequence: int) -> Held:
    """Return the held event of a group at a sequence."""
    found = select(*_FIELDS).where(_H.held_group == group, _H.sequence == sequence)
    return Held(**(await connection.execute(found)).mappings().one())


async def number_of(engine: AsyncEngine, org: str, most: int) -> int:
    """Return how many events of an organization are held, counted up to `most`."""
    some = select(_H.event).where(_H.run_org == org).limit(most).subquery()
    async with transaction(engine) as connection:
        return int((await connection.execute(select(func.count()).select_from(some))).scalar_one())


async def subscription_of(connection: AsyncConnection, id_: str) -> SubscriptionEntry | None:
    """Return a subscription as it is now; None for one that was removed."""
    row = (
        (await connection.execute(select(resource).where(_R.noun == "subscription", _R.id == id_, ~_R.removed))).mappings().first()
    )
    return None if row is None else resource_of(row)


async def settled_before(connection: AsyncConnection, head: Held) -> datetime | None:
    """Return from when on deliveries of an event's source may still have events to be held; None where none has.

    Rows of deliveries come in the order of the stream: when that of an event's own is there, those of all before it are.
    """
    since = await unended_since(connection, head.source)
    begun = _D.sequence.is_not(None) | _D.emitted.is_not(None)
    known = (await connection.execute(select(_D.id).where(_D.id == head.delivery, begun))).first() is not None
    return since if known else head.received_at if since is None else min(since, head.received_at)


async def unended_since(connection: AsyncConnection, source: str) -> datetime | None:
    """Return when the first delivery of a source that has no outcome was received; None where each has one."""
    of = and_(_D.source == source, ~_D.ended, _D.dead.is_(None), _D.overdue_at.is_(None))
    found: datetime | None = (await connection.execute(select(func.min(_D.received_at)).where(of))).scalar_one()
    return found


async def status_of_run(connection: AsyncConnection, run: str) -> str | None:
    """Return the status of a run by its row; None where there is none."""
    found: str | None = (await connection.execute(select(_RUN.status).where(_RUN.run == run))).scalar()
    return found


async def groups_of(connection: Connection, runs: Collection[str]) -> list[tuple[str, str]]:
    """Return the groups whose last event started one of these runs, and that hold others; each with its organization."""
    return [(row["run_org"], row["id"]) for row in await _GROUPS(runs=list(runs)).fetch(connection)]


# Each organization's groups are walked through by themselves, from where its last walk ended.
_HOLDING = """
    SELECT o.run_org, g.held_group
      FROM (SELECT DISTINCT run_org FROM held) AS o
      LEFT JOIN unnest($1::text[], $2::text[]) AS a(org, after) ON a.org = o.run_org
     CROSS JOIN LATERAL (SELECT DISTINCT held_group FROM held
                          WHERE run_org = o.run_org AND held_group > coalesce(a.after, '') AND held_at < $3
                          ORDER BY held_group LIMIT $4) AS g
     ORDER BY o.run_org, g.held_group
"""


async def holding(engine: AsyncEngine, after: Mapping[str, str], before: datetime, each: int) -> list[tuple[str, str]]:
    """Return groups that hold an event since before a time with their organization, `each` of one, by id, after one."""
    found = await Statement(_HOLDING, (list(after), list(after.values()), before, each)).read(engine)
    return [(row["run_org"], row["held_group"]) for row in found]


async def listed(engine: AsyncEngine, subscription: str, limit: int) -> list[dict[str, Any]]:
    """Return the keys of which a subscription holds events: how many, since when, and the run of the last one that was released."""
    last = (_G.run, _RUN.status, _G.delivery)
    found = (
        select(_H.key, func.count().label("events"), func.min(_H.held_at).label("since"), *last)
        .outerjoin(held_group, _G.id == _H.held_group)
        .outerjoin(delivery_run, _RUN.run == _G.run)
        .where(_H.subscription == subscription)
        .group_by(_H.held_group, _H.key, *last)
        .order_by(func.min(_H.held_at), _H.held_group)
        .limit(limit)
    )
    async with transaction(engine) as connection:
        return [dict(row) for row in (await connection.execute(found)).mappings()]


async def forget_idle(engine: AsyncEngine, before: datetime) -> None:
    """Forget groups that released their last event before a time, which the bus has forgotten as well, and hold none."""
    holds_others = select(_H.event).where(_H.held_group == _G.id).exists()
    async with transaction(engine) as connection:
        await connection.execute(delete(held_group).where(_G.released_at < before, ~holds_others))


def held_statements(messages: Sequence[tuple[Recorded, Any]]) -> list[Statement]:
    """Return what the messages of a batch change about held events, in their order."""
    begun: dict[tuple[str, str], dict[str, Any]] = {}
    ended: dict[tuple[str, str], None] = {}
    groups: dict[str, dict[str, Any]] = {}
    for at, message in messages:
        if isinstance(message, EventHeld):
            begun[message.event, message.subscription] = _row(at, message)
        elif isinstance(message, EventRouted | EventFiltered | EventUnroutable) and message.subscription is not None:
            key = (message.event, message.subscription)
            if isinstance(message, EventRouted):
                if message.held_group is None:
                    continue  # it never was held
                groups[message.held_group] = _released(at, message)
            if begun.pop(key, None) is None:
                ended[key] = None
    written = [_DELETE.of({"event": event, "subscription": subscription} for event, subscription in ended)] if ended else []
    if begun:
        written.append(_INSERT.of(list(begun.values())))
    return [*written, _PUT_GROUP.of(list(groups.values()))] if groups else written


def _row(at: Recorded, message: EventHeld) -> dict[str, Any]:
    return {
        "event": message.event,
        "subscription": message.subscription,
        "name": message.subscription_name,
        "workflow": message.workflow,
        "org": at.envelope.org,
        "source": message.source,
        "delivery": message.delivery,
        "number": message.number,
        "held_group": message.held_group,
        "key": message.key,
        "received_at": datetime.fromisoformat(message.received_at),
        "held_at": at.envelope.time,
        "sequence": at.delivered.sequence,
        "run_org": message.org,
    }


def _released(at: Recorded, message: EventRouted) -> dict[str, Any]:
    return {
        "id": message.held_group,
        "subscription": message.subscription,
        "run": message.run,
        "delivery": message.delivery,
        "number": message.number,
        "free_at": None if message.free_at is None else datetime.fromisoformat(message.free_at),
        "released_at": at.envelope.time,
    }


# Groups that released nothing for so long are forgotten: the bus has not their messages any more either.
IDLE = timedelta(days=7)
