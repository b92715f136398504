"""The oauth service, put together."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

from sqlalchemy.ext.asyncio import AsyncEngine

from services.oauth.announce import Announcer
from services.oauth.authorization import Authorizations
from services.oauth.authorization_store import AuthorizationStore
from services.oauth.broken import BrokenTokens
from services.oauth.config import OAuthSettings, read
from services.oauth.connection_tests import ConnectionTests
from services.oauth.credential_cache import CredentialCache
from services.oauth.credentials import Credentials
from services.oauth.discovery import Discovery
from services.oauth.housekeeping import LeftoverRows
from services.oauth.lending import Lending
from services.oauth.outbox import Outbox
from services.oauth.projections import projected
from services.oauth.providers import Providers
from services.oauth.questions import QUESTIONS
from services.oauth.refresh import Refresher
from services.oauth.resources import keepers
from services.oauth.revocation import Revoker
from services.oauth.scheduling import refreshing_in_time
from services.oauth.sealed_tokens import SealedTokens
from services.oauth.sign_in import SignIns
from services.oauth.spool import Spool
from services.oauth.store import KeptStore
from services.oauth.storing import TokenWriter
from services.oauth.token_endpoint import TokenEndpoint
from services.oauth.token_store import TokenStore
from services.oauth.vault import Vault
from services.oauth.waiting import WaitingPlaces
from shared import service
from shared.bus import Bus, connected
from shared.db import engine_of, open_engine
from shared.egress.fetched import FetchedDocuments
from shared.egress.fetching import Fetcher
from shared.encryption import Keyring
from shared.levels import follow_level
from shared.owners.keeper import Keeper
from shared.owners.rotation import Rotation, SealedRows, renewing
from shared.owners.rows import ResourceRows
from shared.projection import Projection, started
from shared.service import Runtime

# Questions at a time. Most of them wait for a commit of the audit trail: half of them fill one while the other half's is under way.
ANSWERED = 256
# Authorizations that are begun and tests, which wait for providers, at a time; and those of one connection.
WAITING, WAITING_EACH = 16, 4
# People who sign in, at a time, for whom the provider is asked.
SIGNING_IN = 32


class OAuth:
    """The parts that questions, sweeps and projections of this service share."""

    def __init__(
        self, bus: Bus, engine: AsyncEngine, asking: AsyncEngine, keyring: Keyring, fetcher: Fetcher, settings: OAuthSettings
    ) -> None:
        self.bus = bus
        self.engine = engine
        self.vault = Vault(keyring)
        self.store = KeptStore(engine)
        self.resources = ResourceRows(engine)
        self.tokens = TokenStore(engine)
        self.spool = spool = Spool(None if settings.data is None else settings.data / "unstored", keyring)
        requests = AuthorizationStore(engine)
        kinds: dict[str, SealedRows] = {"vault": self.store, "token": self.tokens, "authorization": requests, "unstored": spool}
        self.rotation = Rotation("oauth", keyring, kinds)
        self.outbox = Outbox(bus, self.tokens)
        self.documents = FetchedDocuments(lambda org, url, timeout: fetcher.get(org, url, timeout=timeout))
        discovery = Discovery(self.documents)
        self.providers = Providers(self.store, keyring, discovery)
        lending = Lending(engine)
        endpoint = TokenEndpoint(fetcher, lending)
        self.housekeeping = LeftoverRows(self.tokens, lending, requests)
        sealed, revoker = SealedTokens(keyring), Revoker(self.providers, endpoint)
        self.refresher = Refresher(
            store=self.store,
            tokens=self.tokens,
            providers=self.providers,
            outbox=self.outbox,
            vault=self.vault,
            endpoint=endpoint,
            sealed=sealed,
            writer=TokenWriter(self.tokens, spool),
            revoker=revoker,
        )
        self.authorizations = Authorizations(
            store=self.store,
            tokens=self.tokens,
            requests=requests,
            providers=self.providers,
            sealed=sealed,
            revoker=revoker,
            endpoint=endpoint,
            outbox=self.outbox,
            keyring=keyring,
        )
        self.sign_ins = SignIns(
            store=self.store,
            requests=requests,
            providers=self.providers,
            discovery=discovery,
            documents=self.documents,
            vault=self.vault,
            endpoint=endpoint,
            keyring=keyring,
        )
        self.announcer = Announcer(bus, self.store, self.refresher.ending)
        self.credentials = Credentials(self.vault, self.providers, self.refresher)
        self.cache = CredentialCache(KeptStore(asking), self.tokens)
        self.tests = ConnectionTests(self.store, self.providers, self.credentials, endpoint)
        self.waiting = WaitingPlaces(WAITING, WAITING_EACH)
        self.signing_in = WaitingPlaces(SIGNING_IN, SIGNING_IN)
        self.keepers: Mapping[str, Keeper[Any]]
        self.catalog: Projection


@asynccontextmanager
async def running(settings: OAuthSettings, runtime: Runtime) -> AsyncIterator[None]:
    """Answer, announce unannounced rows, and seal rows of an older key anew, for the block."""
    async with AsyncExitStack() as stack:
        engine = engine_of(settings, runtime.health, service="oauth")
        stack.push_async_callback(engine.dispose)
        # A connection of its own: whether tokens have changed is asked at every question, and waits behind nothing else.
        asking = open_engine(settings.pool.url or settings.database_url, service="oauth", pool_size=1)
        stack.push_async_callback(asking.dispose)
        # Needed until the bus has answered what it took.
        last = await stack.enter_async_context(AsyncExitStack())
        bus = await stack.enter_async_context(connected(settings.nats_url, service="oauth", health=runtime.health))
        await stack.enter_async_context(runtime.sink.sending(bus.publish_log))
        keyring = Keyring(settings.keys)
        fetcher = Fetcher(settings.egress)
        stack.callback(fetcher.close)
        oauth = OAuth(bus, engine, asking, keyring, fetcher, settings)
        stack.push_async_callback(oauth.documents.close)
        stack.push_async_callback(oauth.refresher.close)
        last.push_async_callback(oauth.cache.close)
        projections = started(
            projected(bus.client), runtime.background.start, bus.client, engine, settings.database_url, runtime.health
        )
        oauth.catalog = projections["catalog"]
        oauth.keepers = keepers(
            bus,
            oauth.resources,
            keyring,
            projections["catalog"],
            oauth.store,
            oauth.announcer,
            oauth.providers,
            oauth.tokens,
            oauth.refresher,
        )
        runtime.health.state("quarantined", oauth.rotation.fact)
        broken = BrokenTokens(engine)
        runtime.health.state("tokens", broken.fact)
        runtime.background.start(broken.watch(), "counting broken tokens")
        runtime.background.start(oauth.announcer.sweep(settings.database_url), "announcing")
        runtime.background.start(oauth.housekeeping.sweep(settings.database_url), "housekeeping")
        runtime.background.start(oauth.outbox.sweep(settings.database_url), "publishing what is left")
        runtime.background.start(renewing(oauth.rotation, settings.database_url, "oauth"), "renewing what is sealed")
        runtime.background.start(oauth.refresher.store_left(), "storing what is left")
        runtime.background.start(oauth.authorizations.devices.polling(), "asking for devices")
        runtime.background.start(refreshing_in_time(oauth.tokens, oauth.refresher), "refreshing in time")
        bus.answer(QUESTIONS, oauth, at_once=ANSWERED)
        await bus.start()
        runtime.background.start(bus.attend(), "broker")
        runtime.background.start(follow_level(bus, runtime.health), "log level")
        yield


def main() -> int:
    """Run the oauth service until a signal stops it; returns the exit code."""
    return service.main("oauth", read, running)
