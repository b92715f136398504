"""Worker groups: which executors carry out the runs of which group. Each tells the others what it serves, again and again.

A run of a group that nobody serves waits in its stream like any that is queued, and is shown with the group that is missing.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import Counter
from collections.abc import Awaitable, Callable, Iterable, Sequence
from time import monotonic
from typing import Any

import msgspec
import nats.errors
import structlog
from nats.aio.client import Client
from nats.aio.msg import Msg

from shared.client import subscribe
from shared.durables import bring
from shared.errors import Unavailable
from shared.pull import StreamError
from shared.streams import DEFAULT_GROUP, Work, among_replicas

SUBJECT = among_replicas("executor", "serving")
# Seconds between two tellings, and after which an executor that tells nothing serves nothing.
EVERY, SILENT = 5.0, 16.0
# Seconds until a consumer is asked for again that could not be made.
AGAIN = 1.0
_log = structlog.get_logger()


class Serving(msgspec.Struct, frozen=True):
    """What an executor tells: its name, and the groups that it serves; none once it is to stop."""

    executor: str
    groups: list[str]


class WorkerGroups:
    """The groups of all executors, as this one hears of them; `mine` are its own. `queued` counts the runs of named groups."""

    def __init__(
        self,
        client: Client,
        name: str,
        mine: Sequence[str],
        queued: Callable[[], Awaitable[dict[str, int]]],
        *,
        now: Callable[[], float] = monotonic,
    ) -> None:
        self._client = client
        self._name = name
        self._queued = queued
        self._now = now
        self._heard: dict[str, tuple[tuple[str, ...], float]] = {}
        self._counts: dict[str, int] = {}
        self._is_leaving = False
        # By then all others have told what they serve.
        self._knows_from = now() + SILENT
        self.mine = tuple(mine)

    @property
    def executors(self) -> Counter[str]:
        """Return how many executors serve each group."""
        return Counter(group for groups, until in self._heard.values() if until > self._now() for group in groups)

    def is_missing(self, group: str | None) -> bool:
        """Return whether nobody serves a group; False while that is not known yet."""
        return self._now() > self._knows_from and not self.executors[group or DEFAULT_GROUP]

    def state(self) -> dict[str, Any]:
        """Return how many executors serve each group, how many runs of each named one wait, and those that nobody serves."""
        return {
            "executors": dict(self.executors),
            "queued": dict(self._counts),
            "unserved": {group: count for group, count in self._counts.items() if self.is_missing(group)},
        }

    async def run(self) -> None:
        """Tell and hear for ever."""
        await subscribe(self._client, SUBJECT, self._hear)
        unserved: dict[str, int] = {}
        while True:
            await self._tell()
            with contextlib.suppress(Unavailable):
                self._counts = await self._queued()
            before, unserved = unserved, self.state()["unserved"]
            for group in unserved.keys() - before.keys():
                _log.warning("group.unserved", group=group, queued=unserved[group])
            await asyncio.sleep(EVERY)  # the others are to hear it again

    async def leave(self) -> None:
        """Tell that this executor serves nothing any more."""
        self._is_leaving = True
        await self._tell()

    async def _tell(self) -> None:
        told = Serving(self._name, [] if self._is_leaving else list(self.mine))
        self._keep(told)
        try:
            if self._client.is_connected:
                await self._client.publish(SUBJECT, msgspec.msgpack.encode(told))
        except nats.errors.Error as error:
            _log.warning("groups.not_told", reason=f"{type(error).__name__}: {error}")

    def _hear(self, msg: Msg) -> None:
        try:
            self._keep(msgspec.msgpack.decode(msg.data, type=Serving))
        except msgspec.MsgspecError:
            return  # another version's

    def _keep(self, told: Serving) -> None:
        now = self._now()
        self._heard[told.executor] = (tuple(told.groups), now + SILENT)
        for name in [name for name, (_, until) in self._heard.items() if until <= now]:
            del self._heard[name]


async def make(client: Client, served: Iterable[Work]) -> None:
    """Make the consumers of what is served, where they are missing; waits while that cannot be done."""
    for work in served:
        while True:
            try:
                await bring(client, work)
            except (Unavailable, StreamError) as error:
                _log.warning("consumer.not_made", consumer=work.name, reason=str(error))
                await asyncio.sleep(AGAIN)
            else:
                break
