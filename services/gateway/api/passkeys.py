"""Passkeys: a user makes them, and signs in with one, without a login."""

from __future__ import annotations

from typing import Annotated, Any

import msgspec
from aiohttp import web

from services.gateway.api.access import address, denied
from services.gateway.api.endpoint import Answer, Audit, Call, Endpoint, Example, Reply, endpoint
from services.gateway.api.lists import Object
from services.gateway.api.me import Me
from services.gateway.api.origins import check_origin
from services.gateway.api.sessions import FOR_USERS
from services.gateway.api.sign_in_methods import CredentialView, fresh, shown_credential
from services.gateway.api.signing_in import COOKIE_SET, signed_in
from services.gateway.credentials import UserCredential
from services.gateway.passkeys import shown_by
from services.gateway.sessions import Proof
from services.gateway.users import home_of
from shared.errors import Conflict, NotFound, PermissionDenied, TooMany
from shared.organizations import PLATFORM
from shared.resources.declaration import about
from shared.resources.user import UserEntry
from shared.values import Words

MOST = 20


class Signed(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The answer of a passkey."""

    credential: Annotated[Object, about("AuthenticationResponseJSON of WebAuthn.")]


class NewPasskey(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A passkey that a browser has made."""

    credential: Annotated[Object, about("RegistrationResponseJSON of WebAuthn.")]
    name: Annotated[Words, about("What its owner calls it.")] = ""


@endpoint(
    "POST",
    "/api/v1/sessions/passkey/options",
    role=None,
    errors=(Conflict, TooMany),
    body_limit=1024,
    example=Example(),
)
async def ask_passkey(call: Call[None, None]) -> Object:
    """Say what a passkey is to sign, within five minutes: PublicKeyCredentialRequestOptionsJSON of WebAuthn."""
    with call.gateway.visitors.one(address(call.gateway, call.request)):
        return await call.gateway.passkeys.question()


@endpoint(
    "POST",
    "/api/v1/sessions/passkey",
    role=None,
    answers={200: Reply(Me, headers=(COOKIE_SET,))},
    errors=(PermissionDenied, Conflict, TooMany),
    body_limit=16_384,
    example=Example(body={"credential": {}}, status=403),
)
async def open_session_by_passkey(call: Call[None, Signed]) -> web.Response:
    """Sign in with a passkey: the answer sets the cookie of a session."""
    gateway, user = call.gateway, None
    check_origin(gateway, call.request, strict=False)
    with gateway.visitors.one(address(gateway, call.request)):
        try:
            id_, user_id = shown_by(call.body.credential)
            kept = await gateway.credentials.passkey(id_)
            user = None if kept is None else gateway.users.by_id(kept.user_id)
            if kept is None or user is None or not user.spec.enabled or user_id != user.id:
                raise PermissionDenied("this passkey is not known here, or has not signed what was asked")
            await _counted(call, kept)
        except PermissionDenied as error:
            _record(call, user, error)
            raise
        return await signed_in(call, user, Proof("passkey", kept.id, kept.secret))


@endpoint("POST", "/api/v1/me/passkeys/options", role="viewer", own="user", errors=(Conflict,), example=FOR_USERS)
async def begin_passkey(call: Call[None, None]) -> Object:
    """Say what a browser is to be asked for a new passkey: PublicKeyCredentialCreationOptionsJSON of WebAuthn."""
    user = fresh(call).user
    return await call.gateway.passkeys.creation(user, await call.gateway.credentials.of(user.id))


@endpoint(
    "POST",
    "/api/v1/me/passkeys",
    role="viewer",
    own="user",
    answers={201: CredentialView},
    errors=(Conflict,),
    audit=Audit("user", "create_passkey"),
    body_limit=65_536,
    example=FOR_USERS,
)
async def create_passkey(call: Call[None, NewPasskey]) -> CredentialView:
    """Take a new passkey of the user who calls."""
    user, credentials = fresh(call).user, call.gateway.credentials
    id_, secret, counter = await call.gateway.passkeys.created(user, call.body.credential)
    if sum(one.kind == "passkey" for one in await credentials.of(user.id)) >= MOST:
        raise Conflict(f"a user has up to {MOST} passkeys: remove one")
    if not await credentials.add_passkey(id_, user.id, call.body.name, secret, counter):
        raise Conflict("this passkey is known already")
    (made,) = [one for one in await credentials.of(user.id) if one.id == id_]
    return shown_credential(made)


@endpoint(
    "DELETE",
    "/api/v1/me/passkeys/{id}",
    role="viewer",
    own="user",
    answers={204: None},
    errors=(NotFound,),
    audit=Audit("user", "delete_passkey"),
    example=FOR_USERS,
)
async def delete_passkey(call: Call[None, None]) -> Answer:
    """Forget a passkey of the user who calls. All other sessions end: who has the passkey may have opened one."""
    session = fresh(call)
    if not await call.gateway.credentials.forget_passkey(session.user.id, call.path["id"]):
        raise NotFound(f"there is no passkey {call.path['id']!r}")
    await call.gateway.sessions.end_all(session.user.id, but=session.principal.digest)
    return Answer(status=204)


async def _counted(call: Call[Any, Signed], kept: UserCredential) -> None:
    """Judge what a passkey has signed, and have its counter count. Raises `PermissionDenied`."""
    counter = await call.gateway.passkeys.judge(call.body.credential, kept)
    if not await call.gateway.credentials.count_passkey(kept.id, counter):
        raise PermissionDenied("this passkey has counted backwards: there may be two of it")


def _record(call: Call[Any, Any], user: UserEntry | None, error: PermissionDenied) -> None:
    actor, org = ("unknown", PLATFORM) if user is None else (f"user:{user.name}", home_of(user))
    denied(call.gateway, call.request, actor, org=org, outcome=error.kind, reason="wrong_passkey")


ENDPOINTS: tuple[Endpoint, ...] = (ask_passkey, open_session_by_passkey, begin_passkey, create_passkey, delete_passkey)
