"""Rules of saved searches that no schema can state, and the keepers of all resources of this service."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from typing import Any

from sqlalchemy.ext.asyncio import AsyncEngine

from services.logs import alert_rows
from services.logs.levels import Levels
from services.logs.query import parse
from shared.bus import Bus
from shared.db import transaction
from shared.encryption import Keyring
from shared.envelope import rfc3339
from shared.owners.catalogued import catalogued
from shared.owners.keeper import Keeper
from shared.owners.rows import ResourceRows
from shared.owners.rules import Draft, Rules
from shared.projection import Projection
from shared.resources.declaration import Resource
from shared.resources.search import SavedSearch


class Searches(Rules[SavedSearch]):
    """A saved search has a query that can be read."""

    def __init__(self, engine: AsyncEngine) -> None:
        self._engine = engine

    async def check(self, draft: Draft[SavedSearch]) -> SavedSearch:
        """Return the spec if its query can be read."""
        parse(draft.spec.q)
        return draft.spec

    async def shown(self, found: Sequence[Resource[SavedSearch]]) -> Sequence[dict[str, Any]]:
        """Return whether each finds too much, and since when; one statement."""
        async with transaction(self._engine) as connection:
            states = await alert_rows.states(connection, [one.id for one in found])
        nothing: dict[str, Any] = {"above": None, "since": None}
        return [
            nothing if (state := states.get(one.id)) is None else {"above": state["above"], "since": rfc3339(state["since"])}
            for one in found
        ]


def keepers(
    bus: Bus, rows: ResourceRows, catalog: Projection, engine: AsyncEngine, now: Callable[[], datetime]
) -> Mapping[str, Keeper[Any]]:
    """Return the keepers of this service's resources. None has a secret: there is nothing to seal, and no key to do it with."""
    nothing = Keyring((os.urandom(32),))
    rules: dict[str, Rules[Any]] = {"search": Searches(engine), "level": Levels(now)}
    return catalogued("logs", rules, bus=bus, rows=rows, keyring=nothing, catalog=catalog)
