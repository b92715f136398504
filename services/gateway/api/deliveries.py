"""/api/v1/deliveries: the story of every webhook that was admitted."""

from __future__ import annotations

from typing import Annotated

import msgspec

from services.gateway.api.endpoint import Audit, Call, endpoint
from services.gateway.api.lists import Paged
from shared.envelope import new_id
from shared.errors import Conflict, Malformed, NotFound
from shared.questions.events import DeliveryList, DeliveryView, EventEdit, GetDelivery, ListDeliveries, RetryDelivery
from shared.questions.replays import DeliveryStatus


class DeliveriesQuery(Paged, frozen=True, kw_only=True):
    """Filters for a list of deliveries."""

    status: DeliveryStatus | None = None
    source: Annotated[str, msgspec.Meta(description="A source's name or id.")] | None = None
    id: Annotated[str, msgspec.Meta(description="How the id begins.")] | None = None
    overdue: Annotated[bool, msgspec.Meta(description="Only those that should have an end by now and have none.")] = False


class RetryQuery(msgspec.Struct, frozen=True):
    """The part of a delivery to retry."""

    everything: Annotated[bool, msgspec.Meta(description="Also what succeeded or goes on.")] = msgspec.field(
        default=False, name="all"
    )


class RetryBody(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The retry of a delivery with other data, which is recorded as such; without it as it was received."""

    edit: EventEdit | None = None


@endpoint("GET", "/api/v1/deliveries", role="viewer", errors=(Malformed,))
async def list_deliveries(call: Call[DeliveriesQuery, None]) -> DeliveryList:
    """List deliveries, newest first."""
    query = call.query
    return await call.ask(
        ListDeliveries(
            org=call.caller.org, page=query.page, status=query.status, source=query.source, id=query.id, overdue=query.overdue
        )
    )


@endpoint("GET", "/api/v1/deliveries/{id}", role="viewer", errors=(NotFound,))
async def get_delivery(call: Call[None, None]) -> DeliveryView:
    """Show one delivery: what matched, what ran, how it ended."""
    return await call.ask(GetDelivery(org=call.caller.org, id=call.path["id"]))


@endpoint(
    "POST",
    "/api/v1/deliveries/{id}/retry",
    role="operator",
    answers={202: DeliveryView},
    errors=(NotFound, Conflict),
    audit=Audit("delivery", "retry", "id"),
)
async def retry_delivery(call: Call[RetryQuery, RetryBody]) -> DeliveryView:
    """Route a delivery again, with new runs for those that have not succeeded and do not go on. 409 where there are none.

    With `edit` one of its events is routed to all with other data: what was received stays as it is.
    """
    caller, edit = call.caller, call.body.edit
    if edit is not None:
        call.note(edited="true")
    return await call.ask(
        RetryDelivery(
            id=new_id(),
            org=caller.org,
            actor=caller.actor,
            delivery=call.path["id"],
            everything=call.query.everything,
            edit=edit,
        )
    )


ENDPOINTS = (list_deliveries, get_delivery, retry_delivery)
