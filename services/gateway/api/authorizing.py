"""Pages for a person's browser: what they are asked to allow, and what became of it. A browser is known by a cookie."""

from __future__ import annotations

import hashlib
import math
import re
import secrets
from html import escape
from typing import Any
from urllib.parse import quote, urlsplit

import msgspec
from aiohttp import web

from services.gateway.api.access import address, denied
from services.gateway.api.endpoint import Call, Endpoint, Reply, endpoint
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
# Of the path of both pages. Behind HTTPS its name says that no other host has set it, which takes the path `/`.
COOKIE, COOKIE_PATH = "millrace-authorization", "/oauth"
HOST_COOKIE = f"__Host-{COOKIE}"
SECONDS = 600
_OURS = re.compile(r"[A-Za-z0-9_-]{43}")
# As that of the reference, but for a form, whose answer leads to the provider: browsers hold that against `form-action`.
_POLICY = "default-src 'none'; style-src 'unsafe-inline'; frame-ancestors 'none'; base-uri 'none'"
_STYLE = """
:root { color-scheme: light dark; --of: #666; --at: #2563eb }
body { font: 1.0625rem/1.5 system-ui, sans-serif; margin: 0; padding: 3rem 1rem }
main { max-width: 34rem; margin: auto; padding: .5rem 1.5rem 1rem }
main { border: 1px solid color-mix(in srgb, currentColor 20%, transparent) }
main { border-top: 4px solid var(--at); border-radius: 6px; overflow-wrap: anywhere }
.well { --at: #16a34a } .wrong { --at: #dc2626 }
h1 { font-size: 1.5rem; margin: .25rem 0 1rem; color: var(--at) }
.of { color: var(--of); font-size: .875rem; margin: .75rem 0 0 }
.do { border-left: 3px solid var(--at); padding-left: .75rem }
button { font: inherit; padding: .4rem 1.2rem; cursor: pointer }
"""
_HEADERS = {"Content-Security-Policy": _POLICY}
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
        return _page("Connected", f"The connection{of_it} is authorized.", "You can close this page.", kind="well")
    do = "Open the address that the authorization began with in this browser, or have it begun anew by who gave you that address."
    if ended.name is not None:
        do = f"Begin anew where you began: millrace connections authorize {ended.name}"
    return _page("Not connected", f"The connection{of_it} is not authorized: {ended.reason}.", do, kind="wrong")


def _refused(error: MillraceError) -> web.Response:
    """Return the page of a request that could not be served."""
    first = "Wait a minute, then open" if isinstance(error, TooMany | Unavailable) else "Open"
    do = f"{first} the whole address that the authorization began with once more. Where that is of no use, begin anew."
    page = _page("Not connected", f"This could not be done: {error.detail}.", do, kind="wrong")
    page.set_status(error.status)
    if error.retry_after is not None:
        page.headers["Retry-After"] = str(max(1, math.ceil(error.retry_after)))
    return page


def _page(title: str, words: str, do: str, more: str = "", *, kind: str = "asks") -> web.Response:
    """Return a page: what is so in `words`, what to do then, and HTML that is sent as it is. Text from outside may be in both."""
    text = (
        '<!doctype html><html lang="en"><meta charset="utf-8"><meta name="viewport" content="width=device-width">'
        f'<title>{title} - Millrace</title><style>{_STYLE}</style><main class="{kind}"><p class="of">Millrace</p><h1>{title}</h1>'
        f'<p>{escape(words)}</p><p class="do">{escape(do)}</p>{more}</main></html>'
    )
    return web.Response(text=text, content_type="text/html", headers=_HEADERS)


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
    page = _page("Connect an account", words, do, form)
    secure = _is_secure(call)
    page.set_cookie(
        HOST_COOKIE if secure else COOKIE,
        _browser(call) or secrets.token_urlsafe(32),
        max_age=SECONDS,
        path="/" if secure else COOKIE_PATH,
        httponly=True,
        # Sent where the provider leads back to us, and with no form of another site.
        samesite="Lax",
        secure=secure,
    )
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
    browser = _browser(call)
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
                    browser=_hashed(browser),
                )
            )
        except NotFound as error:
            return _denied(call, AuthorizationEnded(reason=error.detail))
    return web.Response(status=303, headers={**_HEADERS, "Location": opened.url})


@endpoint("GET", CALLBACK, role=None, answers={200: Reply(str, media="text/html")}, errors=(TooMany,), page=_refused)
async def finish_authorization(call: Call[CameBack, None]) -> web.Response:
    """Take what a provider's answer brings, once, and show the person what became of it."""
    query, id_, browser = call.query, new_id(), _browser(call)
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
                browser=_hashed(browser),
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


def _is_secure(call: Call[Any, Any]) -> bool:
    return call.gateway.public_url.startswith("https:")


def _browser(call: Call[Any, Any]) -> str | None:
    found = call.request.cookies.get(HOST_COOKIE if _is_secure(call) else COOKIE, "")
    return found if _OURS.fullmatch(found) else None


def _hashed(browser: str) -> str:
    return hashlib.sha256(browser.encode()).hexdigest()


ENDPOINTS: tuple[Endpoint, ...] = (show_authorization, open_authorization, finish_authorization)
