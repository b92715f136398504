"""/api/v1/connections: credentials of an organization; what is secret goes in and never comes out."""

from __future__ import annotations

from typing import Literal

import msgspec
from aiohttp import web

from services.gateway.api.access import Caller
from services.gateway.api.legacy import audited, gateway_of, note
from services.gateway.api.lists import creating, entity, expected_of, named_object_of, nothing, object_of, page_of
from services.gateway.parts import Gateway
from shared.envelope import new_id
from shared.errors import Invalid, NotFound, Problem
from shared.http import json_response
from shared.questions.oauth import ConnectionList, ConnectionView, ListConnections, PutConnection, RemoveConnection
from shared.values import fitted


class ConnectionBody(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A static token."""

    token: str
    grant: Literal["token"] = "token"


async def list_connections(request: web.Request) -> web.Response:
    """GET: the organization's connections, by name."""
    gateway, caller = gateway_of(request)
    return json_response(await gateway.bus.ask(ListConnections(org=caller.org, page=page_of(request))))


async def get_connection(request: web.Request) -> web.Response:
    """GET: one connection, without its credential."""
    gateway, caller = gateway_of(request)
    view = await _named(gateway, caller, request.match_info["name"])
    if view is None:
        raise NotFound(f"there is no connection {request.match_info['name']!r}")
    return entity(view, view.version)


@audited("connection", "put", "name")
async def put_connection(request: web.Request) -> web.Response:
    """PUT: create or replace."""
    gateway, caller = gateway_of(request)
    name = request.match_info["name"]
    body: ConnectionBody = fitted(await object_of(request), ConnectionBody)
    expected = await expected_of(request, lambda: _named(gateway, caller, name))
    view = await _put(gateway, caller, name, body, expected)
    return entity(view, view.version)


@audited("connection", "create")
async def create_connection(request: web.Request) -> web.Response:
    """POST: create only; `name` stands in the body. 409 when there is one of that name."""
    gateway, caller = gateway_of(request)
    name, given = await named_object_of(request)
    note(request, target=name)
    with creating("connection", name):
        view = await _put(gateway, caller, name, fitted(given, ConnectionBody), 0)
    return entity(view, view.version, status=201, location=f"/api/v1/connections/{name}")


@audited("connection", "delete", "name")
async def delete_connection(request: web.Request) -> web.Response:
    """DELETE: forget it and its credential."""
    gateway, caller = gateway_of(request)
    name = request.match_info["name"]
    expected = await expected_of(request, lambda: _named(gateway, caller, name))
    await gateway.bus.ask(RemoveConnection(id=new_id(), org=caller.org, actor=caller.actor, name=name, expected=expected))
    return nothing()


async def _put(gateway: Gateway, caller: Caller, name: str, body: ConnectionBody, expected: int | None) -> ConnectionView:
    if not body.token.strip():
        raise Invalid("a token is not empty", errors=(Problem("token", "is empty"),))
    command = new_id()
    sealed = gateway.keyring.seal(body.token, caller.org, command, "token")
    view: ConnectionView = await gateway.bus.ask(
        PutConnection(
            id=command,
            org=caller.org,
            actor=caller.actor,
            name=name,
            grant=body.grant,
            sealed=sealed,
            expected=expected,
        )
    )
    return view


async def _named(gateway: Gateway, caller: Caller, name: str) -> ConnectionView | None:
    found: ConnectionList = await gateway.bus.ask(ListConnections(org=caller.org, name=name))
    return found.items[0] if found.items else None


ROUTES = [
    web.get("/connections", list_connections),
    web.post("/connections", create_connection),
    web.get("/connections/{name}", get_connection),
    web.put("/connections/{name}", put_connection),
    web.delete("/connections/{name}", delete_connection),
]
