"""Invitations: made by an organization for a role there, or by the platform for a user to sign in anew; of use once."""

from __future__ import annotations

from typing import Annotated, Any

import msgspec
from aiohttp import web

from services.gateway.api.access import address, denied
from services.gateway.api.endpoint import Answer, Audit, Call, Endpoint, Example, Reply, endpoint
from services.gateway.api.lists import Paged
from services.gateway.api.me import Me
from services.gateway.api.origins import check_origin
from services.gateway.api.provisioning import changed, created
from services.gateway.api.sessions import FOR_USERS, session_of
from services.gateway.api.signing_in import COOKIE_SET, signed_in
from services.gateway.credentials import put_password
from services.gateway.invitations import Invitation
from services.gateway.proofs import Password, check_password
from services.gateway.sessions import Proof
from shared.envelope import derived_id, rfc3339
from shared.errors import Conflict, Invalid, NotFound, Problem, TooMany
from shared.organizations import PLATFORM
from shared.questions.declaration import cursor_after
from shared.resources import KINDS
from shared.resources.declaration import Role, about
from shared.resources.shapes import Moment, page_of
from shared.resources.user import UserEntry
from shared.values import Name, Opaque, Words

PAGE = "/invitation"
Days = Annotated[int, msgspec.Meta(ge=1, le=30), about("For how many days the link is of use.")]
Email = Annotated[str, msgspec.Meta(pattern=r"\A([^@\s]{1,64}@[^@\s]{1,190})?\Z")]


