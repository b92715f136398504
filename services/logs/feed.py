"""The newest archived messages in memory, for all who follow them: read once, however many these are.

It is read from the archive and not from the streams: what a tail shows a search finds, and a replica sees what another archives.
Nothing is kept for a slow reader: one that is behind what is here is given the rest by the archive.
"""

from __future__ import annotations

import asyncio
from collections import deque
from typing import NamedTuple

import asyncpg
import msgspec
import structlog
from sqlalchemy.ext.asyncio import AsyncEngine

from services.logs import selecting
from services.logs.domain import StreamPosition, row_of
from services.logs.lines import split
from services.logs.matching import Seen
from services.logs.places import At, TailPlace
from shared.db import reading
from shared.errors import Unavailable

# Messages, and their bytes, that are here.
MESSAGES = 10_000
BYTES = 16 * 1024 * 1024
# Messages of a stream that are read at once.
READ = 1000
# Seconds between two looks at the archive, after an obstacle, and after the last reader until it is no longer looked at.
LOOKS = 0.2
PAUSE = 1.0
IDLE = 60.0
# Seconds that the first reader waits for the first look: less than an asker waits.
BEGINS_WITHIN = 8.0

_log = structlog.get_logger()


class Arrived(NamedTuple):
    """An archived message: its place, its rows, and the bytes that it takes."""

    stream: str
    seq: int
    rows: list[Seen]
    size: int


class Feed:
    """Holds the newest messages while somebody asks: of each stream those after `floor` up to `head`, in order."""

    def __init__(self, engine: AsyncEngine) -> None:
        self._engine = engine
        self._arrived: deque[Arrived] = deque()
        self._bytes = 0
        self._first = 0
        self._wanted = asyncio.Event()
        self._begun = asyncio.Event()
        self._asked_at = 0.0
        self.incarnations: dict[str, str] = {}
        self.floor: dict[str, int] = {}
        self.head: dict[str, int] = {}

    async def wanted(self) -> None:
        """Have the archive looked at for a time, and return when it is. Raises `Unavailable` where that takes too long."""
        self._asked_at = asyncio.get_running_loop().time()
        self._wanted.set()
        try:
            async with asyncio.timeout(BEGINS_WITHIN):
                await self._begun.wait()
        except TimeoutError as error:
            raise Unavailable("the archive cannot be followed now") from error

    @property
    def end(self) -> int:
        """The number of the next message that will be here."""
        return self._first + len(self._arrived)

    @property
    def here(self) -> TailPlace:
        """The place behind all that is here."""
        return TailPlace(dict(self.incarnations), {stream: At(seq) for stream, seq in self.head.items()})

    def after(self, number: int) -> list[Arrived]:
        """Return the messages from a number on, or all that are here where that one no longer is."""
        start = max(number - self._first, 0)
        return list(self._arrived)[start:]

    async def run(self) -> None:
        """Look for ever, while somebody asks."""
        while True:
            await self._wanted.wait()
            try:
                await self._look()
                self._begun.set()
                await asyncio.sleep(LOOKS)
            except Unavailable as error:
                _log.warning("archive.not_followed", reason=str(error))
                await asyncio.sleep(PAUSE)
            if asyncio.get_running_loop().time() - self._asked_at > IDLE:
                self._forget()

    def _forget(self) -> None:
        self._wanted.clear()
        self._begun.clear()
        self._first = self.end
        self._arrived.clear()
        self._bytes = 0
        self.incarnations, self.floor, self.head = {}, {}, {}

    async def _look(self) -> None:
        async with reading(self._engine) as connection:
            found = await selecting.positions(connection)
            if {stream: incarnation for stream, incarnation, _ in found} != self.incarnations:
                # First of all, or a stream was made anew: nothing from before is of use.
                self._forget()
                self._wanted.set()
                self.incarnations = {stream: incarnation for stream, incarnation, _ in found}
                self.head = {stream: last for stream, _, last in found}
                self.floor = dict(self.head)
                return
            for stream, incarnation, last in found:
                while (head := self.head[stream]) < last:
                    if last - head > MESSAGES:
                        # All of them would push out all that is here: whoever is behind asks the archive.
                        self.floor[stream] = self.head[stream] = head = last - MESSAGES // 2
                        self._first = self.end
                        self._arrived = deque(one for one in self._arrived if one.stream != stream)
                        self._bytes = sum(one.size for one in self._arrived)
                    to = min(last, head + READ)
                    for row in await selecting.messages(connection, incarnation, head, to):
                        self._take(row)
                    self.head[stream] = to
                    await asyncio.sleep(0)

    def _take(self, found: asyncpg.Record) -> None:
        document = found["document"]
        at = StreamPosition(found["stream"], found["incarnation"], found["seq"], found["time"], found["key"])
        made = row_of(at, document)
        if made.workflow is None:
            # Of a run only its first message names it: the archive knows.
            made = msgspec.structs.replace(made, workflow=found["workflow"])
        rows = [Seen(row) for row in split(made) if row.line >= 0]
        size = 2 * len(document) + 1000 * (1 + len(rows))
        self._arrived.append(Arrived(found["stream"], found["seq"], rows, size))
        self._bytes += size
        while len(self._arrived) > MESSAGES or self._bytes > BYTES:
            gone = self._arrived.popleft()
            self._first += 1
            self._bytes -= gone.size
            self.floor[gone.stream] = gone.seq
