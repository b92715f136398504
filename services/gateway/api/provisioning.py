"""Users as the gateway's own handlers make and change them, known to this gateway when each of these returns."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from typing import Any

from services.gateway.parts import Gateway
from shared.envelope import new_id
from shared.errors import Conflict, PreconditionFailed
from shared.organizations import PLATFORM
from shared.questions.resources import PutResource, Shown, of
from shared.resources.declaration import Role
from shared.resources.user import UserEntry

# What a login is made of; all else of a name that a provider gives is left out.
_FOREIGN = re.compile(r"[^a-z0-9._@+-]+|^[^a-z0-9]+")
LONGEST = 90


async def changed(
    gateway: Gateway,
    actor: str,
    user: UserEntry,
    fields: Mapping[str, Any],
    internal: Mapping[str, Any] | None = None,
    *,
    as_it_is: bool = False,
) -> UserEntry:
    """Change what is given of a user. `as_it_is`: raises `Conflict` where it is no more in the state that is given."""
    try:
        shown = await _put(
            gateway,
            actor,
            user.name,
            fields,
            internal,
            patch=True,
            expected=user.version if as_it_is else None,
        )
    except PreconditionFailed as error:
        raise Conflict(f"the user {user.name!r} was changed meanwhile: look again") from error
    return await _known(gateway, shown)


async def created(
    gateway: Gateway,
    actor: str,
    name: str,
    fields: Mapping[str, Any],
    internal: Mapping[str, Any] | None = None,
    *,
    command: str | None = None,
) -> UserEntry:
    """Make a user. Raises `Conflict` where there is one of that name, unless the same `command` has made it."""
    try:
        shown = await _put(gateway, actor, name, fields, internal, expected=0, command=command)
    except PreconditionFailed as error:
        raise Conflict(f"the login {name!r} is taken") from error
    return await _known(gateway, shown)


async def provided(
    gateway: Gateway,
    *,
    issuer: str,
    subject: str,
    wanted: str,
    display_name: str = "",
    email: str = "",
    roles: Mapping[str, Role | None] | None = None,
) -> UserEntry:
    """Return the user whom a provider of OpenID Connect knows by a subject, made where it is not there.

    `wanted` is the login that it gets if no other user has that; `roles` it has from then on besides those that it has, None takes
    one away. A user who is disabled is returned as it is. Raises `Unavailable`, `Conflict`.
    """
    actor, fields = f"openid:{issuer}", {"display_name": display_name, "email": email}
    user = gateway.users.known_as(issuer, subject)
    if user is None:
        internal = {"issuer": issuer, "subject": subject}
        name = login_of(wanted)
        given = {one: role for one, role in (roles or {}).items() if role is not None}
        try:
            return await created(gateway, actor, name, fields | {"roles": given}, internal)
        except Conflict:
            # Another user has the name; or another sign-in of this one was quicker, and is known by now.
            user = gateway.users.known_as(issuer, subject)
        if user is None:
            marked = f"{name}-{hashlib.sha256(f'{issuer} {subject}'.encode()).hexdigest()[:8]}"
            return await created(gateway, actor, marked, fields | {"roles": given}, internal)
    wanting = {org: role for org, role in (roles or {}).items() if user.spec.roles.get(org) != role}
    if not wanting or not user.spec.enabled:
        return user
    return await changed(gateway, actor, user, {"roles": wanting})


def login_of(wanted: str) -> str:
    """Return the login that is nearest to a name which a provider gives."""
    return _FOREIGN.sub("", wanted.lower())[:LONGEST] or "user"


async def _put(
    gateway: Gateway,
    actor: str,
    name: str,
    fields: Mapping[str, Any],
    internal: Mapping[str, Any] | None,
    *,
    patch: bool = False,
    expected: int | None = None,
    command: str | None = None,
) -> Shown:
    return await gateway.bus.ask(
        of(
            PutResource,
            "user",
            id=command or new_id(),
            org=PLATFORM,
            actor=actor,
            name=name,
            fields=dict(fields),
            internal=dict(internal or {}),
            patch=patch,
            expected=expected,
            by_platform=True,
        )
    )


async def _known(gateway: Gateway, shown: Shown) -> UserEntry:
    id_ = str(shown.fields["id"])
    await gateway.users.reflect(id_, shown.version)
    user = gateway.users.by_id(id_)
    if user is None:
        raise Conflict(f"the user {shown.fields['name']!r} was removed meanwhile")
    return user
