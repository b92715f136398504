"""The oauth service, put together."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager

from sqlalchemy.ext.asyncio import AsyncEngine

from services.oauth.announce import Announcer
from services.oauth.config import Settings, read
from services.oauth.domain import Connection, Secret, announcement, secret_announcement
from services.oauth.keeping import Shelf
from services.oauth.projections import projected
from services.oauth.questions import QUESTIONS
from services.oauth.rotation import renewing
from services.oauth.rows import Variables
from services.oauth.store import KeptStore
from services.oauth.vault import Vault
from shared import service
from shared.bus import Bus, connected
from shared.db import open_engine
from shared.encryption import Keyring
from shared.envelope import utc_now
from shared.projection import Projection, started
from shared.service import Runtime


class OAuth:
    """What questions, sweeps and projections of this service share."""

    def __init__(self, bus: Bus, engine: AsyncEngine, vault: Vault) -> None:
        self.bus = bus
        self.vault = vault
        connections, secrets = KeptStore(engine, "connection", Connection), KeptStore(engine, "secret", Secret)
        self.connections = Shelf(
            "connection", bus, connections, Announcer(bus, connections, utc_now, "connection", announcement), utc_now
        )
        self.secrets = Shelf("secret", bus, secrets, Announcer(bus, secrets, utc_now, "secret", secret_announcement), utc_now)
        self.variables = Variables(engine)
        self.catalog: Projection


@asynccontextmanager
async def running(settings: Settings, runtime: Runtime) -> AsyncIterator[None]:
    """Answer, announce what was not, and seal anew what an older key sealed, for the block."""
    async with AsyncExitStack() as stack:
        engine = open_engine(settings.database_url, service="oauth")
        stack.push_async_callback(engine.dispose)
        bus = await stack.enter_async_context(connected(settings.nats_url, service="oauth", health=runtime.health))
        await stack.enter_async_context(runtime.sink.sending(bus.publish_log))
        oauth = OAuth(bus, engine, Vault(Keyring(settings.keys)))
        projections = started(
            projected(bus.client),
            runtime.background.start,
            client=bus.client,
            engine=engine,
            url=settings.database_url,
            service="oauth",
            health=runtime.health,
        )
        oauth.catalog = projections["catalog"]
        runtime.background.start(oauth.connections.announcer.sweep(), "announcing connections")
        runtime.background.start(oauth.secrets.announcer.sweep(), "announcing secrets")
        runtime.background.start(renewing((oauth.connections.store, oauth.secrets.store), oauth.vault), "renewing what is sealed")
        bus.answer(QUESTIONS, oauth)
        await bus.start()
        runtime.background.start(bus.attend(), "broker")
        yield


def main() -> int:
    """Run the oauth service until it is told to stop; returns the exit code."""
    return service.main("oauth", read, running)