class NewInvitation(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Whom to invite."""

    role: Annotated[Role, about("The role in the organization: viewer, operator, developer, admin.")]
    name: Annotated[Name, about("The login to be had; else who is invited chooses one.")] | None = None
    display_name: Words = ""
    email: Email = ""
    days: Days = 7


class NewReset(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How long the link is of use."""

    days: Days = 1


class InvitationView(msgspec.Struct, frozen=True, kw_only=True):
    """An invitation; `url` is the link, in the answer to its creation alone."""

    id: str
    role: Role | None
    name: str | None
    display_name: str
    email: str
    invited_by: str
    created_at: Moment
    ends_at: Moment
    url: str | None = None


class InvitationTold(msgspec.Struct, frozen=True, kw_only=True):
    """What who has the link is told; `is_new`: it makes a user, and is not for one who is there."""

    org: str
    role: Role | None
    name: str | None
    display_name: str
    is_new: bool
    ends_at: Moment


class HeldInvitation(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The token of a link, which stands behind its #."""

    token: Opaque


class AcceptingInvitation(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How who is invited will sign in; without a password a passkey is to be made by the session of the answer."""

    token: Opaque
    name: Annotated[Name, about("The login, where the invitation has none.")] | None = None
    display_name: Words | None = None
    password: Password | None = None

    def __repr__(self) -> str:
        """Show nothing: a repr ends up in logs."""
        return "AcceptingInvitation(...)"


InvitationPage: Any = page_of("Invitation", InvitationView, "invitations")


@endpoint(
    "POST",
    "/api/v1/orgs/{org}/invitations",
    role="admin",
    whole=True,
    answers={201: InvitationView},
    audit=Audit("invitation", "create"),
    example=Example(body={"role": "operator", "email": "ada@example.com"}),
)
async def create_invitation(call: Call[None, NewInvitation]) -> InvitationView:
    """Invite somebody to have a role in the organization. The link is shown once, and is of use once."""
    body = call.body
    if body.name is not None:
        KINDS["user"].check_name(body.name)
    made, token = await call.gateway.invitations.make(
        org=call.caller.org,
        role=body.role,
        actor=call.caller.actor,
        user_id=None,
        name=body.name,
        display_name=body.display_name,
        email=body.email,
        days=body.days,
    )
    call.note(target=made.id, role=body.role, **({} if body.name is None else {"name": body.name}))
    return _shown(made, f"{call.gateway.public_url}{PAGE}#{token}")


@endpoint("GET", "/api/v1/orgs/{org}/invitations", role="admin", answers={200: Reply(InvitationPage)})
async def list_invitations(call: Call[Paged, None]) -> dict[str, Any]:
    """List the open invitations of the organization, oldest first."""
    after, limit = call.query.page.after("invitations"), call.query.limit
    found = await call.gateway.invitations.page(call.caller.org, after, limit + 1)
    items = [_shown(one) for one in found[:limit]]
    return {"items": items, "next_cursor": cursor_after("invitations", items[-1].id) if len(found) > limit else None}


@endpoint(
    "DELETE",
    "/api/v1/orgs/{org}/invitations/{id}",
    role="admin",
    whole=True,
    answers={204: None},
    errors=(NotFound,),
    audit=Audit("invitation", "delete", "id"),
    example=Example(status=404),
)
async def delete_invitation(call: Call[None, None]) -> Answer:
    """Take an invitation back."""
    if not await call.gateway.invitations.remove(call.caller.org, call.path["id"]):
        raise NotFound(f"there is no open invitation {call.path['id']!r} of {call.caller.org}")
    return Answer(status=204)


@endpoint(
    "POST",
    "/api/v1/users/{name}/invitation",
    role="admin",
    platform=True,
    whole=True,
    answers={201: InvitationView},
    errors=(NotFound,),
    audit=Audit("user", "invite", "name"),
    example=Example(body={}),
)
async def invite_user(call: Call[None, NewReset]) -> InvitationView:
    """Make a link by which a user that is there sets a password or a passkey, as one who has lost both. It is shown once."""
    name = call.path["name"]
    user = call.gateway.users.named(name) or call.gateway.users.by_id(name)
    if user is None:
        raise NotFound(f"there is no user {name!r}")
    made, token = await call.gateway.invitations.make(
        org=PLATFORM,
        role="viewer",
        actor=call.caller.actor,
        user_id=user.id,
        name=user.name,
        display_name=user.spec.display_name,
        email=user.spec.email,
        days=call.body.days,
    )
    return _shown(made, f"{call.gateway.public_url}{PAGE}#{token}")


@endpoint(
    "POST",
    "/api/v1/invitations/read",
    role=None,
    answers={200: InvitationTold},
    errors=(NotFound, TooMany),
    body_limit=4096,
    example=Example(body={"token": "unknown"}, status=404),
)
async def read_invitation(call: Call[None, HeldInvitation]) -> InvitationTold:
    """Say what a link invites to."""
    with call.gateway.visitors.one(address(call.gateway, call.request)):
        found = await _held(call, call.body.token)
    return InvitationTold(
        org=found.org,
        role=None if found.user_id is not None else found.role,
        name=found.name,
        display_name=found.display_name,
        is_new=found.user_id is None,
        ends_at=rfc3339(found.ends_at),
    )


@endpoint(
    "POST",
    "/api/v1/invitations/accept",
    role=None,
    answers={200: Reply(Me, headers=(COOKIE_SET,))},
    errors=(NotFound, Conflict, TooMany),
    body_limit=8192,
    example=Example(body={"token": "unknown", "name": "ada", "password": "correct horse battery staple"}, status=404),
)
async def accept_invitation(call: Call[None, AcceptingInvitation]) -> web.Response:
    """Accept an invitation: the answer sets the cookie of a session of the user that comes of it."""
    gateway, body = call.gateway, call.body
    check_origin(gateway, call.request, strict=False)
    with gateway.visitors.one(address(gateway, call.request)):
        found = await _held(call, body.token)
        name = found.name or body.name
        if name is None:
            raise Invalid("name is to be chosen", errors=(Problem("name", "is missing"),))
        if body.password is not None:
            check_password(body.password, name)
        kept = None if body.password is None else await gateway.passwords.hashed(body.password)
        user = await _invited(call, found, name)
        proof = Proof("invitation", "", "")
        async with gateway.credentials.changing() as connection:
            if not await gateway.invitations.spend(body.token, connection):
                raise _unknown()
            if kept is not None:
                proof = Proof("invitation", await put_password(connection, user.id, kept), kept)
        return await signed_in(call, user, proof)


@endpoint(
    "POST",
    "/api/v1/me/invitations",
    role="viewer",
    own="user",
    errors=(NotFound, Conflict),
    audit=Audit("user", "accept_invitation"),
    body_limit=4096,
    example=FOR_USERS,
)
async def accept_as_user(call: Call[None, HeldInvitation]) -> InvitationTold:
    """Take the role of an invitation as the user who calls. All sessions of the user end by this."""
    user = session_of(call).user
    found = await _held(call, call.body.token)
    call.note(target=user.name, invitation=found.id, invited_to=found.org, role=found.role)
    call.gateway.removing.check(found.org)
    if found.user_id is not None or not await call.gateway.invitations.spend(call.body.token):
        raise _unknown()
    await changed(call.gateway, call.caller.actor, user, {"roles": {found.org: found.role}})
    ends = rfc3339(found.ends_at)
    return InvitationTold(
        org=found.org, role=found.role, name=user.name, display_name=user.spec.display_name, is_new=False, ends_at=ends
    )


async def _held(call: Call[Any, Any], token: str) -> Invitation:
    """Return the invitation of a token. Raises `NotFound`, once that is recorded."""
    found = await call.gateway.invitations.find(token)
    if found is None:
        denied(call.gateway, call.request, "unknown", org=PLATFORM, outcome=NotFound.kind, reason="unknown_invitation")
        raise _unknown()
    return found


async def _invited(call: Call[Any, AcceptingInvitation], found: Invitation, name: str) -> UserEntry:
    """Return the user of an invitation, made where it is to be a new one. Raises `Conflict` where another one has the name."""
    users = call.gateway.users
    if found.user_id is not None:
        user = users.by_id(found.user_id)
        if user is None or not user.spec.enabled:
            raise _unknown()
        return user
    KINDS["user"].check_name(name)
    command = derived_id(found.id, "user", name)
    # One that was made by this already, and could not be answered.
    made = users.by_id(derived_id(command, "user"))
    if made is not None and made.name == name:
        return made
    if users.named(name) is not None:
        raise Conflict(f"the login {name!r} is taken")
    # One link makes one user: whoever uses it with another login from here on finds it used.
    if not await call.gateway.invitations.settle(call.body.token, name):
        raise _unknown()
    fields = {
        "display_name": found.display_name if call.body.display_name is None else call.body.display_name,
        "email": found.email,
        "roles": {found.org: found.role},
    }
    try:
        return await created(call.gateway, f"invitation:{found.id}", name, fields, command=command)
    except (Conflict, Invalid):
        # Nobody was made by it: another login may be chosen.
        if found.name is None:
            await call.gateway.invitations.release(call.body.token, name)
        raise


def _unknown() -> NotFound:
    return NotFound("this link is not known, was used, or is over: ask who sent it for another")


def _shown(one: Invitation, url: str | None = None) -> InvitationView:
    return InvitationView(
        id=one.id,
        role=None if one.user_id is not None else one.role,
        name=one.name,
        display_name=one.display_name,
        email=one.email,
        invited_by=one.actor,
        created_at=rfc3339(one.created_at),
        ends_at=rfc3339(one.ends_at),
        url=url,
    )


ENDPOINTS: tuple[Endpoint, ...] = (
    create_invitation,
    list_invitations,
    delete_invitation,
    invite_user,
    read_invitation,
    accept_invitation,
    accept_as_user,
)
