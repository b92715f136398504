"""Connections beyond what every resource has: known providers, a person's authorization, another token."""

from __future__ import annotations

from html import escape
from typing import Any

import msgspec
from aiohttp import web

from services.gateway.api.endpoint import Audit, Call, Endpoint, Example, Reply, endpoint
from services.gateway.api.reference import POLICY
from shared.envelope import new_id
from shared.errors import Conflict, NotFound
from shared.questions.oauth import (
    AuthorizationBegun,
    AuthorizationEnded,
    AuthorizationView,
    BeginAuthorization,
    ConnectionTested,
    FinishAuthorization,
    GetAuthorization,
    KnownProviderView,
    ListKnownProviders,
    RefreshConnection,
    TryConnection,
)
from shared.questions.resources import GetResource, of
from shared.resources import KINDS
from shared.values import Opaque, Words

CALLBACK = "/oauth/callback"
_CONNECTION: Any = KINDS["connection"].shown


class KnownProviderList(msgspec.Struct, frozen=True):
    """All known providers."""

    items: list[KnownProviderView]
    next_cursor: None = None


class CameBack(msgspec.Struct, frozen=True, kw_only=True):
    """What a provider gives a person's browser along (RFC 6749, section 4.1.2, and RFC 9207)."""

    state: Opaque = ""
    code: Opaque | None = None
    iss: Words | None = None
    error: Words | None = None


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
async def authorize_connection(call: Call[None, None]) -> AuthorizationBegun:
    """Return the address where a person allows the connection, within ten minutes.

    They come back to `/oauth/callback`, or, for a device, enter the code there.
    """
    caller = call.caller
    redirect = call.gateway.public_url + CALLBACK
    return await call.ask(
        BeginAuthorization(id=new_id(), org=caller.org, actor=caller.actor, name=call.path["name"], redirect=redirect)
    )


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


@endpoint("GET", CALLBACK, role=None, answers={200: Reply(str, media="text/html")})
async def finish_authorization(call: Call[CameBack, None]) -> web.Response:
    """Take what a provider's answer brings, once, and show the person what became of it."""
    query, id_ = call.query, new_id()
    code = None if query.code is None else call.gateway.keyring.seal(query.code, call.caller.org, id_, "code")
    ended = await call.ask(
        FinishAuthorization(
            id=id_,
            org=call.caller.org,
            actor=call.caller.actor,
            state=query.state,
            redirect=call.gateway.public_url + CALLBACK,
            sealed_code=code,
            iss=query.iss,
            error=query.error,
        )
    )
    return web.Response(
        text=_page(ended),
        content_type="text/html",
        headers={
            "Content-Security-Policy": POLICY,
            "X-Content-Type-Options": "nosniff",
            "Referrer-Policy": "no-referrer",
            "Cache-Control": "no-store",
        },
    )


_STYLE = "body{font:1.1rem/1.5 system-ui,sans-serif;max-width:36rem;margin:4rem auto;padding:0 1rem}"


def _page(ended: AuthorizationEnded) -> str:
    of_it = "" if ended.name is None else f" {ended.name!r} of {ended.org!r}"
    title = "Connected" if ended.reason is None else "Not connected"
    words = f"The connection{of_it} is authorized. You can close this page."
    if ended.reason is not None:
        again = (
            "" if ended.name is None else f" To try again, begin anew where you began: millrace connections authorize {ended.name}"
        )
        words = f"The connection{of_it} is not authorized: {ended.reason}.{again}"
    return (
        '<!doctype html><html lang="en"><meta charset="utf-8"><meta name="viewport" content="width=device-width">'
        f"<title>{title}</title><style>{_STYLE}</style><h1>{title}</h1><p>{escape(words)}</p></html>"
    )


ENDPOINTS: tuple[Endpoint, ...] = (
    list_known_providers,
    authorize_connection,
    get_authorization,
    refresh_connection,
    test_connection,
    finish_authorization,
)
