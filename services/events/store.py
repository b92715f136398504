"""SQL of the events service: one method, one statement, one intention."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any, Literal

from sqlalchemy import (
    ARRAY,
    BigInteger,
    ColumnElement,
    RowMapping,
    Select,
    Text,
    all_,
    and_,
    any_,
    case,
    func,
    literal,
    literal_column,
    or_,
    select,
    tuple_,
    update,
)
from sqlalchemy.dialects.postgresql import aggregate_order_by, insert
from sqlalchemy.ext.asyncio import AsyncEngine

from services.events import outcome_rows
from services.events.outcomes import Change
from services.events.tables import chain, delivery, delivery_run, delivery_woken, resource
from shared.checkpoint import position_of
from shared.db import Connection, transaction
from shared.messages import ReplayRequested
from shared.questions import Position
from shared.runs import ENDED, ENDING
from shared.statements import Compiled, Filtered, Statement, given, inserted, overwriting, parameter, written
from shared.tables import Moment

_D, _R, _W = delivery.c, delivery_run.c, delivery_woken.c
# What was to be tried again so long ago is not: the bus has forgotten it soon.
FORGOTTEN = timedelta(days=6)
_ORG, _ID = parameter("org"), parameter("id")
_ACCEPTED = _D.outcome == literal_column("'accepted'")
# The outcome of a retry outweighs that it was given up before.
_STATUS = case(
    (_D.dead.is_not(None) & _ACCEPTED, literal_column("'dead'")),
    (_D.deferred_for.is_not(None) & _ACCEPTED, literal_column("'deferred'")),
    else_=_D.outcome,
)
_SHOWN_OF_RUN = ("workflow", "status", "reason", "error", "requested_at", "ended_at", "resumes")
_RUN = func.jsonb_build_object("id", _R.run, *(part for name in _SHOWN_OF_RUN for part in (name, _R[name])))
_RUNS = func.coalesce(func.jsonb_agg(aggregate_order_by(_RUN, _R.requested_at, _R.run)), literal_column("'[]'"))
_WAKING = func.jsonb_build_object("run", _W.run, "wait", _W.name, "event", _W.number, "at", _W.woken_at)
_WOKEN = func.coalesce(func.jsonb_agg(aggregate_order_by(_WAKING, _W.woken_at, _W.run, _W.ordinal)), literal_column("'[]'"))
_SELECTED = select(
    *(_D[name] for name in ("id", "org", "source", "received_at", "correlation_id", "sequence", "emitted", "type")),
    *(_D[name] for name in ("ended", "retried_by", "edited_by", "retries", "retry_at", "overdue_at", "accepted")),
    outcome_rows.OUTCOMES.label("subscriptions"),
    outcome_rows.EVENTS.label("events"),
    _STATUS.label("status"),
    case((_ACCEPTED, func.coalesce(_D.dead, _D.reason, _D.deferred, _D.overdue)), else_=_D.reason).label("reason"),
    select(_RUNS).where(_R.delivery == _D.id).scalar_subquery().label("runs"),
    select(_WOKEN).where(_W.delivery == _D.id).scalar_subquery().label("woken"),
    select(resource.c.name).where(resource.c.id == _D.source).correlate(delivery).scalar_subquery().label("source_name"),
)
_SIZED = select(_D.id, outcome_rows.SIZE)
_DELIVERY = Compiled(_SELECTED.where(_D.org == _ORG, _D.id == _ID))


def _fitting(sized: Select[Any]) -> Select[Any]:
    """Return the first deliveries of a selection of ids and sizes that fit, but one in any case, each with its length `found`."""
    of = sized.subquery("sized")
    total = func.sum(of.c.size).over(rows=(None, 0))
    # In the order of the selection, which is read once.
    placed = select(of.c.id, func.row_number().over().label("place"), total.label("total"), func.count().over().label("found"))
    each = placed.subquery("placed")
    fits = or_(each.c.total <= parameter("room", BigInteger), each.c.place == literal_column("1"))
    return _SELECTED.add_columns(each.c.found).join(each, each.c.id == _D.id).where(fits).order_by(each.c.place)


_IS_SOURCE = or_(resource.c.id == parameter("source"), resource.c.name == parameter("source"))
_NAMED_SOURCE = (resource.c.noun == literal_column("'source'"), resource.c.org == _ORG, _IS_SOURCE)
_LISTED = Filtered(
    _SIZED.where(_D.org == _ORG).order_by(_D.received_at.desc(), _D.id.desc()).limit(parameter("limit", BigInteger)),
    within=_fitting,
    status=parameter("status", Text) == _STATUS,
    source=_D.source.in_(select(resource.c.id).where(*_NAMED_SOURCE)),
    prefix=func.starts_with(_D.id, parameter("prefix", Text)),
    overdue=and_(_D.overdue_at.is_not(None), ~_D.ended, _D.dead.is_(None)),
    before=tuple_(_D.received_at, _D.id) < tuple_(parameter("before", Moment), parameter("before_id", Text)),
)
_NEWEST = Compiled(
    select(_D.id, _D.sequence, _D.emitted)
    .where(_D.org == _ORG, _D.source == parameter("source"))
    .order_by(_D.received_at.desc(), _D.id.desc())
    .limit(parameter("limit", BigInteger))
)
_RECEIVED_AT = Compiled(select(_D.received_at).where(_D.id == _ID))
_CHAIN = Compiled(select(chain.c.events, chain.c.runs).where(chain.c.org == _ORG, chain.c.id == _ID))
# One row in every case.
_EMITTED = """
    SELECT d.id AS delivery, d.emitted,
           (SELECT count(*) FROM (SELECT FROM delivery w
              WHERE w.org = :org AND w.outcome = 'accepted' AND w.emitted IS NOT NULL AND w.dead IS NULL
                AND w.received_at > now() - interval '1 hour' LIMIT :most) AS waiting) AS unrouted
      FROM (SELECT) AS one LEFT JOIN delivery d ON d.id = :delivery AND d.org = :org
