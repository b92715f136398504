"""/api/v1/sources/{name}/events and /api/v1/adapters: events that users emit, and the kinds of sources."""

from __future__ import annotations

from typing import Any

import msgspec

from services.gateway.api.endpoint import IDEMPOTENCY_KEY, Audit, Call, Endpoint, Example, endpoint
from services.gateway.api.lists import idempotency_key_of
from shared.envelope import derived_id, new_id
from shared.errors import NotFound
from shared.questions.events import AdapterView, EmitEvent, ListAdapters
from shared.values import Name


class EventBody(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """An event for a topic."""

    type: Name
    data: Any = None


class EventTaken(msgspec.Struct, frozen=True):
    """An event is on disk: the id of its delivery, and its own."""

    id: str
    event: str


class AdapterList(msgspec.Struct, frozen=True):
    """All adapters."""

    items: list[AdapterView]
    next_cursor: None = None


@endpoint(
    "POST",
    "/api/v1/sources/{name}/events",
    role="operator",
    answers={202: EventTaken},
    headers=(IDEMPOTENCY_KEY,),
    errors=(NotFound,),
    audit=Audit("event", "emit", "name"),
    example=Example(body={"type": "order.paid", "data": {"id": 42}}),
)
async def emit_event(call: Call[None, EventBody]) -> EventTaken:
    """Let a source of the adapter `topic` have an event."""
    key, org = idempotency_key_of(call.request), call.caller.org
    emitted = await call.ask(
        EmitEvent(
            id=new_id() if key is None else derived_id("event of", org, key),
            org=org,
            actor=call.caller.actor,
            source=call.path["name"],
            type=call.body.type,
            data=call.body.data,
        )
    )
    call.note(delivery=emitted.delivery)
    return EventTaken(emitted.delivery, emitted.event)


@endpoint("GET", "/api/v1/adapters", role="viewer")
async def list_adapters(call: Call[None, None]) -> AdapterList:
    """List the adapters that a source may use, with their settings as JSON Schema."""
    return AdapterList(await call.ask(ListAdapters(org=call.caller.org)))


ENDPOINTS: tuple[Endpoint, ...] = (emit_event, list_adapters)
