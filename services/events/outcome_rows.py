"""Rows of the events of deliveries and of their outcomes: another one changes no other, however many a delivery has."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from datetime import datetime
from typing import Any

import msgspec
from sqlalchemy import (
    ColumnElement,
    Text,
    case,
    cast,
    delete,
    func,
    literal_column,
    or_,
    select,
    true,
    update,
)
from sqlalchemy.sql.selectable import NamedFromClause

from services.events.outcomes import REASONS, Change, SubscriptionOutcome
from services.events.tables import delivery, delivery_event, delivery_outcome
from shared.statements import Compiled, Statement, given, inserted, overwriting

_E, _O = delivery_event.c, delivery_outcome.c
# Outcomes and events of deliveries that are read at a time, but one delivery in any case.
ROOM = 4096
# Of several outcomes of a delivery the one that needs a person counts. One whose filter failed was not routed.
_COUNTING = {"unroutable": ("unroutable",), "held": ("held",), "routed": ("routed",), "filtered": ("filtered", "failed")}

# -- reads, of the delivery of an enclosing selection -------------------------------------------------------------------------

_MADE = func.jsonb_build_object("event", _E.event, "type", _E.type)
_RETRY_AT = func.to_char(func.timezone("UTC", _O.retry_at), 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"')
_SHOWN = ("name", "workflow", "status", "reason", "run", "tries")
_TAKEN = func.jsonb_build_object(
    *("subscription", func.nullif(_O.subscription, ""), "retry_at", _RETRY_AT),
    *(part for name in _SHOWN for part in (name, _O[name])),
)


def _of_each(key: ColumnElement[str], value: ColumnElement[Any], of: ColumnElement[str]) -> ColumnElement[Any]:
    found = select(func.jsonb_object_agg(key, value)).where(of == delivery.c.id).correlate(delivery).scalar_subquery()
    return func.coalesce(found, literal_column("'{}'"))


# The events by their number, and the outcomes by number and subscription.
EVENTS = _of_each(cast(_E.number, Text), _MADE, _E.delivery)
OUTCOMES = _of_each(func.concat(_O.number, "/", _O.subscription), _TAKEN, _O.delivery)


def _some(of: ColumnElement[str]) -> ColumnElement[int]:
    some = select(of).where(of == delivery.c.id).correlate(delivery).limit(literal_column(str(ROOM))).subquery()
    return select(func.count()).select_from(some).scalar_subquery()


# How many there are of both, as far as that matters.
SIZE = (_some(_E.delivery) + _some(_O.delivery)).label("size")

# -- writes, by the projection of EVENTS --------------------------------------------------------------------------------------


def _any(*conditions: ColumnElement[bool]) -> ColumnElement[bool]:
    # An EXISTS, for many rows, the planner may answer by a hash of the whole table instead of a step of an index for each.
    return select(true()).where(*conditions).limit(literal_column("1")).scalar_subquery().is_not(None)


_EVENT, _OUTCOME = tuple(_E.keys()), tuple(_O.keys())
_FORGOTTEN = given(_E.delivery, _E.number, _O.subscription)
_IS_KEPT = _O.subscription == func.any(func.string_to_array(_FORGOTTEN.c.subscription, ","))
_FORGET = Compiled(
    delete(delivery_outcome).where(_O.delivery == _FORGOTTEN.c.delivery, _O.number == _FORGOTTEN.c.number, ~_IS_KEPT)
)
_PUT_EVENTS = Compiled(overwriting(inserted(delivery_event, *_EVENT), "event", "type", "answered"))
_PUT_OUTCOMES = Compiled(overwriting(inserted(delivery_outcome, *_OUTCOME), *_OUTCOME[3:]))
_GIVEN = given(_E.delivery, _E.number)
_ANSWERED = Compiled(
    update(delivery_event)
    .where(_E.delivery == _GIVEN.c.delivery, _E.number == _GIVEN.c.number, ~_E.answered)
    .where(_any(_O.delivery == _GIVEN.c.delivery, _O.number == _GIVEN.c.number))
    .values(answered=true())
)


def put_changes(changed: Mapping[str, Mapping[int, Change]], again: Collection[str]) -> list[Statement]:
    """Return the statements that write what changed of the events of deliveries, by id; those `again` may have had some before."""
    forgotten, events, outcomes, answered = (list[dict[str, Any]]() for _ in range(4))
    for id_, by_number in changed.items():
        for number, change in by_number.items():
            of = {"delivery": id_, "number": number}
            if change.made is not None:
                if id_ in again:
                    forgotten.append(of | {"subscription": ",".join(change.kept)})
                events.append(of | msgspec.structs.asdict(change.made) | {"answered": bool(change.outcomes)})
            if change.kept or change.made is None:
                answered.append(of)
            outcomes += [of | _row(key, taken) for key, taken in change.outcomes.items()]
    every = ((_FORGET, forgotten), (_PUT_EVENTS, events), (_PUT_OUTCOMES, outcomes), (_ANSWERED, answered))
    return [statement.of(rows) for statement, rows in every if rows]


def _row(key: str, taken: SubscriptionOutcome) -> dict[str, Any]:
    again = None if taken.retry_at is None else datetime.fromisoformat(taken.retry_at)
    return msgspec.structs.asdict(taken) | {"subscription": key, "retry_at": again}


def found(row: NamedFromClause) -> dict[str, ColumnElement[Any]]:
    """Return the columns of a delivery that its events and outcomes decide; `row` has its id, and what it is without any."""
    id_ = row.c.id

    def there(*statuses: str) -> ColumnElement[bool]:
        return or_(*(_any(_O.delivery == id_, _O.status == literal_column(f"'{one}'")) for one in statuses))

    def first(status: str) -> ColumnElement[Any]:
        of = select(_O.reason).where(_O.delivery == id_, _O.status == literal_column(f"'{status}'"))
        return of.order_by(_O.number, _O.subscription).limit(literal_column("1")).scalar_subquery()

    has_any, is_routed = _any(_O.delivery == id_), there("routed")
    reasons = [case((~is_routed, first(one))) if one == "filtered" else first(one) for one in REASONS]
    unanswered = _any(_E.delivery == id_, ~_E.answered)
    return {
        "outcome": case(
            *((there(*statuses), literal_column(f"'{outcome}'")) for outcome, statuses in _COUNTING.items()), else_=row.c.outcome
        ),
        "reason": case((~has_any, row.c.reason), else_=func.coalesce(*reasons)),
        "ended": ((row.c.outcome != literal_column("'accepted'")) | has_any) & ~unanswered,
        # Of none it is null.
        "retry_at": select(func.min(_O.retry_at)).where(_O.delivery == id_, _O.retry_at.is_not(None)).scalar_subquery(),
    }
