"""/api/v1/sources: webhook endpoints."""

from __future__ import annotations

from typing import Any

import msgspec
from aiohttp import web

from services.gateway.adapters import split_secrets
from services.gateway.api.access import Caller
from services.gateway.api.legacy import audited, gateway_of, note
from services.gateway.api.lists import (
    checked,
    creating,
    entity,
    expected_of,
    named_object_of,
    nothing,
    object_of,
    page_of,
)
from services.gateway.domain import merged, plain
from services.gateway.parts import Gateway
from shared.envelope import new_id
from shared.errors import NotFound
from shared.http import json_response
from shared.questions.events import ListSources, PutSource, RemoveSource, SourceList, SourceView
from shared.values import Name, fitted


class SourceBody(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What a source is made of; secret settings stand among the others and are never shown again."""

    adapter: Name
    settings: dict[str, Any] = {}
    enabled: bool = True
    integration: Name | None = None


async def list_sources(request: web.Request) -> web.Response:
    """GET: the organization's sources, by name."""
    gateway, caller = gateway_of(request)
    found: SourceList = await gateway.bus.ask(ListSources(org=caller.org, page=page_of(request)))
    return json_response({"items": [_shown(gateway, view) for view in found.items], "next_cursor": found.next_cursor})


async def get_source(request: web.Request) -> web.Response:
    """GET: one source, by name or id."""
    gateway, caller = gateway_of(request)
    view = await _there(gateway, caller, request.match_info["name"])
    return entity(_shown(gateway, view), view.version)


@audited("source", "put", "name")
async def put_source(request: web.Request) -> web.Response:
    """PUT: create or replace; secrets that are not given stay as they are, those that are null are forgotten."""
    gateway, caller = gateway_of(request)
    name = request.match_info["name"]
    body: SourceBody = fitted(await object_of(request), SourceBody)
    expected = await expected_of(request, lambda: _named(gateway, caller, name))
    view = await _put(gateway, caller, name, body, expected)
    return entity(_shown(gateway, view), view.version)


@audited("source", "create")
async def create_source(request: web.Request) -> web.Response:
    """POST: create only; `name` stands in the body. 409 when there is one of that name."""
    gateway, caller = gateway_of(request)
    name, given = await named_object_of(request)
    note(request, target=name)
    with creating("source", name):
        view = await _put(gateway, caller, name, fitted(given, SourceBody), 0)
    return entity(_shown(gateway, view), view.version, status=201, location=f"/api/v1/sources/{view.id}")


@audited("source", "patch", "name")
async def patch_source(request: web.Request) -> web.Response:
    """PATCH: change what is given; a setting that is null is removed, secrets that are not given stay."""
    gateway, caller = gateway_of(request)
    given = await object_of(request)
    present = await _there(gateway, caller, request.match_info["name"])
    await checked(request, lambda: _named(gateway, caller, present.name))
    settings = given.pop("settings", None) or {}
    body: SourceBody = fitted(
        {"adapter": present.adapter, "enabled": present.enabled, "integration": present.integration}
        | given
        | {"settings": settings},
        SourceBody,
    )
    if body.adapter == present.adapter:
        forgotten = {name: None for name in present.secrets if settings.get(name, "") is None}
        body = msgspec.structs.replace(body, settings=merged(present.settings, settings) | forgotten)
    view = await _put(gateway, caller, present.name, body, present.version)
    return entity(_shown(gateway, view), view.version)


@audited("source", "delete", "name")
async def delete_source(request: web.Request) -> web.Response:
    """DELETE: retire it; its address answers 410 from now on."""
    gateway, caller = gateway_of(request)
    view = await _there(gateway, caller, request.match_info["name"])
    expected = await expected_of(request, lambda: _named(gateway, caller, view.name))
    await gateway.bus.ask(RemoveSource(id=new_id(), org=caller.org, actor=caller.actor, name=view.name, expected=expected))
    return nothing()


async def _put(gateway: Gateway, caller: Caller, name: str, body: SourceBody, expected: int | None) -> SourceView:
    adapter = await gateway.adapters.named(caller.org, body.adapter)
    given = split_secrets(adapter, body.settings)
    command = new_id()
    sealed = {setting: gateway.keyring.seal(value, caller.org, command, setting) for setting, value in given.secrets.items()}
    view: SourceView = await gateway.bus.ask(
        PutSource(
            id=command,
            org=caller.org,
            actor=caller.actor,
            name=name,
            adapter=body.adapter,
            settings=given.open,
            sealed=sealed,
            dropped=given.dropped,
            enabled=body.enabled,
            integration=body.integration,
            expected=expected,
        )
    )
    return view


async def _named(gateway: Gateway, caller: Caller, name: str) -> SourceView | None:
    found: SourceList = await gateway.bus.ask(ListSources(org=caller.org, name=name))
    return found.items[0] if found.items else None


async def _there(gateway: Gateway, caller: Caller, name_or_id: str) -> SourceView:
    view = await _named(gateway, caller, name_or_id)
    if view is None:
        entry = gateway.admission.entry(name_or_id)
        if entry is not None and entry.org == caller.org:
            view = await _named(gateway, caller, entry.name)
    if view is None:
        raise NotFound(f"there is no source {name_or_id!r}")
    return view


def _shown(gateway: Gateway, view: SourceView) -> dict[str, Any]:
    shown = plain(view)
    path = shown.pop("path")
    return shown | {"url": path and gateway.public_url + path}


ROUTES = [
    web.get("/sources", list_sources),
    web.post("/sources", create_source),
    web.get("/sources/{name}", get_source),
    web.put("/sources/{name}", put_source),
    web.patch("/sources/{name}", patch_source),
    web.delete("/sources/{name}", delete_source),
]
