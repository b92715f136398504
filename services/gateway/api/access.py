"""Authenticates callers, authorizes them by their role, and records denied attempts."""

from __future__ import annotations

from collections.abc import Mapping
from typing import get_args

import msgspec
from aiohttp import web

from services.gateway.api.endpoint import Endpoint, Role
from services.gateway.domain import bearer, remote_of
from services.gateway.identity import Principal
from services.gateway.parts import Gateway
from services.gateway.peers import Peer, neighbourhood
from shared.errors import NotFound, PermissionDenied, Unauthenticated
from shared.http import problem_of
from shared.messages import Audited
from shared.organizations import PLATFORM
from shared.values import storable

# From the least to the most.
ROLES: tuple[Role, ...] = get_args(Role)


class Caller(msgspec.Struct, frozen=True):
    """A caller: `actor` as audits name it, from the address `remote`, acting for `org` (`*`: all organizations).

    `is_platform`: by a key of the platform.
    """

    actor: str
    org: str
    remote: str | None
    is_platform: bool = False


def remote(gateway: Gateway, request: web.Request) -> str | None:
    """Return the address that is asking, past trusted proxies."""
    if not gateway.trusted_proxies:
        return request.remote
    return remote_of(request.remote, request.headers.getall("X-Forwarded-For", ()), gateway.trusted_proxies)


def address(gateway: Gateway, request: web.Request) -> str | None:
    """Return the address that shares and bounds count, None where it stands for many."""
    return neighbourhood(remote(gateway, request), gateway.trusted_proxies)


def authenticated(gateway: Gateway, request: web.Request) -> Principal | None:
    """Return the caller whose key a request has, or None once the attempt is recorded.

    Raises `Unavailable` where the key may be one that is not known here yet.
    """
    given = bearer(request.headers.get("Authorization"))
    found = None if given is None else gateway.keys.identify(given)
    if found is not None and not gateway.keys.is_over(found):
        if isinstance(request.protocol, Peer):
            request.protocol.known = True
        return found
    denied(
        gateway,
        request,
        "unknown" if found is None else found.actor,
        org="global" if found is None else found.org,
        outcome=Unauthenticated.kind,
        reason="no_key" if given is None else "unknown_key" if found is None else "expired_key",
    )
    return None


def authorize(principal: Principal, endpoint: Endpoint, org: str, path: Mapping[str, str]) -> None:
    """Decide whether a key may call an endpoint for an organization, with these parts of its path: the one place that does.

    A key of an organization acts in that one alone, and does not learn of others: raises `NotFound`. Raises `PermissionDenied`
    for less than the endpoint's role, for what is the platform's, and for what none of the key's scopes names.
    """
    if endpoint.platform and not principal.is_platform:
        raise PermissionDenied(f"this takes a key of {PLATFORM}")
    if not principal.is_platform and org != principal.org:
        raise NotFound(f"there is no organization {org[:80]!r}")
    if endpoint.role is None or ROLES.index(principal.role) < ROLES.index(endpoint.role):
        raise PermissionDenied(f"this takes the role {endpoint.role} in {org}, and this key has {principal.role}")
    if not principal.scopes:
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
    reason = "this key is not known, was revoked, or is over" if with_key else "send the key as `Authorization: Bearer mr_…`"
    answer = problem_of(Unauthenticated(reason))
    answer.headers["WWW-Authenticate"] = 'Bearer realm="millrace"' + (', error="invalid_token"' if with_key else "")
    return answer
