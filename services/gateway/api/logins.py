"""/api/v1/logins: a device is given a key once a person allows it elsewhere (RFC 8628); and a key of that kind ends itself."""

from __future__ import annotations

import contextlib
from datetime import timedelta
from typing import Annotated, Any, Literal

import msgspec
from aiohttp import web

from services.gateway.api.access import address, remote
from services.gateway.api.endpoint import Audit, Call, Endpoint, Example, Header, Reply, Role, endpoint
from services.gateway.api.resources import check_known
from services.gateway.domain import org_of
from services.gateway.logins import PACE, SECONDS, Login, Polled
from services.gateway.parts import Gateway
from services.gateway.principals import Principal, lesser
from shared.envelope import new_id, rfc3339
from shared.errors import Conflict, NotFound, TooMany
from shared.http import PROBLEM_JSON
from shared.messages import Audited
from shared.questions.resources import PutResource, RemoveResource, of
from shared.resources.declaration import about
from shared.resources.shapes import Moment
from shared.values import Opaque

DAY = 86_400
PAGE = "/device"
ORG = Header("X-Millrace-Org", "The organization whose key is asked for; else that of who allows it.")
Host = Annotated[
    str,
    msgspec.Meta(pattern=r"\A[A-Za-z0-9][A-Za-z0-9._-]{0,62}\Z"),
    about("The name of the machine, for who allows it: nobody checks it."),
]


