"""Messages in: what went wrong, and what people are asked, becomes events of the organization's alerts, routed as any other."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any, Protocol

from services.events import domain
from services.events.domain import AlertType
from services.events.letter_rows import original_of
from services.events.routing import RoutingDeps
from shared import aggregate
from shared.bus import Bus
from shared.consumer import Handlers
from shared.envelope import Envelope, derived_id, open_message, rfc3339
from shared.messages import (
    AlertRaised,
    DeadLettered,
    EventAccepted,
    EventOverdue,
    EventUnroutable,
    Message,
    RegistrationFailed,
    RunAnswered,
    RunAsked,
    RunFailed,
    RunReminded,
    RunRequested,
    ScheduleFailed,
)
from shared.messages.event import alert_chain, is_of_alert
from shared.resources.source import SourceEntry
from shared.runs import RunEnd, status_of
from shared.streams import BULK_LANES

# Nobody waits for an alert as for a webhook, and a flood of failures is a flood of alerts.
LANE = BULK_LANES[-1]
# As deliveries name the emitter of an alert.
EMITTER = "millrace"
CONSUMERS = "events-alert"
LONGEST_ERROR = 2000

Fields = dict[str, Any]


class AlertDeps(RoutingDeps, Protocol):
    """Further dependencies of these handlers."""

    bus: Bus

    def alerts_of(self, org: str) -> list[SourceEntry]:
        """Return an organization's enabled sources of the adapter `alerts`."""


async def alert_event(envelope: Envelope, deps: AlertDeps) -> AsyncIterator[tuple[Message, str]]:
    """Report a delivery that a subscription wanted and could not be routed to, or one without an end."""
    topics = _topics(envelope, deps)
    if not topics:
        return
    message: EventUnroutable | EventOverdue = open_message(envelope)
    source = await deps.source(message.source)
    fields: Fields = {
        "delivery": message.delivery,
        "source": message.source if source is None else source.name,
        "reason": message.reason,
    }
    if isinstance(message, EventOverdue):
        fields |= {"received_at": message.received_at, "since": message.since, "adapter": message.adapter}
        type_: AlertType = "millrace.overdue"
    else:
        names = {"subscription": message.subscription_name or message.subscription, "workflow": message.workflow}
        fields |= names | {"event": message.event, "retry_at": message.retry_at}
        type_ = "millrace.unroutable"
    for topic in topics:
        yield _alert(envelope, topic, type_, fields), topic.id


async def alert_schedule(envelope: Envelope, deps: AlertDeps) -> AsyncIterator[tuple[Message, str]]:
    """Report a time at which a schedule could not fire."""
    topics = _topics(envelope, deps)
    if not topics:
        return
    failed = open_message(envelope, ScheduleFailed)
    fields: Fields = {"schedule": failed.name, "scheduled_for": failed.scheduled_for, "reason": failed.reason}
    for topic in topics:
        yield _alert(envelope, topic, "millrace.schedule_failed", fields), topic.id


async def alert_letter(envelope: Envelope, deps: AlertDeps) -> AsyncIterator[tuple[Message, str]]:
    """Report a message that was given up."""
    topics = _topics(envelope, deps)
    if not topics:
        return
    letter = open_message(envelope, DeadLettered)
    if letter.consumer.startswith(CONSUMERS):
        return  # an alert that cannot be handled is no reason for another
    _, original = original_of(letter)
    fields: Fields = {"letter": envelope.id, "type": letter.verb, "delivery": getattr(original, "delivery", None)}
    fields |= {name: getattr(letter, name) for name in ("service", "consumer", "reason", "tries")}
    for topic in topics:
        yield _alert(envelope, topic, "millrace.dead", fields | {"error": letter.error[:LONGEST_ERROR]}), topic.id


async def alert_registration(envelope: Envelope, deps: AlertDeps) -> AsyncIterator[tuple[Message, str]]:
    """Report the first failure of a row at registering a source with its sender."""
    topics = _topics(envelope, deps)
    if not topics:
        return
    failed = open_message(envelope, RegistrationFailed)
    if failed.tries > 1:
        return
    fields: Fields = {name: getattr(failed, name) for name in ("adapter", "error", "remote", "expires_at")}
    for topic in topics:
        yield (
            _alert(envelope, topic, "millrace.renewal_failed", fields | {"source": failed.source_name, "next_at": failed.due_at}),
            topic.id,
        )


