"""/device: the page where a person who is signed in allows a machine a key, or denies it. It has no script."""

from __future__ import annotations

from html import escape
from typing import Annotated, Any, Literal
from urllib.parse import parse_qs, quote

import msgspec
from aiohttp import web

from services.gateway.api.access import check_form, cookie_of, denied, remote
from services.gateway.api.endpoint import Call, Endpoint, Example, Reply, Streamed, endpoint
from services.gateway.api.logins import PAGE, SeenLogin, decide, seen
from services.gateway.api.origins import check_origin
from services.gateway.api.pages import HEADERS, person_page, refused_page
from services.gateway.domain import DEFAULT_ORG, org_of
from services.gateway.logins import ALPHABET, LETTERS, letters_of
from services.gateway.principals import ROLES, is_at_least, lesser
from services.gateway.sessions import Session, csrf_of
from shared.errors import Conflict, Invalid, MillraceError, NotFound, PermissionDenied, TooMany, Unauthenticated
from shared.http import body_of
from shared.messages import Audited
from shared.organizations import PLATFORM
from shared.resources.declaration import Role, about
from shared.values import Words

LIMIT = 4096
DAY = 86_400
_POLICY = HEADERS["Content-Security-Policy"] + "; form-action 'self'"
_BEGIN_AGAIN = "Look at the code on the machine once more, or begin there anew: millrace login"
_WARNING = (
    "Nobody has checked what the machine is called. Go on only if you have begun this yourself, or somebody whom you know asks you "
    "for it now. Whoever sent you a link or a code may be at that machine, and would act with your rights."
)


class Entering(msgspec.Struct, frozen=True, kw_only=True):
    """The code that an address holds already."""

    code: Annotated[Words, about("The code that the machine shows.")] = ""


def _refused(error: MillraceError) -> web.Response:
    return _strict(refused_page("Nothing was allowed", error, _BEGIN_AGAIN))


@endpoint("GET", PAGE, role=None, answers={200: Reply(str, media="text/html")}, errors=(TooMany, NotFound), page=_refused)
async def show_device(call: Call[Entering, None]) -> web.Response:
    """Ask a person who is signed in for the code of a machine, and show who asks for what. Nothing is decided by this."""
    session = await _session(call)
    code = call.query.code
    if session is None:
        how = f"millrace login approve {code}" if _is_code(code) else "millrace login approve CODE"
        link = f"/sign-in?next={quote(f'{PAGE}?code={code}' if _is_code(code) else PAGE, safe='')}"
        do = f"Or have an administrator run: {how}"
        more = f'<p><a href="{escape(link)}">Sign in</a></p>'
        return _strict(person_page("Sign in first", "Only who is signed in here can allow a machine a key.", do, more))
    try:
        check_origin(call.gateway, call.request, strict=False)
    except PermissionDenied:
        # A link on somebody's page: the person types what stands on their own machine.
        code = ""
    if not _is_code(code):
        words = "Enter the code that the machine shows."
        field = '<p><input name="code" required autofocus autocomplete="off" maxlength="20" aria-label="Code"></p>'
        form = f'<form method="get" action="{PAGE}">{field}<button type="submit">Go on</button></form>'
        return _strict(person_page("Allow a machine a key", words, "It has been asked for by: millrace login", form))
    orgs = _orgs(session)
    found = await seen(call.gateway, session.principal, code, orgs[0])
    form = _form(code, found, session, orgs, csrf_of(cookie_of(call.gateway, call.request) or ""))
    return _strict(person_page("Allow a machine a key?", _asked(call, found), _WARNING, form))


