"""Parking: runs over their organization's share make way for those of others, and are resumed when there is room for them.

A parked run is on the bus as `run.waiting`, blocked on `worker`. This process remembers the runs that it has parked; those of a
killed process come back by their time, which the search of `resumer` finds.
"""

from __future__ import annotations

import asyncio
import contextlib
from typing import Protocol

import structlog

from services.executor.runs.groups import WorkerGroups
from services.executor.runs.resumer import Resumer
from services.executor.runs.shares import SHOWN, Shares
from services.executor.store import ExecutorStore
from shared.errors import Unavailable
from shared.pull import StreamError

# Seconds between two looks at the queues of other organizations.
LOOK = 0.25
# Seconds without any parking after which it has ended, as far as the log is concerned.
ENDED = 10.0
# Runs that are resumed at a time.
AT_A_TIME = 8
_log = structlog.get_logger()


class ParkingDeps(Protocol):
    """Dependencies of parking."""

    shares: Shares
    groups: WorkerGroups
    store: ExecutorStore


class Parking:
    """Looks after the runs that wait for their organization's share."""

    def __init__(self, deps: ParkingDeps, resumer: Resumer) -> None:
        self._deps = deps
        self._shares = deps.shares
        self._resumer = resumer
        self._next_look = 0.0
        self._parked_at: float | None = None

    async def run(self) -> None:
        """Do so for ever."""
        shares = self._shares
        reported: str | None = None
        while True:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(LOOK if shares.busy or self._parked_at is not None else None):
                    await shares.changed.wait()
            shares.changed.clear()
            try:
                await self._look()
                await self._resume()
                reported = None
            except (Unavailable, StreamError) as error:
                if str(error) != reported:
                    reported = str(error)
                    _log.warning("shares.interrupted", reason=reported)
                await asyncio.sleep(LOOK)
            except Exception:
                _log.exception("shares.interrupted")
                await asyncio.sleep(LOOK)

    async def _look(self) -> None:
        """Have runs parked where they leave no slot to other organizations with queued runs."""
        shares = self._shares
        now = asyncio.get_running_loop().time()
        if (shares.crowded or shares.parking) and now >= self._next_look:
            self._next_look = now + LOOK
            others = shares.others(await self._deps.store.orgs_queued(self._deps.groups.mine))
            if others:
                if self._parked_at is None:
                    _log.warning("shares.parking", others=others[:SHOWN], **shares.state())
                self._parked_at = now
                shares.make_way()
        if self._parked_at is not None and now - self._parked_at > ENDED:
            self._parked_at = None
            _log.info("shares.parking_ended", **shares.state())

    async def _resume(self) -> None:
        due = self._shares.due()
        for at in range(0, len(due), AT_A_TIME):
            await asyncio.gather(*(self._go_on(org, run) for org, run in due[at : at + AT_A_TIME]))

    async def _go_on(self, org: str, run: str) -> None:
        try:
            if not await self._resumer.unpark(run):
                self._shares.forget(org, run)
        except (Unavailable, StreamError):
            self._shares.put_back(org, run)