async def alert_search(envelope: Envelope, deps: AlertDeps) -> AsyncIterator[tuple[Message, str]]:
    """Report a saved search that found more than it may."""
    topics = _topics(envelope, deps)
    if not topics:
        return
    raised = open_message(envelope, AlertRaised)
    fields: Fields = {name: getattr(raised, name) for name in ("q", "limit", "count", "since", "until")}
    for topic in topics:
        yield _alert(envelope, topic, "millrace.search", fields | {"search": raised.name}), topic.id


async def alert_run(envelope: Envelope, deps: AlertDeps) -> AsyncIterator[tuple[Message, str]]:
    """Report a run that ended otherwise than well, and was not cancelled."""
    topics = _topics(envelope, deps)
    if not topics:
        return
    end: RunEnd = open_message(envelope)
    first = await aggregate.first(deps.bus.client, "run", end.run)
    request = None if first is None else first.message()
    asked = request if isinstance(request, RunRequested) else None
    error = getattr(end, "error", None)
    fields: Fields = {
        "run": end.run,
        "workflow": asked and asked.workflow,
        "status": status_of(end),
        "reason": getattr(end, "reason", None),
        "error": error and {"type": error.type, "message": error.message[:LONGEST_ERROR]},
        "attempt": end.attempt,
        "delivery": asked and asked.delivery,
        "requested_by": asked and asked.requested_by,
    }
    for topic in topics:
        yield _alert(envelope, topic, "millrace.run_failed", fields), topic.id


async def alert_asked(envelope: Envelope, deps: AlertDeps) -> AsyncIterator[tuple[Message, str]]:
    """Report a question to people, reminders of it, and its answer."""
    topics = _topics(envelope, deps)
    if not topics:
        return
    message: RunAsked | RunReminded | RunAnswered = open_message(envelope)
    first = await aggregate.first(deps.bus.client, "run", message.run)
    request = None if first is None else first.message()
    fields: Fields = {
        "approval": message.approval,
        "run": message.run,
        "workflow": request.workflow if isinstance(request, RunRequested) else None,
    }
    type_: AlertType
    match message:
        case RunAsked():
            asked = message.question
            fields |= {"name": message.name, "prompt": asked.prompt, "form": asked.form, "to": asked.to, "until": message.until}
            type_ = "ask.opened"
        case RunReminded():
            fields |= {"prompt": message.prompt, "to": message.to, "until": message.until, "number": message.number}
            type_ = "ask.escalated" if message.escalated else "ask.reminded"
        case RunAnswered():
            told = ("name", "prompt", "to", "until", "approved", "data", "comment", "answered_by", "via")
            fields |= {name: getattr(message, name) for name in told}
            type_ = "ask.answered"
    for topic in topics:
        yield _alert(envelope, topic, type_, fields), topic.id


def _topics(envelope: Envelope, deps: AlertDeps) -> list[SourceEntry]:
    return [] if is_of_alert(envelope.correlationid) else deps.alerts_of(envelope.org)


def _alert(cause: Envelope, topic: SourceEntry, type_: AlertType, fields: Fields) -> EventAccepted:
    """Return an alert about a message: it begins a delivery and a chain of its own, and names those of its cause."""
    delivery = derived_id(cause.id, "alert", topic.id)
    return EventAccepted(
        source=topic.id,
        source_name=topic.name,
        event=domain.event_id(delivery, 0, None),
        delivery=delivery,
        type=type_,
        headers={},
        received_at=rfc3339(cause.time),
        data=fields | {"correlation_id": cause.correlationid, "time": rfc3339(cause.time)},
        emitted_by=EMITTER,
        chain=alert_chain(delivery),
        lane=LANE,
    )


HANDLERS: Handlers = {
    EventUnroutable: alert_event,
    EventOverdue: alert_event,
    ScheduleFailed: alert_schedule,
    DeadLettered: alert_letter,
    AlertRaised: alert_search,
    RunFailed: alert_run,
    RegistrationFailed: alert_registration,
    RunAsked: alert_asked,
    RunReminded: alert_asked,
    RunAnswered: alert_asked,
}
