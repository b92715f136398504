"""Who opens a form: by a link, by a session or a key with the role, or as anybody."""

from __future__ import annotations

import time
from typing import Any

import msgspec

from services.gateway.api.access import address, authenticated, authorize, check_form, cookie_of, denied, remote
from services.gateway.api.endpoint import Call, Endpoint
from services.gateway.links import FormLink, form_link
from services.gateway.principals import Principal
from services.gateway.sessions import Session, csrf_of
from services.gateway.submissions import USED
from shared.envelope import derived_id
from shared.errors import Conflict, MillraceError, NotFound, PermissionDenied, Unauthenticated
from shared.organizations import PLATFORM
from shared.resources.form import FormEntry
from shared.values import moment_of

ANYBODY = "anybody"
HAVE_ROLE = frozenset({"session", "key"})


class FormSender(msgspec.Struct, frozen=True, kw_only=True):
    """Who has a form open: `via` a `link`, a `session`, a `key`, or as `anybody`; `fields` are sent with it again."""

    actor: str
    via: str
    remote: str | None
    address: str | None
    fields: dict[str, str]
    link: FormLink | None = None

    @property
    def has_role(self) -> bool:
        """Return whether it is somebody of the organization."""
        return self.via in HAVE_ROLE

    @property
    def once(self) -> bool:
        """Return whether it is for one run alone."""
        return self.link is not None and self.link.once

    def run(self, form: FormEntry, *what: str) -> str:
        """Return the id of the run that this asks for: of a link that is of use once always the same one."""
        if self.link is not None and self.link.once:
            return derived_id(form.id, "link", self.link.nonce)
        whose = self.link.nonce if self.link is not None else self.actor
        return derived_id(form.id, self.via, whose, *what)


async def sender(
    call: Call[Any, Any], endpoint: Endpoint, form: FormEntry, link: str, *, csrf: str | None = None, is_page: bool = True
) -> FormSender:
    """Return who has a form open; `csrf` is what its page sent along, None where nothing is sent yet.

    Raises `NotFound`, `Conflict`, `Unauthenticated`, `PermissionDenied`, each once it is recorded.
    """
    whence, where = remote(call.gateway, call.request), address(call.gateway, call.request)
    if link:
        held = _by_link(call, form, link)
        made = {"link": link} if is_page else {}
        return FormSender(actor=f"link:{held.name}", via="link", remote=whence, address=where, fields=made, link=held)
    found = await (_by_session(call, endpoint, form, csrf) if is_page else _by_key(call, endpoint, form))
    if found is not None:
        principal, value = found
        made = {} if value is None else {"csrf": csrf_of(value)}
        via = "key" if value is None and not principal.is_user else "session"
        return FormSender(actor=principal.actor, via=via, remote=whence, address=where, fields=made)
    if form.spec.access == "public":
        return FormSender(actor=f"form:{form.name}", via=ANYBODY, remote=whence, address=where, fields={})
    by = "a link that was sent to you, or somebody who is signed in" if form.spec.access == "link" else "somebody who is signed in"
    denied(call.gateway, call.request, "unknown", org=form.org, outcome=Unauthenticated.kind, reason="form")
    raise Unauthenticated(f"this takes {by}")


def _by_link(call: Call[Any, Any], form: FormEntry, token: str) -> FormLink:
    """Return the link that a form is opened by. Whose link it is the trail of another organization is not told."""

    def refused(error: MillraceError, reason: str, actor: str = "unknown") -> MillraceError:
        denied(call.gateway, call.request, actor, org=form.org, outcome=error.kind, reason=reason)
        return error

    try:
        held = form_link(call.gateway.keyring, token)
    except NotFound as error:
        raise refused(error, "unknown_link") from None
    if (held.org, held.form) != (form.org, form.id):
        raise refused(NotFound("this link is not known, or was altered: ask who sent it for another"), "foreign_link")
    actor = f"link:{held.name}"
    if held.until <= time.time():
        raise refused(Conflict("the time of this link is over"), "expired_link", actor)
    after = form.spec.links_after
    if form.spec.access == "role" or (after is not None and held.made < moment_of(after).timestamp()):
        raise refused(Conflict("this link counts no more"), "revoked_link", actor)
    return held


def used(call: Call[Any, Any], form: FormEntry, who: FormSender) -> Conflict:
    """Return the refusal of a link that was used, once it is recorded."""
    denied(call.gateway, call.request, who.actor, org=form.org, outcome=Conflict.kind, reason="used_link")
    return Conflict(USED)


async def _by_session(
    call: Call[Any, Any], endpoint: Endpoint, form: FormEntry, csrf: str | None
) -> tuple[Principal, str | None] | None:
    """Return who is signed in and has the role; None for anybody else, where anybody may."""
    gateway, request = call.gateway, call.request
    is_public = form.spec.access == "public"
    # A form in a frame of another page is nobody's but anybody's: that page could have it sent by who is signed in.
    if request.headers.get("Sec-Fetch-Dest", "document") != "document" or (is_public and csrf == ""):
        return None
    value = cookie_of(gateway, request)
    session = None if value is None else await gateway.sessions.find(value)
    if value is None or session is None or session.is_over:
        return None
    principal = session.principal
    try:
        if csrf is not None:
            check_form(gateway, request, value, csrf)
    except PermissionDenied as error:
        denied(gateway, request, principal.actor, org=principal.org, outcome=error.kind, reason="csrf")
        raise
    return (principal, value) if _may(call, endpoint, form, principal) else None


async def _by_key(call: Call[Any, Any], endpoint: Endpoint, form: FormEntry) -> tuple[Principal, str | None] | None:
    """Return who calls, by a key or a session, and has the role; None where nobody shows one."""
    shows_none = "Authorization" not in call.request.headers and cookie_of(call.gateway, call.request) is None
    if shows_none:
        return None
    found = await authenticated(call.gateway, call.request)
    if found is None:
        raise Unauthenticated("this key or session is not known, was revoked, or is over")
    principal = found.principal if isinstance(found, Session) else found
    return (principal, None) if _may(call, endpoint, form, principal) else None


def _may(call: Call[Any, Any], endpoint: Endpoint, form: FormEntry, principal: Principal) -> bool:
    """Return whether somebody opens a form by a role; False where anybody may. Raises `PermissionDenied`, `NotFound`."""
    try:
        authorize(principal, msgspec.structs.replace(endpoint, role=form.spec.role), form.org, call.path)
    except (PermissionDenied, NotFound) as error:
        if form.spec.access == "public":
            return False
        whose = principal.org if principal.role_in(form.org) is None else form.org
        denied(call.gateway, call.request, principal.actor, org=whose or PLATFORM, outcome=error.kind, reason="form")
        raise
    return True
