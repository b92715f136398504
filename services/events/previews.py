"""Questions in: what would become of a webhook, or of the newest events with a subscription, without anything that comes of it."""

from __future__ import annotations

import contextlib
import time
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from typing import Literal, Protocol

import msgspec

from services.events import domain
from services.events.deliveries import DeliveryDeps, begun
from services.events.parsing import accepted_of
from services.events.retries import events_of
from services.events.routing import RoutingDeps, route, routed_to
from shared.bounded import is_room
from shared.consumer import Follows
from shared.envelope import new_id
from shared.errors import Invalid, NotFound, Problem, TooMany
from shared.messages import EventAccepted, EventFiltered, EventHeld, EventUnroutable, RunRequested, WebhookReceived
from shared.owners.answering import Keepers
from shared.questions.events import (
    PreviewedEvent,
    PreviewedOutcome,
    PreviewSubscription,
    PreviewWebhook,
    RoutedPreview,
    SubscriptionPreview,
    WebhookPreview,
)
from shared.questions.resources import PutResource, of
from shared.resources import KINDS
from shared.resources.subscription import SubscriptionEntry

# Events of one request that are routed for a look, and bytes of an input that is shown, of all together.
MOST_SHOWN = 20
MOST_INPUT = 256 * 1024
# Previews of subscriptions at a time, of one organization and in all: each holds one event. What is routed has room of its own.
EACH, PLACES = 2, 4
# Seconds after which no further event is looked at: the asker waits for five.
SECONDS = 3.0


class PreviewRoom:
    """Room for events that are looked at and not routed."""

    def __init__(self) -> None:
        self._of_org: Counter[str] = Counter()

    @contextlib.contextmanager
    def entered(self, org: str) -> Iterator[None]:
        """Count a preview of an organization for the block. Raises `TooMany`, also where others' leave no room for a second one."""
        if not is_room(self._of_org[org], self._of_org.total(), EACH, PLACES):
            raise TooMany("as many previews as there is room for go on already", retry_after=1.0)
        self._of_org[org] += 1
        try:
            yield
        finally:
            self._of_org -= Counter([org])


class PreviewDeps(DeliveryDeps, Keepers, Protocol):
    """Dependencies of previews."""

    preview_room: PreviewRoom


async def preview_webhook(asked: PreviewWebhook, deps: RoutingDeps) -> WebhookPreview:
    """Return the events of a request and what each subscription would do. Raises `NotFound`."""
    source = await deps.source(asked.source)
    if source is None or source.org != asked.org:
        raise NotFound("there is no such source")
    received = WebhookReceived(
        source=source.id,
        delivery=new_id(),
        adapter=source.spec.adapter,
        received_at=asked.received_at,
        method=asked.method,
        query=asked.query,
        headers=asked.headers,
        body_base64=asked.body_base64,
    )
    try:
        accepted = [event async for event in accepted_of(received, deps, retry=None)]
    except Invalid as error:
        return WebhookPreview([], 0, error.detail)
    room = MOST_INPUT
    events: list[PreviewedEvent] = []
    for event in accepted[:MOST_SHOWN]:
        outcomes, room = await _outcomes(event, deps, room)
        events.append(PreviewedEvent(event.type, outcomes))
    return WebhookPreview(events, len(accepted), None)


async def preview_subscription(asked: PreviewSubscription, deps: PreviewDeps) -> SubscriptionPreview:
    """Return what a subscription would do with the newest events of its source.

    Raises `NotFound`, `Invalid`, `Unavailable`, `TooMany`.
    """
    with deps.preview_room.entered(asked.org):
        return await _previewed(asked, deps)