class Asking(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What a device asks for."""

    host: Host
    role: Annotated[Role | None, about("The most that its key may do; else what the one who allows it may.")] = None
    lifetime: Annotated[int, msgspec.Meta(ge=60, le=366 * DAY), about("Seconds for which the key counts.")] = 30 * DAY


class Begun(msgspec.Struct, frozen=True, kw_only=True):
    """A sign-in that waits for a person, as RFC 8628, section 3.2, has it."""

    device_code: str
    user_code: str
    verification_uri: str
    verification_uri_complete: str
    expires_in: int
    interval: int


class Polling(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A device that asks whether it was allowed."""

    device_code: Opaque


class GivenKey(msgspec.Struct, frozen=True, kw_only=True):
    """The key of a device. This answer alone has it."""

    key: str
    name: str
    org: str
    role: Role
    expires_at: Moment


class NotGranted(msgspec.Struct, frozen=True, kw_only=True):
    """Why a device has no key: a problem document with the `error` of RFC 8628. After `interval` seconds it asks again.

    A request that cannot be read has no `error`.
    """

    detail: str
    error: Literal["authorization_pending", "slow_down", "access_denied", "expired_token", "invalid_grant"] | None = None
    interval: int | None = None
    type: str = "about:blank"
    title: str = "Not granted"
    status: int = 400


class AskedLogin(msgspec.Struct, frozen=True, kw_only=True):
    """What a device asks for, and what it would be given by who looks; once it is decided, what was given."""

    host: Annotated[str, about("What the device says of itself: nobody has checked it.")]
    address: Annotated[str | None, about("Where it asked from.")]
    org: str
    role: Role
    lifetime: int
    name: Annotated[str, about("The name of the key.")]
    state: Literal["pending", "approved", "denied", "granted"]
    asked_at: Moment
    ends_at: Moment


class Allowing(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What the device is allowed, where that is less than it asks for."""

    role: Annotated[Role | None, about("The most that the key may do.")] = None


@endpoint("POST", "/api/v1/logins", role=None, headers=(ORG,), errors=(TooMany,), example=Example(body={"host": "build-7"}))
async def begin_login(call: Call[None, Asking]) -> Begun:
    """Ask for a key: a person who enters `user_code` at `verification_uri`, or approves it by an administrator's key, allows it.

    Until then, and for ten minutes, `POST /api/v1/logins/token` says whether they have.
    """
    gateway, asked = call.gateway, call.body
    named = call.request.headers.get(ORG.name)
    whence = address(gateway, call.request)
    with gateway.visitors.one(whence):
        codes = await gateway.logins.ask(
            host=asked.host,
            address=remote(gateway, call.request),
            neighbourhood=whence,
            org=None if named is None else org_of(named),
            role=asked.role,
            lifetime=asked.lifetime,
        )
    page = gateway.public_url + PAGE
    return Begun(
        device_code=codes.device,
        user_code=codes.user,
        verification_uri=page,
        verification_uri_complete=f"{page}?code={codes.user}",
        expires_in=SECONDS,
        interval=PACE,
    )


@endpoint(
    "POST",
    "/api/v1/logins/token",
    role=None,
    answers={200: GivenKey, 400: Reply(NotGranted, media=PROBLEM_JSON)},
    errors=(TooMany, Conflict),
    example=Example(body={"device_code": "pTmJ9gNQZ2vXHn5-4iYJr0mH7rJ3Wb8d5q7bq1fD1aE"}, status=400),
)
async def poll_login(call: Call[None, Polling]) -> GivenKey | web.Response:
    """Give a device the key that it was allowed, once. Who shows its code again afterwards ends that key."""
    gateway, device = call.gateway, call.body.device_code
    with gateway.logins.devices.one(address(gateway, call.request)):
        polled = await gateway.logins.poll(device)
        if polled is None:
            return _refused(NotGranted(error="invalid_grant", detail="no sign-in has this code"))
        if (why := _why_not(polled)) is not None:
            return _refused(why)
        if polled.login.state == "granted":
            await _end(call, polled.login)
            return _refused(NotGranted(error="invalid_grant", detail="this code was used before: the key that it gave is revoked"))
        given = await _give(call, polled.login, device)
        await gateway.logins.granted(polled.login)
    return given


@endpoint("GET", "/api/v1/logins/{code}", role="admin", whole=True, errors=(NotFound, TooMany))
async def show_login(call: Call[None, None]) -> AskedLogin:
    """Show who asks for a key by a code, and what they would be given."""
    return _shown(await _seen(call))


@endpoint(
    "POST",
    "/api/v1/logins/{code}/approve",
    role="admin",
    whole=True,
    errors=(NotFound, Conflict, TooMany),
    audit=Audit("login", "approve"),
    example=Example(body={"role": "operator"}),
)
async def approve_login(call: Call[None, Allowing]) -> AskedLogin:
    """Allow a device a key: of the role that it asks for, at most that of who allows it, and at most the given one."""
    return await _decided(call, "approved", call.body.role)


@endpoint(
    "POST",
    "/api/v1/logins/{code}/deny",
    role="admin",
    whole=True,
    errors=(NotFound, Conflict, TooMany),
    audit=Audit("login", "deny"),
)
async def deny_login(call: Call[None, None]) -> AskedLogin:
    """Deny a device a key."""
    return await _decided(call, "denied")


@endpoint(
    "POST",
    "/api/v1/logout",
    role="viewer",
    own="caller",
    answers={204: None},
    errors=(Conflict,),
    audit=Audit("login", "end"),
    example=Example(status=409),
)
async def end_login(call: Call[None, None]) -> None:
    """Revoke the key that calls, where it was made by a sign-in of the command."""
    principal = _principal(call)
    entry = None if principal.id is None else call.gateway.keys.get(principal.id)
    if entry is None or entry.value is None or entry.value.spec.login is None:
        raise Conflict("this key was not made by a sign-in: an administrator revokes it")
    call.note(target=entry.value.name)
    removing = of(RemoveResource, "key", id=new_id(), org=principal.org, actor=principal.actor, name=entry.value.id, expected=None)
    await call.ask(removing)
    check_known(call, is_known=await call.gateway.keys.reflect(entry.value.id, None))


class SeenLogin(msgspec.Struct, frozen=True):
    """A sign-in as somebody sees it who may decide about it: where its key would be, and what it might do there."""

    login: Login
    org: str
    role: Role


async def seen(gateway: Gateway, principal: Principal, code: str, org: str, most: Role | None = None) -> SeenLogin:
    """Return the sign-in of a code, for who would give it a key of `org` where it asks for none. Raises `NotFound`, `TooMany`.

    Nobody learns of one that asks for a key of an organization where they have no role.
    """
    # Two organizations may have a key of the same name.
    gateway.logins.look(principal.id or principal.actor)
    found = await gateway.logins.find(code)
    org = found.org or org
    if (role := principal.role_in(org)) is None:
        raise NotFound(f"no sign-in has this code in an organization of yours, or its {SECONDS // 60} minutes are over")
    return SeenLogin(found, org, lesser(lesser(role, found.role), most))


async def decide(gateway: Gateway, principal: Principal, seen: SeenLogin, code: str, state: Literal["approved", "denied"]) -> Login:
    """Allow or deny a sign-in as it was seen. Raises `NotFound`, and `Conflict` where somebody else was first."""
    gateway.removing.check(seen.org)
    user_id = principal.id if principal.is_user else principal.user
    return await gateway.logins.decide(code, state, org=seen.org, role=seen.role, actor=principal.actor, user_id=user_id)


async def _seen(call: Call[Any, Any], most: Role | None = None) -> SeenLogin:
    found = await seen(call.gateway, _principal(call), call.path["code"], call.caller.org, most)
    # It is recorded where the key will be.
    call.caller = msgspec.structs.replace(call.caller, org=found.org)
    call.note(target=found.login.name, host=found.login.host, address=found.login.address, role=found.role)
    return found


async def _decided(call: Call[Any, Any], state: Literal["approved", "denied"], most: Role | None = None) -> AskedLogin:
    found = await _seen(call, most)
    done = await decide(call.gateway, _principal(call), found, call.path["code"], state)
    return _shown(msgspec.structs.replace(found, login=done))


def _principal(call: Call[Any, Any]) -> Principal:
    if call.caller.principal is None:
        raise TypeError("this endpoint is for callers who are known, and does not say so")
    return call.caller.principal


def _shown(seen: SeenLogin) -> AskedLogin:
    login = seen.login
    return AskedLogin(
        host=login.host,
        address=login.address,
        org=seen.org,
        role=seen.role,
        lifetime=login.lifetime,
        name=login.name,
        state=login.state,
        asked_at=rfc3339(login.asked_at),
        ends_at=rfc3339(login.ends_at),
    )


def _why_not(polled: Polled) -> NotGranted | None:
    if polled.login.state == "denied":
        return NotGranted(error="access_denied", detail="the sign-in was denied")
    if polled.login.state == "granted":
        return None
    if polled.is_over:
        return NotGranted(error="expired_token", detail="nobody has allowed the sign-in in time: begin anew")
    if polled.login.state == "approved":
        return None
    if polled.is_fast:
        return NotGranted(error="slow_down", detail="asked too often", interval=polled.pace)
    return NotGranted(error="authorization_pending", detail="nobody has allowed the sign-in yet", interval=polled.pace)


def _refused(why: NotGranted) -> web.Response:
    return web.Response(body=msgspec.json.encode(why), status=why.status, content_type=PROBLEM_JSON)


async def _give(call: Call[Any, Any], login: Login, device: str) -> GivenKey:
    """Make the key that a device was allowed; made again it is the same command, and the same key."""
    gateway, key = call.gateway, call.gateway.logins.key(device)
    org, role, actor, decided = login.org, login.role, login.actor, login.decided_at
    assert org is not None and role is not None and actor is not None and decided is not None  # noqa: S101, PT018 - it is approved
    gateway.removing.check(org)
    expires_at = rfc3339(decided + timedelta(seconds=login.lifetime))
    whence = f"{login.host} at {login.address}"
    command = of(
        PutResource,
        "key",
        id=login.id,
        org=org,
        actor=actor,
        name=login.name,
        fields={"role": role, "scopes": [], "expires_at": expires_at},
        internal={"digest": key.digest, "prefix": key.prefix, "login": whence, "user": login.user_id},
        expected=0,
    )
    shown = await call.ask(command)
    await gateway.keys.reflect(shown.fields["id"], shown.version)
    await _record(call, login, org, "create", {"login": whence, "role": role})
    return GivenKey(key=key.text, name=login.name, org=org, role=role, expires_at=expires_at)


async def _end(call: Call[Any, Any], login: Login) -> None:
    """Revoke the key of a device whose code was shown twice: two have it (RFC 6749, section 10.5)."""
    org = login.org
    assert org is not None  # noqa: S101 - it was granted
    with contextlib.suppress(NotFound):
        await call.ask(of(RemoveResource, "key", id=new_id(), org=org, actor=str(login.actor), name=login.name, expected=None))
        await _record(call, login, org, "delete", {"reason": "the code of its sign-in was used twice"})


async def _record(call: Call[Any, Any], login: Login, org: str, verb: str, detail: dict[str, Any]) -> None:
    said = Audited(
        category="key",
        verb=verb,
        actor=str(login.actor),
        target=login.name,
        outcome="ok",
        remote=call.caller.remote,
        detail=detail,
    )
    await call.gateway.trail.publish(said, org=org)


ENDPOINTS: tuple[Endpoint, ...] = (begin_login, poll_login, show_login, approve_login, deny_login, end_login)
