"""Parts that are dropped and replayed together: the projections of a service that fill the same rows."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import msgspec
from nats.aio.client import Client
from sqlalchemy.ext.asyncio import AsyncEngine

from deploy.concurrency import together
from deploy.errors import StartError
from deploy.positions import held, pending
from deploy.rebuild.rows import Connection
from deploy.stores import Stores
from services.events import projections as events
from services.executor import projections as executor
from services.gateway import projections as gateway
from services.logs import projections as logs
from services.oauth import projections as oauth
from shared import tasks
from shared.bus import connected
from shared.db import open_engine
from shared.health import Health
from shared.projected import Projected
from shared.projection import Projection
from shared.salvage import Tally

# The tables of oauth that hold tokens and secrets are the only place of them, and no projection; nor is when keys were last used.
PROJECTING: dict[str, Callable[[Client], list[Projected]]] = {
    "events": events.projected,
    "executor": executor.projected,
    "gateway": gateway.projected,
    "logs": logs.projected,
    "oauth": oauth.projected,
}
LOOKED_EVERY = 0.25
# A projection that has not come further for so long will not by waiting; a large batch on a slow disk takes seconds.
STUCK_AFTER = 180.0

# Called with the number of replayed messages of a projection (`service.name`), and of how many.
Progress = Callable[[str, int, int], None]


class Part(msgspec.Struct, frozen=True):
    """One service's projections that fill the same rows, with their runner: as the service itself does, with its rights."""

    service: str
    projections: tuple[Projected, ...]
    client: Client
    engine: AsyncEngine
    url: str

    @property
    def name(self) -> str:
        """The name that people read."""
        return f"{self.service}.{'+'.join(one.name for one in self.projections)}"


class Salvaged(msgspec.Struct, frozen=True):
    """The numbers of messages that a projection kept cleaned or as bytes alone, of dead letters, and their last error."""

    kept: int
    dead: int
    last: str


@asynccontextmanager
async def open_parts(stores: Stores, services: Iterable[str]) -> AsyncIterator[list[Part]]:
    """Connect as these services for the block and return their parts."""
    async with AsyncExitStack() as stack:
        parts: list[Part] = []
        for service in services:
            url = stores.database_url_of(service)
            engine = open_engine(url, service=service)
            stack.push_async_callback(engine.dispose)
            bus = await stack.enter_async_context(connected(stores.nats_url_of(service), service=service, health=Health(service)))
            filling: dict[Any, list[Projected]] = {}
            for one in PROJECTING[service](bus.client):
                filling.setdefault(one.tables if one.rows is None else one.name, []).append(one)
            parts += [Part(service, tuple(group), bus.client, engine, url) for group in filling.values()]
        yield parts


async def checkpoint(connection: Connection, service: str, name: str) -> tuple[str, int] | None:
    """Return a projection's (incarnation, sequence), or None before its first batch."""
    row = await connection.fetchrow(f'SELECT incarnation, last_seq FROM "{service}".checkpoint WHERE projection = $1', name)  # noqa: S608
    return None if row is None else (row["incarnation"], row["last_seq"])


async def replay(parts: list[Part], admin: Client, connection: Connection, progress: Progress) -> dict[str, Salvaged]:
    """Run the projections of these parts from their checkpoints until nothing is before them.

    Services beside each other, projections of one service after each other: several that fill the same rows from a long way
    back would lock each other out. Returns, by projection, the messages that could not be taken as they are. Raises `StartError`
    for one that does not come further.
    """
    found: dict[str, Salvaged] = {}
    streams = dict.fromkeys(one.stream for part in parts for one in part.projections)
    incarnations = {stream: (await held(admin, stream)).incarnation for stream in streams}
    asked = asyncio.Lock()  # one connection, one question at a time

    async def position(part: Part, one: Projected) -> int | None:
        """Return the sequence up to which the rows reflect the stream; None where they know another one of its name, or none."""
        async with asked:
            found = await checkpoint(connection, part.service, one.name)
        return found[1] if found is not None and found[0] == incarnations[one.stream] else None

    async def one_service(service: str) -> None:
        for part in parts:
            if part.service == service:
                for one in part.projections:
                    tally = await _replay_one(part, one, admin, lambda part=part, one=one: position(part, one), progress)  # type: ignore[misc]
                    if tally.salvaged or tally.dead:
                        found[f"{service}.{one.name}"] = Salvaged(tally.salvaged.total(), tally.dead.total(), tally.last[one.name])

    await together(*(one_service(service) for service in dict.fromkeys(part.service for part in parts)))
    return found


async def _replay_one(part: Part, one: Projected, admin: Client, position: Callable[[], Any], progress: Progress) -> Tally:
    name = f"{part.service}.{one.name}"
    total = await pending(admin, one.stream, one.filters, 0)
    health = Health(part.service)
    tally = Tally(health)
    if not total or ((at := await position()) is not None and not await pending(admin, one.stream, one.filters, at)):
        progress(name, total, total)
        return tally
    projection = Projection(
        client=part.client, engine=part.engine, url=part.url, service=part.service, projected=one, health=health, tally=tally
    )
    loop = asyncio.get_running_loop()
    running = asyncio.create_task(projection.run(), name=f"replay {name}")
    seen, moved = -1, loop.time()
    try:
        while True:
            at = await position()
            if at is not None:
                left = await pending(admin, one.stream, one.filters, at)
                progress(name, total - left, total)
                if left == 0:
                    return tally
                if at != seen:
                    seen, moved = at, loop.time()
            if loop.time() - moved > STUCK_AFTER:
                problems = [str(told["detail"]) for told in health.document()["parts"].values() if not told.get("ready")]
                raise StartError(f"{name} does not come further: {'; '.join(problems) or 'it gives no reason'}.")
            done, _ = await asyncio.wait([running], timeout=LOOKED_EVERY)
            if done:
                running.result()
    finally:
        await tasks.end([running])
