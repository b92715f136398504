"""The queued runs: those that wait in their stream for an executor, and those that executors have parked."""

from __future__ import annotations

import asyncio

from nats.aio.client import Client

from shared.asking import ask
from shared.durables import backlog_of
from shared.errors import MillraceError
from shared.questions.runs import CountParkedRuns
from shared.streams import WORK

_DISPATCHED = tuple(work for work in WORK if work.service == "executor" and work.managed)


class RunQueue:
    """Counts the queued runs of all organizations."""

    def __init__(self, client: Client) -> None:
        self._client = client
        self._parked = 0

    async def count(self) -> int:
        """Return how many there are now. Raises `Unavailable`, `StreamError`.

        While no executor answers, those that were parked at its last answer count: without it they do not go on either.
        """
        counts = asyncio.gather(*(backlog_of(self._client, work, since=False) for work in _DISPATCHED))
        _, found = await asyncio.gather(self._count_parked(), counts)
        return self._parked + sum(one.undelivered for one in found)

    async def _count_parked(self) -> None:
        try:
            self._parked = (await ask(self._client, CountParkedRuns(org="global"))).runs
        except MillraceError:
            return
