"""Questions and commands about resources in: each to the keeper of its noun."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

from shared.asking import Questions
from shared.errors import NotFound
from shared.owners.keeper import Keeper
from shared.questions.declaration import Done
from shared.questions.resources import (
    FindResource,
    Found,
    GetResource,
    ListResources,
    PutResource,
    RemoveResource,
    Shown,
    ShownPage,
    to,
)


class Keepers(Protocol):
    """Dependencies of these questions and commands: the keeper of each noun."""

    keepers: Mapping[str, Keeper[Any]]


async def put_resource(command: PutResource, deps: Keepers) -> Shown:
    """Create, replace or patch a resource."""
    return await _keeper(deps, command.noun).put(command)


async def remove_resource(command: RemoveResource, deps: Keepers) -> Done:
    """Remove a resource."""
    return await _keeper(deps, command.noun).remove(command)


async def get_resource(asked: GetResource, deps: Keepers) -> Shown:
    """Return a resource."""
    return await _keeper(deps, asked.noun).get(asked)


async def list_resources(asked: ListResources, deps: Keepers) -> ShownPage:
    """Return a page of resources."""
    return await _keeper(deps, asked.noun).page(asked)


async def find_resource(asked: FindResource, deps: Keepers) -> Found:
    """Return the registry's entry of a resource."""
    return await _keeper(deps, asked.noun).entry(asked.id)


def _keeper(deps: Keepers, noun: str) -> Keeper[Any]:
    keeper = deps.keepers.get(noun)
    if keeper is None:
        raise NotFound(f"there are no resources of the kind {noun[:80]!r} here")
    return keeper


def questions_of(owner: str) -> Questions:
    """Return an owner's answers to questions about its resources."""
    answered: dict[Any, Any] = {
        PutResource: put_resource,
        RemoveResource: remove_resource,
        GetResource: get_resource,
        ListResources: list_resources,
        FindResource: find_resource,
    }
    return {found: function for kind, function in answered.items() if (found := to(owner, kind)) is not None}