"""


class EventsStore:
    """Reads for questions; everything is limited to an organization except where an id is the address."""

    def __init__(self, engine: AsyncEngine) -> None:
        self._engine = engine

    async def delivery(self, org: str, id_: str) -> RowMapping | None:
        """Return one delivery with its runs."""
        rows = await _DELIVERY(org=org, id=id_).read(self._engine)
        return rows[0] if rows else None

    async def emitted(self, org: str, delivery: str, most: int) -> RowMapping:
        """Return `delivery` and `emitted` of this delivery of an organization, null where there is none yet.

        `unrouted` counts the events that were emitted in the organization within an hour and wait to be routed, up to `most`.
        """
        found: RowMapping
        (found,) = await written(_EMITTED, {"org": org, "delivery": delivery, "most": most}).read(self._engine)
        return found

    async def counted_in_chain(self, org: str, chain: str) -> tuple[int, int]:
        """Return how many events the runs of a chain have emitted, and how many runs were started by runs of it."""
        rows = await _CHAIN(org=org, id=chain).read(self._engine)
        return (rows[0]["events"], rows[0]["runs"]) if rows else (0, 0)

    async def received_at(self, id_: str) -> datetime | None:
        """Return when a delivery was first received."""
        rows = await _RECEIVED_AT(id=id_).read(self._engine)
        return rows[0]["received_at"] if rows else None

    async def deliveries(
        self,
        org: str,
        status: str | None,
        source: str | None,
        prefix: str | None,
        before: tuple[datetime, str] | None,
        limit: int,
        *,
        overdue: bool = False,
    ) -> tuple[list[RowMapping], int]:
        """Return deliveries with their runs, newest first, before (received_at, id), those that fit; and how many there are."""
        moment, id_ = before or (None, "")
        wanted = {"status": status, "source": source, "prefix": prefix, "overdue": overdue or None, "before": moment}
        rows = await _LISTED(wanted, org=org, limit=limit, before_id=id_, room=outcome_rows.ROOM).read(self._engine)
        return rows, rows[0]["found"] if rows else 0

    async def newest_deliveries(self, org: str, source: str, limit: int) -> list[RowMapping]:
        """Return the newest deliveries of a source."""
        return list(await _NEWEST(org=org, source=source, limit=limit).read(self._engine))

    async def counted(self, org: str, asked: ReplayRequested) -> int:
        """Return how many deliveries a replay is of."""
        wanted = {"source": asked.source, "delivery_status": asked.status, "type": asked.type}
        found = _replayable(org, datetime.fromisoformat(asked.since), datetime.fromisoformat(asked.until), wanted)
        async with transaction(self._engine) as connection:
            return int((await connection.execute(select(func.count()).select_from(found.subquery()))).scalar_one())

    async def replayable(
        self, org: str, replay: RowMapping, after: tuple[datetime, str] | None, limit: int
    ) -> tuple[list[RowMapping], int]:
        """Return deliveries of a replay after (received_at, id), oldest first, those that fit; and how many there are."""
        found = _replayable(org, replay["since"], replay["until"], replay).order_by(_D.received_at, _D.id).limit(limit)
        if after is not None:
            found = found.where(tuple_(_D.received_at, _D.id) > after)
        return await self._fitting(found)

    async def due(
        self, now: datetime, limit: int, *, without: Collection[str] = (), besides: Collection[str] = ()
    ) -> list[RowMapping]:
        """Return deliveries of which a subscription is to be tried again by now, those of each organization in turn, oldest first.

        Left out are those of the organizations `without`, and the deliveries `besides`.
        """
        others = (_D.org.not_in(texts(without)), _D.id.not_in(texts(besides)))
        due = in_turns(_D.id, _D.org, _D.retry_at).where(_D.retry_at <= now, _D.retry_at > now - FORGOTTEN, *others).limit(limit)
        rows, _ = await self._fitting(due.add_columns(outcome_rows.SIZE))
        return sorted(rows, key=lambda row: row["retry_at"])

    async def unended(self, before: datetime, parsed: int, routed: int, limit: int) -> list[RowMapping]:
        """Return deliveries without an end since before a time, that nobody knows of yet, those of each organization in turn.

        Left out are those of which a message may wait: a webhook from the sequence `parsed` on, or an event from `routed` on.
        """
        since = func.coalesce(_D.accepted_at, _D.received_at)
        waits = case((_D.accepted.is_not(None), _D.accepted >= routed), else_=func.coalesce(_D.sequence, 0) >= parsed)
        found = in_turns(_D.id, _D.org, _D.received_at).where(
            ~_D.ended, _D.dead.is_(None), _D.overdue_at.is_(None), _D.received_at < before, since < before, ~waits
        )
        names = ("id", "org", "source", "type", "accepted", "received_at", "correlation_id", "deferred_for", "deferred")
        columns = (_D[name] for name in names)
        statement = select(*columns, since.label("since")).where(_D.id.in_(found.limit(limit))).order_by(_D.received_at)
        async with transaction(self._engine) as connection:
            return list((await connection.execute(statement)).mappings().all())

    async def _fitting(self, sized: Select[Any]) -> tuple[list[RowMapping], int]:
        async with transaction(self._engine) as connection:
            rows = list((await connection.execute(_fitting(sized), {"room": outcome_rows.ROOM})).mappings().all())
        return rows, rows[0]["found"] if rows else 0

    async def overdue(self) -> int:
        """Return how many deliveries were found to have no end, and still have none, without those that wait for an adapter."""
        found = (~_D.ended, _D.dead.is_(None), _D.overdue_at.is_not(None), _D.deferred_for.is_(None))
        statement = select(func.count()).where(*found)
        async with transaction(self._engine) as connection:
            return int((await connection.execute(statement)).scalar_one())

    async def position(self, stream: str, projection: str) -> Position:
        """Return how far the rows of one projection have come in a stream."""
        return await position_of(self._engine, stream, projection=projection)


def in_turns(id_: ColumnElement[str], org: ColumnElement[str], order: ColumnElement[Any]) -> Select[Any]:
    """Return a selection of ids, of each organization the first, then of each the second, and so on: none hides the others."""
    return select(id_).order_by(func.row_number().over(partition_by=org, order_by=order), order)


def texts(values: Collection[str]) -> Select[Any]:
    """Return these values as a selection."""
    # Of a subquery the server makes a table once; a list it would go through for each row.
    return select(func.unnest(literal(list(values), ARRAY(Text))))


def _replayable(org: str, since: datetime, until: datetime, wanted: Mapping[str, Any] | RowMapping) -> Select[Any]:
    found = _SIZED.where(_D.org == org, _D.received_at >= since, _D.received_at < until)
    columns: dict[str, ColumnElement[Any]] = {
        "source": _D.source,
        "delivery_status": _SELECTED.selected_columns.status,
        "type": _D.type,
    }
    for name, column in columns.items():
        if wanted[name] is not None:
            found = found.where(column == wanted[name])
    return found


# -- writes, by the projections -----------------------------------------------------------------------------------------------


_FIRST = ("id", "org", "source", "received_at", "correlation_id")
_ROUTING = (
    *("type", "outcome", "reason", "emitted", "retried_by", "edited_by", "retries"),
    *("accepted_at", "accepted", "overdue_at", "overdue", "deferred_for", "deferred"),
)
_BEGUN = inserted(delivery, *_FIRST, "sequence")
_NOTE_DELIVERIES = Compiled(overwriting(_BEGUN, sequence=func.coalesce(_BEGUN.excluded.sequence, _D.sequence)))
_ROUTINGS = Compiled(select(*(_D[name] for name in (*_FIRST, *_ROUTING))).where(_D.id == any_(parameter("ids", ARRAY(Text)))))
_ROW = given(*(_D[name] for name in (*_FIRST, *_ROUTING)))
_FOUND = {column.name: column for column in _ROW.c} | outcome_rows.found(_ROW)
_PUT_ROUTINGS = Compiled(
    overwriting(insert(delivery).from_select(list(_FOUND), select(*_FOUND.values())), *list(_FOUND)[len(_FIRST) :])
)
_NOTE_DEAD = Compiled(overwriting(inserted(delivery, *_FIRST, "dead"), "dead"))
_NOTE_RUNS = Compiled(inserted(delivery_run, *_R.keys()).on_conflict_do_nothing())
_OUTCOME = ("status", "reason", "error", "ended_at")
_GIVEN = given(_R.run, *(_R[name] for name in _OUTCOME))
# As `shared.runs.status_after` decides.
_CHANGES = or_(_R.status != all_(literal(list(ENDING), ARRAY(Text))), _GIVEN.c.status == any_(literal(list(ENDED), ARRAY(Text))))
_NOTE_OUTCOMES = Compiled(
    update(delivery_run).where(_R.run == _GIVEN.c.run, _CHANGES).values({name: _GIVEN.c[name] for name in _OUTCOME})
)


def _counted(what: Literal["events", "runs"]) -> Compiled:
    more = inserted(chain, "org", "id", what)
    return Compiled(overwriting(more, **{what: chain.c[what] + more.excluded[what]}))


_COUNT = {"events": _counted("events"), "runs": _counted("runs")}


# The routing of a delivery of which nothing is known yet.
UNROUTED: dict[str, Any] = dict.fromkeys(_ROUTING) | {"outcome": "accepted", "retries": 0}


def note_deliveries(rows: Sequence[dict[str, Any]]) -> Statement:
    """Make sure that deliveries have their rows, each with the `sequence` of its webhook."""
    return _NOTE_DELIVERIES.of(rows)


async def routings(connection: Connection, deliveries: Sequence[str]) -> dict[str, dict[str, Any]]:
    """Return the routing of these deliveries so far, as `put_routings` takes it."""
    return {row["id"]: dict(row) for row in await _ROUTINGS(ids=deliveries).fetch(connection)}


def put_routings(
    rows: Sequence[dict[str, Any]], changed: Mapping[str, Mapping[int, Change]], again: Collection[str]
) -> list[Statement]:
    """Write how deliveries were routed, and what changed of their events, by id: so many statements for all of them.

    Those `again` may have had events before.
    """
    # The first write what the last one finds.
    return [*outcome_rows.put_changes(changed, again), _PUT_ROUTINGS.of(rows)] if rows else []


def count_in_chains(what: Literal["events", "runs"], counts: Mapping[tuple[str, str], int]) -> Statement:
    """Add to the counts of chains, by organization and id."""
    # In one order: two projections write to the same rows.
    return _COUNT[what].of({"org": org, "id": id_, what: counts[org, id_]} for org, id_ in sorted(counts))


def note_dead(row: dict[str, Any]) -> Statement:
    """Record that a delivery's message became a dead letter: `dead` is the reason."""
    return _NOTE_DEAD.of([row])


def note_runs(rows: Sequence[dict[str, Any]]) -> Statement:
    """Record runs that deliveries asked for."""
    return _NOTE_RUNS.of(rows)


def note_run_outcomes(rows: Sequence[dict[str, Any]]) -> Statement:
    """Record the status of each of these runs that a delivery asked for, by `shared.runs.status_after`, and how it ended."""
    return _NOTE_OUTCOMES.of(rows)
