"""/api/v1/deliveries/replay and /api/v1/replays: many deliveries are routed again, by filter and time, at a rate."""

from __future__ import annotations

from typing import Annotated

import msgspec

from services.gateway.api.endpoint import LOCATION, Answer, Audit, Call, Example, Reply, endpoint
from services.gateway.api.lists import Paged
from shared.envelope import new_id
from shared.errors import Conflict, Malformed, NotFound
from shared.questions.replays import (
    CancelReplay,
    DeliveryStatus,
    GetReplay,
    ListReplays,
    Pace,
    ReplayDeliveries,
    ReplayPage,
    ReplayView,
)
from shared.values import Instant, Name


class ReplayBody(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The deliveries that are to be routed again."""

    since: Annotated[Instant, msgspec.Meta(description="When the first of them was received.")]
    until: Annotated[Instant, msgspec.Meta(description="They were received before this, else before now.")] | None = None
    source: Annotated[Name, msgspec.Meta(description="Only those of a source: its name or id.")] | None = None
    status: Annotated[DeliveryStatus, msgspec.Meta(description="Only those with this status.")] | None = None
    type: Annotated[Name, msgspec.Meta(description="Only those whose event has this type.")] | None = None
    all: Annotated[bool, msgspec.Meta(description="Also to what succeeded or goes on.")] = False
    rate: Annotated[Pace, msgspec.Meta(description="Deliveries a second.")] = 10.0


@endpoint(
    "POST",
    "/api/v1/deliveries/replay",
    role="operator",
    answers={202: Reply(ReplayView, headers=(LOCATION,))},
    errors=(Conflict,),
    audit=Audit("delivery", "replay"),
    example=Example(body={"since": "2026-01-01T00:00:00Z", "status": "unroutable", "rate": 50}),
)
async def replay_deliveries(call: Call[None, ReplayBody]) -> Answer:
    """Route many deliveries again, oldest first, at a rate; 202 once that is on disk. Its `Location` has the progress."""
    body, caller = call.body, call.caller
    replay = await call.ask(
        ReplayDeliveries(
            id=new_id(),
            org=caller.org,
            actor=caller.actor,
            since=body.since,
            until=body.until,
            source=body.source,
            status=body.status,
            type=body.type,
            everything=body.all,
            rate=body.rate,
        )
    )
    call.note(target=replay.id, total=str(replay.total))
    return Answer(body=replay, location=f"/api/v1/replays/{replay.id}")


@endpoint("GET", "/api/v1/replays", role="viewer", errors=(Malformed,))
async def list_replays(call: Call[Paged, None]) -> ReplayPage:
    """List replays of many deliveries, newest first."""
    return await call.ask(ListReplays(org=call.caller.org, page=call.query.page))


@endpoint("GET", "/api/v1/replays/{id}", role="viewer", errors=(NotFound,))
async def get_replay(call: Call[None, None]) -> ReplayView:
    """Show how far a replay is."""
    return await call.ask(GetReplay(org=call.caller.org, id=call.path["id"]))


@endpoint(
    "POST",
    "/api/v1/replays/{id}/cancel",
    role="operator",
    errors=(NotFound, Conflict),
    audit=Audit("delivery", "cancel_replay", "id"),
)
async def cancel_replay(call: Call[None, None]) -> ReplayView:
    """Route no more deliveries of a replay again; what was routed goes on. 409 where it has ended."""
    caller = call.caller
    return await call.ask(CancelReplay(id=new_id(), org=caller.org, actor=caller.actor, replay=call.path["id"]))


ENDPOINTS = (replay_deliveries, list_replays, get_replay, cancel_replay)
