"""/api/v1/me/…: what a user signs in with, as that user changes it, soon after having signed in."""

from __future__ import annotations

import time
from typing import Annotated, Any

import msgspec
from aiohttp import web

from services.gateway.api.endpoint import Answer, Audit, Call, Endpoint, Reply, endpoint
from services.gateway.api.sessions import FOR_USERS, session_of
from services.gateway.api.signing_in import COOKIE_SET, signed_in
from services.gateway.credentials import UserCredential
from services.gateway.proofs import Code, Password, check_password, digest_of_code, new_recovery_codes, new_secret, step_of, uri_of
from services.gateway.sessions import Proof, Session
from shared.encryption import CannotOpen
from shared.envelope import rfc3339
from shared.errors import Invalid, NotFound, PermissionDenied, Problem
from shared.organizations import PLATFORM
from shared.resources.declaration import about
from shared.resources.shapes import Moment
from shared.values import Opaque

ISSUER = "Millrace"


class CredentialView(msgspec.Struct, frozen=True, kw_only=True):
    """A password, an authenticator (`totp`), a code for when that is lost (`recovery`), or a passkey."""

    id: str
    kind: str
    name: str
    created_at: Moment
    used_at: Moment | None


class CredentialList(msgspec.Struct, frozen=True):
    """What a user signs in with."""

    items: list[CredentialView]


class NewPassword(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Another password."""

    password: Annotated[Password, about("At least 12 characters.")]


class NewAuthenticator(msgspec.Struct, frozen=True):
    """The secret of an authenticator to be, which counts once a code of it has come back with `pending`."""

    secret: str
    uri: str
    pending: str


class ConfirmedAuthenticator(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A code of the authenticator that was begun."""

    pending: Opaque
    code: Code


class RecoveryCodes(msgspec.Struct, frozen=True):
    """Codes for when the authenticator is lost: each counts once, and they are shown only now."""

    codes: list[str]


def fresh(call: Call[Any, Any]) -> Session:
    """Return the session of a user who has signed in just now. Raises `PermissionDenied`: a browser left open is not enough."""
    session = session_of(call)
    call.note(target=session.user.name)
    if not session.is_fresh:
        raise PermissionDenied("sign in again: this takes a session of less than 15 minutes")
    return session


@endpoint("GET", "/api/v1/me/credentials", role="viewer", own="user", example=FOR_USERS)
async def list_credentials(call: Call[None, None]) -> CredentialList:
    """List what the user signs in with."""
    found = await call.gateway.credentials.of(session_of(call).user.id)
    return CredentialList([shown_credential(one) for one in found])


def shown_credential(one: UserCredential) -> CredentialView:
    """Return a credential as its user sees it."""
    used_at = None if one.used_at is None else rfc3339(one.used_at)
    return CredentialView(id=one.id, kind=one.kind, name=one.name, created_at=rfc3339(one.created_at), used_at=used_at)


@endpoint(
    "PUT",
    "/api/v1/me/password",
    role="viewer",
    own="user",
    answers={200: Reply(Any, headers=(COOKIE_SET,))},
    audit=Audit("user", "set_password"),
    body_limit=8192,
    example=FOR_USERS,
)
async def put_password(call: Call[None, NewPassword]) -> web.Response:
    """Set the user's password. All sessions of the user end, and the answer opens another one here."""
    user = fresh(call).user
    check_password(call.body.password, user.name)
    kept = await call.gateway.passwords.hashed(call.body.password)
    id_ = await call.gateway.credentials.set_password(user.id, kept)
    return await signed_in(call, user, Proof("password", id_, kept))


@endpoint("POST", "/api/v1/me/totp", role="viewer", own="user", audit=Audit("user", "begin_totp"), example=FOR_USERS)
async def begin_totp(call: Call[None, None]) -> NewAuthenticator:
    """Begin to use an authenticator. It counts once a code of it has come back by PUT, within ten minutes."""
    user, secret = fresh(call).user, new_secret()
    pending = call.gateway.keyring.seal(f"{int(time.time())} {secret}", PLATFORM, user.id, "totp.pending")
    return NewAuthenticator(secret=secret, uri=uri_of(secret, user.name, ISSUER), pending=pending)


@endpoint("PUT", "/api/v1/me/totp", role="viewer", own="user", audit=Audit("user", "set_totp"), body_limit=8192, example=FOR_USERS)
async def put_totp(call: Call[None, ConfirmedAuthenticator]) -> RecoveryCodes:
    """Use an authenticator from now on, in place of one before; the answer has codes for when it is lost."""
    user, now = fresh(call).user, time.time()
    try:
        begun, _, secret = call.gateway.keyring.open(call.body.pending, PLATFORM, user.id, "totp.pending").partition(" ")
    except CannotOpen as error:
        raise Invalid("pending is none that this user was given", errors=(Problem("pending", "is unknown"),)) from error
    step = step_of(secret, call.body.code.strip(), now)
    if step is None or now - int(begun) > 600:
        raise Invalid("code is none of this authenticator now", errors=(Problem("code", "is wrong"),))
    codes = new_recovery_codes()
    await call.gateway.credentials.set_totp(user.id, secret, step, [digest_of_code(one) for one in codes])
    return RecoveryCodes(codes)


@endpoint(
    "DELETE",
    "/api/v1/me/totp",
    role="viewer",
    own="user",
    answers={204: None},
    errors=(NotFound,),
    audit=Audit("user", "delete_totp"),
    example=FOR_USERS,
)
async def delete_totp(call: Call[None, None]) -> Answer:
    """Use no authenticator any more."""
    if not await call.gateway.credentials.forget_totp(fresh(call).user.id):
        raise NotFound("there is no authenticator")
    return Answer(status=204)


ENDPOINTS: tuple[Endpoint, ...] = (list_credentials, put_password, begin_totp, put_totp, delete_totp)
