"""Pages for a person's browser: what they are asked to allow, and what became of it. A browser is known by a cookie."""

from __future__ import annotations

import secrets
from html import escape
from typing import Any
from urllib.parse import quote, urlsplit

import msgspec
from aiohttp import web

from services.gateway.api.access import address, denied
from services.gateway.api.endpoint import Call, Endpoint, Reply, endpoint
from services.gateway.api.pages import HEADERS, BrowserCookie, hashed, person_page, refused_page
from services.gateway.parts import Gateway
from shared.envelope import new_id
from shared.errors import MillraceError, NotFound, PermissionDenied, TooMany, Unavailable
from shared.questions.oauth import (
    AuthorizationEnded,
    FinishAuthorization,
    GetAskedAuthorization,
    OpenAuthorization,
)
from shared.values import Opaque, Words

CALLBACK = "/oauth/callback"
OPENED = "/oauth/authorize"
COOKIE = "millrace-authorization"
_BROWSER = BrowserCookie(COOKIE, "/oauth")
_OTHER = AuthorizationEnded(
    reason="it was begun in another browser, or this one keeps no cookies: open the address that the authorization began with here"
)


class Opened(msgspec.Struct, frozen=True, kw_only=True):
    """What the address of an authorization holds."""

    state: Opaque = ""


class CameBack(Opened, frozen=True, kw_only=True):
    """What a provider gives a person's browser along (RFC 6749, section 4.1.2, and RFC 9207)."""

    code: Opaque | None = None
    iss: Words | None = None
    error: Words | None = None


def address_of(gateway: Gateway, state: str) -> str:
    """Return the address where a person is shown what they are asked for."""
    return f"{gateway.public_url}{OPENED}?state={quote(state, safe='')}"


def _ended(ended: AuthorizationEnded) -> web.Response:
    of_it = "" if ended.name is None else f" {ended.name!r} of {ended.org!r}"
    if ended.reason is None:
        return person_page("Connected", f"The connection{of_it} is authorized.", "You can close this page.", kind="well")
    do = "Open the address that the authorization began with in this browser, or have it begun anew by who gave you that address."
    if ended.name is not None:
        do = f"Begin anew where you began: millrace connections authorize {ended.name}"
    return person_page("Not connected", f"The connection{of_it} is not authorized: {ended.reason}.", do, kind="wrong")


def _refused(error: MillraceError) -> web.Response:
    """Return the page of a request that could not be served."""
    first = "Wait a minute, then open" if isinstance(error, TooMany | Unavailable) else "Open"
    do = f"{first} the whole address that the authorization began with once more. Where that is of no use, begin anew."
    return refused_page("Not connected", error, do)


@endpoint("GET", OPENED, role=None, answers={200: Reply(str, media="text/html")}, errors=(TooMany,), page=_refused)
async def show_authorization(call: Call[Opened, None]) -> web.Response:
    """Show a person who asks them for what, and let them go on to the provider. Nothing is begun by this yet."""
    with call.gateway.visitors.one(address(call.gateway, call.request)):
        try:
            asked = await call.ask(GetAskedAuthorization(org=call.caller.org, state=call.query.state))
        except NotFound as error:
            return _ended(AuthorizationEnded(reason=error.detail))
    words = (
        f"{asked.actor} asks you to connect an account of yours at {urlsplit(asked.url).hostname} with the connection "
        f"{asked.name!r} of the organization {asked.org!r}, whose workflows then act there in your name."
    )
    do = "Go on only if you have begun this yourself, or know who has."
    action = f"{OPENED}?state={quote(call.query.state, safe='')}"
    form = f'<form method="post" action="{escape(action)}"><button type="submit">Go on</button></form>'
    page = person_page("Connect an account", words, do, form)
    _BROWSER.give(call.gateway, page, _BROWSER.of(call.gateway, call.request) or secrets.token_urlsafe(32))
    return page


@endpoint(
    "POST",
    OPENED,
    role=None,
    answers={200: Reply(str, media="text/html"), 303: None},
    errors=(TooMany,),
    body_limit=1024,
    page=_refused,
)
async def open_authorization(call: Call[Opened, None]) -> web.Response:
    """Lead the browser to the provider. From then on only this browser can come back."""
    browser = _BROWSER.of(call.gateway, call.request)
    # A page of the same site, such as a neighbouring subdomain, would send the cookie along; browsers say where a form is from.
    if browser is None or call.request.headers.get("Sec-Fetch-Site", "none") not in {"none", "same-origin"}:
        return _denied(call, _OTHER)
    with call.gateway.visitors.one(address(call.gateway, call.request)):
        try:
            opened = await call.ask(
                OpenAuthorization(
                    id=new_id(),
                    org=call.caller.org,
                    actor=call.caller.actor,
                    state=call.query.state,
                    browser=hashed(browser),
                )
            )
        except NotFound as error:
            return _denied(call, AuthorizationEnded(reason=error.detail))
    return web.Response(status=303, headers={**HEADERS, "Location": opened.url})


@endpoint("GET", CALLBACK, role=None, answers={200: Reply(str, media="text/html")}, errors=(TooMany,), page=_refused)
async def finish_authorization(call: Call[CameBack, None]) -> web.Response:
    """Take what a provider's answer brings, once, and show the person what became of it."""
    query, id_, browser = call.query, new_id(), _BROWSER.of(call.gateway, call.request)
    if browser is None:
        return _denied(call, _OTHER)
    code = None if query.code is None else call.gateway.keyring.seal(query.code, call.caller.org, id_, "code")
    with call.gateway.visitors.one(address(call.gateway, call.request)):
        ended = await call.ask(
            FinishAuthorization(
                id=id_,
                org=call.caller.org,
                actor=call.caller.actor,
                state=query.state,
                browser=hashed(browser),
                redirect=call.gateway.public_url + CALLBACK,
                sealed_code=code,
                iss=query.iss,
                error=query.error,
            )
        )
    # One that is of no connection is known to nobody, or is that of another browser.
    return _denied(call, ended) if ended.name is None else _ended(ended)


def _denied(call: Call[Any, Any], ended: AuthorizationEnded) -> web.Response:
    denied(call.gateway, call.request, call.caller.actor, org=call.caller.org, outcome=PermissionDenied.kind, reason="browser")
    return _ended(ended)


ENDPOINTS: tuple[Endpoint, ...] = (show_authorization, open_authorization, finish_authorization)
