"""Connections beyond what every resource has: known providers, a person's authorization, another token."""

from __future__ import annotations

from typing import Any

import msgspec

from services.gateway.api.authorizing import CALLBACK, address_of
from services.gateway.api.endpoint import Audit, Call, Endpoint, Example, endpoint
from shared.envelope import new_id
from shared.errors import Conflict, NotFound
from shared.questions.oauth import (
    AuthorizationView,
    BeginAuthorization,
    ConnectionTested,
    GetAuthorization,
    KnownProviderView,
    ListKnownProviders,
    RefreshConnection,
    TryConnection,
)
from shared.questions.resources import GetResource, of
from shared.resources import KINDS

_CONNECTION: Any = KINDS["connection"].shown


class KnownProviderList(msgspec.Struct, frozen=True):
    """All known providers."""

    items: list[KnownProviderView]
    next_cursor: None = None


class AuthorizationShown(msgspec.Struct, frozen=True, kw_only=True):
    """The address for a person, until `expires_at`. For a device they enter `user_code` there."""

    id: str
    url: str
    expires_at: str
    user_code: str | None = None
    url_with_code: str | None = None


@endpoint("GET", "/api/v1/known-providers", role="viewer")
async def list_known_providers(call: Call[None, None]) -> KnownProviderList:
    """List the providers whose addresses are known, by name, with the documents that they are from."""
    return KnownProviderList(await call.ask(ListKnownProviders(org=call.caller.org)))


@endpoint(
    "POST",
    "/api/v1/connections/{name}/authorize",
    role="developer",
    errors=(NotFound,),
    audit=Audit("connection", "authorize", "name"),
)
async def authorize_connection(call: Call[None, None]) -> AuthorizationShown:
    """Return the address where a person allows the connection, within ten minutes.

    It is good for the browser that opens it first: that one is led to the provider, and comes back to `/oauth/callback`. For a
    device it is the provider's own, where they enter the code.
    """
    caller = call.caller
    redirect = call.gateway.public_url + CALLBACK
    begun = await call.ask(
        BeginAuthorization(id=new_id(), org=caller.org, actor=caller.actor, name=call.path["name"], redirect=redirect)
    )
    shown: dict[str, Any] = msgspec.to_builtins(begun)
    state = shown.pop("state")
    return msgspec.convert(shown if state is None else shown | {"url": address_of(call.gateway, state)}, AuthorizationShown)


@endpoint("GET", "/api/v1/connections/{name}/authorizations/{id}", role="viewer", errors=(NotFound,), example=Example(status=404))
async def get_authorization(call: Call[None, None]) -> AuthorizationView:
    """Return what has become of an authorization, until some minutes after its end."""
    return await call.ask(GetAuthorization(org=call.caller.org, name=call.path["name"], authorization=call.path["id"]))


@endpoint(
    "POST",
    "/api/v1/connections/{name}/refresh",
    role="operator",
    answers={200: _CONNECTION},
    errors=(Conflict, NotFound),
    audit=Audit("connection", "refresh", "name"),
    example=Example(status=409),
)
async def refresh_connection(call: Call[None, None]) -> Any:
    """Get another token now.

    409 where a person has to authorize the connection first, 422 for a credential that is none of a provider, 503 with the reason
    where the provider gives none.
    """
    caller, name = call.caller, call.path["name"]
    await call.ask(RefreshConnection(id=new_id(), org=caller.org, actor=caller.actor, name=name))
    return (await call.ask(of(GetResource, "connection", org=caller.org, name=name))).fields


@endpoint(
    "POST",
    "/api/v1/connections/{name}/test",
    role="operator",
    errors=(NotFound,),
    audit=Audit("connection", "test", "name"),
)
async def test_connection(call: Call[None, None]) -> ConnectionTested:
    """Ask the provider whether the connection's credential works, where it has an address for that."""
    caller = call.caller
    return await call.ask(TryConnection(id=new_id(), org=caller.org, actor=caller.actor, name=call.path["name"]))


ENDPOINTS: tuple[Endpoint, ...] = (
    list_known_providers,
    authorize_connection,
    get_authorization,
    refresh_connection,
    test_connection,
)
