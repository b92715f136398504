"""Questions and commands about resources in: each to the keeper of its noun."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Protocol

from shared.asking import Questions
from shared.errors import NotFound
from shared.owners.keeper import Keeper
from shared.owners.rotation import Rotation
from shared.questions.resources import (
    FindResource,
    GetResource,
    ListResources,
    PutResource,
    RemoveResource,
    to,
)
from shared.questions.rotation import RotateKeys, RotationView


class Keepers(Protocol):
    """Dependencies of these questions and commands: the keeper of each noun."""

    keepers: Mapping[str, Keeper[Any]]


class Rotates(Protocol):
    """Dependency of rotating keys."""

    rotation: Rotation


async def rotate_keys(asked: RotateKeys, deps: Rotates) -> RotationView:
    """Seal a part of what an older key seals anew."""
    return await deps.rotation.rotate(asked)


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
