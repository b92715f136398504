"""Counts the runs of organizations that have a quota for them, into a registry: whoever asks for runs reads it there."""

from __future__ import annotations

from datetime import UTC, datetime

from sqlalchemy import func, literal_column, select, text
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from services.executor.tables import run
from shared.db import transaction
from shared.envelope import utc_now
from shared.leader import lead
from shared.messages.declaration import hashed_key
from shared.quotas import Limits, Quotas, RunsUsed
from shared.registry import RegistryWriter
from shared.runs import UNENDED

# Seconds between two counts: as far behind is what a quota is held against.
EVERY = 1.0
# Organizations are found one after the other by an index, however many runs they have.
_EACH = text(
    "WITH RECURSIVE orgs AS ((SELECT min(org) AS org FROM run) UNION ALL"
    " SELECT (SELECT min(org) FROM run WHERE org > orgs.org) FROM orgs WHERE orgs.org IS NOT NULL)"
    " SELECT org FROM orgs WHERE org IS NOT NULL"
)

_STORED = text(
    "SELECT CAST((SELECT coalesce(sum(size), 0) FROM file WHERE org = :org) + (SELECT coalesce(sum(size), 0) FROM ("
    "SELECT max(size) AS size FROM file_version WHERE org = :org AND sha256 IS NOT NULL"
    " GROUP BY sha256 HAVING bool_and(until IS NOT NULL)) AS kept) AS bigint)"
)


class RunCounts:
    """Counts, in one replica at a time."""

    def __init__(self, engine: AsyncEngine, writer: RegistryWriter[RunsUsed], quotas: Quotas) -> None:
        self._engine = engine
        self._writer = writer
        self._quotas = quotas
        self._told: dict[str, RunsUsed] = {}

    async def once(self) -> int:
        """Count, and tell what has changed; return of how many organizations. Raises `Unavailable`."""
        now = utc_now()
        found: dict[str, RunsUsed] = {}
        limited = set(self._quotas.limited())
        if not (limited or self._told or self._quotas.defaults.has_runs):
            # Nothing is asked of the database where there are no quotas.
            return 0
        async with transaction(self._engine) as connection:
            if self._quotas.defaults.has_runs:
                limited |= set((await connection.execute(_EACH)).scalars())
            for org in limited:
                limits = self._quotas.of(org)
                if limits.has_runs:
                    found[org] = await _runs(connection, org, now, limits)
        changed = {org: used for org, used in found.items() if self._told.get(org) != used}
        # One that has no quota any more, or is not there, is as good as never counted.
        gone = self._told.keys() - found.keys()
        sequence = int(now.timestamp() * 1000)
        for org, used in changed.items():
            await self._writer.put(hashed_key(org), sequence, used)
        for org in gone:
            await self._writer.put(hashed_key(org), sequence, None)
        self._told = found
        return len(changed)

    async def run(self, url: str) -> None:
        """Count for ever, while no other replica with the database at `url` does."""
        await lead(
            self.once, url=url, service="executor", lock="executor.usage", pause=EVERY, first=0.0, interrupted="usage.interrupted"
        )


async def _runs(connection: AsyncConnection, org: str, now: datetime, limits: Limits) -> RunsUsed:
    """Count runs, no further than tells whether a quota is used up."""
    return RunsUsed(
        in_flight=await unended(connection, org, limits.runs_in_flight),
        on_day=await since_midnight(connection, org, now, limits.runs_a_day),
        day=now.toordinal(),
    )


async def unended(connection: AsyncConnection, org: str, most: int | None) -> int:
    """Return how many runs of an organization have not ended, `most` at most; 0 where nobody needs to know (None)."""
    return await _counted(connection, (run.c.org == org, run.c.status.in_(UNENDED)), most)


async def since_midnight(connection: AsyncConnection, org: str, now: datetime, most: int | None) -> int:
    """Return how many were asked for on this day, in UTC, likewise."""
    midnight = datetime.combine(now.astimezone(UTC).date(), datetime.min.time(), UTC)
    return await _counted(connection, (run.c.org == org, run.c.requested_at >= midnight), most)


async def stored(engine: AsyncEngine, org: str) -> int:
    """Return the bytes of an organization's files, and of each content that only their history keeps."""
    async with transaction(engine) as connection:
        return int((await connection.execute(_STORED, {"org": org})).scalar_one())


async def _counted(connection: AsyncConnection, conditions: tuple[object, ...], most: int | None) -> int:
    if most is None:
        return 0
    some = select(literal_column("1")).select_from(run).where(*conditions).limit(most).subquery()  # type: ignore[arg-type]
    return int((await connection.execute(select(func.count()).select_from(some))).scalar_one())
