"""An owner's rules for its resources, beside their declaration."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, nullcontext
from typing import Any, Generic, TypeVar

import msgspec

from shared.questions.resources import PutResource, RemoveResource
from shared.resources.declaration import Resource, Spec

S = TypeVar("S", bound=Spec)


class Draft(msgspec.Struct, Generic[S], frozen=True, kw_only=True):
    """A resource as a command wants it, to be checked before it is recorded; `before` is its present state.

    `secrets` are the secret members that are given anew, opened; those named in `kept` stay as they are. `missing` names the
    fields that refer to a missing resource: the command is refused for it when all else is found right. `by_platform` is the
    command's.
    """

    id: str
    org: str
    name: str
    spec: S
    before: Resource[S] | None
    refs: dict[str, str] = {}
    secrets: dict[str, str] = {}
    kept: frozenset[str] = frozenset()
    missing: frozenset[str] = frozenset()
    by_platform: bool = False


class Rules(Generic[S]):
    """The owner's rules for one kind that no schema can state. Each has a default: nothing."""

    async def secret_members(self, org: str, name: str, spec: S) -> Collection[str]:
        """Return which members of the `Settings` of an organization's spec are secret. Raises `Invalid`, `NotFound`."""
        del org, name, spec
        return ()

    def keeps_members(self, before: S, spec: S) -> bool:
        """Return whether members that are not given stay as they are, secret ones in any case and others in a PATCH."""
        del before, spec
        return True

    async def built_in(self, command: PutResource, noun: str, name: str) -> str | None:
        """Return the id of a resource that its owner makes where a command is the first to refer to it; None for any other."""
        del command, noun, name
        return None

    def generated(self, draft: Draft[S]) -> Mapping[str, str]:
        """Return secret members that are made where none are given, nor kept."""
        del draft
        return {}

    async def check(self, draft: Draft[S]) -> S:
        """Return the spec as it is to be recorded. Raises `Invalid` naming the field."""
        return draft.spec

    def alone(self, command: PutResource | RemoveResource) -> AbstractAsyncContextManager[None]:
        """Return a context that holds what a command may not meet changed: it is checked and recorded within, its row written."""
        del command
        return nullcontext()

    async def check_removal(self, present: Resource[S]) -> None:
        """Raise `Conflict` naming the obstacle where a resource is not to be removed now."""
        del present

    async def shown(self, found: Sequence[Resource[S]]) -> Sequence[dict[str, Any]]:
        """Return the shown values of each besides its fields, in a bounded number of statements."""
        return [{} for _ in found]

    async def absent(self, org: str, name: str) -> str | None:
        """Return a sentence about a missing name, None for the default one. Raises `NotFound`."""
        del org, name
        return None

    async def across(self, org: str | None, name: str, found: Sequence[Resource[S]]) -> Sequence[Resource[S]]:
        """Return those of one name, of all organizations or one, that its list shows. Raises `NotFound`."""
        del org, name
        return found


# Derives the values that the readers of a registry get of a resource besides the stored ones.
Derive = Callable[[Resource[Any]], dict[str, Any]]


def nothing(_stored: Resource[Any]) -> dict[str, Any]:
    """Return nothing: most registries hold no derived values."""
    return {}
