"""Puts the schedules that stand beside the code of workflows, under their names, and removes those that are gone from it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import msgspec
import structlog

from services.events.schedules.rules import DECLARED
from shared.db import Connection
from shared.envelope import derived_id
from shared.errors import MillraceError, Unavailable
from shared.messages import WorkflowChanged, WorkflowRemoved
from shared.owners.keeper import Keeper
from shared.owners.rows import ResourceRows
from shared.projected import Projected, Recorded, in_batches
from shared.questions.resources import PutResource, RemoveResource, of
from shared.statements import Statement

# Follows the registration of workflows; one that was put by hand, or by a set of files, under the same name is left alone.
FILTERS = ("workflow.*.changed", "workflow.*.removed")
_log = structlog.get_logger()


class DeclaredDeps(Protocol):
    """Dependencies of this follower."""

    resources: ResourceRows
    keepers: Mapping[str, Keeper[Any]]


class DeclaredSchedules:
    """Keeps the schedules of workflows as their code has them. A schedule that somebody switched off stays off."""

    def __init__(self, deps: DeclaredDeps) -> None:
        self._deps = deps

    def follower(self) -> Projected:
        """Return the projection, without rows, that follows workflows."""
        return Projected(name="declared-schedules", stream="CATALOG", apply=in_batches(self._follow), tables=(), filters=FILTERS)

    async def _follow(self, batch: Sequence[Recorded], _connection: Connection) -> list[Statement]:
        for one in batch:
            if not isinstance(one.message, WorkflowChanged | WorkflowRemoved):
                continue
            try:
                await self._keep(one.message, one.envelope.org, one.envelope.id)
            except Unavailable:
                raise
            except MillraceError as error:
                _log.warning("schedule.not_declared", org=one.envelope.org, workflow=one.message.name, reason=str(error))
        return []

    async def _keep(self, message: WorkflowChanged | WorkflowRemoved, org: str, cause: str) -> None:
        declared = message.policy.schedule if isinstance(message, WorkflowChanged) else None
        name, keeper, mark = message.name, self._deps.keepers["schedule"], f"{DECLARED}{message.name}"
        found = await self._deps.resources.named("schedule", org, name)
        if found is not None and found.applied_as != mark:
            if declared is not None:
                _log.warning("schedule.name_is_taken", org=org, workflow=name)
            return
        common: dict[str, Any] = {"org": org, "actor": mark, "name": name, "expected": 0 if found is None else found.version}
        if declared is not None:
            fields = msgspec.to_builtins(declared) | {"workflow": name, "enabled": found is None or found.spec.enabled}
            id_ = derived_id(cause, "schedule")
            await keeper.put(of(PutResource, "schedule", id=id_, fields=fields, applied_as=mark, **common))
        elif found is not None:
            await keeper.remove(of(RemoveResource, "schedule", id=derived_id(cause, "no schedule"), **common))
