"""Who is asking, for which organization, and the audit of what they do."""

from __future__ import annotations

import asyncio
import functools
import hashlib
import hmac
from collections.abc import Awaitable, Callable
from typing import Any

import msgspec
from aiohttp import web

from services.gateway.domain import EVERY_ORG, bearer, org_of, remote_of
from services.gateway.parts import GATEWAY, Gateway
from services.gateway.peers import Peer, neighbourhood
from shared.errors import MillraceError, NotFound, Unauthenticated
from shared.http import TAKE, Next, problem, problem_of
from shared.messages import Audited
from shared.messages.declaration import KEY
from shared.values import check, storable

ACTOR = "platform-key"


class Caller(msgspec.Struct, frozen=True):
    """Who is asking: `actor` as audits name them, from the address `remote`, meaning the things of `org` (`*`: everybody's)."""

    actor: str
    org: str
    remote: str | None


class Action(msgspec.Struct, frozen=True):
    """What a handler does, for the audit; `target` names the part of its path that says to what."""

    category: str
    verb: str
    target: str | None


CALLER = web.RequestKey("caller", Caller)
NOTES: web.RequestKey[dict[str, str]] = web.RequestKey("notes", dict)
ACTION = web.RequestKey("action", Action)
SAYING: web.RequestKey[asyncio.Task[None]] = web.RequestKey("saying")
Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


def remote(gateway: Gateway, request: web.Request) -> str | None:
    """Return the address that is asking, past trusted proxies."""
    if not gateway.trusted_proxies:
        return request.remote
    return remote_of(request.remote, request.headers.getall("X-Forwarded-For", ()), gateway.trusted_proxies)


def address(gateway: Gateway, request: web.Request) -> str | None:
    """Return the address that shares and bounds count, None where it stands for many."""
    return neighbourhood(remote(gateway, request), gateway.trusted_proxies)


@web.middleware
async def access(request: web.Request, handler: Next) -> web.StreamResponse:
    """Let only the holder of the platform key through, and say for whom they ask."""
    gateway = request.config_dict[GATEWAY]
    whence = remote(gateway, request)
    given = bearer(request.headers.get("Authorization"))
    known = given is not None and hmac.compare_digest(_digest(given), gateway.key_hash)
    if not known:
        reason = "no_key" if given is None else "unknown_key"
        gateway.trail.refused(
            Audited(
                category="access",
                verb="denied",
                actor="unknown",
                target=whence or "",
                outcome="unauthenticated",
                remote=whence,
                detail={"method": request.method, "path": storable(request.path)[:200], "reason": reason},
            ),
            org="global",
        )
        return _challenge(with_key=given is not None)
    if request.headers.get("Content-Encoding", "identity").lower() != "identity":
        return problem(415, "Unsupported media type", "bodies are not to be compressed")
    for name, value in (*request.match_info.items(), *request.query.items()):
        check(name, "the query string")
        check(value, name)
    named = request.query.get("org", request.headers.get("X-Millrace-Org"))
    org = EVERY_ORG if named == EVERY_ORG and request.method == "GET" and searches(request) else org_of(named)
    request[CALLER] = Caller(ACTOR, org, whence)
    if isinstance(request.protocol, Peer):
        request.protocol.known = True
    with gateway.room.hold(org=org, address=address(gateway, request)) as held:
        request[TAKE] = held.take
        return await handler(request)


def audited(category: str, verb: str, target: str | None = None) -> Callable[[Handler], Handler]:
    """Record every call of the handler below with what it notes.

    `target` names the part of its path that says what is changed; without one the handler notes `target` itself.
    """

    def decorate(handler: Handler) -> Handler:
        @functools.wraps(handler)
        async def recorded(request: web.Request) -> web.StreamResponse:
            request[ACTION] = Action(category, verb, target)
            outcome = "error"
            try:
                response = await handler(request)
                outcome = "ok"
            except MillraceError as error:
                outcome = error.kind
                raise
            finally:
                await _say(request, outcome)
            return response

        recorded.audited = True  # type: ignore[attr-defined]
        return recorded

    return decorate


def note(request: web.Request, **fields: str) -> None:
    """Add to what the audit of this request will say."""
    request[NOTES] = request.get(NOTES, {}) | fields


def done(request: web.Request) -> None:
    """Have the audit say from now on that what was asked for is done: that the answer takes longer is no part of it."""
    _say(request, "ok")


def _say(request: web.Request, outcome: str) -> asyncio.Task[None]:
    """Begin to record the request's action, once; returns what has recorded it when it is done."""
    if SAYING not in request:
        action, caller, detail = request[ACTION], request[CALLER], request.get(NOTES, {})
        named = request.match_info[action.target] if action.target else detail.pop("target", "")
        said = Audited(
            category=action.category,
            verb=action.verb,
            actor=caller.actor,
            target=storable(named)[:500],
            outcome=outcome,
            remote=caller.remote,
            detail=detail,
        )
        request[SAYING] = asyncio.create_task(request.config_dict[GATEWAY].trail.say(said, org=caller.org))
    return request[SAYING]


def searches(request: web.Request) -> bool:
    """Return whether a request is one of those that may look at all organizations at once."""
    return getattr(request.match_info.handler, "searches", False)


def every_org(handler: Handler) -> Handler:
    """Allow `?org=*` for the handler below."""
    handler.searches = True  # type: ignore[attr-defined]
    return handler


def gateway_of(request: web.Request) -> tuple[Gateway, Caller]:
    """Return the parts, and who is asking."""
    return request.config_dict[GATEWAY], request[CALLER]


def meaning(request: web.Request, org: str) -> tuple[Gateway, Caller]:
    """Return the parts, and who is asking, where the path names the organization that is meant; its audit is that one's too.

    The platform key means anybody. Raises `NotFound` for an organization that is not the caller's, or can be nobody.
    """
    caller = request[CALLER]
    if not KEY.match(org) or (caller.actor != ACTOR and caller.org != org):
        raise NotFound(f"there is no organization {org[:80]!r}")
    request[CALLER] = msgspec.structs.replace(caller, org=org)
    return gateway_of(request)


async def ask(request: web.Request, asked: msgspec.Struct) -> Any:
    """Ask a question or give a command; returns the declared answer."""
    return await request.config_dict[GATEWAY].bus.ask(asked)


def _challenge(*, with_key: bool) -> web.Response:
    said = "this key is not known" if with_key else "send the key as `Authorization: Bearer mr_…`"
    answer = problem_of(Unauthenticated(said))
    answer.headers["WWW-Authenticate"] = 'Bearer realm="millrace"' + (', error="invalid_token"' if with_key else "")
    return answer


def _digest(key: str) -> bytes:
    return hashlib.sha256(key.encode(errors="replace")).digest()
