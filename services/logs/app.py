"""The logs service, put together."""

from __future__ import annotations

import contextlib
from collections import OrderedDict
from collections.abc import AsyncIterator, Awaitable, Callable

from services.logs.alerts import EVERY, Alerts
from services.logs.config import LogsSettings, read
from services.logs.conversion import convert
from services.logs.digests.keeping import Digests, keep, sealers
from services.logs.digests.sealing import seeds
from services.logs.erasing import Erasing, follow_up
from services.logs.feed import Feed
from services.logs.gaps import Gaps, record_gaps
from services.logs.limits import Limit, past
from services.logs.partitions import keep_ahead, make_first
from services.logs.projections import projected
from services.logs.questions import QUESTIONS
from services.logs.removing import LogsRemovingDeps, OrganizationRemoval
from services.logs.resources import keepers
from services.logs.retention import Removals, retain
from services.logs.scope import ArchiveDeps, open_archive
from services.logs.subscribers.connections import Subscribers
from services.logs.subscribers.grants import Grants
from services.logs.subscribers.telling import Telling
from shared import service
from shared.bus import Bus, connected
from shared.db import engine_of
from shared.envelope import utc_now
from shared.leader import lead
from shared.levels import follow_level
from shared.messages import Logged
from shared.nkeys import Issuer
from shared.owners.rows import ResourceRows
from shared.projection import started
from shared.questions import asked_of
from shared.questions.logs import TailLogs
from shared.registry import RegistryView
from shared.removals import RemovedOrganizations
from shared.resources.retention import RetentionEntry
from shared.service import Runtime
from shared.trail import Trail

# The log of archiving itself stays on standard output: archived, it would feed itself.
_ABOUT_ARCHIVING = ("archive.", "projection.")
_TAIL = asked_of(TailLogs).subject
# One connection for each stream's batch, and some for what goes on in the background.
CONNECTIONS = 16


@contextlib.asynccontextmanager
async def running(settings: LogsSettings, runtime: Runtime) -> AsyncIterator[None]:
    """Archive and answer for the block."""
    engine = engine_of(settings, runtime.health, service="logs", size=CONNECTIONS)
    archive = open_archive(settings.database_url, runtime.health.registry)
    try:
        async with (
            connected(settings.nats_url, service="logs", health=runtime.health) as bus,
            runtime.sink.sending(_publishing(bus)),
            contextlib.AsyncExitStack() as stack,
        ):
            # Before the first row, so that none has to be moved.
            await make_first(engine, runtime.health)
            runtime.background.start(keep_ahead(engine, runtime.health, settings.database_url), "partitions")
            removed = RemovedOrganizations(bus.client, runtime.health)
            runtime.background.start(removed.run(), "registry removals")
            trail = Trail(bus)
            stack.push_async_callback(trail.finish)
            telling = await _subscribers(bus, trail, settings.issuer, runtime, removed)
            projections = started(
                projected(bus.client, telling), runtime.background.start, bus.client, engine, settings.database_url, runtime.health
            )
            kept = keepers(bus, ResourceRows(engine), projections["catalog"], engine, utc_now)
            runtime.background.start(convert(settings.database_url, runtime.health), "conversion")
            kept_by = sealers(bus.client, engine, seeds(settings.keys), settings.copies)
            digests = Digests(kept_by, runtime.health, settings.seal_every)
            runtime.background.start(keep(digests, settings.database_url), "digests")
            erasing = Erasing(engine, bus, digests)
            runtime.background.start(follow_up(erasing, settings.database_url), "erasing")
            view = RegistryView(bus.client, "retentions", RetentionEntry, runtime.health)
            runtime.background.start(view.run(), "registry retentions")
            retention = Removals(engine, bus, view, runtime.health, utc_now)
            runtime.background.start(retain(retention, settings.database_url), "retention")
            gaps = Gaps(engine, bus, runtime.health)
            runtime.background.start(record_gaps(gaps, settings.database_url), "gaps")
            alerting = lead(
                Alerts(bus, ArchiveDeps(archive, utc_now, retention.limits)).once,
                url=settings.database_url,
                service="logs",
                lock="logs.alerts",
                pause=EVERY,
                first=0.0,
                interrupted="alerts.interrupted",
            )
            runtime.background.start(alerting, "alerts")
            feed = Feed(archive)
            runtime.background.start(feed.run(), "feed")
            await removed.complete()

            def limits() -> list[Limit]:
                return [*retention.limits(), *past(removed.values())]

            deps = LogsRemovingDeps(
                archive,
                utc_now,
                limits,
                feed=feed,
                numbers=OrderedDict(),
                keepers=kept,
                digests=digests,
                erasing=erasing,
                removing=OrganizationRemoval(engine, bus, projections, kept),
            )
            bus.answer(QUESTIONS, deps)
            await bus.start()
            runtime.background.start(bus.attend(), "broker")
            runtime.background.start(follow_level(bus, runtime.health), "log level")
            yield
    finally:
        await archive.dispose()
        await engine.dispose()


async def _subscribers(
    bus: Bus, trail: Trail, issuer: Issuer | None, runtime: Runtime, removed: RemovedOrganizations
) -> Telling | None:
    """Admit subscribers from now on, and return what tells them; None where nobody can sign for them."""
    if issuer is None:
        return None
    grants = Grants(bus.client, runtime.health)
    connections = Subscribers(bus.client, grants, issuer, trail)
    telling = Telling(bus.client, lambda: grants.wanted, removed.is_past)
    runtime.health.state("subscribers", lambda: connections.fact() | {"told": telling.told}, counters=("refused", "told"))
    runtime.background.start(grants.run(), "registry keys")
    runtime.background.start(connections.admit(), "admission of subscribers")
    runtime.background.start(connections.watch(), "connections of subscribers")
    runtime.background.start(connections.tell_use(bus), "use of keys by subscribers")
    await connections.start()
    return telling


def _publishing(bus: Bus) -> Callable[[Logged, str | None], Awaitable[None]]:
    async def publish(logged: Logged, correlation: str | None) -> None:
        # Told to a tail, what it asks would be the next thing that it asks for.
        if not logged.event.startswith(_ABOUT_ARCHIVING) and logged.fields.get("question") != _TAIL:
            await bus.publish_log(logged, correlation)

    return publish


def main() -> int:
    """Run the logs service until a signal stops it; returns the exit code."""
    return service.main("logs", read, running)
