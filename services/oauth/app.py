"""The oauth service, put together."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator

from services.oauth.announce import Announcer
from services.oauth.config import Settings, read
from services.oauth.questions import QUESTIONS, Deps
from services.oauth.store import Store
from services.oauth.vault import Vault
from shared import service
from shared.bus import connected
from shared.db import open_engine
from shared.encryption import Keyring
from shared.envelope import utc_now
from shared.service import Runtime


@contextlib.asynccontextmanager
async def running(settings: Settings, runtime: Runtime) -> AsyncIterator[None]:
    """Answer, and announce what was not, for the block."""
    engine = open_engine(settings.database_url, service="oauth")
    try:
        async with (
            connected(settings.nats_url, service="oauth", health=runtime.health) as bus,
            runtime.sink.sending(bus.say_log),
        ):
            store = Store(engine)
            announcer = Announcer(bus, store, utc_now)
            runtime.background.start(announcer.sweep(), "announcing connections")
            bus.answer(QUESTIONS, Deps(bus, store, Vault(Keyring(settings.keys)), announcer, utc_now))
            await bus.start()
            yield
    finally:
        await engine.dispose()


def main() -> int:
    """Run the oauth service until it is told to stop; returns the exit code."""
    return service.main("oauth", read, running)
