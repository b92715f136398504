"""/api/v1/roles: what each role may do, as the endpoints declare it."""

from __future__ import annotations

import msgspec

from services.gateway.api.document import path_of
from services.gateway.api.endpoint import Call, Endpoint, endpoint
from services.gateway.api.reference import REFERENCE
from services.gateway.principals import ROLES
from shared.resources.declaration import Role


class Allowed(msgspec.Struct, frozen=True, kw_only=True):
    """A request that a role may send; `platform`: only where the role is one in `global`."""

    method: str
    path: str
    does: str
    platform: bool


class RoleView(msgspec.Struct, frozen=True, kw_only=True):
    """A role, and what it may do beyond those before it."""

    role: Role
    adds: list[Allowed]


class RoleList(msgspec.Struct, frozen=True):
    """The roles, from the least to the most."""

    items: list[RoleView]


@endpoint("GET", "/api/v1/roles", role="viewer")
async def list_roles(call: Call[None, None]) -> RoleList:
    """List the roles, and what each may do beyond those before it."""
    endpoints = [one for one in call.request.app[REFERENCE].endpoints if one.own is None]
    return RoleList([RoleView(role=role, adds=[_allowed(one) for one in endpoints if one.role == role]) for role in ROLES])


def _allowed(one: Endpoint) -> Allowed:
    does = one.doc.partition("\n\n")[0].replace("\n", " ")
    return Allowed(method=one.method, path=path_of(one), does=does, platform=one.platform)


ENDPOINTS: tuple[Endpoint, ...] = (list_roles,)
