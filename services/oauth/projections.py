"""Messages into rows: variables. Connections and secrets have no projection, for what is sealed is in no message."""

from __future__ import annotations

from nats.aio.client import Client

from services.oauth import rows
from shared.messages import VariableChanged, VariableRemoved
from shared.projected import Projected, Projections, Recorded, one_by_one
from shared.statements import Statement


def projected(_client: Client) -> list[Projected]:
    """Return every projection of this service."""
    return [
        Projected(name="catalog", stream="CATALOG", apply=one_by_one(PROJECTIONS), tables=("variable",), filters=("variable.>",))
    ]


async def variable_changed(message: VariableChanged, at: Recorded) -> Statement:
    """A variable has a value."""
    return rows.put_variable(at.envelope.org, message, at.envelope.time, at.delivered.sequence)


async def variable_removed(message: VariableRemoved, at: Recorded) -> Statement:
    """A variable is gone."""
    return rows.remove_variable(at.envelope.org, message.name)


PROJECTIONS: Projections = {VariableChanged: variable_changed, VariableRemoved: variable_removed}
