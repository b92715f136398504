"""The gateway put together: the only file that knows concrete things."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator

import structlog

from services.gateway.admission import Admission
from services.gateway.api.application import ENDPOINTS, application
from services.gateway.api.origins import origins_of
from services.gateway.api.sessions import recorded
from services.gateway.backlog import Bounds, WebhookBacklog, watch
from services.gateway.config import GatewaySettings, read
from services.gateway.credentials import UserCredentials
from services.gateway.domain import always_of
from services.gateway.endings import Endings
from services.gateway.forms import Forms
from services.gateway.idempotency import Starting
from services.gateway.identity import Keys
from services.gateway.invitations import Invitations
from services.gateway.key_use import KeyUse
from services.gateway.lanes import Lanes
from services.gateway.limits import Organizations, RateLimits
from services.gateway.logins import Logins
from services.gateway.memory_budget import MemoryBudget
from services.gateway.parts import Gateway
from services.gateway.passkeys import Passkeys
from services.gateway.peers import descriptors_for
from services.gateway.projections import projected
from services.gateway.proofs import Passwords
from services.gateway.questions import QUESTIONS
from services.gateway.rates import SharedBuckets
from services.gateway.readiness import Readiness
from services.gateway.refusals import Refusals
from services.gateway.removing.remover import Remover
from services.gateway.resources import keepers
from services.gateway.serving import listening, serving, url_of
from services.gateway.sessions import Sessions
from services.gateway.supervisor_reports import backup
from services.gateway.users import Users
from services.gateway.visitors import Strangers, Visitors
from services.gateway.watching import Watching
from services.gateway.workflows import WorkflowLookup
from shared.adapters import CustomAdapters
from shared.blobs import GRACE, Blobs
from shared.bus import connected
from shared.cache import Cache
from shared.circuits import Circuits
from shared.db import open_engine
from shared.egress.fetched import FetchedDocuments
from shared.egress.fetching import Fetcher
from shared.encryption import Keyring
from shared.levels import follow_level
from shared.owners.rotation import Rotation, renewing
from shared.projection import started
from shared.questions.adapters import AdapterEntry
from shared.questions.workflows import WorkflowEntry
from shared.quotas import Limits, Quotas
from shared.registry import RegistryView
from shared.removals import RemovedOrganizations
from shared.resources.form import FormEntry
from shared.resources.source import SourceEntry
from shared.service import Runtime
from shared.service import main as run_service
from shared.trail import Trail

# Seconds that the start waits for the registries and for the first count of the backlog. Without the former it serves all the same,
# by asking their owners; without the latter it takes webhooks without a bound.
KNOWN_WITHIN = 5.0
# Connections to the database: it is asked about keys, and by no webhook.
CONNECTIONS = 4

_log = structlog.get_logger()


def main() -> int:
    """Run the gateway until a signal stops it; returns the exit code."""
    return run_service("gateway", read, running)


@contextlib.asynccontextmanager
async def running(settings: GatewaySettings, runtime: Runtime) -> AsyncIterator[None]:
    """Run the gateway for the block."""
    sock = listening(settings.listen_fd, settings.host, settings.port)
    url = settings.public_url or url_of(sock)
    async with contextlib.AsyncExitStack() as stack:
        stack.callback(sock.close)
        engine = open_engine(settings.database_url, service="gateway", pool_size=CONNECTIONS)
        stack.push_async_callback(engine.dispose)
        bus = await stack.enter_async_context(connected(settings.nats_url, service="gateway", health=runtime.health))
        circuits = Circuits(bus.client)
        stack.push_async_callback(circuits.close)
        runtime.health.state("circuits", circuits.fact, counters=("opened",))
        bus.guard(circuits)
        await stack.enter_async_context(runtime.sink.sending(bus.publish_log))
        sources = RegistryView(bus.client, "sources", SourceEntry, runtime.health)
        workflows = RegistryView(bus.client, "workflows", WorkflowEntry, runtime.health)
        forms = RegistryView(bus.client, "forms", FormEntry, runtime.health)
        adapters_view = RegistryView(bus.client, "adapters", AdapterEntry, runtime.health)
        # Without it keys are not listed or made; they count all the same, and webhooks are taken.
        runtime.health.spare("projection catalog")
        organizations = Organizations(bus.client, runtime.health)
        users = Users(bus.client, runtime.health)
        keys = Keys(bus.client, runtime.health, settings.admin_key, users)
        use = KeyUse(engine, keys)
        sessions = Sessions(engine, users, idle=settings.session_idle, longest=settings.session_longest)
        # Who knows of no removal refuses what its owners refuse.
        removals = RemovedOrganizations(bus.client, runtime.health)
        runtime.health.spare("projection removals")
        projections = started(
            projected(bus.client),
            runtime.background.start,
            bus.client,
            engine,
            settings.database_url,
            runtime.health,
            removals.is_past,
        )
        most = descriptors_for(settings.max_connections)
        tags = {one.tag for one in ENDPOINTS if one.role is not None}
        adapters = CustomAdapters(adapters_view, bus.ask)
        endings = Endings(bus.client, runtime.health)
        watching = Watching(bus.client, most)
        bounds = Bounds(messages=settings.max_backlog, bytes=settings.max_backlog_bytes, seconds=settings.max_backlog_age)
        backlog = WebhookBacklog(bounds)
        runtime.health.state("backlog", backlog.fact, counters=("refused",), labels={"work": "consumer"})
        runtime.health.state("backup", lambda: backup(settings.supervisor, time.time()))
        lanes = Lanes(settings.most_queued)
        buckets = SharedBuckets(bus.client)
        limits = RateLimits(buckets, keys, organizations, settings.rates)
        runtime.health.state("rates", limits.fact, counters=("refused",), labels={"refused": "limit"})
        keyring = Keyring(settings.keys)
        credentials = UserCredentials(engine, keyring)
        invitations = Invitations(engine)
        trail = Trail(bus)
        stack.push_async_callback(trail.finish)
        refusals = Refusals(bus)
        stack.push_async_callback(refusals.finish)
        fetcher = Fetcher(settings.egress)
        stack.callback(fetcher.close)
        kept = keepers(bus, engine, projections["catalog"], use, users, tags, removals, nats_url=settings.nats_public_url)
        options = Cache(bus.client, "gateway", "options", runtime.health)
        stack.push_async_callback(options.close)
        remover = Remover(bus, engine, removals, kept, projections, options)
        quotas = Quotas(bus.client, runtime.health, Limits(**settings.quotas), organizations)
        fetched = FetchedDocuments(lambda org, url, timeout: fetcher.get(org, url, timeout=timeout))
        stack.push_async_callback(fetched.close)
        gateway = Gateway(
            bus=bus,
            health=runtime.health,
            readiness=Readiness(runtime.health, settings.supervisor, backlog),
            keyring=keyring,
            trail=trail,
            refusals=refusals,
            admission=Admission(sources, keyring, lambda asked, wait: bus.ask(asked, timeout=wait), fetched, adapters),
            adapters=adapters,
            fetcher=fetcher,
            backlog=backlog,
            lanes=lanes,
            limits=limits,
            workflows=WorkflowLookup(workflows, bus.ask),
            endings=endings,
            starting=Starting(),
            watching=watching,
            bodies=Blobs(bus.client, "bodies"),
            workspace=Blobs(bus.client, "workspace", renewed_after=GRACE / 2),
            results=Blobs(bus.client, "results"),
            memory=MemoryBudget(settings.max_body),
            visitors=Visitors(),
            forms=Forms(forms, lambda asked, wait: bus.ask(asked, timeout=wait), buckets),
            strangers=Strangers(),
            keys=keys,
            logins=Logins(engine, settings.keys, buckets),
            users=users,
            sessions=sessions,
            credentials=credentials,
            passwords=Passwords(),
            passkeys=Passkeys(engine, keyring, url, origins_of(url)),
            invitations=invitations,
            rotation=Rotation("gateway", keyring, {"credential": credentials}),
            keepers=kept,
            removing=remover,
            quotas=quotas,
            options=options,
            public_url=url,
            trusted_proxies=settings.trusted_proxies,
            cors_origins=settings.cors_origins,
            max_body=settings.max_body,
            max_file=settings.max_file,
            trace_parents=settings.trace_parents,
        )
        bus.answer(QUESTIONS, gateway)
        await bus.start()
        runtime.background.start(bus.attend(), "broker")
        runtime.background.start(follow_level(bus, runtime.health), "log level")
        runtime.background.start(sources.run(), "registry sources")
        runtime.background.start(workflows.run(), "registry workflows")
        runtime.background.start(adapters_view.run(), "registry adapters")
        runtime.background.start(forms.run(), "registry forms")
        runtime.background.start(keys.run(), "registry keys")
        runtime.background.start(organizations.run(), "registry orgs")
        runtime.background.start(buckets.run(), "rates")
        runtime.background.start(removals.run(), "registry removals")
        runtime.background.start(quotas.used.run(), "registry usage")
        runtime.background.start(remover.run(settings.database_url), "removing")
        runtime.background.start(use.run(), "use of keys")
        runtime.background.start(users.run(), "registry users")
        runtime.background.start(renewing(gateway.rotation, settings.database_url, "gateway"), "renewing what is sealed")
        runtime.background.start(sessions.run(recorded(trail), invitations.sweep), "sessions")
        stack.push_async_callback(use.write)
        runtime.background.start(endings.run(), "run endings")
        runtime.background.start(watching.run(), "watched runs")
        runtime.background.start(watch(bus.client, backlog, lanes), "backlog")
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(KNOWN_WITHIN):
                views = (view.complete() for view in (sources, workflows, adapters_view, keys, organizations, users, removals))
                await asyncio.gather(*views, backlog.known.wait())
        always = always_of(url)
        await stack.enter_async_context(
            serving(application(gateway), sock, most=most, trusted=settings.trusted_proxies, always=always)
        )
        runtime.health.state("url", url)
        _log.info("gateway.serving", url=url, connections=most)
        yield
