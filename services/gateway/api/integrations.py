"""/api/v1/integrations and their mappings: external systems, and what each is for an organization. Nothing here is secret."""

from __future__ import annotations

from typing import Any

import msgspec
from aiohttp import web

from services.gateway.api.access import Caller
from services.gateway.api.legacy import audited, every_org, gateway_of, meaning, note
from services.gateway.api.lists import checked, creating, entity, expected_of, named_object_of, nothing, object_of, page_of
from services.gateway.domain import merged
from services.gateway.parts import Gateway
from shared.envelope import new_id
from shared.errors import NotFound
from shared.http import json_response
from shared.questions.events import GetMapping, MappingView
from shared.questions.integrations import (
    EntityId,
    IntegrationList,
    IntegrationView,
    ListIntegrations,
    ListMappings,
    PutIntegration,
    PutMapping,
    RemoveIntegration,
    RemoveMapping,
)
from shared.values import Name, Words, fitted


class IntegrationBody(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What an integration is made of; `config_schema` is the JSON Schema of every mapping's config."""

    description: Words = ""
    config_schema: dict[str, Any] = msgspec.field(default_factory=lambda: {"type": "object"})
    provider: Name | None = None


class MappingBody(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What an integration is for one organization; `connection` names one of its connections."""

    config: dict[str, Any] = {}
    entity_id: EntityId | None = None
    connection: Name | None = None


async def list_integrations(request: web.Request) -> web.Response:
    """GET: the integrations that the organization sees, its own and the platform's, by name."""
    gateway, caller = gateway_of(request)
    return json_response(await gateway.bus.ask(ListIntegrations(org=caller.org, page=page_of(request))))


async def get_integration(request: web.Request) -> web.Response:
    """GET: the integration that the organization means by a name: its own one, else the platform's."""
    gateway, caller = gateway_of(request)
    name = request.match_info["name"]
    view = await _named(gateway, caller, name, own=False)
    if view is None:
        raise NotFound(f"there is no integration {name!r}")
    return entity(view, view.version)


@audited("integration", "put", "name")
async def put_integration(request: web.Request) -> web.Response:
    """PUT: create or replace the organization's own one."""
    gateway, caller = gateway_of(request)
    name = request.match_info["name"]
    body: IntegrationBody = fitted(await object_of(request), IntegrationBody)
    expected = await expected_of(request, lambda: _named(gateway, caller, name))
    view = await _put(gateway, caller, name, body, expected)
    return entity(view, view.version)


@audited("integration", "create")
async def create_integration(request: web.Request) -> web.Response:
    """POST: create only; `name` stands in the body. 409 when the organization has one of that name."""
    gateway, caller = gateway_of(request)
    name, given = await named_object_of(request)
    note(request, target=name)
    with creating("integration", name):
        view = await _put(gateway, caller, name, fitted(given, IntegrationBody), 0)
    return entity(view, view.version, status=201, location=f"/api/v1/integrations/{name}")


@audited("integration", "patch", "name")
async def patch_integration(request: web.Request) -> web.Response:
    """PATCH: change what is given of the organization's own one."""
    gateway, caller = gateway_of(request)
    given = await object_of(request)
    name = request.match_info["name"]
    present = await _named(gateway, caller, name)
    if present is None:
        raise NotFound(f"there is no integration {name!r} of {caller.org}")
    await checked(request, lambda: _named(gateway, caller, name))
    kept = {field: getattr(present, field) for field in IntegrationBody.__struct_fields__}
    view = await _put(gateway, caller, name, fitted(kept | given, IntegrationBody), present.version)
    return entity(view, view.version)


@audited("integration", "delete", "name")
async def delete_integration(request: web.Request) -> web.Response:
    """DELETE: remove the organization's own one; mappings stay, for the next one of its name."""
    gateway, caller = gateway_of(request)
    name = request.match_info["name"]
    expected = await expected_of(request, lambda: _named(gateway, caller, name))
    await gateway.bus.ask(RemoveIntegration(id=new_id(), org=caller.org, actor=caller.actor, name=name, expected=expected))
    return nothing()


@every_org
async def list_mappings(request: web.Request) -> web.Response:
    """GET: the organization's mapping of an integration; with `?org=*` everybody's of the platform's, by organization."""
    gateway, caller = gateway_of(request)
    asked = ListMappings(org=caller.org, integration=request.match_info["name"], page=page_of(request))
    return json_response(await gateway.bus.ask(asked))


async def get_mapping(request: web.Request) -> web.Response:
    """GET: what an integration is for an organization."""
    gateway, caller = meaning(request, request.match_info["org"])
    view = await _mapping(gateway, caller, request.match_info["name"])
    return entity(view, view.version)


@audited("mapping", "put", "name")
async def put_mapping(request: web.Request) -> web.Response:
    """PUT: create or replace."""
    gateway, caller = meaning(request, request.match_info["org"])
    name = request.match_info["name"]
    body: MappingBody = fitted(await object_of(request), MappingBody)
    expected = await expected_of(request, lambda: _mapping_or_none(gateway, caller, name))
    view = await _put_mapping(gateway, caller, name, body, expected)
    return entity(view, view.version)


@audited("mapping", "patch", "name")
async def patch_mapping(request: web.Request) -> web.Response:
    """PATCH: change what is given; a value of the config that is null is removed."""
    gateway, caller = meaning(request, request.match_info["org"])
    given = await object_of(request)
    name = request.match_info["name"]
    present = await _mapping(gateway, caller, name)
    await checked(request, lambda: _mapping_or_none(gateway, caller, name))
    config = given.pop("config", None) or {}
    body: MappingBody = fitted(
        {"entity_id": present.entity_id, "connection": present.connection} | given | {"config": config}, MappingBody
    )
    body = msgspec.structs.replace(body, config=merged(present.config, body.config))
    view = await _put_mapping(gateway, caller, name, body, present.version)
    return entity(view, view.version)


@audited("mapping", "delete", "name")
async def delete_mapping(request: web.Request) -> web.Response:
    """DELETE: remove it, also where the integration is gone."""
    gateway, caller = meaning(request, request.match_info["org"])
    name = request.match_info["name"]
    expected = await expected_of(request, lambda: _mapping_or_none(gateway, caller, name))
    await gateway.bus.ask(RemoveMapping(id=new_id(), org=caller.org, actor=caller.actor, integration=name, expected=expected))
    return nothing()


async def _put(gateway: Gateway, caller: Caller, name: str, body: IntegrationBody, expected: int | None) -> IntegrationView:
    view: IntegrationView = await gateway.bus.ask(
        PutIntegration(
            id=new_id(),
            org=caller.org,
            actor=caller.actor,
            name=name,
            description=body.description,
            config_schema=body.config_schema,
            provider=body.provider,
            expected=expected,
        )
    )
    return view


async def _put_mapping(gateway: Gateway, caller: Caller, name: str, body: MappingBody, expected: int | None) -> MappingView:
    view: MappingView = await gateway.bus.ask(
        PutMapping(
            id=new_id(),
            org=caller.org,
            actor=caller.actor,
            integration=name,
            config=body.config,
            entity_id=body.entity_id,
            connection=body.connection,
            expected=expected,
        )
    )
    return view


async def _named(gateway: Gateway, caller: Caller, name: str, *, own: bool = True) -> IntegrationView | None:
    found: IntegrationList = await gateway.bus.ask(ListIntegrations(org=caller.org, name=name, own=own))
    return found.items[0] if found.items else None


async def _mapping(gateway: Gateway, caller: Caller, name: str) -> MappingView:
    view: MappingView = await gateway.bus.ask(GetMapping(org=caller.org, integration=name))
    return view


async def _mapping_or_none(gateway: Gateway, caller: Caller, name: str) -> MappingView | None:
    try:
        return await _mapping(gateway, caller, name)
    except NotFound:
        return None


ROUTES = [
    web.get("/integrations", list_integrations),
    web.post("/integrations", create_integration),
    web.get("/integrations/{name}", get_integration),
    web.put("/integrations/{name}", put_integration),
    web.patch("/integrations/{name}", patch_integration),
    web.delete("/integrations/{name}", delete_integration),
    web.get("/integrations/{name}/mappings", list_mappings),
    web.get("/integrations/{name}/mappings/{org}", get_mapping),
    web.put("/integrations/{name}/mappings/{org}", put_mapping),
    web.patch("/integrations/{name}/mappings/{org}", patch_mapping),
    web.delete("/integrations/{name}/mappings/{org}", delete_mapping),
]
