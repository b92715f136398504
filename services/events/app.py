"""The events service, put together: the only file here that knows concrete things."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager

from services.events import alerts, parsing, routing
from services.events.awaiting.waking import Waker
from services.events.config import EventsSettings, read
from services.events.floods import Floods
from services.events.parts import Events
from services.events.projections import DELIVERIES, projected
from services.events.questions import QUESTIONS
from services.events.queued import QueuedRuns
from services.events.redeclaring import redeclare
from services.events.registrations.reconciling import Registrar
from services.events.repairs import Repairs
from services.events.replays import Replayer
from services.events.resources import DERIVED, keepers
from services.events.schedules.declared import DeclaredSchedules
from services.events.sweeping import Sweeper
from shared import service
from shared.bus import connected
from shared.db import engine_of
from shared.expressions.pool import evaluating
from shared.leader import lead
from shared.levels import follow_level
from shared.owners.catalogued import SealedResources
from shared.owners.rotation import Rotation, renewing
from shared.projection import started
from shared.registry import RegistryWriter
from shared.removals import RemovedOrganizations
from shared.resources.source import SourceEntry
from shared.service import Runtime

# Seconds between two looks at what is to be tried again: no policy is more exact.
SWEPT_EVERY = 1.0
# And at events that runs may wait for: as long as one waits for its run at most.
WOKEN_EVERY = 0.1
# And at dead letters that a retry has left open: it was cut off.
REPAIRED_EVERY = 30.0


@asynccontextmanager
async def running(settings: EventsSettings, runtime: Runtime) -> AsyncIterator[None]:
    """Run the service for the block."""
    async with AsyncExitStack() as stack:
        engine = engine_of(settings, runtime.health, service="events")
        stack.push_async_callback(engine.dispose)
        bus = await stack.enter_async_context(connected(settings.nats_url, service="events", health=runtime.health))
        await stack.enter_async_context(runtime.sink.sending(bus.publish_log))
        expressions = await stack.enter_async_context(evaluating(runtime.health))
        events = Events(settings, bus, engine, expressions, runtime)
        stack.callback(events.fetcher.close)

        removals = RemovedOrganizations(bus.client, runtime.health)
        runtime.background.start(removals.run(), "registry removals")
        bus.is_gone = removals.is_gone
        projections = started(
            [
                *projected(bus.client),
                *events.scheduler.followers(),
                DeclaredSchedules(events).follower(),
                *events.releaser.followers(),
            ],
            runtime.background.start,
            bus.client,
            engine,
            settings.database_url,
            runtime.health,
            removals.is_past,
        )
        events.projections, events.catalog, events.registered = projections, projections["catalog"], projections["registrations"]
        events.keepers = keepers(bus, events.resources, events.keyring, events.catalog, expressions, events, engine)
        events.rotation = Rotation("events", events.keyring, {"resource": SealedResources(events.resources, events.keepers)})
        runtime.health.state("quarantined", events.rotation.fact)
        events.followed = [projections[name] for name in DELIVERIES]
        for view in (*events.views, events.quotas.organizations, events.quotas.used):
            runtime.background.start(view.run(), "registry view")
            await view.complete()
        runtime.background.start(
            redeclare(events.sources_view, RegistryWriter(bus.client, "sources", SourceEntry), DERIVED["source"]),
            "declared verifications",
        )
        queued = QueuedRuns(settings.most_queued)
        runtime.health.state("queued_runs", queued.fact)
        runtime.background.start(queued.watch(bus.client), "queued runs")
        floods = Floods(settings.max_backlog)
        runtime.health.state("floods", floods.fact)
        runtime.background.start(floods.watch(bus.client), "floods")
        sweeper = Sweeper(events, settings.overdue)
        runtime.health.state("deliveries", sweeper.fact)
        replayer = Replayer(events)
        waker = Waker(events)
        for part in (sweeper, replayer, waker):
            stack.push_async_callback(part.close)
        repairs = Repairs(events)
        looks = (
            ("sweeping", sweeper.once, SWEPT_EVERY),
            ("replays", replayer.once, SWEPT_EVERY),
            ("repairs", repairs.once, REPAIRED_EVERY),
            ("waits", waker.once, WOKEN_EVERY),
        )
        for name, once, pause in looks:
            leading = lead(
                once,
                url=settings.database_url,
                service="events",
                lock=f"events.{name}",
                pause=pause,
                first=SWEPT_EVERY,
                interrupted=f"{name}.interrupted",
            )
            runtime.background.start(leading, name)
        bus.handle(
            {**parsing.HANDLERS, **routing.HANDLERS, **alerts.HANDLERS},
            events,
            admits=lambda work: queued.admits(work) and floods.admits(work),
        )
        bus.answer(QUESTIONS, events)
        await bus.start()
        runtime.background.start(events.scheduler.sweep(), "search for overdue schedules")
        runtime.background.start(Registrar(events).run(), "registrations")
        runtime.background.start(renewing(events.rotation, settings.database_url, "events"), "renewing what is sealed")
        runtime.health.state("deferred_webhooks", events.deferred.fact)
        runtime.background.start(events.deferred.run(), "deferred webhooks")
        stack.push_async_callback(events.releaser.close)
        runtime.background.start(events.releaser.sweep(), "search for held events")
        # Before what the handlers use.
        stack.push_async_callback(bus.drain)
        runtime.background.start(bus.attend(), "broker")
        runtime.background.start(follow_level(bus, runtime.health), "log level")
        runtime.background.start(bus.keep_durables(), "durables")
        yield


def main() -> int:
    """Run the service as a process; returns its exit code."""
    return service.main("events", read, running)
