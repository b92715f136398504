"""Questions and commands about resources in: each to the keeper of its noun."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Protocol

from shared.asking import Questions
from shared.errors import NotFound
from shared.owners.keeper import Keeper
from shared.questions.resources import (
    FindResource,
    GetResource,
    ListResources,
    PutResource,
    RemoveResource,
    to,
)


class Keepers(Protocol):
    """Dependencies of these questions and commands: the keeper of each noun."""

    keepers: Mapping[str, Keeper[Any]]


def _keeper(deps: Keepers, noun: str) -> Keeper[Any]:
    keeper = deps.keepers.get(noun)
    if keeper is None:
        raise NotFound(f"there are no resources of the kind {noun[:80]!r} here")
    return keeper


def questions_of(owner: str) -> Questions:
    """Return an owner's answers to questions about its resources: those of the keeper of each noun."""
    answered: dict[Any, Callable[[Any, Keepers], Awaitable[Any]]] = {
        PutResource: lambda command, deps: _keeper(deps, command.noun).put(command),
        RemoveResource: lambda command, deps: _keeper(deps, command.noun).remove(command),
        GetResource: lambda asked, deps: _keeper(deps, asked.noun).get(asked),
        ListResources: lambda asked, deps: _keeper(deps, asked.noun).page(asked),
        FindResource: lambda asked, deps: _keeper(deps, asked.noun).entry(asked.id),
    }
    return {found: function for kind, function in answered.items() if (found := to(owner, kind)) is not None}
