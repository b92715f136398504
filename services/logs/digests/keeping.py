"""Keeps the digests of every stream up to date; of several replicas one does."""

from __future__ import annotations

from collections.abc import Sequence

import structlog
from nats.aio.client import Client
from sqlalchemy.ext.asyncio import AsyncEngine

from services.logs.digests.copies import Diverged
from services.logs.digests.sealing import TOGETHER, Sealer
from shared.errors import NotFound, Unavailable
from shared.health import Health
from shared.leader import lead
from shared.streams import STREAMS

# Seconds after its start at which a service looks first.
FIRST = 5.0
# Batches of one stream in one look: the others have their turn.
BATCHES = 25

_log = structlog.get_logger()


class Digests:
    """The digests of all streams."""

    def __init__(self, sealers: Sequence[Sealer], health: Health, every: float = 60.0) -> None:
        """Publish the number of entries, and of streams whose digests have a fault, as the fact `digests`.

        `every`: seconds between two looks for what is new.
        """
        self.every = every
        self._sealers = {sealer.stream: sealer for sealer in sealers}
        self._sizes: dict[str, int] = {}
        self._problems: dict[str, str] = {}
        health.state(
            "digests",
            lambda: {"entries": self._sizes, "faults": len(self._problems), "problems": self._problems},
            labels={"entries": "stream"},
        )

    @property
    def streams(self) -> list[str]:
        """Return the names of the streams."""
        return list(self._sealers)

    def of(self, stream: str) -> Sealer:
        """Return the sealer of a stream. Raises `NotFound`."""
        try:
            return self._sealers[stream]
        except KeyError:
            raise NotFound(f"there is no stream {stream!r}") from None

    def problem(self, stream: str) -> str | None:
        """Return why the digest of a stream does not grow, as far as this replica knows."""
        return self._problems.get(stream)

    async def seal(self) -> int:
        """Seal what is new of each stream; return of how many messages. A fault of one stream's digests stops no other."""
        return sum([await self._seal(sealer) for sealer in self._sealers.values()])

    async def _seal(self, sealer: Sealer) -> int:
        done, problem = 0, None
        try:
            for _ in range(BATCHES):
                done += (sealed := await sealer.seal())
                if sealed < TOGETHER:
                    break
        except (Diverged, Unavailable) as error:
            problem = str(error)
            # A copy's store that is away is one thing, digests that somebody has changed another.
            log = _log.error if isinstance(error, Diverged) else _log.warning
            if self._problems.get(sealer.stream) != problem:
                log("digests.not_sealed", stream=sealer.stream, reason=problem)
        if problem is None:
            self._problems.pop(sealer.stream, None)
            self._sizes[sealer.stream] = sealer.size
        else:
            self._problems[sealer.stream] = problem
        return done


def sealers(client: Client, engine: AsyncEngine, seeds: Sequence[bytes], copies: Sequence[str]) -> list[Sealer]:
    """Return a sealer for each stream."""
    return [Sealer(stream.name, client=client, engine=engine, seeds=seeds, copies=copies) for stream in STREAMS]


async def keep(digests: Digests, url: str) -> None:
    """Seal again and again, for ever, while no other replica with the database at `url` does."""
    await lead(
        digests.seal,
        url=url,
        service="logs",
        lock="logs.digests",
        pause=digests.every,
        first=min(FIRST, digests.every),
        full=TOGETHER * BATCHES,
        interrupted="digests.interrupted",
    )
