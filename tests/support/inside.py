"""Services run in the test's own process, over the real servers of its place."""

from __future__ import annotations

import asyncio
import importlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from shared import log
from shared.bus import Bus, connected
from shared.commit import Ack, Journal
from shared.config import Environment
from shared.envelope import Sealed
from shared.errors import Unavailable
from shared.health import Health
from shared.service import Background, Runtime
from tests.support.seed import seed
from tests.support.servers import Place


@asynccontextmanager
async def running(place: Place, service: str, **environment: str) -> AsyncIterator[Runtime]:
    """Run one service in this process for the block; its `Runtime` shows its health. A task of it that fails ends the test."""
    app = importlib.import_module(f"services.{service}.app")
    config = importlib.import_module(f"services.{service}.config")
    if service == "executor":
        seed(Path(environment["MILLRACE_DATA"]))
    variables = Environment(place.environment(service, **environment))
    settings = config.read(variables)
    variables.check()
    failures: list[str] = []
    health = Health(service)
    background = Background(failures.append)
    runtime = Runtime(health, background, log.BusSink(service))
    async with app.running(settings, runtime):
        health.started = True
        try:
            yield runtime
        finally:
            health.started = False
            for leave in runtime.leaving:
                await leave()
            await background.cancel()
    if failures:
        raise AssertionError(f"{service}: {failures}")


# Seconds that a test's own message has to be stored: a test that is told "away" by a broker that is merely slow has failed.
PATIENCE = 20.0


class _Patient(Journal):
    """Waits longer for the broker than a service does, for whom somebody waits."""

    async def publish(self, sealed: Sealed[Any], *, timeout: float = PATIENCE) -> Ack:
        return await super().publish(sealed, timeout=timeout)

    async def append(self, sealed: Sealed[Any], expected: int, *, timeout: float = PATIENCE) -> Ack:
        return await super().append(sealed, expected, timeout=timeout)


@asynccontextmanager
async def bus_of(place: Place, service: str) -> AsyncIterator[Bus]:
    """Connect to the bus as a service, or as `admin`, for the block; what is published there may take its time."""
    async with connected(place.nats_url(service), service=service, health=Health(service)) as bus:
        bus.journal = _Patient(bus.client)
        yield bus


async def eventually(claim: object, *, within: float = 60.0, every: float = 0.02) -> object:
    """Return the first true answer of the async function `claim`; AssertionError when there is none within so many seconds.

    Where what it asks is `Unavailable` it is asked again: on a machine that is busy an answer may be late once.
    """
    deadline = asyncio.get_running_loop().time() + within
    while True:
        unavailable: Unavailable | None = None
        try:
            if answer := await claim():  # type: ignore[operator]
                return answer
        except Unavailable as error:
            unavailable = error
        if asyncio.get_running_loop().time() > deadline:
            raise AssertionError(f"{getattr(claim, '__name__', claim)} did not become true within {within} s") from unavailable
        await asyncio.sleep(every)
