"""/api/v1/variables and /api/v1/secrets: what an organization gives its runs by name; a secret's value never comes out."""

from __future__ import annotations

from typing import Any

import msgspec
from aiohttp import web

from services.gateway.api.access import Caller
from services.gateway.api.legacy import audited, gateway_of, note
from services.gateway.api.lists import creating, entity, expected_of, named_object_of, nothing, object_of, page_of
from services.gateway.parts import Gateway
from shared.envelope import new_id
from shared.errors import NotFound
from shared.http import json_response
from shared.questions.settings import (
    ListSecrets,
    ListVariables,
    PutSecret,
    PutVariable,
    RemoveSecret,
    RemoveVariable,
    SecretList,
    SecretView,
    VariableList,
    VariableView,
)
from shared.values import fitted


class VariableBody(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Any JSON value."""

    value: Any


class SecretBody(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A text."""

    value: str


async def list_variables(request: web.Request) -> web.Response:
    """GET: the organization's variables, by name."""
    gateway, caller = gateway_of(request)
    return json_response(await gateway.bus.ask(ListVariables(org=caller.org, page=page_of(request))))


async def get_variable(request: web.Request) -> web.Response:
    """GET: one variable of the organization's own."""
    gateway, caller = gateway_of(request)
    view = await _variable(gateway, caller, request.match_info["name"])
    if view is None:
        raise NotFound(f"there is no variable {request.match_info['name']!r}")
    return entity(view, view.version)


@audited("variable", "put", "name")
async def put_variable(request: web.Request) -> web.Response:
    """PUT: create or replace."""
    gateway, caller = gateway_of(request)
    name = request.match_info["name"]
    body: VariableBody = fitted(await object_of(request), VariableBody)
    expected = await expected_of(request, lambda: _variable(gateway, caller, name))
    view = await _put_variable(gateway, caller, name, body, expected)
    return entity(view, view.version)


@audited("variable", "create")
async def create_variable(request: web.Request) -> web.Response:
    """POST: create only; `name` stands in the body. 409 when there is one of that name."""
    gateway, caller = gateway_of(request)
    name, given = await named_object_of(request)
    note(request, target=name)
    with creating("variable", name):
        view = await _put_variable(gateway, caller, name, fitted(given, VariableBody), 0)
    return entity(view, view.version, status=201, location=f"/api/v1/variables/{name}")


@audited("variable", "delete", "name")
async def delete_variable(request: web.Request) -> web.Response:
    """DELETE: forget it."""
    gateway, caller = gateway_of(request)
    name = request.match_info["name"]
    expected = await expected_of(request, lambda: _variable(gateway, caller, name))
    await gateway.bus.ask(RemoveVariable(id=new_id(), org=caller.org, actor=caller.actor, name=name, expected=expected))
    return nothing()


async def list_secrets(request: web.Request) -> web.Response:
    """GET: the organization's secrets, by name, without their values."""
    gateway, caller = gateway_of(request)
    return json_response(await gateway.bus.ask(ListSecrets(org=caller.org, page=page_of(request))))


async def get_secret(request: web.Request) -> web.Response:
    """GET: one secret, without its value."""
    gateway, caller = gateway_of(request)
    view = await _secret(gateway, caller, request.match_info["name"])
    if view is None:
        raise NotFound(f"there is no secret {request.match_info['name']!r}")
    return entity(view, view.version)


@audited("secret", "put", "name")
async def put_secret(request: web.Request) -> web.Response:
    """PUT: create or replace."""
    gateway, caller = gateway_of(request)
    name = request.match_info["name"]
    body: SecretBody = fitted(await object_of(request), SecretBody)
    expected = await expected_of(request, lambda: _secret(gateway, caller, name))
    view = await _put_secret(gateway, caller, name, body, expected)
    return entity(view, view.version)


@audited("secret", "create")
async def create_secret(request: web.Request) -> web.Response:
    """POST: create only; `name` stands in the body. 409 when there is one of that name."""
    gateway, caller = gateway_of(request)
    name, given = await named_object_of(request)
    note(request, target=name)
    with creating("secret", name):
        view = await _put_secret(gateway, caller, name, fitted(given, SecretBody), 0)
    return entity(view, view.version, status=201, location=f"/api/v1/secrets/{name}")


@audited("secret", "delete", "name")
async def delete_secret(request: web.Request) -> web.Response:
    """DELETE: forget it and its value."""
    gateway, caller = gateway_of(request)
    name = request.match_info["name"]
    expected = await expected_of(request, lambda: _secret(gateway, caller, name))
    await gateway.bus.ask(RemoveSecret(id=new_id(), org=caller.org, actor=caller.actor, name=name, expected=expected))
    return nothing()


async def _put_variable(gateway: Gateway, caller: Caller, name: str, body: VariableBody, expected: int | None) -> VariableView:
    command = PutVariable(id=new_id(), org=caller.org, actor=caller.actor, name=name, value=body.value, expected=expected)
    view: VariableView = await gateway.bus.ask(command)
    return view


async def _put_secret(gateway: Gateway, caller: Caller, name: str, body: SecretBody, expected: int | None) -> SecretView:
    command = new_id()
    sealed = gateway.keyring.seal(body.value, caller.org, command, "secret")
    asked = PutSecret(id=command, org=caller.org, actor=caller.actor, name=name, sealed=sealed, expected=expected)
    view: SecretView = await gateway.bus.ask(asked)
    return view


async def _variable(gateway: Gateway, caller: Caller, name: str) -> VariableView | None:
    found: VariableList = await gateway.bus.ask(ListVariables(org=caller.org, name=name))
    return found.items[0] if found.items else None


async def _secret(gateway: Gateway, caller: Caller, name: str) -> SecretView | None:
    found: SecretList = await gateway.bus.ask(ListSecrets(org=caller.org, name=name))
    return found.items[0] if found.items else None


ROUTES = [
    web.get("/variables", list_variables),
    web.post("/variables", create_variable),
    web.get("/variables/{name}", get_variable),
    web.put("/variables/{name}", put_variable),
    web.delete("/variables/{name}", delete_variable),
    web.get("/secrets", list_secrets),
    web.post("/secrets", create_secret),
    web.get("/secrets/{name}", get_secret),
    web.put("/secrets/{name}", put_secret),
    web.delete("/secrets/{name}", delete_secret),
]
