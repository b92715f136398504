"""A backlog in the archive's stream, worked off by the service, beside a bare COPY of the same rows.

Messages of a service's log wait on the broker, as after an hour in which the archive was down. The service is begun, and its
rows are counted while it works them off, with searches beside. The limit is Postgres alone: the very rows, all their columns made,
by one COPY into a table with the same indexes. Neither waits for a disk. Memory is the peak of the service's process (VmHWM).
"""

from __future__ import annotations

import asyncio
import os
import sys
import time
from collections.abc import AsyncIterator
from contextlib import suppress
from pathlib import Path

import asyncpg
import click

from bench.support import outcome
from bench.support.outcome import BenchError, Outcome, percentile
from shared.errors import MillraceError
from shared.questions import Page
from shared.questions.logs import Search
from tests.chaos.archive import MARK, flood
from tests.support.inside import bus_of
from tests.support.servers import Place, running_servers

EVENTS = 100_000
# What is archived before the clock runs: the start of the process, and cold caches.
BEFORE = 5000
SEARCHED_EVERY = 0.25
WANTED = 0.6
MOST_MB = 200
# Seconds within which the service has to begin, and then to get any further.
STUCK = 60.0


async def measure(_folder: Path, events: int) -> Outcome:
    """Measure with a backlog of so many messages."""
    async with running_servers() as servers, servers.place() as place:
        async with bus_of(place, "admin") as admin:
            await flood(admin, events)
        # Its output goes nowhere: each line would be written twice.
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            *("-m", "services", "logs"),
            env={"PATH": os.environ["PATH"], **place.environment("logs")},
            stdout=asyncio.subprocess.DEVNULL,
        )
        try:
            during: list[float] = []
            searching = asyncio.create_task(_searched(place, during))
            seconds, rows = await _worked_off(place, events)
            searching.cancel()
            with suppress(asyncio.CancelledError):
                await searching
            peak = _peak(process.pid)
            after: list[float] = []
            with suppress(TimeoutError):
                async with asyncio.timeout(5):
                    await _searched(place, after)
        finally:
            process.terminate()
            await process.wait()
        copied, copying = await _copied(place)
    if not during or not after:
        raise BenchError("no search was answered")
    rate, limit = rows / seconds, copied / copying
    return Outcome(
        name="archive",
        figure=rate,
        unit="messages/s stored",
        limit=limit,
        ratio=rate / limit,
        more={
            "events": events,
            "messages_per_s": rate,
            "copied_rows_per_s": limit,
            "ratio": rate / limit,
            "ratio_wanted": WANTED,
            "peak_memory_mb": peak,
            "peak_memory_wanted_mb": MOST_MB,
            "search_p95_ms": {"while_it_catches_up": percentile(during, 95), "afterwards": percentile(after, 95)},
            "searches": {"while_it_catches_up": len(during), "afterwards": len(after)},
        },
    )


async def _worked_off(place: Place, events: int) -> tuple[float, int]:
    """Return the seconds in which the service stored what was left after `BEFORE`, and how many messages that were."""
    connection = await asyncpg.connect(place.database_url("logs"))
    try:
        began, first, last, moved = 0.0, 0, 0, time.perf_counter()
        while last < events:
            reached = await connection.fetchval("SELECT last_seq FROM checkpoint WHERE projection = 'archive-logs'") or 0
            now = time.perf_counter()
            if reached > last:
                last, moved = reached, now
                if not began and reached >= BEFORE:
                    began, first = now, reached
            elif now - moved > STUCK:
                raise BenchError(f"nothing was archived after {last} for {STUCK:g} s")
            await asyncio.sleep(0.01)
        return moved - began, last - first
    finally:
        await connection.close()


async def _searched(place: Place, taken: list[float]) -> None:
    """Search for ever, and note the milliseconds of each answer."""
    async with bus_of(place, "gateway") as bus:
        while True:
            began = time.perf_counter()
            with suppress(MillraceError):
                await bus.ask(Search(org="global", q=f'level:info "{MARK}"', since="now-1h", page=Page(limit=100)), timeout=30.0)
                taken.append((time.perf_counter() - began) * 1000)
            await asyncio.sleep(SEARCHED_EVERY)


def _peak(pid: int) -> float:
    """Return the most memory that a process had at a time, in MB."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM")) / 1024


async def _copied(place: Place) -> tuple[int, float]:
    """Copy the archived rows into a table like theirs; return how many, and the seconds."""
    connection = await asyncpg.connect(place.database_url("admin"), server_settings={"search_path": "logs"})
    try:
        await connection.execute("CREATE TABLE bare (LIKE message INCLUDING ALL)")
        kept = bytearray()

        async def keep(data: bytes) -> None:
            kept.extend(data)

        await connection.copy_from_query("SELECT * FROM message WHERE stream = 'LOGS' ORDER BY seq", output=keep, format="binary")

        async def source() -> AsyncIterator[bytes]:
            for start in range(0, len(kept), 1 << 20):
                yield bytes(kept[start : start + (1 << 20)])

        began = time.perf_counter()
        copied = await connection.copy_to_table("bare", source=source(), format="binary")
        return int(copied.split()[-1]), time.perf_counter() - began
    finally:
        await connection.close()


@click.command()
@click.option("--json", "as_json", is_flag=True, help="Print the figures as one line of JSON last.")
@click.option("--events", default=EVENTS, show_default=True, type=click.IntRange(2 * BEFORE), help="How many messages wait.")
def main(*, as_json: bool, events: int) -> None:
    """Have the archive work off a backlog, beside a bare COPY of its rows."""
    raise SystemExit(outcome.main(lambda folder, _seconds: measure(folder, events), seconds=0, as_json=as_json))


if __name__ == "__main__":
    main()
