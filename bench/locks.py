"""Contenders for one lock, in four processes, beside bare messages of the broker; then the same while they are paused and killed.

Each holder writes its fence to a row of Postgres that refuses lower ones, as whatever relies on a lock has to. A turn takes three
messages: the ticket, the lock and its end. The limit is three bare messages to a stream like the locks', one after the other.
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
from pathlib import Path
from typing import Self

import asyncpg

from bench.support import outcome
from bench.support.outcome import BenchError, Outcome, percentile
from shared.bus import connected
from shared.errors import MillraceError
from shared.locks import Locks
from shared.service import Health
from shared.streams import LOCKS
from tests.support.inside import bus_of
from tests.support.servers import Place, running_servers

PROCESSES, TASKS = 4, 13
LEASE = 2
BARE = 300
PAUSE = 0.1
# Seconds within which every contender has had a turn, whatever was done to it.
STUCK = 90.0
ROOT = Path(__file__).parents[1]
_TABLES = """
CREATE TABLE executor.resource (fence bigint NOT NULL);
INSERT INTO executor.resource VALUES (0);
CREATE TABLE executor.turn (place bigserial PRIMARY KEY, fence bigint NOT NULL, contender text NOT NULL, waited float NOT NULL,
                          taken boolean NOT NULL);
GRANT ALL ON executor.resource, executor.turn TO millrace_executor;
GRANT ALL ON SEQUENCE executor.turn_place_seq TO millrace_executor;
"""
_COLUMNS = "(fence, contender, waited, taken)"


async def contend(nats_url: str, database_url: str) -> None:
    """Take the lock for ever with so many tasks; each turn is a row."""
    pool = await asyncpg.create_pool(database_url, min_size=1, max_size=3)
    async with connected(nats_url, service="executor", health=Health("executor")) as bus:
        locks = Locks(bus.client, "executor", lease=LEASE)

        async def take(contender: str) -> None:
            while True:
                asked = time.monotonic()
                try:
                    async with locks.hold("git:default", wait=60) as fence:
                        waited = time.monotonic() - asked
                        async with pool.acquire() as connection, connection.transaction():
                            done = await connection.execute("UPDATE executor.resource SET fence = $1 WHERE fence < $1", fence)
                            row = (fence, contender, waited, done == "UPDATE 1")
                            await connection.execute(f"INSERT INTO executor.turn {_COLUMNS} VALUES ($1, $2, $3, $4)", *row)
                except MillraceError:
                    await asyncio.sleep(PAUSE)

        await asyncio.gather(*(take(f"{os.getpid()}.{number}") for number in range(TASKS)))


class Crowd:
    """Processes that contend, of which some stand still or are killed now and then; those are replaced."""

    def __init__(self, place: Place) -> None:
        self._place = place
        self._processes: list[asyncio.subprocess.Process] = []

    async def __aenter__(self) -> Self:
        for _ in range(PROCESSES):
            await self._start()
        return self

    async def __aexit__(self, *_: object) -> None:
        for one in self._processes:
            await self._end(one)

    async def disturb(self, seconds: float) -> Counter[str]:
        """Pause, kill, and end the broker in turns; returns how often each was done."""
        done: Counter[str] = Counter()
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            await asyncio.sleep(1)
            what = ("paused", "killed", "broker")[done.total() % 3]
            done[what] += 1
            one = random.choice(self._processes)
            if what == "broker":
                with suppress(ProcessLookupError):  # it is being started again
                    os.kill(self._place.broker_pid, signal.SIGKILL)
            elif what == "killed":
                self._processes.remove(one)
                await self._end(one)
                await self._start()
            else:
                one.send_signal(signal.SIGSTOP)
                await asyncio.sleep(1.5 * LEASE)
                one.send_signal(signal.SIGCONT)
        return done

    async def _start(self) -> None:
        urls = (self._place.nats_url("executor"), self._place.database_url("executor"))
        command = (sys.executable, "-m", "bench.locks", "--contend", *urls)
        self._processes.append(await asyncio.create_subprocess_exec(*command, cwd=ROOT))

    async def _end(self, one: asyncio.subprocess.Process) -> None:
        one.kill()
        await one.wait()


async def measure(_folder: Path, seconds: float) -> Outcome:
    """Measure turns a second undisturbed for half of the time, and disturb for the other half."""
    async with running_servers() as servers, servers.place() as place:
        admin = await asyncpg.connect(place.database_url("admin"))
        try:
            await admin.execute(_TABLES)
            limit = await _bare(place)
            async with Crowd(place) as crowd:
                await _turns(admin, PROCESSES * TASKS)
                begun, first = time.monotonic(), await admin.fetchval("SELECT max(place) FROM executor.turn")
                await asyncio.sleep(seconds / 2)
                rows = await admin.fetch("SELECT contender, waited FROM executor.turn WHERE place > $1", first)
                rate = len(rows) / (time.monotonic() - begun)
                done = await crowd.disturb(seconds / 2)
                await _turns(admin, await admin.fetchval("SELECT max(place) FROM executor.turn") + PROCESSES * TASKS)
            turns = await admin.fetch("SELECT fence, taken FROM executor.turn ORDER BY place")
        finally:
            await admin.close()
    taken = [row["fence"] for row in turns if row["taken"]]
    if taken != sorted(set(taken)):
        raise BenchError("the fenced resource took an old fence after a newer one")
    each = Counter(row["contender"] for row in rows)
    waited = sorted(row["waited"] for row in rows)
    return Outcome(
        name="locks",
        figure=rate,
        unit="turns/s",
        limit=limit,
        ratio=rate / limit,
        more={
            "turns a second": rate,
            "three bare messages a second": limit,
            "ratio": rate / limit,
            "contenders": len(each),
            "turns of the luckiest by those of the unluckiest": max(each.values()) / min(each.values()),
            "wait p50 s": percentile(waited, 50),
            "wait p99 s": percentile(waited, 99),
            **{f"disturbed: {what}": times for what, times in done.items()},
            "turns in all": len(turns),
            "old fences that the resource refused": len(turns) - len(taken),
            "old fences that it took": 0,
        },
    )


async def _turns(admin: asyncpg.Connection, wanted: int) -> None:
    """Wait until so many turns were taken."""
    async with asyncio.timeout(STUCK):
        while (await admin.fetchval("SELECT max(place) FROM executor.turn") or 0) < wanted:
            await asyncio.sleep(PAUSE)


async def _bare(place: Place) -> float:
    """Return how often a second three messages are stored one after the other."""
    async with bus_of(place, "executor") as bus:
        begun = time.monotonic()
        for number in range(3 * BARE):
            await bus.client.request(f"$KV.{LOCKS}.executor.bare.{number % 3}", b"x" * 80, timeout=5, headers={"Nats-TTL": "2s"})
        return BARE / (time.monotonic() - begun)


if __name__ == "__main__":
    if sys.argv[1:2] == ["--contend"]:
        asyncio.run(contend(*sys.argv[2:4]))
    else:
        outcome.command(measure, seconds=60, about=__doc__ or "")()
