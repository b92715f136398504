"""Finds the workflow of a run: only the message that requests a run names it, and all of the run's messages are searched by it."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence

import msgspec

from services.logs import store
from services.logs.domain import Row
from shared.db import Connection

# Runs that are remembered; those that are forgotten are looked up in the archive.
REMEMBERED = 50_000


class RunWorkflows:
    """Remembers the workflow of each run that it is shown, in the order of the stream."""

    def __init__(self) -> None:
        self._known: OrderedDict[str, str | None] = OrderedDict()

    async def named(self, rows: Sequence[Row], connection: Connection) -> list[Row]:
        """Return the rows of a batch with the workflow of their run, one statement for those that are not known."""
        asked = {row.run: row.workflow for row in rows if row.run and row.workflow and row.type == "run.requested"}
        wanted = {row.run for row in rows if _is_nameless(row) and row.run is not None}
        unknown = wanted - asked.keys() - self._known.keys()
        found = await store.workflows_of(connection, sorted(unknown)) if unknown else {}
        self._known |= asked | {run: found.get(run) for run in unknown}
        made = [
            msgspec.structs.replace(row, workflow=self._known.get(row.run)) if row.run is not None and _is_nameless(row) else row
            for row in rows
        ]
        while len(self._known) > REMEMBERED:
            self._known.popitem(last=False)
        return made


def _is_nameless(row: Row) -> bool:
    return row.workflow is None and row.type.startswith("run.")
