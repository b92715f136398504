"""What all commands that change an entity have in common: reading its last message, demanding a version, appending the next."""

from __future__ import annotations

from datetime import datetime
from typing import Protocol, TypeVar

from shared import aggregate
from shared.bus import Bus
from shared.envelope import derived_id
from shared.errors import Conflict, PreconditionFailed
from shared.messages import Message
from shared.messages.declaration import declaration_of
from shared.questions import Page

MAX_LIMIT = 1000

M = TypeVar("M", bound=Message)


class Deps(Protocol):
    """What recording needs."""

    bus: Bus


class Changing(Protocol):
    """A command that changes an entity, which may have to be at a version."""

    @property
    def id(self) -> str:
        """Return the command's id."""

    @property
    def org(self) -> str:
        """Return the organization whose entity it is."""

    @property
    def expected(self) -> int | None:
        """Return the version that must be there, 0 for none, None for any."""


async def record(command: Changing, message: Message, before: aggregate.Stored | None, deps: Deps) -> tuple[int, datetime]:
    """Append what a command decided; its id derives from the command's, so that sending it again does it once.

    Raises `PreconditionFailed` when somebody has changed the version that it demanded, `Conflict` when it demanded none.
    """
    sealed = deps.bus.seal(message, org=command.org, id=derived_id(command.id, declaration_of(message).type))
    try:
        return await deps.bus.append(sealed, before.sequence if before else 0), sealed.envelope.time
    except Conflict as error:
        if command.expected is None:
            raise
        raise PreconditionFailed(f"the {declaration_of(message).noun} is no longer at version {command.expected}") from error


def opened(stored: aggregate.Stored | None, expected: type[M]) -> M | None:
    """Return the message if it is of this kind and can be read: the state of an entity that is there."""
    message = None if stored is None else stored.message()
    return message if isinstance(message, expected) else None


def done_by(command: Changing, stored: aggregate.Stored | None, kind: type[Message]) -> bool:
    """Return whether an entity's last message is the very one that this command has recorded before."""
    return stored is not None and stored.envelope.id == derived_id(command.id, declaration_of(kind).type)


def expect(expected: int | None, found: int, what: str) -> None:
    """Raise `PreconditionFailed` unless the version that was demanded, if any, is there."""
    if expected is not None and expected != found:
        raise PreconditionFailed(f"{what} is at version {found}, not {expected}")


def limit_of(page: Page) -> int:
    """Return how many items a page has at most."""
    return max(1, min(page.limit, MAX_LIMIT))