@endpoint(
    "POST",
    PAGE,
    role=None,
    answers={200: Reply(str, media="text/html")},
    errors=(TooMany, Unauthenticated, PermissionDenied, NotFound, Conflict),
    example=Example(status=401),
    page=_refused,
)
async def decide_device(call: Call[None, Streamed]) -> web.Response:
    """Allow or deny a machine a key, as the person has said who is signed in."""
    gateway = call.gateway
    given = {name: values[-1] for name, values in parse_qs((await body_of(call.request, LIMIT)).decode(errors="replace")).items()}
    session = await _session(call)
    if session is None:
        raise Unauthenticated("you are not signed in here any more")
    principal, value = session.principal, cookie_of(gateway, call.request) or ""
    try:
        check_form(gateway, call.request, value, given.get("csrf", ""))
    except PermissionDenied as error:
        denied(gateway, call.request, principal.actor, org=principal.org, outcome=error.kind, reason="csrf")
        raise
    org, code, state = org_of(given.get("org")), given.get("code", ""), _STATES.get(given.get("decision", ""))
    if state is None or not _is_code(code):
        raise Invalid("the form was not filled in as it is meant to be")
    most = next((role for role in ROLES if role == given.get("role")), None)
    found = await seen(gateway, principal, code, org, most)
    outcome = "error"
    try:
        done = await decide(gateway, principal, found, code, state)
        outcome = "ok"
    except MillraceError as error:
        outcome = error.kind
        raise
    finally:
        detail = {"host": found.login.host, "address": found.login.address, "role": found.role}
        said = Audited(
            category="login",
            verb="approve" if state == "approved" else "deny",
            actor=principal.actor,
            target=found.login.name,
            outcome=outcome,
            remote=call.caller.remote,
            detail=detail,
        )
        await gateway.trail.publish(said, org=found.org)
    if state == "denied":
        return _strict(person_page("Denied", f"{done.host} gets no key.", "You can close this page.", kind="wrong"))
    words = f"{done.host} gets the key {done.name}, with the role {done.role} in {done.org}."
    do = f"You can close this page. To end the key: millrace keys revoke {done.name}"
    return _strict(person_page("Allowed", words, do, kind="well"))


_STATES: dict[str, Literal["approved", "denied"]] = {"approve": "approved", "deny": "denied"}


async def _session(call: Call[Any, Any]) -> Session | None:
    """Return the session of the browser, None where it has none that counts."""
    value = cookie_of(call.gateway, call.request)
    found = None if value is None else await call.gateway.sessions.find(value)
    return None if found is None or found.is_over or not found.principal.roles else found


def _orgs(session: Session) -> list[str]:
    """Return the organizations whose key a user may give where none is asked for; the platform's comes last."""
    own = [org for org, _ in session.principal.roles if org != PLATFORM]
    return [*own, *([] if own else [DEFAULT_ORG]), PLATFORM] if len(own) < len(session.principal.roles) else own


def _is_code(code: str) -> bool:
    letters = letters_of(code)
    return len(letters) == LETTERS and set(letters) <= set(ALPHABET)


def _asked(call: Call[Any, Any], found: SeenLogin) -> str:
    login, here = found.login, remote(call.gateway, call.request)
    lifetime = f"{login.lifetime // DAY} days" if login.lifetime >= 2 * DAY else f"{login.lifetime // 60} minutes"
    where = f"{login.address}, which is where you are as well" if login.address == here else f"{login.address}; you are at {here}"
    return (
        f"A machine that calls itself {login.host!r} asks for a key of {found.org}, for {lifetime}. It asked from {where}, at "
        f"{login.asked_at:%H:%M} UTC, and shows the code:"
    )


def _form(code: str, found: SeenLogin, session: Session, orgs: list[str], token: str) -> str:
    letters = letters_of(code)
    # A key of one organization is asked for, or the person says of which.
    offered = [found.login.org] if found.login.org is not None else orgs
    own = [role for org in offered if (role := session.principal.role_in(org)) is not None]
    most: Role = lesser(max(own, key=ROLES.index), found.login.role)
    roles = [role for role in ROLES if is_at_least(most, role)]
    given = {"csrf": token, "code": code}
    hidden = "".join(f'<input type="hidden" name="{name}" value="{escape(value)}">' for name, value in given.items())
    return (
        f"<h1><code>{letters[:4]}-{letters[4:]}</code></h1>"
        f'<form method="post" action="{PAGE}">{hidden}'
        f"<p>{_choice('org', 'Organization', offered, found.org)} {_choice('role', 'Role', roles, found.role)}</p>"
        '<p><button type="submit" name="decision" value="approve">Allow</button> '
        '<button type="submit" name="decision" value="deny">Deny</button></p></form>'
    )


def _choice(name: str, label: str, offered: list[Any], chosen: str) -> str:
    options = "".join(
        f'<option value="{escape(one)}"{" selected" if one == chosen else ""}>{escape(one)}</option>' for one in offered
    )
    return f'<label>{label} <select name="{name}">{options}</select></label>'


def _strict(page: web.Response) -> web.Response:
    """Return a page whose form leads nowhere else."""
    page.headers["Content-Security-Policy"] = _POLICY
    return page


ENDPOINTS: tuple[Endpoint, ...] = (show_device, decide_device)
