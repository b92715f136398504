"""Variables: values that organizations give to their runs by name, for all of their members to read."""

from __future__ import annotations

from datetime import datetime
from typing import Protocol

import msgspec
from sqlalchemy import RowMapping

from services.oauth.domain import check_setting_name, check_value
from services.oauth.rows import Variables
from shared import aggregate
from shared.bus import Bus
from shared.envelope import derived_id, rfc3339, utc_now
from shared.errors import Conflict, NotFound, PreconditionFailed
from shared.messages import VariableChanged, VariableRemoved
from shared.messages.declaration import declaration_of, hashed_key
from shared.projection import Projection
from shared.questions import Done, fitting
from shared.questions.settings import GetVariable, ListVariables, PutVariable, RemoveVariable, VariableList, VariableView


class Deps(Protocol):
    """What variables need."""

    bus: Bus
    variables: Variables
    catalog: Projection


async def put_variable(command: PutVariable, deps: Deps) -> VariableView:
    """Create or replace a variable."""
    check_setting_name(command.name)
    check_value(command.value)
    key = hashed_key(command.org, command.name)
    before = await aggregate.last(deps.bus.client, "variable", key)
    known = _known(before)
    if before is not None and known is not None and before.envelope.id == derived_id(command.id, "variable.changed"):
        return _view(command.org, known, before.envelope.time, before.sequence)
    _expect(command, before.sequence if before and known else 0)
    message = VariableChanged(
        key=key,
        name=command.name,
        value=command.value,
        actor=command.actor,
        created_at=known.created_at if known else rfc3339(utc_now()),
    )
    sequence, at = await _record(command, message, before, deps)
    return _view(command.org, message, at, sequence)


async def remove_variable(command: RemoveVariable, deps: Deps) -> Done:
    """Remove a variable."""
    key = hashed_key(command.org, command.name)
    before = await aggregate.last(deps.bus.client, "variable", key)
    known = _known(before)
    if before is not None and before.envelope.id == derived_id(command.id, "variable.removed"):
        return Done()
    _expect(command, before.sequence if before and known else 0)
    if known is None:
        raise NotFound(f"there is no variable {command.name!r}")
    await _record(command, VariableRemoved(key=key, name=known.name, actor=command.actor), before, deps)
    return Done()


async def get_variable(asked: GetVariable, deps: Deps) -> VariableView:
    """Return what a run of the organization means by the name: its own variable, else the platform's."""
    row = await deps.variables.usable(asked.org, asked.name)
    if row is None:
        raise NotFound(f"there is no variable {asked.name!r} in this organization or in global")
    return _view_of(row)


async def list_variables(asked: ListVariables, deps: Deps) -> VariableList:
    """Return a page of the organization's variables by name."""
    limit = max(1, min(asked.page.limit, 1000))
    rows = await deps.variables.page(asked.org, after=asked.page.cursor or "", name=asked.name, limit=limit + 1)
    items = fitting([_view_of(row) for row in rows[:limit]])
    return VariableList(items, items[-1].name if len(rows) > len(items) else None)


async def _record(
    command: PutVariable | RemoveVariable,
    message: VariableChanged | VariableRemoved,
    before: aggregate.Stored | None,
    deps: Deps,
) -> tuple[int, datetime]:
    """Append what a command decided, and wait for its row; its id derives from the command's.

    Raises `PreconditionFailed` when somebody has changed the version that it demanded, `Conflict` when it demanded none.
    """
    sealed = deps.bus.seal(message, org=command.org, id=derived_id(command.id, declaration_of(message).type))
    try:
        sequence = await deps.bus.append(sealed, before.sequence if before else 0)
    except Conflict as error:
        if command.expected is None:
            raise
        raise PreconditionFailed(f"variable {command.name} is no longer at version {command.expected}") from error
    await deps.catalog.caught_up(sequence)
    return sequence, sealed.envelope.time


def _known(stored: aggregate.Stored | None) -> VariableChanged | None:
    message = None if stored is None else stored.message()
    return message if isinstance(message, VariableChanged) else None


def _expect(command: PutVariable | RemoveVariable, found: int) -> None:
    if command.expected is not None and command.expected != found:
        raise PreconditionFailed(f"variable {command.name} is at version {found}, not {command.expected}")


def _view(org: str, message: VariableChanged, at: datetime, version: int) -> VariableView:
    return VariableView(
        org=org,
        name=message.name,
        value=message.value,
        created_at=message.created_at,
        updated_at=rfc3339(at),
        version=version,
    )


def _view_of(row: RowMapping) -> VariableView:
    return VariableView(
        org=row["org"],
        name=row["name"],
        value=msgspec.json.decode(row["value"]),
        created_at=rfc3339(row["created_at"]),
        updated_at=rfc3339(row["updated_at"]),
        version=row["version"],
    )
