"""Services run in the test's own process, over the real servers of its place."""

from __future__ import annotations

import asyncio
import importlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from shared import log
from shared.bus import Bus, connected
from shared.config import Environment
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
            await background.cancel()
    if failures:
        raise AssertionError(f"{service}: {failures}")


@asynccontextmanager
async def bus_of(place: Place, service: str) -> AsyncIterator[Bus]:
    """Connect to the bus as a service, or as `admin`, for the block."""
    async with connected(place.nats_url(service), service=service, health=Health(service)) as bus:
        yield bus


async def eventually(claim: object, *, within: float = 60.0, every: float = 0.02) -> object:
    """Return the first true answer of the async function `claim`; AssertionError when there is none within so many seconds."""
    deadline = asyncio.get_running_loop().time() + within
    while True:
        answer = await claim()  # type: ignore[operator]
        if answer:
            return answer
        if asyncio.get_running_loop().time() > deadline:
            raise AssertionError(f"{getattr(claim, '__name__', claim)} did not become true within {within} s")
        await asyncio.sleep(every)
