"""Questions in: what would become of a webhook, without anything that comes of it."""

from __future__ import annotations

import msgspec

from services.events.handlers import HandlerDeps, accepted_of, route
from shared.envelope import new_id
from shared.errors import Invalid, NotFound
from shared.messages import EventAccepted, EventFiltered, EventUnroutable, RunRequested, WebhookReceived
from shared.questions.events import PreviewedEvent, PreviewedOutcome, PreviewWebhook, WebhookPreview

# Events of one request that are routed for a look, and bytes of an input that is shown, of all together.
MOST_SHOWN = 20
MOST_INPUT = 256 * 1024


async def preview_webhook(asked: PreviewWebhook, deps: HandlerDeps) -> WebhookPreview:
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


async def _outcomes(event: EventAccepted, deps: HandlerDeps, room: int) -> tuple[list[PreviewedOutcome], int]:
    outcomes: list[PreviewedOutcome] = []
    names = {one.id: one.name for one in deps.subscriptions(event.source)}
    async for message, _ in route(event, deps):
        if isinstance(message, RunRequested):
            size = len(msgspec.json.encode(message.input))
            room -= size
            shown = message.input if room >= 0 and message.input_ref is None else None
            name = names.get(message.subscription or "", message.requested_by)
            outcomes.append(PreviewedOutcome("routed", name, message.workflow, None, shown))
        elif isinstance(message, EventFiltered):
            outcomes.append(PreviewedOutcome("filtered", message.subscription_name, message.workflow, message.reason, None))
        elif isinstance(message, EventUnroutable):
            outcomes.append(PreviewedOutcome("unroutable", message.subscription_name, message.workflow, message.reason, None))
    return outcomes, room
