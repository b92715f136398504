"""`python -m tests.chaos.archive`: kill the archive's writer and its database at random while it works off a flood of messages.

Every sequence of the stream must be there exactly once, with its bytes, and nothing may be called a gap.
"""

from __future__ import annotations

import asyncio
import os
import random
import signal
import sys
import time
from collections import Counter
from contextlib import suppress
from typing import Any

import asyncpg
import click
import msgspec

from shared.bus import Bus
from shared.messages import Logged
from tests.support.inside import bus_of
from tests.support.servers import Place, running_servers

EVENTS, QUICK_EVENTS = 200_000, 10_000
KILLS, QUICK_KILLS = 20, 4
MARK = "chaos.flooded"
SUBJECT = "log.events.info"
# Messages between two flushes of the sender.
TOGETHER = 1000
# Seconds without any progress after which the archive counts as stuck.
STUCK = 90.0
_COUNTS = """
    SELECT count(*) AS rows, count(DISTINCT seq) AS sequences, coalesce(max(seq), 0) AS last,
           count(DISTINCT (data -> 'fields' ->> 'number')) FILTER (WHERE data ->> 'event' = $1) AS numbers,
           count(*) FILTER (WHERE data ->> 'event' = $1) AS flooded,
           count(*) FILTER (WHERE type = 'undecodable') AS undecodable,
           (SELECT count(*) FROM gap) AS gaps
      FROM message WHERE stream = 'LOGS'
"""


class Verdict(msgspec.Struct, frozen=True):
    """What was found; `lost` and `twice` are numbers of sequences, `seconds` from the first message to the last row."""

    events: int
    kills: dict[str, int]
    stored: int
    lost: int
    twice: int
    unread: int
    gaps: int
    seconds: float

    @property
    def is_well(self) -> bool:
        """Return whether every sequence is there exactly once."""
        return not (self.lost or self.twice or self.unread or self.gaps)


class Archive:
    """The service in a process of its own, which is begun again after each kill, and its database."""

    def __init__(self, place: Place) -> None:
        self._place = place
        self._process: asyncio.subprocess.Process | None = None

    async def start(self) -> None:
        """Begin the service, where it does not run."""
        if self._process is None or self._process.returncode is not None:
            self._process = await asyncio.create_subprocess_exec(
                sys.executable,
                *("-m", "services", "logs"),
                env={"PATH": os.environ["PATH"], **self._place.environment("logs")},
                stdout=asyncio.subprocess.DEVNULL,
                stderr=asyncio.subprocess.DEVNULL,
            )

    async def kill(self) -> None:
        """Kill the service, and wait for its end."""
        if self._process is not None:
            with suppress(ProcessLookupError):
                self._process.kill()
            await self._process.wait()

    def kill_database(self) -> None:
        """Kill the server of the database, whose supervisor begins it again."""
        pid = self._place.servers.postgres.supervised.state.pid
        if pid is not None:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)

    async def asked(self, query: str, *values: Any) -> asyncpg.Record | None:
        """Return a row; None while the database is away."""
        try:
            # Counting every row takes longer than the service may.
            settings = {"statement_timeout": "0"}
            connection = await asyncpg.connect(self._place.database_url("logs"), timeout=5, server_settings=settings)
        except (OSError, TimeoutError, asyncpg.PostgresError, asyncpg.InterfaceError):
            return None
        try:
            return await connection.fetchrow(query, *values)
        except (OSError, asyncpg.PostgresError, asyncpg.InterfaceError):
            return None
        finally:
            connection.terminate()

    async def reached(self) -> int:
        """Return the sequence up to which LOGS is archived; 0 while the database is away."""
        row = await self.asked("SELECT last_seq FROM checkpoint WHERE projection = 'archive-logs'")
        return 0 if row is None else int(row["last_seq"])


async def flood(bus: Bus, events: int) -> None:
    """Publish so many messages, each with its number."""
    made = bus.seal(Logged(service="events", level="info", event=MARK, fields={"number": 0, "text": "x" * 100}), org="global")
    before, _, after = made.document.partition(b'"number":0')
    for number in range(1, events + 1):
        await bus.client.publish(SUBJECT, before + b'"number":%d' % number + after)
        if number % TOGETHER == 0:
            await bus.client.flush()
    await bus.client.flush()


async def carry_out(place: Place, *, events: int, kills: int, seed: int) -> Verdict:
    """Flood the archive, kill, and count. Raises TimeoutError where it stands still."""
    chance = random.Random(seed)
    marks = sorted(chance.sample(range(1, events), kills))
    done: Counter[str] = Counter()
    archive = Archive(place)
    began = time.monotonic()
    try:
        async with bus_of(place, "admin") as admin:
            await archive.start()
            flooding = asyncio.create_task(flood(admin, events))
            moved_at, last = time.monotonic(), 0
            while True:
                await archive.start()
                reached = await archive.reached()
                if reached > last:
                    moved_at, last = time.monotonic(), reached
                if time.monotonic() - moved_at > STUCK:
                    raise TimeoutError(f"nothing was archived after {last} for {STUCK:g} s")
                if marks and reached >= marks[0]:
                    marks.pop(0)
                    target = chance.choice(("logs", "postgres"))
                    done[target] += 1
                    if target == "logs":
                        await archive.kill()
                    else:
                        archive.kill_database()
                elif flooding.done() and not marks:
                    await flooding
                    info = await admin.client.jetstream().stream_info("LOGS")
                    if reached >= events and reached >= info.state.last_seq:
                        break
                await asyncio.sleep(0.02)
            seconds = time.monotonic() - began
        await archive.kill()
        async with asyncio.timeout(STUCK):
            while (found := await archive.asked(_COUNTS, MARK)) is None:
                await asyncio.sleep(0.1)
    finally:
        await archive.kill()
    return Verdict(
        events=events,
        kills=dict(done),
        stored=found["flooded"],
        lost=found["last"] - found["sequences"] + events - found["numbers"],
        twice=found["rows"] - found["sequences"] + found["flooded"] - found["numbers"],
        unread=found["undecodable"],
        gaps=found["gaps"],
        seconds=round(seconds, 1),
    )


async def _drilled(events: int, kills: int, seed: int) -> Verdict:
    verdict: Verdict | None = None
    try:
        async with running_servers() as servers, servers.place() as place:
            verdict = await carry_out(place, events=events, kills=kills, seed=seed)
    except asyncpg.InterfaceError:
        # The connection by which the place would be cleared away was killed as well.
        if verdict is None:
            raise
    assert verdict is not None
    return verdict


@click.command(name="chaos of the archive")
@click.option("--quick", is_flag=True, help=f"{QUICK_EVENTS:,} messages and {QUICK_KILLS} kills.")
@click.option("--seed", type=int, help="Of the plan: where, and whom.  [default: drawn, and printed]")
def main(*, quick: bool, seed: int | None) -> None:
    """Kill the archive's writer and its database under a flood; exit 1 if any sequence is missing, or there twice."""
    seed = random.randrange(1 << 31) if seed is None else seed
    events, kills = (QUICK_EVENTS, QUICK_KILLS) if quick else (EVENTS, KILLS)
    click.echo(f"{events:,} messages, {kills} kills, seed {seed}", err=True)
    verdict = asyncio.run(_drilled(events, kills, seed))
    click.echo(msgspec.json.encode(verdict))
    sys.exit(0 if verdict.is_well else 1)


if __name__ == "__main__":
    main()
