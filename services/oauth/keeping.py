"""Putting and removing rows with something sealed, whatever they are: row first, marked; then said; then marked as said."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from typing import Generic, Protocol

import msgspec
import structlog

from services.oauth.announce import Announcer
from services.oauth.domain import K, check_expected, refuse_gone
from services.oauth.store import KeptStore
from shared.bus import Bus
from shared.errors import Conflict, Invalid, NotFound, Problem, Unavailable
from shared.questions import Page

LIMIT = 1000
# So often a command begins again when others change the same row at the same time.
TRIES = 5

_log = structlog.get_logger()


class Putting(Protocol):
    """A command that puts or removes what has a name in an organization."""

    @property
    def id(self) -> str:
        """What makes it this command."""

    @property
    def org(self) -> str:
        """Whose."""

    @property
    def actor(self) -> str:
        """Who told it."""

    @property
    def name(self) -> str:
        """What."""

    @property
    def expected(self) -> int | None:
        """The version that must be there; 0 for none, None for any."""


class Shelf(msgspec.Struct, Generic[K], frozen=True):
    """Where rows of one kind are kept; `what` is the word for one of them."""

    what: str
    bus: Bus
    store: KeptStore[K]
    announcer: Announcer[K]
    now: Callable[[], datetime]


async def put(command: Putting, shelf: Shelf[K], made: Callable[[K | None, datetime], K]) -> K:
    """Create or replace a row, `made` of the one that is there; returns when both it and its message are on disk.

    Raises `PreconditionFailed`, `Conflict`, `Unavailable`, and what `made` raises.
    """
    _check_broker(shelf)
    for _ in range(TRIES):
        found = await _settled(command, shelf)
        if found is not None and found.last_command == command.id:
            return found
        check_expected(shelf.what, command.expected, found)
        if found is None:
            refuse_gone(shelf.what, removed=await shelf.store.done(command.id))
        row = made(found, shelf.now())
        if await (shelf.store.add(row) if found is None else shelf.store.replace(row)):
            await shelf.announcer.announce(row)
            return row
    raise Conflict(f"the {shelf.what} {command.name!r} is being changed by others")


async def remove(command: Putting, shelf: Shelf[K]) -> None:
    """Delete a row: marked first, so that it is given to nobody any more, then said, then deleted.

    Raises `NotFound`, `PreconditionFailed`, `Conflict`, `Unavailable`.
    """
    _check_broker(shelf)
    for _ in range(TRIES):
        found = await _settled(command, shelf)
        if await shelf.store.done(command.id):
            return
        check_expected(shelf.what, command.expected, found)
        if found is None:
            raise NotFound(f"there is no {shelf.what} {command.name!r}")
        if await shelf.store.mark_revoking(found, actor=command.actor, command=command.id, now=shelf.now()):
            gone = msgspec.structs.replace(found, revoking=True, actor=command.actor, last_command=command.id)
            await shelf.announcer.announce(gone)
            return
    raise Conflict(f"the {shelf.what} {command.name!r} is being changed by others")


async def page(shelf: Shelf[K], org: str, asked: Page, name: str | None) -> tuple[list[K], str | None]:
    """Return rows of an organization by name, and the cursor for more: the last name of these. Raises `Invalid`."""
    if not 1 <= asked.limit <= LIMIT:
        raise Invalid(f"limit must be from 1 to {LIMIT}", errors=(Problem("limit", f"is {asked.limit}"),))
    rows = await shelf.store.page(org, after=asked.cursor or "", name=name, limit=asked.limit + 1)
    found = rows[: asked.limit]
    return found, found[-1].name if len(rows) > asked.limit else None


async def _settled(command: Putting, shelf: Shelf[K]) -> K | None:
    """Return the row after what was done to it before is on the bus, so that no state goes unsaid.

    None when there is none, or when it was about to be deleted, which is finished first.
    """
    found = await shelf.store.find(command.org, command.name)
    if found is None or found.announced:
        return found
    _log.info(f"{shelf.what}.settled_first", id=found.id, command=command.id)
    await shelf.announcer.announce(found)
    return None if found.revoking else msgspec.structs.replace(found, announced=True)


def _check_broker(shelf: Shelf[K]) -> None:
    """Refuse before anything is changed while the change cannot be said."""
    if not shelf.bus.client.is_connected:
        raise Unavailable("the broker is not connected")
