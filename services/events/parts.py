"""The parts that handlers, questions and projections of the events service share, and what they know of its registries."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Mapping
from contextlib import AbstractAsyncContextManager, nullcontext
from datetime import datetime
from typing import Any
from weakref import WeakValueDictionary

from sqlalchemy.ext.asyncio import AsyncEngine

from services.events import domain
from services.events.config import EventsSettings
from services.events.deferring.resuming import DeferredWebhooks
from services.events.entities import organization_of
from services.events.holding.plan import holds
from services.events.holding.releasing import Releaser
from services.events.holding.room import HeldRoom
from services.events.letter_rows import LetterRows
from services.events.mappings import values_of, view_of
from services.events.previews import PreviewRoom
from services.events.registrations.rules import RegistrationRules
from services.events.replay_rows import ReplayRows
from services.events.schedules.firing import Scheduler
from services.events.store import EventsStore
from shared.adapters import CustomAdapters
from shared.blobs import Blobs
from shared.bus import Bus
from shared.egress.fetching import Fetcher
from shared.encryption import Keyring
from shared.errors import NotFound
from shared.expressions.pool import Expressions
from shared.messages.declaration import hashed_key
from shared.organizations import seen_by
from shared.owners.keeper import Keeper
from shared.owners.rotation import Rotation
from shared.owners.rows import ResourceRows
from shared.projection import Projection
from shared.questions.adapters import AdapterEntry
from shared.questions.events import MappingView
from shared.questions.workflows import FindWorkflow, WorkflowEntry
from shared.quotas import Limits, Quotas
from shared.registry import Entry, RegistryView
from shared.resources.repository import RepositoryEntry
from shared.resources.source import SourceEntry
from shared.resources.subscription import SubscriptionEntry
from shared.service import Runtime

# Bodies, and data of events, above 256 KiB that are held at the same time: at most 25 MB each, and several times that when parsed.
LARGE_AT_ONCE = 8
# Questions to adapters of workspaces, for one organization and in all, that are under way from what is handled as it comes: what is
# more is deferred. Of what is handled at a time most is left to other adapters.
ASKED_OF_ORG, ASKED = 4, 32


class Events:
    """The parts that handlers, questions and projections of this service share."""

    def __init__(self, settings: EventsSettings, bus: Bus, engine: AsyncEngine, expressions: Expressions, runtime: Runtime) -> None:
        self.bus = bus
        self.engine = engine
        self.database_url = settings.database_url
        self.store = EventsStore(engine)
        self.letters = LetterRows(engine)
        self.replays = ReplayRows(engine)
        self.replay_turns: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()
        self.resources = ResourceRows(engine)
        self.keepers: Mapping[str, Keeper[Any]]
        self.keyring = Keyring(settings.keys)
        self.longest_chain = settings.longest_chain
        self.quotas = Quotas(bus.client, runtime.health, Limits(**settings.quotas))
        self.expressions = expressions
        self.bodies = Blobs(bus.client, "bodies")
        self._large = asyncio.Semaphore(LARGE_AT_ONCE)
        self.preview_room = PreviewRoom()
        self.subscriptions_view = RegistryView(bus.client, "subscriptions", SubscriptionEntry, runtime.health)
        self.sources_view = RegistryView(bus.client, "sources", SourceEntry, runtime.health)
        self.workflows_view = RegistryView(bus.client, "workflows", WorkflowEntry, runtime.health)
        self.adapters_view = RegistryView(bus.client, "adapters", AdapterEntry, runtime.health)
        self.adapters = CustomAdapters(self.adapters_view, bus.ask, most_of_org=ASKED_OF_ORG, most=ASKED)
        self.repositories_view = RegistryView(bus.client, "repositories", RepositoryEntry, runtime.health)
        self.views = (
            self.sources_view,
            self.subscriptions_view,
            self.workflows_view,
            self.adapters_view,
            self.repositories_view,
        )
        self.deferred = DeferredWebhooks(self, CustomAdapters(self.adapters_view, bus.ask))
        self._by_source: dict[str, list[SubscriptionEntry]] = {}
        self._holds_events = False
        self._indexed = -1
        self._alerts: dict[str, list[SourceEntry]] = {}
        self._alerts_indexed = -1
        self.followed: list[Projection]
        self.public_url = settings.public_url
        self.fetcher = Fetcher(settings.egress)
        self.catalog: Projection
        self.registered: Projection
        self.rotation: Rotation
        self.scheduler = Scheduler(self)
        self.registrations = RegistrationRules(engine, settings.public_url)
        self.projections: Mapping[str, Projection]
        self.held_room = HeldRoom(engine)
        self.releaser = Releaser(self)

    def room_for(self, reference: str | None) -> AbstractAsyncContextManager[Any]:
        """Return a context within which the body or the data at `reference` may be held in memory."""
        return nullcontext() if reference is None else self._large

    async def source(self, id: str) -> SourceEntry | None:  # noqa: A002 - the word of the API
        """Return a source, also a retired one's last state, or None."""
        found = self.sources_view.get(id)
        if found is not None and found.value is not None:
            return found.value
        kept = await self.resources.by_id("source", id)
        return None if kept is None else kept[0]

    def subscriptions(self, source: str) -> list[SubscriptionEntry]:
        """Return the subscriptions of a source that there are now. Others' cost nothing here, but when some have changed."""
        self._index()
        return self._by_source.get(source, [])

    def repositories(self, source: str) -> list[RepositoryEntry]:
        """Return the repositories that follow the events of a source; there is one of an organization at most."""
        return [one for one in self.repositories_view.values() if one.refs.get("source") == source]

    def holds_events(self) -> bool:
        """Return whether there is a subscription that holds events."""
        self._index()
        return self._holds_events

    def _index(self) -> None:
        if self._indexed == self.subscriptions_view.changes:
            return
        self._indexed = self.subscriptions_view.changes
        self._by_source = defaultdict(list)
        for one in self.subscriptions_view.values():
            self._by_source[one.refs["source"]].append(one)
        self._holds_events = any(holds(one.spec) for one in self.subscriptions_view.values())

    def alerts_of(self, org: str) -> list[SourceEntry]:
        """Return an organization's enabled sources of the adapter `alerts`."""
        if self._alerts_indexed != self.sources_view.changes:
            self._alerts_indexed = self.sources_view.changes
            self._alerts = defaultdict(list)
            for one in self.sources_view.values():
                if one.spec.adapter == domain.ALERTS and one.spec.enabled:
                    self._alerts[one.org].append(one)
        return self._alerts.get(org, [])

    async def first_received(self, delivery: str) -> datetime | None:
        """Return when a delivery was received for the first time, as far as the rows are written.

        A repeat comes longer after the first than the broker's memory of ids; until the rows of the first are there, the ids of
        its events are still in that memory.
        """
        return await self.store.received_at(delivery)

    async def check_chain(self, org: str, chain: str, *, emits: bool) -> None:
        """Raise `Invalid` where a chain has had as many runs as one may, or, if it `emits`, events: as far as rows are written."""
        emitted, runs = await self.store.counted_in_chain(org, chain)
        domain.check_chain(max(runs, emitted if emits else 0), self.longest_chain)

    async def mapping(self, org: str, integration: str) -> MappingView:
        """Return an integration's values for an organization. Raises NotFound naming the missing part, Unavailable."""
        return view_of(org, await values_of(self.resources, org, integration))

    async def organization(self, integration: str, entity: str) -> str:
        """Return the organization that an entity of an integration stands for. Raises NotFound, Invalid, Unavailable."""
        return await organization_of(self.resources, integration, entity)

    def known(self, org: str) -> dict[str, WorkflowEntry]:
        """Return by name the workflows that an organization sees, as far as this process has heard."""
        found = [one for one in self.workflows_view.values() if one.org in seen_by(org)]
        return {one.name: one for one in sorted(found, key=lambda one: one.org == org)}

    async def workflow(self, org: str, name: str) -> WorkflowEntry:
        """Return the organization's own workflow, else the platform's. Raises NotFound, Unavailable."""
        for owner in dict.fromkeys((org, "global")):
            found = self.workflows_view.get(hashed_key(owner, name))
            if found is not None and found.value is not None:
                return found.value
        answer = await self.bus.ask(FindWorkflow(org=org, name=name))
        if answer.entry is None:
            raise NotFound(f"there is no workflow {name!r}")
        self.workflows_view.learn(hashed_key(answer.entry.org, name), Entry(answer.seq, answer.entry))
        return answer.entry
