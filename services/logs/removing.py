"""Commands in: an organization is removed from the archive and, through their owners, from every stream that the archive has."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from itertools import groupby
from typing import Any

from sqlalchemy import RowMapping, func, literal, select, update
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncEngine

from services.logs import erasures, removals
from services.logs.domain import CATEGORY, REMOVED
from services.logs.limits import ranges_of
from services.logs.removals import MessagePlace
from services.logs.tables import erasure, message, metadata
from services.logs.tailing import LogsDeps
from shared.asking import Questions
from shared.bus import Bus
from shared.db import transaction
from shared.envelope import rfc3339
from shared.erasing import erase_messages
from shared.messages import Audited
from shared.organizations import PLATFORM
from shared.owners.keeper import Keeper
from shared.owners.removing import Deadline, Rows, are_level, remove_resources, resources_of
from shared.projection import Projection
from shared.pull import api_request
from shared.questions.removing import (
    EraseInEventsOf,
    EraseInExecutorOf,
    EraseInGatewayOf,
    EraseInOAuthOf,
    EraseOfOrganization,
    Left,
    RemoveInLogs,
)
from shared.streams import STREAMS

# What is kept: who did what, and what was done to the archive.
KEPT = "AUDIT"
# Messages that are removed together, which one record of the audit trail names for each stream.
TOGETHER = 500
# Messages are counted up to so many.
MOST_COUNTED = 1_000_000
_OWNERS = {stream.name: stream.removed_by or stream.erased_by for stream in STREAMS}
_COMMANDS: dict[str, type[EraseOfOrganization]] = {
    "gateway": EraseInGatewayOf,
    "events": EraseInEventsOf,
    "executor": EraseInExecutorOf,
    "oauth": EraseInOAuthOf,
}
_M, _E = message.c, erasure.c
# Those of the archive's own messages are removed with them, and places of what was erased stay, of nobody.
_APART = ("message", "erasure")


class OrganizationRemoval:
    """Removes what the archive has of an organization, the oldest first."""

    def __init__(
        self, engine: AsyncEngine, bus: Bus, projections: Mapping[str, Projection], keepers: Mapping[str, Keeper[Any]]
    ) -> None:
        self._engine = engine
        self._bus = bus
        self._projections = projections
        self._keepers = keepers
        self._rows = Rows(engine, metadata)

    async def step(self, command: RemoveInLogs) -> dict[str, int]:
        """Do a part of a step; return what there is left, or was found. Raises `Unavailable`."""
        org, deadline = command.organization, Deadline()
        if command.step == "count":
            return await self._rows.count(org, ()) | await self._count(org)
        if command.step == "stop":
            return await remove_resources(command, self._keepers, await resources_of(self._engine, org), deadline)
        if behind := await are_level(list(self._projections.values())):
            return behind
        removed = 0
        while not deadline.is_over and (found := await self._next(org)):
            await self._remove(command, found)
            removed += len(found)
        async with transaction(self._engine) as connection:
            await connection.execute(update(erasure).where(_E.org == org).values(org="", of=None, type=""))
        rows = await self._rows.delete(org, deadline, but=_APART)
        return rows | ({"message": removed} if removed else {})

    async def _count(self, org: str) -> dict[str, int]:
        some = select(literal(1)).where(_M.org == org, _M.line <= 0, _M.stream != KEPT).limit(MOST_COUNTED).subquery()
        async with transaction(self._engine) as connection:
            number = int((await connection.execute(select(func.count()).select_from(some))).scalar_one())
        return {"message": number} if number else {}

    async def _next(self, org: str) -> Sequence[RowMapping]:
        fields = [_M.data.op("->>")(literal(name)).label(name) for name in (*erasures.BODIES, *erasures.RESULTS)]
        wanted = select(_M.stream, _M.incarnation, _M.seq, _M.time, *fields)
        wanted = wanted.where(_M.org == org, _M.line <= 0, _M.stream != KEPT)
        async with transaction(self._engine) as connection:
            found = await connection.execute(wanted.order_by(_M.time, _M.stream, _M.seq).limit(TOGETHER))
            return found.mappings().all()

    async def _remove(self, command: RemoveInLogs, found: Sequence[RowMapping]) -> None:
        """Remove messages: recorded, taken from the bus, then what they name, then their rows, by which they are found again."""
        by: defaultdict[tuple[str, str], list[RowMapping]] = defaultdict(list)
        for row in found:
            by[row["stream"], row["incarnation"]].append(row)
        for (stream, incarnation), rows in by.items():
            await self._bus.publish(self._bus.seal(_audited(command, stream, incarnation, rows), org=PLATFORM))
            await self._take(command, stream, incarnation, [row["seq"] for row in rows])
        async with transaction(self._engine) as connection:
            nothing: dict[str, Any] = {"org": "", "type": "", "of": None, "bodies": [], "results": [], "entry": -1, "actor": "logs"}
            gone = [{name: row[name] for name in ("incarnation", "seq", "stream", "time")} | nothing for row in found]
            values = [one | {"reason": "organization removed", "taken": True, "done": True} for one in gone]
            made = insert(erasure).values(values)
            await connection.execute(made.on_conflict_do_update(index_elements=["incarnation", "seq"], set_={"org": ""}))
        await self._remove_blobs(command, found)
        for stream, of in groupby(sorted(found, key=lambda row: str(row["stream"])), key=lambda row: str(row["stream"])):
            places = [MessagePlace(row["time"], row["incarnation"], row["seq"]) for row in of]
            async with transaction(self._engine) as connection:
                await removals.remove(connection, stream, places)

    async def _take(self, command: RemoveInLogs, stream: str, incarnation: str, sequences: list[int]) -> None:
        info = await api_request(self._bus.client, f"$JS.API.STREAM.INFO.{stream}", None)
        # What is below has left by its age, or was purged.
        there = [seq for seq in sequences if seq >= int(info["state"]["first_seq"])]
        owner = _OWNERS[stream]
        if not there or owner is None:
            return
        if owner == "logs":
            await erase_messages(self._bus.client, stream, incarnation, there)
        else:
            await self._ask(command, owner, stream, incarnation, sequences=there)

    async def _remove_blobs(self, command: RemoveInLogs, found: Sequence[RowMapping]) -> None:
        for names, owner in ((erasures.BODIES, "events"), (erasures.RESULTS, "executor")):
            blobs = {row[name] for row in found for name in names if row[name]}
            async with transaction(self._engine) as connection:
                blobs -= await erasures.still_named(connection, blobs)
            if blobs:
                await self._ask(command, owner, found[0]["stream"], found[0]["incarnation"], blobs=sorted(blobs))

    async def _ask(self, command: RemoveInLogs, owner: str, stream: str, incarnation: str, **what: Any) -> None:
        fields: dict[str, Any] = {"id": command.id, "org": PLATFORM, "actor": "logs", "organization": command.organization}
        await self._bus.ask(_COMMANDS[owner](**fields, stream=stream, incarnation=incarnation, **what))


def _audited(command: RemoveInLogs, stream: str, incarnation: str, rows: Sequence[RowMapping]) -> Audited:
    times = [row["time"] for row in rows]
    detail: dict[str, Any] = {
        "incarnation": incarnation,
        "ranges": ranges_of(row["seq"] for row in rows),
        "messages": len(rows),
        "since": rfc3339(min(times)),
        "until": rfc3339(max(times)),
        "of": command.organization,
        "reason": "organization removed",
    }
    return Audited(category=CATEGORY, verb=REMOVED, actor=command.actor, target=stream, outcome="ok", detail=detail)


class LogsRemovingDeps(LogsDeps, frozen=True, kw_only=True):
    """Dependencies of all answers, and of removing."""

    removing: OrganizationRemoval


async def remove(command: RemoveInLogs, deps: LogsRemovingDeps) -> Left:
    """Do a part of a step. Raises `Unavailable`."""
    return Left(await deps.removing.step(command))


QUESTIONS: Questions = {RemoveInLogs: remove}
