"""People sign in by OpenID Connect: they are led to a provider, and come back as the user whom it knows them as (decision 0072)."""

from __future__ import annotations

import asyncio
import secrets
from html import escape
from typing import Annotated, Any
from urllib.parse import urlsplit

import msgspec
import structlog
from aiohttp import web

from services.gateway.api.access import address, cookie_of, denied
from services.gateway.api.authorizing import CameBack
from services.gateway.api.endpoint import Audit, Call, Endpoint, Example, Reply, endpoint
from services.gateway.api.pages import HEADERS, BrowserCookie, hashed, person_page, refused_page
from services.gateway.api.provisioning import changed, provided
from services.gateway.api.sessions import FOR_USERS, session_of, sign_in, signed_out
from services.gateway.api.sign_in_methods import fresh
from services.gateway.sessions import digest_of
from services.gateway.users import home_of
from shared.envelope import new_id
from shared.errors import Conflict, Invalid, MillraceError, NotFound, PermissionDenied, Problem, TooMany, Unavailable
from shared.http import json_response
from shared.organizations import PLATFORM
from shared.questions.sign_in import (
    BeginSignIn,
    FinishSignIn,
    GetSignOut,
    ListSignInProviders,
    Person,
    SignInEnded,
    SignOut,
)
from shared.resources.declaration import about
from shared.resources.identity_provider import SIGNED_IN, SIGNED_OUT
from shared.resources.user import UserEntry
from shared.values import Name

COOKIE = "millrace-signing-in"
_BROWSER = BrowserCookie(COOKIE, "/auth")
LONGEST_PATH = 1024
# Seconds between tries to make a user whom another gateway is making.
PAUSES = (0.05, 0.2, 0.5, 1.0)
_BEGIN_AGAIN = "Begin again where you began. Where that is of no use, tell this to who looks after Millrace."
_log = structlog.get_logger()


class OfferedProvider(msgspec.Struct, frozen=True, kw_only=True):
    """A provider to sign in by, and the address that leads a browser there."""

    name: str
    display_name: str
    url: str


class OfferedProviderList(msgspec.Struct, frozen=True):
    """All of them."""

    items: list[OfferedProvider]
    next_cursor: None = None


class Beginning(msgspec.Struct, frozen=True, kw_only=True):
    """Where somebody who signs in is on the way to."""

    next: Annotated[str, msgspec.Meta(max_length=LONGEST_PATH), about("The path at this gateway to go on to: `/docs`.")] = ""


