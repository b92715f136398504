"""Resources with a secret, whose rows are the truth: the row first, then its message, then the mark that it is published."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any, TypeVar
from weakref import WeakValueDictionary

import msgspec
import structlog

from services.oauth.announce import Announcer
from services.oauth.domain import Kept, check_expected, place_of, refuse_gone
from services.oauth.store import KeptStore
from shared.aggregate import TRIES
from shared.bus import Bus
from shared.encryption import Keyring
from shared.envelope import rfc3339, utc_now
from shared.errors import Conflict, Invalid, Problem, Unavailable
from shared.organizations import seen_by
from shared.owners.keeper import Keeper
from shared.owners.rules import Draft, Rules
from shared.questions.resources import ListResources, PutResource, Removed, RemoveResource, Shown
from shared.resources import Resource, Spec

_log = structlog.get_logger()
S = TypeVar("S", bound=Spec)


class VaultRules(Rules[S]):
    """The rules for a kind with a secret in the vault."""

    async def destination(self, org: str, spec: S) -> str | None:
        """Return what stands for the places that the secret may be sent to; None where it is sent to none by this service."""
        del org, spec
        return None

    async def changed(self, before: Kept, row: Kept) -> None:
        """Do what follows from a change that is stored."""
        del before, row


class Vaulted(Keeper[S]):
    """Keeps one kind of resource, whose one secret is in no message; versions of a name count from 1, over removals too.

    Who changes where a secret is sent has to give it again: it would be sent to a place of their choice else.
    """

    def __init__(
        self, noun: str, rules: VaultRules[S], *, bus: Bus, store: KeptStore, keyring: Keyring, announcer: Announcer
    ) -> None:
        super().__init__(noun, rules, keyring)
        self._vault_rules = rules
        (self._secret,) = self.kind.secret
        self._bus = bus
        self._store = store
        self._announcer = announcer
        self._locks: WeakValueDictionary[tuple[str, str], asyncio.Lock] = WeakValueDictionary()

    async def put(self, command: PutResource) -> Shown:
        """Create, replace or patch a resource; both its row and its message are on disk when this returns."""
        kind, asked = self.kind, command
        given = self._given(command)
        self._check_broker()
        async with self._alone(command):
            for _ in range(TRIES):
                found = await self._store.named(kind.noun, asked.org, asked.name)
                command = asked if found is None else msgspec.structs.replace(asked, name=found.name)
                if not command.patch:
                    kind.check_name(command.name)
                found = await self._settled(found, command.id, is_dry=command.dry_run)
                before = None if found is None else self._made(found)
                if found is not None and before is not None and found.last_command == command.id:
                    return await self._answer(before, self._change(command, before), before)
                done = await self._store.done(command.id)
                if before is not None and done is not None:
                    # Others have changed it since: this command was carried out, and must not be again.
                    return await self._answer(before, self._change(command, before), before)
                check_expected(kind.noun, command.expected, found)
                if found is None:
                    refuse_gone(kind.noun, removed=done)
                    if command.name != asked.name:
                        # The one of that id is about to be deleted.
                        raise await self._absent(asked)
                wanted = await self._wanted(command, given, before)
                destination = await self._vault_rules.destination(command.org, wanted.spec)
                if found is not None and before is not None and found.sealed and self._secret not in given:
                    await self._check_destination(found, before, destination)
                    moved = False
                else:
                    moved = found is not None and found.destination not in (None, destination)
                if before is not None and not moved and self._is_same(wanted, before):
                    return await self._answer(before, "none")
                if command.dry_run:
                    return await self._answer(wanted, self._change(command, wanted), before)
                row = self._row(command, wanted, found, destination)
                stored = await (self._store.add(row) if found is None else self._store.replace(found, row))
                if stored is not None:
                    if found is not None:
                        await self._vault_rules.changed(found, stored)
                    await self._announcer.announce(stored)
                    return await self._answer(self._made(stored), self._change(command, wanted), before)
        raise self._busy(command)

    async def remove(self, command: RemoveResource) -> Removed:
        """Remove a resource: marked first, so that no run gets it any more, then published, then deleted."""
        noun = self.kind.noun
        self._check_broker()
        async with self._alone(command):
            for _ in range(TRIES):
                found = await self._settled(await self._store.named(noun, command.org, command.name), command.id)
                if await self._store.done(command.id):
                    return Removed()
                check_expected(noun, command.expected, found)
                if found is None:
                    raise await self._absent(command)
                await self._vault_rules.check_removal(self._made(found))
                if await self._store.mark_revoking(found, actor=command.actor, command=command.id, now=utc_now()):
                    gone = msgspec.structs.replace(found, revoking=True, actor=command.actor, last_command=command.id)
                    await self._announcer.announce(gone)
                    return Removed(self._changes(self._made(found), None))
        raise self._busy(command)

    async def _named(self, org: str, name: str) -> Resource[S] | None:
        for owner in seen_by(org) if self.kind.inherited else (org,):
            found = await self._store.named(self.kind.noun, owner, name)
            if found is not None and not found.revoking:
                return self._made(found)
        return None

    async def _after(self, asked: ListResources, after: str, limit: int) -> Sequence[Resource[S]]:
        kind = self.kind
        rows = await self._store.page(kind.noun, asked.org, after=after, limit=limit, inherited=kind.inherited)
        return [self._made(row) for row in rows]

    def _place(self, of: Draft[S], _member: str) -> tuple[str, ...]:
        return place_of(self.kind.noun, of.org, of.id, of.name)

    async def _shown(self, found: Sequence[Resource[S]]) -> list[dict[str, Any]]:
        shown = await super()._shown(found)
        openable = [
            all(self._keyring.opens(value, *place_of(self.kind.noun, one.org, one.id, one.name)) for value in one.sealed.values())
            for one in found
        ]
        return [
            {"status": "active"} | one if opens else one | {"status": "quarantined"} | _unopened(one)
            for one, opens in zip(shown, openable, strict=True)
        ]

    async def _settled(self, found: Kept | None, command: str, *, is_dry: bool = False) -> Kept | None:
        """Return a row once its earlier changes are on the bus, so that no state goes unpublished.

        None when there is none, or when it was about to be deleted, which is finished first. A dry run leaves that to others.
        """
        if found is None or found.announced:
            return found
        if not is_dry:
            _log.info(f"{found.noun}.settled_first", id=found.id, command=command)
            await self._announcer.announce(found)
        return None if found.revoking else msgspec.structs.replace(found, announced=True)

    def _made(self, row: Kept) -> Resource[S]:
        """Return the resource that a row stands for."""
        return Resource(
            id=row.id,
            org=row.org,
            key=self.kind.key(row.org, row.name),
            name=row.name,
            spec=self.kind.spec_of(row.spec),
            sealed={self._secret: row.sealed} if row.sealed else {},
            applied_as=row.applied_as,
            created_at=rfc3339(row.created_at),
            updated_at=rfc3339(row.updated_at),
            version=row.version,
        )

    async def _check_destination(self, found: Kept, before: Resource[S], destination: str | None) -> None:
        """Raise `Invalid` where a secret that is kept would be sent elsewhere from now on."""
        try:
            present = found.destination or await self._vault_rules.destination(found.org, before.spec)
        except Invalid:
            present = None
        if present != destination:
            detail = "has to be given again: with this change it would be another client's, or go to other addresses than before"
            raise Invalid(f"{self._secret} {detail}", errors=(Problem(self._secret, detail),))

    def _row(self, command: PutResource, wanted: Resource[S], found: Kept | None, destination: str | None) -> Kept:
        """Return the row, in place of `found`, that a command wants."""
        now = utc_now()
        return Kept(
            id=wanted.id,
            noun=self.kind.noun,
            org=wanted.org,
            name=wanted.name,
            spec=self.kind.stored(wanted.spec),
            sealed=wanted.sealed.get(self._secret, ""),
            applied_as=wanted.applied_as,
            version=wanted.version + 1,
            revoking=False,
            announced=False,
            actor=command.actor,
            first_command=found.first_command if found is not None else command.id,
            last_command=command.id,
            created_at=found.created_at if found is not None else now,
            updated_at=now,
            destination=destination,
        )

    def _alone(self, command: PutResource | RemoveResource) -> asyncio.Lock:
        """Return the lock of changes of one name: at once, all but one would have to be tried again, with a connection each."""
        return self._locks.setdefault((command.org, command.name), asyncio.Lock())

    def _check_broker(self) -> None:
        """Refuse before anything is changed while the change cannot be published."""
        if not self._bus.client.is_connected:
            raise Unavailable("the broker is not connected")

    def _busy(self, command: PutResource | RemoveResource) -> Conflict:
        return Conflict(f"the {self.kind.noun} {command.name!r} is being changed by others")


def _unopened(shown: dict[str, Any]) -> dict[str, str]:
    """Return why a value that does not open is quarantined, and what is to be done, where its kind shows that."""
    if "advice" not in shown:
        return {}
    why = "its secret does not open: the key that sealed it is missing, or it was altered"
    return {"reason": why, "advice": "give the service that key again, or put it again"}
