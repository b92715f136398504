"""POST /api/v1/sessions: a user signs in with a password, and the code of an authenticator where there is one."""

from __future__ import annotations

import time
from typing import Annotated, Any

import msgspec
import structlog
from aiohttp import web

from services.gateway.api.access import address, denied
from services.gateway.api.endpoint import Call, Endpoint, Example, Header, Reply, endpoint
from services.gateway.api.me import Me, me_of
from services.gateway.api.origins import check_origin
from services.gateway.api.sessions import sign_in
from services.gateway.credentials import UserCredential
from services.gateway.parts import Gateway
from services.gateway.proofs import Code, Password, digest_of_code, new_secret, step_of
from services.gateway.sessions import Proof, Session, digest_of
from services.gateway.users import home_of
from shared.encryption import CannotOpen
from shared.errors import PermissionDenied, TooMany
from shared.http import json_response
from shared.organizations import PLATFORM
from shared.resources.declaration import about
from shared.resources.user import Method, UserEntry
from shared.values import Name

COOKIE_SET = Header("Set-Cookie", "The session.")
_NOBODY = new_secret()
_log = structlog.get_logger()


class SigningIn(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What a user signs in with."""

    name: Annotated[Name, about("The login.")]
    password: Password
    code: Annotated[Code, about("That of the authenticator, or one for when it is lost; where the user has one.")] = ""

    def __repr__(self) -> str:
        """Show nothing: a repr ends up in logs."""
        return "SigningIn(...)"


@endpoint(
    "POST",
    "/api/v1/sessions",
    role=None,
    answers={200: Reply(Me, headers=(COOKIE_SET,))},
    errors=(PermissionDenied, TooMany),
    body_limit=8192,
    example=Example(body={"name": "nobody", "password": "a wrong one"}, status=403),
)
async def open_session(call: Call[None, SigningIn]) -> web.Response:
    """Sign in: the answer sets the cookie of a session.

    Whatever is wrong, and whether or not there is such a user, the answer is the same. After some failures the next attempt is
    looked at after a while only.
    """
    gateway, asked = call.gateway, call.body
    check_origin(gateway, call.request, strict=False)
    whence, login = address(gateway, call.request), asked.name.strip().lower()
    with gateway.visitors.one(whence):
        await gateway.credentials.attempt(login, whence)
        user = gateway.users.named(login)
        found = await gateway.credentials.of("" if user is None else user.id)
        proof = await _proof(gateway, found, asked)
        if user is None or proof is None or not user.spec.enabled:
            raise _refused(call, user)
        answer = await signed_in(call, user, proof)
        await gateway.credentials.succeeded(login, whence)
        return answer


async def signed_in(call: Call[Any, Any], user: UserEntry, proof: Proof) -> web.Response:
    """Return the answer to a user who has signed in."""
    gateway = call.gateway
    answer = web.Response()
    # By an invitation alone nothing was shown that could be replaced.
    opened = await sign_in(gateway, call.request, user, proof.method, answer, proof if proof.credential else None)
    if opened is None:
        # What it was shown with was replaced meanwhile.
        raise _refused(call, user)
    principal = gateway.users.principal(user, digest_of(opened.value), opened.until.timestamp())
    session = Session(user=user, principal=principal, method=proof.method, is_over=False, is_fresh=True)
    made = json_response(me_of(principal, session, opened.value))
    made.headers.extend(answer.headers)
    return made


async def _proof(gateway: Gateway, found: list[UserCredential], asked: SigningIn) -> Proof | None:
    """Return what was shown, None where anything is wrong; the work is the same whatever that is, and whatever there is."""
    of = {one.kind: one for one in found}
    password, totp = of.get("password"), of.get("totp")
    is_it = await gateway.passwords.is_it(asked.password, None if password is None else password.secret)
    secret = _NOBODY
    if totp is not None:
        try:
            secret = gateway.credentials.opened(totp)
        except CannotOpen as error:
            _log.error("totp.quarantined", user=totp.user_id, reason=str(error))
    code = asked.code.strip().replace(" ", "")
    step = step_of(secret, code, time.time())
    digest = digest_of_code(code)
    recovery = next((one for one in found if one.kind == "recovery" and one.secret == digest), None)
    if not is_it or password is None:
        return None
    method: Method = "password"
    if totp is not None:
        if recovery is not None and await gateway.credentials.spend_code(recovery.id):
            method = "recovery"
        elif step is not None and secret is not _NOBODY and await gateway.credentials.spend_step(totp.id, step):
            method = "totp"
        else:
            return None
    return Proof(method, password.id, password.secret)


def _refused(call: Call[Any, Any], user: UserEntry | None) -> PermissionDenied:
    """Record a failed attempt, and return its answer. A login that is nobody's is not recorded: it may be a password."""
    denied(
        call.gateway,
        call.request,
        "unknown" if user is None else f"user:{user.name}",
        org=PLATFORM if user is None else home_of(user),
        outcome=PermissionDenied.kind,
        reason="wrong_credentials",
    )
    return PermissionDenied("the login, the password or the code is wrong")


ENDPOINTS: tuple[Endpoint, ...] = (open_session,)