async def _previewed(asked: PreviewSubscription, deps: PreviewDeps) -> SubscriptionPreview:
    subscription, warnings = await _drafted(asked, deps)
    source = subscription.refs["source"]
    room, events = MOST_INPUT, list[RoutedPreview]()
    until = time.monotonic() + SECONDS
    for row in await deps.store.newest_deliveries(asked.org, source, asked.n):
        first = await begun(row, deps)
        if first is None or len(events) == asked.n:
            continue
        try:
            accepted = [event async for event in events_of(first, deps, retry=None)]
        except (Invalid, NotFound):
            continue  # its adapter, or the settings of its source, made events of it once
        for event in accepted[: asked.n - len(events)]:
            if time.monotonic() > until:
                found = f"only the newest {len(events)} events were looked at, which took {SECONDS:g} s"
                return _preview(source, events, [*warnings, Problem("n", found)])
            outcome, room = await _outcome(subscription, event, deps, room)
            shown = RoutedPreview(delivery=event.delivery, received_at=event.received_at, type=event.type, outcome=outcome)
            events.append(shown)
    return _preview(source, events, warnings)


def _preview(source: str, events: list[RoutedPreview], warnings: list[Problem]) -> SubscriptionPreview:
    routed = sum(one.outcome is not None and one.outcome.outcome in {"routed", "held"} for one in events)
    return SubscriptionPreview(source=source, events=events, routed=routed, warnings=warnings)


async def _drafted(asked: PreviewSubscription, deps: PreviewDeps) -> tuple[SubscriptionEntry, list[Problem]]:
    """Return a subscription as it would be put with some fields, and the warnings about it."""
    there = await deps.resources.named("subscription", asked.org, asked.name) is not None
    if not there and not asked.fields:
        raise NotFound(f"there is no subscription {asked.name!r}")
    command = of(
        PutResource,
        "subscription",
        id=new_id(),
        org=asked.org,
        actor="preview",
        name=asked.name,
        fields=asked.fields,
        patch=there,
        dry_run=True,
    )
    fields = (await deps.keepers["subscription"].put(command)).fields
    kind = KINDS["subscription"]
    spec = kind.spec_of({name: fields[name] for name in kind.spec.__struct_fields__})
    entry = SubscriptionEntry(
        id=fields["id"],
        org=fields["org"],
        key=kind.key(fields["org"], fields["name"]),
        name=fields["name"],
        spec=spec,
        refs={"source": fields["source"]},
        created_at=fields["created_at"],
        updated_at=fields["updated_at"],
        version=fields["version"],
    )
    return entry, msgspec.convert(fields["warnings"], list[Problem])


async def _outcome(
    subscription: SubscriptionEntry, event: EventAccepted, deps: RoutingDeps, room: int
) -> tuple[PreviewedOutcome | None, int]:
    if not domain.matches(subscription.spec.event, event.type):
        return None, room
    found, room = await _taken(routed_to([subscription], event, deps), {subscription.id: subscription.name}, room)
    return found[0], room


async def _outcomes(event: EventAccepted, deps: RoutingDeps, room: int) -> tuple[list[PreviewedOutcome], int]:
    names = {one.id: one.name for one in deps.subscriptions(event.source)}
    return await _taken(route(event, deps), names, room)


async def _taken(follows: AsyncIterator[Follows], names: dict[str, str], room: int) -> tuple[list[PreviewedOutcome], int]:
    """Return the outcomes that messages record, with their inputs as far as there is room in bytes; and the room that is left."""
    outcomes: list[PreviewedOutcome] = []
    async for message, *_ in follows:
        if isinstance(message, RunRequested):
            size = len(msgspec.json.encode(message.input))
            room -= size
            shown = message.input if room >= 0 and message.input_ref is None else None
            name = names.get(message.subscription or "", message.requested_by)
            outcomes.append(PreviewedOutcome("routed", name, message.workflow, None, shown))
        elif isinstance(message, EventHeld):
            size = len(msgspec.json.encode(message.input))
            room -= size
            shown = message.input if room >= 0 and message.input_ref is None else None
            reason = f"it waits for others of the key {message.key}" if message.key else "it waits for others"
            outcomes.append(PreviewedOutcome("held", message.subscription_name, message.workflow, reason, shown))
        elif isinstance(message, EventFiltered):
            outcome: Literal["failed", "filtered"] = "failed" if message.failed else "filtered"
            outcomes.append(PreviewedOutcome(outcome, message.subscription_name, message.workflow, message.reason, None))
        elif isinstance(message, EventUnroutable):
            outcomes.append(PreviewedOutcome("unroutable", message.subscription_name, message.workflow, message.reason, None))
    return outcomes, room
