"""/api/v1/subscriptions: which events of which source start which workflow."""

from __future__ import annotations

from typing import Any

import msgspec
from aiohttp import web

from services.gateway.api.access import Caller
from services.gateway.api.legacy import audited, gateway_of, note
from services.gateway.api.lists import checked, creating, entity, expected_of, named_object_of, nothing, object_of, page_of
from services.gateway.parts import Gateway
from shared.envelope import new_id
from shared.errors import NotFound
from shared.http import json_response
from shared.questions.events import (
    ListSubscriptions,
    PutSubscription,
    RemoveSubscription,
    SubscriptionEntry,
    SubscriptionList,
)
from shared.values import Expression, Name, fitted


class SubscriptionBody(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What a subscription is made of; `source` is a source's name or id."""

    source: Name
    event: Name
    workflow: Name
    filter: Expression | None = None
    input: dict[str, Any] | None = None
    enabled: bool = True


async def list_subscriptions(request: web.Request) -> web.Response:
    """GET: the organization's subscriptions, by name."""
    gateway, caller = gateway_of(request)
    return json_response(await gateway.bus.ask(ListSubscriptions(org=caller.org, page=page_of(request))))


async def get_subscription(request: web.Request) -> web.Response:
    """GET: one subscription."""
    gateway, caller = gateway_of(request)
    entry = await _there(gateway, caller, request.match_info["name"])
    return entity(entry, entry.version)


@audited("subscription", "put", "name")
async def put_subscription(request: web.Request) -> web.Response:
    """PUT: create or replace."""
    gateway, caller = gateway_of(request)
    name = request.match_info["name"]
    body: SubscriptionBody = fitted(await object_of(request), SubscriptionBody)
    expected = await expected_of(request, lambda: _named(gateway, caller, name))
    entry = await _put(gateway, caller, name, body, expected)
    return entity(entry, entry.version)


@audited("subscription", "create")
async def create_subscription(request: web.Request) -> web.Response:
    """POST: create only; `name` stands in the body. 409 when there is one of that name."""
    gateway, caller = gateway_of(request)
    name, given = await named_object_of(request)
    note(request, target=name)
    with creating("subscription", name):
        entry = await _put(gateway, caller, name, fitted(given, SubscriptionBody), 0)
    return entity(entry, entry.version, status=201, location=f"/api/v1/subscriptions/{name}")


@audited("subscription", "patch", "name")
async def patch_subscription(request: web.Request) -> web.Response:
    """PATCH: change what is given; null takes a field's default."""
    gateway, caller = gateway_of(request)
    given = await object_of(request)
    present = await _there(gateway, caller, request.match_info["name"])
    await checked(request, lambda: _named(gateway, caller, present.name))
    kept = {field: getattr(present, field) for field in SubscriptionBody.__struct_fields__}
    body: SubscriptionBody = fitted(kept | given, SubscriptionBody)
    entry = await _put(gateway, caller, present.name, body, present.version)
    return entity(entry, entry.version)


@audited("subscription", "delete", "name")
async def delete_subscription(request: web.Request) -> web.Response:
    """DELETE: remove it."""
    gateway, caller = gateway_of(request)
    name = request.match_info["name"]
    expected = await expected_of(request, lambda: _named(gateway, caller, name))
    await gateway.bus.ask(RemoveSubscription(id=new_id(), org=caller.org, actor=caller.actor, name=name, expected=expected))
    return nothing()


async def _put(gateway: Gateway, caller: Caller, name: str, body: SubscriptionBody, expected: int | None) -> SubscriptionEntry:
    entry: SubscriptionEntry = await gateway.bus.ask(
        PutSubscription(
            id=new_id(),
            org=caller.org,
            actor=caller.actor,
            name=name,
            source=body.source,
            event=body.event,
            workflow=body.workflow,
            filter=body.filter,
            input=body.input,
            enabled=body.enabled,
            expected=expected,
        )
    )
    return entry


async def _named(gateway: Gateway, caller: Caller, name: str) -> SubscriptionEntry | None:
    found: SubscriptionList = await gateway.bus.ask(ListSubscriptions(org=caller.org, name=name))
    return found.items[0] if found.items else None


async def _there(gateway: Gateway, caller: Caller, name: str) -> SubscriptionEntry:
    entry = await _named(gateway, caller, name)
    if entry is None:
        raise NotFound(f"there is no subscription {name!r}")
    return entry


ROUTES = [
    web.get("/subscriptions", list_subscriptions),
    web.post("/subscriptions", create_subscription),
    web.get("/subscriptions/{name}", get_subscription),
    web.put("/subscriptions/{name}", put_subscription),
    web.patch("/subscriptions/{name}", patch_subscription),
    web.delete("/subscriptions/{name}", delete_subscription),
]
