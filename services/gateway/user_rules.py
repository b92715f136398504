"""The rules of users that no schema can state."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec
from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncEngine

from services.gateway.tables import credential
from shared.db import transaction
from shared.errors import Conflict
from shared.organizations import PLATFORM
from shared.owners.rows import ResourceRows
from shared.owners.rules import Draft, Rules
from shared.removals import RemovedOrganizations
from shared.resources.declaration import Resource
from shared.resources.user import User


class UserRules(Rules[User]):
    """A user whose roles change, or who is disabled, is of another generation; a subject of a provider is one user.

    Nobody gets a role in an organization that is being removed: its removal would not end.
    """

    def __init__(self, engine: AsyncEngine, rows: ResourceRows, removals: RemovedOrganizations) -> None:
        self._engine = engine
        self._rows = rows
        self._removals = removals

    async def check(self, draft: Draft[User]) -> User:
        """Return the spec: without roles that are taken away, and of the next generation where it may do other things."""
        spec, before = draft.spec, None if draft.before is None else draft.before.spec
        spec = msgspec.structs.replace(spec, roles={org: role for org, role in sorted(spec.roles.items()) if role is not None})
        for org, role in spec.roles.items():
            if (before is None or before.roles.get(org) != role) and self._removals.under_way(org) is not None:
                raise Conflict(f"the organization {org!r} is being removed, and nobody gets a role there")
        if before is not None and (spec.roles != before.roles or spec.enabled != before.enabled):
            spec = msgspec.structs.replace(spec, generation=before.generation + 1)
        if spec.subject is not None and (before is None or (spec.issuer, spec.subject) != (before.issuer, before.subject)):
            known_as = {"issuer": spec.issuer, "subject": spec.subject}
            for other in await self._rows.having("user", PLATFORM, known_as, limit=2):
                if other.name != draft.name:
                    raise Conflict(f"the provider's subject is the user {other.name!r} already")
        return spec

    async def shown(self, found: Sequence[Resource[User]]) -> Sequence[dict[str, Any]]:
        """Return how each can sign in; one statement."""
        of = credential.c
        wanted = select(of.user_id, of.kind).where(of.user_id.in_([one.id for one in found]), of.kind != "recovery").distinct()
        async with transaction(self._engine) as connection:
            rows = (await connection.execute(wanted)).all()
        return [{"methods": sorted({row.kind for row in rows if row.user_id == one.id} | _from_provider(one))} for one in found]


def _from_provider(user: Resource[User]) -> set[str]:
    return set() if user.spec.subject is None else {"openid"}
