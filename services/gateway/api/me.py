"""/api/v1/me: who calls, and what a user changes of itself."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Annotated, Literal

import msgspec

from services.gateway.api.access import cookie_of
from services.gateway.api.endpoint import Audit, Call, Endpoint, endpoint
from services.gateway.api.provisioning import changed
from services.gateway.api.sessions import FOR_USERS, session_of
from services.gateway.principals import Principal
from services.gateway.sessions import Session, csrf_of
from shared.envelope import rfc3339
from shared.resources.declaration import Role, about
from shared.resources.shapes import Moment
from shared.resources.user import Method
from shared.values import Words


class Me(msgspec.Struct, frozen=True, kw_only=True):
    """Who calls, as audits have it, of the organization `org`; `roles` are those by organization, `global`: in every one.

    `default_org`: the organization that requests mean which name none. `until`: from when on the key or the session counts no more.
    Of a session `csrf` is what each change has to show, as `X-Millrace-CSRF`, and `method` how the user has signed in.
    """

    actor: str
    kind: Literal["key", "user"]
    name: str | None
    org: str
    default_org: str
    roles: dict[str, Role]
    scopes: list[str]
    until: Moment | None
    display_name: str | None = None
    email: str | None = None
    method: Method | None = None
    csrf: str | None = None


class Profile(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What users change of themselves."""

    display_name: Annotated[Words, about("What the user is called by people.")]


@endpoint("GET", "/api/v1/me", role="viewer", own="caller")
async def get_me(call: Call[None, None]) -> Me:
    """Say who calls, by a key or a session, and what that may do."""
    caller = call.caller
    if caller.principal is None:
        raise TypeError("this endpoint is for callers who are known, and does not say so")
    return me_of(caller.principal, caller.session, cookie_of(call.gateway, call.request) or "")


@endpoint("PATCH", "/api/v1/me", role="viewer", own="user", audit=Audit("user", "patch"), example=FOR_USERS)
async def patch_me(call: Call[None, Profile]) -> Me:
    """Change the profile of the user who calls."""
    session, name = session_of(call), call.body.display_name
    call.note(target=session.user.name, changes={"display_name": [session.user.spec.display_name, name]})
    user = await changed(call.gateway, call.caller.actor, session.user, {"display_name": name})
    value = cookie_of(call.gateway, call.request) or ""
    return me_of(session.principal, msgspec.structs.replace(session, user=user), value)


def me_of(principal: Principal, session: Session | None = None, value: str = "") -> Me:
    """Return a caller as it is shown: of a session by the value of its cookie."""
    until = None if principal.until is None else rfc3339(datetime.fromtimestamp(principal.until, UTC))
    made = Me(
        actor=principal.actor,
        kind="user" if principal.is_user else "key",
        name=principal.actor.rpartition("/" if "/" in principal.actor else ":")[2] if principal.id is not None else None,
        org=principal.org,
        default_org=principal.default_org,
        roles=dict(principal.roles),
        scopes=list(principal.scopes),
        until=until,
    )
    if session is None:
        return made
    spec = session.user.spec
    return msgspec.structs.replace(
        made,
        name=session.user.name,
        display_name=spec.display_name,
        email=spec.email,
        method=session.method,
        csrf=csrf_of(value),
    )


ENDPOINTS: tuple[Endpoint, ...] = (get_me, patch_me)
