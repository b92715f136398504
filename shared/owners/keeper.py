"""Common to every kind of resource, wherever its owner keeps it: the change that a command wants, and the view."""

from __future__ import annotations

import hmac
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, Generic, TypeVar

import msgspec

from shared.encryption import CannotOpen, Keyring
from shared.envelope import derived_id, rfc3339, utc_now
from shared.errors import Invalid, NotFound, Problem, Unavailable
from shared.owners.rules import Draft, Rules
from shared.questions.declaration import MOST_ITEMS, cursor_after, fitting
from shared.questions.resources import (
    Change,
    Found,
    GetResource,
    ListResources,
    PutResource,
    Removed,
    RemoveResource,
    Shown,
    ShownPage,
)
from shared.resources.declaration import KINDS, Kind, Resource, Spec
from shared.values import check, fitted

S = TypeVar("S", bound=Spec)
# In the place of secrets among what was changed.
SECRET, OTHER_SECRET = "(secret)", "(another secret)"


class Keeper(ABC, Generic[S]):
    """Answers for one kind of resource; a subclass stores its resources."""

    def __init__(self, noun: str, rules: Rules[S], keyring: Keyring) -> None:
        self.kind = KINDS[noun]
        self._rules = rules
        self._keyring = keyring

    @abstractmethod
    async def put(self, command: PutResource) -> Shown:
        """Create, replace or patch a resource. Raises `Invalid`, `NotFound`, `PreconditionFailed`, `Conflict`, `Unavailable`."""

    @abstractmethod
    async def remove(self, command: RemoveResource) -> Removed:
        """Remove a resource, by name or id. Raises as `put`."""

    async def get(self, asked: GetResource) -> Shown:
        """Return the resource that an organization means by a name or an id. Raises `NotFound`."""
        found = await self._named(asked.org, asked.name)
        if found is None or self.kind.is_placed:
            # Of a mapping the integration may be missing all the same.
            absent = await self._absent(asked)
            if found is None:
                raise absent
        return await self._answer(found, "none")

    async def page(self, asked: ListResources) -> ShownPage:
        """Return a page of resources."""
        limit = asked.page.within(MOST_ITEMS)
        found = await self._after(asked, asked.page.after(self.kind.plural), limit + 1)
        shown = await self._listed(asked, found[:limit])
        items = fitting(await self._shown(shown))
        cut = len(items) < len(shown)
        last = shown[len(items) - 1] if cut else found[limit - 1] if len(found) > limit else None
        if last is None:
            return ShownPage(items, None)
        return ShownPage(items, cursor_after(self.kind.plural, last.org if self.kind.is_placed else last.name))

    async def entry(self, id_: str) -> Found:
        """Return the registry's entry of a resource. Raises `NotFound`, always for a kind without a registry."""
        raise NotFound(f"there is no {self.kind.noun} {id_} in a registry")

    @abstractmethod
    async def _named(self, org: str, name: str) -> Resource[S] | None:
        """Return the resource that an organization means by a name or an id."""

    @abstractmethod
    async def _after(self, asked: ListResources, after: str, limit: int) -> Sequence[Resource[S]]:
        """Return the resources of a list that come after the one that `after` names."""

    async def _listed(self, _asked: ListResources, found: Sequence[Resource[S]]) -> Sequence[Resource[S]]:
        """Return those of a page that the list shows."""
        return found

    def _place(self, of: Draft[S], member: str) -> tuple[str, ...]:
        """Return the binding of a resource's secret member."""
        return of.org, of.id, member

    def _given(self, command: PutResource) -> dict[str, Any]:
        """Return the fields of a command, sealed ones opened. Raises `Invalid`, `Unavailable` when a key is missing."""
        opened: dict[str, Any] = {}
        for field, value in command.sealed.items():
            if field not in self.kind.confidential:
                continue
            try:
                opened[field] = msgspec.json.decode(self._keyring.open(value, command.org, command.id, field))
            except (CannotOpen, msgspec.DecodeError) as error:
                detail = f"{field} cannot be opened: {error}"
                if isinstance(error, CannotOpen) and not self._keyring.knows(value):
                    raise Unavailable(detail) from error
                raise Invalid(detail, errors=(Problem(field, "cannot be opened"),)) from error
        check(opened)
        return command.fields | opened

    async def _wanted(self, command: PutResource, given: dict[str, Any], before: Resource[S] | None) -> Resource[S]:
        """Return the resource as a command wants it, checked. Raises `Invalid`, and `NotFound` for a patch of nothing.

        It has the version of the one before, 0 where there is none.
        """
        kind = self.kind
        draft = await self._draft(command, given, before)
        draft = msgspec.structs.replace(draft, secrets={**draft.secrets, **self._rules.generated(draft)})
        spec = await self._rules.check(draft)
        if draft.missing:
            missing = {
                field: await self._missing(draft.org, kind.references[field], getattr(spec, field))
                for field in sorted(draft.missing)
            }
            raise Invalid("; ".join(missing.values()), errors=tuple(Problem(*one) for one in missing.items()))
        sealed = {name: value for name, value in before.sealed.items() if name in draft.kept} if before is not None else {}
        for name, value in draft.secrets.items():
            sealed[name] = self._unchanged(draft, name, value) or self._keyring.seal(value, *self._place(draft, name))
        now = rfc3339(utc_now())
        return Resource(
            id=draft.id,
            org=draft.org,
            key=kind.key(draft.org, draft.name),
            name=draft.name,
            spec=spec,
            refs=draft.refs,
            sealed=sealed,
            applied_as=command.applied_as or (before.applied_as if before is not None else None),
            created_at=before.created_at if before is not None else now,
            updated_at=now,
            version=before.version if before is not None else 0,
        )

    async def _draft(self, command: PutResource, given: dict[str, Any], before: Resource[S] | None) -> Draft[S]:
        """Return the draft of a command, with its secrets apart."""
        kind, kept = self.kind, set[str]()
        if before is not None:
            kept |= kind.secret - given.keys()
        if command.patch:
            if before is None:
                raise await self._absent(command)
            given = self._patched(given, before)
        spec: S = kind.spec_of(msgspec.to_builtins(fitted(given, kind.body)) | self._internal(command, before))
        if before is not None and self._rules.keeps_members(before.spec, spec):
            kept |= before.sealed.keys() - kind.secret
        secrets = {field: value for field in kind.secret - kept if (value := getattr(spec, field)) is not None}
        spec = msgspec.structs.replace(spec, **dict.fromkeys(kind.secret, ""))
        members = await self._rules.secret_members(command.org, command.name, spec)
        for field in sorted(kind.confidential - kind.secret):
            values = dict(getattr(spec, field))
            for member in members:
                if member in values:
                    kept.discard(member)
                    if (value := values.pop(member)) is not None:
                        secrets[member] = _text(f"{field}.{member}", value)
            spec = msgspec.structs.replace(spec, **{field: values})
        id_ = before.id if before is not None else derived_id(command.id, kind.noun)
        return Draft(
            id=id_,
            org=command.org,
            name=command.name,
            spec=spec,
            before=before,
            secrets=secrets,
            kept=frozenset(kept),
            by_platform=command.by_platform,
        )

    def _patched(self, given: dict[str, Any], before: Resource[S]) -> dict[str, Any]:
        """Return the fields of a resource with a merge patch (RFC 7396) applied: null means a field's default, and no member."""
        kind = self.kind
        present = {name: value for name, value in msgspec.to_builtins(before.spec).items() if name not in kind.internal}
        changed = {field: value for field, value in (present | given).items() if given.get(field, value) is not None}
        if self._rules.keeps_members(before.spec, kind.spec_of(msgspec.to_builtins(fitted(changed, kind.body)))):
            for field in kind.merged & given.keys():
                wanted = given[field]
                if wanted is None:
                    continue
                secret = {name: None for name in before.sealed if name in wanted and wanted[name] is None}
                changed[field] = merged(present[field], wanted) | secret
        return changed

    def _internal(self, command: PutResource, before: Resource[S] | None) -> dict[str, Any]:
        """Return the internal fields that a resource has, or gets by a command."""
        present = {} if before is None else msgspec.to_builtins(before.spec)
        given = command.internal if before is None or command.patch else {}
        return {name: value for name, value in (present | given).items() if name in self.kind.internal}

    def _unchanged(self, draft: Draft[S], name: str, value: str) -> str | None:
        """Return the secret member as it is sealed now, if it is still this value."""
        before = draft.before.sealed.get(name) if draft.before is not None else None
        if before is None:
            return None
        try:
            same = hmac.compare_digest(self._keyring.open(before, *self._place(draft, name)).encode(), value.encode())
        except CannotOpen:
            return None
        return before if same else None

    def _is_same(self, wanted: Resource[S], before: Resource[S]) -> bool:
        """Return whether a resource is wanted as it is already: as JSON, where 1, 1.0 and true are three things."""
        one, other = (msgspec.json.encode(self.kind.stored(of.spec)) for of in (wanted, before))
        return one == other and all(getattr(wanted, name) == getattr(before, name) for name in ("refs", "sealed", "applied_as"))

    async def _absent(self, asked: GetResource | PutResource | RemoveResource) -> NotFound:
        return NotFound(await self._rules.absent(asked.org, asked.name) or f"there is no {self._called(asked)}")

    async def _missing(self, org: str, noun: str, name: str) -> str:
        """Return a sentence about a resource that is referred to and is not there."""
        del org
        return f"there is no {noun} {name!r}"

    def _called(self, asked: GetResource | PutResource | RemoveResource) -> str:
        of = f" of {asked.org}" if self.kind.inherited or self.kind.is_placed else ""
        return f"{self.kind.noun} {asked.name!r}{of}"

    def _change(self, command: PutResource, stored: Resource[S]) -> Change:
        """Return the outcome of a command that was carried out: the same at every sending of it."""
        return "created" if stored.id == derived_id(command.id, self.kind.noun) else "changed"

    async def _answer(self, stored: Resource[S], change: Change, before: Resource[S] | None = None) -> Shown:
        """Return a resource as it is shown; after a change with what was changed since `before`, None: it was not there."""
        changes = {} if change == "none" else self._changes(before, stored)
        return Shown((await self._shown([stored]))[0], stored.version, change, changes)

    def _changes(self, before: Resource[S] | None, after: Resource[S] | None) -> dict[str, tuple[Any, Any]]:
        """Return the fields that differ, with both values; of a secret one both are words."""
        one, other = ({} if of is None else self.kind.visible(of.spec) for of in (before, after))
        sealed, resealed = ({} if of is None else of.sealed for of in (before, after))
        changes = {name: (one.get(name), other.get(name)) for name in one | other if one.get(name) != other.get(name)}
        for name in sorted(sealed.keys() | resealed.keys()):
            if sealed.get(name) != resealed.get(name):
                changes[name] = (SECRET if name in sealed else None, OTHER_SECRET if name in resealed else None)
        return changes

    async def _shown(self, found: Sequence[Resource[S]]) -> list[dict[str, Any]]:
        besides = await self._rules.shown(found) if found else []
        return [shown_of(self.kind, one) | more for one, more in zip(found, besides, strict=True)]


def merged(present: dict[str, Any], patch: dict[str, Any]) -> dict[str, Any]:
    """Return `present` with a JSON merge patch (RFC 7396) of one level applied: null removes."""
    made = {name: value for name, value in present.items() if patch.get(name, value) is not None}
    return made | {name: value for name, value in patch.items() if value is not None}


def shown_of(kind: Kind, stored: Resource[Any]) -> dict[str, Any]:
    """Return a resource as its organization sees it: of each reference by id the id, and the name besides; no secret."""
    fields = kind.visible(stored.spec)
    names = {f"{field}_name": fields[field] for field in kind.by_id}
    secrets = {"secrets": sorted(stored.sealed)} if "secrets" in kind.shown.__struct_fields__ else {}
    times = {name: getattr(stored, name) for name in ("created_at", "updated_at", "version", "applied_as")}
    return {"id": stored.id, "org": stored.org, "name": stored.name} | fields | stored.refs | names | secrets | times


def _text(path: str, value: Any) -> str:
    if not isinstance(value, str) or not value.strip():
        raise Invalid(f"{path} must be text that is not empty", errors=(Problem(path, "must be text"),))
    return value