class NewIdentity(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """By which provider the user is to be known."""

    provider: Annotated[Name, about("The name of the identity provider.")]


class IdentityBegun(msgspec.Struct, frozen=True):
    """The address of the provider's page."""

    url: str


@endpoint("GET", "/api/v1/sign-in-providers", role=None, errors=(TooMany,))
async def list_sign_in_providers(call: Call[None, None]) -> OfferedProviderList:
    """List the providers by which people can sign in, for a page that offers them."""
    with call.gateway.visitors.one(address(call.gateway, call.request)):
        found = await call.ask(ListSignInProviders(org=PLATFORM))
    return OfferedProviderList(
        [
            OfferedProvider(name=one.name, display_name=one.display_name, url=f"{call.gateway.public_url}/auth/{one.name}")
            for one in found
        ]
    )


def _refused(error: MillraceError) -> web.Response:
    return refused_page("Not signed in", error, _BEGIN_AGAIN)


@endpoint(
    "GET",
    SIGNED_IN,
    role=None,
    answers={200: Reply(str, media="text/html")},
    errors=(TooMany, PermissionDenied),
    example=Example(status=403),
    page=_refused,
)
async def finish_sign_in(call: Call[CameBack, None]) -> web.Response:
    """Take what a provider's answer brings, once, and sign the person in whom it vouches for."""
    gateway, query, id_, browser = call.gateway, call.query, new_id(), _BROWSER.of(call.gateway, call.request)
    if browser is None:
        reason = "it was begun in another browser, or this one keeps no cookies: begin again here"
        return _denied(call, SignInEnded(refusal="unknown", reason=reason))
    # Not all users may be known here yet, which has to be said before the answer is used up.
    gateway.users.named("")
    code = None if query.code is None else gateway.keyring.seal(query.code, PLATFORM, id_, "code")
    with gateway.visitors.one(address(gateway, call.request)):
        ended = await call.ask(
            FinishSignIn(
                id=id_,
                org=PLATFORM,
                actor=call.caller.actor,
                state=query.state,
                browser=hashed(browser),
                redirect=gateway.public_url + SIGNED_IN,
                sealed_code=code,
                iss=query.iss,
                error=query.error,
            )
        )
        if ended.person is None:
            return _denied(call, ended)
        try:
            if ended.user is not None:
                return await _connected(call, ended, ended.person, ended.user)
            user = await _user(call, ended.person)
        except (PermissionDenied, Conflict, Invalid) as error:
            known = gateway.users.known_as(ended.person.issuer, ended.person.subject)
            refused = msgspec.structs.replace(ended, refusal="refused", reason=error.detail)
            return _denied(call, refused, known, reason="no_role" if isinstance(error, PermissionDenied) else "not_known")
    page = _signed_in(user, ended)
    if (before := cookie_of(gateway, call.request)) is not None:
        await gateway.sessions.end(digest_of(before))
    await sign_in(gateway, call.request, user, "openid", page)
    return page


async def _user(call: Call[Any, Any], person: Person) -> UserEntry:
    """Return the user whom a provider knows a person as, with the roles that it gives from now on.

    Raises `PermissionDenied` where there is none, or it may do nothing: sessions of one whose roles are gone have ended by then.
    """
    gateway = call.gateway
    user, given = gateway.users.known_as(person.issuer, person.subject), person.roles
    if given is not None:
        given = {org: role for org, role in given.items() if not gateway.removing.is_removing(org)}
    if user is None and not person.just_in_time:
        raise PermissionDenied(
            "no user is known by this account: ask who looks after Millrace, or sign in otherwise and connect it"
        )
    if user is not None and not user.spec.enabled:
        raise PermissionDenied("your user is disabled")
    present = {} if user is None else {org: role for org, role in user.spec.roles.items() if role is not None}
    if not (present if given is None else given):
        if user is not None and given is not None and present:
            await changed(gateway, f"openid:{person.issuer}", user, {"roles": dict.fromkeys(present)})
        raise PermissionDenied(
            "you have no role here" if given is None else "none of your groups at the provider gives you a role here"
        )
    email = person.email or ""
    for pause in PAUSES:
        try:
            return await provided(
                gateway,
                issuer=person.issuer,
                subject=person.subject,
                wanted=person.preferred_username or email.partition("@")[0],
                display_name=person.name or "",
                email=email if _is_short(email) else "",
                roles=None if given is None else dict.fromkeys(present) | given,
            )
        except Conflict as error:
            # The same person signs in elsewhere, and is not known here yet.
            _log.info("user.made_elsewhere", issuer=person.issuer, reason=error.detail)
            await asyncio.sleep(pause)
    raise Conflict("your user is being changed: begin again")


def _is_short(email: str) -> bool:
    local, _, domain = email.rpartition("@")
    return len(local) <= 64 and len(domain) <= 190 and not any(one.isspace() or one == "@" for one in local)


async def _connected(call: Call[Any, Any], ended: SignInEnded, person: Person, user_id: str) -> web.Response:
    """Have a user known by a provider, who has begun that in this browser and is signed in there still."""
    value = cookie_of(call.gateway, call.request)
    session = None if value is None else await call.gateway.sessions.find(value)
    if session is None or session.is_over or session.user.id != user_id:
        raise PermissionDenied("you are not signed in any more as the user who has begun this")
    internal = {"issuer": person.issuer, "subject": person.subject}
    await changed(call.gateway, session.principal.actor, session.user, {}, internal)
    _log.info("user.connected", user=user_id, provider=ended.provider)
    words = f"The user {session.user.name!r} can sign in by {ended.provider!r} from now on."
    return person_page("Connected", words, "You can close this page.", kind="well")


def _signed_in(user: UserEntry, ended: SignInEnded) -> web.Response:
    words = f"You are signed in as {user.name!r}."
    if not ended.return_to:
        return person_page("Signed in", words, "You can close this page.", kind="well")
    # Led there by this page, and not by the provider's: to a browser that would be a request of another site.
    to = escape(ended.return_to)
    head = f'<meta http-equiv="refresh" content="0;url={to}">'
    return person_page("Signed in", words, "You are led on.", f'<p><a href="{to}">Go on</a></p>', kind="well", head=head)


def _denied(call: Call[Any, Any], ended: SignInEnded, user: UserEntry | None = None, reason: str | None = None) -> web.Response:
    """Record that nobody was signed in, and say why."""
    actor, org = (call.caller.actor, PLATFORM) if user is None else (f"user:{user.name}", home_of(user))
    why = reason or ("browser" if ended.refusal == "unknown" else f"provider_{ended.refusal}")
    outcome = Unavailable.kind if ended.refusal == "unreachable" else PermissionDenied.kind
    denied(call.gateway, call.request, actor, org=org, outcome=outcome, reason=why)
    by = "" if ended.provider is None else f" by {ended.provider!r}"
    page = person_page("Not signed in", f"You are not signed in{by}: {ended.reason}.", _BEGIN_AGAIN, kind="wrong")
    page.set_status(503 if ended.refusal == "unreachable" else 403)
    return page


@endpoint("GET", SIGNED_OUT, role=None, answers={200: Reply(str, media="text/html")})
async def show_signed_out(_call: Call[None, None]) -> web.Response:
    """Tell a person who comes back from their provider that they are signed out."""
    return person_page("Signed out", "You are signed out.", "You can close this page.", kind="well")


@endpoint(
    "GET",
    "/auth/{name}",
    role=None,
    answers={303: None},
    errors=(TooMany, NotFound),
    page=_refused,
    example=Example(path={"name": "nobody"}, status=404),
)
async def begin_sign_in(call: Call[Beginning, None]) -> web.Response:
    """Lead a browser to the provider of that name, to sign in. Only this browser can come back."""
    check_path(call.query.next)
    answer = web.Response(status=303, headers=HEADERS)
    with call.gateway.visitors.one(address(call.gateway, call.request)):
        answer.headers["Location"] = await _begun(call, call.path["name"], answer, return_to=call.query.next)
    return answer


@endpoint(
    "POST",
    "/api/v1/me/identity",
    role="viewer",
    own="user",
    answers={200: IdentityBegun},
    errors=(NotFound,),
    audit=Audit("user", "begin_identity"),
    example=FOR_USERS,
)
async def begin_identity(call: Call[None, NewIdentity]) -> web.Response:
    """Return the address of a provider's page, for a user who wants to sign in by it from now on, in the same browser.

    It takes a session of less than 15 minutes.
    """
    user = fresh(call).user
    answer = web.Response()
    made = json_response(IdentityBegun(await _begun(call, call.body.provider, answer, user=user.id)))
    made.cookies.update(answer.cookies)
    return made


@endpoint(
    "POST",
    "/api/v1/sessions/current/leave",
    role="viewer",
    own="user",
    answers={200: SignOut},
    audit=Audit("session", "end"),
    example=FOR_USERS,
)
async def leave(call: Call[None, None]) -> web.Response:
    """Sign out, and return where the user's provider does so as well; null where it does not, or cannot be asked."""
    session, url = session_of(call), None
    call.note(target=session.user.name, reason="signed_out")
    await call.gateway.sessions.end(session.principal.digest)
    issuer = session.user.spec.issuer
    if session.method == "openid" and issuer is not None:
        try:
            url = (await call.ask(GetSignOut(org=PLATFORM, issuer=issuer, redirect=call.gateway.public_url + SIGNED_OUT))).url
        except Unavailable as error:
            _log.warning("sign_out.elsewhere_unknown", reason=error.detail)
    answer = json_response(SignOut(url=url))
    answer.headers.update(signed_out(call).headers)
    return answer


def check_path(path: str) -> None:
    """Raise `Invalid` for what leads a browser anywhere but to a path of this gateway."""
    # Browsers take a backslash for a slash, and pass over tabs and line breaks.
    is_local = path.startswith("/") and path[1:2] != "/" and not any(one == "\\" or not " " < one <= "~" for one in path)
    if path and (not is_local or urlsplit(path).netloc):
        detail = "must be a path at this gateway, with a slash at its beginning"
        raise Invalid(f"next {detail}", errors=(Problem("next", detail),))


async def _begun(call: Call[Any, Any], name: str, answer: web.Response, *, return_to: str = "", user: str | None = None) -> str:
    """Return the address of a provider's page, and give the browser a cookie by which it is known when it comes back."""
    browser = _BROWSER.of(call.gateway, call.request) or secrets.token_urlsafe(32)
    begun = await call.ask(
        BeginSignIn(
            id=new_id(),
            org=PLATFORM,
            actor=call.caller.actor,
            provider=name,
            browser=hashed(browser),
            redirect=call.gateway.public_url + SIGNED_IN,
            return_to=return_to,
            user=user,
        )
    )
    _BROWSER.give(call.gateway, answer, browser)
    return begun.url


ENDPOINTS: tuple[Endpoint, ...] = (
    list_sign_in_providers,
    finish_sign_in,
    show_signed_out,
    begin_sign_in,
    begin_identity,
    leave,
)
