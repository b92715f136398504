"""Resources of the catalog, as their owner keeps them: put, patch, remove, get and list, written once for every kind."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any, TypeVar

import msgspec

from shared import aggregate
from shared.bus import Bus
from shared.encryption import Keyring
from shared.envelope import new_id, rfc3339
from shared.errors import Invalid, NotFound, PreconditionFailed, Problem
from shared.organizations import PLATFORM
from shared.owners.catalog import Entries, made
from shared.owners.keeper import Keeper
from shared.owners.rotation import Place, StaleRow
from shared.owners.rows import ResourceRows
from shared.owners.rules import Derive, Draft, Rules, nothing
from shared.projection import Projection
from shared.questions.resources import Change, Found, ListResources, PutResource, Removed, RemoveResource, Shown
from shared.resources.declaration import KINDS, Resource, ResourceChanged, ResourceRemoved, Spec
from shared.values import near

EVERY_ORG = "*"

S = TypeVar("S", bound=Spec)
C = TypeVar("C", PutResource, RemoveResource)


class Catalogued(Keeper[S]):
    """Keeps one kind of resource in the catalog: its messages are the truth; rows and registry follow."""

    def __init__(
        self,
        noun: str,
        rules: Rules[S],
        *,
        bus: Bus,
        kept: ResourceRows,
        keyring: Keyring,
        catalog: Projection,
        derive: Derive = nothing,
    ) -> None:
        super().__init__(noun, rules, keyring)
        self._bus = bus
        self._rows = kept
        self._catalog = catalog
        self._entries = Entries(bus.client, self.kind, derive)

    async def put(self, command: PutResource) -> Shown:
        """Create, replace or patch a resource; its row and its registry entry are there when this returns."""
        kind, asked = self.kind, command
        command, id_ = await self._meant(asked)
        if id_ is not None and command.expected == 0:
            detail = f"is the id of a {kind.noun} that is there or was removed, and no name for another one"
            raise PreconditionFailed(f"{asked.name!r} {detail}", errors=(Problem("name", detail),))
        kind.check_name(command.name)
        given = self._given(command)
        outcome: tuple[Resource[S], Change] | None = None
        before: Resource[S] | None = None

        async def decide(last: aggregate.Stored | None) -> ResourceChanged | None:
            nonlocal outcome, before
            before = self._present(last)
            if id_ is not None and (before is None or before.id != id_):
                raise await self._absent(asked)
            wanted = await self._wanted(command, given, before)
            if before is not None and self._is_same(wanted, before):
                outcome = before, "none"
                return None
            outcome = wanted, self._change(command, wanted)
            return None if command.dry_run else self._message(command, wanted)

        key = kind.key(command.org, command.name)
        async with self._rules.alone(command):
            changed = await aggregate.change(
                self._bus, kind.noun, key, decide, org=command.org, command=command.id, demanded=command.expected
            )
            if changed is None:
                assert outcome is not None  # noqa: S101 - it was decided
                return await self._answer(*outcome, before)
            stored = made(kind, changed.message, command.org, rfc3339(changed.envelope.time), changed.sequence)
            await self._entries.put(stored)
            await self._catalog.caught_up(changed.sequence)
        # One that came again was not decided anew, and has changed nothing by that.
        return await self._answer(stored, self._change(command, stored), stored if outcome is None else before)

    async def remove(self, command: RemoveResource) -> Removed:
        """Remove a resource, by name or id."""
        kind, asked = self.kind, command
        command, id_ = await self._meant(asked)
        key = kind.key(command.org, command.name)
        before: Resource[S] | None = None

        async def decide(last: aggregate.Stored | None) -> ResourceRemoved:
            nonlocal before
            before = self._present(last)
            if before is None or kind.removed is None or id_ not in {None, before.id}:
                raise await self._absent(asked)
            await self._rules.check_removal(before)
            return kind.removed(key=key, id=before.id, name=before.name, actor=command.actor)

        async with self._rules.alone(command):
            changed = await aggregate.change(
                self._bus, kind.noun, key, decide, org=command.org, command=command.id, demanded=command.expected
            )
            await self._entries.remove(changed.message.id, changed.sequence)
            await self._catalog.caught_up(changed.sequence)
        return Removed(self._changes(before, None))

    async def reseal(self, org: str, name: str, before: Mapping[str, str], sealed: Mapping[str, str]) -> bool:
        """Record a resource with the same secrets under another key; False where one of those before is another by now."""
        kind = self.kind

        async def decide(last: aggregate.Stored | None) -> ResourceChanged | None:
            message = None if last is None else last.message()
            if not isinstance(message, ResourceChanged) or any(message.sealed.get(one) != before[one] for one in sealed):
                return None
            return msgspec.structs.replace(message, sealed={**message.sealed, **sealed})

        changed = await aggregate.change(self._bus, kind.noun, kind.key(org, name), decide, org=org, command=new_id())
        if changed is None:
            return False
        await self._entries.put(made(kind, changed.message, org, rfc3339(changed.envelope.time), changed.sequence))
        await self._catalog.caught_up(changed.sequence)
        return True

    async def entry(self, id_: str) -> Found:
        """Return the registry's entry of a resource. Raises `NotFound`."""
        found = await self._rows.by_id(self.kind.noun, id_)
        if found is None:
            raise NotFound(f"there is no {self.kind.noun} {id_}")
        stored, removed = found
        return Found(stored.version, None if removed else msgspec.to_builtins(self._entries.entry(stored)))

    async def _meant(self, command: C) -> tuple[C, str | None]:
        """Return a command with the name of the resource that it means, and the id which that must have, where it came by its id.

        Another one may have the name by now: it is not meant.
        """
        found = await self._rows.known(self.kind.noun, command.org, command.name)
        if found is None or found.name == command.name:
            return command, None
        return msgspec.structs.replace(command, name=found.name), found.id

    async def _named(self, org: str, name: str) -> Resource[S] | None:
        return await self._rows.named(self.kind.noun, org, name, inherited=self.kind.inherited)

    async def _after(self, asked: ListResources, after: str, limit: int) -> Sequence[Resource[S]]:
        kind = self.kind
        if kind.is_placed:
            return await self._rows.across(kind.noun, asked.name or "", _one_org(asked), after, limit)
        return await self._rows.page(kind.noun, asked.org, after, limit, inherited=kind.inherited)

    async def _listed(self, asked: ListResources, found: Sequence[Resource[S]]) -> Sequence[Resource[S]]:
        return await self._rules.across(_one_org(asked), asked.name or "", found) if self.kind.is_placed else found

    async def _draft(self, command: PutResource, given: dict[str, Any], before: Resource[S] | None) -> Draft[S]:
        """Return the draft of a command, with the ids of its references; the id of a missing one is empty."""
        draft = await super()._draft(command, given, before)
        kind, spec, refs, missing = self.kind, draft.spec, dict(draft.refs), set[str]()
        if kind.of_platform and draft.org != PLATFORM:
            detail = f"must be {PLATFORM}: {kind.plural} are the platform's"
            raise Invalid(f"org {detail}", errors=(Problem("org", detail),))
        if before is None and kind.most is not None and await self._rows.count(kind.noun, draft.org) >= kind.most:
            detail = f"has {kind.most:,} {kind.plural} already, which is the most"
            raise Invalid(f"name {detail}", errors=(Problem("name", detail),))
        for field, noun in kind.references.items():
            target, name = KINDS.get(noun), getattr(spec, field)
            if name is None:
                continue
            if command.patch and before is not None and field not in given:
                # It goes on meaning what it did, there or not: nothing is changed about it.
                refs |= {field: before.refs[field]} if field in before.refs else {}
                continue
            if target is None or target.owner != kind.owner:
                (target or kind).check_name(name, field)
                continue
            found = await self._rows.named(noun, draft.org, name, inherited=target.inherited)
            id_ = found.id if found is not None else await self._rules.built_in(command, noun, name)
            if id_ is None:
                missing.add(field)
            if field in kind.by_id:
                refs[field] = id_ or ""
                spec = msgspec.structs.replace(spec, **{field: found.name if found is not None else name})
        return msgspec.structs.replace(draft, spec=spec, refs=refs, missing=frozenset(missing))

    async def _missing(self, org: str, noun: str, name: str) -> str:
        names = await self._rows.names(noun, org, inherited=KINDS[noun].inherited)
        return await super()._missing(org, noun, name) + near(name, names)

    def _message(self, command: PutResource, wanted: Resource[S]) -> ResourceChanged:
        """Return the message that gives a resource its wanted state."""
        assert self.kind.changed is not None  # noqa: S101 - it is in the catalog
        return self.kind.changed(
            key=wanted.key,
            id=wanted.id,
            name=wanted.name,
            spec=self.kind.stored(wanted.spec),
            refs=wanted.refs,
            sealed=wanted.sealed,
            actor=command.actor,
            created_at=wanted.created_at,
            applied_as=wanted.applied_as,
        )

    def _present(self, last: aggregate.Stored | None) -> Resource[S] | None:
        """Return the resource that an aggregate's last message makes; None where it was removed, or never was."""
        message = None if last is None else last.message()
        if last is None or not isinstance(message, ResourceChanged):
            return None
        return made(self.kind, message, last.envelope.org, rfc3339(last.envelope.time), last.sequence)


