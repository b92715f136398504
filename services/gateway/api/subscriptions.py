"""/api/v1/subscriptions/{name}/preview and …/held: what a subscription would do with the newest events, and what waits."""

from __future__ import annotations

from typing import Annotated

import msgspec

from services.gateway.api.endpoint import Audit, Call, Endpoint, Example, endpoint
from services.gateway.api.lists import Object
from shared.errors import NotFound
from shared.questions.events import HeldKey, ListHeld, PreviewSubscription, SubscriptionPreview
from shared.resources import KINDS


class PreviewQuery(msgspec.Struct, frozen=True):
    """How many events are asked for."""

    n: Annotated[int, msgspec.Meta(ge=1, le=100, description="How many events, the newest ones.")] = 20


@endpoint(
    "POST",
    "/api/v1/subscriptions/{name}/preview",
    role="operator",
    documented=KINDS["subscription"].change,
    errors=(NotFound,),
    audit=Audit("subscription", "preview", "name"),
    example=Example(body=KINDS["subscription"].example | {"filter": "event.data.ref == 'refs/heads/main'"}),
)
async def preview_subscription(call: Call[PreviewQuery, Object]) -> SubscriptionPreview:
    """Say which of the newest events of its source a subscription would start runs of, and with what input; nothing is kept or run.

    Fields in the body stand in for those that it has. It need not exist where they are complete.
    """
    asked = PreviewSubscription(org=call.caller.org, name=call.path["name"], fields=call.body, n=call.query.n)
    return await call.ask(asked)


class HeldKeys(msgspec.Struct, frozen=True):
    """The keys of which a subscription holds events."""

    items: list[HeldKey]
    next_cursor: None = None


@endpoint("GET", "/api/v1/subscriptions/{name}/held", role="viewer", errors=(NotFound,))
async def list_held(call: Call[None, None]) -> HeldKeys:
    """List the keys of which a subscription holds events, up to 1,000, and the run of each that they may wait for."""
    return HeldKeys(await call.ask(ListHeld(org=call.caller.org, name=call.path["name"])))


ENDPOINTS: tuple[Endpoint, ...] = (preview_subscription, list_held)
