"""Authenticates callers, by key or by session, authorizes them by their role, and records denied attempts."""

from __future__ import annotations

import re
from collections.abc import Mapping

import msgspec
from aiohttp import web

from services.gateway.api.endpoint import Endpoint
from services.gateway.api.origins import check_origin
from services.gateway.domain import bearer, remote_of
from services.gateway.parts import Gateway
from services.gateway.peers import Peer, neighbourhood
from services.gateway.principals import Principal, is_at_least
from services.gateway.sessions import Session, is_csrf_of
from shared.errors import NotFound, PermissionDenied, Unauthenticated
from shared.http import problem_of
from shared.messages import Audited
from shared.organizations import PLATFORM
from shared.values import storable

# Shown with every change by a session: bound to it, and known to no page of another origin.
CSRF = "X-Millrace-CSRF"
COOKIE = "millrace-session"
# Behind HTTPS: its name says that no other host has set it.
HOST_COOKIE = f"__Host-{COOKIE}"
_VALUE = re.compile(r"[A-Za-z0-9_-]{43}")
_SAFE = frozenset({"GET", "HEAD"})


class Caller(msgspec.Struct, frozen=True):
    """A caller: `actor` as audits name it, from the address `remote`, acting for `org` (`*`: all organizations).

    `is_platform`: by a role in `global`. `principal`: where it is known who calls; `session`: of a user who does from a browser.
    """

    actor: str
    org: str
    remote: str | None
    is_platform: bool = False
    principal: Principal | None = None
    session: Session | None = None


def remote(gateway: Gateway, request: web.Request) -> str | None:
    """Return the address that is asking, past trusted proxies."""
    if not gateway.trusted_proxies:
        return request.remote
    return remote_of(request.remote, request.headers.getall("X-Forwarded-For", ()), gateway.trusted_proxies)


def address(gateway: Gateway, request: web.Request) -> str | None:
    """Return the address that shares and bounds count, None where it stands for many."""
    return neighbourhood(remote(gateway, request), gateway.trusted_proxies)


async def authenticated(gateway: Gateway, request: web.Request) -> Principal | Session | None:
    """Return the caller whose key a request has, else the session of its cookie, or None once the attempt is recorded.

    Raises `Unavailable` where the key may be one that is not known here yet, or sessions cannot be looked up,
    `PermissionDenied` for what a page of another origin has a browser send, and `TooMany` for an address that shows nothing that
    counts too often.
    """
    # Whatever a client sends for authorization is a key: a cookie, which a browser sends by itself, does not count beside it.
    by_cookie = cookie_of(gateway, request) if "Authorization" not in request.headers else None
    found: Principal | Session | None = None
    if by_cookie is not None:
        found = await _by_session(gateway, request, by_cookie)
        is_over = found is not None and found.is_over
    else:
        given = bearer(request.headers.get("Authorization"))
        found = None if given is None else gateway.keys.identify(given)
        is_over = found is not None and gateway.keys.is_over(found)
    if found is not None and not is_over:
        if isinstance(request.protocol, Peer):
            request.protocol.known = True
        return found
    caller = found.principal if isinstance(found, Session) else found
    what = "key" if by_cookie is None else "session"
    had = by_cookie is not None or bearer(request.headers.get("Authorization")) is not None
    denied(
        gateway,
        request,
        "unknown" if caller is None else caller.actor,
        org=PLATFORM if caller is None else caller.org,
        outcome=Unauthenticated.kind,
        reason=f"{'expired' if is_over else 'unknown' if had else 'no'}_{what}",
    )
    gateway.strangers.take(address(gateway, request))
    return None


def cookie_of(gateway: Gateway, request: web.Request) -> str | None:
    """Return the value of a session's cookie, None where there is none that could be."""
    found = request.cookies.get(cookie_name(gateway), "")
    return found if _VALUE.fullmatch(found) else None


