"""Puts the schedules that stand beside the code of workflows, under their names, and removes those that are gone from it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import msgspec
import structlog

from services.events.schedules.rules import DECLARED
from shared import aggregate
from shared.bus import Bus
from shared.db import Connection
from shared.envelope import derived_id
from shared.errors import Conflict, MillraceError, PreconditionFailed, Unavailable
from shared.messages import WorkflowChanged, WorkflowRemoved
from shared.owners.keeper import Keeper
from shared.projected import Projected, Recorded, in_batches
from shared.questions.resources import PutResource, RemoveResource, of
from shared.resources.declaration import ResourceChanged
from shared.statements import Statement

# Follows the registration of workflows; one that was put by hand, or by a set of files, under the same name is left alone.
FILTERS = ("workflow.*.changed", "workflow.*.removed")
_log = structlog.get_logger()


class DeclaredDeps(Protocol):
    """Dependencies of this follower."""

    bus: Bus
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
                await self._keep(one.message, one)
            except Unavailable:
                raise
            except (Conflict, PreconditionFailed) as error:
                # Somebody changes it just now: read again, it is decided by what is there then.
                raise Unavailable(f"schedule {one.message.name!r}: {error}") from error
            except MillraceError as error:
                _log.warning("schedule.not_declared", org=one.envelope.org, workflow=one.message.name, reason=str(error))
        return []

    async def _keep(self, message: WorkflowChanged | WorkflowRemoved, recorded: Recorded) -> None:
        org, name, keeper = recorded.envelope.org, message.name, self._deps.keepers["schedule"]
        declared = message.policy.schedule if isinstance(message, WorkflowChanged) else None
        # The rows may be behind.
        key, mark = keeper.kind.key(org, name), f"{DECLARED}{name}"
        last = await aggregate.last(self._deps.bus.client, "schedule", key)
        found = None if last is None else last.message()
        if isinstance(found, ResourceChanged) and found.applied_as != mark:
            if declared is not None:
                _log.warning("schedule.name_is_taken", org=org, workflow=name)
            return
        if (declared is None and not isinstance(found, ResourceChanged)) or await self._is_past(message, recorded):
            return
        id_ = derived_id(recorded.envelope.id, "schedule")
        common: dict[str, Any] = {"org": org, "actor": mark, "name": name, "expected": aggregate.version_of(last)}
        if declared is None:
            await keeper.remove(of(RemoveResource, "schedule", id=id_, **common))
        elif not await self._is_done(key, id_, recorded.delivered.sequence):
            enabled = not isinstance(found, ResourceChanged) or found.spec.get("enabled", True)
            fields = msgspec.to_builtins(declared) | {"workflow": name, "enabled": enabled}
            await keeper.put(of(PutResource, "schedule", id=id_, fields=fields, applied_as=mark, **common))

    async def _is_past(self, message: WorkflowChanged | WorkflowRemoved, recorded: Recorded) -> bool:
        """Return whether the workflow was registered anew, or removed, since: all of its past is read again in a rebuild."""
        last = await aggregate.last(self._deps.bus.client, "workflow", message.key)
        return last is not None and last.sequence > recorded.delivered.sequence

    async def _is_done(self, key: str, command: str, since: int) -> bool:
        """Return whether a registration has led to its schedule already; it then stays as somebody may have changed it since."""
        done = {derived_id(command, f"schedule.{verb}") for verb in ("changed", "removed")}
        history = aggregate.history(self._deps.bus.client, "schedule", key, after=since)
        return any([one.envelope.id in done async for one in history])
