"""Decides routing: matches, documents of events, valid names. Pure."""

from __future__ import annotations

import re
from datetime import datetime, timedelta
from typing import Any, Literal

import msgspec

from shared.envelope import derived_id
from shared.errors import Invalid, NotFound, Problem, TooLarge
from shared.messages import EventAccepted
from shared.questions.events import EmitEvent, MappingView
from shared.resources.source import SourceEntry
from shared.resources.subscription import SubscriptionEntry
from shared.schemas import checker_of
from shared.streams import INLINE_BYTES
from shared.values import at, text_of

EVENT_TYPE = re.compile(r"[A-Za-z0-9_.-]{1,100}\Z")
TOPIC = "topic"
# The adapter of the topic of alerts, the topic's name where the first subscription to it makes it, and their types.
ALERTS = "alerts"
ALERTS_NAME = "millrace"
AlertType = Literal[
    "millrace.unroutable",
    "millrace.dead",
    "millrace.run_failed",
    "millrace.overdue",
    "millrace.renewal_failed",
    "millrace.schedule_failed",
    "millrace.search",
    "ask.opened",
    "ask.reminded",
    "ask.escalated",
    "ask.answered",
]
# Seconds after which an event that could not be routed is tried again, by the policy of its subscription: while something is
# deployed, and while somebody is fetched to mend it.
RETRIES: dict[str, tuple[float, ...]] = {
    "none": (),
    "short": (5, 30, 120, 600),
    "long": (60, 600, 3600, 6 * 3600, 24 * 3600),
}
# A run whose event starts it again would never end; an intended chain of workflows is shorter than this.
MAX_HOPS = 32


def matches(pattern: str, type_: str) -> bool:
    """Return whether an event type fits `push`, `pull_request.*` or `*`."""
    if pattern == "*":
        return True
    if pattern.endswith(".*"):
        return type_.startswith(pattern[:-1])
    return pattern == type_


def checked_pattern(pattern: str) -> str:
    """Return an event pattern that can match. Raises `Invalid`."""
    exact = "" if pattern == "*" else pattern.removesuffix(".*")
    if not pattern or not exact.isprintable() or "*" in exact or pattern == ".*":
        detail = "an event pattern is a type such as push or Order Completed, a prefix such as pull_request.*, or *"
        raise Invalid(f"{pattern[:120]!r} cannot match any event: {detail}", errors=(Problem("event", detail),))
    return pattern


def entity_in(document: dict[str, Any], path: str | None) -> str | None:
    """Return the text at a path such as `event.data.team_id` that says about whom an event is; None where there is none."""
    return None if path is None else text_of(at({"event": document}, path.split(".")))


def filter_variables(event: dict[str, Any], integration: dict[str, Any] | None) -> dict[str, Any]:
    """Return the variables of a filter. `integration` is null where the source names none."""
    return {"event": event, "integration": integration}


def integration_document(mapping: MappingView, entity: str | None = None) -> dict[str, Any]:
    """Return the values of a source's integration for its organization, as filters and input mappings see them.

    `entity` is what the event itself says about whom it is: it stands in for an entity id that no mapping has.
    """
    return {
        "name": mapping.integration,
        "config": mapping.config,
        "entity_id": entity if mapping.entity_id is None else mapping.entity_id,
        "connection": mapping.connection,
    }


def event_document(event: EventAccepted, data: Any, integration: dict[str, Any] | None = None) -> dict[str, Any]:
    """Return the event as filters, mappings and workflows see it; of its source's integration, if any, only the identity."""
    document = {
        "id": event.event,
        "type": event.type,
        "source": event.source_name,
        "time": event.received_at,
        "data": data,
        "headers": event.headers,
    }
    if event.scheduled_for is not None:
        document["scheduled_for"] = event.scheduled_for
    if integration is not None:
        document["integration"] = {name: integration[name] for name in ("name", "entity_id")}
    return document


