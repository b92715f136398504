"""Rules of keys and organizations that no schema can state, and the keepers of all resources of the gateway."""

from __future__ import annotations

import os
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import msgspec
from sqlalchemy.ext.asyncio import AsyncEngine

from services.gateway.key_use import KeyUse
from services.gateway.user_rules import UserRules
from services.gateway.users import Users
from shared.bus import Bus
from shared.encryption import Keyring
from shared.envelope import rfc3339, utc_now
from shared.errors import Conflict, Invalid, Problem
from shared.owners.catalogued import catalogued
from shared.owners.keeper import Keeper
from shared.owners.rows import ResourceRows
from shared.owners.rules import Draft, Rules
from shared.projection import Projection
from shared.removals import RemovedOrganizations
from shared.resources.declaration import Resource
from shared.resources.key import ApiKey
from shared.resources.organization import Organization
from shared.subscribers import READABLE
from shared.values import moment_at


class KeyRules(Rules[ApiKey]):
    """A key is narrowed to groups of endpoints that there are, and does not expire before it is there."""

    def __init__(self, use: KeyUse, users: Users, tags: Collection[str], nats_url: str) -> None:
        self._use = use
        self._users = users
        self._tags = frozenset(tags)
        self._nats_url = nats_url

    async def check(self, draft: Draft[ApiKey]) -> ApiKey:
        """Return the spec; that of a new value keeps the one before for as long as it says."""
        spec, before = draft.spec, None if draft.before is None else draft.before.spec
        _check_rate(spec.rate, spec.burst, "burst", "rate")
        if not spec.digest:
            raise Invalid("the gateway makes keys, and gave none")
        _check_reading(spec)
        for number, scope in enumerate(spec.scopes):
            if ":" not in scope and scope not in self._tags:
                detail = f"is neither a group of endpoints ({', '.join(sorted(self._tags))}) nor workflow:NAME or source:NAME"
                raise Invalid(f"scopes.{number} {detail}", errors=(Problem(f"scopes.{number}", detail),))
        if spec.expires_at is not None:
            ends = moment_at(spec.expires_at, "expires_at")
            spec = msgspec.structs.replace(spec, expires_at=rfc3339(ends))
            if ends <= utc_now() and (before is None or spec.expires_at != before.expires_at):
                raise Invalid("expires_at is over", errors=(Problem("expires_at", "is over"),))
        if before is not None and spec.digest != before.digest:
            spec = msgspec.structs.replace(spec, previous=None if spec.previous_until is None else before.digest)
        return spec

    async def shown(self, found: Sequence[Resource[ApiKey]]) -> Sequence[dict[str, Any]]:
        """Return how each key begins, whether it counts, and when it was last used; one statement."""
        used = await self._use.last([one.id for one in found])
        now = utc_now()
        return [
            {
                "prefix": one.spec.prefix,
                "status": "expired" if _is_over(one.spec.expires_at, now) else "active",
                "last_used_at": rfc3339(used[one.id]) if one.id in used else None,
                "rotated_at": one.spec.rotated_at,
                "previous_until": None if _is_over(one.spec.previous_until, now) else one.spec.previous_until,
                "login": one.spec.login,
                "user": self._login_of(one.spec.user),
                "nats_url": self._nats_url if one.spec.nats else None,
                "key": None,
            }
            for one in found
        ]

    def _login_of(self, user_id: str | None) -> str | None:
        """Return how a user is called, the id of one who is gone."""
        found = None if user_id is None else self._users.get(user_id)
        return user_id if found is None or found.value is None else found.value.name


def _check_reading(spec: ApiKey) -> None:
    """Raise `Invalid` where a key for NATS may do more than read, or another one has subjects."""
    problems = []
    if spec.nats and spec.role != "viewer":
        problems.append(Problem("role", "is viewer for a key for NATS: it reads"))
    if spec.nats and spec.scopes:
        problems.append(Problem("scopes", "are none for a key for NATS: it has subjects"))
    if spec.nats and spec.user is not None:
        problems.append(Problem("nats", "is not for a key of a sign-in, which goes on no longer than its user"))
    if spec.subjects and not spec.nats:
        problems.append(Problem("subjects", "are for keys for NATS"))
    for number, subject in enumerate(spec.subjects):
        if (noun := subject.partition(".")[0]) not in READABLE:
            nouns = ", ".join(sorted(READABLE))
            problems.append(Problem(f"subjects.{number}", f"{noun!r} is nothing that can be read: {nouns}"))
    if problems:
        raise Invalid("; ".join(f"{one.path} {one.message}" for one in problems), errors=tuple(problems))


class OrganizationRules(Rules[Organization]):
    """An organization that has keys stays, and is not changed while it is removed; a burst is part of a rate."""

    def __init__(self, rows: ResourceRows, removals: RemovedOrganizations) -> None:
        self._rows = rows
        self._removals = removals

    async def check(self, draft: Draft[Organization]) -> Organization:
        """Return the spec. Raises `Conflict` where what the organization had is being removed."""
        if self._removals.under_way(draft.name) is not None:
            raise Conflict(f"the organization {draft.name!r} is being removed: its name is free once that has ended")
        spec = draft.spec
        _check_rate(spec.rate, spec.burst, "burst", "rate")
        _check_rate(spec.webhook_rate, spec.webhook_burst, "webhook_burst", "webhook_rate")
        return spec

    async def check_removal(self, present: Resource[Organization]) -> None:
        """Raise `Conflict` while there are keys of the organization: they would go on."""
        if count := await self._rows.count("key", present.name):
            raise Conflict(f"the organization {present.name!r} has keys, {count} of them: revoke them first")


def _check_rate(rate: float | None, burst: int | None, name: str, of: str) -> None:
    if burst is not None and rate is None:
        raise Invalid(f"{name} is of no use without {of}", errors=(Problem(name, f"is of no use without {of}"),))


def _is_over(text: str | None, now: Any) -> bool:
    return text is not None and moment_at(text, "") <= now


def keepers(
    bus: Bus,
    engine: AsyncEngine,
    catalog: Projection,
    use: KeyUse,
    users: Users,
    tags: Collection[str],
    removals: RemovedOrganizations,
    *,
    nats_url: str,
) -> Mapping[str, Keeper[Any]]:
    """Return the keepers of the gateway's resources. None has a secret: of a key its digest alone is kept."""
    nothing, rows = Keyring((os.urandom(32),)), ResourceRows(engine)
    rules: dict[str, Rules[Any]] = {
        "key": KeyRules(use, users, tags, nats_url),
        "organization": OrganizationRules(rows, removals),
        "user": UserRules(engine, rows, removals),
    }
    return catalogued("gateway", rules, bus=bus, rows=rows, keyring=nothing, catalog=catalog)
