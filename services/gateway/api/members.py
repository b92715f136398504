"""/api/v1/orgs/{org}/members: the users with a role in an organization, which sees of each what concerns itself."""

from __future__ import annotations

from typing import Annotated, Any

import msgspec

from services.gateway.api.endpoint import Answer, Audit, Call, Endpoint, Example, Reply, endpoint
from services.gateway.api.lists import Paged
from services.gateway.api.provisioning import changed
from shared.errors import Conflict, NotFound
from shared.questions.declaration import cursor_after
from shared.resources.declaration import Role, about
from shared.resources.shapes import Moment, page_of
from shared.resources.user import UserEntry


class Member(msgspec.Struct, frozen=True, kw_only=True):
    """A user with a role in the organization. Only the platform disables a user."""

    id: str
    name: str
    display_name: str
    email: str
    role: Role
    enabled: bool
    created_at: Moment


class MemberPatch(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What an organization changes of a member."""

    role: Annotated[Role, about("The role in this organization: viewer, operator, developer, admin.")]


MemberPage: Any = page_of("Member", Member, "members")


@endpoint("GET", "/api/v1/orgs/{org}/members", role="admin", answers={200: Reply(MemberPage)})
async def list_members(call: Call[Paged, None]) -> dict[str, Any]:
    """List the users with a role in the organization, by name."""
    after, limit = call.query.page.after("members"), call.query.limit
    found = [_shown(user, role) for user, role in call.gateway.users.members(call.caller.org) if user.name > after]
    page = found[:limit]
    return {"items": page, "next_cursor": cursor_after("members", page[-1].name) if len(found) > limit else None}


@endpoint("GET", "/api/v1/orgs/{org}/members/{name}", role="admin", errors=(NotFound,))
async def get_member(call: Call[None, None]) -> Member:
    """Get a member of the organization, by login or id."""
    return _shown(*_member(call))


@endpoint(
    "PATCH",
    "/api/v1/orgs/{org}/members/{name}",
    role="admin",
    whole=True,
    errors=(NotFound, Conflict),
    audit=Audit("member", "patch", "name"),
    example=Example(body={"role": "developer"}),
)
async def patch_member(call: Call[None, MemberPatch]) -> Member:
    """Give a member of the organization another role there. Its sessions end."""
    user, role = _member(call)
    call.note(changes={"role": [role, call.body.role]})
    roles = {call.caller.org: call.body.role}
    return _shown(await changed(call.gateway, call.caller.actor, user, {"roles": roles}, as_it_is=True), call.body.role)


@endpoint(
    "DELETE",
    "/api/v1/orgs/{org}/members/{name}",
    role="admin",
    whole=True,
    answers={204: None},
    errors=(NotFound, Conflict),
    audit=Audit("member", "delete", "name"),
)
async def delete_member(call: Call[None, None]) -> Answer:
    """Take the role in the organization from a user, who goes on to be one. Its sessions end."""
    user, role = _member(call)
    call.note(changes={"role": [role, None]})
    await changed(call.gateway, call.caller.actor, user, {"roles": {call.caller.org: None}}, as_it_is=True)
    return Answer(status=204)


def _member(call: Call[Any, Any]) -> tuple[UserEntry, Role]:
    """Return a member and its role. Raises `NotFound`, also for a user who is none: the organization does not learn of it."""
    users, name = call.gateway.users, call.path["name"]
    user = users.named(name) or users.by_id(name)
    role = None if user is None else user.spec.roles.get(call.caller.org)
    if user is None or role is None:
        raise NotFound(f"there is no member {name!r} of {call.caller.org}")
    return user, role


def _shown(user: UserEntry, role: Role) -> Member:
    spec = user.spec
    return Member(
        id=user.id,
        name=user.name,
        display_name=spec.display_name,
        email=spec.email,
        role=role,
        enabled=spec.enabled,
        created_at=user.created_at,
    )


ENDPOINTS: tuple[Endpoint, ...] = (list_members, get_member, patch_member, delete_member)
