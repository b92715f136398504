"""What the oauth service answers, and what it is told."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime

import msgspec
import structlog

from services.oauth.announce import Announcer
from services.oauth.domain import (
    Connection,
    Outcome,
    audited,
    check_expected,
    check_input,
    new_connection_id,
    put,
    refuse_gone,
    view_of,
)
from services.oauth.store import Store
from services.oauth.vault import Vault
from shared.bus import Bus, Questions
from shared.errors import Conflict, Invalid, NotFound, Problem, Unavailable
from shared.questions import Done
from shared.questions.oauth import (
    ConnectionList,
    ConnectionView,
    GetToken,
    ListConnections,
    PutConnection,
    RemoveConnection,
    Token,
)

LIMIT = 1000
# So often a command begins again when others change the same connection at the same time.
TRIES = 5

_log = structlog.get_logger()


class Deps(msgspec.Struct, frozen=True):
    """What answering needs."""

    bus: Bus
    store: Store
    vault: Vault
    announcer: Announcer
    now: Callable[[], datetime]


async def put_connection(command: PutConnection, deps: Deps) -> ConnectionView:
    """Create or replace a connection; answered when both the row and its message are on disk."""
    check_input(command)
    _check_broker(deps)
    for _ in range(TRIES):
        found = await _settled(command.org, command.name, command.id, deps)
        if found is not None and found.last_command == command.id:
            return view_of(found, openable=deps.vault.openable(found))
        check_expected(command.expected, found)
        if found is None:
            refuse_gone(removed=await deps.store.done(command.id))
        id_ = found.id if found is not None else new_connection_id(command.id)
        made = put(found, command, deps.vault.taken(command, id_), deps.now())
        if await (deps.store.add(made) if found is None else deps.store.replace(made)):
            await deps.announcer.announce(made)
            return view_of(made, openable=True)
    raise Conflict(f"the connection {command.name!r} is being changed by others")


async def remove_connection(command: RemoveConnection, deps: Deps) -> Done:
    """Delete a connection: marked first, so that no token is given any more, then said, then deleted."""
    _check_broker(deps)
    for _ in range(TRIES):
        found = await _settled(command.org, command.name, command.id, deps)
        if await deps.store.done(command.id):
            return Done()
        check_expected(command.expected, found)
        if found is None:
            raise NotFound(f"there is no connection {command.name!r}")
        now = deps.now()
        if await deps.store.mark_revoking(found, actor=command.actor, command=command.id, now=now):
            await deps.announcer.announce(
                msgspec.structs.replace(found, revoking=True, actor=command.actor, last_command=command.id)
            )
            return Done()
    raise Conflict(f"the connection {command.name!r} is being changed by others")


async def get_token(asked: GetToken, deps: Deps) -> Token:
    """Give a live token out. That it was, or was not, is on disk before: without the record there is no token."""
    connection = await deps.store.usable(asked.org, asked.name)
    if connection is None:
        await _record(asked, None, "not_found", deps)
        raise NotFound(f"there is no connection {asked.name!r}")
    try:
        sealed = deps.vault.given(connection, asked)
    except Unavailable as error:
        _log.warning("connection.quarantined", connection=connection.id, reason=error.detail)
        await _record(asked, connection, "unavailable", deps)
        raise
    await _record(asked, connection, "ok", deps)
    return Token(connection=connection.id, name=connection.name, sealed=sealed, expires_at=None, version=connection.version)


async def list_connections(asked: ListConnections, deps: Deps) -> ConnectionList:
    """Return a page of the organization's connections by name; the cursor is the last name of the page before."""
    limit = asked.page.limit
    if not 1 <= limit <= LIMIT:
        raise Invalid(f"limit must be from 1 to {LIMIT}", errors=(Problem("limit", f"is {limit}"),))
    rows = await deps.store.page(asked.org, after=asked.page.cursor or "", name=asked.name, limit=limit + 1)
    items = [view_of(row, openable=deps.vault.openable(row)) for row in rows[:limit]]
    return ConnectionList(items, items[-1].name if len(rows) > limit else None)


async def _settled(org: str, name: str, command: str, deps: Deps) -> Connection | None:
    """Return the connection after what was done to it before is on the bus, so that no state goes unsaid.

    None when there is none, or when it was about to be deleted, which is finished first.
    """
    found = await deps.store.find(org, name)
    if found is None or found.announced:
        return found
    _log.info("connection.settled_first", connection=found.id, command=command)
    await deps.announcer.announce(found)
    return None if found.revoking else msgspec.structs.replace(found, announced=True)


async def _record(asked: GetToken, connection: Connection | None, outcome: Outcome, deps: Deps) -> None:
    message = audited(asked, connection, outcome)
    await deps.bus.publish(deps.bus.seal(message, org=asked.org, correlation=asked.correlation_id))


def _check_broker(deps: Deps) -> None:
    """Refuse before anything is changed while the change cannot be said."""
    if not deps.bus.client.is_connected:
        raise Unavailable("the broker is not connected")


QUESTIONS: Questions = {
    PutConnection: put_connection,
    RemoveConnection: remove_connection,
    GetToken: get_token,
    ListConnections: list_connections,
}
