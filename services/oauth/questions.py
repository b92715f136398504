"""What the oauth service answers, and what it is told: connections here, secrets and variables in files of their own."""

from __future__ import annotations

from datetime import datetime
from typing import Protocol

import structlog

from services.oauth import keeping, secrets, variables
from services.oauth.domain import Connection, Outcome, audited, check_input, new_id_of, put, view_of
from services.oauth.keeping import Shelf
from services.oauth.vault import Vault
from shared.asking import Questions
from shared.bus import Bus
from shared.errors import NotFound, Unavailable
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
from shared.questions.settings import (
    GetSecret,
    GetVariable,
    ListSecrets,
    ListVariables,
    PutSecret,
    PutVariable,
    RemoveSecret,
    RemoveVariable,
)

_log = structlog.get_logger()


class Deps(secrets.Deps, variables.Deps, Protocol):
    """What answering needs."""

    bus: Bus
    connections: Shelf[Connection]
    vault: Vault


async def put_connection(command: PutConnection, deps: Deps) -> ConnectionView:
    """Create or replace a connection; answered when both the row and its message are on disk."""
    check_input(command)

    def made(found: Connection | None, now: datetime) -> Connection:
        id_ = found.id if found is not None else new_id_of(command.id, "connection")
        return put(found, command, deps.vault.taken(command, id_), now)

    row = await keeping.put(command, deps.connections, made)
    return view_of(row, openable=deps.vault.openable(row))


async def remove_connection(command: RemoveConnection, deps: Deps) -> Done:
    """Delete a connection: no token is given any more from the moment that it is marked."""
    await keeping.remove(command, deps.connections)
    return Done()


async def get_token(asked: GetToken, deps: Deps) -> Token:
    """Give a live token out. That it was, or was not, is on disk before: without the record there is no token."""
    connection = await deps.connections.store.usable(asked.org, asked.name)
    if connection is None:
        await _record(asked, None, "not_found", deps)
        raise NotFound(f"there is no connection {asked.name!r} in this organization or in global")
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
    rows, more = await keeping.page(deps.connections, asked.org, asked.page, asked.name)
    return ConnectionList([view_of(row, openable=deps.vault.openable(row)) for row in rows], more)


async def _record(asked: GetToken, connection: Connection | None, outcome: Outcome, deps: Deps) -> None:
    message = audited(asked, connection, outcome)
    await deps.bus.publish(deps.bus.seal(message, org=asked.org, correlation=asked.correlation_id))


QUESTIONS: Questions = {
    PutConnection: put_connection,
    RemoveConnection: remove_connection,
    GetToken: get_token,
    ListConnections: list_connections,
    PutSecret: secrets.put_secret,
    RemoveSecret: secrets.remove_secret,
    GetSecret: secrets.get_secret,
    ListSecrets: secrets.list_secrets,
    PutVariable: variables.put_variable,
    RemoveVariable: variables.remove_variable,
    GetVariable: variables.get_variable,
    ListVariables: variables.list_variables,
}
