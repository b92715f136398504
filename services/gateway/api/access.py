"""Authenticates callers, authorizes them by their role, and records denied attempts."""

from __future__ import annotations

import hashlib
import hmac

import msgspec
from aiohttp import web

from services.gateway.api.endpoint import Role
from services.gateway.domain import bearer, remote_of
from services.gateway.parts import Gateway
from services.gateway.peers import Peer, neighbourhood
from shared.errors import PermissionDenied, Unauthenticated
from shared.http import problem_of
from shared.messages import Audited
from shared.values import storable

ACTOR = "platform-key"


class Caller(msgspec.Struct, frozen=True):
    """A caller: `actor` as audits name it, from the address `remote`, acting for `org` (`*`: all organizations)."""

    actor: str
    org: str
    remote: str | None


def remote(gateway: Gateway, request: web.Request) -> str | None:
    """Return the address that is asking, past trusted proxies."""
    if not gateway.trusted_proxies:
        return request.remote
    return remote_of(request.remote, request.headers.getall("X-Forwarded-For", ()), gateway.trusted_proxies)


def address(gateway: Gateway, request: web.Request) -> str | None:
    """Return the address that shares and bounds count, None where it stands for many."""
    return neighbourhood(remote(gateway, request), gateway.trusted_proxies)


def authenticated(gateway: Gateway, request: web.Request) -> str | None:
    """Return the name of the caller whose key a request has, or None once the attempt is recorded."""
    given = bearer(request.headers.get("Authorization"))
    if given is not None and hmac.compare_digest(_digest(given), gateway.key_hash):
        if isinstance(request.protocol, Peer):
            request.protocol.known = True
        return ACTOR
    denied(
        gateway,
        request,
        "unknown",
        org="global",
        outcome=Unauthenticated.kind,
        reason="no_key" if given is None else "unknown_key",
    )
    return None


def authorize(caller: Caller, role: Role | None) -> None:
    """Raise `PermissionDenied` where a caller has less than `role` in the organization that it means.

    Every caller that is known today holds the platform key, which may do everything everywhere.
    """
    if caller.actor != ACTOR:
        raise PermissionDenied(f"this takes the role {role} in {caller.org}")


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
    reason = "this key is not known" if with_key else "send the key as `Authorization: Bearer mr_…`"
    answer = problem_of(Unauthenticated(reason))
    answer.headers["WWW-Authenticate"] = 'Bearer realm="millrace"' + (', error="invalid_token"' if with_key else "")
    return answer


def _digest(key: str) -> bytes:
    return hashlib.sha256(key.encode(errors="replace")).digest()


def authorize_platform(caller: Caller) -> None:
    """Raise `PermissionDenied` unless the caller is an administrator of the platform, whatever organization is meant."""
    authorize(msgspec.structs.replace(caller, org="global"), "admin")
