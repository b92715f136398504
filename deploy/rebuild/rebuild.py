"""The order of a rebuild: look, refuse or remember, drop, replay, compare."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

import asyncpg
import msgspec
from nats.aio.client import Client

from deploy.errors import StartError
from deploy.positions import Held, held, keys, limit_age
from deploy.rebuild.display import Display
from deploy.rebuild.memory import Digest, Memory, Phase, recall, remember
from deploy.rebuild.parts import Part, Salvaged, checkpoint, replay
from deploy.rebuild.rows import Rows, any_there, digest, drop, orphans, rows_of
from shared.streams import STREAMS

LOCK = "hashtextextended($1, 0)"  # as shared.db.held_lock names them


class Rebuild:
    """One rebuild of one installation; `path` is where it is remembered."""

    def __init__(self, *, path: Path, admin: Client, connection: asyncpg.Connection, parts: list[Part], display: Display) -> None:
        """Touch nothing yet; `admin` and `connection` have administrator rights."""
        self._path = path
        self._admin = admin
        self._connection = connection
        self._parts = parts
        self._display = display
        self._streams = sorted({one.stream for part in parts for one in part.projections})

    async def run(self, *, force: bool) -> bool:
        """Rebuild, or go on with the rebuild that is under way; returns whether all rows are what they were.

        Raises `StartError` when another process writes the projections.
        """
        await self._alone()
        memory = recall(self._path)
        refused: list[str] = []
        now = await self._held()
        if memory is not None and memory.phase != "looking":
            grown = sum(one.last - memory.held[name].last for name, one in now.items() if name in memory.held)
            if grown == 0 and all(name in memory.held and memory.held[name].incarnation == now[name].incarnation for name in now):
                self._display.say("Going on with the rebuild that was interrupted.")
            else:
                self._display.say("The streams have gone on since the rebuild was interrupted: it begins anew.")
                memory = Memory(phase="looking", ages=memory.ages)
        if memory is None or memory.phase == "looking":
            memory, refused = await self._look(now, memory, force=force)
        chosen = [part for part in self._parts if part.name in memory.parts]
        if memory.phase == "dropping":
            await self._drop(chosen, memory.held)
            memory = msgspec.structs.replace(memory, phase="replaying")
            remember(self._path, memory)
        salvaged = await self._replay(chosen)
        equal = await self._compare(chosen, memory)
        self._display.salvaged(salvaged)
        await self._end(memory)
        for sentence in refused:
            self._display.say(sentence)
        return equal and not refused

    async def _look(self, now: dict[str, Held], before: Memory | None, *, force: bool) -> tuple[Memory, list[str]]:
        """Find the projections that can be rebuilt, bring them up to date, and record the digests of their rows."""
        # From here on no message may age off the bus: rows that are dropped must find theirs when they are replayed.
        ages = {name: one.max_age for name, one in now.items()} | ({} if before is None else before.ages)
        remember(self._path, Memory(phase="looking", ages=ages))
        for name in self._streams:
            await limit_age(self._admin, name, 0)
        now = await self._held()
        refused: list[str] = []
        chosen: list[Part] = []
        for part in self._parts:
            reason = await self._why_not(part, now)
            if reason is not None and not force and _is_thinned(part):
                self._display.say(f"{part.name} is kept as it is: {reason}, as it should be; its rows are all there is of them.")
            elif reason is not None and not force:
                refused.append(f"{part.name} was left alone: {reason}; --force drops its rows all the same.")
            else:
                chosen.append(part)
        # A database that was lost: the rows that are made now are all there is, and nothing is to be dropped.
        is_new = not any([await any_there(self._connection, rows_of(part.service, part.projections, now)) for part in chosen])
        if is_new:
            self._display.say("There are no rows: making them of what is on the bus …")
            for stream, there in sorted(now.items()):
                if there.gone:
                    self._display.say(
                        f"Of {stream} {there.gone} messages are no longer on the bus, and were in the lost archive alone."
                    )
        else:
            self._display.say("Bringing the rows up to date …")
        while any(one.dead for one in (await self._replay(chosen)).values()):
            # Dead letters are messages, too: the archive of them is to be as far as they are.
            pass
        now = await self._held()
        digests = await self._digests(chosen, now)
        for name, one in sorted(digests.items()):
            self._display.say(f"{name}: {one.rows} rows, {one.sha256[:16]}…")
        phase: Phase = "replaying" if is_new else "dropping"
        memory = Memory(phase=phase, ages=ages, parts=[part.name for part in chosen], held=now, digests=digests)
        remember(self._path, memory)
        return memory, refused

    async def _replay(self, parts: list[Part]) -> dict[str, Salvaged]:
        with self._display.progressing():
            return await replay(parts, self._admin, self._connection, self._display.progress)

    async def _why_not(self, part: Part, now: dict[str, Held]) -> str | None:
        """Return why the bus cannot bring back the rows of a part, or None when it can."""
        if not await any_there(self._connection, rows_of(part.service, part.projections, now)):
            return None
        reasons = []
        for one in part.projections:
            stream = now[one.stream]
            known = await checkpoint(self._connection, part.service, one.name)
            # Rows of a part of a table are those whose messages are there: older ones, or those of an earlier stream, stay.
            gone = stream.gone if one.rows is None else stream.gone_within
            if one.born is not None:
                # Messages are missing as they should: it only matters whether a row that is to be dropped has lost its first.
                rows = rows_of(part.service, [one], now)
                lost = await orphans(self._connection, rows, await keys(self._admin, one.stream, one.born))
                if lost:
                    reasons.append(f"the first messages of {lost} rows ({one.stream})")
            elif one.rows is None and known is not None and known[0] != stream.incarnation:
                reasons.append(f"all {known[1]} messages that its rows were made of (stream {one.stream} was made anew)")
            elif gone > 0:
                reasons.append(f"{gone} messages of {one.stream} (it begins at {stream.first})")
        return f"the bus no longer holds {', '.join(reasons)}" if reasons else None

    async def _drop(self, parts: Sequence[Part], then: dict[str, Held]) -> None:
        """Remove rows and checkpoints of all parts at once, and only while no other process writes them."""
        async with self._connection.transaction():
            for part in parts:
                for one in part.projections:
                    statement = f"SELECT pg_try_advisory_xact_lock({LOCK})"
                    if not await self._connection.fetchval(statement, f"{part.service}.{one.name}"):
                        raise StartError(_somebody(part, one.name))
                await drop(self._connection, rows_of(part.service, part.projections, then))
                statement = f'DELETE FROM "{part.service}".checkpoint WHERE projection = ANY($1::text[])'  # noqa: S608
                await self._connection.execute(statement, [one.name for one in part.projections])

    async def _alone(self) -> None:
        """Make sure that no service, on any machine, writes the rows to be rebuilt."""
        for part in self._parts:
            for one in part.projections:
                async with self._connection.transaction():
                    # A process killed a moment ago still has its lock until the server notices.
                    await self._connection.execute("SET LOCAL lock_timeout = '5s'")
                    try:
                        await self._connection.execute(f"SELECT pg_advisory_xact_lock({LOCK})", f"{part.service}.{one.name}")
                    except asyncpg.LockNotAvailableError as error:
                        raise StartError(_somebody(part, one.name)) from error

    async def _compare(self, parts: Sequence[Part], memory: Memory) -> bool:
        equal = self._display.compare(memory.digests, await self._digests(parts, memory.held))
        if not equal:
            gone = {name: one.gone for name, one in memory.held.items() if one.gone}
            if gone:
                told = ", ".join(f"{count} of {name}" for name, count in sorted(gone.items()))
                self._display.say(f"Rows differ where the messages that they were made of are no longer on the bus: {told}.")
            else:
                self._display.say("No message is missing from the bus: a projection does not give the same rows twice; report it.")
        return equal

    async def _digests(self, parts: Iterable[Part], then: dict[str, Held]) -> dict[str, Digest]:
        made: dict[str, Digest] = {}
        rows: list[Rows] = [one for part in parts for one in rows_of(part.service, part.projections, then)]
        for one in rows:
            made[one.name] = await digest(self._connection, one)
        return made

    async def _held(self) -> dict[str, Held]:
        return {name: await held(self._admin, name) for name in self._streams}

    async def _end(self, memory: Memory) -> None:
        for name, age in memory.ages.items():
            await limit_age(self._admin, name, age)
        self._path.unlink()


def _is_thinned(part: Part) -> bool:
    """Return whether it archives a stream whose messages go one by one: timers that have fired, and runs that ended."""
    thinned = {stream.name for stream in STREAMS if stream.schedules or stream.purged_by is not None}
    return all(one.stream in thinned and one.rows is not None and one.born is None for one in part.projections)


def _somebody(part: Part, projection: str) -> str:
    return f"Somebody writes {part.service}.{projection}: stop every service that uses this database first."