def kind_of(value: Any) -> str:
    """Return the type of a JSON value, in CEL's words."""
    kinds = {type(None): "null", str: "string", int: "int", float: "double", list: "list", dict: "map", bool: "bool"}
    return kinds[type(value)]


def misfit(schema: dict[str, Any], value: dict[str, Any]) -> str | None:
    """Return in a sentence how `value` does not fit a JSON Schema, or None when it does."""
    for problem in checker_of(msgspec.json.encode(schema)).problems(value, "input"):
        return f"{problem.path.removeprefix('input.')}: {problem.message}"[:500]
    return None


def run_id(event: str, subscription: str) -> str:
    """Return the id of the run that an event starts through a subscription: the same on every redelivery."""
    return derived_id(event, subscription)


def event_id(delivery: str, number: int, retry: str | None) -> str:
    """Return the id of the `number`-th event of a delivery; a retry makes new ones."""
    return derived_id(delivery, "event", str(number), *((retry,) if retry else ()))


def emitted(command: EmitEvent, topic: SourceEntry | None, delivery: str, now: str, *, again: bool = False) -> EventAccepted:
    """Return the event that a command emits to the source `topic`; None: there is none.

    `again`: the command was carried out before, and the topic may have been switched off since.
    Raises `NotFound`, `Invalid`, `TooLarge`, each naming the obstacle.
    """
    if topic is None:
        raise NotFound(f"there is no source {command.source!r}")
    if topic.spec.adapter != TOPIC:
        detail = f"source {topic.name!r} has the adapter {topic.spec.adapter!r}; only one with the adapter 'topic' takes events"
        raise Invalid(detail, errors=(Problem("source", "is no topic"),))
    if not topic.spec.enabled and not again:
        raise NotFound(f"source {topic.name!r} is switched off")
    if not EVENT_TYPE.match(command.type):
        detail = "an event type has 1 to 100 letters, digits, dots, underscores and hyphens"
        raise Invalid(f"{command.type[:120]!r} cannot be a type: {detail}", errors=(Problem("type", detail),))
    if len(msgspec.json.encode(command.data)) > INLINE_BYTES:
        raise TooLarge(f"the data of an event is larger than {INLINE_BYTES} bytes", errors=(Problem("data", "is too large"),))
    hops = 0 if command.run is None else command.hops + 1
    if hops > MAX_HOPS:
        detail = f"this run is the end of a chain of {MAX_HOPS} runs that start each other, and no longer one is allowed"
        raise Invalid(detail, errors=(Problem("run", "too many hops"),))
    return EventAccepted(
        source=topic.id,
        source_name=topic.name,
        event=event_id(delivery, 0, None),
        delivery=delivery,
        type=command.type,
        headers={},
        received_at=now,
        data=command.data,
        emitted_by=command.actor if command.run is None else f"run:{command.run}",
        hops=hops,
        scheduled_for=command.scheduled_for,
        chain=None if command.run is None else command.correlation_id,
    )


def check_chain(length: int, longest: int) -> None:
    """Raise `Invalid` where a chain has as many runs, or events, as one may: `length` is how many of either."""
    if length >= longest:
        detail = f"this chain of runs that start each other has {longest} runs or events already, and no more are allowed"
        raise Invalid(detail, errors=(Problem("run", "the chain is too long"),))


def next_try(policy: str, tries: int, now: datetime) -> datetime | None:
    """Return when an event that was tried again so many times is tried once more; None where a policy gives up."""
    delays = RETRIES.get(policy, ())
    return now + timedelta(seconds=delays[tries]) if tries < len(delays) else None


def matching(subscriptions: list[SubscriptionEntry], type_: str) -> list[SubscriptionEntry]:
    """Return those of a source's subscriptions that are enabled and whose pattern fits, in the order of their ids."""
    found = [one for one in subscriptions if one.spec.enabled and matches(one.spec.event, type_)]
    return sorted(found, key=lambda one: one.id)
