"""/api/v1/sessions: browsers in which users are signed in."""

from __future__ import annotations

from http.cookies import SimpleCookie
from typing import Any

from aiohttp import web

from services.gateway.api.access import cookie_name, remote
from services.gateway.api.endpoint import Answer, Audit, Call, Endpoint, Example, endpoint
from services.gateway.parts import Gateway
from services.gateway.sessions import Ended, OpenedSession, Proof, Session
from services.gateway.users import home_of
from shared.messages import Audited
from shared.organizations import PLATFORM
from shared.resources.user import Method, UserEntry
from shared.trail import Trail

# What a key is told in place of these.
FOR_USERS = Example(status=403)


async def sign_in(
    gateway: Gateway,
    request: web.Request,
    user: UserEntry,
    method: Method,
    response: web.StreamResponse,
    proof: Proof | None = None,
) -> OpenedSession | None:
    """Open a session for a user who has shown to be one, set its cookie in an answer, and record it. Raises `Unavailable`.

    `user` is the entry of before the user was asked to show it: where it has changed since, the session counts for nothing. None
    where the `proof` holds no more; without one there is always a session.
    """
    opened = await gateway.sessions.open(user, method, proof)
    if opened is None:
        return None
    response.headers.add("Set-Cookie", cookie_of(gateway, opened.value))
    await gateway.trail.publish(
        Audited(
            category="session",
            verb="open",
            actor=f"user:{user.name}",
            target=user.name,
            outcome="ok",
            remote=remote(gateway, request),
            detail={"method": method},
        ),
        org=home_of(user),
    )
    return opened


def recorded(trail: Trail) -> Ended:
    """Return what records that a session ended by itself."""

    async def ended(user: UserEntry | None, user_id: str, reason: str) -> None:
        name = user_id if user is None else user.name
        said = Audited(category="session", verb="end", actor=f"user:{name}", target=name, outcome="ok", detail={"reason": reason})
        await trail.publish(said, org=PLATFORM if user is None else home_of(user))

    return ended


def cookie_of(gateway: Gateway, value: str) -> str:
    """Return the header that sets the cookie of a session, or with an empty value takes it away.

    It has no end of its own: that of the session counts, and a browser that is closed forgets it.
    """
    name = cookie_name(gateway)
    made: SimpleCookie = SimpleCookie({name: value})
    # Lax: it is there where a provider or a link leads to a page; what changes anything shows a token besides.
    made[name]["path"], made[name]["httponly"], made[name]["samesite"] = "/", True, "Lax"
    made[name]["secure"] = gateway.public_url.startswith("https:")
    if not value:
        made[name]["max-age"] = 0
    return made[name].OutputString()


def session_of(call: Call[Any, Any]) -> Session:
    """Return the session of a call that is for users alone."""
    if call.caller.session is None:
        raise TypeError("this endpoint is for users, and does not say so")
    return call.caller.session


@endpoint(
    "DELETE",
    "/api/v1/sessions/current",
    role="viewer",
    own="user",
    answers={204: None},
    audit=Audit("session", "end"),
    example=FOR_USERS,
)
async def sign_out(call: Call[None, None]) -> Answer:
    """Sign out: end the session by which this is called."""
    session = session_of(call)
    call.note(target=session.user.name, reason="signed_out")
    await call.gateway.sessions.end(session.principal.digest)
    return signed_out(call)


@endpoint(
    "DELETE",
    "/api/v1/sessions",
    role="viewer",
    own="user",
    answers={204: None},
    audit=Audit("session", "end"),
    example=FOR_USERS,
)
async def sign_out_everywhere(call: Call[None, None]) -> Answer:
    """Sign out everywhere: end all sessions of the user."""
    user = session_of(call).user
    count = await call.gateway.sessions.end_all(user.id)
    call.note(target=user.name, reason="signed_out", count=count)
    return signed_out(call)


def signed_out(call: Call[Any, Any]) -> Answer:
    """Return the answer that takes the cookie of a session away."""
    return Answer(status=204, headers={"Set-Cookie": cookie_of(call.gateway, "")})


ENDPOINTS: tuple[Endpoint, ...] = (sign_out, sign_out_everywhere)
