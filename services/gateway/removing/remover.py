"""Removes organizations: the record first, then step after step at each owner, until a whole round finds nothing.

Owners keep no state of it: each call does what is left. So it goes on after any of them was killed, or the gateway, at any point.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Collection, Mapping
from typing import Any

import structlog
from sqlalchemy import delete
from sqlalchemy.ext.asyncio import AsyncEngine

from services.gateway.removing.rows import Removal, RemovalRows, RemovalView, entry_of, members_of
from services.gateway.tables import login, metadata
from shared import aggregate
from shared.bus import Bus
from shared.cache import Cache
from shared.db import transaction
from shared.envelope import derived_id, new_id, rfc3339, utc_now
from shared.errors import Conflict, MillraceError, NotFound, Unavailable
from shared.leader import lead
from shared.messages import RemovalBegan, RemovalEnded
from shared.organizations import PLATFORM
from shared.owners.keeper import Keeper
from shared.owners.removing import Deadline, Rows, are_level, remove_resources, resources_of
from shared.projection import Projection
from shared.pull import StreamError
from shared.questions.removing import (
    Left,
    RemoveInEvents,
    RemoveInExecutor,
    RemoveInLogs,
    RemoveInOAuth,
    RemoveOrganization,
    Step,
)
from shared.questions.resources import PutResource, RemoveResource
from shared.registry import RegistryWriter
from shared.removals import RemovalEntry, RemovedOrganizations

GATEWAY = "gateway"
COMMANDS: dict[str, type[RemoveOrganization]] = {
    "events": RemoveInEvents,
    "executor": RemoveInExecutor,
    "oauth": RemoveInOAuth,
    "logs": RemoveInLogs,
}
# Keys first, so that nobody acts; sources, which are unsubscribed with their senders, before the connections that this takes.
STOPPED = (GATEWAY, "events", "executor", "oauth", "logs")
# The archive knows what is on the bus. Once that is gone no row is made of it any more.
ERASED = ("logs", "events", "executor", "oauth", GATEWAY)
# Seconds between two rounds: a replica that has not heard of the removal yet, and a clock that differs by less, are behind it then.
PAUSE = 2.0
# Seconds that its beginning waits until this process knows of it.
KNOWN_WITHIN = 2.0
# Removals that go on at a time.
AT_ONCE = 4
# Characters of an error that are shown.
SHOWN = 300

_log = structlog.get_logger()


class Remover:
    """Begins removals, tells what there is to be removed, and, in one replica at a time, goes on with those that were begun."""

    def __init__(
        self,
        bus: Bus,
        engine: AsyncEngine,
        view: RemovedOrganizations,
        keepers: Mapping[str, Keeper[Any]],
        projections: Mapping[str, Projection],
        options: Cache,
        *,
        pause: float = PAUSE,
    ) -> None:
        self.rows = RemovalRows(engine)
        self._bus = bus
        self._engine = engine
        self._view = view
        self._keepers = keepers
        self._projections = projections
        self._options = options
        besides = {"key_use": "id IN (SELECT id FROM resource WHERE org = :org)", "login": "org = :org AND state <> 'pending'"}
        self._own = Rows(engine, metadata, besides)
        self._entries = RegistryWriter(bus.client, "removals", RemovalEntry)
        self._pause = pause

    def check(self, org: str) -> None:
        """Raise `Conflict` where an organization is being removed: nobody acts in it."""
        if (found := self._view.under_way(org)) is not None:
            since = rfc3339(found.began_at)
            raise Conflict(f"the organization {org!r} is being removed since {since}: look at /api/v1/removals/{org}")

    def last_of(self, org: str) -> str | None:
        """Return the id of the last removal of an organization of this name. Raises `Unavailable` while not all are known here."""
        if not self._view.is_complete:
            raise Unavailable("not all removals are known here yet", retry_after=1.0)
        found = self._view.of(org)
        return None if found is None else found.id

    def is_removing(self, org: str) -> bool:
        """Return whether an organization is being removed."""
        return self._view.under_way(org) is not None

    async def count(self, organization: str, actor: str) -> dict[str, int]:
        """Return what there is of an organization, by kind. Raises `Unavailable`."""
        asked = Removal(organization, new_id(), actor, utc_now())
        found = await asyncio.gather(*(self._of(asked, owner, "count") for owner in STOPPED), return_exceptions=True)
        counts = {kind: number for one in found if isinstance(one, dict) for kind, number in one.items() if number}
        for one in found:
            # That somebody has nothing of it is known only where everybody answers.
            if isinstance(one, BaseException) and not (counts and isinstance(one, Unavailable)):
                raise one
        return counts

    async def begin(self, organization: str, actor: str) -> RemovalView:
        """Record that an organization is being removed, unless it is already; return how it is. Raises `Unavailable`."""
        message = RemovalBegan(organization=organization, actor=actor)

        async def decide(last: aggregate.Stored | None) -> RemovalBegan | None:
            return None if last is not None and isinstance(last.message(), RemovalBegan) else message

        changed = await aggregate.change(self._bus, "removal", organization, decide, org=PLATFORM, command=new_id())
        if changed is not None:
            entry = entry_of(message, changed.envelope.id, changed.envelope.time)
            await self._entries.put(organization, changed.sequence, entry)
            await self._projections["removals"].caught_up(changed.sequence)
        deadline = asyncio.get_running_loop().time() + KNOWN_WITHIN
        while not self.is_removing(organization) and asyncio.get_running_loop().time() < deadline:
            await asyncio.sleep(0.01)
        found = await self.rows.of(organization)
        if found is None:
            raise Unavailable("the removal is recorded, and goes on; its rows are behind")
        return found

    async def run(self, url: str) -> None:
        """Go on for ever with what was begun, while no other replica with the database at `url` does."""
        await lead(
            self.once,
            url=url,
            service=GATEWAY,
            lock="gateway.removing",
            pause=self._pause,
            first=self._pause,
            interrupted="removing.interrupted",
        )

    async def once(self) -> int:
        """Go on with each removal for one round; return how many have ended by it. Raises `Unavailable`."""
        if not any(one.until is None for one in self._view.values()):
            # Nothing is asked of the database while there is nothing to do.
            return 0
        places = asyncio.Semaphore(AT_ONCE)

        async def one(found: Removal) -> bool:
            async with places:
                return await self._round(found)

        return sum(await asyncio.gather(*(one(found) for found in await self.rows.under_way())))

    async def _round(self, one: Removal) -> bool:
        """Take every step at every owner as far as it goes; end the removal where none found anything."""
        began = utc_now()
        steps: tuple[tuple[Step, Collection[str]], ...] = (("stop", STOPPED), ("erase", ERASED))
        is_clean = True
        for step, owners in steps:
            for owner in owners:
                found = await self._took(one, owner, step)
                if found is None:
                    return False
                is_clean = is_clean and not found
                if found and step == "stop":
                    # What others have may be needed for it; and nothing is erased that may still act.
                    return False
        if not is_clean:
            return False
        message = RemovalEnded(organization=one.organization, until=rfc3339(began))
        sealed = self._bus.seal(message, org=PLATFORM, id=derived_id(one.id, "ended"), correlation=one.id)

        async def missing(last: aggregate.Stored | None) -> Any:
            return sealed if last is not None and last.envelope.id == one.id else None

        client = self._bus.client
        changed = await aggregate.advance(self._bus, lambda: aggregate.present(client, "removal", one.organization), missing)
        if changed is not None:
            await self._projections["removals"].caught_up(changed.sequence)
        _log.info("organization.removed", organization=one.organization, removal=one.id)
        return True

    async def _took(self, one: Removal, owner: str, step: Step) -> dict[str, int] | None:
        """Take a step at an owner; return what it found, None where it could not be taken."""
        try:
            found, error = await self._of(one, owner, step), None
        except (MillraceError, StreamError) as caught:
            found, error = None, str(caught)[:SHOWN]
            _log.warning("organization.not_removed_yet", organization=one.organization, owner=owner, step=step, reason=error)
        await self.rows.note(one, owner, step, found or {}, error)
        return found

    async def _of(self, one: Removal, owner: str, step: Step) -> dict[str, int]:
        fields: dict[str, Any] = {
            "id": one.id,
            "org": PLATFORM,
            "actor": one.actor,
            "organization": one.organization,
            "step": step,
            "began_at": rfc3339(one.began_at),
        }
        if owner == GATEWAY:
            return await self._own_step(RemoveOrganization(**fields))
        left: Left = await self._bus.ask(COMMANDS[owner](**fields))
        return left.counts

    async def _take_roles(self, command: RemoveOrganization) -> int:
        """Take their role in an organization from its members, whose sessions end by it; return how many there were."""
        members = await members_of(self._engine, command.organization)
        for name in members:
            fields: dict[str, Any] = {"fields": {"roles": {command.organization: None}}, "patch": True, "by_platform": True}
            # Each look may meet another version of the user: it is no command that comes again.
            changing = PutResource(id=new_id(), org=PLATFORM, actor=command.actor, noun="user", name=name, **fields)
            with contextlib.suppress(NotFound):
                await self._keepers["user"].put(changing)
        return len(members)

    async def _own_step(self, command: RemoveOrganization) -> dict[str, int]:
        """Take a step of what the gateway has: keys, and whoever else may act."""
        org, deadline = command.organization, Deadline()
        if command.step == "count":
            members = len(await members_of(self._engine, org))
            return await self._own.count(org, ()) | ({"member": members} if members else {})
        if command.step == "stop":
            left = await remove_resources(command, self._keepers, await resources_of(self._engine, org), deadline)
            if members := await self._take_roles(command):
                left["member"] = members
            removing = RemoveResource(
                id=derived_id(command.id, "organization"), org=PLATFORM, actor=command.actor, noun="organization", name=org
            )
            try:
                await self._keepers["organization"].remove(removing)
            except (NotFound, Conflict):
                # It was in no list, or there are keys left, which the next round removes.
                return left
            return left
        async with transaction(self._engine) as connection:
            # Not counted: whoever asks for a key of a name need not be of the organization, and could do so for ever.
            await connection.execute(delete(login).where(login.c.org == org, login.c.state == "pending"))
        left = await are_level(list(self._projections.values())) or await self._own.delete(org, deadline)
        if forgotten := await self._options.forget(org):
            left["option"] = forgotten
        return left