def catalogued(
    owner: str,
    rules: Mapping[str, Rules[Any]],
    *,
    bus: Bus,
    rows: ResourceRows,
    keyring: Keyring,
    catalog: Projection,
    derive: Mapping[str, Derive] = MappingProxyType({}),
) -> dict[str, Keeper[Any]]:
    """Return by noun the keepers of an owner's catalogued resources; one without rules of its own has the default ones."""
    nouns = [kind.noun for kind in KINDS.values() if kind.owner == owner and not kind.in_vault]
    return {
        noun: Catalogued(noun, found, bus=bus, kept=rows, keyring=keyring, catalog=catalog, derive=derive.get(noun, nothing))
        for noun, found in (dict.fromkeys(nouns, Rules[Any]()) | dict(rules)).items()
    }


class SealedResources:
    """The resources of an owner's catalog that have secrets, as `SealedRows`: what is sealed anew is a message like any other."""

    def __init__(self, rows: ResourceRows, keepers: Mapping[str, Keeper[Any]]) -> None:
        self._rows = rows
        self._keepers = keepers

    async def stale(self, key: str, after: str, limit: int) -> Sequence[StaleRow]:
        """Return those with a secret that another key than the one of this id seals, by id, those after `after`."""
        return await self._rows.stale(key, after, limit)

    async def count_stale(self, key: str) -> int:
        """Return how many there are."""
        return await self._rows.count_stale(key)

    async def reseal(self, row: StaleRow, sealed: Mapping[Place, str]) -> bool:
        """Record a resource with the same secrets under another key; False where one of them is another by now."""
        keeper = self._keepers[row.noun]
        assert isinstance(keeper, Catalogued)  # noqa: S101 - it is in the catalog
        before, after = ({place[-1]: value for place, value in of.items()} for of in (row.sealed, sealed))
        return await keeper.reseal(row.org, row.name, before, after)


def _one_org(asked: ListResources) -> str | None:
    return None if asked.org == EVERY_ORG else asked.org
