"""/api/v1/subscriptions/{name}/preview: what a subscription would do with the newest events of its source."""

from __future__ import annotations

from typing import Annotated

import msgspec

from services.gateway.api.endpoint import Audit, Call, Endpoint, Example, endpoint
from services.gateway.api.lists import Object
from shared.errors import NotFound
from shared.questions.events import PreviewSubscription, SubscriptionPreview
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


ENDPOINTS: tuple[Endpoint, ...] = (preview_subscription,)