def cookie_name(gateway: Gateway) -> str:
    """Return the name of the cookie of a session."""
    return HOST_COOKIE if gateway.public_url.startswith("https:") else COOKIE


async def _by_session(gateway: Gateway, request: web.Request, value: str) -> Session | None:
    """Return the session of a cookie. Raises `PermissionDenied` for what its own pages did not send, once it is recorded."""
    found = await gateway.sessions.find(value)
    try:
        check_origin(gateway, request, strict=request.method not in _SAFE)
        token = request.headers.get(CSRF, "")
        if request.method not in _SAFE and not is_csrf_of(value, token):
            raise PermissionDenied(f"a change by a session takes its token in {CSRF}: GET /api/v1/me tells it")
    except PermissionDenied as error:
        actor, org = ("unknown", PLATFORM) if found is None else (found.principal.actor, found.principal.org)
        denied(gateway, request, actor, org=org, outcome=error.kind, reason="csrf")
        raise
    return found


def check_form(gateway: Gateway, request: web.Request, value: str, token: str) -> None:
    """Raise `PermissionDenied` for a form that no page of the session with this cookie sent; `token` is what it shows."""
    check_origin(gateway, request, strict=True)
    if not is_csrf_of(value, token):
        raise PermissionDenied("this form is not of this page: open it again")


def authorize(principal: Principal, endpoint: Endpoint, org: str, path: Mapping[str, str]) -> None:
    """Decide whether a caller may call an endpoint for an organization, with these parts of its path: the one place that does.

    Who has no role in an organization does not learn of it: raises `NotFound`. Raises `PermissionDenied` for less than the
    endpoint's role, for what is the platform's, for what none of a key's scopes names, for what is for users alone, and to keys
    for NATS.
    """
    if principal.nats:
        raise PermissionDenied("this key is for NATS alone")
    if endpoint.own is not None:
        if endpoint.own == "user" and not principal.is_user:
            raise PermissionDenied("this is for users who have signed in, and not for keys")
        return
    role = principal.role_in(PLATFORM if endpoint.platform else org)
    if role is None and endpoint.platform:
        raise PermissionDenied(f"this takes a role in {PLATFORM}")
    if role is None:
        nowhere = "" if principal.roles else ", and you have no role in any: ask for an invitation"
        raise NotFound(f"there is no organization {org[:80]!r}{nowhere}")
    if endpoint.role is None or not is_at_least(role, endpoint.role):
        raise PermissionDenied(f"this takes the role {endpoint.role} in {org}, and not {role}")
    if not principal.scopes or endpoint.delegates:
        return
    if endpoint.whole:
        raise PermissionDenied("this takes a key without scopes")
    if not set(principal.scopes).intersection(wanted := endpoint.scopes(path)):
        raise PermissionDenied(f"this takes a key with the scope {' or '.join(wanted)}, or one without scopes")


def denied(gateway: Gateway, request: web.Request, actor: str, *, org: str, outcome: str, reason: str) -> None:
    """Record an attempt that was denied, in the background."""
    whence = remote(gateway, request)
    gateway.trail.refused(
        Audited(
            category="access",
            verb="denied",
            actor=actor,
            target=whence or "",
            outcome=outcome,
            remote=whence,
            detail={"method": request.method, "path": storable(request.path)[:200], "reason": reason},
        ),
        org=org,
    )


def challenge(request: web.Request) -> web.Response:
    """Answer a request without a key that is known."""
    with_key = bearer(request.headers.get("Authorization")) is not None
    with_cookie = not with_key and not {COOKIE, HOST_COOKIE}.isdisjoint(request.cookies)
    reason = (
        "this key is not known, was revoked, or is over"
        if with_key
        else "this session has ended: sign in again"
        if with_cookie
        else "send the key as `Authorization: Bearer mr_…`, or sign in"
    )
    answer = problem_of(Unauthenticated(reason))
    answer.headers["WWW-Authenticate"] = 'Bearer realm="millrace"' + (', error="invalid_token"' if with_key else "")
    return answer
